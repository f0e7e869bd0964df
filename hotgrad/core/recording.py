"""How a call of an op is recorded.

Raw in, raw out: without a Variable among its operands, an op returns a plain tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotgrad.core.explain import fail
from hotgrad.core.modes import state
from hotgrad.core.nodes import Constant
from hotgrad.core.operands import as_operands, raw_operand, tensors_in
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import NO_ACCUMULATOR, Record, next_sequence
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import DtypeError


def _record(op: type[Primitive], links: list[Any], values: list[Any], options: dict[str, Any] | None, out: Tensor) -> Record:
    """Make the record of a call, put it on the tape and return it. `unary` and `binary` do the same inline."""
    keep, keep_out = op.keeps(tuple([link is not None for link in links]))
    record = Record()
    operands: list[Any] = []
    guards: list[Any] = []
    for kept, value, link in zip(keep, values, links):
        if not isinstance(value, Tensor):
            operands.append(value)
        elif kept:
            operands.append(value)
            guards += (value, value._version)
        else:
            operands.append(Constant(value) if link is None else link)
    record.out = out if keep_out else None
    if keep_out:
        guards += (out, out._version)
    for value in tensors_in(options):
        guards += (value, value._version)
    record.op, record.parents, record.operands, record.options = op, tuple(links), tuple(operands), options
    record.guards = tuple(guards) or None
    record.shape, record.dtype, record.device, record.accumulator = out.shape, out.dtype, out.device, NO_ACCUMULATOR
    record.sequence = next_sequence()
    record.tape = state.tape
    return record


def call(op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Any:
    """Call `op` on operands of any kind. Raw in, raw out: without a Variable among them the result is a plain tensor."""
    trace = state.trace
    if trace is not None:
        return trace.apply(op, operands, options)
    values: list[Any] = []
    links: list[Any] = []
    raw, numbers = True, False
    recorded = False
    for operand in operands:
        link = None
        if isinstance(operand, Variable):
            raw = False
            link = operand._link
            operand = operand._data
            recorded = recorded or link is not None
        elif type(operand) is not Tensor or operand.requires_grad or operand.layout is not torch.strided:
            operand = raw_operand(op, operand)
            numbers = numbers or not isinstance(operand, Tensor)
        values.append(operand)
        links.append(link)
    try:
        if numbers:
            values = as_operands(op, values)
        out = op._call(*values) if options is None else op._call(*values, **options)
        if raw or op.plain:
            return out
        if recorded and state.recording and op.differentiable and out.dtype.is_floating_point:
            return wrap(out, _record(op, links, values, options, out))
        if out.is_complex():
            raise DtypeError("complex data is not supported. Use its real and imaginary parts")
    except Exception as error:
        fail(op, values, options, error)
    return wrap(out, None)
