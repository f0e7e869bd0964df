"""Which engine trains: the one that was asked for, or for "auto" the one that takes least time, judged from static facts."""

from __future__ import annotations

from typing import Any

from hotgrad.errors import CaptureError, EngineError, EngineWarning, SettingError
from hotgrad.explain import nearest, warn
from hotgrad.training.compiled import Compiled
from hotgrad.training.costs import estimates
from hotgrad.training.minimised import Minimised
from hotgrad.training.steps import Eager, Job

FEW = 150  # steps for which a capture does not pay
NAMES = ("auto", "eager", "replay", "native")


def check_engine(engine: Any) -> str:
    """`engine` if there is one of that name. Raises SettingError."""
    if engine not in NAMES:
        raise SettingError(f"unknown engine {engine!r}; available are {', '.join(map(repr, NAMES))}{nearest(engine, NAMES)}")
    return str(engine)


def runner_for(model: Any, job: Job, engine: str) -> Any:
    """What runs the epochs, ready to start; `job.history` says which engine it is.

    Raises CaptureError or EngineError if the engine asked for cannot run this model; "auto" takes another and warns once per model.
    """
    needy = [callback for callback in job.callbacks if getattr(callback, "needs_gradients", False)]
    if engine in ("replay", "native"):
        if needy:
            raise SettingError(f"the callback {needy[0]!r:.80} needs the parameters' gradients, which only engine='eager' leaves")
        runner: Any = _captured(model, job)
        runner.start(engine)
    else:
        runner = None
        notes: list[str] = []
        if engine == "auto" and not needy and job.epochs * len(job.sizes) >= FEW:
            runner, notes = _best(model, job)
        runner = runner or Eager(model, job)
        job.history.engine_note = "; ".join(notes)
        if notes and not model._setup.warned:
            model._setup.warned = True
            warn(f"training runs on the {runner.name} engine ({job.history.engine_note})", EngineWarning)
    job.history.engine = runner.name
    if job.checkpoint is not None:
        job.checkpoint.runs_on(runner.details)
    return runner


def _captured(model: Any, job: Job) -> Compiled:
    try:
        return (Minimised if model.optimizer.needs_closure else Compiled)(model, job)
    except CaptureError:
        raise
    except Exception as error:  # of the user's code, on Variables without values
        raise CaptureError(f"the training step cannot be captured: {type(error).__name__}: {error}") from error


def _best(model: Any, job: Job) -> tuple[Compiled | None, list[str]]:
    """The runner that will take the least time, None for eager, and why a better engine could not be had."""
    try:
        runner = _captured(model, job)
    except CaptureError as error:
        return None, [f"it cannot be captured: {error}"]
    notes: list[str] = []
    steps = job.epochs * len(job.sizes)
    costs = estimates(next(iter(runner.programs.values())).code, job.data.x.is_cpu)
    for name in sorted(costs, key=lambda name: costs[name].total(steps)):
        if name == "eager":
            break
        try:
            runner.start(name)
            return runner, notes
        except EngineError as error:
            notes.append(f"{name}: {error}")
    return None, notes
