"""Axes, numbers and arrays as the ops take them, checked; axes are counted from the front."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from hotgrad.core.arrays import as_tensor
from hotgrad.core.modes import state
from hotgrad.core.variable import Variable
from hotgrad.errors import AxisError, OperandError, ShapeError


def array(a: Any) -> Any:
    """`a` as something with a shape, for functions that read it before they call an op; while capturing, as a part of the program."""
    if isinstance(a, Variable):
        return a
    tensor = a if isinstance(a, Tensor) else as_tensor(a)
    return tensor if state.trace is None else state.trace.constant(tensor)


def normal_axis(axis: Any, ndim: int) -> int:
    """`axis` counted from the front. Raises AxisError out of range, OperandError if it is no integer."""
    try:
        # torch 2.6 takes an axis in a tensor for something else
        number = None if isinstance(axis, (bool, Tensor)) else operator.index(axis)
    except TypeError:
        number = None
    if number is None:
        raise OperandError(f"an axis must be an integer; got {axis!r:.60}")
    axis = number
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        allowed = f"{-ndim} to {ndim - 1}" if ndim else "-1 or 0, meaning the scalar itself"
        raise AxisError(f"axis {axis} is out of range: with {ndim} axes it may be {allowed}")
    return int(axis % max(ndim, 1))


def number(name: str, value: Any) -> float:
    """`value` if it is a Python number. Raises OperandError."""
    if not isinstance(value, (int, float)):
        raise OperandError(f"{name} must be a number; got {value!r:.60}")
    return value


def normal_axes(dim: Any, ndim: int) -> tuple[int, ...]:
    """`dim` (None or () for all, an integer, or several) as a tuple of axes counted from the front; of a scalar it is ().

    Raises AxisError for an axis out of range or given twice.
    """
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):  # torch's meaning of ()
        return tuple(range(ndim))
    axes = tuple(normal_axis(axis, ndim) for axis in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(axes)) != len(axes):
        raise AxisError(f"the axes {tuple(dim)} name an axis twice")
    return axes if ndim else ()


def common_shape(op: str, *shapes: Sequence[int]) -> tuple[int, ...]:
    """What shapes broadcast to (torch's own function imports half of sympy). Raises ShapeError.

    >>> common_shape("add", (2, 1), (3,))
    (2, 3)
    """
    found: list[int] = []
    for shape in shapes:
        found = [1] * (len(shape) - len(found)) + found
        for i, size in enumerate(shape, len(found) - len(shape)):
            if size != found[i] and size != 1:
                if found[i] != 1:
                    given = ", ".join(str(tuple(shape)) for shape in shapes)
                    raise ShapeError(f"{op}: the shapes {given} do not broadcast; sizes must be equal or 1")
                found[i] = size
    return tuple(found)
