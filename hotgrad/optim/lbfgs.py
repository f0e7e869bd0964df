"""L-BFGS: quasi-Newton steps from full batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import finite_number, whole_number
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, SettingError, TapeError
from hotgrad.optim.groups import clip_factor
from hotgrad.optim.minimisers import Minimiser, move
from hotgrad.optim.schedules import Schedule

__all__ = ["LBFGS"]


class LBFGS(Minimiser):
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithms 7.4 and 7.5), for full batches.

    `step(closure)` runs up to `max_iter` iterations and never evaluates the closure more than `max_eval` times, line searches
    included (default 1.25 max_iter, at least 2; a line search needs 2).
    It stops where no gradient exceeds `tolerance_grad`, or where parameters or loss change by less than `tolerance_change`.
    `history_size` pairs of steps and gradients model the curvature. `line_search_fn="strong_wolfe"` searches along each
    direction (algorithms 3.5 and 3.6); None goes `lr` times the direction. One group of parameters; `clip_norm` only without
    a line search.

    >>> w = hg.Parameter([3.0, -2.0])
    >>> optimizer = hg.optim.LBFGS([w], line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = ((w - 1) ** 2).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure)
    Variable(13., op=Sum)
    >>> bool((w.data - 1).abs().max() < 1e-5)
    True
    """

    @staticmethod
    def nothing() -> dict[str, Any]:
        """What is remembered at first. Later: pairs of a step and the change of the gradient over it, the last direction, the length
        gone along it and the gradient before, the iterations done, and the positions of the parameters that all this is about.
        """
        return {"steps": [], "changes": [], "direction": None, "length": 0.0, "gradient": None, "iterations": 0, "active": []}

    def __init__(
        self,
        params: Any = None,
        lr: float | Schedule = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        clip_norm: float | None = None,
    ) -> None:
        if clip_norm is not None and line_search_fn is not None:
            raise SettingError("clip_norm would mislead the line search; use one of the two")
        super().__init__(
            params,
            lr,
            clip_norm=clip_norm,
            max_iter=max_iter,
            max_eval=max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )

    def check(self, s: Any) -> None:
        whole_number("max_iter", s.max_iter)
        whole_number("history_size", s.history_size)
        if s.max_eval is not None:
            whole_number("max_eval", s.max_eval, 2 if s.line_search_fn else 1)
        finite_number("tolerance_grad", s.tolerance_grad)
        finite_number("tolerance_change", s.tolerance_change)
        if s.line_search_fn not in (None, "strong_wolfe"):
            raise SettingError(f"line_search_fn must be 'strong_wolfe' or None; got {s.line_search_fn!r}")

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Minimise. `closure()` clears gradients, computes the loss, calls backward and returns the loss, that of the first call
        being returned here. Raises OperandError without a closure.
        """
        if closure is None:
            raise OperandError(
                "LBFGS evaluates the loss several times: give step(closure), which clears gradients, calls backward and returns the loss"
            )
        (group,) = self._bound()
        run = _Run(self, group.step_settings(), closure)
        first = run.minimise()
        for schedule in self._schedules():
            schedule.step_end()
        return first


class _Run:
    """One call of `step`: the parameters as one flat vector, and the closure as a function of it."""

    def __init__(self, optimizer: LBFGS, settings: Any, closure: Callable[[], Any]) -> None:
        self.s, self.closure, self.clip_norm, self.memory = settings, closure, optimizer.clip_norm, optimizer._memory
        self.slots = optimizer._active()
        self.evaluations = 0
        self.pairs: _Pairs | None = None
        self.limit = settings.max_eval or max(settings.max_iter * 5 // 4, 2)

    @property
    def left(self) -> int:
        """How many more evaluations are allowed."""
        return int(self.limit) - self.evaluations

    def evaluate(self) -> tuple[Any, float, Tensor]:
        """What the closure gives, as it is and as a number, and the gradient there."""
        value = self.closure()
        if not isinstance(value, (Variable, Tensor)) or value.numel() != 1:
            raise OperandError(f"the closure must return the loss, one element; got {value!r:.60}")
        self.evaluations += 1
        pieces = []
        for slot in self.slots:
            g = slot.parameter.grad
            pieces.append((torch.zeros_like(slot.parameter.data) if g is None else g.data if isinstance(g, Variable) else g).reshape(-1))
        gradient = torch.cat(pieces)
        if self.clip_norm is not None:
            gradient = gradient * clip_factor([gradient.norm()], self.clip_norm)
        return value, float(value), gradient

    def move(self, by: Tensor) -> None:
        """Add a flat vector to the parameters, in place."""
        move(self.slots, by)

    def minimise(self) -> Any:
        if not self.slots:
            raise TapeError("LBFGS: no parameter requires a gradient; unfreeze() some")
        s, memory = self.s, self.memory
        first, loss, gradient = self.evaluate()
        if not _largest(gradient) > s.tolerance_grad:
            return first
        for iteration in range(1, s.max_iter + 1):
            if memory["iterations"]:
                self.learn(gradient)
                direction = self.newton(gradient)
                length = float(s.lr)
            else:
                direction = -gradient
                length = float(min(1.0, 1.0 / float(gradient.abs().sum())) * s.lr)
            memory["iterations"] += 1
            memory["gradient"], memory["direction"], before = gradient, direction, loss
            slope = float(gradient.dot(direction))
            memory["length"] = 0.0
            if slope > -s.tolerance_change:
                break
            if s.line_search_fn:
                length, loss, gradient = _strong_wolfe(self, direction, length, loss, gradient, slope)
            else:
                self.move(length * direction)
                if iteration < s.max_iter and self.left:
                    _, loss, gradient = self.evaluate()
            memory["length"] = length
            done = not self.left or not _largest(gradient) > s.tolerance_grad
            if done or _largest(direction) * length <= s.tolerance_change or abs(loss - before) < s.tolerance_change:
                break
        for slot in self.slots:
            slot.steps += 1
        return first

    def learn(self, gradient: Tensor) -> None:
        """Remember the last step and the change of the gradient over it, where the curvature is positive."""
        memory = self.memory
        change, step = gradient - memory["gradient"], memory["direction"] * memory["length"]
        product = float(change.dot(step))
        if product > 1e-10:
            self._pairs(step).add(step, change, product)
            for remembered, new in ((memory["changes"], change), (memory["steps"], step)):
                remembered.append(new)
                del remembered[: -self.s.history_size]

    def newton(self, gradient: Tensor) -> Tensor:
        """Minus the inverse Hessian, as far as remembered, times the gradient."""
        return self._pairs(gradient).direction(gradient)

    def _pairs(self, like: Tensor) -> _Pairs:
        if self.pairs is None:
            self.pairs = _Pairs(self.memory["steps"], self.memory["changes"], self.s.history_size, self.s.max_iter, like)
        return self.pairs


class _Pairs:
    """Steps s and changes of the gradient y, the last `most` of them, as the rows of two matrices with room for `more`; and the products s.y.

    The two loops of algorithm 7.4 are two triangular systems: with R the upper triangle of all s.y, the first loop's weights a solve
    R a = S g, and what the second adds are the c that solve R' c = D a - k Y q, where D is R's diagonal, q = g - Y' a, and k scales q.
    """

    def __init__(self, steps: list[Tensor], changes: list[Tensor], most: int, more: int, like: Tensor) -> None:
        count = len(steps)
        self.most, self.count = most, count
        rows = count + more
        self.steps, self.changes = (torch.empty((rows, like.numel()), dtype=like.dtype, device=like.device) for _ in range(2))
        self.products = torch.zeros((rows, rows), dtype=torch.float64, device=like.device)
        self.now: Any = None
        if count:
            torch.stack(steps, out=self.steps[:count])
            torch.stack(changes, out=self.changes[:count])
            self.products[:count, :count] = (self.steps[:count] @ self.changes[:count].T).triu()
            self._look(float(changes[-1].dot(steps[-1])))

    def add(self, step: Tensor, change: Tensor, product: float) -> None:
        i = self.count
        self.steps[i], self.changes[i] = step, change
        self.count = i + 1
        self.products[: i + 1, i] = self.steps[: i + 1] @ change
        self._look(product)

    def _look(self, product: float) -> None:
        """What counts from here on, `product` being that of the last pair."""
        kept = slice(max(0, self.count - self.most), self.count)
        products, last = self.products[kept, kept], self.changes[self.count - 1]
        self.now = self.steps[kept], self.changes[kept], products, products.T, products.diagonal(), product / last.dot(last).item()

    def direction(self, g: Tensor) -> Tensor:
        if self.now is None:
            return -g
        steps, changes, products, turned, diagonal, scale = self.now
        a = torch.linalg.solve_triangular(products, torch.mv(steps, g).double()[:, None], upper=True)[:, 0]
        q = torch.addmv(g, changes.T, a.to(g.dtype), alpha=-1)
        right = torch.addcmul(torch.mv(changes, q).double() * -scale, diagonal, a)
        c = torch.linalg.solve_triangular(turned, right[:, None], upper=False)[:, 0]
        return torch.addmv(q, steps.T, c.to(g.dtype), beta=-scale, alpha=-1)


def _largest(vector: Tensor) -> float:
    return torch.linalg.vector_norm(vector, math.inf).item() if vector.numel() else 0.0


class _Point:
    """A point along the search direction: how far, the loss there, the gradient, and the slope."""

    def __init__(self, t: float, loss: float, gradient: Tensor, slope: float) -> None:
        self.t, self.loss, self.gradient, self.slope = t, loss, gradient, slope


def _strong_wolfe(
    run: _Run, direction: Tensor, t: float, loss: float, gradient: Tensor, slope: float, c1: float = 1e-4, c2: float = 0.9
) -> tuple[float, float, Tensor]:
    """A step length where the loss has fallen enough (c1) and the slope has flattened (c2); the parameters end there.

    Nocedal and Wright 2006, algorithm 3.5 to bracket one, then 3.6 to close in on it. At most 25 evaluations, and no
    more than the step has left, of which there must be one; the best point so far is taken then.
    """
    start = _Point(0.0, loss, gradient, slope)
    here = 0.0

    def at(t: float) -> _Point:
        nonlocal here
        run.move((t - here) * direction)
        here = t
        _, loss, gradient = run.evaluate()
        return _Point(t, loss if math.isfinite(loss) else math.inf, gradient, float(gradient.dot(direction)))

    def fallen(point: _Point) -> bool:
        return point.loss <= start.loss + c1 * point.t * start.slope

    def flat(point: _Point) -> bool:
        return abs(point.slope) <= -c2 * start.slope

    left = min(25, run.left) - 1
    before, point = start, at(t)
    low, high = None, None
    while left:
        if not fallen(point) or (before is not start and point.loss >= before.loss):
            low, high = before, point
            break
        if flat(point):
            low = point
            break
        if point.slope >= 0:
            low, high = point, before
            break
        ahead = _cubic(before, point, point.t + 0.01 * (point.t - before.t), 10 * point.t)
        before, point, left = point, at(ahead), left - 1
    if low is None:
        low = min(before, point, key=lambda p: p.loss)
    while high is not None and left and abs(high.t - low.t) * _largest(direction) > run.s.tolerance_change:
        # a tenth of the interval is kept from both ends, so that it shrinks
        near, far = sorted((low.t, high.t))
        margin = 0.1 * (far - near)
        point = at(_cubic(low, high, near + margin, far - margin))
        left -= 1
        if not fallen(point) or point.loss >= low.loss:
            high = point
        elif flat(point):
            low = point
            break
        else:
            if point.slope * (high.t - low.t) >= 0:
                high = low
            low = point
    if here != low.t:
        run.move((low.t - here) * direction)
    return low.t, low.loss, low.gradient


def _cubic(a: _Point, b: _Point, least: float, most: float) -> float:
    """Where the cubic through two points and their slopes is least (equation 3.59), kept between two bounds; the middle of these
    if there is no such place.
    """
    if math.isfinite(a.loss) and math.isfinite(b.loss) and a.t != b.t:
        d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
        inside = d1 * d1 - a.slope * b.slope
        if inside >= 0:
            d2 = math.copysign(math.sqrt(inside), b.t - a.t)
            below = b.slope - a.slope + 2 * d2
            if below:
                return min(max(b.t - (b.t - a.t) * (b.slope + d2 - d1) / below, least), most)
    return (least + most) / 2
