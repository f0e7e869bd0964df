"""Epochs on a captured program: one program for each batch shape, run by the replay or the native engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.engines import ENGINES
from hotgrad.errors import CaptureError
from hotgrad.program.captured import Captured, captured
from hotgrad.training.metrics import chosen
from hotgrad.training.steps import Epoch, Job, objective, training_step
from hotgrad.variable import wrap

SECONDS = 0.25  # that one call into an engine may last, about, so that Ctrl-C is heard
FIRST = 16  # steps of the first call, which shows how long a step lasts


class _Batches:
    """Steps of one batch shape, in a row."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.orders: list[Tensor] = []
        self.steps = 0
        self.numbers: list[list[float]] = []
        self.draws: list[list[Tensor]] = []


class Compiled:
    """Runs epochs on an engine, "replay" or "native".

    Raises CaptureError if the training step cannot be captured, EngineError if the engine cannot run it.
    """

    def __init__(self, model: Any, job: Job, engine: str) -> None:
        self.model, self.job, self.name = model, job, engine
        self.programs: dict[int, tuple[Captured, Any]] = {}
        self.parts: list[list[_Batches]] = []  # per epoch
        self.rate = 0.0  # steps per second
        for rows in sorted(set(job.sizes()), reverse=True):
            self._program(rows)

    def _program(self, rows: int) -> tuple[Captured, Any]:
        """The program for batches of so many rows, captured anew where something has changed."""
        found = self.programs.get(rows)
        if found is None or found[0].changed():
            model, job = self.model, self.job
            modes = [(module, module.training) for module in model.modules()]
            model.train()
            try:
                step = (_gradients if model.optimizer.needs_closure else training_step)(model, job.data.weights is not None)
                examples = [wrap(source[:rows], None) for source in job.data.sources()]
                program = captured(step, examples, [model, model.loss, model.optimizer])
            finally:
                for module, training in modes:
                    module.training = training
            found = self.programs[rows] = program, ENGINES[self.name](program.code)
        return found

    # ---- epochs

    def epoch(self, order: Tensor) -> None:
        """Note an epoch that is to run over the rows in this order, with the random numbers and rates that its steps will need."""
        sizes = self.job.sizes()
        full = len(sizes) - (sizes[-1] != sizes[0])
        parts = []
        for rows, steps, part in (
            (sizes[0], full, order[: full * sizes[0]]),
            (sizes[-1], len(sizes) - full, order[full * sizes[0] :]),
        ):
            if not steps:
                continue
            program, _ = self._program(rows)
            batches = _Batches(rows)
            batches.orders.append(part)
            batches.steps = steps
            batches.numbers = [sum(row, []) for row in zip(*(hook.take(steps) for hook in program.hooks))] or [[]]
            if program.code.draws:
                for _ in range(steps):
                    drawn = [torch.empty(draw.value.shape, dtype=draw.value.dtype) for draw in program.code.draws]
                    for draw, tensor in zip(program.code.draws, drawn):
                        draw.fill(tensor)
                    batches.draws.append(drawn)
            parts.append(batches)
        self.parts.append(parts)

    def together(self) -> int:
        """How many epochs may run before anything is looked at: as many as a call into the engine takes."""
        return max(1, int(self.rate * SECONDS) // self.job.batches())

    def results(self, stop: Callable[[], bool]) -> list[Epoch] | None:
        """Run the epochs noted; None if `stop` said so between two calls into the engine."""
        epochs, self.parts = self.parts, []
        work = _merged(epochs)
        losses, outputs = [], []
        for batches in work:
            found = self._run(batches, stop)
            if found is None:
                return None
            losses.append(found[0])
            outputs.append(found[1])
        return self._split(epochs, work, losses, outputs)

    def _run(self, batches: _Batches, stop: Callable[[], bool]) -> tuple[Tensor, Tensor] | None:
        """All steps of these batches: their losses, and the outputs, or those of the last step if there are no labels."""
        program, engine = self._program(batches.rows)
        data = self.job.data
        order = batches.orders[0] if len(batches.orders) == 1 else torch.cat(batches.orders)
        order = order.to(data.x.device)
        loss, output = program.code.outputs[:2]
        losses = torch.empty((batches.steps, *loss.shape), dtype=loss.dtype, device=loss.device)
        kept = batches.steps if data.labels is not None else 1
        outputs = torch.empty((kept, *output.shape), dtype=output.dtype, device=output.device)
        numbers = torch.tensor(batches.numbers, dtype=torch.float64)
        draws = [torch.stack(column) for column in zip(*batches.draws)]
        if self.model.optimizer.needs_closure:
            self._minimise(program, engine, order, losses, outputs)
            return losses, outputs
        done = 0
        while done < batches.steps:
            if stop():
                return None
            count = min(batches.steps - done, max(1, int(self.rate * SECONDS)) if self.rate else FIRST)
            began = time.perf_counter()
            engine.many(
                data.sources(),
                order[done * batches.rows : (done + count) * batches.rows],
                count,
                numbers[done : done + count] if len(numbers) > 1 else numbers,
                [draw[done : done + count] for draw in draws],
                [losses[done : done + count], outputs[done : done + count] if kept > 1 else outputs],
            )
            self.rate = count / max(time.perf_counter() - began, 1e-9)
            done += count
        return losses, outputs

    def _minimise(self, program: Captured, engine: Any, order: Tensor, losses: Tensor, outputs: Tensor) -> None:
        """One step of an optimizer that evaluates the objective itself, which the engine computes with its gradients."""
        slots = [slot for slot in self.model.optimizer._slots() if slot.parameter.requires_grad]
        values = [torch.empty((1, *value.shape), dtype=value.dtype, device=value.device) for value in program.code.outputs]
        first = True

        def closure() -> Any:
            nonlocal first
            engine.many(self.job.data.sources(), order, 1, torch.empty((1, 0), dtype=torch.float64), [], values)
            if first:
                losses.copy_(values[0])
                outputs.copy_(values[1])
                first = False
            for slot, value in zip(slots, values[2:]):
                slot.parameter.grad = value[0].clone()
            return wrap(values[0][0].clone(), None)

        self.model.optimizer.step(closure)

    def _split(self, epochs: list[list[_Batches]], work: list[_Batches], losses: list[Tensor], outputs: list[Tensor]) -> list[Epoch]:
        """What ran together, epoch by epoch."""
        data, found = self.job.data, []
        places = {id(batches): [0, values.double().reshape(-1), out] for batches, values, out in zip(work, losses, outputs)}
        joined = {id(part): place for batches, place in zip(work, places.values()) for part in getattr(batches, "parts", [batches])}
        for parts in epochs:
            values, right = [], 0
            for part in parts:
                place: Any = joined[id(part)]
                start, stop = place[0], place[0] + part.steps
                place[0] = stop
                values.append(place[1][start:stop])
                if data.labels is not None:
                    predicted = chosen(place[2][start:stop].flatten(0, 1), self.job.threshold)
                    right += int((predicted == data.labels.index_select(0, part.orders[0].to(data.labels.device))).sum())
            found.append(Epoch(torch.cat(values) if len(values) > 1 else values[0], None if data.labels is None else right))
        return found


def _merged(epochs: Sequence[list[_Batches]]) -> list[_Batches]:
    """Neighbours of the same batch shape made one."""
    work: list[Any] = []
    for part in (part for parts in epochs for part in parts):
        last = work[-1] if work else None
        if last is None or last.rows != part.rows:
            last = _Batches(part.rows)
            last.parts = []  # type: ignore[attr-defined]
            work.append(last)
        steady = len(part.numbers) == 1 and (not last.numbers or last.numbers == part.numbers)
        if not steady:
            last.numbers = last.numbers * last.steps if len(last.numbers) == 1 else last.numbers
            last.numbers = last.numbers + (part.numbers * part.steps if len(part.numbers) == 1 else part.numbers)
        else:
            last.numbers = part.numbers
        last.orders += part.orders
        last.draws += part.draws
        last.steps += part.steps
        last.parts.append(part)
    return work


def _gradients(model: Any, weighted: bool) -> Callable[..., Any]:
    """A function of a batch that gives loss, output, and the gradients of the parameters that have one."""
    compute = objective(model, weighted)

    def step(x: Any, y: Any, weights: Any = None) -> Any:
        value, output = compute(x, y, weights)
        grads = [slot.parameter.grad for slot in model.optimizer._slots() if slot.parameter.requires_grad]
        if any(grad is None for grad in grads):
            raise CaptureError("the loss does not depend on some of the parameters that L-BFGS trains")
        return value, output, *grads

    return step
