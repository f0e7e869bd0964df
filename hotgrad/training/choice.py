"""Which engine trains: the one that was asked for, or for "auto" the one that takes least time, judged from static facts."""

from __future__ import annotations

import warnings
from typing import Any

from hotgrad.errors import CaptureError, EngineError, EngineWarning, HotgradError, SettingError
from hotgrad.explain import nearest
from hotgrad.training.compiled import Compiled
from hotgrad.training.steps import Eager, Job

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
    refused = [callback for callback in job.callbacks if getattr(callback, "needs_gradients", False)]
    if engine in ("replay", "native"):
        if refused:
            raise SettingError(f"the callback {refused[0]!r:.80} needs the parameters' gradients, which only engine='eager' leaves")
        runner: Any = _compiled(model, job, engine)
    else:
        runner = None
        notes = []
        for name in [] if refused or engine == "eager" else preferred(model, job):
            try:
                runner = _compiled(model, job, name)
                break
            except (CaptureError, EngineError) as error:
                notes.append(f"{name}: {error}")
        job.history.engine_note = "; ".join(notes)
        runner = runner or Eager(model, job)
        if notes and not model._setup.warned:
            model._setup.warned = True
            warnings.warn(f"training runs on the {runner.name} engine; {job.history.engine_note}", EngineWarning, stacklevel=4)
    job.history.engine = runner.name
    if job.checkpoint is not None:
        job.checkpoint.runs_on(runner.details)
    return runner


def _compiled(model: Any, job: Job, engine: str) -> Compiled:
    try:
        return Compiled(model, job, engine)
    except (CaptureError, EngineError):
        raise
    except Exception as error:
        if isinstance(error, HotgradError):
            raise CaptureError(f"the training step cannot be captured: {error}") from error
        raise CaptureError(f"the training step cannot be captured: {type(error).__name__}: {error}") from error


def preferred(model: Any, job: Job) -> list[str]:
    """The engines that would be faster than eager for this job, the fastest first."""
    return []
