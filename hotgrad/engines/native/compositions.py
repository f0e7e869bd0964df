"""Ops that the native engine computes as several simpler ones: softmax, variance, norms and the like."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from hotgrad.core.primitive import Primitive
from hotgrad.engines.native.expressions import is_expression
from hotgrad.engines.native.layout import NativeError, broadcast
from hotgrad.ops.arithmetic import Abs, Cast, Div, Equal, Maximum, Minimum, Mul, NotEqual, Pow, Sub, Where
from hotgrad.ops.arithmetic import Add as Plus
from hotgrad.ops.axes import normal_axes, normal_axis
from hotgrad.ops.pointwise import Exp, Log, Reciprocal, Sqrt
from hotgrad.ops.products import MatMul
from hotgrad.ops.reductions import Amax, Amin, Sum
from hotgrad.ops.shaping import Reshape
from hotgrad.program.instructions import Instruction, Value


class Writer:
    """Appends instructions to a list. Results broadcast and have the dtype of the op that is written out, unless said otherwise."""

    def __init__(self, instruction: Instruction, instructions: list[Instruction]) -> None:
        self.given = instruction
        self.out = instruction.out
        self.instructions = instructions
        self.dtype = instruction.out.dtype

    def __call__(self, op: type[Primitive], *operands: Any, last: bool = False, dtype: torch.dtype | None = None, **options: Any) -> Value:
        """`last`: this is the result."""
        shapes = [o.shape for o in operands if isinstance(o, Value)]
        shape = broadcast(shapes)
        if "dim" in options:
            axes = options["dim"]
            shape = tuple(1 if i in axes else n for i, n in enumerate(shape))
            options["keepdim"] = not last or len(self.out.shape) == len(shape)
        out = self.out if last else Value("result", shape, dtype or self.dtype, self.out.device, ())
        self.instructions.append(Instruction(op, operands, options, out))
        return out

    def dropped(self, value: Value, op: type[Primitive], *others: Any) -> None:
        """The result: an op of a value that still has the reduced axes with size 1."""
        shaped = Value("result", self.out.shape, value.dtype, value.device, ())
        if value.shape != shaped.shape:
            self.instructions.append(Instruction(Reshape, (value,), {"shape": shaped.shape}, shaped))
            value = shaped
        self(op, value, *others, last=True)


def _axes(a: Value, dim: Any) -> tuple[int, ...]:
    return normal_axes(dim, a.ndim)


def _count(a: Value, axes: tuple[int, ...]) -> int:
    return math.prod(a.shape[i] for i in axes)


def mean(emit: Writer, a: Value, dim: Any, keepdim: bool) -> None:
    axes = _axes(a, dim)
    emit.dropped(emit(Sum, a, dim=axes), Div, float(_count(a, axes)))


def _variance(emit: Writer, a: Value, dim: Any, correction: float) -> Value:
    """In double, as torch does: squares of float32 overflow and vanish where their roots, and often their mean, do not."""
    axes, double = _axes(a, dim), torch.float64
    centre = emit(Div, emit(Sum, a, dim=axes, dtype=double), float(_count(a, axes)), dtype=double)
    deviation = emit(Sub, a, centre, dtype=double)
    total = emit(Sum, emit(Mul, deviation, deviation, dtype=double), dim=axes, dtype=double)
    return emit(Div, total, float(max(_count(a, axes) - correction, 0)), dtype=double)


def var(emit: Writer, a: Value, dim: Any, correction: float, keepdim: bool) -> None:
    emit.dropped(_variance(emit, a, dim, correction), Cast)


def std(emit: Writer, a: Value, dim: Any, correction: float, keepdim: bool) -> None:
    emit.dropped(emit(Sqrt, _variance(emit, a, dim, correction), dtype=torch.float64), Cast)


def norm(emit: Writer, a: Value, p: Any, dim: Any, keepdim: bool) -> None:
    axes = _axes(a, dim)
    p = 2.0 if p == "fro" else float(p)
    if p == 2:
        emit.dropped(emit(Sum, emit(Mul, a, a), dim=axes), Sqrt)
    elif p == 1:
        emit.dropped(emit(Sum, emit(Abs, a), dim=axes), Cast)
    elif p == 0:
        emit.dropped(emit(Sum, emit(Cast, emit(NotEqual, a, 0.0, dtype=torch.bool)), dim=axes), Cast)
    elif math.isinf(p):
        emit.dropped(emit(Amax if p > 0 else Amin, emit(Abs, a), dim=axes), Cast)
    else:
        emit.dropped(emit(Sum, emit(Pow, emit(Abs, a), p), dim=axes), Pow, 1 / p)


def logsumexp(emit: Writer, a: Value, dim: Any, keepdim: bool) -> None:
    axes = _axes(a, dim)
    largest = emit(Amax, a, dim=axes)
    # where all is -inf, or something inf, the difference would be NaN
    infinite = emit(Equal, emit(Abs, largest), math.inf, dtype=torch.bool)
    shift = emit(Where, infinite, 0.0, largest)
    total = emit(Sum, emit(Exp, emit(Sub, a, shift)), dim=axes)
    emit.dropped(emit(Plus, emit(Log, total), shift), Cast)


def softmax(emit: Writer, a: Value, dim: Any) -> None:
    axes = (normal_axis(dim, a.ndim),) if a.ndim else ()
    powers = emit(Exp, emit(Sub, a, emit(Amax, a, dim=axes)))
    emit(Div, powers, emit(Sum, powers, dim=axes), last=True)


def log_softmax(emit: Writer, a: Value, dim: Any) -> None:
    axes = (normal_axis(dim, a.ndim),) if a.ndim else ()
    shifted = emit(Sub, a, emit(Amax, a, dim=axes))
    emit(Sub, shifted, emit(Log, emit(Sum, emit(Exp, shifted), dim=axes)), last=True)


def power(emit: Writer, a: Any, b: Any) -> None:
    """Exponents that torch computes without `pow` too."""
    if not emit.dtype.is_floating_point:
        raise NativeError(f"Pow of integers ({emit.dtype}) has no native form")
    exponent = b if isinstance(b, (int, float)) else None
    if not isinstance(a, Value) or exponent not in _POWERS:
        emit(_PowerCall, a, b, last=True)
    else:
        _POWERS[exponent](emit, a)


_POWERS: dict[Any, Callable[[Writer, Value], Any]] = {
    1: lambda emit, a: emit(Cast, a, last=True),
    2: lambda emit, a: emit(Mul, a, a, last=True),
    3: lambda emit, a: emit(Mul, emit(Mul, a, a), a, last=True),
    -1: lambda emit, a: emit(Reciprocal, a, last=True),
    -2: lambda emit, a: emit(Reciprocal, emit(Mul, a, a), last=True),
    0.5: lambda emit, a: emit(Sqrt, a, last=True),
    -0.5: lambda emit, a: emit(Reciprocal, emit(Sqrt, a), last=True),
}


class _PowerCall(Primitive, register=False):
    """`pow` of C, element by element."""

    function = ""
    name = "Pow"
    forward = staticmethod(torch.pow)
    vjps = (None, None)
    reads = ("", "")
    native = "pow({a}, {b})"


def clip(emit: Writer, a: Value, min: float | None, max: float | None) -> None:
    if min is not None:
        a = emit(Maximum, a, min, last=max is None)
    if max is not None:
        emit(Minimum, a, max, last=True)


def addmm(emit: Writer, bias: Value, a: Value, b: Value) -> None:
    product = Value("result", emit.out.shape, emit.dtype, emit.out.device, ())
    emit.instructions.append(Instruction(MatMul, (a, b), {}, product))
    emit(Plus, bias, product, last=True)


COMPOSITIONS: dict[str, Callable[..., None]] = {
    "mean": mean, "var": var, "std": std, "norm": norm, "logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax,
    "pow": power, "clip": clip, "addmm": addmm,
}  # fmt: skip


def expanded(instructions: list[Instruction]) -> list[Instruction]:
    """The instructions, with composed ones written out."""
    result: list[Instruction] = []
    for instruction in instructions:
        native = instruction.op.native
        if is_expression(native) or native not in COMPOSITIONS or instruction.out.kind == "scalar":
            result.append(instruction)
        else:
            parts: list[Instruction] = []
            COMPOSITIONS[native](Writer(instruction, parts), *instruction.operands, **instruction.options)
            result += expanded(parts)
    return result
