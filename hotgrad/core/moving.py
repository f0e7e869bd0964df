"""Numbers that hotgrad itself changes from step to step or from epoch to epoch, as a user's code reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hotgrad.core.modes import MODE, Mode, state

T = TypeVar("T")


def moving(owner: Any, name: str, number: Callable[[int], float]) -> Any:
    """`number(0)`, of `owner`; while a program is captured a Scalar, which is exact at each of its runs.

    `number(ahead)`: what it will be so many steps from now, as far as counting them moves it.

    >>> moving(None, "lr", lambda ahead: 0.1)
    0.1
    """
    trace = state.trace
    return number(0) if trace is None else trace.moving(owner, name, number)


def untraced(body: Callable[[], T]) -> T:
    """What `body()` gives outside of any capture that is going on: numbers as they are now."""
    now = state.now
    if now.trace is None:
        return body()
    with now.trace.looking_away():  # it runs at each step, too
        MODE.set(Mode(now.tape, now.recording, None, now))
        try:
            return body()
        finally:
            MODE.set(now)
