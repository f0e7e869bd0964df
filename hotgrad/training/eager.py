"""One training step, and how the eager engine runs an epoch of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import span
from hotgrad.core.variable import Variable, wrap
from hotgrad.training.checkpoint import Checkpoint
from hotgrad.training.evaluation import chosen, row_loss
from hotgrad.training.history import History

# Batches are gathered by the block: few large gathers cost less than many small ones.
BLOCK_BATCHES = 64
BLOCK_ELEMENTS = 2**20


@dataclass
class Data:
    """Rows that fit together: inputs, targets, their labels where the targets are such, and weights of mean 1 or None."""

    x: Tensor
    y: Tensor
    labels: Tensor | None = None
    weights: Tensor | None = None

    def sources(self) -> list[Tensor]:
        """What a step takes a batch of."""
        return [self.x, self.y] if self.weights is None else [self.x, self.y, self.weights]

    def keep_apart(self, model: Any) -> None:
        """Copy what lies where Parameters and buffers of `model` do, so that the rows do not change as these do."""
        written = [span(value._data if isinstance(value, Variable) else value) for value in model._state().values()]
        for name, tensor in vars(self).items():
            if tensor is not None:
                device, start, end = span(tensor)
                if any(start < last and first < end and device == other for other, first, last in written):
                    setattr(self, name, tensor.clone())


@dataclass
class Job:
    """What `fit` was asked to do, checked."""

    data: Data
    epochs: int
    batch_size: int
    validation: Data | None = None
    shuffle: bool = True
    threshold: float = 0.0
    verbose: int | bool | str = "auto"
    callbacks: Sequence[Callable[..., Any]] = ()
    checkpoint: Checkpoint | None = None
    history: History = field(default_factory=History)

    def keep_apart(self, model: Any) -> None:
        """Data that share memory with `model` are copied."""
        self.data.keep_apart(model)
        if self.validation is not None:
            self.validation.keep_apart(model)

    @cached_property
    def sizes(self) -> list[int]:
        """The rows of each batch of an epoch."""
        rows = len(self.data.x)
        return [min(self.batch_size, rows - start) for start in range(0, rows, self.batch_size)]

    @cached_property
    def shares(self) -> Tensor:
        """What each batch's loss counts in that of the epoch."""
        return torch.tensor(self.sizes, dtype=torch.float64, device=self.data.x.device) / len(self.data.x)


@dataclass
class Epoch:
    """What an epoch gave: the loss of each batch, and how many labels were right if the targets are labels."""

    losses: Tensor
    right: int | None = None


def objective(model: Any, weighted: bool) -> Callable[..., tuple[Any, Any]]:
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


def training_step(model: Any, weighted: bool) -> Callable[..., tuple[Any, Any]]:
    """A function that trains on one batch and returns its loss and the model's output before the update."""
    compute = objective(model, weighted)
    update = model.optimizer.step

    def step(x: Any, y: Any, weights: Any = None) -> tuple[Any, Any]:
        result = compute(x, y, weights)
        update()
        return result

    return step


class _Stopped(Exception):
    """Leaves a step that evaluates the objective many times, where training is to end."""


def minimise(optimizer: Any, evaluate: Callable[[], tuple[Any, Any]], stop: Callable[[], bool]) -> tuple[Any, Any] | None:
    """One step of an optimizer that evaluates the objective itself: loss and output of the first evaluation.

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
        optimizer.step(closure)
    except _Stopped:
        return None
    return first


class AtOnce(ABC):
    """Runs each epoch when it comes, at the rates of that moment. A subclass defines `_epoch`."""

    _done: tuple[Epoch, ...] = ()
    _stopped = False

    @abstractmethod
    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        """What an epoch over the rows in this order gives; None if `stop` said so in between."""

    def epoch(self, order: Tensor, stop: Callable[[], bool]) -> None:
        """Run an epoch over the rows in this order."""
        found = None if self._stopped else self._epoch(order, stop)
        self._stopped = found is None
        self._done = (*self._done, found) if found is not None else ()

    def together(self) -> int:
        """How many epochs may run before anything is looked at."""
        return 1

    def results(self, stop: Callable[[], bool]) -> list[Epoch] | None:
        """What the epochs gave; None if `stop` said so within one."""
        found = None if self._stopped else list(self._done)
        self._done, self._stopped = (), False
        return found


class Eager(AtOnce):
    """Runs epochs step by step."""

    name = "eager"
    details = "eager"
    predict: Callable[[Tensor], Any] | None = None  # what computes outputs for validation in place of the model

    def __init__(self, model: Any, job: Job) -> None:
        self.model, self.job = model, job

    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        job, data, optimizer = self.job, self.job.data, self.model.optimizer
        made = objective if optimizer.needs_closure else training_step
        step = made(self.model, data.weights is not None)  # anew, as callbacks may set another loss
        losses: list[Tensor] = []
        right = 0
        for part in torch.split(order.to(data.x.device), job.batch_size * self._batches_per_block()):
            outputs = []
            for x, y, *weights in self._batches(part):
                if stop():
                    return None
                batch = (wrap(x, None), y, *weights)
                result = minimise(optimizer, partial(step, *batch), stop) if optimizer.needs_closure else step(*batch)
                if result is None:
                    return None
                value, output = result
                losses.append(value._data)
                if data.labels is not None:
                    outputs.append(output._data)
            if data.labels is not None:
                right += int((chosen(torch.cat(outputs), job.threshold) == data.labels.index_select(0, part)).sum())
            if not losses[-1].isfinite():
                break  # the rest of the epoch is lost
        return Epoch(torch.stack(losses).double().reshape(len(losses)), None if data.labels is None else right)

    def _batches_per_block(self) -> int:
        x = self.job.data.x
        return max(1, min(BLOCK_BATCHES, BLOCK_ELEMENTS // (self.job.batch_size * max(1, x[0].numel()))))

    def _batches(self, rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(torch.split(source.index_select(0, rows), self.job.batch_size) for source in self.job.data.sources()))
