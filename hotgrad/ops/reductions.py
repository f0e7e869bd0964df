"""Reductions over one, several or all axes, and the scans and normalisations that belong to them.

`dim` is None or () for all axes, an axis or a tuple of axes; negative ones count from the end. `keepdim` keeps the reduced
axes with size 1. An axis out of range or given twice raises AxisError.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from hotgrad.core.primitive import Primitive
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where, signed
from hotgrad.ops.axes import normal_axes, normal_axis, number
from hotgrad.ops.shaping import Cat, Stack, compact

_AXES = [None, 0, -1, (0, -1)]  # what tests draw for `dim`; those that a shape does not have are discarded


def kept(g: Any, a: Any, dim: Any, keepdim: bool) -> Any:
    """`g`, the shape of a reduction's result, with the reduced axes put back as size 1, so that it broadcasts against `a`."""
    if keepdim:
        return g
    axes = normal_axes(dim, a.ndim)
    return g.reshape(tuple(1 if i in axes else n for i, n in enumerate(a.shape)))


def count(a: Any, dim: Any) -> int:
    """The number of elements that a reduction of `a` over `dim` combines into one."""
    return math.prod(a.shape[i] for i in normal_axes(dim, a.ndim))


def _axes(dim: Any, ndim: int) -> Any:
    """The axes of a reduction as its kernel takes them fastest."""
    axes = normal_axes(dim, ndim)
    return axes[0] if len(axes) == 1 else axes


class Sum(Primitive):
    """Sum over `dim`; 0 over nothing.

    >>> hg.Variable([[1.0, 2.0], [3.0, 4.0]]).sum(0)
    Variable([4., 6.])
    """

    function = ""

    native = "sum"

    @staticmethod
    def forward(a: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
        return a.sum(normal_axes(dim, a.ndim), keepdim) if dim is not None or keepdim else a.sum()

    into = staticmethod(lambda out, a, dim, keepdim: partial(torch.sum, a, _axes(dim, a.ndim), keepdim, out=out))
    vjps = (lambda g, out, a, dim, keepdim: (kept(g, a, dim, keepdim) if dim is not None else g).expand(a.shape),)
    reads = ("",)
    options = {"dim": _AXES, "keepdim": [False, True]}


class Mean(Primitive):
    """Mean over `dim`; NaN over nothing.

    >>> hg.Variable([[1.0, 2.0], [3.0, 4.0]]).mean()
    Variable(2.5000)
    """

    function = ""

    native = staticmethod(lambda a, *, dim, keepdim: a.sum(dim, keepdim) / float(count(a, dim)))

    @staticmethod
    def forward(a: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
        return a.mean(normal_axes(dim, a.ndim), keepdim) if dim is not None or keepdim else a.mean()

    @staticmethod
    def rule(g: Any, out: Any, a: Any, dim: Any, keepdim: bool) -> Any:
        if dim is None:
            return (g / a.numel()).expand(a.shape)
        return (kept(g, a, dim, keepdim) / count(a, dim)).expand(a.shape)

    @staticmethod
    def into(out: Any, a: Any, dim: Any, keepdim: bool) -> Any:
        if not a.is_cpu or out.dtype not in (torch.float32, torch.float64):
            return partial(torch.mean, a, _axes(dim, a.ndim), keepdim, out=out)
        number = torch.tensor(count(a, dim), dtype=out.dtype)  # what the kernel itself does, in two thirds of its time
        return [partial(torch.sum, a, _axes(dim, a.ndim), keepdim, out=out), partial(torch.div, out, number, out=out)]

    vjps = (rule,)
    reads = ("",)
    options = {"dim": _AXES, "keepdim": [False, True]}


def _over(g: Any, out: Any) -> Any:
    """`g` / `out`, but 0 where `out` is 0, however large `g` is there."""
    nothing = out == 0
    return Where.apply(nothing, 0.0, g / Where.apply(nothing, 1.0, out))


def _centred(a: Any, dim: Any) -> Any:
    return a - a.mean(dim, True)


def _variance(a: Any, dim: Any, correction: float, keepdim: bool) -> Any:
    """In double, as torch's kernel does: squares of float32 overflow and vanish where their roots, and often their mean, do not."""
    a, n = a.to(torch.float64), count(a, dim)
    deviation = a - a.sum(dim, True) / float(n)
    return (deviation * deviation).sum(dim, keepdim) / float(max(n - correction, 0))


class Var(Primitive):
    """Variance over `dim`: the squared deviations from the mean, divided by their number less `correction`.

    NaN where that divisor is not positive.

    >>> hg.Variable([1.0, 2.0, 3.0]).var()
    Variable(1.)
    """

    function = ""

    native = staticmethod(lambda a, *, dim, correction, keepdim: _variance(a, dim, correction, keepdim).to(a.dtype))

    @staticmethod
    def forward(a: Any, *, dim: Any = None, correction: float = 1, keepdim: bool = False) -> Any:
        return torch.var(a, normal_axes(dim, a.ndim), correction=number("correction", correction), keepdim=keepdim)

    into = staticmethod(
        lambda out, a, dim, correction, keepdim: partial(
            torch.var, a, normal_axes(dim, a.ndim), correction=correction, keepdim=keepdim, out=out
        )
    )
    vjps = (
        lambda g, out, a, dim, correction, keepdim: kept(g, a, dim, keepdim) * _centred(a, dim) * 2 / max(count(a, dim) - correction, 0),
    )
    reads = ("a",)
    fresh = True
    options = {"dim": _AXES, "correction": [0, 1], "keepdim": [False, True]}


class Std(Primitive):
    """Standard deviation over `dim`, the square root of `var`.

    >>> hg.Variable([1.0, 2.0, 3.0]).std()
    Variable(1.)
    """

    function = ""

    native = staticmethod(lambda a, *, dim, correction, keepdim: _variance(a, dim, correction, keepdim).sqrt().to(a.dtype))

    @staticmethod
    def forward(a: Any, *, dim: Any = None, correction: float = 1, keepdim: bool = False) -> Any:
        return torch.std(a, normal_axes(dim, a.ndim), correction=number("correction", correction), keepdim=keepdim)

    into = staticmethod(
        lambda out, a, dim, correction, keepdim: partial(
            torch.std, a, normal_axes(dim, a.ndim), correction=correction, keepdim=keepdim, out=out
        )
    )
    vjps = (
        lambda g, out, a, dim, correction, keepdim: (
            kept(_over(g, out), a, dim, keepdim) * _centred(a, dim) / max(count(a, dim) - correction, 0)
        ),
    )
    reads = ("a out",)
    fresh = True
    options = {"dim": _AXES, "correction": [0, 1], "keepdim": [False, True]}
    kinks = {
        "0 where all are equal": [
            ([[1.0, 1.0, 1.0]], {}, 2.0, [[0.0, 0.0, 0.0]]),
            ([[1.0, 1.0, 1.0]], {}, math.inf, [[0.0, 0.0, 0.0]]),
        ]
    }  # fmt: skip


def _axes_of_some(a: Any, dim: Any, what: str) -> tuple[int, ...]:
    axes = normal_axes(dim, a.ndim)
    if not math.prod(a.shape[i] for i in axes):
        raise ShapeError(f"the {what} of no elements does not exist; reduce over axes that are not empty")
    return axes


def _extremum_rule(g: Any, out: Any, a: Any, dim: Any, keepdim: bool) -> Any:
    """Ties share evenly."""
    chosen = a == kept(out, a, dim, keepdim)
    shares = chosen.sum(normal_axes(dim, a.ndim), True) if a.ndim else chosen
    return Where.apply(chosen, kept(g, a, dim, keepdim), 0.0) / shares


class _Extremum(Primitive, abstract=True):
    """What the largest and the smallest element have in common."""

    vjps = (_extremum_rule,)
    reads = ("a out",)
    fresh = True
    options = {"dim": _AXES, "keepdim": [False, True]}


class Amax(_Extremum):
    """Largest element over `dim`, NaN where one is NaN. Raises ShapeError over nothing.

    >>> hg.amax(hg.Variable([[1.0, 5.0], [3.0, 4.0]]), 1)
    Variable([5., 4.])
    """

    native = "amax"
    forward = staticmethod(lambda a, *, dim=None, keepdim=False: torch.amax(a, _axes_of_some(a, dim, "largest"), keepdim))
    into = staticmethod(lambda out, a, dim, keepdim: partial(torch.amax, a, normal_axes(dim, a.ndim), keepdim, out=out))
    kinks = {
        "shared evenly at ties; NaN for all elements if one is NaN": [
            ([[2.0, 1.0, 2.0, 2.0]], {}, 6.0, [[2.0, 0.0, 2.0, 2.0]]),
            ([[[1.0, 1.0], [3.0, 2.0]]], {"dim": 1}, [4.0, math.inf], [[[2.0, 2.0], [math.inf, 0.0]]]),
            ([[1.0, math.nan, 2.0]], {}, 1.0, [[math.nan, math.nan, math.nan]]),
        ]
    }  # fmt: skip


class Amin(_Extremum):
    """Smallest element over `dim`, NaN where one is NaN. Raises ShapeError over nothing.

    >>> hg.amin(hg.Variable([[1.0, 5.0], [3.0, 4.0]]), 1)
    Variable([1., 3.])
    """

    native = "amin"
    forward = staticmethod(lambda a, *, dim=None, keepdim=False: torch.amin(a, _axes_of_some(a, dim, "smallest"), keepdim))
    into = staticmethod(lambda out, a, dim, keepdim: partial(torch.amin, a, normal_axes(dim, a.ndim), keepdim, out=out))
    kinks = {
        "shared evenly at ties; NaN for all elements if one is NaN": [
            ([[2.0, 5.0, 2.0, 2.0]], {}, 6.0, [[2.0, 0.0, 2.0, 2.0]]),
            ([[[1.0, 1.0], [3.0, 2.0]]], {"dim": -1, "keepdim": True}, [[4.0], [math.inf]], [[[2.0, 2.0], [0.0, math.inf]]]),
            ([[1.0, math.nan, 2.0]], {}, 1.0, [[math.nan, math.nan, math.nan]]),
        ]
    }  # fmt: skip


class Prod(Primitive):
    """Product over `dim`, one axis or None for all; 1 over nothing.

    >>> hg.Variable([2.0, 3.0, 0.0]).prod()
    Variable(0.)
    """

    function = ""

    native = "prod"
    allocates = True

    @staticmethod
    def forward(a: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
        if dim is None:
            out = a.prod()
            return out.reshape((1,) * a.ndim) if keepdim else out
        return a.prod(normal_axis(dim, a.ndim), keepdim)

    @staticmethod
    def rule(g: Any, out: Any, a: Any, dim: int | None, keepdim: bool) -> Any:
        """Times the product of all others, by a tree of pairwise products: up, then down with what the sibling and the rest
        of the tree multiply to. The last of an odd number goes up alone. 2 log2(n) multiplications, and differentiable to any
        order where elements are zero, which `out / a` is not.
        """
        if not a.numel():
            return 0.0
        axis = a.ndim - 1 if dim is None else normal_axis(dim, a.ndim)
        x = a.reshape((-1,)) if dim is None or not a.ndim else a.transpose(axis, -1)
        levels = [x]
        while levels[-1].shape[-1] > 1:
            level = levels[-1]
            products = level[..., :-1:2] * level[..., 1::2]
            levels.append(Cat.apply(products, level[..., -1:], dim=-1) if level.shape[-1] % 2 else products)
        others: Any = torch.ones((*x.shape[:-1], 1), dtype=a.dtype, device=a.device)
        for level in reversed(levels[:-1]):
            n = level.shape[-1]
            left, right, rest = level[..., :-1:2], level[..., 1::2], others[..., : n // 2]
            if n > 2:
                left, right = left * rest, right * rest
            swapped = Stack.apply(right, left, dim=-1).reshape((*x.shape[:-1], n // 2 * 2))
            others = Cat.apply(swapped, others[..., n // 2 :], dim=-1) if n % 2 else swapped
        others = others.reshape(a.shape) if dim is None or not a.ndim else others.transpose(axis, -1)
        return kept(g, a, dim, keepdim) * others

    @staticmethod
    def into(out: Any, a: Any, dim: int | None, keepdim: bool) -> Any:
        if dim is not None:
            return partial(torch.prod, a, normal_axis(dim, a.ndim), keepdim, out=out)
        return partial(torch.prod, a.view(-1), 0, out=out.view(())) if a.is_contiguous() else None

    vjps = (rule,)
    reads = ("a",)
    fresh = True
    options = {"dim": [None, 0, -1], "keepdim": [False, True]}
    kinks = {
        "the product of the other factors, zeros included": [
            ([[0.0, 2.0, 3.0]], {}, 2.0, [[12.0, 0.0, 0.0]]),
            ([[0.0, 2.0, 0.0]], {}, 2.0, [[0.0, 0.0, 0.0]]),
        ]
    }  # fmt: skip


class Cumsum(Primitive):
    """Running sum along the axis `dim`.

    >>> hg.Variable([1.0, 2.0, 3.0]).cumsum(0)
    Variable([1., 3., 6.])
    """

    native = "cumsum"
    forward = staticmethod(lambda a, *, dim: torch.cumsum(a, normal_axis(dim, a.ndim)))
    into = staticmethod(lambda out, a, dim: partial(torch.cumsum, a, normal_axis(dim, a.ndim), out=out))
    vjps = (lambda g, out, a, dim: g.flip(dim).cumsum(dim).flip(dim) if a.ndim else g,)
    reads = ("",)
    options = {"dim": [0, -1]}


class LogSumExp(Primitive):
    """log of the sum of exponentials over `dim`, without overflow; -inf over nothing.

    >>> hg.logsumexp(hg.Variable([1000.0, 1000.0]), 0)
    Variable(1000.6932)
    """

    @staticmethod
    def native(a: Any, *, dim: Any, keepdim: bool) -> Any:
        if not count(a, dim):
            return a.sum(dim, keepdim) - math.inf
        largest = a.amax(dim, True)
        # where all is -inf, or something inf, the difference would be NaN
        shift = Where.apply(largest.abs() == math.inf, 0.0, largest)
        total = (a - shift).exp().sum(dim, True).log() + shift
        return total if keepdim else total.reshape(tuple(n for i, n in enumerate(a.shape) if i not in normal_axes(dim, a.ndim)))

    forward = staticmethod(lambda a, *, dim, keepdim=False: torch.logsumexp(a, normal_axes(dim, a.ndim), keepdim))
    vjps = (
        lambda g, out, a, dim, keepdim: (
            kept(Where.apply(out == -math.inf, 0.0, g), a, dim, keepdim)
            * (a - kept(Where.apply(out == -math.inf, 0.0, out), a, dim, keepdim)).exp()
        ),
    )
    reads = ("a out",)
    fresh = True
    stable = True
    allocates = True
    options = {"dim": _AXES[1:], "keepdim": [False, True]}
    kinks = {
        "0 where all elements are -inf": [
            ([[-math.inf, -math.inf]], {"dim": 0}, 1.0, [[0.0, 0.0]]),
            ([[-math.inf, 0.0]], {"dim": 0}, 2.0, [[0.0, 2.0]]),
        ]
    }  # fmt: skip


def _along(kernel: Any, out: Any, a: Any, dim: int) -> list[partial[Any]]:
    copies, a = compact(a)
    return [*copies, partial(kernel, a, normal_axis(dim, a.ndim), out=out)]


def _largest(a: Any, dim: int) -> Any:
    return a.amax(dim, True) if count(a, dim) else 0.0


class Softmax(Primitive):
    """exp(a) divided by its sum along the axis `dim`, without overflow.

    >>> hg.softmax(hg.Variable([0.0, 1000.0]), 0)
    Variable([0., 1.])
    """

    function = ""

    @staticmethod
    def native(a: Any, *, dim: int) -> Any:
        powers = (a - _largest(a, dim)).exp()
        return powers / powers.sum(dim, True)

    forward = staticmethod(lambda a, *, dim: torch.softmax(a, normal_axis(dim, a.ndim)))
    into = staticmethod(lambda out, a, dim: _along(torch.softmax, out, a, dim))
    vjps = (lambda g, out, a, dim: out * (g - (g * out).sum(dim, True)),)
    reads = ("out",)
    fresh = True
    stable = True
    options = {"dim": [0, -1]}


class LogSoftmax(Primitive):
    """The logarithm of `softmax` along the axis `dim`, accurate where that underflows.

    >>> hg.log_softmax(hg.Variable([0.0, 1000.0]), 0)
    Variable([-1000.,     0.])
    """

    @staticmethod
    def native(a: Any, *, dim: int) -> Any:
        shifted = a - _largest(a, dim)
        return shifted - shifted.exp().sum(dim, True).log()

    function = ""
    forward = staticmethod(lambda a, *, dim: torch.log_softmax(a, normal_axis(dim, a.ndim)))
    into = staticmethod(lambda out, a, dim: _along(torch.log_softmax, out, a, dim))
    vjps = (lambda g, out, a, dim: g - out.exp() * g.sum(dim, True),)
    reads = ("out",)
    fresh = True
    stable = True
    options = {"dim": [0, -1]}


def _order(p: Any) -> float:
    if p == "fro":
        return 2.0
    if isinstance(p, bool) or not isinstance(p, (int, float)):
        raise OperandError(f"p must be a number or 'fro'; got {p!r}")
    return float(p)


class Norm(Primitive):
    """The p-norm over `dim`: (sum of |a|^p)^(1/p); the largest |a| for p = inf, the smallest for -inf, the number of
    non-zeros for 0. Where |a|^p overflows, the gradient is NaN for p > 2, and 0 for smaller p, as torch has it.

    >>> hg.norm(hg.Variable([3.0, 4.0]))
    Variable(5.)
    """

    @staticmethod
    def native(a: Any, *, p: Any, dim: Any, keepdim: bool) -> Any:
        p = _order(p)
        if p == 2:
            return (a * a).sum(dim, keepdim).sqrt()
        if p == 0:
            return (a != 0.0).to(a.dtype).sum(dim, keepdim)
        if math.isinf(p):
            return a.abs().amax(dim, keepdim) if p > 0 else a.abs().amin(dim, keepdim)
        return a.abs().sum(dim, keepdim) if p == 1 else (a.abs() ** p).sum(dim, keepdim) ** (1 / p)

    forward = staticmethod(
        lambda a, *, p=2.0, dim=None, keepdim=False: torch.linalg.vector_norm(a, _order(p), normal_axes(dim, a.ndim), keepdim)
    )

    @staticmethod
    def rule(g: Any, out: Any, a: Any, p: Any, dim: Any, keepdim: bool) -> Any:
        p = _order(p)
        g, out = kept(g, a, dim, keepdim), kept(out, a, dim, keepdim)
        if p == 0:
            return 0.0
        if p == 1:
            return signed(g, a)
        if math.isinf(p):
            slope = _extremum_rule(g, out, a.abs(), dim, True)
            return Where.apply(out != out, slope, signed(slope, a))  # the sign of NaN is 0
        if p == 2:
            return a * _over(g, out)
        nothing = out == 0
        scale = Where.apply(nothing, 1.0, out)
        if p > 2:  # of elements that overflow it no share is known; 0 would pass for one
            most = (torch.finfo(a.dtype).max / max(count(a, dim), 1)) ** (1 / p)
            scale = Where.apply(Where.apply(out == math.inf, a.abs() > most, False), math.nan, scale)
        if p > 0 and p % 2 == 0:  # smooth where an element is 0, to any order
            return Where.apply(nothing, 0.0, g) * (a / scale) ** (p - 1)
        nothing = Where.apply(nothing, True, a == 0)
        share = a.abs() / scale if p > 0 else scale / a.abs()  # at most 1
        return signed(Where.apply(nothing, 0.0, g), a) * Where.apply(nothing, 1.0, share) ** ((p - 1) * math.copysign(1, p))

    into = staticmethod(
        lambda out, a, p, dim, keepdim: partial(torch.linalg.vector_norm, a, _order(p), normal_axes(dim, a.ndim), keepdim, out=out)
    )

    vjps = (rule,)
    reads = ("a out",)
    fresh = True
    options = {"p": [2.0, 1.0, 3.0, 1.5, 4.0, -1.0, math.inf], "dim": _AXES, "keepdim": [False, True]}
    kinks = {
        "0 where the norm is 0; of an element that is 0, 0 but for even p; for p = inf NaN for all elements if one is NaN": [
            ([[0.0, 0.0]], {"p": 2.0}, 1.0, [[0.0, 0.0]]),
            ([[0.0, -2.0]], {"p": 1.0}, 3.0, [[0.0, -3.0]]),
            ([[2.0, -2.0, 1.0]], {"p": math.inf}, 6.0, [[3.0, -3.0, 0.0]]),
            ([[0.0, 0.0]], {"p": 3.0}, 1.0, [[0.0, 0.0]]),
            ([[0.0, 0.0]], {"p": 2.0}, math.inf, [[0.0, 0.0]]),
            ([[0.0, 2.0]], {"p": 1.0}, math.inf, [[0.0, math.inf]]),
            ([[0.0, 2.0]], {"p": -1.0}, 1.0, [[0.0, 0.0]]),
            ([[1.0, math.nan, 0.0]], {"p": math.inf}, 1.0, [[math.nan, math.nan, math.nan]]),
            ([[1.0, math.nan, 0.0]], {"p": -math.inf}, 1.0, [[math.nan, math.nan, math.nan]]),
            ([[-1.0, 0.0, 2.0]], {"p": 1.0}, 1.0, [[-1.0, 0.0, 1.0]]),
            ([[-3.0, 0.0, 3.0]], {"p": math.inf}, 1.0, [[-0.5, 0.0, 0.5]]),
            ([[0.0, 0.0, 3.0]], {"p": -math.inf}, 1.0, [[0.0, 0.0, 0.0]]),
            ([[-3.0, 0.0, 3.0]], {"p": 0.0}, 1.0, [[0.0, 0.0, 0.0]]),
            ([[0.0, 2.0]], {"p": 0.5}, 1.0, [[0.0, 1.0]]),
        ]
    }  # fmt: skip
