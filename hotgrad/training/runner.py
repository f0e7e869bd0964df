"""What runs the epochs of a training: the contract of runners, and the step that all of them run. A new one subclasses Runner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hotgrad.core.in_place import forward_pass
from hotgrad.errors import SettingError
from hotgrad.training.evaluation import row_loss
from hotgrad.training.job import Job
from hotgrad.training.model import Model


@dataclass
class Epoch:
    """What an epoch gave: the loss of each batch, and how many labels were right if the targets are labels."""

    losses: Tensor
    right: int | None = None


class Runner(ABC):
    """Runs the epochs of a training.

    - `name`: "eager", or that of the engine; `details`: the same in full, which a checkpoint keeps.
    - `leaves_gradients`: whether those of the last step stand in the parameters, as callbacks may want.
    - `predict`: what computes outputs for validation in place of the model, None for the model itself.
    """

    name: str
    details: str
    leaves_gradients: bool
    predict: Callable[[Tensor], Any] | None

    def __init__(self, model: Model, job: Job) -> None:
        self.model, self.job = model, job

    @abstractmethod
    def epochs_at_once(self) -> int:
        """How many epochs may run before anything is looked at."""

    @abstractmethod
    def epoch(self, order: Tensor, stop: Callable[[], bool]) -> None:
        """Run an epoch over the rows in this order, at the optimizer's rates as they are now; or note it, to run in `results`."""

    @abstractmethod
    def results(self, stop: Callable[[], bool]) -> list[Epoch] | None:
        """What the epochs since the last call gave; None if `stop` said so within one. Then parameters may stand in between."""


class AtOnce(Runner):
    """Runs each epoch when it comes, at the rates of that moment. A subclass defines `_epoch`."""

    _done: tuple[Epoch, ...] = ()
    _stopped = False

    @abstractmethod
    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        """What an epoch over the rows in this order gives; None if `stop` said so in between."""

    def epoch(self, order: Tensor, stop: Callable[[], bool]) -> None:
        found = None if self._stopped else self._epoch(order, stop)
        self._stopped = found is None
        self._done = (*self._done, found) if found is not None else ()

    def epochs_at_once(self) -> int:
        return 1

    def results(self, stop: Callable[[], bool]) -> list[Epoch] | None:
        found = None if self._stopped else list(self._done)
        self._done, self._stopped = (), False
        return found


def objective(model: Model, weighted: bool) -> Callable[..., tuple[Any, Any]]:
    """A function that computes loss and output of one batch, of Variables, and the gradients of the parameters."""
    loss = row_loss(model.loss, weighted)
    zero_grad = model.optimizer.zero_grad

    def compute(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        zero_grad()
        output = model(x)
        value = loss(output, y, weights)
        value.backward()
        return value, output

    return compute


def training_step(model: Model, weighted: bool) -> Callable[..., tuple[Any, Any]]:
    """A function that trains on one batch and returns its loss and the model's output before the update."""
    compute = objective(model, weighted)
    update = model.optimizer.step

    def step(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        result = compute(x, y, weights)
        update()
        return result

    return step


def residuals_of(model: Model, weighted: bool) -> Callable[..., tuple[Any, Any]]:
    """A function that computes the residuals, whose squares' sum is the loss, and the output of one batch, of Variables."""
    optimizer, residuals = model.optimizer, getattr(model.loss, "residuals", None)
    if residuals is None:
        raise SettingError(
            f"{type(optimizer).__name__} needs a loss that knows its residuals, by a method residuals(output, target), as hg.MSE does; "
            f"got {model.loss!r:.60}"
        )

    @forward_pass
    def compute(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        output = model(x)
        found = residuals(output, y) if weights is None else residuals(output, y, weights)
        return found.reshape(-1), output

    return compute


class _Stopped(Exception):
    """Leaves a step that evaluates the objective many times, where training is to end."""


def minimise(
    step: Callable[[Callable[[], Any]], Any], evaluate: Callable[[], tuple[Any, Any]], stop: Callable[[], bool]
) -> tuple[Any, Any] | None:
    """One step of an optimizer that evaluates the objective itself, or residuals: what `evaluate` gave first, the loss or residuals and the
    output.

    None if `stop` said so between two evaluations; the model then stands somewhere in between.
    """
    first: tuple[Any, Any] | None = None

    def closure() -> Any:
        nonlocal first
        if stop():
            raise _Stopped
        result = evaluate()
        first = first or result
        return result[0]

    try:
        step(closure)
    except _Stopped:
        return None
    return first
