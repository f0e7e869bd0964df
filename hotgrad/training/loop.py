"""The loop of `fit`: epochs of shuffled batches, and everything that must hold when one of them fails or is interrupted."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.engines.native.compiler import given_up
from hotgrad.errors import HotgradError, NonFiniteLossError, SettingError
from hotgrad.training.callbacks import Progress, ends
from hotgrad.training.checkpoint import restore_states, states_of
from hotgrad.training.evaluation import accuracy, forward, scalar_loss
from hotgrad.training.history import History
from hotgrad.training.job import Data, Job
from hotgrad.training.model import Model
from hotgrad.training.runner import Runner
from hotgrad.training.side_by_side import part, stopping
from hotgrad.training.state import Snapshot, check_any, keep_up


class Interrupt:
    """Notices Ctrl-C, so that the loop can end between steps; a second Ctrl-C raises as usual.

    Only where Ctrl-C would raise KeyboardInterrupt: a program's own handler, and other threads, are left alone.
    """

    def __init__(self) -> None:
        self._signalled = False
        self._event = stopping.get()
        # of a training whose callback runs this one
        around = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        self._around = around if isinstance(around, Interrupt) and threading.current_thread() is threading.main_thread() else None

    @property
    def requested(self) -> bool:
        """Whether training is to end."""
        around = self._around is not None and self._around.requested
        return self._signalled or around or (self._event is not None and self._event.is_set())

    def _handle(self, number: int, frame: Any) -> None:
        self._signalled = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch inside."""
        ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, self._handle)
        token = given_up.set(lambda: self.requested)
        try:
            yield
        finally:
            given_up.reset(token)
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)


def signal_back() -> Callable[[], None]:
    """What brings Python's handling of Ctrl-C back to what it is now, if an Interrupt was kept from doing so."""
    before = signal.getsignal(signal.SIGINT)

    def back() -> None:
        now = signal.getsignal(signal.SIGINT)
        if (
            threading.current_thread() is threading.main_thread()
            and now is not before
            and isinstance(getattr(now, "__self__", None), Interrupt)
        ):
            signal.signal(signal.SIGINT, before)

    return back


def begin(model: Model, job: Job) -> None:
    """Tell the callbacks that training begins, and bring everything to where the checkpoint stands."""
    optimizer = model.optimizer
    for callback in job.callbacks:
        if hasattr(callback, "begin"):
            callback.begin(model)
            _settle(model, job, optimizer, callback)
    if job.checkpoint is not None:
        job.checkpoint.resume(model, job.history, job.callbacks)


def train(model: Model, job: Job, runner: Runner) -> History:
    """Run the epochs that are left, by the engine that `runner` stands for. Whatever ends them, the model stands as after the last completed epoch, and so does the file."""
    history, checkpoint, callbacks, optimizer = job.history, job.checkpoint, job.callbacks, model.optimizer
    stopped = checkpoint is not None and checkpoint.stopped
    interrupt = Interrupt()
    progress = Progress(job.verbose, job.epochs, len(history))
    moment = _Moment(model, history, callbacks)
    # whether something looks at the model after each epoch
    attended = bool(callbacks) or checkpoint is not None or job.validation is not None or model.optimizer.watches_epochs()
    careful = False
    try:
        with interrupt.watching():
            while len(history) < job.epochs and not stopped and not interrupt.requested:
                count = 1 if attended or careful else min(job.epochs - len(history), runner.epochs_at_once())
                try:
                    rows = _epochs(model, job, runner, interrupt, count, moment.snapshot.parameters)
                except HotgradError:  # a loss that is not finite, a label out of range
                    if count == 1:
                        raise
                    moment.restore()  # and go again one by one, up to the epoch where it happens
                    careful = True
                    continue
                if rows is None:
                    moment.restore()
                    break
                for row in rows:
                    history.append(row)
                    for callback in callbacks:
                        stopped |= ends(callback, callback(model, history))
                        _settle(model, job, optimizer, callback)
                    progress.epoch(row, stopped or len(history) == job.epochs)
                moment = _Moment(model, history, callbacks)
                if checkpoint is not None:
                    checkpoint.stopped = stopped
                    checkpoint.epoch_done(moment.snapshot, history, moment.states)
    except BaseException:
        with contextlib.suppress(HotgradError):  # where a callback changed the layers and then failed, its error is what matters
            moment.restore()
        if checkpoint is not None:
            checkpoint.write(moment.snapshot, history, moment.states)
        raise
    finally:
        progress.close()
        if not runner.leaves_gradients:
            model.zero_grad()  # so that none is taken for that of the last step
    if checkpoint is not None:
        checkpoint.write(moment.snapshot, history, moment.states)
    for callback in callbacks:
        if hasattr(callback, "end") and history:
            callback.end(model, history)
    if interrupt.requested and part.get():
        raise KeyboardInterrupt(f"the training ended after {len(history)} of {job.epochs} epochs")
    return history


def _settle(model: Model, job: Job, optimizer: Any, callback: Any) -> None:
    """After a callback: there is a loss, the optimizer is the same, and has new parameters if there are any. Raises otherwise."""
    if model.optimizer is not optimizer:
        model.optimizer = optimizer
        raise SettingError(
            f"the callback {callback!r:.80} set another optimizer, as reset() does too; a fit trains with one. Set its lr and settings, "
            "or end this fit by returning True and call fit again"
        )
    model._given_loss(None)
    if keep_up(model, job.data.x[:2]):
        job.keep_apart(model)


class _Moment:
    """The end of an epoch, to which a failing one returns: the model's state, the callbacks', and how long the History was."""

    def __init__(self, model: Model, history: History, callbacks: Sequence[Any]) -> None:
        self.model, self.history, self.callbacks = model, history, callbacks
        self.snapshot = Snapshot(model)
        self.epochs = len(history)
        self.states = states_of(callbacks)

    def restore(self) -> None:
        del self.history[self.epochs :]
        restore_states(self.callbacks, self.states)
        self.snapshot.restore(self.model)


def _epochs(
    model: Model, job: Job, runner: Runner, interrupt: Interrupt, count: int, parameters: list[Any]
) -> list[dict[str, float]] | None:
    """So many epochs and their rows of the History; None if they were interrupted. Raises NonFiniteLossError."""
    began = time.perf_counter()
    rows, optimizer = len(job.data.x), model.optimizer
    check_any(parameters)  # which a callback may have frozen
    model.train()
    if job.callbacks:  # which may have trained other models that share modules with this one
        model.use_generator(model.generator)
    rates = []

    def stop() -> bool:
        return interrupt.requested

    try:
        for number in range(count):
            model._setup.noted = number
            rates.append(float(optimizer.lr))
            runner.epoch(torch.randperm(rows, generator=model.generator) if job.shuffle else torch.arange(rows), stop)
            if number < count - 1:
                optimizer.epoch_end()
    finally:
        model._setup.noted = 0
    found = runner.results(stop)
    if found is None:
        return None
    table: list[dict[str, float]] = []
    for epoch, lr in zip(found, rates):
        loss = float(epoch.losses.dot(job.shares)) if len(epoch.losses) == len(job.shares) else math.nan
        if not math.isfinite(loss):
            bad = (~epoch.losses.isfinite()).nonzero()
            where = int(bad[0]) if len(bad) else len(job.shares) - 1
            raise _not_finite(model, job, where, f"the loss became {float(epoch.losses[where])} in")
        row: dict[str, float] = {"epoch": model.epochs_done + len(table) + 1, "loss": loss}
        if epoch.right is not None:
            row["accuracy"] = epoch.right / rows
        table.append({**row, "lr": lr})
    if not all(norm.isfinite() for norm in torch._foreach_norm([p.data for p in parameters if p.numel()], float("inf"))):
        raise _not_finite(model, job, len(job.shares) - 1, "a parameter became NaN or infinite after")  # the next loss would be
    model.epochs_done += count
    last = table[-1]
    if job.validation is not None:
        last |= {
            f"val_{name}": value for name, value in evaluated(model, model.loss, job.validation, job.threshold, run=runner.predict).items()
        }
    optimizer.epoch_end(last.get("val_loss", last["loss"]))
    seconds = (time.perf_counter() - began) / count
    return [{**{name: value for name, value in row.items() if name != "lr"}, "lr": row["lr"], "seconds": seconds} for row in table]


def evaluated(
    model: Model, loss: Callable[..., Any], data: Data, threshold: float, batch_size: int | None = None, run: Any = None
) -> dict[str, float]:
    """Loss, and accuracy where the targets are labels, in eval mode; the loss is taken once, over all rows."""
    output = forward(model, data.x, batch_size, run)
    found = {"loss": scalar_loss(loss, output, data.y, data.weights)}
    if data.labels is not None:
        found["accuracy"] = accuracy(output, data.labels, threshold)
    return found


def _not_finite(model: Model, job: Job, batch: int, what: str) -> NonFiniteLossError:
    epoch = model.epochs_done + 1
    ignored = getattr(model.loss, "ignore_index", None)
    empty = ignored is not None and isinstance(job.data.y, Tensor) and bool((job.data.y == ignored).any())
    return NonFiniteLossError(
        f"{what} epoch {epoch}, batch {batch}; the model is back at the start of that epoch. "
        + (f"A batch whose targets are all {ignored}, the loss's ignore_index, has no mean: leave such rows out. " if empty else "")
        + f"Try a smaller learning rate (now {float(model.optimizer.lr):g}), clip_norm=1.0 in the optimizer, or data scaled to mean 0 and deviation 1",
        epoch,
        batch,
        job.history,
    )
