"""Hooks: functions that see, and may replace, the gradient of a Variable while it flows through it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from hotgrad.core.explain import check_like
from hotgrad.core.modes import state
from hotgrad.core.records import Accumulator, Value
from hotgrad.errors import OperandError, TapeError


class Handle:
    """What `register_hook` returns; `remove()` takes the hook away, which may be done twice."""

    __slots__ = ("_accumulator",)

    def __init__(self, accumulator: Accumulator) -> None:
        self._accumulator = accumulator

    def remove(self) -> None:
        hooks = self._accumulator.hooks
        if hooks is not None and self in hooks:
            # another dict, as a hook may remove itself; and what is watched for changes sees one
            self._accumulator.hooks = {handle: hook for handle, hook in hooks.items() if handle is not self} or None

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


def add_hook(accumulator: Accumulator, hook: Callable[[Any], Any]) -> Handle:
    if not callable(hook):
        raise OperandError(f"register_hook takes a function of the gradient; got {hook!r:.60}")
    handle = Handle(accumulator)
    accumulator.hooks = {**(accumulator.hooks or {}), handle: hook}
    return handle


def hooked(accumulator: Accumulator, g: Any, kind: type[Any]) -> Any:
    """The gradient after the hooks of this Variable, in the order in which they were registered: a Tensor or Variable, as `kind` says."""
    for hook in tuple((accumulator.hooks or {}).values()):
        data = g if kind is Tensor else g._data
        version = data._version
        with state.trace.external() if state.trace is not None else nullcontext():
            found = hook(g)
        if data._version != version:
            raise TapeError(f"the hook {hook!r:.60} wrote into the gradient, which may share its memory; return another one instead")
        if found is None:
            continue
        if not isinstance(found, (Tensor, Value)):
            raise OperandError(f"a hook returns the gradient to go on with, or None; {hook!r:.60} returned {found!r:.60}")
        check_like("the gradient that a hook returned", found, g)
        g = found if isinstance(found, kind) else found._data if isinstance(found, Value) else kind._at(found, None)
    return g
