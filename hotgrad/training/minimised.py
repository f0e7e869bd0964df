"""Epochs of an optimizer that evaluates the objective itself, such as L-BFGS, on a captured program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hotgrad.core.variable import wrap
from hotgrad.training.compiled import Compiled
from hotgrad.training.metrics import chosen
from hotgrad.training.steps import AtOnce, Epoch, Job, minimise, objective


class Minimised(AtOnce, Compiled):
    """As Compiled, for optimizers whose step is a minimisation. The program computes the objective and its gradients; the optimizer
    decides from step to step where, so nothing is noted ahead: an epoch runs when it comes, at the rate of that moment.
    """

    def __init__(self, model: Any, job: Job) -> None:
        self.reached: list[Any] = []  # the parameters whose gradients the program gives
        super().__init__(model, job)

    def _step(self, model: Any, weighted: bool) -> Callable[..., Any]:
        compute = objective(model, weighted)

        def gradients(x: Any, y: Any, weights: Any = None) -> Any:
            value, output = compute(x, y, weights)
            self.reached = [p for p in model.optimizer.parameters if p.requires_grad and p.grad is not None]
            return value, output, *(p.grad for p in self.reached)

        return gradients

    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        """One step over the rows in this order."""
        rows = len(order)
        program = self._program(rows)
        data, optimizer = self.job.data, self.model.optimizer
        order = order.to(data.x.device)
        memory = program.code.empty_outputs()

        def evaluate() -> tuple[Any, Any]:
            loss, output, *gradients = self.engines[rows].run_once(data.sources(), memory, order=order)
            optimizer.zero_grad()
            for parameter, gradient in zip(self.reached, gradients):
                parameter.grad = gradient.clone()
            return wrap(loss.clone(), None), output.clone()

        first = minimise(optimizer, evaluate, stop)
        if first is None:
            return None
        loss, output = first
        right = None if data.labels is None else int((chosen(output, self.job.threshold) == data.labels.index_select(0, order)).sum())
        return Epoch(loss.data.double().reshape(1), right)
