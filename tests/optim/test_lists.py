"""The lists of tensors that update rules run on: the same as with plain tensors, written in place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given, settings
from torch import Tensor

import hotgrad as hg
from hotgrad import optim
from hotgrad.optim import lists
from hotgrad.optim.lists import Each, assign, noted

# The operations as rules write them; of plain tensors these are torch's own operators and methods.
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "pow": operator.pow,
    "maximum": lambda a, b: a.maximum(b), "minimum": lambda a, b: a.minimum(b),
    "radd": lambda a, b: b + a, "rsub": lambda a, b: b - a, "rmul": lambda a, b: b * a, "rdiv": lambda a, b: b / a,
    "-a": operator.neg, "abs(a)": abs, "neg": lambda a: a.neg(), "abs": lambda a: a.abs(), "square": lambda a: a.square(),
    "sign": lambda a: a.sign(), "sqrt": lambda a: a.sqrt(), "exp": lambda a: a.exp(), "tanh": lambda a: a.tanh(),
    "reciprocal": lambda a: a.reciprocal(),
}  # fmt: skip
BINARY = ["add", "sub", "mul", "div", "pow", "maximum", "minimum"]
REVERSED = ["radd", "rsub", "rmul", "rdiv"]
UNARY = [name for name in OPERATIONS if name not in (*BINARY, *REVERSED)]
PLACES = st.one_of(st.integers(-3, -1), st.integers(0, 9))  # often one of the latest, so that results are used soon and again
NUMBERS = st.sampled_from([0.5, -2.0, 3, -1, 0.25])
LISTS = st.tuples(st.just("list"), PLACES)
CONSTANTS = st.tuples(st.just("constant"), NUMBERS)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["add", "sub", "mul"]), PLACES, st.one_of(LISTS, CONSTANTS)),  # what is fused
    st.tuples(st.sampled_from(BINARY), PLACES, st.one_of(LISTS, CONSTANTS)),
    st.tuples(st.sampled_from(["mul", "div"]), PLACES, st.tuples(st.just("constant"), NUMBERS.map(torch.tensor))),
    st.tuples(st.sampled_from(REVERSED), PLACES, CONSTANTS),
    st.tuples(st.sampled_from(UNARY), PLACES, st.just(("", None))),
)
PROGRAMS = st.lists(STEPS, max_size=8)
SHAPES = st.lists(st.sampled_from([(), (0,), (1,), (3,), (2, 3), (2, 0)]), min_size=1, max_size=3)
Lists = list[list[Tensor]]


def drawn(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> Lists:
    """Three lists of tensors of these shapes, of numbers that every dtype has; of two axes they are not contiguous."""
    generator = torch.Generator().manual_seed(len(shapes))
    made = [[torch.randint(-16, 17, shape, generator=generator).to(dtype) / 8 for shape in shapes] for _ in range(3)]
    return [[t.mT.contiguous().mT if t.ndim == 2 else t for t in tensors] for tensors in made]


def computed(program: Sequence[Any], given_lists: Sequence[Any], each: Callable[..., Any]) -> list[Any]:
    """The given lists and the result of each step; `each(f, *operands)` is an operation on lists."""
    found = list(given_lists)
    for op, place, (kind, other) in program:
        operands = [found[place % len(found)]]
        if kind:
            operands.append(found[other % len(found)] if kind == "list" else other)
        found.append(each(OPERATIONS[op], *operands))
    return found


def one_by_one(f: Callable[..., Any], tensors: list[Tensor], other: Any = None) -> list[Tensor]:
    """What torch computes for each tensor by itself."""
    others = other if isinstance(other, list) else [other] * len(tensors)
    made = []
    for t, b in zip(tensors, others):
        if b is None:
            made.append(f(t))
        elif f in (OPERATIONS["maximum"], OPERATIONS["minimum"]) and not isinstance(b, Tensor):
            made.append(f(t, torch.tensor(b, dtype=t.dtype)))  # torch's own take no numbers
        else:
            made.append(f(t, b))
    return made


def assigned(program: Any, targets: Sequence[tuple[int, int]], data: Lists) -> Lists:
    """What stands in copies of the given lists after the results at these places were assigned to them, in the memory they had."""
    given_lists = [Each([t.clone() for t in tensors]) for tensors in data]
    memory = [list(each.tensors) for each in given_lists]
    found = computed(program, given_lists, lambda f, *operands: f(*operands))
    assign([(given_lists[target], found[place % len(found)]) for target, place in targets])
    return memory


TARGETS = st.lists(st.tuples(st.integers(0, 2), PLACES), min_size=1, max_size=3, unique_by=lambda pair: pair[0])


@settings(max_examples=500)
@given(PROGRAMS, TARGETS, SHAPES)
def test_lists_compute_what_tensors_compute(program: Any, targets: Any, shapes: Any) -> None:
    """Any expressions, assigned to any of the given lists at once: the same as with plain tensors and old values."""
    data = drawn(shapes, torch.float64)
    plain = computed(program, data, one_by_one)
    expected = {target: plain[place % len(plain)] for target, place in targets}
    for k, tensors in enumerate(assigned(program, targets, data)):
        for got, wanted in zip(tensors, expected.get(k, data[k]), strict=True):
            assert torch.allclose(got, wanted, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_short_dtypes_round_as_tensors_do(dtype: torch.dtype) -> None:
    """In float32 to the bit; in shorter ones to the rounding of the number and of the result."""

    @settings(max_examples=100)
    @given(st.sampled_from(["add", "sub", "mul", "div", "radd", "rsub", "rmul", "maximum"]), st.sampled_from([0.1, 1 / 3, -0.7]))
    def check(op: str, number: float) -> None:
        data = drawn([(3,), (2, 3), (0,), ()], dtype)
        program = [(op, 0, ("constant", number))]
        expected = computed(program, data, one_by_one)[-1]
        for got, wanted in zip(assigned(program, [(0, -1)], data)[0], expected, strict=True):
            tolerance = 0.0 if dtype is torch.float32 else 2 * torch.finfo(dtype).eps  # in place torch rounds the number to a short dtype
            assert got.dtype is dtype and torch.allclose(got, wanted, rtol=tolerance, atol=0)

    check()


@settings(max_examples=200)
@given(PROGRAMS, PLACES, SHAPES)
@example([("mul", 1, ("constant", 0.5)), ("sub", 0, ("list", -1))], -1, [(3,)])
@example([("mul", 1, ("constant", 0.5)), ("add", 0, ("list", -1))], -1, [(3,)])
def test_what_programs_note_is_what_lists_compute(program: Any, place: int, shapes: Any) -> None:
    """To the bit: primitives on Variables, of which a captured step is made, and kernels on lists."""
    program = [step for step in program if not isinstance(step[2][1], Tensor)]
    data = drawn(shapes, torch.float64)
    lists_ = computed(program, [Each([hg.Variable(t) for t in tensors]) for tensors in data], lambda f, *operands: f(*operands))
    found = noted(lists_[place % len(lists_)])
    target = [Each([torch.zeros_like(t) for t in data[0]])]
    again = computed(program, [Each([t.clone() for t in tensors]) for tensors in data], lambda f, *operands: f(*operands))
    memory = list(target[0].tensors)
    assign([(target[0], again[place % len(again)])])
    for got, wanted in zip(memory, found, strict=True):
        assert torch.equal(got.nan_to_num(7, 8, 9), wanted.data.nan_to_num(7, 8, 9))


def test_other_devices_take_numbers_as_they_are() -> None:
    p, g = (
        Each([torch.ones(2, device="meta"), torch.ones((), device="meta")]),
        Each([torch.ones(2, device="meta"), torch.ones((), device="meta")]),
    )
    before = list(p.tensors)
    assign([(p, p - 0.5 * g), (g, (g * 2 + 1).tanh())])
    assert all(a is b for a, b in zip(p.tensors, before))
    assert lists._constant(0.5, p.tensors) == 0.5


def test_a_scaled_list_used_twice() -> None:
    """`a + c * b` is one kernel only where `c * b` is used once."""
    p, g, s, t, v = (Each([torch.tensor([x])]) for x in (1.0, 10.0, 0.0, 0.0, 0.0))
    m = p * 2.0
    assign([(s, g + m), (t, g - m), (p, p * 3.0), (v, p * 5.0)])
    assert [each.tensors[0].item() for each in (p, g, s, t, v)] == [3.0, 10.0, 12.0, 8.0, 5.0]


def test_lists_take_other_operands_of_rules() -> None:
    p, g = Each([torch.tensor([4.0, 9.0])]), Each([torch.tensor([1.0, 2.0])])
    result = Each([torch.zeros(2)])
    assign([(result, (2 / p.sqrt() + p**0.5 + p**g).exp() * torch.tensor(0.5) - (-g) + abs(g) + 1 - 1.0 / g.reciprocal() + g.neg())])
    x, y = torch.tensor([4.0, 9.0]), torch.tensor([1.0, 2.0])
    assert torch.allclose(result.tensors[0], (2 / x.sqrt() + x**0.5 + x**y).exp() * 0.5 + y + y + 1 - y - y)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that run."""
    found: list[str] = []
    counted = {
        name: tuple((lambda k, n: lambda *a, **o: found.append(n) or k(*a, **o))(kernel, kernel.__name__[9:]) for kernel in pair)
        for name, pair in lists._KERNELS.items()
    }
    monkeypatch.setattr(lists, "_KERNELS", counted)
    return found


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda w: optim.SGD(w, lr=0.5), ["sub_"]),  # `p - lr * g` is written straight into p
        (lambda w: optim.SGD(w, lr=0.5, momentum=0.9), ["add", "sub_"]),
        (lambda w: optim.RMSprop(w, lr=0.5), ["mul", "mul_", "add_", "sqrt", "add_", "div", "sub_"]),
    ],
)
def test_rules_cost_what_kernels_in_place_cost(optimizer: Any, expected: list[str], calls: list[str]) -> None:
    w = hg.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer([w]).step()
    assert calls == expected


def test_the_last_use_of_a_result_is_in_its_memory(calls: list[str]) -> None:
    p, q, g = (Each([torch.ones(2)]) for _ in range(3))
    twice = g * 2.0
    assign([(p, twice + 1.0), (q, 1.0 - twice)])
    assert calls == ["mul", "add", "neg_", "add_"]
    calls.clear()
    twice = g * 2.0
    assign([(p, g.abs().maximum(twice)), (q, twice.sqrt())])
    assert calls == ["mul", "abs", "maximum_", "sqrt_"]
