"""How the native engine lowers the ops that are not elementwise: for each shape class a function of the lowering, the instruction,
the operands' places and the options, that adds kernels and returns the result's place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from hotgrad.engines.native.contractions import einsum, product
from hotgrad.engines.native.indexing import Gathering, Scattering, Table
from hotgrad.engines.native.kernels import Copy, Fill
from hotgrad.engines.native.layout import NativeError, Place, fresh, reshaped
from hotgrad.engines.native.reductions import Cumsum, Reduce
from hotgrad.ops.axes import normal_axes, normal_axis
from hotgrad.program.instructions import Instruction

if TYPE_CHECKING:
    from hotgrad.engines.native.lowering import Lowering


def _reshape(low: Lowering, instruction: Instruction, a: Place, shape: Any) -> Place:
    target = instruction.out.shape
    return reshaped(a, target) or cast(Place, reshaped(low.copied(a, padded=False), target))


def _permute(low: Lowering, instruction: Instruction, a: Place, dims: Any) -> Place:
    return a.permuted([normal_axis(d, len(a.shape)) for d in dims])


def _expand(low: Lowering, instruction: Instruction, a: Place, shape: Any) -> Place:
    return a.broadcast(instruction.out.shape)


def _flip(low: Lowering, instruction: Instruction, a: Place, dims: Any) -> Place:
    axes = () if dims == () else normal_axes(dims, len(a.shape))
    offset = sum((a.shape[i] - 1) * a.strides[i] for i in axes if a.shape[i])
    return a.view(a.shape, [-s if i in axes else s for i, s in enumerate(a.strides)], offset)


def _unfold(low: Lowering, instruction: Instruction, a: Place, dimension: int, size: int, step: int) -> Place:
    return _windows(a, dimension, size, step)


def _windows(a: Place, dimension: int, size: int, step: int) -> Place:
    axis = normal_axis(dimension, len(a.shape))
    if not a.shape:
        return a.view((size,), (1,))
    count = (a.shape[axis] - size) // step + 1
    shape, strides = [*a.shape, size], [*a.strides, a.strides[axis]]
    shape[axis], strides[axis] = count, a.strides[axis] * step
    return a.view(shape, strides)


def _is_basic(index: Any) -> bool:
    items = index if isinstance(index, tuple) else (index,)
    return all(
        item is None or item is ... or isinstance(item, slice) or (isinstance(item, int) and not isinstance(item, bool)) for item in items
    )


def _picked(a: Place, index: Any) -> Place:
    """The view of a basic index."""
    items = list(index) if isinstance(index, tuple) else [index]
    given = sum(item is not None and item is not ... for item in items)
    if ... not in items:
        items.append(...)
    where = items.index(...)
    items[where : where + 1] = [slice(None)] * (len(a.shape) - given)
    shape, strides, offset, axis = [], [], 0, 0
    for item in items:
        if item is None:
            shape.append(1)
            strides.append(0)
            continue
        size, stride = a.shape[axis], a.strides[axis]
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            shape.append(len(range(start, stop, step)))
            strides.append(stride * step)
            offset += start * stride if shape[-1] else 0
        else:
            offset += (item % max(size, 1)) * stride
        axis += 1
    return a.view(shape, strides, offset)


def _getitem(low: Lowering, instruction: Instruction, a: Place, index: Any) -> Place:
    if _is_basic(index):
        return _picked(a, index)
    out = low.fresh(instruction.out)
    table = _table(low, a.shape, a, index)
    low.add(Table(low.context, [a, table], [out], low.note(instruction)))
    return out


def _table(low: Lowering, shape: tuple[int, ...], place: Place, index: Any) -> Place:
    """A constant with the elements' offsets in the buffer for an index with tensors."""
    offsets = torch.zeros(shape, dtype=torch.int64)
    for axis, (size, stride) in enumerate(zip(shape, place.strides)):
        offsets += (torch.arange(size) * stride).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    chosen = offsets[index] + place.offset
    table = fresh(tuple(chosen.shape), torch.int64, low.context.lanes, pinned=True)
    low.constants.append((table, chosen))
    return table


def _putitem(low: Lowering, instruction: Instruction, g: Place, shape: Any, index: Any) -> Place:
    out = _filled(low, instruction, 0.0)
    if _is_basic(index):
        low.add(Copy(low.context, [g], [_picked(out, index)], low.note(instruction)))
    else:
        table = _table(low, out.shape, out, index)
        low.add(Table(low.context, [g.broadcast(table.shape), table, out], [out], low.note(instruction), add=True))
    return out


def _filled(low: Lowering, instruction: Instruction, value: float) -> Place:
    out = low.fresh(instruction.out)
    low.add(Fill(low.context, [], [out], [f"fill {out.shape}"], value))
    return out


def _pad(low: Lowering, instruction: Instruction, a: Place, pad: Any, mode: str, value: float) -> Place:
    before = [0] * len(a.shape)
    after = [0] * len(a.shape)
    for i in range(len(pad) // 2):
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    out = _filled(low, instruction, value)
    source = _picked(a, tuple(slice(max(-b, 0), n - max(-e, 0)) for b, e, n in zip(before, after, a.shape)))
    target = _picked(out, tuple(slice(max(b, 0), max(b, 0) + n) for b, n in zip(before, source.shape)))
    low.add(Copy(low.context, [source], [target], low.note(instruction)))
    return out


def _fold(low: Lowering, instruction: Instruction, g: Place, shape: Any, dimension: int, size: int, step: int) -> Place:
    out = _filled(low, instruction, 0.0)
    low.add(Copy(low.context, [g, out], [_windows(out, dimension, size, step)], low.note(instruction), add=True))
    return out


def _cat(low: Lowering, instruction: Instruction, *tensors: Place, dim: int) -> Place:
    out = low.fresh(instruction.out)
    axis = normal_axis(dim, len(out.shape))
    start = 0
    for place in tensors:
        if len(place.shape) != len(out.shape):  # torch lets a tensor of shape (0,) join any others
            continue
        target = _picked(out, (slice(None),) * axis + (slice(start, start + place.shape[axis]),))
        low.add(Copy(low.context, [place], [target], low.note(instruction)))
        start += place.shape[axis]
    return out


def _stack(low: Lowering, instruction: Instruction, *tensors: Place, dim: int) -> Place:
    out = low.fresh(instruction.out)
    axis = normal_axis(dim, len(out.shape))
    for position, place in enumerate(tensors):
        low.add(Copy(low.context, [place], [_picked(out, (slice(None),) * axis + (position,))], low.note(instruction)))
    return out


def _reduce(low: Lowering, instruction: Instruction, a: Place, dim: Any = None, keepdim: bool = False) -> Place:
    axes = normal_axes(dim, len(a.shape))
    out = low.fresh(instruction.out)
    whole = reshaped(out, tuple(1 if i in axes else n for i, n in enumerate(a.shape)))
    low.add(Reduce(low.context, [a], [cast(Place, whole)], low.note(instruction), str(instruction.op.native), axes))
    return out


def _cumsum(low: Lowering, instruction: Instruction, a: Place, dim: int) -> Place:
    out = low.fresh(instruction.out)
    low.add(Cumsum(low.context, [a], [out], low.note(instruction), normal_axis(dim, len(a.shape))))
    return out


def _gather(low: Lowering, instruction: Instruction, a: Place, index: Place, dim: int) -> Place:
    out = low.fresh(instruction.out)
    low.add(Gathering(low.context, [a, index], [out], low.note(instruction), normal_axis(dim, len(out.shape)), low.check(instruction)))
    return out


def _scatter_add(low: Lowering, instruction: Instruction, g: Place, index: Place, shape: Any, dim: int) -> Place:
    out = _filled(low, instruction, 0.0)
    low.add(
        Scattering(low.context, [g, index, out], [out], low.note(instruction), normal_axis(dim, len(out.shape)), low.check(instruction))
    )
    return out


def _matmul(low: Lowering, instruction: Instruction, a: Place, b: Place) -> Place:
    out = low.fresh(instruction.out)
    if not out.dtype.is_floating_point:
        raise NativeError(f"MatMul of {out.dtype} has no native form")
    if 0 in out.shape:
        return out
    product(low, low.note(instruction), a, b, out)
    return out


def _einsum(low: Lowering, instruction: Instruction, *operands: Place, equation: str) -> Place:
    if not instruction.out.dtype.is_floating_point:
        raise NativeError(f"Einsum of {instruction.out.dtype} has no native form")
    if 0 in instruction.out.shape:
        return low.fresh(instruction.out)
    return einsum(low, low.note(instruction), operands, equation)


SHAPE_CLASSES: dict[str, Callable[..., Place]] = {
    "reshape": _reshape, "permute": _permute, "expand": _expand, "flip": _flip, "unfold": _unfold, "fold": _fold, "getitem": _getitem,
    "putitem": _putitem, "pad": _pad, "cat": _cat, "stack": _stack, "sum": _reduce, "prod": _reduce, "amax": _reduce, "amin": _reduce,
    "cumsum": _cumsum, "gather": _gather, "scatter_add": _scatter_add, "matmul": _matmul, "einsum": _einsum,
}  # fmt: skip
