"""Every registered primitive: values and gradients against torch's and against differences, orders 1 and 2, in all graph contexts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import leaf
from torch import Tensor

import hotgrad as hg
from hotgrad.testing import GradientError, check_op
from hotgrad.testing.conventions import oracle_of

BUILT_IN = {name: op for name, op in hg.primitives().items() if op.__module__.startswith("hotgrad.")}


@pytest.mark.parametrize("name", BUILT_IN)
def test_primitive(name: str, count: Callable[[int, int], int]) -> None:
    op = BUILT_IN[name]
    report = check_op(op, max_examples=count(8, 300), oracle=oracle_of(op))
    assert report.examples > 0.85 * count(8, 300)
    if op.differentiable and not op.plain:
        assert report.compared > 2 * report.examples, "hardly a slope was compared"
        assert report.unresolved < report.compared


def test_every_primitive_is_compared_with_torch() -> None:
    assert [name for name in BUILT_IN if oracle_of(hg.primitives()[name]) is None] == []


@pytest.mark.parametrize(
    "name", [name for name, op in BUILT_IN.items() if op.differentiable and any(rule is not hg.zero for rule in op.rules if rule)]
)
def test_the_check_can_fail(name: str) -> None:
    """A canary: the same op with every rule off by a thousandth."""
    real = BUILT_IN[name]

    def off(rule: Any) -> Any:
        if rule is None:
            return None

        @functools.wraps(rule)
        def wrong(*args: Any, **options: Any) -> Any:
            return rule(*args, **options) * 1.001

        return wrong

    class Wrong(real, register=False):  # type: ignore[valid-type, misc]
        vjps = tuple(map(off, real.vjps))

    with pytest.raises(GradientError, match="Wrong"):
        check_op(Wrong, shrink=False)


def test_float32_detours_show_against_torch() -> None:
    class Detour(hg.ops.Mul, register=False):  # type: ignore[misc, name-defined]
        forward = staticmethod(lambda a, b: (a.float() * b).double() if a.ndim else a * b)

    with pytest.raises(GradientError):
        check_op(Detour, oracle=torch.mul, shrink=False)


@pytest.mark.parametrize("inner", [0.0, 0.3])
def test_a_torch_function_counts_everywhere_but_at_kinks(inner: float) -> None:
    """One that leaves clip's bounds out is as good an oracle; one that leaves more out than the bounds is not."""

    def oracle(a: Tensor, min: float | None, max: float | None) -> Tensor:
        low, high = (-torch.inf if min is None else min + inner), (torch.inf if max is None else max - inner)
        return torch.where((a > low) & (a < high), a, a.detach()).clip(min, max)

    if inner:
        with pytest.raises(GradientError, match="torch's is"):
            check_op(hg.ops.Clip, oracle=oracle, shrink=False)
    else:
        check_op(hg.ops.Clip, oracle=oracle)


def test_scalars_have_axes_in_a_sense() -> None:
    x = leaf(3.0)
    y = x.flatten().sum() + x.transpose(0, -1)
    y.backward()
    assert x.flatten().shape == (1,)
    assert float(x.grad) == 2
