"""Ops that rearrange, select or join elements and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate, permutations
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.explain import out_of_range
from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import AxisError, DeviceError, OperandError, ShapeError
from hotgrad.ops.axes import normal_axes, normal_axis


class Reshape(Primitive):
    """`a` with another shape of as many elements; one size may be -1 and is then inferred.

    >>> hg.Variable([1.0, 2.0, 3.0, 4.0]).reshape(2, -1)
    Variable([[1., 2.],
              [3., 4.]])
    """

    native = "reshape"
    collects = True
    forward = staticmethod(lambda a, *, shape: a.reshape(shape))
    operands = staticmethod(
        lambda: [
            ((old,), {"shape": new})
            for old, new in [
                ((), (1,)), ((1,), ()), ((2,), (2, 1)), ((4,), (2, 2)), ((2, 3), (3, 2)), ((2, 3), (-1,)), ((3, 3), (9,)), ((2, 2, 2), (4, -1)),
                ((0, 2), (2, 0)), ((1, 2), (2,)), ((3, 2), (3, 2)),
            ]
        ]
    )  # fmt: skip
    into = staticmethod(lambda out, a, shape: partial(out.view(a.shape).copy_, a))  # where it is no view
    vjps = (lambda g, out, a, shape: g.reshape(tuple(a.shape)),)
    reads = ("",)


class Permute(Primitive):
    """`a` with its axes in the order `dims`.

    >>> hg.permute(hg.Variable(torch.zeros(2, 3, 4)), (2, 0, 1)).shape
    torch.Size([4, 2, 3])
    """

    native = "permute"
    collects = True

    operands = staticmethod(
        lambda: [
            ((shape,), {"dims": tuple(axis - len(shape) * back for axis in dims)})
            for shape in [(), (2,), (2, 3), (3, 3), (2, 1, 3), (2, 2, 2), (0, 2)]
            for dims in permutations(range(len(shape)))
            for back in (0, 1)
        ]
    )

    @staticmethod
    def forward(a: Any, *, dims: tuple[int, ...]) -> Any:
        axes = [normal_axis(axis, a.ndim) for axis in dims]
        if sorted(axes) != list(range(a.ndim)):
            raise AxisError(f"dims must name each of the {a.ndim} axes once; got {tuple(dims)}")
        return a.permute(axes)

    @staticmethod
    def rule(g: Any, out: Any, a: Any, dims: tuple[int, ...]) -> Any:
        axes = [axis % max(a.ndim, 1) for axis in dims]
        return g.permute(tuple(axes.index(i) for i in range(a.ndim)))

    vjps = (rule,)
    reads = ("",)


class Expand(Primitive):
    """`a` broadcast to `shape`, as a view; -1 keeps a size.

    >>> hg.Variable([[1.0], [2.0]]).expand(2, 3)
    Variable([[1., 1., 1.],
              [2., 2., 2.]])
    """

    native = "expand"
    collects = True
    forward = staticmethod(lambda a, *, shape: a.expand(shape))
    operands = staticmethod(
        lambda: [
            ((old,), {"shape": new})
            for old, new in [
                ((), (2,)), ((), ()), ((1,), (3,)), ((3,), (2, -1)), ((2, 1), (2, 3)), ((1, 1), (3, 3)), ((2, 1), (2, 2, 3)), ((2, 2), (2, 2)),
                ((3, 1), (3, 3)), ((1, 3), (3, 3)), ((1,), (0,)), ((1, 2), (1, 1, 2)),
            ]
        ]
    )  # fmt: skip
    vjps = (lambda g, out, a, shape: g,)  # the engine undoes broadcasting
    reads = ("",)


def compact(a: Tensor) -> tuple[list[partial[Any]], Tensor]:
    """A contiguous tensor made once, and the call that copies `a` into it: for kernels that would allocate such a copy themselves."""
    if a.is_contiguous():
        return [], a
    kept = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    return [partial(kept.copy_, a)], kept


def _take(out: Tensor, a: Tensor, select: Callable[[Tensor], Tensor]) -> partial[Any]:
    """The call that picks into `out` the elements of `a` that `select` picks of an array like it."""
    return partial(torch.take, a, select(torch.arange(a.numel(), device=a.device).reshape(a.shape)), out=out)


class Copy(Primitive):
    """`a` in new memory, where its elements lie one after the other.

    >>> hg.ops.Copy.apply(hg.Variable([[1.0, 2.0], [3.0, 4.0]]).T).data.is_contiguous()
    True
    """

    native = "{a}"
    function = ""
    forward = staticmethod(lambda a: a.clone(memory_format=torch.contiguous_format))
    into = staticmethod(lambda out, a: partial(out.copy_, a))
    vjps = (lambda g, out, a: g,)
    reads = ("",)


class Flip(Primitive):
    """`a` with the order of its elements reversed along the axes `dims`.

    >>> hg.flip(hg.Variable([1.0, 2.0, 3.0]), 0)
    Variable([3., 2., 1.])
    """

    native = "flip"
    collects = True

    @staticmethod
    def forward(a: Any, *, dims: Any) -> Any:
        if dims is None:
            raise OperandError("dims must be an axis or a tuple of axes; got None")
        return a.flip(() if dims == () else normal_axes(dims, a.ndim))

    operands = staticmethod(
        lambda: [
            ((shape,), {"dims": dims})
            for shape in [(2,), (1,), (2, 3), (3, 3), (2, 1, 2), (0, 2), (2, 2, 2)]
            for dims in [(0,), (-1,), (0, -1), (), (1,)]
            if all(-len(shape) <= d < len(shape) for d in dims) and len({d % len(shape) for d in dims}) == len(dims)
        ]
    )
    into = staticmethod(lambda out, a, dims: _take(out, a, lambda places: Flip.forward(places, dims=dims)))
    vjps = (lambda g, out, a, dims: g.flip(dims),)
    reads = ("",)
    fresh = True


class Pad(Primitive):
    """`a` with `value` added around it. `pad` gives (before, after) for the last axis, then for the one before it, and so on;
    negative amounts cut. The only `mode` is "constant".

    >>> hg.pad(hg.Variable([1.0, 2.0]), (1, 2))
    Variable([0., 1., 2., 0., 0.])
    """

    native = "pad"
    operands = staticmethod(
        lambda: [
            ((shape,), {"pad": pad, "value": value})
            for shape, pad in [
                ((2,), (1, 0)), ((2,), (0, 2)), ((3,), (-1, 1)), ((2, 2), (1, 2)), ((2, 3), (0, 1, 1, 0)), ((3, 3), (-1, 0, 1, 2)), ((0,), (1, 1)),
                ((1, 2, 2), (1, 0, 0, 0, 0, 2)), ((2, 2), ()),
            ]
            for value in (0.0, 1.5)
        ]
    )  # fmt: skip

    @staticmethod
    def forward(a: Any, *, pad: tuple[int, ...], mode: str = "constant", value: float = 0.0) -> Tensor:
        if mode != "constant":
            raise OperandError(f"mode must be 'constant'; got {mode!r}. Compose others from getitem and cat")
        return torch.constant_pad_nd(a, pad, value)

    @staticmethod
    def into(out: Any, a: Any, pad: tuple[int, ...], mode: str, value: float) -> Any:
        inner = out
        for axis, before, after in zip(range(a.ndim - 1, -1, -1), pad[::2], pad[1::2]):
            size = a.shape[axis]
            a = a.narrow(axis, max(-before, 0), max(size + min(before, 0) + min(after, 0), 0))
            inner = inner.narrow(axis, max(before, 0), a.shape[axis])
        return [partial(out.fill_, value), partial(inner.copy_, a)]

    vjps = (lambda g, out, a, pad, mode, value: Pad.apply(g, tuple(-n for n in pad)),)
    reads = ("",)
    fresh = True


# (shape, dimension, size, step) that tests draw for the next two
_WINDOWS = [
    ((2,), 0, 1, 1), ((4,), 0, 2, 1), ((5,), 0, 2, 2), ((4,), 0, 1, 2), ((4,), 0, 2, 3), ((3,), 0, 3, 1), ((3, 3), -1, 2, 1), ((3, 3), 0, 2, 1),
    ((2, 4, 2), 1, 3, 1), ((0, 2), 1, 2, 1),
]  # fmt: skip


class Unfold(Primitive):
    """All slices of `size` elements along the axis `dimension`, `step` apart, as a new last axis.

    >>> hg.Variable([1.0, 2.0, 3.0, 4.0]).unfold(0, 2, 1)
    Variable([[1., 2.],
              [2., 3.],
              [3., 4.]])
    """

    native = "unfold"
    forward = staticmethod(lambda a, *, dimension, size, step: a.unfold(normal_axis(dimension, a.ndim), size, step))
    operands = staticmethod(lambda: [((shape,), {"dimension": d, "size": n, "step": k}) for shape, d, n, k in _WINDOWS])
    vjps = (
        lambda g, out, a, dimension, size, step: Fold.apply(
            g, shape=tuple(a.shape), dimension=normal_axis(dimension, a.ndim), size=size, step=step
        ),
    )
    reads = ("",)


class Fold(Primitive):
    """The transpose of `unfold`: slices added up where they came from, giving `shape`.

    >>> hg.ops.Fold.apply(torch.ones(3, 2), shape=(4,), dimension=0, size=2, step=1)
    tensor([1., 2., 2., 1.])
    """

    native = "fold"
    function = ""
    forward = staticmethod(lambda g, *, shape, dimension, size, step: torch.ops.aten.unfold_backward(g, shape, dimension, size, step))
    operands = staticmethod(
        lambda: [
            ((tuple(torch.empty(shape).unfold(d, n, k).shape),), {"shape": shape, "dimension": d % len(shape), "size": n, "step": k})
            for shape, d, n, k in _WINDOWS
        ]
    )

    @staticmethod
    def into(res: Any, g: Any, shape: tuple[int, ...], dimension: int, size: int, step: int) -> Any:
        windows = res.unfold(dimension, size, step)
        later = reversed(range(size))  # so that each element gets the slices that hold it in their order, as in the kernel
        return [partial(res.zero_), *(partial(windows.select(-1, i).add_, g.select(-1, i)) for i in later)]

    vjps = (lambda h, res, g, shape, dimension, size, step: h.unfold(dimension, size, step),)
    reads = ("",)


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

    >>> hg.Variable([1.0, 2.0, 3.0])[[0, 2, 2]]
    Variable([1., 3., 3.])
    """

    native = "getitem"

    @classmethod
    def bind(cls, extra: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        return super().bind(tuple(map(_plain_index, extra)), {name: _plain_index(index) for name, index in given.items()})

    forward = staticmethod(lambda a, *, index: a[index])
    operands = staticmethod(lambda: [((shape,), {"index": index}) for shape, index in _indices()])
    into = staticmethod(lambda out, a, index: _take(out, a, lambda places: places[index]))
    vjps = (lambda g, out, a, index: PutItem.apply(g, shape=tuple(a.shape), index=index),)
    reads = ("",)
    operators = ("__getitem__",)
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


class Cat(Primitive):
    """Tensors joined along the axis `dim`; their other sizes must be equal.

    `hg.cat(tensors, dim=0)` takes them as one sequence, `Cat.apply(*tensors, dim=0)` one by one.

    >>> hg.cat([hg.Variable([1.0]), torch.zeros(2)])
    Variable([1., 0., 0.])
    """

    native = "cat"
    forward = staticmethod(lambda *tensors, dim=0: torch.cat(tensors, dim))
    operands = staticmethod(
        lambda: [
            (shapes, {"dim": dim})
            for shapes, dim in [
                (((1,),), 0), (((1,), (1,)), 0), (((2,), (3,)), -1), (((2,), (1,), (2,)), 0), (((2, 2), (2, 2)), 1), (((2, 2), (2, 2)), 0),
                (((3, 3), (3, 3)), -1), (((1, 3), (2, 3)), 0), (((2, 1), (2, 0), (2, 2)), 1), (((0,), (2, 2)), 0), (((2, 1, 2), (2, 2, 2)), 1),
                (((2, 2), (2, 1), (2, 3), (2, 1)), -1),
            ]
        ]
    )  # fmt: skip

    into = staticmethod(lambda out, *tensors, dim: partial(torch.cat, tensors, dim, out=out))

    @staticmethod
    def vjp_of(*tensors: Any, dim: int) -> Any:
        ndim = max(t.ndim for t in tensors)
        axis = dim % ndim
        sizes = [t.shape[axis] if t.ndim == ndim else 0 for t in tensors]  # torch lets a tensor of shape (0,) join any others
        ends = list(accumulate(sizes))
        before = (slice(None),) * axis
        return lambda index, g, out: g[(*before, slice(ends[index] - sizes[index], ends[index]))] if tensors[index].ndim == ndim else 0.0

    vjp = staticmethod(lambda index, g, out, *tensors, dim: Cat.vjp_of(*tensors, dim=dim)(index, g, out))
    reads = ("",)


class Stack(Primitive):
    """Tensors of equal shape joined along a new axis `dim`.

    `hg.stack(tensors, dim=0)` takes them as one sequence, `Stack.apply(*tensors, dim=0)` one by one.

    >>> hg.stack([hg.Variable(1.0), hg.Variable(2.0)])
    Variable([1., 2.])
    """

    native = "stack"
    forward = staticmethod(lambda *tensors, dim=0: torch.stack(tensors, dim))
    operands = staticmethod(
        lambda: [
            ((shape,) * n, {"dim": dim})
            for n in (1, 2, 3)
            for shape in [(), (2,), (1,), (2, 2), (2, 3), (0, 2), (2, 1, 2)]
            for dim in range(-len(shape) - 1, len(shape) + 1)
        ]
    )
    into = staticmethod(lambda out, *tensors, dim: partial(torch.stack, tensors, dim, out=out))

    @staticmethod
    def vjp_of(*tensors: Any, dim: int) -> Any:
        before = (slice(None),) * normal_axis(dim, tensors[0].ndim + 1)
        return lambda index, g, out: g[(*before, index)]

    vjp = staticmethod(lambda index, g, out, *tensors, dim: Stack.vjp_of(*tensors, dim=dim)(index, g, out))
    reads = ("",)


def _check_gather(a: Any, index: Any, dim: int) -> None:
    """Raise what is wrong with the operands of a gather."""
    if not isinstance(index, Tensor) or index.dtype.is_floating_point or index.dtype is torch.bool:
        raise OperandError(
            f"index must be an integer tensor; got {getattr(index, 'dtype', index)}. The order here is gather(a, index, dim)"
        )
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

    >>> hg.gather(hg.Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1], [0]]), dim=1)
    Variable([[2.],
              [3.]])
    """

    native = "gather"
    operands = staticmethod(lambda: [((shape, torch.tensor(index)), {"dim": dim}) for shape, index, dim in _GATHERED])

    @staticmethod
    def forward(a: Any, index: Any, *, dim: int) -> Tensor:
        if not (a.is_cpu and index.is_cpu):  # an index out of range would end the process there
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
