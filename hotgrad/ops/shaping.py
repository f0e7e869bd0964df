"""Ops that rearrange or join elements and compute nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import accumulate, permutations
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive, zero
from hotgrad.errors import AxisError, OperandError
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


def take(out: Tensor, a: Tensor, select: Callable[[Tensor], Tensor]) -> partial[Any]:
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


class Alias(Primitive):
    """`a` itself at another place in the graph; with a `barrier` programs never take it for `a`.

    >>> x = hg.Variable(2.0, requires_grad=True)
    >>> y = hg.ops.Alias.apply(x)
    >>> hg.gradients(x * y, y)[0].item()
    2.0
    """

    function = ""
    options = {"barrier": [None, 1]}
    forward = staticmethod(lambda a, *, barrier=None: a.view(a.shape))
    native = staticmethod(lambda a, barrier=None: Permute.apply(a, tuple(range(a.ndim))))
    vjps = (lambda g, out, a, barrier: g,)
    reads = ("",)


class Independent(Primitive):
    """`a`, which does not depend on `b`, as part of its graph all the same: the gradient of `b` is zero.

    >>> x = hg.Variable(2.0, requires_grad=True)
    >>> y = hg.ops.Independent.apply(hg.Variable(1.0), x)
    >>> hg.gradients(y, x)[0].item()
    0.0
    """

    function = ""
    signature = "(m),(k)->(m)"
    forward = staticmethod(lambda a, b: a.view(a.shape))
    native = staticmethod(lambda a, b: Permute.apply(a, tuple(range(a.ndim))))
    vjps = (lambda g, out, a, b: g, zero)
    reads = ("", "")


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
    into = staticmethod(lambda out, a, dims: take(out, a, lambda places: Flip.forward(places, dims=dims)))
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
