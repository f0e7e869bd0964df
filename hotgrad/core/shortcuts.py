"""The calls of ops of one and of two operands, written out by hand.

They do what `recording.call` does, for the operands that are usual, without its loops and lists: an op on a small tensor takes about
a third less time, and small tensors are what hotgrad is for. Whatever is not usual goes to `call`. A property test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hotgrad.core.explain import fail
from hotgrad.core.modes import MODE, Tracing
from hotgrad.core.nodes import Constant
from hotgrad.core.operands import tensors_in
from hotgrad.core.primitive import Primitive
from hotgrad.core.recording import call
from hotgrad.core.records import NO_ACCUMULATOR, Record, next_sequence
from hotgrad.core.variable import Parameter, Variable


def unary(op: type[Primitive]) -> Callable[..., Any]:
    """The call of an op of one operand; `options` are complete, None for an op without."""
    forward = op._call
    usual = None if tensors_in(op.defaults) else op.defaults  # in which nothing can be written to
    (keep,), keep_out = op.keeps((True,))
    variable, parameter, new, record_ = Variable, Parameter, object.__new__, Record
    sequence, mode, no_accumulator = next_sequence, MODE.get, NO_ACCUMULATOR

    def apply(a: Any, options: Any = None) -> Any:
        kind = type(a)
        if kind is not variable and kind is not parameter:
            if kind is Tensor and options is None:  # what gradient rules do
                try:
                    raw = forward(a)
                except Exception as error:
                    fail(op, (a,), options, error)
                if not raw.requires_grad:
                    return raw
            return call(op, (a,), options)
        x = a._data
        try:
            tape = mode().active
            data = forward(x) if options is None else forward(x, **options)
            out = new(variable)
            out._data = data
            out._accumulator = no_accumulator
            link = a._link
            if link is None or tape is None or not (options is None or data.dtype.is_floating_point):
                out._link = None
                return out
            out._link = record = record_()
            record.op = op
            record.parents = (link,)
            record.options = options
            record.accumulator = no_accumulator
            if keep_out:
                record.out = data
                if keep:
                    record.operands = (x,)
                    record.guards = (x, x._version, data, data._version)
                else:
                    record.operands = (link,)
                    record.guards = (data, data._version)
            else:
                record.out = None
                if keep:
                    record.operands = (x,)
                    record.guards = (x, x._version)
                else:
                    record.operands = (link,)
                    record.guards = None
            if options is not None and options is not usual:
                record.guards = (*(record.guards or ()), *[i for x in tensors_in(options) for i in (x, x._version)]) or None
            record.shape = data.shape
            record.dtype = data.dtype
            record.device = data.device
        except Tracing:
            return call(op, (a,), options)
        except Exception as error:
            fail(op, (x,), options, error)
        record.sequence = sequence()
        record.tape = tape
        return out

    return apply


def binary(op: type[Primitive]) -> Callable[..., Any]:
    """The call of an op of two operands without options."""
    forward = op._call
    # what to keep when only a, only b, or both need a gradient
    plans = (None, *(op.keeps(needed) for needed in ((True, False), (False, True), (True, True))))
    variable, parameter, new, record_ = Variable, Parameter, object.__new__, Record
    sequence, mode, no_accumulator = next_sequence, MODE.get, NO_ACCUMULATOR
    int_, float_ = (int, float) if op.numbers else (None, None)

    def apply(a: Any, b: Any) -> Any:
        kind = type(a)
        if kind is not variable and kind is not parameter:
            if kind is Tensor and type(b) is Tensor:  # what gradient rules do
                try:
                    raw = forward(a, b)
                except Exception as error:
                    fail(op, (a, b), None, error)
                if not raw.requires_grad:
                    return raw
            return call(op, (a, b), None)
        x = a._data
        link_a = a._link
        kind = type(b)
        if kind is variable or kind is parameter:
            y = b._data
            link_b = b._link
            number = False
        elif kind is int_ or kind is float_:
            y = b
            link_b = None
            number = True
        else:
            return call(op, (a, b), None)
        try:
            tape = mode().active
            data = forward(x, y)
            out = new(variable)
            out._data = data
            out._accumulator = no_accumulator
            if (link_a is None and link_b is None) or tape is None:
                out._link = None
                return out
            (keep_a, keep_b), keep_out = plans[(link_a is not None) + 2 * (link_b is not None)]  # type: ignore[misc]
            out._link = record = record_()
            record.op = op
            record.parents = (link_a, link_b)
            record.options = None
            record.accumulator = no_accumulator
            if keep_a:
                if number:
                    record.operands = (x, y)
                    record.guards = (x, x._version)
                elif keep_b:
                    record.operands = (x, y)
                    record.guards = (x, x._version, y, y._version)
                else:
                    record.operands = (x, link_b or Constant(y))
                    record.guards = (x, x._version)
            elif number:
                record.operands = (link_a, y)
                record.guards = None
            elif keep_b:
                record.operands = (link_a or Constant(x), y)
                record.guards = (y, y._version)
            else:
                record.operands = (link_a or Constant(x), link_b or Constant(y))
                record.guards = None
            if keep_out:
                record.out = data
                record.guards = (*(record.guards or ()), data, data._version)
            else:
                record.out = None
            record.shape = data.shape
            record.dtype = data.dtype
            record.device = data.device
        except Tracing:
            return call(op, (a, b), None)
        except Exception as error:
            fail(op, (x, y), None, error)
        record.sequence = sequence()
        record.tape = tape
        return out

    return apply
