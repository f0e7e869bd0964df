"""What went wrong in an op or a rule, as an error that names the op, the operands and the remedy."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from hotgrad.core.nodes import Node
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import Accumulator, Record
from hotgrad.errors import (
    AxisError,
    DeviceError,
    DtypeError,
    HotgradError,
    OperandError,
    RangeError,
    RuleError,
    SettingError,
    ShapeError,
    TapeError,
)


def describe(value: Any) -> str:
    """A value as messages show it: dtype and shape of a tensor, else its repr."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    return repr(value)


def users_frame() -> tuple[Any, int]:
    """The innermost frame outside of hotgrad and torch, None without one, and its `stacklevel` for a warning of the caller."""
    frame: Any = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("hotgrad", "torch"):
        frame, level = frame.f_back, level + 1
    return frame, level


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the line of the user's that led here."""
    warnings.warn(message, category, stacklevel=users_frame()[1])


def operands_of(op: type[Primitive], values: Sequence[Any]) -> str:
    """The operands of a call, each with its name: "a = float32(2, 3), b = 2.0"."""
    names = op.operand_names if op.arity is not None else [f"{op.operand_names[0]}[{i}]" for i in range(len(values))]
    return ", ".join(f"{name} = {describe(value)}" for name, value in zip(names, values))


def fail(op: type[Primitive], values: Sequence[Any], options: dict[str, Any] | None, error: Exception) -> NoReturn:
    """Raise what explains `error`, which op's forward raised on these operands."""
    if not isinstance(options, (dict, type(None))):
        raise OperandError(f"{op.name}: got more arguments than its operands, but it takes no options") from None
    explained = explain(op, values, options or {}, error)
    try:
        if explained is error:
            raise error
        raise explained from error
    finally:
        del error, explained  # a traceback holds this frame; if that held the error, both would stay until collected


def out_of_range(op: str, index: int, axis: int, size: int) -> RangeError:
    """What tells of an index, or a label that chooses a column."""
    return RangeError(f"{op}: the index {index} is out of range: along axis {axis} there are {size} elements, from 0 to {size - 1}")


def explain(op: type[Primitive], values: Sequence[Any], options: dict[str, Any], error: Exception) -> Exception:
    """The error to raise in place of `error`, which op's forward raised. Our own errors gain the op's name, torch's become ours
    where the cause is in the operands. No memory comes back as it is, and so do unknown errors of a user's op.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return error
    call = f"{op.name}: got {operands_of(op, values)}"
    if options:
        call += "".join(f", {name}={describe(value)}" for name, value in options.items())
    if isinstance(error, HotgradError):
        text = str(error)
        return error if text.startswith(op.name + ":") else type(error)(f"{call}; {text}")
    tensors = [value for value in values if isinstance(value, Tensor)]
    if any(t.is_inference() for t in tensors) or torch.is_inference_mode_enabled():
        return OperandError(f"{call}; inference-mode tensors cannot be recorded. Leave torch.inference_mode, or clone() them outside it")
    if len({t.device for t in tensors if t.ndim or not t.is_cpu}) > 1:
        where = ", ".join(str(t.device) for t in tensors)
        return DeviceError(f"{call}; they are on different devices ({where}). Move them to one with to(device)")
    shapes = [tuple(t.shape) for t in tensors]
    if op.signature == "(m,k),(k,n)->(m,n)" and len(shapes) == 2:
        return _explain_matmul(call, shapes[0], shapes[1], error)
    if not op.signature and len(shapes) > 1:
        try:
            torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
        except RuntimeError:
            return ShapeError(
                f"{call}; these shapes do not broadcast: aligned at the right, sizes must be equal or 1. Use reshape or unsqueeze"
            )
    watched = next((name for name, value in options.items() if isinstance(getattr(value, "_data", None), Tensor)), None)
    if watched is not None:
        return OperandError(f"{call}; the option {watched!r} must be a plain value; got a Variable. Give its v.item() or v.data")
    said = str(error).split("\n")[0].strip()
    if isinstance(error, IndexError):
        return (RangeError if "out of bounds" in said else AxisError)(f"{call}; {said}")
    lowered = said.lower()
    if "not implemented for" in lowered or "dtype" in lowered or "expected scalar type" in lowered or "bool tensor" in lowered:
        return DtypeError(f"{call}; {said}")
    if isinstance(error, TypeError):
        return OperandError(f"{call}; {said}")
    if isinstance(error, ValueError):
        return SettingError(f"{call}; {said}")
    if isinstance(error, RuntimeError) and any(word in lowered for word in ("size", "shape", "dimension", "allocate memory")):
        return ShapeError(f"{call}; {said}")
    if isinstance(error, OverflowError) and any(isinstance(v, int) and abs(v) >= 2**63 for v in (*values, *options.values())):
        return SettingError(f"{call}; {said}")
    if not op.__module__.startswith("hotgrad."):  # what a user's forward raises is the user's
        return error
    if isinstance(error, OverflowError) or "overflow" in lowered:
        return SettingError(f"{call}; {said}")
    if any(word in lowered for word in ("integer", "bool", "complex", "type")):
        return DtypeError(f"{call}; {said}")
    return OperandError(f"{call}; {said}")


def _explain_matmul(call: str, a: tuple[int, ...], b: tuple[int, ...], error: Exception) -> Exception:
    if not a or not b:
        return ShapeError(f"{call}; a scalar has no axis to contract. Use * instead of @")
    inner = b[-2] if len(b) > 1 else b[0]
    if a[-1] != inner:
        return ShapeError(
            f"{call}; the last axis of a ({a[-1]}) must equal the {'second to last' if len(b) > 1 else 'only'} axis of b ({inner})"
        )
    try:
        torch.broadcast_shapes(a[:-2], b[:-2])  # type: ignore[no-untyped-call]
    except RuntimeError:
        return ShapeError(f"{call}; the leading (batch) axes {a[:-2]} and {b[:-2]} do not broadcast")
    return DtypeError(f"{call}; {str(error).splitlines()[0]}. Cast one with to(dtype)")


def several(what: str, values: Any) -> tuple[Any, ...]:
    """`values`, which `what` names, as a tuple."""
    if not isinstance(values, Iterable):
        raise OperandError(f"{what} must be a Variable or several; got {values!r:.60}")
    return tuple(values)


def check_like(what: str, value: Any, like: Tensor) -> None:
    """Raise unless a tensor or Variable has the shape, dtype and device of `like`; `what` names it."""
    if value.shape != like.shape:
        raise ShapeError(f"{what} must have shape {tuple(like.shape)}; got {tuple(value.shape)}")
    if value.dtype != like.dtype:
        raise DtypeError(f"{what} must have dtype {like.dtype}; got {value.dtype}. Convert it with to({like.dtype})")
    if value.device != like.device:
        raise DeviceError(f"{what} must be on {like.device}; got {value.device}. Move it with to({str(like.device)!r})")


def operand_name(record: Record, parent: Any) -> str:
    """The name of the operand that came from `parent`, quoted."""
    names = record.op.operand_names
    index = next((i for i, p in enumerate(record.parents or ()) if p is parent), 0)
    return repr(names[index]) if record.op.arity is not None else f"{names[0]}[{index}]"


def rule_failed(record: Record, rule: Any, error: Exception) -> NoReturn:
    """Raise the error for a rule that used what it did not declare, does not exist, or is one of ours and cannot do what is asked;
    any other comes out as it is.
    """
    op, parents = record.op, record.parents or ()
    if isinstance(rule, partial):  # of the one `vjp`
        index: int = rule.args[0]
    else:
        index = next((i for i, r in enumerate(op.rules) if r is rule and parents[i] is not None), 0)
    operand = operand_name(record, parents[index])
    if rule is None:
        raise TapeError(
            f"{op.name} is not differentiable with respect to {operand}, which requires a gradient; use detach() on it"
        ) from None
    reads = op.reads[min(index, len(op.reads) - 1)]
    unread = getattr(error, "obj", None)
    if isinstance(error, TypeError):  # Python names the class: "object of type 'Accumulator' has no len()"
        unread = next((v for v in record.operands if isinstance(v, Node) and repr(type(v).__name__) in str(error)), None)
    if isinstance(unread, Node):
        used = next((name for name, value in zip(op.operand_names, record.operands) if value is unread), op.operand_names[0])
        raise RuleError(
            f"{op.name}: the rule for {operand} uses {used!r}, of which only shape, dtype and device were kept; "
            f"add it to that rule's entry in `reads`, now {reads!r}"
        ) from error
    if record.out is None and "NoneType" in str(error) and "out" not in reads.split():
        raise RuleError(
            f"{op.name}: the rule for {operand} failed ({error}); if it uses 'out', add that to its entry in `reads`, now {reads!r}"
        ) from error
    if isinstance(error, (HotgradError, torch.OutOfMemoryError)) or not op.__module__.startswith("hotgrad."):
        try:
            raise error
        finally:
            del error  # whose traceback holds this frame, see `fail`
    parent: Any = parents[index]
    of = f"{str(parent.dtype).removeprefix('torch.')}{tuple(parent.shape)}"
    raise RuleError(f"{op.name}: the rule for {operand} of {of} cannot be computed: {str(error).splitlines()[0]}") from error


def misfit(record: Record, parent: Node, what: str) -> RuleError:
    """The error for a rule's result that cannot be its operand's gradient; `what` says why."""
    return RuleError(f"{record.op.name}: the rule for {operand_name(record, parent)} of shape {tuple(parent.shape)} {what}")


def freed(record: Record) -> TapeError:
    """The error for a walk into what an earlier one used up."""
    what = f"the graph was freed by an earlier backward (at {record.op.name}, result {tuple(record.shape)})"
    return TapeError(f"{what}; use retain_graph=True in the earlier one, or compute the expression again")


def written(record: Record, value: Tensor) -> TapeError:
    """The error for a kept tensor that is not what it was."""
    what = next((f"operand {name!r}" for name, x in zip(record.op.operand_names, record.operands) if x is value), "")
    what = what or ("its result" if value is record.out else "an index or option")
    return TapeError(
        f"{record.op.name}: {what} of shape {tuple(value.shape)} was written to in place after it was recorded, "
        "so the gradient would be wrong; write before the op is computed, or give the op a clone"
    )


def table(records: Sequence[Record]) -> str:
    """Records as text, one line each: number, op, where the operands came from, result, what is kept for backward."""
    numbers = {id(record): f"%{i}" for i, record in enumerate(records)}
    rows = [("", "op", "operands", "result", "keeps")]
    for record in records:
        operands = []
        for parent, value in zip(record.parents or (), record.operands):
            shown = numbers.get(id(parent)) or (parent.name if parent is not None else None)
            if shown is None:
                leaf = "leaf" if isinstance(parent, Accumulator) else "constant" if parent is None else "freed"
                shown = f"{leaf}{_shape(value)}" if isinstance(value, (Tensor, Node)) else repr(value)
            operands.append(shown)
        size = sum(t.numel() * t.element_size() for t in record.saved())
        result = f"{record.name or ''}{_shape(record)} {str(record.dtype).removeprefix('torch.')}"
        rows.append((numbers[id(record)], record.op.name, ", ".join(operands), result, f"{size:,} B"))
    if len(rows) == 1:
        return "(nothing recorded)"
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths)) + "  " + row[-1].rjust(widths[-1]) for row in rows]
    return "\n".join(lines)


def _shape(value: Tensor | Node) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"
