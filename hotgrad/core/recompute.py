"""What code needs to know that may run a second time in backward (see `hg.remat`): to draw the same numbers, and to leave nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch

from hotgrad.core.modes import state


class Draws:
    """The random numbers of a function that runs again.

    In its first run it notes the state of each generator before it is drawn from, and what a capture draws; in another it gives them again.
    """

    def __init__(self) -> None:
        self.traced: list[Any] = []
        tracing = state.trace is not None
        self.states: dict[Any, Any] = {} if tracing else {None: torch.get_rng_state()}  # by generator, None for torch's global one
        cuda: Any = torch.cuda
        self.cuda = cuda.get_rng_state_all() if not tracing and cuda.is_available() and cuda.is_initialized() else None

    def run(self, body: Callable[[], Any], again: bool) -> Any:
        """What `body()` gives, in its first run or `again`; then generators stand where they stood before."""
        outer = None if again else _CURRENT.get()
        token = _CURRENT.set(_Run(self, again, outer))
        try:
            return self._with_states(body) if again else body()
        finally:
            _CURRENT.reset(token)

    def _with_states(self, body: Callable[[], Any]) -> Any:
        now = [(generator, _state(generator)) for generator in self.states]
        cuda = torch.cuda.get_rng_state_all() if self.cuda is not None else None
        try:
            for generator, then in self.states.items():
                _set_state(generator, then)
            if self.cuda is not None:
                torch.cuda.set_rng_state_all(self.cuda)
            return body()
        finally:
            for generator, before in now:
                _set_state(generator, before)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)


class _Run:
    """One run: the first of `draws`, which may be part of another function's (`outer`), or one that gives the same again."""

    def __init__(self, draws: Draws, again: bool, outer: _Run | None) -> None:
        self.draws, self.again, self.outer = draws, again, outer
        self.at = 0


_CURRENT: ContextVar[_Run | None] = ContextVar("hotgrad recompute", default=None)


def again() -> bool:
    """Whether this is a run of which the first has left what it leaves."""
    run = _CURRENT.get()
    while run is not None and not run.again:
        run = run.outer
    return run is not None


def before_draw(generator: torch.Generator | None) -> None:
    """To be called before numbers are drawn from this generator."""
    run = _CURRENT.get()
    while run is not None and not run.again:
        if generator not in run.draws.states:
            run.draws.states[generator] = _state(generator)
        run = run.outer


def drawn(draw: Callable[[], Any]) -> Any:
    """What `draw()` gives while capturing, or gave in the first run."""
    return _drawn(draw, _CURRENT.get())


def _drawn(draw: Callable[[], Any], run: _Run | None) -> Any:
    if run is None:
        return draw()
    if run.again:
        run.at += 1
        return run.draws.traced[run.at - 1]
    found = _drawn(draw, run.outer)
    run.draws.traced.append(found)
    return found


def _state(generator: torch.Generator | None) -> Any:
    return torch.get_rng_state() if generator is None else generator.get_state()


def _set_state(generator: torch.Generator | None, then: Any) -> None:
    if generator is None:
        torch.set_rng_state(then)
    else:
        generator.set_state(then)
