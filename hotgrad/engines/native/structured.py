"""How the native engine lowers the ops that are not elementwise: for each shape class a function of the lowering, the instruction,
the operands' places and the options, that adds kernels and returns the result's place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from hotgrad.engines.native.builder import Builder
from hotgrad.engines.native.contractions import einsum, product
from hotgrad.engines.native.convolutions import convolution, convolution_input, convolution_weight
from hotgrad.engines.native.indexing import Along, Table
from hotgrad.engines.native.kernels import Fill, Transfer
from hotgrad.engines.native.layout import NativeError, Place, new_place, reshaped
from hotgrad.engines.native.pooling import pool_argmax
from hotgrad.engines.native.reductions import Cumsum, Reduce
from hotgrad.ops.axes import normal_axes, normal_axis
from hotgrad.program.instructions import Instruction


def _reshape(build: Builder, instruction: Instruction, a: Place, shape: Any) -> Place:
    target = instruction.out.shape
    return reshaped(a, target) or cast(Place, reshaped(build.copied(a, padded=False), target))


def _permute(build: Builder, instruction: Instruction, a: Place, dims: Any) -> Place:
    return a.permuted([normal_axis(d, len(a.shape)) for d in dims])


def _expand(build: Builder, instruction: Instruction, a: Place, shape: Any) -> Place:
    return a.broadcast(instruction.out.shape)


def _flip(build: Builder, instruction: Instruction, a: Place, dims: Any) -> Place:
    axes = () if dims == () else normal_axes(dims, len(a.shape))
    offset = sum((a.shape[i] - 1) * a.strides[i] for i in axes if a.shape[i])
    return a.view(a.shape, [-s if i in axes else s for i, s in enumerate(a.strides)], offset)


def _unfold(build: Builder, instruction: Instruction, a: Place, dimension: int, size: int, step: int) -> Place:
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


def _getitem(build: Builder, instruction: Instruction, a: Place, index: Any) -> Place:
    if _is_basic(index):
        return _picked(a, index)
    out = build.place_for(instruction.out)
    table = _table(build, a.shape, a, index)
    build.add(Table(build.context, [a, table], [out], build.note(instruction)))
    return out


def _table(build: Builder, shape: tuple[int, ...], place: Place, index: Any) -> Place:
    """A constant with the elements' offsets in the buffer for an index with tensors."""
    offsets = torch.zeros(shape, dtype=torch.int64)
    for axis, (size, stride) in enumerate(zip(shape, place.strides)):
        offsets += (torch.arange(size) * stride).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    chosen = offsets[index] + place.offset
    table = new_place(tuple(chosen.shape), torch.int64, build.context.lanes, pinned=True)
    build.constants.append((table, chosen))
    return table


def _putitem(build: Builder, instruction: Instruction, g: Place, shape: Any, index: Any) -> Place:
    out = _filled(build, instruction, 0.0)
    if _is_basic(index):
        build.add(Transfer(build.context, [g], [_picked(out, index)], build.note(instruction)))
    else:
        table = _table(build, out.shape, out, index)
        build.add(Table(build.context, [g.broadcast(table.shape), table, out], [out], build.note(instruction), add=True))
    return out


def _filled(build: Builder, instruction: Instruction, value: float) -> Place:
    out = build.place_for(instruction.out)
    build.add(Fill(build.context, [], [out], [f"fill {out.shape}"], value))
    return out


def _pad(build: Builder, instruction: Instruction, a: Place, pad: Any, mode: str, value: float) -> Place:
    around = [(0, 0)] * len(a.shape)
    for i in range(len(pad) // 2):
        around[-1 - i] = (pad[2 * i], pad[2 * i + 1])
    out = build.place_for(instruction.out)
    build.pad(build.note(instruction), a, around, out, value)
    return out


def _fold(build: Builder, instruction: Instruction, g: Place, shape: Any, dimension: int, size: int, step: int) -> Place:
    out = _filled(build, instruction, 0.0)
    build.add(Transfer(build.context, [g, out], [_windows(out, dimension, size, step)], build.note(instruction), add=True))
    return out


def _cat(build: Builder, instruction: Instruction, *tensors: Place, dim: int) -> Place:
    out = build.place_for(instruction.out)
    axis = normal_axis(dim, len(out.shape))
    start = 0
    for place in tensors:
        if len(place.shape) != len(out.shape):  # torch lets a tensor of shape (0,) join any others
            continue
        target = _picked(out, (slice(None),) * axis + (slice(start, start + place.shape[axis]),))
        build.add(Transfer(build.context, [place], [target], build.note(instruction)))
        start += place.shape[axis]
    return out


def _stack(build: Builder, instruction: Instruction, *tensors: Place, dim: int) -> Place:
    out = build.place_for(instruction.out)
    axis = normal_axis(dim, len(out.shape))
    for position, place in enumerate(tensors):
        build.add(Transfer(build.context, [place], [_picked(out, (slice(None),) * axis + (position,))], build.note(instruction)))
    return out


def _reduce(build: Builder, instruction: Instruction, a: Place, dim: Any = None, keepdim: bool = False) -> Place:
    axes = normal_axes(dim, len(a.shape))
    out = build.place_for(instruction.out)
    whole = reshaped(out, tuple(1 if i in axes else n for i, n in enumerate(a.shape)))
    build.add(Reduce(build.context, [a], [cast(Place, whole)], build.note(instruction), str(instruction.op.native), axes))
    return out


def _cumsum(build: Builder, instruction: Instruction, a: Place, dim: int) -> Place:
    out = build.place_for(instruction.out)
    build.add(Cumsum(build.context, [a], [out], build.note(instruction), normal_axis(dim, len(a.shape))))
    return out


def _gather(build: Builder, instruction: Instruction, a: Place, index: Place, dim: int) -> Place:
    out, axis = build.place_for(instruction.out), normal_axis(dim, len(a.shape))
    build.add(Along(build.context, [a, index], [out], build.note(instruction), axis, build.check(instruction, axis, a.shape[axis])))
    return out


def _scatter(build: Builder, instruction: Instruction, a: Place, index: Place, src: Place, dim: int) -> Place:
    out, axis = build.place_for(instruction.out), normal_axis(dim, len(a.shape))
    build.add(Transfer(build.context, [a], [out], build.note(instruction)))
    check = build.check(instruction, axis, a.shape[axis])
    build.add(Along(build.context, [src, index, out], [out], build.note(instruction), axis, check, replace=True))
    return out


def _scatter_add(build: Builder, instruction: Instruction, g: Place, index: Place, shape: Any, dim: int) -> Place:
    out, axis = _filled(build, instruction, 0.0), normal_axis(dim, len(shape))
    check = build.check(instruction, axis, shape[axis])
    build.add(Along(build.context, [g, index, out], [out], build.note(instruction), axis, check, add=True))
    return out


def _matmul(build: Builder, instruction: Instruction, a: Place, b: Place) -> Place:
    out = build.place_for(instruction.out)
    if not out.dtype.is_floating_point:
        raise NativeError(f"MatMul of {out.dtype} has no native form")
    if 0 in out.shape:
        return out
    product(build, build.note(instruction), a, b, out)
    return out


def _einsum(build: Builder, instruction: Instruction, *operands: Place, equation: str) -> Place:
    if not instruction.out.dtype.is_floating_point:
        raise NativeError(f"Einsum of {instruction.out.dtype} has no native form")
    if 0 in instruction.out.shape:
        return build.place_for(instruction.out)
    return einsum(build, build.note(instruction), operands, equation)


KERNELS: dict[str, Callable[..., Place]] = {
    "reshape": _reshape, "permute": _permute, "expand": _expand, "flip": _flip, "unfold": _unfold, "fold": _fold, "getitem": _getitem,
    "putitem": _putitem, "pad": _pad, "cat": _cat, "stack": _stack, "sum": _reduce, "prod": _reduce, "amax": _reduce, "amin": _reduce,
    "cumsum": _cumsum, "gather": _gather, "scatter": _scatter, "scatter_add": _scatter_add, "matmul": _matmul, "einsum": _einsum,
    "convolution": convolution, "convolution_input": convolution_input, "convolution_weight": convolution_weight,
    "pool_argmax": pool_argmax,
}  # fmt: skip
