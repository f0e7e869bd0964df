"""Every primitive to third order: along a line through drawn operands, against torch's derivatives of what the op computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import hotgrad as hg
from hotgrad.core.primitive import Primitive
from hotgrad.testing.conventions import oracle_of
from hotgrad.testing.strategies import operands
from hotgrad.testing.subject import pattern

DIFFERENTIABLE = [
    name
    for name, op in hg.primitives().items()
    if op.__module__.startswith("hotgrad.")
    and op.differentiable
    and not op.plain
    and any(rule is not hg.zero for rule in op.rules or (None,))
]
# torch's own third derivatives of a power are wrong where the exponent is 0 or 1: of (1 + at) ** (1 + bt) it has 2 a a b in place of 3.
ORACLES = {"Pow": lambda a, b: (b * a.log()).exp()}
# Where a mask or an index chosen in forward decides, that is a constant of all further derivatives; torch does the same.


def line(op: Primitive, values: tuple[Tensor, ...], options: dict[str, Any], call: Callable[..., Any]) -> Callable[[Any], Any]:
    """A function of a number t: the op at operands moved by t, every result times a weight, cubed where that is linear."""

    def along(t: Any) -> Any:
        moved = []
        for i, value in enumerate(values):
            direction = 0.1 * pattern(tuple(value.shape), 7 + i).double()
            fixed = not value.dtype.is_floating_point or (op.arity is not None and op.rules[i] is None)
            moved.append(value if fixed else value + t * direction)
        out = call(*moved, **options)
        weights = pattern(tuple(out.shape), 3).double()
        return (weights * (out + 0.3 * out * out)).sum() if out.dtype.is_floating_point else None

    return along


def derivatives_of_torch(f: Callable[[Any], Any], order: int) -> list[float]:
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    value = f(t)
    found = []
    for _ in range(order):
        if not value.requires_grad:
            found.append(0.0)
            continue
        (value,) = torch.autograd.grad(value, t, create_graph=True, allow_unused=True, materialize_grads=True)
        found.append(float(value))
    return found


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_to_third_order(name: str, count: Callable[[int, int], int]) -> None:
    op = hg.primitives()[name]
    oracle = ORACLES.get(name) or oracle_of(op)
    compared: list[int] = []

    @seed(0)
    @settings(max_examples=count(8, 100))
    @given(st.data())
    def check(data: Any) -> None:
        values, options = data.draw(operands(op))
        values = tuple(v.double() if v.dtype.is_floating_point else v for v in values)
        if not any(v.dtype.is_floating_point and v.numel() for v in values) or any(not v.double().isfinite().all() for v in values):
            return
        try:
            with warnings.catch_warnings():  # of deviations of too few elements
                warnings.simplefilter("ignore")
                wanted = derivatives_of_torch(line(op, values, options, oracle), 3)  # type: ignore[arg-type]
        except RuntimeError:  # torch has no such axes
            return
        mine = line(op, values, options, op.apply)  # type: ignore[arg-type]
        if not all(abs(w) < 1e12 for w in wanted):
            return
        f: Any = mine
        t = torch.zeros((), dtype=torch.float64)
        for order, w in enumerate(wanted, 1):
            f = hg.grad(f)
            found = float(f(t).item())
            assert abs(found - w) <= 1e-7 * (1 + sum(map(abs, wanted))), (order, found, wanted, options)
            compared.append(w != 0)

    check()
    assert sum(compared) > 3, "hardly a derivative was compared"
