"""Values that are given a place in the graph: as leaves of their own, or as the result of an op that is not called."""

from __future__ import annotations

from typing import Any

from hotgrad.core.modes import state
from hotgrad.core.primitive import Primitive
from hotgrad.core.recording import _record
from hotgrad.core.records import Accumulator
from hotgrad.core.variable import Variable, wrap


def placed(op: type[Primitive], value: Variable, operands: list[Any], options: dict[str, Any] | None) -> Variable:
    """`value` as what `op` gives for these operands, without calling it: only its gradient is the op's."""
    if state.trace is not None:
        return state.trace.placed(op, value, operands, options)  # type: ignore[no-any-return]
    links = [x._link if isinstance(x, Variable) else None for x in operands]
    if not state.recording or not any(link is not None for link in links):
        return wrap(value._data, None)
    return wrap(value._data, _record(op, links, [x._data if isinstance(x, Variable) else x for x in operands], options, value._data))


def independent(value: Variable) -> Variable:
    """The same value as a leaf of its own that requires a gradient, also while capturing."""
    if state.trace is not None:
        return state.trace.independent(value)  # type: ignore[no-any-return]
    accumulator = Accumulator(value._data)
    return wrap(value._data, accumulator, accumulator)
