"""Augmented assignment: `v += w` writes into a leaf that nothing is recorded for, raises, or gives a new value."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

import torch

from hotgrad.checks import overlaps_itself
from hotgrad.core.explain import describe
from hotgrad.core.modes import state
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import NO_ACCUMULATOR, Record
from hotgrad.core.variable import Variable
from hotgrad.errors import DeviceError, DtypeError, OperandError, ShapeError, TapeError

# By operator: its symbol, and the name of torch's method that `tensor += variable` comes as.
AUGMENTED = {
    "__add__": ("+", "add_"), "__sub__": ("-", "sub_"), "__mul__": ("*", "mul_"), "__truediv__": ("/", "div_"), "__pow__": ("**", "pow_"),
    "__matmul__": ("@", "matmul_"), "__floordiv__": ("//", "floor_divide_"), "__mod__": ("%", "remainder_"),
}  # fmt: skip

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FORWARDS: set[CodeType] = set()


def forward_pass(function: _Function) -> _Function:
    """Marks what runs models and losses: inside, `h += x` never writes into an `h` that an op computed.

    With recording on it could not, since `h` is no leaf; so a model computes the same when nothing is recorded, in `predict`.
    """
    _FORWARDS.add(function.__code__)
    return function


def _in_forward_pass() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code not in _FORWARDS:
        frame = frame.f_back
    return frame is not None


def writer(op: type[Primitive], apply: Callable[..., Any], symbol: str) -> Callable[..., Any]:
    """`a += b`, for a Variable or tensor `a`: written into `a` if that is a leaf and the sum is not recorded, else a new value."""

    def write(a: Any, b: Any) -> Any:
        variable = isinstance(a, Variable)
        link = a._link if variable else None
        if type(link) is Record:
            return apply(a, b)
        if link is not None and state.recording:
            raise TapeError(
                f"a leaf that requires a gradient cannot be changed by {symbol}= while recording is on; do it inside hg.no_grad, "
                f"or give the result a name of its own: w = v {symbol} ..."
            )
        trace = state.trace
        out = apply(a if variable or trace is None else trace.constant(a), b)
        if isinstance(out, Variable) and out._link is not None:
            if variable:
                return out
            raise TapeError(
                f"{symbol}= cannot write a Variable that requires a gradient into a tensor: the graph would be lost; "
                f"compute a new value, as in t = t {symbol} v, or detach it"
            )
        if variable and a._accumulator is NO_ACCUMULATOR and _in_forward_pass():
            return out
        _check_writable(op, a, out, symbol)
        if trace is not None:
            trace.write(a, out)
        else:
            target = a._data if variable else a
            try:
                if not target.is_contiguous() and overlaps_itself(target):
                    raise RuntimeError("several of its elements are one in memory")  # torch's own check knows the plain cases only
                target.copy_(out._data if isinstance(out, Variable) else out)
            except RuntimeError as error:
                raise OperandError(f"{op.name}: {symbol}= cannot write into this tensor ({error}); give it memory of its own") from error
        return a

    return write


def _check_writable(op: type[Primitive], a: Any, out: Any, symbol: str) -> None:
    """Raise unless the result fits where it is to be written, by torch's rules."""
    before, after = (describe(x._data if isinstance(x, Variable) else x) for x in (a, out))
    got = f"{op.name}: {symbol}= on {before} gives {after}"
    if out.shape != a.shape:
        raise ShapeError(f"{got}, which cannot be written in its place; give it a name of its own: w = v {symbol} ...")
    if not torch.can_cast(out.dtype, a.dtype):
        raise DtypeError(f"{got}, which cannot be written in its place; convert the left side first, with to({out.dtype})")
    if out.device != a.device:
        raise DeviceError(f"{got} on {out.device}, which cannot be written to {a.device}; move one of them with to(device)")
