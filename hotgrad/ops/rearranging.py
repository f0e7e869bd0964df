"""Second forms of `shaping` and of slices, under torch's names: they compute nothing, and views stay views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.axes import array, common_shape, normal_axes, normal_axis
from hotgrad.ops.indexing import GetItem
from hotgrad.ops.shaping import Cat, Copy, Expand, Flip, Pad, Permute, Reshape

__all__ = [
    "adjoint", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "broadcast_to", "chunk", "clone", "column_stack", "contiguous",
    "diag", "diag_embed", "diagonal", "dstack", "expand_as", "fliplr", "flipud", "hstack", "meshgrid", "movedim", "narrow", "ravel", "repeat",
    "repeat_interleave", "reshape_as", "roll", "rot90", "select", "split", "t", "tensor_split", "tile", "trace", "tril", "triu", "unbind",
    "unflatten", "view", "view_as", "vstack",
]  # fmt: skip


def whole_sizes(name: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    given = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in given):
        raise OperandError(f"{name}: expected whole numbers; got {given!r:.60}")
    return given


def view(a: Any, *shape: Any) -> Any:
    """`a` with another shape: `reshape` under torch's older name, which copies where no view is possible.

    >>> hg.Variable([1.0, 2.0, 3.0, 4.0]).view(2, -1).shape
    torch.Size([2, 2])
    """
    return Reshape.apply(a, whole_sizes("view", shape))


def view_as(a: Any, other: Any) -> Any:
    """`a` in the shape of `other`.

    >>> hg.Variable([1.0, 2.0]).view_as(torch.zeros(2, 1)).shape
    torch.Size([2, 1])
    """
    return Reshape.apply(a, tuple(other.shape))


def reshape_as(a: Any, other: Any) -> Any:
    """`a` in the shape of `other`.

    >>> hg.Variable([1.0, 2.0]).reshape_as(torch.zeros(2, 1)).shape
    torch.Size([2, 1])
    """
    return Reshape.apply(a, tuple(other.shape))


def clone(a: Any) -> Any:
    """A copy of `a` in memory of its own, through which gradients flow.

    >>> hg.clone(hg.Variable([1.0]))
    Variable([1.])
    """
    return Copy.apply(a)


def contiguous(a: Any) -> Any:
    """`a`, copied where its elements do not lie in order.

    >>> hg.Variable([[1.0, 2.0], [3.0, 4.0]]).T.contiguous().data.is_contiguous()
    True
    """
    return Copy.apply(a)


def ravel(a: Any) -> Any:
    """`a` as one axis.

    >>> hg.ravel(torch.zeros(2, 3)).shape
    torch.Size([6])
    """
    return Reshape.apply(a, (-1,))


def unflatten(a: Any, dim: int, sizes: Sequence[int]) -> Any:
    """`a` with the axis `dim` split into several, of `sizes`; one may be -1.

    >>> hg.unflatten(torch.zeros(2, 6), 1, (2, -1)).shape
    torch.Size([2, 2, 3])
    """
    a = array(a)
    axis = normal_axis(dim, a.ndim)
    sizes, size = whole_sizes("unflatten", (tuple(sizes),)), a.shape[axis]
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1 or (size % known if -1 in sizes and known else size != known):
        raise ShapeError(f"unflatten: sizes {sizes} do not multiply to the {size} elements of axis {dim} in shape {tuple(a.shape)}")
    return Reshape.apply(a, (*a.shape[:axis], *(size // known if n == -1 else n for n in sizes), *a.shape[axis + 1 :]))


def broadcast_to(a: Any, shape: Sequence[int]) -> Any:
    """`a` broadcast to `shape`, as a view; `expand` under another name.

    >>> hg.broadcast_to(torch.zeros(3), (2, 3)).shape
    torch.Size([2, 3])
    """
    return Expand.apply(a, tuple(shape))


def expand_as(a: Any, other: Any) -> Any:
    """`a` broadcast to the shape of `other`.

    >>> hg.expand_as(torch.zeros(3), torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    return Expand.apply(a, tuple(other.shape))


def broadcast_tensors(*tensors: Any) -> tuple[Any, ...]:
    """All tensors broadcast to their common shape.

    >>> [x.shape for x in hg.broadcast_tensors(torch.zeros(2, 1), torch.zeros(3))]
    [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    tensors = tuple(map(array, tensors))
    shape = common_shape("broadcast_tensors", *(a.shape for a in tensors))
    return tuple(Expand.apply(a, shape) for a in tensors)


def movedim(a: Any, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> Any:
    """`a` with the axes `source` at the positions `destination`; the others keep their order.

    >>> hg.movedim(torch.zeros(2, 3, 4), 0, -1).shape
    torch.Size([3, 4, 2])
    """
    a = array(a)
    old, new = ((normal_axes(d, a.ndim) if d != () else ()) for d in (source, destination))
    if len(old) != len(new):
        raise OperandError(f"movedim: source and destination must name as many axes; got {source} and {destination}")
    order = [axis for axis in range(a.ndim) if axis not in old]
    for place, axis in sorted(zip(new, old)):
        order.insert(place, axis)
    return Permute.apply(a, tuple(order))


def t(a: Any) -> Any:
    """A matrix transposed; fewer axes stay as they are. Raises ShapeError for more than two.

    >>> hg.t(torch.zeros(2, 3)).shape
    torch.Size([3, 2])
    """
    a = array(a)
    if a.ndim > 2:
        raise ShapeError(f"t: expected at most 2 axes; got shape {tuple(a.shape)}. Use transpose, permute or v.mT")
    return Permute.apply(a, tuple(range(a.ndim))[::-1])


def adjoint(a: Any) -> Any:
    """`a` with its last two axes exchanged; of real numbers the same as `v.mT`.

    >>> hg.adjoint(torch.zeros(2, 3, 4)).shape
    torch.Size([2, 4, 3])
    """
    return array(a).mT


def select(a: Any, dim: int, index: int) -> Any:
    """The slice at `index` of the axis `dim`, which goes.

    >>> hg.select(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), 1, 0)
    Variable([1., 3.])
    """
    return _cut(a, dim, index)


def narrow(a: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements along the axis `dim`, from `start` on. Raises OperandError where there are not as many.

    >>> hg.narrow(hg.Variable([1.0, 2.0, 3.0]), 0, 1, 2)
    Variable([2., 3.])
    """
    a = array(a)
    size = a.shape[normal_axis(dim, a.ndim)] if a.ndim else 0
    first = start + size if start < 0 else start
    if not (0 <= first <= size and 0 <= length <= size - first):
        raise OperandError(f"narrow: {length} elements from {start} on do not lie within the {size} of axis {dim}")
    return _cut(a, dim, slice(first, first + length))


def _cut(a: Any, dim: int, what: Any) -> Any:
    a = array(a)
    return GetItem.apply(a, (*(slice(None) for _ in range(normal_axis(dim, a.ndim))), what))


def split(a: Any, split_size: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Slices along the axis `dim`, of `split_size` elements each, the last of what is left; or of the sizes that are listed.

    >>> [len(part) for part in hg.split(torch.zeros(5), 2)]
    [2, 2, 1]
    """
    a = array(a)
    size = a.shape[normal_axis(dim, a.ndim)]
    if isinstance(split_size, int):
        if split_size < 1:
            raise OperandError(f"split: split_size must be 1 or more; got {split_size}")
        split_size = [min(split_size, size - i) for i in range(0, size, split_size)] or [0]
    if sum(split_size) != size or min(split_size, default=0) < 0:
        raise ShapeError(
            f"split: the sizes {tuple(split_size)} do not add up to the {size} elements of axis {dim} in shape {tuple(a.shape)}"
        )
    ends = [sum(split_size[: i + 1]) for i in range(len(split_size))]
    return tuple(_cut(a, dim, slice(end - n, end)) for n, end in zip(split_size, ends))


def chunk(a: Any, chunks: int, dim: int = 0) -> tuple[Any, ...]:
    """At most `chunks` slices of equal size along the axis `dim`, the last of what is left.

    >>> [len(part) for part in hg.chunk(torch.zeros(5), 2)]
    [3, 2]
    """
    a = array(a)
    if not isinstance(chunks, int) or chunks < 1:
        raise OperandError(f"chunk: chunks must be a whole number, 1 or more; got {chunks!r}")
    size = a.shape[normal_axis(dim, a.ndim)]
    return split(a, -(-size // chunks), dim) if size else split(a, [0] * chunks, dim)


def tensor_split(a: Any, indices_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Any, ...]:
    """Slices along the axis `dim`: so many, the first ones longer by one where it does not come out even; or cut at the positions listed.

    >>> [len(part) for part in hg.tensor_split(torch.zeros(5), 2)]
    [3, 2]
    """
    a = array(a)
    size = a.shape[normal_axis(dim, a.ndim)]
    if isinstance(indices_or_sections, int):
        n = indices_or_sections
        if n < 1:
            raise OperandError(f"tensor_split: the number of sections must be 1 or more; got {n}")
        return split(a, [size // n + (i < size % n) for i in range(n)], dim)
    cuts = [0, *indices_or_sections, size]
    return tuple(_cut(a, dim, slice(start, end)) for start, end in pairwise(cuts))


def unbind(a: Any, dim: int = 0) -> tuple[Any, ...]:
    """The slices along the axis `dim`, which goes, as a tuple.

    >>> hg.unbind(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), 1)
    (Variable([1., 3.]), Variable([2., 4.]))
    """
    a = array(a)
    if not a.ndim:
        raise ShapeError("unbind: a 0-d tensor has no axis")
    return tuple(_cut(a, dim, i) for i in range(a.shape[normal_axis(dim, a.ndim)]))


def roll(a: Any, shifts: int | Sequence[int], dims: int | Sequence[int] | None = None) -> Any:
    """`a` with its elements moved on by `shifts` along the axes `dims`, those pushed out coming in at the front; without `dims`, of all as one axis.

    >>> hg.roll(hg.Variable([1.0, 2.0, 3.0]), 1)
    Variable([3., 1., 2.])
    """
    a = array(a)
    if dims is None or dims == ():
        return Reshape.apply(roll(Reshape.apply(a, (-1,)), shifts, 0), tuple(a.shape))
    shifts, dims = ((x,) if isinstance(x, int) else tuple(x) for x in (shifts, dims))
    if len(shifts) != len(dims):
        raise OperandError(f"roll: shifts and dims must be as many; got {shifts} and {dims}")
    for shift, dim in zip(shifts, dims):
        size = a.shape[normal_axis(dim, a.ndim)] if a.ndim else 0
        if size and shift % size:
            cut = size - shift % size
            a = Cat.apply(_cut(a, dim, slice(cut, None)), _cut(a, dim, slice(cut)), dim=dim)
    return a


def flipud(a: Any) -> Any:
    """`a` with its rows in reverse order.

    >>> hg.flipud(hg.Variable([1.0, 2.0]))
    Variable([2., 1.])
    """
    return Flip.apply(a, 0)


def fliplr(a: Any) -> Any:
    """`a` with its columns in reverse order.

    >>> hg.fliplr(hg.Variable([[1.0, 2.0]]))
    Variable([[2., 1.]])
    """
    return Flip.apply(a, 1)


def rot90(a: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    """`a` turned by k times 90 degrees in the plane of two axes, from the first towards the second.

    >>> hg.rot90(hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable([[2., 4.],
              [1., 3.]])
    """
    a, first, second = array(a), *dims
    normal_axes((first, second), a.ndim)  # two different ones
    if k % 4 in (1, 2):
        a = Flip.apply(a, second)
    if k % 4 in (2, 3):
        a = Flip.apply(a, first)
    return a.transpose(first, second) if k % 2 else a


def tile(a: Any, *dims: Any) -> Any:
    """`a` repeated so often along each axis; missing axes count from the front as 1, as in numpy.

    >>> hg.tile(hg.Variable([1.0, 2.0]), (2,))
    Variable([1., 2., 1., 2.])
    """
    a, times = array(a), whole_sizes("tile", dims)
    return repeat(a, (1,) * (a.ndim - len(times)) + times)


def repeat(a: Any, *repeats: Any) -> Any:
    """`a` repeated so often along each axis; more numbers than axes add axes in front.

    >>> hg.Variable([1.0, 2.0]).repeat(2, 1)
    Variable([[1., 2.],
              [1., 2.]])
    """
    a, times = array(a), whole_sizes("repeat", repeats)
    if len(times) < a.ndim or min(times, default=0) < 0:
        raise OperandError(f"repeat: expected {a.ndim} numbers or more, 0 or above, for shape {tuple(a.shape)}; got {times}")
    sizes = (1,) * (len(times) - a.ndim) + tuple(a.shape)
    spread = Expand.apply(Reshape.apply(a, tuple(x for n in sizes for x in (1, n))), tuple(x for pair in zip(times, sizes) for x in pair))
    return Reshape.apply(spread, tuple(n * k for n, k in zip(sizes, times)))


def repeat_interleave(a: Any, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Any:
    """Each element repeated `repeats` times in place, along the axis `dim` or of all as one axis. A list or tensor gives one number for each.

    `output_size`, the size that results, is torch's; it is not needed.

    >>> hg.repeat_interleave(hg.Variable([1.0, 2.0]), 2)
    Variable([1., 1., 2., 2.])
    """
    a = array(a)
    a, axis = (Reshape.apply(a, (-1,)), 0) if dim is None else (a, normal_axis(dim, a.ndim))
    if isinstance(repeats, int):
        index = torch.arange(a.shape[axis] * repeats, device=a.device) // max(repeats, 1)
    else:
        counts = repeats if isinstance(repeats, Tensor) else torch.tensor(repeats)
        index = torch.arange(a.shape[axis], device=a.device).repeat_interleave(counts.to(a.device))
    return _cut(a, axis, index)


def hstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along their second axis, those of one axis along that.

    >>> hg.hstack([torch.zeros(2, 1), torch.zeros(2, 3)]).shape
    torch.Size([2, 4])
    """
    tensors = [atleast_1d(a) for a in tensors]
    return Cat.apply(*tensors, dim=0 if tensors and tensors[0].ndim == 1 else 1)


def vstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along their first axis, those of one axis as rows.

    >>> hg.vstack([torch.zeros(3), torch.zeros(2, 3)]).shape
    torch.Size([3, 3])
    """
    return Cat.apply(*map(atleast_2d, tensors), dim=0)


def dstack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along their third axis.

    >>> hg.dstack([torch.zeros(3), torch.zeros(3)]).shape
    torch.Size([1, 3, 2])
    """
    return Cat.apply(*map(atleast_3d, tensors), dim=2)


def column_stack(tensors: Sequence[Any]) -> Any:
    """Tensors joined along their second axis, those of one axis as columns.

    >>> hg.column_stack([torch.zeros(3), torch.zeros(3, 2)]).shape
    torch.Size([3, 3])
    """
    tensors = [array(a) for a in tensors]
    return Cat.apply(*(Reshape.apply(a, (-1, 1)) if a.ndim < 2 else a for a in tensors), dim=1)


def atleast_1d(a: Any) -> Any:
    """`a` with one axis if it has none.

    >>> hg.atleast_1d(torch.tensor(1.0)).shape
    torch.Size([1])
    """
    a = array(a)
    return a if a.ndim else Reshape.apply(a, (1,))


def atleast_2d(a: Any) -> Any:
    """`a` with two axes if it has fewer: one axis becomes a row.

    >>> hg.atleast_2d(torch.zeros(3)).shape
    torch.Size([1, 3])
    """
    a = atleast_1d(a)
    return a if a.ndim > 1 else Reshape.apply(a, (1, -1))


def atleast_3d(a: Any) -> Any:
    """`a` with three axes if it has fewer: a matrix gets a last one, one axis becomes the middle one.

    >>> hg.atleast_3d(torch.zeros(3)).shape
    torch.Size([1, 3, 1])
    """
    a = atleast_2d(a)
    return a if a.ndim > 2 else Reshape.apply(a, (*a.shape, 1))


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Any, ...]:
    """One array per axis of the grid of tensors of one axis; with indexing="xy" the first two axes are exchanged.

    >>> [x.shape for x in hg.meshgrid(torch.zeros(2), torch.zeros(3))]
    [torch.Size([2, 3]), torch.Size([2, 3])]
    """
    if indexing not in ("ij", "xy"):
        raise OperandError(f"meshgrid: indexing must be 'ij' or 'xy'; got {indexing!r}")
    given = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else tensors
    axes = [atleast_1d(a) for a in given]
    if any(a.ndim != 1 for a in axes):
        raise ShapeError(f"meshgrid: expected tensors of one axis; got shapes {', '.join(str(tuple(a.shape)) for a in axes)}")
    swap = indexing == "xy" and len(axes) > 1
    order = [1, 0, *range(2, len(axes))] if swap else list(range(len(axes)))
    shape = tuple(axes[i].shape[0] for i in order)
    return tuple(Expand.apply(Reshape.apply(a, tuple(-1 if axis == i else 1 for axis in order)), shape) for i, a in enumerate(axes))


def _below(a: Any, diagonal: int) -> Tensor:
    """Where the elements of matrices lie on or below a diagonal."""
    if a.ndim < 2:
        raise ShapeError(f"expected matrices, two axes or more; got shape {tuple(a.shape)}")
    rows, columns = (torch.arange(n, device=a.device) for n in a.shape[-2:])
    return columns - rows.unsqueeze(1) <= diagonal


def tril(a: Any, diagonal: int = 0) -> Any:
    """Matrices with zeros above the diagonal of that number; 0 is the main one, those above are positive.

    >>> hg.tril(hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable([[1., 0.],
              [3., 4.]])
    """
    a = array(a)
    return Where.apply(_below(a, diagonal), a, 0)


def triu(a: Any, diagonal: int = 0) -> Any:
    """Matrices with zeros below the diagonal of that number; 0 is the main one, those above are positive.

    >>> hg.triu(hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable([[1., 2.],
              [0., 4.]])
    """
    a = array(a)
    return Where.apply(_below(a, diagonal - 1), 0, a)


def diagonal(a: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The elements on a diagonal of the matrices of two axes, as a new last axis; 0 is the main one, those above are positive.

    >>> hg.diagonal(hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable([1., 4.])
    """
    return _line(movedim(a, (dim1, dim2), (-2, -1)), offset)


def _line(a: Any, offset: int) -> Any:
    """A diagonal of the last two axes."""
    rows, columns = a.shape[-2:]
    first, shift = max(-offset, 0), max(offset, 0)
    count = max(min(rows - first, columns - shift), 0)
    flat = Reshape.apply(a, (*a.shape[:-2], rows * columns))
    start = first * columns + shift
    return GetItem.apply(flat, (..., slice(start, start + count * (columns + 1), columns + 1) if count else slice(0)))


def diag(a: Any, diagonal: int = 0) -> Any:
    """Of a matrix a diagonal, of one axis the matrix that has it on that diagonal.

    >>> hg.diag(hg.Variable([1.0, 2.0]))
    Variable([[1., 0.],
              [0., 2.]])
    """
    a = array(a)
    if a.ndim not in (1, 2):
        raise ShapeError(f"diag: expected 1 or 2 axes; got shape {tuple(a.shape)}. Use diagonal or diag_embed")
    return diag_embed(a, diagonal) if a.ndim == 1 else _line(a, diagonal)


def diag_embed(a: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Square matrices with the last axis of `a` on a diagonal and zeros elsewhere, along the new axes `dim1` and `dim2`.

    >>> hg.diag_embed(hg.Variable([1.0, 2.0]), 1).shape
    torch.Size([3, 3])
    """
    a = array(a)
    n = a.shape[-1] + abs(offset)
    padded = Pad.apply(a, (max(offset, 0), max(-offset, 0))) if offset else a
    rows, columns = torch.arange(n, device=a.device).unsqueeze(1), torch.arange(n, device=a.device)
    out = Where.apply(columns - rows == offset, Reshape.apply(padded, (*a.shape[:-1], 1, n)), 0)
    return movedim(out, (-2, -1), (dim1, dim2))


def trace(a: Any) -> Any:
    """The sum of the main diagonal of a matrix.

    >>> hg.trace(hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable(5.)
    """
    a = array(a)
    if a.ndim != 2:
        raise ShapeError(f"trace: expected a matrix; got shape {tuple(a.shape)}. Use diagonal(...).sum(-1) for several")
    return diagonal(a).sum()
