"""Every function that is composed from ops: values and gradients against torch's and against differences, orders 1 and 2, and in programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad import Variable
from hotgrad.ops import composites
from hotgrad.testing import GradientError, check_gradients
from hotgrad.training.model import LOSSES

F = torch.nn.functional
LABELS = torch.tensor([0, 2, 1, 2])
SQUARE = ((3, 4), (3, 4))


class Given(NamedTuple):
    """An operand that is no shape."""

    value: Any


# What to try each on: operands, of which a tuple of numbers is a shape and a list one operand of several, and options.
CASES: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "cat": [(([(2, 3), (1, 3)],), {}), (([(2, 3), (2, 0), (2, 2)],), {"dim": -1})],
    "stack": [(([(2, 3), (2, 3)],), {}), (([(), ()],), {"dim": -1})],
    "einsum": [(("ij,jk->ik", (2, 3), (3, 2)), {}), (("bij,bj,b->i", (2, 3, 2), (2, 2), (2,)), {}), (("ii->i", (3, 3)), {})],
    "flatten": [(((2, 3, 2),), {}), (((2, 3, 2),), {"start_dim": 1}), (((),), {})],
    "transpose": [(((2, 3, 4), 0, -1), {}), (((2, 3), 1, 0), {})],
    "squeeze": [(((1, 3, 1),), {}), (((1, 3, 1),), {"dim": 0}), (((2, 3),), {"dim": 0})],
    "unsqueeze": [(((2, 3), 0), {}), (((2, 3), -1), {}), (((), 0), {})],
    "linear": [(((4, 3), (3, 2)), {}), (((4, 3), (3, 2), (2,)), {}), (((3,), (3, 2), (2,)), {})],
    "mse": [(SQUARE, {}), (SQUARE, {"reduction": "sum"}), (SQUARE, {"reduction": "none"})],
    "l1": [(SQUARE, {}), (SQUARE, {"reduction": "none"})],
    "huber": [(SQUARE, {}), (SQUARE, {"delta": 0.5, "reduction": "sum"})],
    "cross_entropy": [(((4, 3), LABELS), {}), (((4, 3), F.one_hot(LABELS).double()), {"reduction": "sum"}), (((4, 3), LABELS), {"reduction": "none"})],
    "bce_with_logits": [(((4, 3), (torch.arange(12.0, dtype=torch.float64) % 2).reshape(4, 3)), {"reduction": r}) for r in ("mean", "sum", "none")],
    "gelu": [(((3, 4),), {}), (((),), {})],
    "dropout": [(((3, 4),), {"training": False}), (((3, 4),), {"p": 0.0})],
    "layer_norm": [(((3, 4), 4), {}), (((2, 3, 4), Given((3, 4)), (3, 4), (3, 4)), {"eps": 1e-3})],
    "batch_norm": [(((5, 3), None, None, (3,), (3,)), {"training": True}), (((4, 2), None, None), {"training": True, "eps": 0.1})],
    "conv2d": [(((2, 2, 4, 5), (3, 2, 2, 3), (3,)), {"stride": 2, "padding": 1}), (((1, 1, 3, 3), (2, 1, 2, 2)), {})],
}  # fmt: skip
# What does the same in torch, where no function of the same name takes the same operands.
ORACLES: dict[str, Callable[..., Any]] = {
    "linear": lambda x, weight, bias=None: x @ weight if bias is None else x @ weight + bias,
    "dropout": F.dropout, "batch_norm": F.batch_norm, "mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss, "bce_with_logits": F.binary_cross_entropy_with_logits,
    "layer_norm": lambda x, shape, *rest, **options: F.layer_norm(x, shape if isinstance(shape, tuple) else (shape,), *rest, **options),
}  # fmt: skip
IMAGES = (
    "avg_pool1d",
    "avg_pool2d",
    "conv1d",
    "group_norm",
    "max_pool1d",
    "max_pool2d",
    "scaled_dot_product_attention",
)  # with layers and models
KINKED = ("l1",)  # where differences tell nothing of the second order

PUBLISHED = {name: getattr(hg, name) for name in composites.__all__} | {
    name: getattr(hg.functional, name) for name in hg.functional.__all__
}
TRIED = [(name, i) for name in PUBLISHED for i in range(len(CASES.get(name, ())))]


def oracle_of(name: str) -> Callable[..., Any]:
    return ORACLES.get(name) or getattr(torch, name, None) or getattr(F, name)


def drawn(
    name: str, number: int, dtype: torch.dtype
) -> tuple[list[Tensor], Callable[[Callable[..., Any]], Callable[..., Any]], dict[str, Any]]:
    """The tensors that are differentiated; what calls a function with these in the places of the others; and the options."""
    operands, options = CASES[name][number]
    generator = torch.Generator().manual_seed(number)
    tensors: list[Tensor] = []

    def made(operand: Any) -> Any:
        if isinstance(operand, list):
            return [made(one) for one in operand]
        if isinstance(operand, Given):
            return operand.value
        if isinstance(operand, tuple):
            tensors.append(torch.randn(operand, generator=generator, dtype=torch.float64).to(dtype))
            return len(tensors) - 1, ...
        return operand.to(dtype) if isinstance(operand, Tensor) and operand.is_floating_point() else operand

    places = [made(operand) for operand in operands]

    def filled(place: Any, given: Any) -> Any:
        if isinstance(place, list):
            return [filled(one, given) for one in place]
        return given[place[0]] if isinstance(place, tuple) and len(place) == 2 and place[1] is ... else place

    return tensors, lambda f: lambda *given: f(*(filled(place, given) for place in places), **options), options


def test_each_says_what_to_try() -> None:
    """But for losses, which are compared with torch's where layers are."""
    assert set(CASES) <= set(PUBLISHED) <= {*CASES, *LOSSES, *IMAGES}


@pytest.mark.parametrize(("name", "number"), TRIED)
def test_gradients_are_those_of_differences(name: str, number: int) -> None:
    tensors, called, _ = drawn(name, number, torch.float64)
    check_gradients(called(PUBLISHED[name]), *tensors, order=1 if name in KINKED else 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "number"), TRIED)
def test_values_and_gradients_are_torchs(name: str, number: int, dtype: torch.dtype) -> None:
    tensors, called, _ = drawn(name, number, dtype)
    theirs = [t.clone().requires_grad_() for t in tensors]
    wanted = called(oracle_of(name))(*theirs)
    near = {"rtol": 1e-11, "atol": 1e-11} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    raw = called(PUBLISHED[name])(*tensors)
    assert type(raw) is Tensor and raw.dtype == wanted.dtype
    torch.testing.assert_close(raw, wanted.detach(), **near)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    first = torch.autograd.grad((wanted * weight).sum(), theirs, create_graph=True)
    ours = [Variable(t, requires_grad=True) for t in tensors]
    # as an intermediate of intermediates, read twice; and its gradient differentiated again
    result = called(PUBLISHED[name])(*(v * 1.0 for v in ours))
    got = hg.gradients((result * weight * 0.5 + result * weight * 0.5).sum(), ours, create_graph=True)
    for g, right in zip(got, first):
        torch.testing.assert_close(g.data, right.detach(), **near)  # type: ignore[union-attr]
    second = [g for g in first if g.requires_grad]
    if second and name not in KINKED:
        right_second = torch.autograd.grad(sum((g**2).sum() for g in second), theirs, allow_unused=True)
        total = sum(((g**2).sum() for g in got if g is not None and g.requires_grad), Variable(torch.zeros((), dtype=dtype)))
        if total.requires_grad:
            for g, right in zip(hg.gradients(total, ours, allow_unused=True), right_second):
                right = torch.zeros(()) if right is None else right
                torch.testing.assert_close(torch.zeros(()) if g is None else g.data, right, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize(("name", "number"), TRIED)
def test_programs_compute_the_same(name: str, number: int) -> None:
    tensors, called, _ = drawn(name, number, torch.float32)

    def plain(*given: Variable) -> Any:
        return called(PUBLISHED[name])(*given)

    program = hg.capture(plain, *tensors)
    with hg.no_grad():
        expected = plain(*(Variable(t) for t in tensors))
    torch.testing.assert_close(program(*tensors), expected.data, rtol=1e-6, atol=1e-6)  # products by other kernels round otherwise
    assert not expected.requires_grad


def test_a_wrong_composite_is_caught() -> None:
    tensors, called, _ = drawn("gelu", 0, torch.float64)
    with pytest.raises(GradientError):
        check_gradients(called(lambda x: hg.functional.gelu(x.detach()) + 0 * x), *tensors)
