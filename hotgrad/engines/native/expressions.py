"""Elementwise ops as C expressions, from the `native` field of their declarations."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch

from hotgrad.core.domains import Booleans
from hotgrad.engines.native.layout import C_TYPES, NativeError
from hotgrad.program.instructions import Instruction, Value

# Functions that expressions may call by their names in C for double. The first have vector code, see elementary.py.
VECTOR_FUNCTIONS = frozenset(["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "softplus", "erf"])
LIBRARY_FUNCTIONS = frozenset(
    ["sqrt", "pow", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "cbrt", "exp2", "log2"]
    + [
        "log10",
        "erfc",
        "lgamma",
        "tgamma",
        "hypot",
        "floor",
        "ceil",
        "trunc",
        "fmod",
        "fmin",
        "fmax",
        "fabs",
        "copysign",
        "fma",
        "nearbyint",
    ]
)
_CALL = re.compile(r"\b([a-z_]\w*)\s*\(")
_FRACTION = re.compile(r"(?<![\w.])(\d+\.\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)(?![\w.])")


def is_expression(native: Any) -> TypeGuard[str]:
    """Whether this is a C expression, not a function or the name of a kernel."""
    return isinstance(native, str) and "{" in native


def literal(number: Any, dtype: torch.dtype) -> str:
    """A number in C.

    >>> literal(0.5, torch.float32), literal(-math.inf, torch.float64), literal(2.0, torch.int64)
    ('0.5f', '-INFINITY', '2')
    """
    if not dtype.is_floating_point:
        return "INT64_MIN" if number == -(2**63) else str(int(number))  # no literal in C
    number = float(number)
    if math.isnan(number):
        return "NAN"
    if math.isinf(number):
        return "INFINITY" if number > 0 else "-INFINITY"
    return repr(number) + ("f" if dtype is torch.float32 else "")


def converted(text: str, source: torch.dtype, target: torch.dtype) -> str:
    """A C expression of one dtype as one of another."""
    if source is target:
        return text
    return f"({text} != 0)" if target is torch.bool else f"({C_TYPES[target]}){text}"


def compute_dtype(instruction: Instruction) -> torch.dtype:
    """The dtype in which the op computes: that of the result, or of comparisons the one that their operands promote to."""
    out = instruction.out
    if out.dtype is not torch.bool:
        return out.dtype
    given = [_example(o) for i, o in enumerate(instruction.operands) if not _is_condition(instruction, i)]
    if not given:
        return torch.bool
    if len(given) == 2:
        return torch.result_type(*given)
    dtype = torch.result_type(given[0], given[0])
    for other in given[1:]:
        dtype = torch.promote_types(dtype, torch.result_type(other, other))
    return dtype


def _example(operand: Any) -> Any:
    if not isinstance(operand, Value):
        return operand
    return 1.0 if operand.kind == "scalar" else torch.empty((1,) * operand.ndim, dtype=operand.dtype, device="meta")


def _is_condition(instruction: Instruction, index: int) -> bool:
    """Whether the operand is a condition, which keeps its dtype."""
    domain = instruction.op.domain
    return index < len(domain) and isinstance(domain[index], Booleans)


def expression(instruction: Instruction, texts: Sequence[str], used: set[tuple[str, torch.dtype]]) -> str:
    """The result of an elementwise instruction in C, where `texts` are its operands; notes the vector functions called in `used`."""
    op, out = instruction.op, instruction.out
    dtype = compute_dtype(instruction)
    names: dict[str, str] = {}
    for index, (name, operand, text) in enumerate(zip(op.operand_names, instruction.operands, texts)):
        if isinstance(operand, Value):
            given = torch.float64 if operand.kind == "scalar" else operand.dtype
            names[name] = text if _is_condition(instruction, index) else converted(text, given, dtype)
        else:
            names[name] = literal(operand, torch.bool if _is_condition(instruction, index) else dtype)
    for option, value in instruction.options.items():
        if isinstance(value, (bool, int, float)):
            names[option] = literal(value, dtype)
    if not is_expression(op.native):
        raise NativeError(f"{op.name} is no C expression")
    text = _typed(op.native, op.name, dtype, used)
    for name, value in names.items():
        simple = re.fullmatch(r"[\w.]+", value)
        text = text.replace("{" + name + "}", value if simple else f"({value})")
    missing = re.search(r"\{(\w+)\}", text)
    if missing:
        raise NativeError(
            f"{op.name}: its native form {op.native!r} names {missing[1]!r}, which is neither an operand nor a number as option"
        )
    return converted(f"({text})" if out.dtype is not dtype else text, dtype, out.dtype)


def _typed(text: str, name: str, dtype: torch.dtype, used: set[tuple[str, torch.dtype]]) -> str:
    """The expression with the functions and the numbers of the dtype."""
    single = dtype is torch.float32

    def function(match: re.Match[str]) -> str:
        called = match[1]
        if called == "fabs" and not dtype.is_floating_point:
            return "llabs("
        if called in VECTOR_FUNCTIONS and dtype.is_floating_point:
            used.add((called, dtype))
            return f"hg_{called}_{'f32' if single else 'f64'}("
        if called in LIBRARY_FUNCTIONS:
            return f"{called}{'f' if single else ''}("
        raise NativeError(f"{name}: its native form calls {called!r}, which is not known; known: {', '.join(sorted(_KNOWN))}")

    text = _CALL.sub(function, text)
    return _FRACTION.sub(r"\1f", text) if single else text


_KNOWN = VECTOR_FUNCTIONS | LIBRARY_FUNCTIONS
