"""The loop of `fit`: epochs of shuffled batches, and everything that must hold when one of them fails or is interrupted."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotgrad.errors import NonFiniteLossError
from hotgrad.training.callbacks import Progress
from hotgrad.training.checkpoint import Checkpoint, restore_states, states_of
from hotgrad.training.evaluation import accuracy, forward, row_loss, scalar_loss
from hotgrad.training.history import History
from hotgrad.training.metrics import chosen
from hotgrad.training.state import Snapshot
from hotgrad.variable import wrap

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


Step = Callable[[Tensor, Tensor, "Tensor | None"], "tuple[Tensor, Tensor]"]


def eager_step(model: Any, weighted: bool) -> Step:
    """A function that trains on one batch and returns its loss and the model's output as tensors."""
    optimizer = model.optimizer
    loss = row_loss(model.loss, weighted)
    zero_grad, update = optimizer.zero_grad, optimizer.step

    def step(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        zero_grad()
        output = model(wrap(x, None))
        value = loss(output, y, weights)
        value.backward()
        update()
        return value._data, output._data

    def step_by_closure(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        first: list[tuple[Tensor, Tensor]] = []

        def closure() -> Any:
            zero_grad()
            output = model(wrap(x, None))
            value = loss(output, y, weights)
            value.backward()
            first.append((value._data, output._data))
            return value

        update(closure)
        return first[0]

    return step_by_closure if optimizer.needs_closure else step


class Interrupt:
    """Notices Ctrl-C, so that the loop can end between steps; a second Ctrl-C raises as usual.

    Only where Ctrl-C would raise KeyboardInterrupt: a program's own handler, and other threads, are left alone.
    """

    requested = False

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside."""
        ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)


def train(model: Any, job: Job) -> History:
    """Run the epochs that are left. Whatever ends them, the model stands as after the last completed epoch, and so does the file."""
    history, checkpoint, callbacks = job.history, job.checkpoint, job.callbacks
    for callback in callbacks:
        if hasattr(callback, "begin"):
            callback.begin(model)
    stopped = False
    if checkpoint is not None:
        checkpoint.resume(model, history, callbacks)
        stopped = checkpoint.stopped
    step = eager_step(model, job.data.weights is not None)
    interrupt = Interrupt()
    progress = Progress(job.verbose, job.epochs, len(history))
    moment = _Moment(model, history, callbacks)
    modes = [(module, module.training) for module in model.modules()]
    try:
        with interrupt.watching():
            while len(history) < job.epochs and not stopped and not interrupt.requested:
                row = _epoch(model, job, step, interrupt)
                if row is None:
                    moment.restore()
                    break
                history.append(row)
                answers = [bool(callback(model, history)) for callback in callbacks]
                stopped = any(answers)
                progress.epoch(row, stopped or len(history) == job.epochs)
                moment = _Moment(model, history, callbacks)
                if checkpoint is not None:
                    checkpoint.stopped = stopped
                    checkpoint.epoch_done(moment.snapshot, history, moment.states)
    except BaseException:
        moment.restore()
        if checkpoint is not None:
            checkpoint.write(moment.snapshot, history, moment.states)
        raise
    finally:
        progress.close()
        for module, training in modes:
            module.training = training
    if checkpoint is not None:
        checkpoint.write(moment.snapshot, history, moment.states)
    for callback in callbacks:
        if hasattr(callback, "end") and history:
            callback.end(model, history)
    return history


class _Moment:
    """The end of an epoch, to which a failing one returns: the model's state, the callbacks', and how long the History was."""

    def __init__(self, model: Any, history: History, callbacks: Sequence[Any]) -> None:
        self.model, self.history, self.callbacks = model, history, callbacks
        self.snapshot = Snapshot(model)
        self.epochs = len(history)
        self.states = states_of(callbacks)

    def restore(self) -> None:
        self.snapshot.restore(self.model)
        del self.history[self.epochs :]
        restore_states(self.callbacks, self.states)


def _epoch(model: Any, job: Job, step: Step, interrupt: Interrupt) -> dict[str, float] | None:
    """One epoch and its row of the History; None if it was interrupted. Raises NonFiniteLossError."""
    began = time.perf_counter()
    data, rows = job.data, len(job.data.x)
    lr = float(model.optimizer.lr)
    order = torch.randperm(rows, generator=model.generator) if job.shuffle else torch.arange(rows)
    model.train()
    total, right, batch = 0.0, 0, 0
    for part in torch.split(order.to(data.x.device), job.batch_size * _batches_per_block(job)):
        losses, outputs, sizes = [], [], []
        for x, y, weights in _batches(data, part, job.batch_size):
            if interrupt.requested:
                return None
            value, output = step(x, y, weights)
            losses.append(value)
            sizes.append(len(x))
            if data.labels is not None:
                outputs.append(output)
        values = torch.stack(losses).double().reshape(len(losses))
        finite = values.isfinite()
        if not finite.all():
            where = batch + int((~finite).nonzero()[0])
            raise _not_finite(model, job, where, f"the loss became {float(values[where - batch])} in")
        total += float(values.dot(torch.tensor(sizes, dtype=torch.float64, device=values.device)))
        if data.labels is not None:
            right += int((chosen(torch.cat(outputs), job.threshold) == data.labels.index_select(0, part)).sum())
        batch += len(losses)
    if not all(norm.isfinite() for norm in torch._foreach_norm([p.data for p in model.parameters()], float("inf"))):
        raise _not_finite(model, job, batch - 1, "a parameter became NaN or infinite after")  # the next loss would be
    model.epochs_done += 1
    row: dict[str, float] = {"epoch": model.epochs_done, "loss": total / rows}
    if data.labels is not None:
        row["accuracy"] = right / rows
    if job.validation is not None:
        row |= {f"val_{name}": value for name, value in measured(model, model.loss, job.validation, job.threshold).items()}
    model.optimizer.epoch_end(row.get("val_loss", row["loss"]))
    row["lr"] = lr
    row["seconds"] = time.perf_counter() - began
    return row


def _batches_per_block(job: Job) -> int:
    x = job.data.x
    return max(1, min(BLOCK_BATCHES, BLOCK_ELEMENTS // (job.batch_size * max(1, x[0].numel()))))


def _batches(data: Data, rows: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    xs = torch.split(data.x.index_select(0, rows), size)
    ys = torch.split(data.y.index_select(0, rows), size)
    if data.weights is None:
        return ((x, y, None) for x, y in zip(xs, ys))
    return zip(xs, ys, torch.split(data.weights.index_select(0, rows), size))


def measured(model: Any, loss: Callable[..., Any], data: Data, threshold: float, batch_size: int | None = None) -> dict[str, float]:
    """Loss, and accuracy where the targets are labels, in eval mode; the loss is taken once, over all rows."""
    output = forward(model, data.x, batch_size)
    found = {"loss": scalar_loss(loss, output, data.y, data.weights)}
    if data.labels is not None:
        found["accuracy"] = accuracy(output, data.labels, threshold)
    return found


def _not_finite(model: Any, job: Job, batch: int, what: str) -> NonFiniteLossError:
    epoch = model.epochs_done + 1
    return NonFiniteLossError(
        f"{what} epoch {epoch}, batch {batch}; the model is back at the start of that epoch. "
        f"Try a smaller learning rate (now {float(model.optimizer.lr):g}), clip_norm=1.0 in the optimizer, or data scaled to mean 0 and deviation 1",
        epoch,
        batch,
        job.history,
    )
