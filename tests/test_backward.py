"""The walk backwards: what arrives where, what is kept and for how long, and what happens when it fails."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: warn-unreachable=False, disable-error-code="attr-defined"

from __future__ import annotations

import gc
import itertools
import math
import operator
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import hotgrad as hg
from hotgrad import Variable


@pytest.fixture(autouse=True)
def _tape() -> Iterator[None]:
    """A tape of its own for each test, on which others' leftovers do not show."""
    gc.freeze()  # what is there already need not be looked through for records
    with hg.Tape():
        yield
    gc.unfreeze()


def leaf(data: Any, dtype: torch.dtype | None = None, name: str | None = None) -> Any:
    return Variable(torch.as_tensor(data, dtype=dtype).clone(), requires_grad=True, name=name)


def declare(forward: Callable[..., Any], *rules: Any, reads: Any = None, **fields: Any) -> Any:
    """An op that is in no registry."""
    fields |= {"forward": staticmethod(forward), "vjps": rules}
    if reads is not None:
        fields["reads"] = reads
    return type("Declared", (hg.Primitive,), fields, register=False)


def noted(value: Any, seen: list[Any], what: Any) -> Any:
    """`value`, after a note of `what`: for rules that tell when they run."""
    seen.append(what)
    return value


# ----------------------------------------------------------------------------------------------------------- accumulation


def test_gradients_accumulate_until_zeroed() -> None:
    x = leaf([1.0, 2.0])
    for times in (1, 2, 3):
        (x * x).sum().backward()
        assert x.grad.tolist() == [2.0 * times, 4.0 * times]
    grad = x.grad
    x.zero_grad()
    assert x.grad is None
    (x * 5).sum().backward()
    assert x.grad.tolist() == [5.0, 5.0] and grad.tolist() == [6.0, 12.0]


def test_later_backwards_add_in_place() -> None:
    x = leaf([1.0, 2.0])
    (x * 2).sum().backward()
    grad = x.grad
    (x * 3).sum().backward()
    assert x.grad is grad and grad.tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("f", "derivative"),
    [
        (lambda x: x + x, lambda x: 2.0),
        (lambda x: x - x, lambda x: 0.0),
        (lambda x: x * x, lambda x: 2 * x),
        (lambda x: x / x, lambda x: 0.0),
        (lambda x: x**x, lambda x: x**x * (math.log(x) + 1)),
        (lambda x: hg.maximum(x, x), lambda x: 1.0),
        (lambda x: hg.where(x > 0, x, x), lambda x: 1.0),
        (lambda x: hg.stack([x, x, x]).sum(), lambda x: 3.0),
        (lambda x: hg.einsum(",->", x, x), lambda x: 2 * x),
    ],
)
def test_the_same_variable_twice(f: Callable[[Any], Any], derivative: Callable[[float], float]) -> None:
    for create_graph in (False, True):
        x = leaf(3.0, torch.float64)
        f(x).backward(create_graph=create_graph)
        assert float(x.grad) == pytest.approx(derivative(3.0), abs=1e-12)


def test_a_matrix_times_itself() -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    (x @ x).sum().backward()
    ones = torch.ones(2, 2)
    torch.testing.assert_close(x.grad, ones @ x.data.T + x.data.T @ ones)


def test_diamonds_and_fan_out() -> None:
    x = leaf(2.0)
    a = x * 3  # one value along two ways, and along many
    ((a + 1) * (a - 1)).backward()
    assert x.grad.item() == 2 * 6.0 * 3
    x.zero_grad()
    b = x * x
    total = b * 0.0
    for i in range(50):
        total = total + b * i
    total.backward()
    assert x.grad.item() == 4.0 * sum(range(50))


def test_a_diamond_of_depth_60_calls_each_rule_once() -> None:
    calls: list[int] = []
    double = declare(operator.add, lambda g, out, a, b: noted(g, calls, 1), lambda g, out, a, b: g, reads=("", ""))
    y = x = leaf(1.0, torch.float64)
    for _ in range(60):
        y = double.apply(y, y)
    y.backward()
    assert x.grad.item() == 2.0**60 and len(calls) == 60


def test_the_order_is_that_of_the_records_backwards() -> None:
    order: list[int] = []

    def numbered(number: int) -> Any:
        return declare(operator.add, lambda g, out, a, b: noted(g, order, number), lambda g, out, a, b: g, reads=("", ""))

    def program() -> Any:
        x = leaf(1.0)
        values = [x]
        for i, (p, q) in enumerate([(0, 0), (1, 0), (1, 2), (0, 3), (2, 2), (5, 4), (6, 1), (3, 7)]):
            values.append(numbered(i).apply(values[p], values[q]))
        return values[-1]

    program().backward()
    first = list(order)
    assert first == sorted(first, reverse=True) == [7, 6, 5, 4, 3, 2, 1, 0]
    order.clear()
    program().backward()
    assert order == first


def test_rounding_is_the_same_every_time() -> None:
    def once() -> torch.Tensor:
        torch.manual_seed(0)
        x = leaf(torch.randn(30))
        y = x * 0
        for i in range(40):
            y = y + (x * (0.1 * i)).tanh() * (y * 0.3).sin()
        y.sum().backward()
        return x.grad  # type: ignore[no-any-return]

    assert torch.equal(once(), once())


# ------------------------------------------------------------------------------------------- broadcasting, undone exactly

SHAPES = [(), (1,), (3,), (0,), (1, 1), (3, 1), (1, 3), (2, 3), (1, 0), (0, 1), (3, 0), (2, 1, 3), (1, 1, 1), (0, 2, 1), (4, 1, 1, 3)]


def together(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    try:
        torch.broadcast_shapes(a, b)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return True


@pytest.mark.parametrize(("a", "b"), [(a, b) for a, b in itertools.product(SHAPES, SHAPES) if together(a, b)])
def test_broadcasting_is_undone(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    for op in (operator.add, operator.sub, operator.mul):
        x, y = leaf(torch.randn(a, dtype=torch.float64)), leaf(torch.randn(b, dtype=torch.float64))
        s, t = x.data.clone().requires_grad_(), y.data.clone().requires_grad_()
        out, expected = op(x, y), op(s, t)
        seed = torch.randn(expected.shape, dtype=torch.float64)
        out.backward(seed)
        expected.backward(seed)
        for v, reference in ((x, s), (y, t)):
            assert v.grad.shape == v.shape and v.grad.is_contiguous()
            torch.testing.assert_close(v.grad, reference.grad, rtol=1e-12, atol=1e-12)


@given(st.data())
def test_broadcasting_is_undone_with_create_graph_too(data: st.DataObject) -> None:
    a, b = data.draw(st.sampled_from([(a, b) for a, b in itertools.product(SHAPES, SHAPES) if together(a, b)]))
    x, y = leaf(torch.full(a, 2.0)), leaf(torch.full(b, 3.0))
    gx, gy = hg.gradients((x * x * y).sum(), (x, y), create_graph=True)
    assert gx is not None and gy is not None
    size = torch.broadcast_shapes(a, b).numel()  # type: ignore[no-untyped-call]
    assert gx.shape == a and gy.shape == b
    assert gx.data.sum().item() == 12.0 * size and gy.data.sum().item() == 4.0 * size
    (gxx,) = hg.gradients(gx.sum(), x)
    assert gxx is not None and gxx.data.sum().item() == 6.0 * size


# -------------------------------------------------------------------------------------------------------------- retaining


def test_a_graph_is_walked_once() -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    y.backward()
    with pytest.raises(hg.TapeError, match=r"freed.*retain_graph=True") as caught:
        y.backward()
    assert isinstance(caught.value, RuntimeError)
    assert x.grad.tolist() == [2.0, 4.0]


def test_retain_graph() -> None:
    x = leaf([1.0, 2.0])
    y = (x.tanh() * x).sum()
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward(retain_graph=True)
    y.backward()
    torch.testing.assert_close(x.grad, 3 * first)
    with pytest.raises(hg.TapeError, match="freed"):
        y.backward()


def test_records_that_only_other_roots_reach_stay_and_shared_ones_are_freed() -> None:
    x = leaf(2.0)
    shared = x * 3
    a, b = shared * 5, shared * 7
    other = x * 11
    a.backward()
    assert x.grad.item() == 15.0
    with pytest.raises(hg.TapeError, match=r"freed.*Mul"):
        b.backward()
    with pytest.raises(hg.TapeError, match="freed"):
        (shared + 1).backward()
    assert x.grad.item() == 15.0
    other.backward()
    assert x.grad.item() == 26.0


def test_retain_grad() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    z = y * y
    assert y.grad is None
    y.retain_grad()
    y.retain_grad()
    z.sum().backward(retain_graph=True)
    assert y.grad.tolist() == [6.0, 12.0] and x.grad.tolist() == [18.0, 36.0] and z.grad is None
    z.sum().backward()
    assert y.grad.tolist() == [12.0, 24.0]
    y.zero_grad()
    assert y.grad is None
    x.retain_grad()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [37.0, 73.0]
    with pytest.raises(hg.TapeError, match="requires_grad=True"):
        Variable([1.0]).retain_grad()


def test_retain_grad_on_the_root_and_after_others_were_recorded() -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    z = y.sum()
    y.retain_grad()
    z.retain_grad()
    z.backward()
    assert z.grad.item() == 1.0 and y.grad.tolist() == [1.0, 1.0] and x.grad.tolist() == [2.0, 2.0]


def test_the_grad_of_a_nonleaf_survives_the_variable_being_renamed() -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    y.name = "hidden"
    y.retain_grad()
    (y * 3).sum().backward()
    assert y.grad.tolist() == [3.0, 3.0] and y.name == "hidden"


# ----------------------------------------------------------------------------------------------------------------- seeds


def test_a_one_element_root_needs_no_seed() -> None:
    for shape in ((), (1,), (1, 1)):
        x = leaf(torch.full(shape, 2.0))
        (x * x).backward()
        assert x.grad.shape == shape and x.grad.item() == 4.0


@pytest.mark.parametrize(
    "seed",
    [torch.tensor([1.0, 10.0]), Variable([1.0, 10.0]), [1.0, 10.0], [1, 10], (1, 10.0), torch.tensor([1.0, 10.0]).numpy()],
    ids=lambda s: type(s).__name__,
)
def test_seeds_of_all_kinds(seed: Any) -> None:
    for create_graph in (False, True):
        x = leaf([1.0, 2.0])
        (x * 2).backward(seed, create_graph=create_graph)
        assert x.grad.tolist() == [2.0, 20.0] and x.grad.dtype is torch.float32


def test_numbers_as_seeds_take_the_roots_dtype_and_shape() -> None:
    for dtype in (torch.float16, torch.float64):
        for shape in ((), (1,), (1, 1)):
            x = leaf(torch.ones(shape, dtype=dtype))
            (x * 2).backward(3)
            assert x.grad.dtype is dtype and x.grad.shape == shape and x.grad.item() == 6.0


def test_backward_on_a_leaf() -> None:
    x, seed = leaf([1.0, 2.0]), torch.tensor([3.0, 4.0])
    x.backward(seed)
    x.backward(seed)
    assert x.grad.tolist() == [6.0, 8.0] and seed.tolist() == [3.0, 4.0]


# ------------------------------------------------------------------------------------------------------- aliasing nothing


def no_alias(*tensors: torch.Tensor) -> None:
    places = [t.untyped_storage().data_ptr() for t in tensors if t.numel()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    "f",
    [
        lambda a, b: a + b,
        lambda a, b: a - b,
        lambda a, b: (a + b) + (a + b),
        lambda a, b: a.reshape(4).reshape(2, 2) + b.T.T,
        lambda a, b: hg.stack([a, b]).sum(0),
        lambda a, b: hg.cat([a, b])[:2] + hg.cat([a, b])[2:],
        lambda a, b: a.expand(2, 2) + b.unsqueeze(0).squeeze(0),
        lambda a, b: a.to(torch.float64).to(torch.float32) + b.flip(0).flip(0),
        lambda a, b: a + (b + 0.0).detach() + b,
        lambda a, b: hg.where(torch.tensor(True), a, b) + b,
    ],
)
def test_gradients_share_memory_with_nothing(f: Callable[[Any, Any], Any]) -> None:
    a, b = leaf(torch.rand(2, 2)), leaf(torch.rand(2, 2))
    seed = torch.ones(2, 2)
    y = f(a, b)
    y.retain_grad()
    y.backward(seed, retain_graph=True)
    no_alias(a.data, b.data, a.grad, b.grad, y.grad, seed, y.data)
    a.grad.fill_(99.0)
    b.grad.fill_(77.0)
    y.grad.fill_(55.0)
    assert torch.equal(seed, torch.ones(2, 2))
    ga, gb = hg.gradients(y, (a, b), seed)
    assert ga is not None and gb is not None
    no_alias(a.data, b.data, a.grad, b.grad, y.grad, ga.data, gb.data, seed, y.data)
    assert not (ga.data == 99.0).any() and not (gb.data == 77.0).any()


@pytest.mark.parametrize(
    "f",
    [
        Variable.sum,
        Variable.mean,
        lambda x: x.sum(0).sum(),
        lambda x: x[0].sum() + x.sum(),
        lambda x: x.T.sum(),
        lambda x: x.expand(2, 3, 3).sum(),
    ],
)
def test_gradients_are_dense(f: Callable[[Any], Any]) -> None:
    x = leaf(torch.rand(3, 3))
    f(x).backward()
    assert x.grad.is_contiguous() and 0 not in x.grad.stride()
    x.grad[0, 0] = 50.0  # an expanded tensor would change everywhere, or refuse
    assert (x.grad == 50.0).sum() == 1
    f(x).backward()


def test_two_gradients_of_one_input_are_two_tensors() -> None:
    x = leaf([1.0, 2.0])
    a, b = hg.gradients((x * 3).sum(), (x, x))
    assert a is not None and b is not None
    no_alias(a.data, b.data)


def test_an_operand_used_twice_is_not_accumulated_into_anothers_gradient() -> None:
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    z = x + y  # one gradient tensor for both
    (z + x * 10).sum().backward()
    assert x.grad.tolist() == [11.0, 11.0] and y.grad.tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------------------------ create_graph


@pytest.mark.parametrize("recording", [hg.enable_grad, hg.no_grad])
def test_derivatives_to_third_order(recording: Any) -> None:
    x = leaf([0.3, -0.7, 1.2], torch.float64)
    y = (x.sin() * x).sum()
    sin, cos, v = x.data.sin(), x.data.cos(), x.data
    with recording():
        (first,) = hg.gradients(y, x, create_graph=True)
        assert first is not None
        (second,) = hg.gradients(first, x, torch.ones(3, dtype=torch.float64), create_graph=True)
        assert second is not None
        (third,) = hg.gradients(second, x, torch.ones(3, dtype=torch.float64), create_graph=True)
    assert third is not None and third.requires_grad
    torch.testing.assert_close(first.data, sin + v * cos)
    torch.testing.assert_close(second.data, 2 * cos - v * sin)
    torch.testing.assert_close(third.data, -3 * sin - v * cos)
    assert x.grad is None


def test_backward_with_create_graph() -> None:
    x = leaf(2.0)
    y = x**3
    y.backward(create_graph=True)
    assert isinstance(x.grad, Variable) and x.grad.item() == 12.0 and x.grad.requires_grad
    g = x.grad
    x.zero_grad()
    g.backward(create_graph=True)
    assert x.grad.item() == 12.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert isinstance(x.grad, torch.Tensor) and x.grad.item() == 6.0


@pytest.mark.parametrize("recording", [hg.enable_grad, hg.no_grad])
def test_gradients_of_a_graph_accumulate_out_of_place_and_stay_in_it(recording: Any) -> None:
    x = leaf(2.0)
    y = x**3
    with recording():
        y.backward(create_graph=True)
        first = x.grad
        y.backward(create_graph=True)
        second = x.grad
        (x * 5).backward() if recording is hg.enable_grad else None
    assert first.item() == 12.0 and second.item() == 24.0 and second.requires_grad
    (gg,) = hg.gradients(second, x)
    assert gg is not None and gg.item() == 24.0
    if recording is hg.enable_grad:
        assert isinstance(x.grad, Variable) and x.grad.item() == 29.0


def test_create_graph_keeps_the_graph() -> None:
    x = leaf(2.0)
    y = x.exp() * x
    hg.gradients(y, x, create_graph=True)
    hg.gradients(y, x)
    with pytest.raises(hg.TapeError, match="freed"):
        hg.gradients(y, x)


def test_gradients_of_a_gradient_with_respect_to_the_seed() -> None:
    x, seed = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    (g,) = hg.gradients(x * x, x, seed, create_graph=True)
    assert g is not None
    (gs,) = hg.gradients(g.sum(), seed)
    assert gs is not None and gs.tolist() == [2.0, 4.0]


def test_mixed_second_derivatives_through_intermediates() -> None:
    x, w = leaf([1.0, 2.0], torch.float64), leaf([[1.0, -1.0], [0.5, 2.0]], torch.float64)
    t, u = x.data.clone().requires_grad_(), w.data.clone().requires_grad_()
    y = ((x @ w).tanh() ** 2).sum()
    (gx,) = hg.gradients(y, x, create_graph=True)
    assert gx is not None
    (gx * gx).sum().backward()
    z = ((t @ u).tanh() ** 2).sum()
    (gt,) = torch.autograd.grad(z, t, create_graph=True)
    (gt * gt).sum().backward()
    torch.testing.assert_close(w.grad, u.grad)
    torch.testing.assert_close(x.grad, t.grad)


# ------------------------------------------------------------------------------------------------------------- gradients()


def test_gradients_touches_no_grad_and_takes_intermediates() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    z = (y * y).sum()
    y.retain_grad()
    gx, gy, gz = hg.gradients(z, (x, y, z))
    assert gx is not None and gy is not None and gz is not None
    assert gx.tolist() == [18.0, 36.0] and gy.tolist() == [6.0, 12.0] and gz.item() == 1.0
    assert x.grad is None and y.grad is None
    assert not gx.requires_grad


def test_gradients_of_several_outputs_add_up() -> None:
    x = leaf([1.0, 2.0])
    y = x * x
    (g,) = hg.gradients((y.sum(), y, y), x, (None, torch.tensor([1.0, 0.0]), [0.0, 5.0]))
    assert g is not None and g.tolist() == [4.0, 24.0]
    (g,) = hg.gradients([x, x * 2], [x], [[1, 1], [1, 1]])
    assert g is not None and g.tolist() == [3.0, 3.0]
    with pytest.raises(hg.ShapeError, match="one entry per output"):
        hg.gradients((x, x), x, (torch.ones(2),))


def test_gradients_walks_no_further_than_needed() -> None:
    calls: list[str] = []

    def spy(name: str) -> Any:
        return declare(lambda a: a * 2, lambda g, out, a: noted(g * 2, calls, name), reads=("",))

    x, w = leaf(1.0), leaf(1.0)
    early = spy("early").apply(x)
    middle = spy("middle").apply(early)
    z = spy("late").apply(middle) * spy("aside").apply(w)
    (g,) = hg.gradients(z, middle, retain_graph=True)
    assert g is not None and calls == ["late"]
    calls.clear()
    hg.gradients(z, w, retain_graph=True)
    assert calls == ["aside"]
    calls.clear()
    hg.gradients(z, (middle, early))
    assert calls == ["late", "middle"]


def test_gradients_of_inputs_the_outputs_do_not_depend_on() -> None:
    x, unused = leaf([1.0, 2.0]), leaf([1.0])
    y = (x * x).sum()
    with pytest.raises(hg.TapeError, match=r"input 1.*allow_unused=True"):
        hg.gradients(y, (x, unused), retain_graph=True)
    g, nothing = hg.gradients(y, (x, unused), retain_graph=True, allow_unused=True)
    assert g is not None and g.tolist() == [2.0, 4.0] and nothing is None
    with pytest.raises(hg.TapeError, match="input 0"):
        hg.gradients(y, x * 2)
    refused: list[Any] = [Variable([1.0]), torch.ones(1), 3.0]
    for wrong in refused:
        with pytest.raises(hg.TapeError, match=r"input 0.*requires_grad=True"):
            hg.gradients(y, (wrong,), allow_unused=True)
    with pytest.raises(hg.TapeError, match="requires a gradient"):
        hg.gradients(Variable(1.0), x)
    assert x.grad is None


# ---------------------------------------------------------------------------------------------- writes after recording


@pytest.mark.parametrize(
    ("f", "op", "what"),
    [
        (lambda x, w: x * w, "Mul", "'b'"),
        (lambda x, w: w * x, "Mul", "'a'"),
        (lambda x, w: x @ w, "MatMul", "'b'"),
        (lambda x, w: x / w, "Div", "'b'"),
        (lambda x, w: hg.maximum(x, w), "Maximum", "'b'"),
        (lambda x, w: hg.einsum("ij,jk->ik", x, w), "Einsum", "Einsum"),
    ],
)
@pytest.mark.parametrize("write", ["data", "through a view", "of a view", "out"])
def test_a_write_after_recording_is_caught_and_named(f: Callable[[Any, Any], Any], op: str, what: str, write: str) -> None:
    x, base = leaf(torch.rand(2, 2)), torch.rand(4)
    w = Variable(base.view(2, 2) if write == "of a view" else base[:4].reshape(2, 2))
    y = f(x, w).sum()
    if write == "data":
        w.data[0, 0] = 5.0
    elif write == "through a view":
        w.detach().data.T[0].mul_(2)
    elif write == "of a view":
        base.zero_()
    else:
        torch.add(base, 1, out=base)
    with pytest.raises(hg.TapeError, match=r"written to in place.*clone") as caught:
        y.backward()
    assert op in str(caught.value) and what in str(caught.value) and "(2, 2)" in str(caught.value)
    assert x.grad is None


def test_results_that_rules_read_are_guarded() -> None:
    for f in (Variable.exp, Variable.tanh, Variable.sqrt, Variable.relu):
        x = leaf([1.0, 4.0])
        y = f(x)
        z = y.sum()
        y.data[0] = 0.0
        with pytest.raises(hg.TapeError, match=r"its result of shape \(2,\) was written to in place"):
            z.backward()
        assert x.grad is None


@pytest.mark.parametrize(
    "index", [torch.tensor([0, 1, 1]), (torch.tensor([0, 1, 1]), slice(None)), (slice(None), None, torch.tensor([True, True]))]
)
def test_index_tensors_are_guarded(index: Any) -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x[index].sum()
    next(i for i in (index if isinstance(index, tuple) else (index,)) if isinstance(i, torch.Tensor)).zero_()
    with pytest.raises(hg.TapeError, match=r"GetItem: an index or option.*written to in place"):
        y.backward()
    assert x.grad is None


def test_conditions_are_guarded() -> None:
    x, condition = leaf([1.0, 2.0]), torch.tensor([True, False])
    y = hg.where(condition, x, 0.0).sum()
    condition.fill_(True)
    with pytest.raises(hg.TapeError, match="Where: operand 'condition'"):
        y.backward()


def test_what_no_rule_reads_may_be_written_to() -> None:
    x, w = leaf([1.0, 2.0]), Variable([3.0, 4.0])
    y = (
        ((x + w) * 1.0).sum()
        + x.reshape(2, 1).sum()
        + (x - w).mean()
        + hg.cat([x, w]).sum()
        + (x * 2 + 1).to(torch.float64).sum().to(torch.float32)
    )
    x.data.zero_()
    w.data.zero_()
    y.backward()
    assert x.grad.tolist() == [5.5, 5.5]


def test_only_the_needed_rules_reads_are_guarded() -> None:
    x, constant = leaf([1.0, 2.0]), torch.tensor([3.0, 4.0])
    y = (x * constant).sum()
    x.data.zero_()  # only the constant's rule reads x, and the constant needs no gradient
    y.backward()
    assert x.grad.tolist() == [3.0, 4.0]
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    z = (a * b).sum()
    a.data.zero_()
    with pytest.raises(hg.TapeError, match="operand 'a'"):
        z.backward()
    assert a.grad is None and b.grad is None


def test_writes_before_recording_and_after_backward_are_fine() -> None:
    x = leaf([1.0, 2.0])
    x.data.mul_(3)
    (x * x).sum().backward()
    x.data.add_(x.grad, alpha=-0.5)
    assert x.tolist() == [0.0, 0.0]


def test_options_are_those_of_the_call() -> None:
    x, seed = leaf(torch.arange(8.0).reshape(2, 2, 2)), torch.arange(8.0).reshape(2, 2, 2)
    dims = [1, 2, 0]
    y = x.permute(dims)
    dims[:] = [0, 1, 2]
    y.backward(seed)
    assert torch.equal(x.grad, seed.permute(2, 0, 1))
    x.zero_grad()
    axes = [0]
    z = x.sum(axes, keepdim=True)
    axes[0] = 1
    z.backward(torch.arange(4.0).reshape(1, 2, 2))
    assert torch.equal(x.grad, torch.arange(4.0).reshape(1, 2, 2).expand(2, 2, 2))
    v = leaf([1.0, 2.0, 3.0])
    picks = [0, 0, 2]
    z = v[picks].sum()
    picks[:] = [1, 1, 1]
    z.backward()
    assert v.grad.tolist() == [2.0, 0.0, 1.0]


# ------------------------------------------------------------------------------------------------- failing loses nothing


def test_a_failing_backward_changes_no_grad() -> None:
    def raising(g: Any, out: Any, a: Any) -> Any:
        raise ZeroDivisionError("the rule's own")

    broken = declare(lambda a: a * 2, raising, reads=("",))
    x, w, fine = leaf([1.0, 2.0]), leaf([3.0, 4.0]), leaf([5.0, 6.0])
    fine.grad = torch.ones(2)
    y = (broken.apply(x) * w + fine * 2).sum()
    with pytest.raises(ZeroDivisionError, match="own"):
        y.backward()
    assert x.grad is None and w.grad is None and fine.grad.tolist() == [1.0, 1.0]
    with pytest.raises(hg.TapeError, match="freed"):  # it is used up, and says so
        y.backward()
    (x * w).sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]


def test_a_failing_backward_with_retain_graph_can_be_repeated() -> None:
    fail = [True]

    def once(g: Any, out: Any, a: Any) -> Any:
        if fail.pop() if fail else False:
            raise KeyError("not now")
        return g * 2

    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (declare(lambda a: a * 2, once, reads=("",)).apply(x) * w).sum()
    with pytest.raises(KeyError):
        y.backward(retain_graph=True)
    assert x.grad is None and w.grad is None
    y.backward()
    assert x.grad.tolist() == [6.0, 8.0] and w.grad.tolist() == [2.0, 4.0]


def test_a_rule_without_derivative_raises_only_when_asked() -> None:
    half = declare(operator.mul, lambda g, out, a, b: g * b, None, reads=("b", ""))
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    half.apply(x, w.detach()).sum().backward()
    assert x.grad.tolist() == [3.0, 4.0]
    with pytest.raises(hg.TapeError, match=r"not differentiable with respect to 'b'.*detach\(\)"):
        half.apply(x, w).sum().backward()
    assert x.grad.tolist() == [3.0, 4.0] and w.grad is None


# ----------------------------------------------------------------------------------------------------- what runs, what is kept


def test_rules_run_only_for_operands_that_need_them() -> None:
    calls: list[str] = []
    product = declare(
        lambda a, b, c: a * b * c,
        lambda g, out, a, b, c: noted(g * b * c, calls, "a"),
        lambda g, out, a, b, c: noted(g * a * c, calls, "b"),
        lambda g, out, a, b, c: noted(g * a * b, calls, "c"),
        reads=("b c", "a c", "a b"),
    )
    for needed in itertools.product([False, True], repeat=3):
        calls.clear()
        operands = [Variable([2.0], requires_grad=need) for need in needed]
        y = product.apply(*operands)
        assert y.requires_grad is any(needed)
        if any(needed):
            y.backward()
        assert calls == [name for name, need in zip("abc", needed) if need]
        assert [v.grad is not None for v in operands] == list(needed)


def saved(y: Any) -> list[int]:
    (record,) = [record for record in hg.tape() if record is y._link]
    return [t.data_ptr() for t in record.saved()]


def test_a_record_keeps_what_its_needed_rules_read() -> None:
    x, w, constant = leaf([1.0, 2.0]), leaf([3.0, 4.0]), torch.tensor([5.0, 6.0])

    def of(*values: Any) -> list[int]:
        return [getattr(v, "data", v).data_ptr() for v in values]

    cases: list[tuple[Any, list[Any]]] = [
        (x + w, []), (x - constant, []), (-x, []), (x.sum(), []), (x.mean(), []), (x.reshape(2, 1), []), (x.T, []),
        (x * constant, [constant]), (constant * x, [constant]), (x * 2.0, []), (x * w, [x, w]), (x / constant, [constant]), (x**2, [x]),
        (x.sin(), [x]), (x.log(), [x]), (x.to(torch.float64), []), (hg.cat([x, w]), []), (x[0], []),
    ]  # fmt: skip
    for y, expected in cases:
        assert saved(y) == of(*expected), y
    for f in (Variable.exp, Variable.tanh, Variable.relu, Variable.sigmoid, Variable.sqrt):
        y = f(x)
        assert saved(y) == of(y)
    y = constant / x
    assert sorted(saved(y)) == sorted(of(x, y))


def test_intermediates_die_as_soon_as_nobody_reads_them() -> None:
    x = leaf(torch.rand(3))
    a = x + 1  # kept by nobody
    b = a.exp()  # kept by its own record
    c = b.sum()
    first, second = weakref.ref(a.data), weakref.ref(b.data)
    del a, b
    assert first() is None and second() is not None
    c.backward()
    assert second() is None


def test_buffers_are_released_while_walking() -> None:
    alive: list[int] = []
    tensors: list[Any] = []

    def watch(g: Any, out: Any, a: Any) -> Any:
        alive.append(sum(t() is not None for t in tensors))
        return g * out

    step = declare(lambda a: a.exp(), watch, reads=("out",))
    y = leaf(torch.zeros(3)) * 0
    for _ in range(8):
        y = step.apply(y) * 0.1
        tensors.append(weakref.ref(y._link.parents[0].out))
    y.sum().backward()
    assert alive == [8, 7, 6, 5, 4, 3, 2, 1]
    assert not any(t() is not None for t in tensors)


def test_gradients_on_their_way_are_released_too() -> None:
    seen: list[Any] = []

    def watch(g: Any, out: Any, a: Any) -> Any:
        alive.append(sum(t() is not None for t in seen))
        g = g * 2
        seen.append(weakref.ref(g))
        return g

    alive: list[int] = []
    step = declare(lambda a: a * 2, watch, reads=("",))
    y = x = leaf(torch.zeros(3))
    for _ in range(6):
        y = step.apply(y)
    y.sum().backward()
    assert max(alive) <= 1 and len(alive) == 6
    assert x.grad.tolist() == [64.0] * 3


def test_freed_records_hold_nothing() -> None:
    x = leaf([1.0, 2.0])
    y = (x.exp() * torch.ones(2)).sum()
    records = list(hg.tape())
    assert [record.op.name for record in records] == ["Exp", "Mul", "Sum"]
    y.backward()
    for record in records:
        assert record.saved() == [] and record.parents is None and record.operands is None and record.out is None and record.options is None
        assert "freed" in repr(record)
    assert len(hg.tape()) == 0


def test_zero_rules_and_constants() -> None:
    x = leaf([-1.0, 0.0, 2.0])
    x.sign().sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0] and 0 not in x.grad.stride()
    (x * 0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_a_write_by_a_rule_into_nothing_of_ours() -> None:
    """A rule that gives back what it was given, or what it read, does not make that memory a gradient."""
    passes = declare(lambda a: a * 1, lambda g, out, a: a, reads=("a",))
    x = leaf([1.0, 2.0])
    passes.apply(x).sum().backward()
    assert x.grad.data_ptr() != x.data.data_ptr()
    x.grad.zero_()
    assert x.tolist() == [1.0, 2.0]
    passes.apply(x).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0] and x.tolist() == [1.0, 2.0]
    one = torch.ones(2)
    held = declare(lambda a: a * 1, lambda g, out, a: one, reads=("",))
    x, w = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    (held.apply(x) + held.apply(w) + held.apply(x)).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0] and w.grad.tolist() == [1.0, 1.0] and one.tolist() == [1.0, 1.0]
