"""The walk backwards: what arrives where, and what happens when it fails."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: warn-unreachable=False, disable-error-code="attr-defined"

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import declare, leaf, noted
from hypothesis import given
from hypothesis import strategies as st

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")

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


def test_comparing_what_was_not_kept_says_so() -> None:
    class Careless(hg.Primitive):
        forward = staticmethod(lambda a: a + 1)
        vjps = (lambda g, out, a: g if a == 0 else -g,)
        reads = ("",)

    with pytest.raises(hg.RuleError, match="the rule for 'a' uses 'a'"):
        Careless.apply(leaf([1.0])).backward()


def test_gradients_come_to_their_operand_s_device() -> None:
    class Moved(hg.Primitive):
        forward = staticmethod(lambda a: torch.ones(a.shape))
        vjps = (lambda g, out, a: g,)
        reads = ("",)

    scalar = hg.Variable(torch.ones((), device="meta"), requires_grad=True)
    Moved.apply(scalar).backward()
    assert scalar.grad is not None and scalar.grad.device.type == "meta"

    class Spread(hg.Primitive):
        forward = staticmethod(lambda a: torch.ones(2, 3))
        vjps = (lambda g, out, a: g,)
        reads = ("",)

    column = hg.Variable(torch.ones(2, 1, device="meta"), requires_grad=True)
    with pytest.raises(hg.RuleError, match="returned a tensor on cpu; the operand is on meta"):
        Spread.apply(column).sum().backward()


def test_a_rule_that_does_not_tell_its_parameters_is_taken_as_it_is() -> None:
    class Opaque(hg.Primitive):
        forward = staticmethod(lambda a: a.max(dim=0).values)
        vjps = (max,)

    assert Opaque.operand_names == ("a",)
