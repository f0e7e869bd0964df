"""Sorting and what is chosen by order: the positions are plain integer tensors, and the values are gathered by them.

Ties go as in torch's kernels: to the first of equal elements for `argmax`, `argmin`, `max` and `min`; `sort` and `topk` may take any
unless `stable`. The gradient goes to the element that was taken. Sorting runs on eager and replay.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Maximum, Minimum, Where
from hotgrad.ops.axes import array, normal_axis
from hotgrad.ops.indexing import Gather, GetItem
from hotgrad.ops.reductions import Amax, Amin
from hotgrad.ops.shaping import Reshape

__all__ = ["argmax", "argmin", "argsort", "cummax", "cummin", "kthvalue", "max", "median", "min", "msort", "sort", "topk"]


class Ordered(NamedTuple):
    """Values, and their positions along the axis as a plain integer tensor."""

    values: Any
    indices: Any


class _Positions(Primitive, abstract=True):
    """What the searches for positions have in common."""

    vjps = (None,)
    reads = ("",)
    plain = True


class ArgSort(_Positions):
    """The positions along the axis `dim` in the order of their elements, NaN last. Eager and replay only.

    >>> hg.ops.ArgSort.apply(torch.tensor([3.0, 1.0, 2.0]), dim=0)
    tensor([1, 2, 0])
    """

    function = ""
    forward = staticmethod(
        lambda a, *, dim=-1, descending=False, stable=False: torch.argsort(
            a, dim=normal_axis(dim, a.ndim), descending=descending, stable=stable
        )
    )
    allocates = True
    options = {"dim": [0, -1], "descending": [False, True], "stable": [True]}


class TopK(_Positions):
    """The positions of the `k` largest elements along the axis `dim`, or of the smallest. Eager and replay only.

    >>> hg.ops.TopK.apply(torch.tensor([3.0, 1.0, 2.0]), k=2)
    tensor([0, 2])
    """

    function = ""
    forward = staticmethod(
        lambda a, *, k, dim=-1, largest=True, sorted=True: torch.topk(a, k, normal_axis(dim, a.ndim), largest, sorted).indices
    )
    allocates = True
    operands = staticmethod(
        lambda: [
            (((4,),), {"k": 2}),
            (((2, 3),), {"k": 1, "dim": 0}),
            (((3, 2),), {"k": 2, "dim": -1, "largest": False}),
            (((1,),), {"k": 1}),
        ]
    )


class ArgMax(_Positions):
    """The position of the largest element along the axis `dim`, the first of several; NaN counts as largest.

    >>> hg.ops.ArgMax.apply(torch.tensor([1.0, 3.0, 3.0]), dim=0)
    tensor(1)
    """

    function = ""
    native = staticmethod(lambda a, *, dim, keepdim: _first(a, Amax, dim, keepdim))
    forward = staticmethod(lambda a, *, dim, keepdim=False: torch.argmax(a, normal_axis(dim, a.ndim), keepdim))
    into = staticmethod(lambda out, a, dim, keepdim: partial(torch.argmax, a, normal_axis(dim, a.ndim), keepdim, out=out))
    options = {"dim": [0, -1], "keepdim": [False, True]}


class ArgMin(_Positions):
    """The position of the smallest element along the axis `dim`, the first of several; NaN counts as smallest.

    >>> hg.ops.ArgMin.apply(torch.tensor([1.0, 3.0, 1.0]), dim=0)
    tensor(0)
    """

    function = ""
    native = staticmethod(lambda a, *, dim, keepdim: _first(a, Amin, dim, keepdim))
    forward = staticmethod(lambda a, *, dim, keepdim=False: torch.argmin(a, normal_axis(dim, a.ndim), keepdim))
    into = staticmethod(lambda out, a, dim, keepdim: partial(torch.argmin, a, normal_axis(dim, a.ndim), keepdim, out=out))
    options = {"dim": [0, -1], "keepdim": [False, True]}


def _first(a: Any, extremum: Any, dim: int, keepdim: bool) -> Any:
    """The first position along `dim` that holds the extremum, as a reduction over numbered positions."""
    if not a.ndim:
        return (a != a).to(torch.int64) * 0
    axis, n = normal_axis(dim, a.ndim), a.shape[dim]
    numbers = torch.arange(n, dtype=torch.int64, device=a.device).reshape(-1, *(1 for _ in range(a.ndim - 1 - axis)))
    most = extremum.apply(a, axis, True)
    found = (a == most) | ((most != most) & (a != a))
    return Where.apply(found, numbers, n - 1).amin(axis, keepdim)


def _position(op: Any, a: Any, dim: int | None, keepdim: bool) -> Any:
    a = array(a)
    if not a.numel():
        raise ShapeError(f"{op.name.lower()}: shape {tuple(a.shape)} has no elements")
    if dim is not None:
        return op.apply(a, dim, keepdim)
    found = op.apply(Reshape.apply(a, (-1,)), 0)
    return found.reshape((1,) * a.ndim) if keepdim else found


def argmax(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The position of the largest element along the axis `dim`, or of all as one axis, as a plain integer tensor; the first of several.

    >>> hg.argmax(hg.Variable([[1.0, 3.0], [4.0, 2.0]]), 1)
    tensor([1, 0])
    """
    return _position(ArgMax, a, dim, keepdim)


def argmin(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The position of the smallest element along the axis `dim`, or of all as one axis, as a plain integer tensor; the first of several.

    >>> hg.argmin(hg.Variable([[1.0, 3.0], [4.0, 2.0]]), 1)
    tensor([0, 1])
    """
    return _position(ArgMin, a, dim, keepdim)


def argsort(a: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The positions along the axis `dim` in the order of their elements, as a plain integer tensor.

    >>> hg.argsort(hg.Variable([3.0, 1.0, 2.0]))
    tensor([1, 2, 0])
    """
    return ArgSort.apply(a, dim, descending, stable)


def sort(a: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Ordered:
    """The elements in order along the axis `dim`, NaN last, and where they were: (values, indices).

    >>> hg.sort(hg.Variable([3.0, 1.0, 2.0])).values
    Variable([1., 2., 3.])
    """
    return _taken(a, ArgSort.apply(a, dim, descending, stable), dim)


def msort(a: Any) -> Any:
    """The elements in order along the first axis.

    >>> hg.msort(hg.Variable([3.0, 1.0, 2.0]))
    Variable([1., 2., 3.])
    """
    return sort(a, 0, stable=True).values


def topk(a: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Ordered:
    """The `k` largest elements along the axis `dim`, or the smallest, and where they are: (values, indices).

    >>> hg.topk(hg.Variable([3.0, 1.0, 2.0]), 2).values
    Variable([3., 2.])
    """
    a = array(a)
    size = a.shape[normal_axis(dim, a.ndim)] if a.ndim else 1
    if isinstance(k, bool) or not isinstance(k, int) or not 0 <= k <= size:
        raise OperandError(f"topk: k must be a whole number from 0 to the {size} elements of axis {dim}; got {k!r:.60}")
    return _taken(a, TopK.apply(a, k, dim, largest, sorted), dim)


def _taken(a: Any, indices: Any, dim: int) -> Ordered:
    a = array(a)
    return Ordered(Gather.apply(a, indices, dim) if a.ndim else Reshape.apply(a, ()), indices)


def _extreme(a: Any, argument: Any, dim: int, keepdim: bool) -> Ordered:
    a = array(a)
    if not a.ndim:
        normal_axis(dim, 0)
        return Ordered(Reshape.apply(a, ()), argument.apply(a, 0))
    axis = normal_axis(dim, a.ndim)
    if not a.shape[axis]:
        raise ShapeError(f"the largest or smallest of no elements does not exist: axis {dim} of shape {tuple(a.shape)} is empty")
    indices = argument.apply(a, axis, True)
    values = Gather.apply(a, indices, axis)
    return Ordered(values, indices) if keepdim else Ordered(values.squeeze(axis), indices.squeeze(axis))


def max(a: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Largest of all elements, where ties share the gradient evenly and a NaN makes value and gradient of all NaN; or along the axis
    `dim` as (values, indices), where the first of equals has the gradient; or of `a` and a tensor in place of `dim`, as `maximum`.

    See `amax` for several axes.

    >>> hg.max(hg.Variable([1.0, 3.0, 2.0]))
    Variable(3.)
    >>> hg.max(hg.Variable([[1.0, 3.0], [4.0, 2.0]]), 1).values
    Variable([3., 4.])
    """
    return _of_all_or_along(a, dim, keepdim, other, Amax, ArgMax, Maximum)


def min(a: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
    """Smallest of all elements, where ties share the gradient evenly and a NaN makes value and gradient of all NaN; or along the axis
    `dim` as (values, indices), where the first of equals has the gradient; or of `a` and a tensor in place of `dim`, as `minimum`.

    See `amin` for several axes.

    >>> hg.min(hg.Variable([1.0, 3.0, 2.0]))
    Variable(1.)
    >>> hg.min(hg.Variable([[1.0, 3.0], [4.0, 2.0]]), 1).values
    Variable([1., 2.])
    """
    return _of_all_or_along(a, dim, keepdim, other, Amin, ArgMin, Minimum)


def _of_all_or_along(a: Any, dim: Any, keepdim: bool, other: Any, whole: Any, argument: Any, pairwise: Any) -> Any:
    if isinstance(dim, (Variable, Tensor)):
        dim, other = None, dim
    if other is not None:
        return pairwise.apply(a, other)
    return whole.apply(a, None, keepdim) if dim is None else _extreme(a, argument, dim, keepdim)


def kthvalue(a: Any, k: int, dim: int = -1, keepdim: bool = False) -> Ordered:
    """The k-th smallest element along the axis `dim`, counted from 1, and where it is: (values, indices).

    >>> hg.kthvalue(hg.Variable([3.0, 1.0, 2.0]), 2).values
    Variable(2.)
    """
    a = array(a)
    size = a.shape[normal_axis(dim, a.ndim)] if a.ndim else 1
    if not 1 <= k <= size:
        raise OperandError(f"kthvalue: k must be from 1 to the {size} elements of axis {dim}; got {k}")
    if not a.ndim:
        return Ordered(Reshape.apply(a, ()), ArgSort.apply(a, 0, False, True))
    found = sort(a, dim, stable=True)
    axis = normal_axis(dim, a.ndim)
    where = (*(slice(None) for _ in range(axis)), slice(k - 1, k) if keepdim else k - 1)
    return Ordered(GetItem.apply(found.values, where), found.indices[where])


def median(a: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element of all, of two the lower one; or along the axis `dim` as (values, indices). NaN where one is NaN.

    >>> hg.median(hg.Variable([3.0, 1.0, 2.0, 9.0]))
    Variable(2.)
    """
    a = array(a)
    if dim is None:
        flat = Reshape.apply(a, (-1,))
        if not flat.numel():
            raise ShapeError(f"median: shape {tuple(a.shape)} has no elements")
        return median(flat, 0).values
    n = a.shape[normal_axis(dim, a.ndim)] if a.ndim else 1
    if not n:
        raise ShapeError(f"median: axis {dim} of shape {tuple(a.shape)} is empty")
    found = kthvalue(a, (n + 1) // 2, dim, keepdim)
    if not a.ndim:
        return found
    last = kthvalue(a, n, dim, keepdim)  # where NaN is sorted to
    nan = last.values != last.values
    return Ordered(Where.apply(nan, last.values, found.values), Where.apply(nan, last.indices, found.indices))


class CumArg(_Positions):
    """The position of the largest element so far along the axis `dim`, or of the smallest, the last of equal ones. Eager and replay only.

    >>> hg.ops.CumArg.apply(torch.tensor([1.0, 3.0, 2.0]), dim=0)
    tensor([0, 1, 1])
    """

    function = ""
    forward = staticmethod(lambda a, *, dim, largest=True: (torch.cummax if largest else torch.cummin)(a, normal_axis(dim, a.ndim)).indices)
    allocates = True
    options = {"dim": [0, -1], "largest": [True, False]}


def cummax(a: Any, dim: int) -> Ordered:
    """The largest element so far along the axis `dim`, and where it is: (values, indices).

    >>> hg.cummax(hg.Variable([1.0, 3.0, 2.0]), 0).values
    Variable([1., 3., 3.])
    """
    return _taken(a, CumArg.apply(a, dim), dim)


def cummin(a: Any, dim: int) -> Ordered:
    """The smallest element so far along the axis `dim`, and where it is: (values, indices).

    >>> hg.cummin(hg.Variable([3.0, 1.0, 2.0]), 0).values
    Variable([3., 1., 1.])
    """
    return _taken(a, CumArg.apply(a, dim, largest=False), dim)
