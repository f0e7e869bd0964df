"""Where random numbers come from: a generator that is given, else the current one, else torch's global one.

Inside `fit` the current one is the model's, and while a model is evaluated one of that evaluation alone, started anew each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch

from hotgrad.core import recompute
from hotgrad.core.modes import state

_CURRENT: ContextVar[torch.Generator | None] = ContextVar("hotgrad generator", default=None)


@contextmanager
def drawing_from(generator: torch.Generator | None) -> Iterator[None]:
    """Inside, `generator` is the current one."""
    token = _CURRENT.set(generator)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Any:
    """Random numbers from 0 up to 1, in float32 on the host; in a program, drawn anew at each run."""
    generator = generator or _CURRENT.get()
    if state.trace is not None:
        return recompute.drawn(partial(state.trace.draw, tuple(shape), generator))
    recompute.before_draw(generator)
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")
