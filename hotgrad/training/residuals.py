"""Training by least squares on captured programs: residuals, and their Jacobian row by row or products with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.scalars import numbers_of
from hotgrad.core.variable import Variable, gradients
from hotgrad.errors import CaptureError
from hotgrad.modules import MSE, BatchNorm1d, BatchNorm2d
from hotgrad.ops.composites import stack
from hotgrad.optim.levenberg import flat, products_of
from hotgrad.training.captured import Minimised
from hotgrad.training.evaluation import chosen
from hotgrad.training.job import Job
from hotgrad.training.model import Model
from hotgrad.training.runner import Epoch, minimise, residuals_of
from hotgrad.training.side_by_side import modules_of
from hotgrad.training.state import is_plain

JACOBIAN, PRODUCT = -1, -2  # keys of programs; that of the residuals is the number of rows


class Fitted(Minimised):
    """As Minimised, for optimizers that ask for residuals.

    Where each row of the output follows from that row alone, a program of one row gives its part of the Jacobian, and runs over all of
    them in one call; elsewhere a program gives the products with a vector that the optimizer chooses.
    """

    def __init__(self, model: Model, job: Job) -> None:
        self._direction = Variable(torch.zeros(0))
        super().__init__(model, job)
        if any(program.code.draws for program in self.programs.values()):
            raise CaptureError(f"{type(model.optimizer).__name__} needs the same residuals each time, and this model draws random numbers")

    def _trained(self) -> list[Variable]:
        return [p for p in self.model.optimizer.parameters if p.requires_grad]

    def _keys(self) -> list[int]:
        model, optimizer = self.model, self.model.optimizer
        self._count = sum(p.numel() for p in self._trained())
        by_rows = (
            type(model.loss) is MSE and is_plain(model) and not any(isinstance(m, (BatchNorm1d, BatchNorm2d)) for m in modules_of(model))
        )
        dense = self._count <= optimizer.groups[0].settings.max_dense
        if self._count and len(self._direction) != self._count:
            like = self._trained()[0]
            self._direction = Variable(torch.zeros(self._count, dtype=like.dtype, device=like.device))
        return [len(self.job.data.x), JACOBIAN if by_rows and dense else PRODUCT]

    def _rows_of(self, key: int) -> int:
        return 1 if key == JACOBIAN else len(self.job.data.x)

    def _step(self, model: Model, weighted: bool, key: int) -> Callable[..., Any]:
        compute = residuals_of(model, weighted)
        parameters, direction = self._trained(), self._direction

        def residuals(*batch: Any) -> Any:
            r, output = compute(*batch)
            return r, output, flat(gradients(r, parameters, r.detach(), allow_unused=True), parameters)

        def jacobian(*batch: Any) -> Any:
            r, _ = compute(*batch)
            rows = [gradients(r[i], parameters, retain_graph=True, allow_unused=True) for i in range(r.numel())]
            return stack([flat(row, parameters) for row in rows])

        def product(*batch: Any) -> Any:
            r, _ = compute(*batch)
            return products_of(r, parameters, direction)

        return {JACOBIAN: jacobian, PRODUCT: product}.get(key, residuals)

    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        """One step over the rows in this order."""
        keys = self._keys()
        self._keep_up(keys)
        data, optimizer = self.job.data, self.model.optimizer
        problem = _Problem(self, order.to(data.x.device), keys[1], stop)
        if problem.step(optimizer) is None:
            return None
        r, output = problem.first
        right = (
            None if data.labels is None else int((chosen(output, self.job.threshold) == data.labels.index_select(0, problem.order)).sum())
        )
        return Epoch(r.double().square().sum().reshape(1), right)


class _Problem:
    """What the optimizer asks for in one epoch; see `optim.levenberg.LeastSquares`."""

    def __init__(self, runner: Fitted, order: Tensor, kind: int, stop: Callable[[], bool]) -> None:
        self.runner, self.order, self.kind, self.stop = runner, order, kind, stop
        self.first: Any = None
        self.residuals: Callable[[], Tensor]  # at the parameters as they are now
        self._slope: Any = None

    def step(self, optimizer: Any) -> Any:
        """One step of the optimizer; None if it was stopped between two evaluations."""

        def run(closure: Callable[[], Any]) -> Any:
            self.residuals = closure
            return optimizer.step(self)

        return minimise(run, self._evaluate, self.stop)

    def _run(self, key: int, order: Tensor) -> list[Tensor]:
        program, engine = self.runner.programs[key], self.runner.engines[key]
        program.constants.refresh()
        if self.runner.loaded[key] != program.constants.changes:
            engine.reload()
            self.runner.loaded[key] = program.constants.changes
        (numbers,) = numbers_of(program.hooks, 1)
        return engine.run_once(self.runner.job.data.sources(), order=order, scalars=numbers)

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        r, output, self._slope = self._run(len(self.order), self.order)
        self.first = self.first or (r, output)
        return r, output

    def jacobian(self) -> Tensor:
        runner, rows = self.runner, len(self.order)
        if self.kind == PRODUCT:
            return torch.stack([self._push(v)[0] for v in torch.eye(runner._count, dtype=runner._direction.dtype)], 1)
        program = runner.programs[JACOBIAN]
        (value,) = program.code.outputs
        found = torch.empty((rows, *value.shape), dtype=value.dtype, device=value.device)
        numbers = torch.tensor([numbers_of(program.hooks, 1)[0]], dtype=torch.float64)
        runner.engines[JACOBIAN].run(runner.job.data.sources(), self.order.reshape(rows, 1), rows, numbers, [], [found])
        scale = rows**-0.5 if runner.model.loss.reduction == "mean" else 1.0  # of the mean over one row
        return found.reshape(-1, value.shape[1]) * scale

    def slope(self) -> Tensor:
        return self._slope  # type: ignore[no-any-return]

    def product(self, v: Tensor) -> Tensor:
        return self._push(v)[1]

    def _push(self, v: Tensor) -> list[Tensor]:
        self.runner._direction.data.copy_(v)
        return self._run(PRODUCT, self.order)
