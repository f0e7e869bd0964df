"""Derivatives by differences, each with a bound on its error and the kinks it met.

Along a direction, slopes are taken on both sides at three steps and extrapolated (Richardson, "The deferred approach to the
limit", 1927). Where the two sides agree, the central value stands; where they do not, there is a kink, and what is known of
the derivative is the interval between the one-sided slopes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SCALES = tuple(2.0**-k for k in (6, 9, 12, 16, 20, 26)) + (0.5,)  # the last for values so large that rounding drowns small steps
SHARP = 1e-9  # the relative error at which no further scale is tried
RESOLVED = 1e-4  # the relative error up to which a slope says something
Direction = Sequence[Tensor | None]


class Slopes(NamedTuple):
    """What is known of derivatives, one row per direction and one column per output: they lie from `low` to `high`, each end
    known to `error`, which is infinite where nothing is known. Without a kink the ends are equal.
    """

    low: Tensor
    high: Tensor
    error: Tensor

    @property
    def resolved(self) -> Tensor:
        """Where the slope of a single output along a single direction is known."""
        return self.error.isfinite() & (self.error <= RESOLVED * (1e-3 + torch.maximum(self.low.abs(), self.high.abs())))

    @property
    def kinked(self) -> Tensor:
        return self.low != self.high

    def weighted(self, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Lower end, upper end, tolerance and whether resolved, per direction, of the sum of all outputs weighted by `g`."""
        used = g != 0
        low, high, error = self.low[:, used], self.high[:, used], self.error[:, used]
        ends = torch.stack((g[used] * low, g[used] * high))
        size = torch.maximum(low.abs(), high.abs())
        error = torch.where(self.resolved[:, used], error, error + size)
        tolerance = (3 * error + 1e-9 * size) @ g[used].abs()
        resolved = tolerance.isfinite() & (tolerance <= RESOLVED * (1e-3 + size @ g[used].abs()))
        return ends.amin(0).sum(1), ends.amax(0).sum(1), tolerance, resolved


def slopes(
    f: Callable[[list[Any]], Tensor],
    values: Sequence[Any],
    directions: Sequence[Direction],
    reach: Sequence[tuple[float, float]],
    scales: Sequence[float] = SCALES,
    terms: float = 0.0,
) -> Slopes:
    """The slopes at `values` of `f`, which gives one flat tensor, along each of `directions` (one entry per value, None for no
    step). `reach` says how far one may go forwards and backwards along each. `terms`: how large the terms are that `f` adds up.
    """
    y = f(list(values)).detach()
    eps = torch.finfo(y.dtype).eps
    y = y.double()
    size = max((float(v.abs().nan_to_num(0, 0, 0).max()) for v in values if _stepped(v)), default=0.0)
    at = (f, values, y, eps, (size, terms))
    best = _best(at, directions, reach, scales, [1.0] * len(directions))
    # where steps of that size say nothing, in proportion to what is moved
    units = [_unit(values, direction) for direction in directions]
    blind = ~best.resolved.all(1)
    again = [i for i, unit in enumerate(units) if blind[i] and (unit > 16 or 0 < unit < 1e-3) and max(reach[i]) > 0]
    if not again or not y.numel():
        return best
    rows = _best(at, [directions[i] for i in again], [reach[i] for i in again], scales, [units[i] for i in again])
    old = Slopes(*(part[again] for part in best))
    sharp = rows.error <= (RESOLVED * torch.maximum(rows.low.abs(), rows.high.abs())).clamp_min(1e-11)
    better = ~old.resolved & sharp
    for row, i in enumerate(again):
        if units[i] > 1:
            better[row] &= _smooth(at, directions[i], reach[i], units[i], rows.low[row], rows.high[row])
    for part, new in zip(best, rows):
        part[again] = torch.where(better, new, part[again])
    return best


def _best(
    at: Any, directions: Sequence[Direction], reach: Sequence[tuple[float, float]], scales: Sequence[float], units: list[float]
) -> Slopes:
    """The sharpest slopes among those with steps of `scales`, times the direction's entry in `units`."""
    f, values, y, eps, sizes = at
    blank = torch.full((len(directions), y.numel()), torch.inf, dtype=torch.float64)
    best = Slopes(-blank, blank.clone(), blank.clone())
    unsettled = [i for i, ends in enumerate(reach) if max(ends) > 0]
    for scale in scales:
        if scale == SCALES[-1]:
            unsettled = [i for i, ends in enumerate(reach) if max(ends) > 0 and (i in unsettled or not best.resolved[i].all())]
        if not unsettled or not y.numel():
            continue
        steps = [scale * units[i] for i in unsettled]
        rows = _at_scale(f, values, [directions[i] for i in unsettled], [reach[i] for i in unsettled], steps, y, eps, sizes)
        old = Slopes(*(part[unsettled] for part in best))
        better = torch.where(old.kinked & ~rows.kinked & old.resolved, rows.error * 16 < old.high - old.low, rows.error < old.error) & ~(
            rows.kinked & ~old.kinked & old.resolved
        )
        for part, new in zip(best, rows):
            part[unsettled] = torch.where(better, new, part[unsettled])
        done = (best.error <= SHARP * best.low.abs() + 1e-2 * SHARP * y.abs()) & ~best.kinked
        unsettled = [i for i in unsettled if not bool(done[i].all())]
    return best


def _smooth(at: Any, direction: Direction, reach: tuple[float, float], unit: float, low: Tensor, high: Tensor) -> Tensor:
    """Whether slopes found with long steps also tell what short ones do: those of what varies within a long step mean nothing."""
    f, values, y, eps, _ = at
    fits = torch.ones_like(y, dtype=torch.bool)
    for t in (unit * 2.0**-k for k in (20, 28, 36, 40, 44, 48)):
        side = 1.0 if t < reach[0] else -1.0
        step = (f(_moved(values, direction, side * t)).double() - y) * side
        slack = 16 * eps * y.abs() + 1e-3 * t * torch.maximum(low.abs(), high.abs())
        fits &= (step >= t * low - slack) & (step <= t * high + slack)
    return fits


def _unit(values: Sequence[Any], direction: Direction) -> float:
    """The smallest magnitude among the elements that `direction` moves; 0 where it moves none."""
    moved = [v[d != 0].abs() for v, d in zip(values, direction) if d is not None]
    return min((float(v.min()) for v in moved if v.numel()), default=0.0)


def _stepped(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point and value.numel() > 0


def _moved(values: Sequence[Any], direction: Direction, t: float) -> list[Any]:
    return [v if d is None else v + t * d for v, d in zip(values, direction)]


def _coarseness(values: Sequence[Any], direction: Direction) -> float:
    """The largest magnitude, relative to how fast it moves, among the elements that `direction` moves."""
    rates = [(v[d != 0] / d[d != 0]).abs() for v, d in zip(values, direction) if d is not None]
    return max((float(rate.max()) for rate in rates if rate.numel()), default=0.0)


def _at_scale(
    f: Any, values: Any, directions: Any, reach: Any, wanted: Sequence[float], y: Tensor, eps: float, sizes: tuple[float, float]
) -> Slopes:  # fmt: skip
    """The slopes with steps of `wanted` and a half and a quarter of it, shortened to stay within reach."""
    steps, sides = [], []
    nowhere = torch.full_like(y, torch.nan)
    for direction, (up, down), longest in zip(directions, reach, wanted):
        step = min(longest, 0.5 * min(up, down) if min(up, down) > 0 else 0.5 * max(up, down))
        steps.append(step)
        if 0.25 * step < 64 * eps * _coarseness(values, direction):  # the operands would hardly move
            up = down = 0.0
        for sign, room in ((1.0, up), (-1.0, down)):
            for part in (1.0, 0.5, 0.25):
                sides.append(f(_moved(values, direction, sign * part * step)).double() if room > 0 else nowhere)
    h = torch.tensor(steps, dtype=torch.float64).reshape(-1, 1, 1, 1)
    parts = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64).reshape(1, 1, 3, 1)
    found = torch.stack(sides).reshape(len(steps), 2, 3, -1)
    one = (found - y) / (h * parts) * torch.tensor([1.0, -1.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    # one-sided: errors of order h, then h^2, are extrapolated away
    first, second = 2 * one[:, :, 1] - one[:, :, 0], 2 * one[:, :, 2] - one[:, :, 1]
    side = (4 * second - first) / 3
    height = torch.maximum(found.abs().nan_to_num(0, 0, 0).amax((1, 2)), y.abs()).clamp_min(sizes[1])
    noise = 64 * eps * (height + one.abs().nan_to_num(0, 0, 0).amax((1, 2)) * sizes[0]) / h[:, :, 0, 0]
    # constant along this direction, or so nearly that rounding hides it
    noise = torch.where((found == y).all(2).all(1), (64 * eps * height).clamp_max(1e-11), noise)
    side_error = (side - second).abs() + 4 * noise.unsqueeze(1)
    # central: errors of order h^2
    middle = one.mean(1)
    rough, fine = (4 * middle[:, 1] - middle[:, 0]) / 3, (4 * middle[:, 2] - middle[:, 1]) / 3
    error = (fine - rough).abs() + noise
    forward, backward = side[:, 0], side[:, 1]
    gap = (forward - backward).abs()
    both = side_error.sum(1)
    kinked = (gap > 4 * both + 1e-7 * (forward.abs() + backward.abs())) & both.isfinite()
    low = torch.where(kinked, torch.minimum(forward, backward), fine)
    high = torch.where(kinked, torch.maximum(forward, backward), fine)
    error = torch.where(kinked, both, error)
    for row, (up, down) in enumerate(reach):
        if min(up, down) <= 0:
            only = 0 if up > 0 else 1
            low[row] = high[row] = side[row, only]
            error[row] = side_error[row, only]
    broken = ~(low.isfinite() & high.isfinite() & error.isfinite())
    low[broken], high[broken], error[broken] = -torch.inf, torch.inf, torch.inf
    return Slopes(low, high, error)


def persists(f: Any, values: Any, direction: Any, reach: Any, g: Tensor, claimed: float, terms: float, slack: float) -> bool:
    """Whether the three scales that see most sharply all exclude `claimed` as the slope of the sum weighted by `g`."""
    verdicts = []
    for k in (3, 5, 7, 9, 12, 15, 18, 22):
        low, high, tolerance, resolved = slopes(f, values, [direction], [reach], (2.0**-k / 3,), terms).weighted(g)
        if bool(resolved):
            inside = float(low - tolerance) - slack <= claimed <= float(high + tolerance) + slack
            verdicts.append((float(tolerance + (high - low)), not inside))
    verdicts.sort()
    return bool(verdicts) and all(outside for _, outside in verdicts[:3])
