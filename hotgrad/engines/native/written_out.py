"""Ops whose native form is a function in op notation, written out as the instructions that it calls for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hotgrad.core.modes import no_grad
from hotgrad.engines.native.layout import NativeError
from hotgrad.ops.arithmetic import Cast
from hotgrad.ops.reductions import Sum
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.trace import ProgramTrace
from hotgrad.program.traced import Traced


def written_out(code: Code) -> Code:
    """The program, with such ops replaced, to any depth. Tensors that their functions make become constants."""
    out = code.replaced(())
    out.instructions = _replaced(code.instructions, out.constants)
    return out


def _replaced(instructions: list[Instruction], constants: dict[Value, Tensor]) -> list[Instruction]:
    result: list[Instruction] = []
    for instruction in instructions:
        if callable(instruction.op.native) and instruction.out.kind != "scalar":
            result += _replaced(_sums_of_casts(_parts(instruction, constants)), constants)
        else:
            result.append(instruction)
    return result


def _parts(instruction: Instruction, constants: dict[Value, Tensor]) -> list[Instruction]:
    """What the native function of this op calls for on such operands: noted as in a capture, on examples that are all ones."""
    op, out = instruction.op, instruction.out
    trace = ProgramTrace({}, (), (), ())
    now: dict[Value, Any] = {}  # what stands in the program for a value of the trace

    def operand(given: Any) -> Any:
        if not isinstance(given, Value):
            return given
        if given.kind == "scalar":
            scalar = trace.scalar(1.0, "")
            now[scalar.value] = given
            return scalar
        example = torch.ones(given.shape, dtype=given.dtype)
        traced = trace.input(example)
        now[traced.value] = given
        return traced

    def body() -> Any:
        given = [operand(one) for one in instruction.operands]
        result = op.native(*given, **instruction.options)  # type: ignore[operator]
        return result.value if isinstance(result, Traced) else result

    try:
        value = no_grad.run(trace.run, body, op.__module__.startswith("hotgrad."))
    except Exception as error:
        raise NativeError(f"{op.name}: its native function failed: {error}") from error
    if value is NotImplemented:
        raise NativeError(f"{op.name} of {', '.join(map(described, instruction.reads()))} has no native form")
    if trace.refused is not None or trace.code.states or trace.code.draws:
        reason = trace.refused or "it may read neither Parameters nor buffers, nor draw random numbers"
        raise NativeError(f"{op.name}: its native function: {reason}")
    if not isinstance(value, Value) or (value.shape, value.dtype) != (out.shape, out.dtype):
        given = described(value) if isinstance(value, Value) else repr(value)
        raise NativeError(f"{op.name}: its native function gave {given:.80}; forward gives {described(out)}")
    return _in_place_of(instruction, trace.code, value, now, constants)


def _in_place_of(
    instruction: Instruction, code: Code, value: Value, now: dict[Value, Any], constants: dict[Value, Tensor]
) -> list[Instruction]:
    """The instructions of `code`, by which `value` is computed, with the operands and the result of the one that they replace."""
    for constant, tensor in code.constants.items():
        if tensor.ndim:
            constants[constant] = tensor
        else:
            now[constant] = tensor.item()
    parts = [
        Instruction(i.op, tuple(now.get(o, o) if isinstance(o, Value) else o for o in i.operands), i.options, i.out)
        for i in code.instructions
    ]
    out = instruction.out
    if not any(part.out is value for part in parts):
        return [Instruction(Cast, (now.get(value, value),), {"dtype": out.dtype, "device": None}, out)]
    for part in parts:
        part.out = out if part.out is value else part.out
        part.operands = tuple(out if operand is value else operand for operand in part.operands)
    return parts


def _sums_of_casts(instructions: list[Instruction]) -> list[Instruction]:
    """Sums over what the casts read: they add in the result's dtype, so nothing wider need be kept."""
    casts = {i.out: i.operands[0] for i in instructions if i.op is Cast and i.out.dtype is torch.float64}
    return [Instruction(i.op, (casts.get(i.operands[0], i.operands[0]),), i.options, i.out) if i.op is Sum else i for i in instructions]
