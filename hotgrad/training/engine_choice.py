"""Which engine trains: the one that was asked for, or for "auto" the one that takes least time, judged from static facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hotgrad.checks import one_of
from hotgrad.core.explain import warn
from hotgrad.engines.costs import Cost, Rates
from hotgrad.engines.engine import Engine
from hotgrad.engines.registry import ENGINES
from hotgrad.errors import CaptureError, EngineError, EngineWarning, SettingError
from hotgrad.program.instructions import Code
from hotgrad.training.captured import Compiled, Minimised
from hotgrad.training.eager import Eager
from hotgrad.training.job import Job
from hotgrad.training.model import Model
from hotgrad.training.residuals import Fitted
from hotgrad.training.runner import Runner

FEW = 150  # steps for which a capture does not pay
PATIENCE = 15.0  # seconds that "auto" gives an engine to make programs ready, as by a C compiler
NAMES = ("auto", "eager", *ENGINES)
EAGER = Rates(8.0, 0.025, 0.35)
COMPARING = 300.0, 11.0  # microseconds of a trace that is compared with the program: in all, and per instruction


def check_engine(engine: Any) -> str:
    """`engine` if there is one of that name. Raises SettingError."""
    return one_of("engine", engine, NAMES)


def runner_for(model: Model, job: Job, engine: str) -> Runner:
    """What runs the epochs, ready to start; `job.history` says which engine it is.

    Raises CaptureError or EngineError if the engine asked for cannot run this model; "auto" takes another and warns once per model.
    """
    wanting = [callback for callback in job.callbacks if getattr(callback, "needs_gradients", False)]
    if engine in ENGINES:
        if wanting:
            raise SettingError(f"the callback {wanting[0]!r:.80} needs the parameters' gradients, which only engine='eager' leaves")
        captured = _captured(model, job)
        captured.start(engine)
        runner: Runner = captured
    else:
        best = None
        notes: list[str] = []
        failed = False
        if engine == "auto" and not wanting and job.epochs * len(job.sizes) >= FEW:
            best, notes, failed = _best(model, job)
        runner = best or Eager(model, job)
        job.history.engine_note = "; ".join(notes)
        if failed and not model._setup.warned:
            model._setup.warned = True
            warn(f"training runs on the {runner.name} engine ({job.history.engine_note})", EngineWarning)
    job.history.engine = runner.name
    if job.checkpoint is not None:
        job.checkpoint.runs_on(runner.details)
    return runner


def estimates(code: Code, cpu: bool) -> dict[str, Cost]:
    """By engine what a training step of this program costs, without those that will not do."""
    costs = {name: engine.cost(code, cpu) for name, engine in ENGINES.items()}
    return {"eager": EAGER.cost(code), **{name: cost for name, cost in costs.items() if cost is not None}}


def _captured(model: Model, job: Job) -> Compiled:
    try:
        optimizer = model.optimizer
        return (Fitted if optimizer.needs_residuals else Minimised if optimizer.needs_closure else Compiled)(model, job)
    except CaptureError:
        raise
    except Exception as error:  # of the user's code, on Variables without values
        raise CaptureError(f"the training step cannot be captured: {type(error).__name__}: {error}") from error


def _best(model: Model, job: Job) -> tuple[Compiled | None, list[str], bool]:
    """The runner that will take the least time, None for eager; notes on why a better engine was not taken; and whether one failed."""
    try:
        runner = _captured(model, job)
    except CaptureError as error:
        return None, [f"it cannot be captured: {error}"], True
    notes: list[str] = []
    failed = False
    steps = job.epochs * len(job.sizes)
    codes = [program.code for program in runner.programs.values()]
    costs = estimates(codes[0], job.data.x.is_cpu)
    traced = job.epochs if any(program.watch.open for program in runner.programs.values()) else 0
    comparing = traced * sum(COMPARING[0] + COMPARING[1] * len(code.instructions) for code in codes)

    def total(name: str, at_hand: bool = False) -> float:
        return costs[name].total(steps, at_hand) + (comparing if name != "eager" else 0.0)

    least = min(map(total, costs))
    at_hand: dict[str, Sequence[Engine]] = {}
    for name, cost in costs.items():
        if cost.compiling and total(name, at_hand=True) < least:
            made = ENGINES[name].at_hand(codes, not ENGINES[name].exact)
            if made is not None:
                at_hand[name] = made
    for name in sorted(costs, key=lambda name: total(name, name in at_hand)):
        if name == "eager":
            break
        # half of it, since other machines are slower, or busy
        if name not in at_hand and ENGINES[name].seconds(codes) > PATIENCE / 2:
            count = sum(len(code.instructions) for code in codes)
            notes.append(f"{name}: compiling {count} instructions may take more than {PATIENCE:g} seconds; engine={name!r} waits for it")
            continue
        try:
            runner.start(name, limit=PATIENCE, made=at_hand.get(name))
            return runner, notes, failed
        except EngineError as error:
            notes.append(f"{name}: {error}")
            failed = True
    return None, notes, failed
