"""Training and prediction on captured programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.scalars import numbers_of
from hotgrad.core.variable import wrap
from hotgrad.engines.engine import LIMIT, Engine
from hotgrad.engines.registry import ENGINES, EXACT
from hotgrad.errors import EngineError
from hotgrad.program.captured import Captured, captured
from hotgrad.program.guards import Watch
from hotgrad.training.agreement import check_agreement
from hotgrad.training.evaluation import chosen, keeping_modes
from hotgrad.training.job import Job
from hotgrad.training.model import Model
from hotgrad.training.runner import AtOnce, Epoch, Runner, minimise, objective, training_step
from hotgrad.training.state import is_plain

SECONDS = 0.25  # that one call into an engine may last, about, so that Ctrl-C is heard
ELEMENTS = 2**24  # that the orders and random arrays of epochs noted together may have
STEPS = 2**12  # noted before Ctrl-C is heard again
TOGETHER = 2**16  # steps whose arrays are put together before that
FIRST = 16  # steps of the first call, which shows how long a step lasts


@dataclass
class _Part:
    """Some steps in a row, of one batch shape, in one epoch: the rows in order, and for each step the numbers and random arrays that it needs.

    `numbers` has a single row if they are the same for each step.
    """

    rows: int
    steps: int
    order: Tensor
    numbers: list[list[float]]
    draws: list[list[Tensor]]


class Compiled(Runner):
    """Runs epochs on an engine once `start` has been called.

    Raises CaptureError if the training step cannot be captured.
    """

    leaves_gradients = False

    def __init__(self, model: Model, job: Job) -> None:
        super().__init__(model, job)
        self.name = self.details = ""
        self.programs: dict[int, Captured] = {}
        self.losses: dict[int, Any] = {}  # that they compute
        self.engines: dict[int, Engine] = {}
        self.parts: list[list[_Part]] = []  # per epoch
        self.stopped = False  # while noting them
        self.rate = 0.0  # steps per second, in the engine
        self.pace = 0.0  # epochs per second, all in all
        self.began = 0.0
        self.loaded: dict[int, int] = {}  # which contents of its constants an engine has
        self.predict = Predictor(model)
        self._keep_up(self._keys())

    def _keys(self) -> list[int]:
        """By what programs are told apart: the number of rows of a batch."""
        return [*dict.fromkeys(self.job.sizes)]

    def _rows_of(self, key: int) -> int:
        return key

    def start(self, engine: str, fuse: bool | None = None, limit: float = LIMIT, made: Sequence[Engine] | None = None) -> None:
        """Make the programs ready to run on this engine. Raises EngineError if it cannot, or takes more than `limit` seconds.

        Native code is fused, which makes it faster and smaller. Without `fuse` an exact engine gives what eager gives, bit for bit, and
        is a twentieth slower. `made`: the engines, where they are at hand.
        """
        self.name, self.fuse, self.limit = engine, not ENGINES[engine].exact if fuse is None else fuse, limit
        self._prepare(list(self.programs), made)
        self.details = next(iter(self.engines.values())).details

    def _prepare(self, batches: Sequence[int], made: Sequence[Engine] | None = None) -> None:
        """Make the programs for batches of these sizes ready. Raises EngineError."""
        made = made or ENGINES[self.name].prepare([self.programs[rows].code for rows in batches], self.fuse, self.limit)
        for rows, engine in zip(batches, made):
            if not engine.exact:
                check_agreement(self.programs[rows], engine, [source[: self._rows_of(rows)] for source in self.job.data.sources()])
            self.engines[rows], self.loaded[rows] = engine, self.programs[rows].constants.changes

    def _keep_up(self, batches: Iterable[int]) -> None:
        """Bring the programs for batches of these sizes to what the step is now, and their engines: with other numbers in them, or
        captured anew.
        """
        model = self.model
        anew: list[int] = []
        # asked of all first: tracing one may fill what has changed for the others, such as a cache
        moved = any(program.watch.open or program.changed() for program in self.programs.values())
        for rows in batches:
            known = self.programs.get(rows)
            followed: bool | None = None
            if known is not None and self.losses[rows] is model.loss:
                followed = keeping_modes(model, partial(self._follow, known)) if moved else True
            if known is None or followed is None:
                known = self.programs[rows] = keeping_modes(model, partial(self._capture, rows))
                self.losses[rows] = model.loss
            known.begin()
            known.constants.refresh()
            if not followed:
                anew.append(rows)
            elif self.name and self.loaded[rows] != known.constants.changes:
                self.engines[rows].reload()
                self.loaded[rows] = known.constants.changes
        if not self.name or not anew:
            return
        try:
            self._prepare(anew)
        except EngineError as error:  # an exact engine goes on
            for rows in anew:
                self.engines[rows] = EXACT(self.programs[rows].code, fuse=False)
                self.loaded[rows] = self.programs[rows].constants.changes
            self.job.history.engine_note = f"{EXACT.name} after a change of what the training step depends on: {error}"

    def _follow(self, known: Captured) -> bool | None:
        self.model.train()
        return known.follow()

    def _capture(self, rows: int) -> Captured:
        model, job = self.model, self.job
        model.train()

        def step(*batch: Any) -> Any:  # made anew, as eager makes it: a loss may have changed
            return self._step(model, job.data.weights is not None, rows)(*batch)

        x, *others = (source[: self._rows_of(rows)] for source in job.data.sources())
        return captured(step, [wrap(x, None), *others], [model, model.loss, model.optimizer])

    def _step(self, model: Model, weighted: bool, key: int) -> Callable[..., Any]:
        """What is captured for this key: a function of a batch that returns its loss, the output, and what else is wanted of each run."""
        return training_step(model, weighted)

    # ---- epochs

    def epoch(self, order: Tensor, stop: Callable[[], bool]) -> None:
        """Note an epoch that is to run over the rows in this order, with the random numbers and rates that its steps will need."""
        if not self.parts:
            self.began = time.perf_counter()
            self._keep_up(self.programs)
        sizes = self.job.sizes
        full = len(sizes) - (sizes[-1] != sizes[0])
        parts: list[_Part] = []
        for first in range(0, full, STEPS):
            if stop():
                self.stopped = True
                return
            last = min(first + STEPS, full)
            parts.append(self._part(sizes[0], last - first, order[first * sizes[0] : last * sizes[0]]))
        if full < len(sizes):
            parts.append(self._part(sizes[-1], 1, order[full * sizes[0] :]))
        self.parts.append(parts)

    def _part(self, rows: int, steps: int, order: Tensor) -> _Part:
        program = self.programs[rows]
        numbers = numbers_of(program.hooks, steps)
        draws = []
        for _ in range(steps if program.code.draws else 0):
            draws.append(program.code.drawn())
        return _Part(rows, steps, order, numbers, draws)

    def epochs_at_once(self) -> int:
        """How many epochs may run before anything is looked at: as many as a call into the engine takes, or one where something that
        the step depends on cannot be watched.
        """
        if any(program.watch.open for program in self.programs.values()):
            return 1
        drawn = sum(draw.value.numel() for program in self.programs.values() for draw in program.code.draws)
        return max(1, min(int(self.pace * SECONDS), ELEMENTS // (len(self.job.data.x) + drawn * len(self.job.sizes))))

    def results(self, stop: Callable[[], bool]) -> list[Epoch] | None:
        """Run the epochs noted; None if `stop` said so while they were noted, or between two calls into the engine."""
        epochs, self.parts = self.parts, []
        stopped, self.stopped = self.stopped, False
        if stopped:
            return None
        found = self._found(epochs, stop)
        # the host's part, the random numbers above all, counts as well
        self.pace = min(len(epochs) / max(time.perf_counter() - self.began, 1e-9), 4 * len(epochs) / SECONDS)
        return found

    def _found(self, epochs: list[list[_Part]], stop: Callable[[], bool]) -> list[Epoch] | None:
        losses: dict[int, Tensor] = {}
        right: dict[int, int] = {}
        for parts in _runs(chain(*epochs)):
            found = self._run(parts[0].rows, parts, stop)
            if found is None:
                return None
            for part, values, count in zip(parts, *found):
                losses[id(part)], right[id(part)] = values, count
        labelled = self.job.data.labels is not None
        return [
            Epoch(torch.cat([losses[id(part)] for part in parts]), sum(right[id(part)] for part in parts) if labelled else None)
            for parts in epochs
        ]

    def _run(self, rows: int, parts: list[_Part], stop: Callable[[], bool]) -> tuple[Sequence[Tensor], Sequence[int]] | None:
        """All steps of these parts: for each the losses, and how many labels were right."""
        program, engine = self.programs[rows], self.engines[rows]
        data = self.job.data
        steps = sum(part.steps for part in parts)
        order = torch.cat([part.order for part in parts]).to(data.x.device)
        loss, output = program.code.empty_outputs()[:2]
        losses = loss.new_empty((steps, *loss.shape[1:]))
        outputs = output if data.labels is None else output.new_empty((steps, *output.shape[1:]))
        same = all(part.numbers == parts[0].numbers and len(part.numbers) == 1 for part in parts)
        table = parts[0].numbers if same else [r for p in parts for r in (p.numbers * p.steps if len(p.numbers) == 1 else p.numbers)]
        numbers = torch.tensor(table, dtype=torch.float64)
        draws = [torch.stack(column) for column in zip(*chain(*(part.draws for part in parts)))]
        if not self._steps(engine, order.view(steps, rows), numbers, draws, losses, outputs, stop):
            return None
        counts = [part.steps for part in parts]
        values = torch.split(losses.reshape(-1).double(), counts)
        if data.labels is None:
            return values, [0] * len(parts)
        right = chosen(outputs.flatten(0, 1), self.job.threshold) == data.labels.index_select(0, order)
        return values, [int(part.sum()) for part in torch.split(right, [rows * count for count in counts])]

    def _steps(
        self, engine: Engine, order: Tensor, numbers: Tensor, draws: list[Tensor], losses: Tensor, outputs: Tensor, stop: Callable[[], bool]
    ) -> bool:
        """Run a step for each row of `order`, a part of a second of them at a time; False if `stop` said so in between."""
        steps, done = len(order), 0

        def some(array: Tensor) -> Tensor:  # what has a single row serves all steps
            return array if len(array) == 1 else array[done : done + count]

        while done < steps:
            if stop():
                return False
            count = min(steps - done, max(1, int(self.rate * SECONDS)) if self.rate else FIRST)
            began = time.perf_counter()
            kept = [losses[done : done + count], some(outputs)]
            engine.run(self.job.data.sources(), order[done : done + count].flatten(), count, some(numbers), [*map(some, draws)], kept)
            self.rate = count / max(time.perf_counter() - began, 1e-9)
            done += count
        return True


def _runs(parts: Iterable[_Part]) -> Iterator[list[_Part]]:
    """Neighbours of one batch shape together, up to so many steps."""
    run: list[_Part] = []
    steps = 0
    for part in parts:
        if run and (part.rows != run[0].rows or steps + part.steps > TOGETHER):
            yield run
            run, steps = [], 0
        run.append(part)
        steps += part.steps
    if run:
        yield run


class Minimised(AtOnce, Compiled):
    """As Compiled, for optimizers whose step is a minimisation. The program computes the objective and its gradients; the optimizer
    decides from step to step where, so nothing is noted ahead: an epoch runs when it comes, at the rate of that moment.
    """

    def __init__(self, model: Model, job: Job) -> None:
        self.reached: list[Any] = []  # the parameters whose gradients the program gives
        super().__init__(model, job)

    def _step(self, model: Model, weighted: bool, key: int) -> Callable[..., Any]:
        compute = objective(model, weighted)

        def gradients(x: Any, y: Any, weights: Any = None) -> Any:
            value, output = compute(x, y, weights)
            self.reached = [p for p in model.optimizer.parameters if p.requires_grad and p.grad is not None]
            return value, output, *(p.grad for p in self.reached)

        return gradients

    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        """One step over the rows in this order."""
        rows = len(order)
        self._keep_up([rows])
        program = self.programs[rows]
        (numbers,) = numbers_of(program.hooks, 1)
        data, optimizer = self.job.data, self.model.optimizer
        order = order.to(data.x.device)
        rows_in_order = [source.index_select(0, order) for source in data.sources()]
        memory = program.code.empty_outputs()
        first: Any = None

        def evaluate() -> tuple[Any, Any]:
            nonlocal first
            loss, output, *gradients = self.engines[rows].run_once(rows_in_order, memory, scalars=numbers)
            first = first or (loss.clone(), output.clone())
            optimizer.zero_grad()
            for parameter, gradient in zip(self.reached, gradients):
                parameter._accumulator.grad = gradient  # the program's own memory, until the epoch is over
            return wrap(loss, None), None

        if minimise(optimizer.step, evaluate, stop) is None:
            return None
        optimizer.zero_grad()
        loss, output = first
        right = None if data.labels is None else int((chosen(output, self.job.threshold) == data.labels.index_select(0, order)).sum())
        return Epoch(loss.double().reshape(1), right)


CALLS = 3  # of a shape, after which a program is worth its capture
SHAPES = 16  # remembered


class Predictor:
    """What runs a model in eval mode on batches: eagerly at first, then by replay, to the same bits.

    Only models of hotgrad's own layers are captured: trial runs of a user's code could be noticed. Whatever goes wrong with a
    program, the model itself is run, which shows what is wrong, or works.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._found: dict[Any, Any] = {}  # by shape and dtype: the calls so far, or program and engine, or None if there can be none

    def __call__(self, x: Tensor) -> Any:
        """The model's output, a Variable or a tensor; the model must be in eval mode."""
        key = (x.shape, x.dtype, x.device)
        found = self._found.get(key, 0)
        if isinstance(found, int) and found < CALLS:
            if len(self._found) >= SHAPES and key not in self._found:
                del self._found[next(iter(self._found))]
            self._found[key] = found + 1
        elif found is not None:
            try:
                if isinstance(found, int) or found[0].changed():
                    found = self._captured(x)
                self._found[key] = found
                if found is not None:
                    found[0].constants.refresh()
                    return found[1].run_once([x])[0]
            except Exception:  # of a user's object that is looked at, or of hotgrad's
                self._found[key] = None
        return self.model(wrap(x, None))

    def _captured(self, x: Tensor) -> Any:
        if not is_plain(self.model) or not Watch([self.model]).trusted:
            return None
        program = captured(self.model, [wrap(x, None)], [self.model])
        if program.structure != 0 or program.code.draws or program.hooks or any(state.update is not None for state in program.code.states):
            return None
        return program, EXACT(program.code, fuse=False)
