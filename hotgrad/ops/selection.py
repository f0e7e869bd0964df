"""What picks and places elements by index, under torch's names and in torch's order of arguments."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor
from hotgrad.core.modes import state
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.axes import array, common_shape, normal_axis
from hotgrad.ops.indexing import Gather, GetItem, Put, Scatter, ScatterAdd, Take
from hotgrad.ops.rearranging import movedim
from hotgrad.ops.shaping import Expand, Reshape

__all__ = [
    "embedding", "gather", "getitem", "index_add", "index_copy", "index_fill", "index_select", "masked_fill", "masked_select", "one_hot", "scatter",
    "scatter_add", "take", "take_along_dim",
]  # fmt: skip


def getitem(a: Any, index: Any) -> Any:
    """Elements of `a` by `index`, what `v[index]` does, as in torch: integers, slices, None, Ellipsis, integer and bool tensors.

    An element picked several times gets the sum of its gradients. While capturing, indices that are Variables are data: each run of the
    program has others. Raises AxisError or RangeError outside of the range.

    >>> hg.Variable([1.0, 2.0, 3.0])[[0, 2, 2]]
    Variable([1., 3., 3.])
    """
    if state.trace is not None and any(isinstance(item, Variable) for item in (index if isinstance(index, tuple) else (index,))):
        return _by_data(array(a), index if isinstance(index, tuple) else (index,))
    return GetItem.apply(a, index)


def _by_data(a: Any, items: tuple[Any, ...]) -> Any:
    """`a[items]` where integer Variables are among the items: what is basic first, then an axis at a time."""
    named = sum(item is not None and item is not ... for item in items)
    if any(item is ... for item in items):
        place = next(i for i, item in enumerate(items) if item is ...)
        items = (*items[:place], *(slice(None) for _ in range(a.ndim - named)), *items[place + 1 :])
    basic: list[Any] = []
    data: list[tuple[int, Any]] = []
    axis = 0
    for item in items:
        if isinstance(item, (list, range)) or (isinstance(item, (Variable, Tensor)) and item.dtype is not torch.bool):
            data.append((axis, array(torch.tensor(item) if isinstance(item, (list, range)) else item)))
            item = slice(None)
        elif isinstance(item, Variable):
            item._as_index()  # how many elements a mask chooses differs: it says so
        basic.append(item)
        axis += not isinstance(item, int) or isinstance(item, bool)
    if any(item != slice(None) for item in basic):
        a = GetItem.apply(a, tuple(basic))
    if len(data) == 1:
        axis, index = data[0]
        return Take.apply(a, _counted(index, a.shape[axis]), axis)
    shape = common_shape("GetItem", *(index.shape for _, index in data))
    axes = [axis for axis, _ in data]
    home = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    a = movedim(a, tuple(axes), tuple(range(len(axes))))
    a = Take.apply(a, Expand.apply(_counted(data[0][1], a.shape[0]), shape), 0)
    for _, index in data[1:]:
        # the next axis has, at each position of the result, one place of its own
        after = tuple(a.shape[len(shape) + 1 :])
        chosen = Expand.apply(_counted(index, a.shape[len(shape)]), shape)
        chosen = Expand.apply(Reshape.apply(chosen, (*shape, *(1 for _ in range(len(after) + 1)))), (*shape, 1, *after))
        a = Reshape.apply(Gather.apply(a, chosen, len(shape)), (*shape, *after))
    return movedim(a, tuple(range(len(shape))), tuple(range(home, home + len(shape)))) if home else a


def _counted(index: Any, size: int) -> Any:
    """Positions counted from the front; those out of range stay so."""
    return Where.apply(index < 0, index + size, index)


def gather(a: Any, dim: Any, index: Any = None) -> Any:
    """For each element of `index` the element of `a` at the same place, but at that position along the axis `dim`.

    `index`: integers from 0 on, of as many axes as `a`, along those other than `dim` no longer. An element picked several times gets the
    sum of its gradients. Raises RangeError outside of the range.

    >>> hg.gather(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), 1, torch.tensor([[1], [0]]))
    Variable([[2.],
              [3.]])
    """
    if not isinstance(dim, int):
        if not isinstance(index, int):
            raise OperandError(
                f"gather: takes (a, dim, index), dim an integer and index an integer tensor; got {dim!r:.40} and {index!r:.40}"
            )
        warnings.warn("gather(a, index, dim) is deprecated; the order is torch's, gather(a, dim, index)", DeprecationWarning, stacklevel=2)
        dim, index = index, dim
    return Gather.apply(a, index, dim=dim)


def take_along_dim(a: Any, indices: Any, dim: int | None = None) -> Any:
    """`gather` in which shapes broadcast but along `dim` and negative positions count from the end; without `dim`, of all as one axis.

    >>> hg.take_along_dim(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0]]), 1)
    Variable([[1.],
              [3.]])
    """
    a, indices = array(a), array(indices)
    if dim is None:
        return Gather.apply(Reshape.apply(a, (-1,)), Reshape.apply(indices, (-1,)), 0)
    axis = normal_axis(dim, a.ndim)
    if a.ndim != indices.ndim:
        raise ShapeError(f"take_along_dim: a and indices must have as many axes; got shapes {tuple(a.shape)} and {tuple(indices.shape)}")
    shape = common_shape("take_along_dim", *((*x.shape[:axis], 1, *x.shape[axis + 1 :]) for x in (a, indices)))
    wide = [Expand.apply(x, (*shape[:axis], x.shape[axis], *shape[axis + 1 :])) for x in (a, indices)]
    return Gather.apply(wide[0], _counted(wide[1], a.shape[axis]), axis)


def index_select(a: Any, dim: int, index: Any) -> Any:
    """The slices of `a` at the positions `index`, integers of one axis from 0 on, along the axis `dim`.

    >>> hg.index_select(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), 1, torch.tensor([1]))
    Variable([[2.],
              [4.]])
    """
    a, index = array(a), array(index)
    if index.ndim > 1:
        raise ShapeError(f"index_select: index must have one axis; got shape {tuple(index.shape)}. Use a[index] or take_along_dim")
    if not a.ndim:
        return Reshape.apply(Take.apply(Reshape.apply(a, (1,)), Reshape.apply(index, (-1,)), 0), ())
    return Take.apply(a, Reshape.apply(index, (-1,)), dim)


def take(a: Any, index: Any) -> Any:
    """The elements of `a`, as one axis, at the positions `index`, in its shape; negative ones count from the end.

    >>> hg.take(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, -1]))
    Variable([1., 4.])
    """
    a = array(a)
    return Take.apply(Reshape.apply(a, (-1,)), _counted(array(index), a.numel()), 0)


def embedding(index: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """The rows of `weight`, of shape (rows, columns), at the positions `index`, of any shape; the row `padding_idx` gets no gradient.

    >>> hg.embedding(torch.tensor([1, 0]), hg.Variable([[1.0, 2.0], [3.0, 4.0]]))
    Variable([[3., 4.],
              [1., 2.]])
    """
    weight, index = array(weight), array(index)
    if weight.ndim != 2:
        raise ShapeError(f"embedding: weight must have two axes, (rows, columns); got shape {tuple(weight.shape)}")
    rows = Take.apply(weight, index, 0)
    if padding_idx is None or not isinstance(rows, Variable):
        return rows
    row = normal_axis(padding_idx, weight.shape[0])
    return Where.apply(Reshape.apply(index == row, (*index.shape, 1)), rows.detach(), rows)


def masked_fill(a: Any, mask: Any, value: Any) -> Any:
    """`a` with `value`, a number or a tensor of no axes, where `mask` is true; the mask broadcasts to a's shape.

    >>> hg.masked_fill(hg.Variable([1.0, 2.0]), torch.tensor([True, False]), -9.0)
    Variable([-9.,  2.])
    """
    a, mask = array(a), array(mask)
    if mask.dtype is not torch.bool:
        raise OperandError(f"masked_fill: mask must be bool; got {mask.dtype}")
    if getattr(value, "ndim", 0):
        raise ShapeError(f"masked_fill: value must be a number or have no axes; got shape {tuple(value.shape)}. Use where")
    if isinstance(value, (Variable, Tensor)) and value.dtype is not a.dtype:
        value = value.to(a.dtype)
    return Where.apply(mask, value, a)


def masked_select(a: Any, mask: Any) -> Any:
    """The elements where `mask` is true, as one axis; both broadcast. How many there are is not known while capturing: CaptureError there.

    >>> hg.masked_select(hg.Variable([1.0, 2.0, 3.0]), torch.tensor([True, False, True]))
    Variable([1., 3.])
    """
    a = array(a)
    shape = common_shape("masked_select", a.shape, mask.shape)
    if isinstance(mask, Variable):
        return GetItem.apply(Expand.apply(a, shape), Expand.apply(mask, shape))
    with nullcontext() if state.trace is None else state.trace.internal():  # a mask from outside stays what it is
        mask = as_tensor(mask).expand(shape)
    return GetItem.apply(Expand.apply(a, shape), mask)


def one_hot(a: Any, num_classes: int = -1) -> Any:
    """1 at the position that each element names along a new last axis of `num_classes`, else 0, as int64; -1 for the largest element and 1.

    Raises RangeError outside of the range.

    >>> hg.one_hot(torch.tensor([1, 0]), 3)
    tensor([[0, 1, 0],
            [1, 0, 0]])
    """
    a = array(a)
    if a.dtype.is_floating_point or a.dtype is torch.bool:
        raise OperandError(f"one_hot: expected integers; got {a.dtype}")
    if num_classes == -1:
        num_classes = int(a.max().item()) + 1
    return Take.apply(torch.eye(num_classes, dtype=torch.int64, device=a.device), a, 0)


def scatter(a: Any, dim: int, index: Any, src: Any) -> Any:
    """`a` with the elements of `src`, a tensor or a number, at the positions `index` along the axis `dim`.

    No position may come twice where the gradient of `src` is wanted. Raises RangeError outside of the range.

    >>> hg.scatter(hg.Variable([1.0, 2.0, 3.0]), 0, torch.tensor([2, 0]), 9.0)
    Variable([9., 2., 9.])
    """
    a, index = array(a), array(index)
    if isinstance(src, (int, float)):
        src = torch.full(tuple(index.shape), src, dtype=a.dtype, device=a.device)
    return Scatter.apply(a, index, src, dim)


def _added(name: str, a: Any, placed: Any) -> Any:
    if a.dtype is not placed.dtype:
        raise OperandError(f"{name}: a and what is added must have one dtype; got {a.dtype} and {placed.dtype}")
    return a + placed


def scatter_add(a: Any, dim: int, index: Any, src: Any) -> Any:
    """`a` with the elements of `src` added at the positions `index` along the axis `dim`. Raises RangeError outside of the range.

    >>> hg.scatter_add(hg.Variable([1.0, 2.0]), 0, torch.tensor([0, 0]), torch.tensor([10.0, 20.0]))
    Variable([31.,  2.])
    """
    a, index, src = array(a), array(index), array(src)
    if tuple(src.shape) != tuple(index.shape):
        src = GetItem.apply(src, tuple(slice(n) for n in index.shape))
    return _added("scatter_add", a, ScatterAdd.apply(src, index, tuple(a.shape), normal_axis(dim, a.ndim)))


def index_add(a: Any, dim: int, index: Any, source: Any, alpha: float = 1) -> Any:
    """`a` with the slices of `source`, times `alpha`, added at the positions `index` along the axis `dim`.

    >>> hg.index_add(hg.Variable([1.0, 2.0]), 0, torch.tensor([0, 0]), torch.tensor([10.0, 20.0]))
    Variable([31.,  2.])
    """
    a, index, source = array(a), array(index), array(source)
    if not a.ndim:
        return Reshape.apply(index_add(Reshape.apply(a, (1,)), dim, index, Reshape.apply(source, (-1,)), alpha), ())
    axis = normal_axis(dim, a.ndim)
    _check_slices("index_add", a, axis, index, source)
    placed = Put.apply(source, index, tuple(a.shape), axis)
    return _added("index_add", a, placed if alpha == 1 else placed * alpha)


def _check_slices(name: str, a: Any, axis: int, index: Any, source: Any) -> None:
    """Raise ShapeError unless `source` holds one slice of `a` for each index."""
    if index.ndim > 1:
        raise ShapeError(f"{name}: index must have one axis at most; got shape {tuple(index.shape)}")
    expected = (*a.shape[:axis], index.numel(), *a.shape[axis + 1 :])
    if tuple(source.shape) != expected:
        raise ShapeError(
            f"{name}: expected source of shape {expected}, a slice of a {tuple(a.shape)} along axis {axis} for each of {index.numel()} "
            f"indices; got {tuple(source.shape)}"
        )


def _along(a: Any, index: Any, axis: int) -> Any:
    """An index of one axis, spread over the others."""
    flat = Reshape.apply(index, tuple(-1 if i == axis else 1 for i in range(a.ndim)))
    return Expand.apply(flat, (*a.shape[:axis], index.numel(), *a.shape[axis + 1 :]))


def index_copy(a: Any, dim: int, index: Any, source: Any) -> Any:
    """`a` with the slices of `source` at the positions `index` along the axis `dim`; see `scatter`.

    >>> hg.index_copy(hg.Variable([1.0, 2.0, 3.0]), 0, torch.tensor([2, 0]), torch.tensor([7.0, 8.0]))
    Variable([8., 2., 7.])
    """
    a, index, source = array(a), array(index), array(source)
    if not a.ndim:
        return Reshape.apply(index_copy(Reshape.apply(a, (1,)), dim, index, Reshape.apply(source, (-1,))), ())
    axis = normal_axis(dim, a.ndim)
    _check_slices("index_copy", a, axis, index, source)
    return Scatter.apply(a, _along(a, index, axis), source, axis)


def index_fill(a: Any, dim: int, index: Any, value: Any) -> Any:
    """`a` with a number, or a tensor of no axes, at the positions `index` along the axis `dim`.

    >>> hg.index_fill(hg.Variable([1.0, 2.0, 3.0]), 0, torch.tensor([2, 0]), 0.0)
    Variable([0., 2., 0.])
    """
    a, index = array(a), array(index)
    if not a.ndim:
        return Reshape.apply(index_fill(Reshape.apply(a, (1,)), dim, index, value), ())
    axis = normal_axis(dim, a.ndim)
    # where, since a position may come several times and the gradient of a value goes to it once
    places = _along(a, _counted(index, a.shape[axis]), axis)
    marks = ScatterAdd.apply(torch.ones(tuple(places.shape), device=a.device), places, tuple(a.shape), axis)
    return Where.apply(marks > 0, value if isinstance(value, (int, float)) else array(value).to(a.dtype), a)
