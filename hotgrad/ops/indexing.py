"""Ops that select elements by index, and those that put them back."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.explain import out_of_range
from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import DeviceError, OperandError, ShapeError
from hotgrad.ops.axes import normal_axis
from hotgrad.ops.shaping import Pad, compact, take


def _plain_index(index: Any) -> Any:
    """An index in a form that records can keep: Variables, arrays and lists as tensors."""
    if isinstance(index, tuple):
        return tuple(_plain_index(item) for item in index)
    if isinstance(index, Variable):
        index = index._as_index()
    elif isinstance(index, (list, range)) or (is_numpy(index) and index.shape):
        index = as_tensor(index) if len(index) else torch.zeros(0, dtype=torch.int64)
    if isinstance(index, Tensor) and (index.dtype.is_floating_point or index.dtype.is_complex):
        raise OperandError(f"GetItem: index tensors must be integer or bool; got {index.dtype}")
    return index


def _indices() -> list[tuple[tuple[int, ...], Any]]:
    """Shapes and indices that tests draw."""
    every, tensor = slice(None), torch.tensor
    return [
        ((2,), 0), ((3,), -1), ((4,), slice(1, None)), ((4,), slice(None, None, 2)), ((2,), None), ((), ...), ((), None), ((3,), slice(0, 0)),
        ((2, 3), 1), ((2, 3), (every, -1)), ((3, 3), (1, 0)), ((2, 3), (..., slice(1, 3))), ((2, 2, 2), (every, None, 0)), ((3, 3), (slice(1), slice(2, None))),
        ((3,), tensor([0, 2, 2])), ((3,), tensor([-1, -1])), ((3,), tensor([], dtype=torch.int64)), ((2, 3), tensor([[1, 1], [0, 1]])),
        ((3,), tensor([True, False, True])), ((2, 2), tensor([[True, False], [True, True]])), ((3, 3), (tensor([0, 2, 0]), tensor([1, 1, 1]))),
        ((2, 3), (every, tensor([2, 0, 2]))), ((2, 3, 2), (1, every, tensor([0, 0]))), ((0, 2), (every, 1)), ((2,), True),
    ]  # fmt: skip


class GetItem(Primitive):
    """Elements of `a` by `index`, as in torch and numpy: integers, slices, None, Ellipsis, integer and bool tensors.

    An element picked several times gets the sum of its gradients. Raises AxisError outside of the range.

    >>> hg.ops.GetItem.apply(hg.Variable([1.0, 2.0, 3.0]), [0, 2, 2])
    Variable([1., 3., 3.])
    """

    native = "getitem"
    function = ""

    @classmethod
    def bind(cls, extra: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        return super().bind(tuple(map(_plain_index, extra)), {name: _plain_index(index) for name, index in given.items()})

    forward = staticmethod(lambda a, *, index: a[index])
    operands = staticmethod(lambda: [((shape,), {"index": index}) for shape, index in _indices()])
    into = staticmethod(lambda out, a, index: take(out, a, lambda places: places[index]))
    vjps = (lambda g, out, a, index: PutItem.apply(g, shape=tuple(a.shape), index=index),)
    reads = ("",)
    fresh = True
    kinks = {
        "added up where an index comes several times": [
            ([[1.0, 2.0, 3.0]], {"index": torch.tensor([0, 2, 2])}, [1.0, 2.0, 3.0], [[1.0, 0.0, 5.0]]),
        ]
    }  # fmt: skip


class PutItem(Primitive):
    """The transpose of `getitem`: zeros of `shape` with `g` added at `index`.

    >>> hg.ops.PutItem.apply(torch.ones(2), shape=(3,), index=torch.tensor([1, 1]))
    tensor([0., 2., 0.])
    """

    native = "putitem"
    function = ""

    @staticmethod
    def forward(g: Any, *, shape: tuple[int, ...], index: Any) -> Tensor:
        out = torch.zeros(shape, dtype=g.dtype, device=g.device)
        items = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(item, (Tensor, bool)) for item in items):
            out[index] = g
            return out
        rows = [i for i, item in enumerate(items) if isinstance(item, Tensor) and item.dtype is not torch.bool]
        if len(rows) == 1 and all(
            isinstance(item, Tensor) or item == slice(None) for item in items
        ):  # a look-up, whose slices can be added whole
            axis, chosen = rows[0], items[rows[0]]
            wide = g.reshape((*shape[:axis], chosen.numel(), *shape[axis + 1 :]))
            return out.index_add_(axis, chosen.reshape(-1) % max(shape[axis], 1), wide)
        places = torch.arange(out.numel(), device=g.device).reshape(shape)[index]
        return out.reshape(-1).index_add_(0, places.reshape(-1), g.reshape(-1)).reshape(shape)

    operands = staticmethod(
        lambda: [((tuple(torch.empty(shape)[index].shape),), {"shape": shape, "index": index}) for shape, index in _indices()]
    )

    @staticmethod
    def into(out: Any, g: Any, shape: tuple[int, ...], index: Any) -> Any:
        items = index if isinstance(index, tuple) else (index,)
        if not any(isinstance(item, (Tensor, bool)) for item in items):
            return [partial(out.zero_), partial(out[index].copy_, g)]
        places = torch.arange(out.numel(), device=g.device).reshape(shape)[index]
        return [partial(out.zero_), partial(out.put_, places, g, accumulate=True)]

    vjps = (lambda h, res, g, shape, index: h[index],)
    reads = ("",)


def _check_gather(a: Any, index: Any, dim: int) -> None:
    """Raise what is wrong with the operands of a gather."""
    if not isinstance(index, Tensor) or index.dtype.is_floating_point or index.dtype is torch.bool:
        raise OperandError(f"index must be an integer tensor; got {getattr(index, 'dtype', index)}. The order is gather(a, dim, index)")
    if index.device != a.device:
        raise DeviceError(f"they are on different devices ({a.device}, {index.device}). Move them to one with to(device)")
    axis = normal_axis(dim, a.ndim)
    if index.ndim != a.ndim or any(i != axis and n > m for i, (n, m) in enumerate(zip(index.shape, a.shape))):
        raise ShapeError("index must have as many axes as a, and along those other than dim no more elements")
    _check_range("Gather", index, axis, a.shape[axis])


def _check_range(op: str, index: Tensor, axis: int, size: int) -> None:
    wrong = (index < 0) | (index >= size)
    if bool(wrong.any()):
        raise out_of_range(op, int(index[wrong][0]), axis, size)


def _gather(a: Tensor, dim: int, index: Tensor, out: Tensor) -> None:
    """torch's, which says what is wrong."""
    try:
        torch.gather(a, dim, index, out=out)
    except RuntimeError:
        _check_gather(a, index, dim)
        raise


def _scatter_add(out: Tensor, dim: int, index: Tensor, g: Tensor) -> Tensor:
    """torch's, in place, which says what is wrong."""
    if not out.is_cpu:  # an index out of range would end the process there
        _check_range("ScatterAdd", index, dim, out.shape[dim])
    try:
        return out.scatter_add_(dim, index, g)
    except RuntimeError:
        _check_range("ScatterAdd", index, dim, out.shape[dim])
        raise


# (shape, index, dim) that tests draw for the next two
_GATHERED: list[tuple[tuple[int, ...], Any, int]] = [
    ((2,), [0], 0), ((3,), [2, 0, 2], 0), ((2, 3), [[1], [0]], 1), ((2, 3), [[1, 0, 1]], 0), ((3, 3), [[0, 2], [1, 1]], -1), ((2, 2), [[0, 0], [0, 0]], 0),
    ((2, 2, 1), [[[1], [0]]], 1),
]  # fmt: skip


class Gather(Primitive):
    """For each element of `index` the element of `a` at the same place, but at that position along the axis `dim`.

    `index`: integers, of as many axes as `a`. An element picked several times gets the sum of its gradients. Raises RangeError
    outside of the range.

    >>> hg.ops.Gather.apply(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1], [0]]), dim=1)
    Variable([[2.],
              [3.]])
    """

    native = "gather"
    function = ""
    operands = staticmethod(lambda: [((shape, torch.tensor(index)), {"dim": dim}) for shape, index, dim in _GATHERED])

    @staticmethod
    def forward(a: Any, index: Any, *, dim: int) -> Tensor:
        whole = index.dtype is torch.int64 or not (index.dtype.is_floating_point or index.dtype is torch.bool)
        if not (a.is_cpu and index.is_cpu and whole):  # an index out of range would end the process there
            _check_gather(a, index, dim)
        try:
            return torch.gather(a, dim, index if index.dtype is torch.int64 else index.long())
        except Exception:
            _check_gather(a, index, dim)
            raise

    into = staticmethod(lambda out, a, index, dim: partial(_gather, a, dim, index, out=out) if index.dtype is torch.int64 else None)
    vjps = (lambda g, out, a, index, dim: ScatterAdd.apply(g, index, shape=tuple(a.shape), dim=dim), None)
    reads = ("index", "")
    fresh = True


class ScatterAdd(Primitive):
    """The transpose of `gather`: zeros of `shape`, with each element of `g` added at the position `index` along the axis `dim`.

    >>> hg.ops.ScatterAdd.apply(torch.ones(2, 1), torch.tensor([[1], [0]]), shape=(2, 2), dim=1)
    tensor([[0., 1.],
            [1., 0.]])
    """

    native = "scatter_add"
    function = ""
    operands = staticmethod(
        lambda: [
            ((tuple(torch.tensor(index).shape), torch.tensor(index)), {"shape": shape, "dim": dim % len(shape)})
            for shape, index, dim in _GATHERED
        ]
    )
    forward = staticmethod(
        lambda g, index, *, shape, dim: _scatter_add(torch.zeros(shape, dtype=g.dtype, device=g.device), dim, index.long(), g)
    )
    into = staticmethod(
        lambda out, g, index, shape, dim: (
            [partial(out.zero_), partial(_scatter_add, out, dim, index, g)] if index.dtype is torch.int64 else None
        )
    )

    vjps = (lambda h, res, g, index, shape, dim: Gather.apply(h, index, dim=dim), None)
    reads = ("index", "")
    fresh = True


class Scatter(Primitive):
    """`a` with the elements of `src` at the positions `index` along the axis `dim`; the transpose of `gather` that replaces.

    `index` has as many axes as `a`, and no more elements along any axis than `src`. Which element of `src` stays where a position comes
    twice is not said, and then the gradient of `src` is wrong, as torch's is. Raises RangeError outside of the range.

    >>> hg.ops.Scatter.apply(hg.Variable([1.0, 2.0, 3.0]), torch.tensor([2, 0]), torch.tensor([7.0, 8.0]), dim=0)
    Variable([8., 2., 7.])
    """

    native = "scatter"
    function = ""
    operands = staticmethod(
        lambda: [((shape, torch.tensor(index), tuple(torch.tensor(index).shape)), {"dim": d}) for shape, index, d in _SCATTERED]
    )

    @staticmethod
    def forward(a: Any, index: Any, src: Any, *, dim: int) -> Tensor:
        _check_scatter(a, index, src, dim)
        return a.scatter(dim, index.long(), src)  # type: ignore[no-any-return]

    vjps = (
        lambda g, out, a, index, src, dim: Scatter.apply(g, index, torch.zeros(index.shape, dtype=g.dtype, device=g.device), dim=dim),
        None,
        lambda g, out, a, index, src, dim: _as_large(Gather.apply(g, index, dim=dim), src),
    )
    reads = ("index", "", "index")
    allocates = True


# (shape, index, dim) that tests draw for it: no position comes twice
_SCATTERED: list[tuple[tuple[int, ...], Any, int]] = [
    ((2,), [0], 0), ((3,), [2, 0], 0), ((2, 3), [[1], [0]], 1), ((2, 3), [[1, 0, 1]], 0), ((3, 3), [[0, 2], [1, 0]], -1), ((2, 2, 1), [[[1], [0]]], 1),
]  # fmt: skip


def _as_large(g: Any, src: Any) -> Any:
    """`g` with zeros behind, in the shape of `src`."""
    missing = [n - m for n, m in zip(src.shape, g.shape)]
    return Pad.apply(g, tuple(x for n in reversed(missing) for x in (0, n))) if any(missing) else g


def _check_scatter(a: Any, index: Any, src: Any, dim: int) -> None:
    axis = normal_axis(dim, a.ndim)
    if not isinstance(index, Tensor) or index.dtype.is_floating_point or index.dtype is torch.bool:
        raise OperandError(
            f"index must be an integer tensor; got {getattr(index, 'dtype', index)}. The order is scatter(a, dim, index, src)"
        )
    wide = any(n > m for n, m in zip(index.shape, src.shape)) or any(
        i != axis and n > m for i, (n, m) in enumerate(zip(index.shape, a.shape))
    )
    if not a.ndim == index.ndim == src.ndim or wide:
        raise ShapeError(
            "a, index and src must have as many axes, and index along each no more elements than src, nor than a but along dim"
        )
    _check_range("Scatter", index, axis, a.shape[axis] if a.ndim else 1)


def _spread(index: Any, shape: tuple[int, ...], axis: int) -> Any:
    """A flat index along an axis of what has `shape` for every position along the others, as gather takes it."""
    flat = index.reshape((*(1 for _ in shape[:axis]), -1, *(1 for _ in shape[axis + 1 :])))
    return flat.expand((*shape[:axis], index.numel(), *shape[axis + 1 :]))


def _in_range(op: str, call: Callable[[], Any], index: Tensor, axis: int, size: int) -> Any:
    """What `call` gives; an index out of range is told. Where a kernel would end the process, it is looked for before."""
    if index.dtype.is_floating_point or index.dtype is torch.bool:
        raise OperandError(f"index must be integers; got {index.dtype}")
    if not index.is_cpu:
        _check_range(op, index, axis, size)
    try:
        return call()
    except (IndexError, RuntimeError):
        _check_range(op, index, axis, size)
        raise


class Take(Primitive):
    """The slices of `a` at the positions `index` along the axis `dim`, which the axes of `index` replace: a look-up in a table.

    `index`: integers from 0 on, of any shape. A slice picked several times gets the sum of its gradients. Raises RangeError outside of
    the range.

    >>> hg.ops.Take.apply(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 1, 0]), dim=0)
    Variable([[3., 4.],
              [3., 4.],
              [1., 2.]])
    """

    @staticmethod
    def native(a: Any, index: Any, *, dim: int) -> Any:
        axis = normal_axis(dim, a.ndim)
        return Gather.apply(a, _spread(index, tuple(a.shape), axis), axis).reshape((*a.shape[:axis], *index.shape, *a.shape[axis + 1 :]))

    function = ""
    operands = staticmethod(lambda: [((shape, torch.tensor(index)), {"dim": dim}) for shape, index, dim in _TAKEN])

    @staticmethod
    def forward(a: Any, index: Any, *, dim: int) -> Tensor:
        axis, flat = normal_axis(dim, a.ndim), index.reshape(-1)
        out = _in_range("Take", lambda: a.index_select(axis, flat), index, axis, a.shape[axis])
        return out if index.ndim == 1 else out.reshape((*a.shape[:axis], *index.shape, *a.shape[axis + 1 :]))  # type: ignore[no-any-return]

    @staticmethod
    def into(out: Any, a: Any, index: Any, dim: int) -> Any:
        axis = normal_axis(dim, a.ndim)
        if index.dtype not in (torch.int64, torch.int32):
            return None
        copies, index = compact(index)
        flat, wide = index.view(-1), out.view((*a.shape[:axis], index.numel(), *a.shape[axis + 1 :]))
        return [*copies, partial(_in_range, "Take", partial(torch.index_select, a, axis, flat, out=wide), flat, axis, a.shape[axis])]

    vjps = (lambda g, out, a, index, dim: Put.apply(g, index, shape=tuple(a.shape), dim=normal_axis(dim, a.ndim)), None)
    reads = ("index", "")
    fresh = True


# (shape, index, dim) that tests draw for the next two
_TAKEN: list[tuple[tuple[int, ...], Any, int]] = [
    ((2,), [0], 0), ((3,), [2, 0, 2], 0), ((3,), 1, 0), ((2, 3), [2, 2], 1), ((3, 2), [[1, 0], [1, 2]], 0), ((2, 3), [[0], [1]], -1), ((2, 2, 2), [1, 0, 1], 1),
]  # fmt: skip


class Put(Primitive):
    """The transpose of `take`: zeros of `shape`, with the slices of `g` added at the positions `index` along the axis `dim`.

    >>> hg.ops.Put.apply(torch.ones(2, 1), torch.tensor([1, 1]), shape=(3, 1), dim=0)
    tensor([[0.],
            [2.],
            [0.]])
    """

    @staticmethod
    def native(g: Any, index: Any, *, shape: tuple[int, ...], dim: int) -> Any:
        wide = (*shape[:dim], index.numel(), *shape[dim + 1 :])
        return ScatterAdd.apply(g.reshape(wide), _spread(index, shape, dim), shape=shape, dim=dim)

    function = ""
    operands = staticmethod(
        lambda: [
            (((*shape[: d % len(shape)], *torch.tensor(index).shape, *shape[d % len(shape) + 1 :]), torch.tensor(index)), {"shape": shape, "dim": d % len(shape)})
            for shape, index, d in _TAKEN
        ]
    )  # fmt: skip

    @staticmethod
    def forward(g: Any, index: Any, *, shape: tuple[int, ...], dim: int) -> Tensor:
        out = torch.zeros(shape, dtype=g.dtype, device=g.device)
        wide = g.reshape((*shape[:dim], index.numel(), *shape[dim + 1 :]))
        return _in_range("Put", lambda: out.index_add_(dim, index.reshape(-1), wide), index, dim, shape[dim])  # type: ignore[no-any-return]

    @staticmethod
    def into(out: Any, g: Any, index: Any, shape: tuple[int, ...], dim: int) -> Any:
        if index.dtype not in (torch.int64, torch.int32):
            return None
        (first, index), (second, g) = compact(index), compact(g)
        flat, wide = index.view(-1), g.view((*shape[:dim], index.numel(), *shape[dim + 1 :]))
        return [
            *first,
            *second,
            partial(out.zero_),
            partial(_in_range, "Put", partial(out.index_add_, dim, flat, wide), flat, dim, shape[dim]),
        ]

    vjps = (lambda h, res, g, index, shape, dim: Take.apply(h, index, dim=dim), None)
    reads = ("index", "")
    fresh = True
