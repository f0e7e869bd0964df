"""Levenberg-Marquardt: Gauss-Newton steps from full batches, for losses that are sums of squares."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hotgrad.checks import finite_number, whole_number
from hotgrad.core.placing import independent
from hotgrad.core.variable import Variable, gradients
from hotgrad.errors import OperandError, TapeError
from hotgrad.ops.composites import cat, stack
from hotgrad.optim.groups import Slot
from hotgrad.optim.minimisers import Minimiser, move

__all__ = ["LevenbergMarquardt"]
_UP, _DOWN = 10.0, 2.0  # of the damping; measured on small networks, where quick growth and slow decrease end lowest


@runtime_checkable
class LeastSquares(Protocol):
    """What a step of LevenbergMarquardt asks for: residuals r of shape (m,), functions of n parameters; the loss is the sum of their squares."""

    def residuals(self) -> Tensor:
        """The residuals at the parameters as they are now."""

    def jacobian(self) -> Tensor:
        """Their Jacobian (m, n), where `residuals` was asked for last. The parameters that require a gradient count, in order."""

    def slope(self) -> Tensor:
        """J'r there."""

    def product(self, v: Tensor) -> Tensor:
        """J'J v there."""


class LevenbergMarquardt(Minimiser):
    """Levenberg-Marquardt (Marquardt 1963), for full batches and losses that know their residuals, such as MSE.

    `step` runs up to `max_iter` iterations. Each solves (J'J + d I) p = -J'r for the residuals r and their Jacobian J, in float64, and adds
    p to the parameters if the sum of squares falls, and then halves the damping d; else it takes ten times the damping and tries
    again, up to `max_tries` times, and leaves them where they were if that does not help. At first d is `damping` times the largest
    diagonal entry of J'J. With more parameters than `max_dense` J is never formed: conjugate gradients solve the equations by products
    with J'J.

    In `fit` it takes all rows by itself. `step(residuals)` alone: a function that gives the residuals, a Variable of any shape, computed
    from the parameters; or an object with the methods of LeastSquares. It returns the sum of squares before the step.

    >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    >>> w = hg.Parameter(torch.tensor([0.5, 0.5], dtype=torch.float64))
    >>> optimizer = hg.optim.LevenbergMarquardt([w])
    >>> for _ in range(20):
    ...     loss = optimizer.step(lambda: w[0] * hg.exp(w[1] * x) - 2 * (3 * x).exp())
    >>> [round(value, 6) for value in w.tolist()]
    [2.0, 3.0]
    """

    needs_residuals = True

    def __init__(self, params: Any = None, damping: float = 1.0, *, max_iter: int = 10, max_tries: int = 20, max_dense: int = 1000) -> None:
        super().__init__(params, 1.0, damping=damping, max_iter=max_iter, max_tries=max_tries, max_dense=max_dense)

    @staticmethod
    def nothing() -> dict[str, Any]:
        """What is remembered at first. Later: the damping, and the positions of the parameters that it is about."""
        return {"damping": 0.0, "active": []}

    def check(self, s: Any) -> None:
        finite_number("damping", s.damping, above=True)
        whole_number("max_iter", s.max_iter)
        whole_number("max_tries", s.max_tries)
        whole_number("max_dense", s.max_dense, 0)

    def __repr__(self) -> str:
        return super().__repr__().replace("lr=1.0, ", "")  # which it has for the optimizers' common ground alone

    def step(self, residuals: Any = None) -> Any:
        """One step. Raises OperandError without residuals, TapeError if no parameter requires a gradient."""
        if residuals is None or not (callable(residuals) or isinstance(residuals, LeastSquares)):
            raise OperandError("LevenbergMarquardt: give step(residuals), a function that computes the residuals from the parameters")
        (group,) = self._bound()
        s, memory, slots = group.settings, self._memory, self._active()
        if not slots:
            raise TapeError("LevenbergMarquardt: no parameter requires a gradient; unfreeze() some")
        parameters = [slot.parameter for slot in slots]
        problem = residuals if isinstance(residuals, LeastSquares) else Recorded(residuals, parameters)
        dense = sum(p.numel() for p in parameters) <= s.max_dense
        r = problem.residuals().double()
        first = float(r @ r)
        for _ in range(s.max_iter):
            system = _Dense(problem, r) if dense else _Products(problem)
            memory["damping"] = memory["damping"] or s.damping * (system.scale or 1.0)
            found = self._descend(problem, system, slots, float(r @ r), s.max_tries)
            if found is None:
                break
            r = found
        for slot in slots:
            slot.steps += 1
        like = parameters[0].data
        return Variable(torch.tensor(first, dtype=like.dtype, device=like.device))

    def _descend(self, problem: LeastSquares, system: _Dense | _Products, slots: list[Slot], loss: float, tries: int) -> Tensor | None:
        """Go to where the sum of squares is less than `loss`; the residuals there, or None with the parameters as they were."""
        memory = self._memory
        before = [slot.parameter.data.clone() for slot in slots]
        for _ in range(tries if bool(system.slope.abs().max() > 0) else 0):
            step = system.solved(memory["damping"])
            if step.isfinite().all():
                move(slots, step.to(before[0]))
                r = problem.residuals().double()
                if float(r @ r) < loss:
                    memory["damping"] /= _DOWN
                    return r
                for slot, data in zip(slots, before):
                    slot.parameter.data.copy_(data)
            memory["damping"] *= _UP
            if memory["damping"] > 1e12 * (system.scale or 1.0):  # steps that change nothing
                break
            if isinstance(system, _Products):
                problem.residuals()  # the products are to be taken here again
        memory["damping"] = 0.0  # what did not help is forgotten
        return None


class _Dense:
    """The equations of one iteration, from the Jacobian."""

    def __init__(self, problem: LeastSquares, r: Tensor) -> None:
        jacobian = problem.jacobian().double()
        self.matrix, self.slope = jacobian.T @ jacobian, jacobian.T @ r
        self.scale = float(self.matrix.diagonal().max())

    def solved(self, damping: float) -> Tensor:
        """The step; not a number where the damping is lost in rounding."""
        damped = self.matrix.clone()
        damped.diagonal().add_(damping)
        factor, failed = torch.linalg.cholesky_ex(damped)
        return torch.full_like(self.slope, math.nan) if failed else -torch.cholesky_solve(self.slope[:, None], factor)[:, 0]


class _Products:
    """The same from products, solved by conjugate gradients (Hestenes and Stiefel 1952) to a hundredth of the right side."""

    def __init__(self, problem: LeastSquares) -> None:
        self.problem, self.slope = problem, problem.slope().double()
        square = float(self.slope @ self.slope)
        self.scale = float(self.slope @ self._product(self.slope)) / square if square else 0.0

    def _product(self, v: Tensor) -> Tensor:
        return self.problem.product(v).double()

    def solved(self, damping: float, iterations: int = 100, tolerance: float = 1e-2) -> Tensor:
        step, rest = torch.zeros_like(self.slope), -self.slope
        direction, square = rest, float(rest @ rest)
        goal = tolerance**2 * square
        for _ in range(min(iterations, len(rest))):
            product = self._product(direction) + damping * direction
            length = square / float(direction @ product)
            step, rest = step + length * direction, rest - length * product
            before, square = square, float(rest @ rest)
            if not square > goal:
                break
            direction = rest + (square / before) * direction
        return step


# ---- from residuals that are recorded


class Recorded:
    """Residuals that a function computes, and what follows from their graph."""

    def __init__(self, function: Callable[[], Any], parameters: list[Variable]) -> None:
        self.function, self.parameters = function, parameters
        self.r: Any = None

    def residuals(self) -> Tensor:
        found = self.function()
        if not isinstance(found, Variable):
            raise OperandError(f"LevenbergMarquardt: the function must return the residuals, a Variable; got {found!r:.60}")
        self.r = found.reshape(-1)
        if not found.requires_grad:
            raise TapeError("LevenbergMarquardt: the residuals depend on no parameter")
        self._dual: Any = None
        return found._data.reshape(-1)

    def jacobian(self) -> Tensor:
        return jacobian_of(self.r, self.parameters)._data

    def slope(self) -> Tensor:
        return flat(gradients(self.r, self.parameters, self.r.detach(), retain_graph=True, allow_unused=True), self.parameters)._data

    def product(self, v: Tensor) -> Tensor:
        return products_of(self.r, self.parameters, Variable(v.to(self.r._data)))[1]._data


def flat(found: Any, parameters: list[Variable]) -> Variable:
    """Gradients as one vector, with zeros where there is none."""
    from_each = [
        Variable(torch.zeros(tuple(p.shape), dtype=p.dtype, device=p.device)) if g is None else g for g, p in zip(found, parameters)
    ]
    return cat([g.reshape(-1) for g in from_each])  # type: ignore[no-any-return]


def jacobian_of(r: Variable, parameters: list[Variable]) -> Variable:
    """The Jacobian (m, n) of recorded residuals (m,), by rows or by columns, whichever are fewer."""
    m, n = r.numel(), sum(p.numel() for p in parameters)
    if m <= 2 * n:
        rows = [gradients(r[i], parameters, retain_graph=True, allow_unused=True) for i in range(m)]
        return stack([flat(row, parameters) for row in rows])  # type: ignore[no-any-return]
    u = independent(Variable(torch.ones(m, dtype=r.dtype, device=r.device)))
    along = flat(gradients(r, parameters, u, create_graph=True, allow_unused=True), parameters)
    columns = [gradients(along[j], u, retain_graph=True, allow_unused=True)[0] for j in range(n)]
    zero = Variable(torch.zeros(m, dtype=r.dtype, device=r.device))
    return stack([zero if column is None else column for column in columns], 1)  # type: ignore[no-any-return]


def products_of(r: Variable, parameters: list[Variable], v: Variable) -> tuple[Variable, Variable]:
    """J v and J'J v of recorded residuals (m,)."""
    u = independent(Variable(torch.ones(r.numel(), dtype=r.dtype, device=r.device)))
    along = flat(gradients(r, parameters, u, create_graph=True, allow_unused=True), parameters)
    (pushed,) = gradients(along, u, v, retain_graph=True)
    return pushed, flat(gradients(r, parameters, pushed, retain_graph=True, allow_unused=True), parameters)  # type: ignore[return-value]
