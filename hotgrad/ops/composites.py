"""Functions and methods composed from primitives, or calling them in torch's form; they have no gradient code."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Cast
from hotgrad.ops.axes import array, normal_axes, normal_axis
from hotgrad.ops.products import Einsum, spell_out
from hotgrad.ops.shaping import Cat, Permute, Reshape, Stack

__all__ = ["cat", "einsum", "flatten", "squeeze", "stack", "transpose", "unsqueeze"]


def flatten(a: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """`a` with the axes from `start_dim` to `end_dim` merged into one; a scalar becomes one element.

    >>> hg.flatten(torch.zeros(2, 3, 4), 1).shape
    torch.Size([2, 12])
    """
    a = array(a)
    if not a.ndim:
        return Reshape.apply(a, (1,))
    start, end = normal_axis(start_dim, a.ndim), normal_axis(end_dim, a.ndim)
    if start > end:
        raise ShapeError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim} in shape {tuple(a.shape)}")
    sizes = tuple(a.shape)
    return Reshape.apply(a, (*sizes[:start], math.prod(sizes[start : end + 1]), *sizes[end + 1 :]))


def transpose(a: Any, dim0: int, dim1: int) -> Any:
    """`a` with two axes exchanged.

    >>> hg.transpose(torch.zeros(2, 3), 0, 1).shape
    torch.Size([3, 2])
    """
    a = array(a)
    axes = list(range(a.ndim))
    if axes:
        i, j = normal_axis(dim0, a.ndim), normal_axis(dim1, a.ndim)
        axes[i], axes[j] = axes[j], axes[i]
    return Permute.apply(a, tuple(axes))


def squeeze(a: Any, dim: int | tuple[int, ...] | None = None) -> Any:
    """`a` without its axes of size 1, or without those of `dim` that have size 1.

    >>> hg.squeeze(torch.zeros(1, 3, 1), 0).shape
    torch.Size([3, 1])
    """
    a = array(a)
    axes = range(a.ndim) if dim is None else () if isinstance(dim, tuple) and not dim else normal_axes(dim, a.ndim)
    return Reshape.apply(a, tuple(n for i, n in enumerate(a.shape) if n != 1 or i not in axes))


def unsqueeze(a: Any, dim: int) -> Any:
    """`a` with a new axis of size 1 at position `dim`.

    >>> hg.unsqueeze(torch.zeros(3), -1).shape
    torch.Size([3, 1])
    """
    a = array(a)
    axis = normal_axis(dim, a.ndim + 1)
    return Reshape.apply(a, (*a.shape[:axis], 1, *a.shape[axis:]))


def _several(function: str, tensors: Any) -> tuple[Any, ...]:
    if isinstance(tensors, (list, tuple)) and tensors:
        return tuple(tensors)
    raise OperandError(f"{function}: the first argument must be a non-empty list or tuple of tensors; got {type(tensors).__name__}")


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along the axis `dim`; their other sizes must be equal.

    >>> hg.cat([torch.ones(1), torch.zeros(2)])
    tensor([1., 0., 0.])
    """
    return Cat.apply(*_several("cat", tensors), dim=dim)


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of equal shape joined along a new axis `dim`.

    >>> hg.stack([torch.ones(2), torch.zeros(2)], 1)
    tensor([[1., 0.],
            [1., 0.]])
    """
    return Stack.apply(*_several("stack", tensors), dim=dim)


def einsum(equation: str, *operands: Any) -> Any:
    """Sum of products over the axes named by `equation`, in Einstein's notation.

    >>> hg.einsum("ij,kj->ik", torch.ones(2, 3), torch.ones(2, 3))
    tensor([[3., 3.],
            [3., 3.]])
    """
    if not isinstance(equation, str) or not operands or isinstance(operands[0], (list, tuple)):
        raise OperandError("einsum takes the equation as a string, then the operands one by one")
    named = equation.partition("->")[0].count(",") + 1
    if named != len(operands):
        raise OperandError(f"einsum: equation {equation!r} names {named} operands; got {len(operands)}")
    if len(operands) <= _AT_ONCE or not re.fullmatch(r"[A-Za-z., ]+(->[A-Za-z. ]*)?", equation):
        return Einsum.apply(*operands, equation=equation)
    return _in_turn(equation, [array(a) for a in operands])


_AT_ONCE = 8  # each gradient of an Einsum looks at all operands


def _in_turn(equation: str, operands: list[Any]) -> Any:
    """The einsum of two operands, of the result and the next, and so on, as torch itself computes it."""
    inputs, output = spell_out(equation, [a.ndim for a in operands])
    needed = [set(output)]  # the letters of the output and of the operands after each, from the last on
    for term in reversed(inputs[2:]):
        needed.append(needed[-1] | set(term))
    result, letters = operands[0], inputs[0]
    for operand, term in zip(operands[1:], inputs[1:]):
        later = needed.pop()
        kept = "".join(c for c in dict.fromkeys(letters + term) if c in later) if needed else output
        result, letters = Einsum.apply(result, operand, equation=f"{letters},{term}->{kept}"), kept
    return result


def destination(args: tuple[Any, ...], dtype: torch.dtype | None, device: Any) -> tuple[torch.dtype | None, Any]:
    """The dtype and the device that `to(*args, dtype=dtype, device=device)` asks for. Raises OperandError for anything else."""
    for arg in args:
        if isinstance(arg, torch.dtype):
            dtype = arg
        elif isinstance(arg, (Tensor, Variable)):
            dtype, device = arg.dtype, arg.device
        elif isinstance(arg, (str, torch.device, int)) and not isinstance(arg, bool):
            device = arg
        elif arg is not None:
            raise OperandError(f"to: expected a dtype, a device or another tensor; got {arg!r:.60}")
    return dtype, device


def to(a: Any, *args: Any, dtype: torch.dtype | None = None, device: Any = None) -> Any:
    """`a` in a dtype, on a device, or both, as in torch: `to(dtype)`, `to(device)`, `to(device, dtype)`, `to(other)`.

    >>> hg.Variable([1.0]).to(torch.float64).dtype
    torch.float64
    """
    dtype, device = destination(args, dtype, device)
    return Cast.apply(a, dtype=dtype, device=device)


# torch's short names of conversions, which are methods alone: as functions they would be taken for Python's types
DTYPES = {
    "float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16, "long": torch.int64, "int": torch.int32,
    "short": torch.int16, "bool": torch.bool,
}  # fmt: skip


def conversion(name: str, dtype: torch.dtype) -> Callable[[Any], Any]:
    """The method `v.float()` and its like: `a` in that dtype; integers and bools are plain tensors' numbers and have no gradient."""

    def convert(a: Any) -> Any:
        return Cast.apply(a, dtype=dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = f"`a` in {dtype}; what `to({dtype})` gives."
    return convert


def reversed_axes(a: Any) -> Any:
    """`a` with the order of its axes reversed; `v.T`."""
    return Permute.apply(a, tuple(range(a.ndim))[::-1])


def matrix_transpose(a: Any) -> Any:
    """`a` with its last two axes exchanged; `v.mT`. Raises ShapeError for fewer than two axes."""
    if a.ndim < 2:
        raise ShapeError(f"mT exchanges the last two axes; got shape {tuple(a.shape)}")
    return transpose(a, -2, -1)
