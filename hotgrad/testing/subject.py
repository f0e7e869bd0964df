"""What is checked: a function of tensors at a point, and how to move it about."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Domain, Interval
from hotgrad.core.modes import no_grad
from hotgrad.core.variable import Variable
from hotgrad.testing.numeric import Direction, Slopes
from hotgrad.testing.report import Problem, Report

_MOST_COORDINATES = 14


@dataclass
class Subject:
    """A function of tensors at a point. `call` takes Variables, tensors or numbers; `checked` are the operands of `values` whose
    gradients are asked for.
    """

    name: str
    call: Callable[[Sequence[Any]], Any]
    values: tuple[Tensor, ...]
    checked: tuple[int, ...]
    names: tuple[str, ...]
    domains: tuple[Domain, ...]
    report: Report
    is_op: bool = True  # a function may not take constants, numbers or other dtypes in place of its operands
    compared: int = 0  # slopes of first order that could be compared

    def plain(self, values: Sequence[Any]) -> Tensor:
        """The result as a plain tensor."""
        with no_grad():
            out = self.call(values)
        data: Tensor = out.data if isinstance(out, Variable) else out
        return data

    def leaves(self, values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
        """The operands, those of `wanted` as Variables that require gradients."""
        return [Variable(v, requires_grad=True) if i in wanted else v for i, v in enumerate(values)]

    def pull(self, values: Sequence[Any], g: Tensor, wanted: Sequence[int] | None = None) -> list[Tensor]:
        """The gradients of the operands `wanted` for the cotangent `g`; zeros where nothing arrives."""
        wanted = self.checked if wanted is None else wanted
        leaves = self.leaves(values, wanted)
        return collect(self.call(leaves), [leaves[i] for i in wanted], g)


def collect(out: Any, leaves: Sequence[Variable], g: Tensor) -> list[Tensor]:
    """The gradients of `leaves` by a backward from `out`; zeros where nothing arrives."""
    out.backward(g)
    return [torch.zeros_like(leaf.data) if leaf.grad is None else leaf.grad for leaf in leaves]


class Failed(Exception):
    """Ends the examination of a point: what comes after would only repeat it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = list(problems)


def near(a: Tensor, b: Tensor, tolerance: float, magnitude: float = 0.0) -> bool:
    """Whether `a` and `b` agree to `tolerance` relative to the largest magnitude in sight, where both are finite."""
    both = a.isfinite() & b.isfinite()
    if not bool(both.any()):
        return True
    a, b = a[both].double(), b[both].double()
    return bool((a - b).abs().max() <= tolerance * max(float(a.abs().max()), float(b.abs().max()), magnitude))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether `a` and `b` are equal element by element, NaN being equal to NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def pattern(shape: Sequence[int], seed: int) -> Tensor:
    """Numbers between 0.3 and 1.7 of either sign that nothing is likely to be symmetric in; the same every time."""
    k = torch.arange(math.prod(shape), dtype=torch.float64) + 17.0 * seed
    return ((1.0 + 0.7 * torch.sin(k * 2.399 + 0.5)) * torch.where(torch.sin(k * 1.113 + seed) > -0.2, 1.0, -1.0)).reshape(tuple(shape))


@dataclass
class Known:
    """What differences told: the slopes of single coordinates, (operand, flat index) by row, and whether anything is kinked."""

    coordinates: list[tuple[int, int]]
    slopes: Slopes
    kinked: bool
    size: float  # the largest sum of the absolute terms of a gradient element


def coordinates_of(values: Sequence[Any], checked: Sequence[int], most: int = _MOST_COORDINATES) -> list[tuple[int, int]]:
    """(operand, flat index) of every element, thinned evenly if there are more than `most`."""
    every = [(i, k) for i in checked for k in range(values[i].numel())]
    return every if len(every) <= most else [every[(j * len(every)) // most] for j in range(most)]


def direction_of(values: Sequence[Any], parts: dict[int, Tensor]) -> list[Tensor | None]:
    return [parts.get(i) for i in range(len(values))]


def unit(value: Tensor, index: int) -> Tensor:
    out = torch.zeros(value.numel(), dtype=value.dtype)
    out[index] = 1.0
    return out.reshape(value.shape)


def reach_of(values: Sequence[Any], direction: Direction, domains: Sequence[Domain]) -> tuple[float, float]:
    """How far one may go forwards and backwards along `direction` without leaving the domains."""
    up = down = math.inf
    for value, d, domain in zip(values, direction, domains):
        if d is None or not isinstance(domain, Interval) or (math.isinf(domain.low) and math.isinf(domain.high)):
            continue
        moving = d != 0
        x, v = value[moving], d[moving]
        if not x.numel():
            continue
        above, below = (domain.high - x) / v.abs(), (x - domain.low) / v.abs()
        up = min(up, float(torch.where(v > 0, above, below).min()))
        down = min(down, float(torch.where(v > 0, below, above).min()))
    return max(up, 0.0), max(down, 0.0)


def unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = []
    for size in reversed(shape):
        found.append(index % size)
        index //= size
    return tuple(reversed(found))


def overlapping(t: Tensor) -> bool:
    return bool(t.numel()) and any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride()))


def share_memory(a: Tensor, b: Tensor) -> bool:
    return bool(a.numel() and b.numel() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr())
