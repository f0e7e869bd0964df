"""Reductions and scans composed from those of `reductions`; `dim` and `keepdim` as there."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from hotgrad.core.primitive import Primitive
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.axes import array, normal_axes, normal_axis
from hotgrad.ops.indexing import Gather, GetItem
from hotgrad.ops.ordering import sort
from hotgrad.ops.reductions import Amax, Amin, Cumsum, LogSoftmax, Mean, Prod, Softmax, Std, Sum, Var
from hotgrad.ops.rounding import IsNaN
from hotgrad.ops.shaping import Cat, Reshape

__all__ = [
    "all", "aminmax", "any", "count_nonzero", "cov", "cumprod", "cumsum", "cumulative_trapezoid", "diff", "dist", "log_softmax", "logcumsumexp", "mean",
    "nanmean", "nanquantile", "nansum", "prod", "quantile", "softmax", "std", "std_mean", "sum", "trapezoid", "var", "var_mean",
]  # fmt: skip


def _as(a: Any, dtype: torch.dtype | None) -> Any:
    return a if dtype is None else array(a).to(dtype)


def with_dtype(op: type[Primitive], name: str) -> Callable[..., Any]:
    """The function of a reduction that takes a `dtype` too, behind its options: `a` is converted to it first."""
    options = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=d, annotation="Any") for n, d in op.defaults.items()]
    first = inspect.Parameter("a", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Any")
    last = inspect.Parameter("dtype", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="torch.dtype | None")
    apply, count = op.apply, len(options)

    def call(a: Any, *given: Any, **named: Any) -> Any:
        if named and "dtype" in named:
            a = _as(a, named.pop("dtype"))
        elif len(given) == count + 1:
            *given, dtype = given  # type: ignore[assignment]
            a = _as(a, dtype)
        return apply(a, *given, **named)

    call.__name__, call.__qualname__, call.__module__ = name, name, op.__module__
    call.__doc__ = (apply.__doc__ or "").replace("\n\n    >>>", " With `dtype`, `a` is converted to it first.\n\n    >>>", 1)
    call.__signature__ = inspect.Signature([first, *options, last], return_annotation="Any")  # type: ignore[attr-defined]
    return call


sum = with_dtype(Sum, "sum")
mean = with_dtype(Mean, "mean")
cumsum = with_dtype(Cumsum, "cumsum")
softmax = with_dtype(Softmax, "softmax")
log_softmax = with_dtype(LogSoftmax, "log_softmax")


def prod(a: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Any:
    """Product over `dim`; 1 over nothing. With `dtype`, `a` is converted first.

    >>> hg.Variable([2.0, 3.0, 0.0]).prod()
    Variable(0.)
    """
    a = _as(a, dtype)
    if not isinstance(dim, (tuple, list)):
        return Prod.apply(a, dim, keepdim)
    a = array(a)
    for axis in sorted(normal_axes(dim, a.ndim), reverse=True):
        a = Prod.apply(a, axis, keepdim)
    return a


def _spread(op: type[Primitive]) -> Callable[..., Any]:
    """`var` or `std`, which take torch's older word `unbiased` too."""
    apply, name = op.apply, op.name.lower()

    def call(a: Any, *given: Any, **named: Any) -> Any:
        if given and isinstance(given[0], bool):  # var(unbiased)
            given, named = (None, *given[1:]), {**named, "unbiased": given[0]}
        elif len(given) > 1 and isinstance(given[1], bool):  # var(dim, unbiased, keepdim)
            given, named = (given[0], int(given[1]), *given[2:]), named
        if named.get("correction", 1) is None:
            del named["correction"]
        if "unbiased" in named:
            if "correction" in named:
                raise OperandError(f"{name}: give correction or unbiased, not both")
            unbiased = named.pop("unbiased")
            named["correction"] = 1 if unbiased is None else int(unbiased)
            if len(given) > 1:  # (dim, keepdim) behind it
                given, named = given[:1], {**named, "keepdim": given[-1]}
        return apply(a, *given, **named)

    call.__name__, call.__qualname__, call.__module__ = name, name, op.__module__
    call.__doc__ = (apply.__doc__ or "").replace(
        "\n\n    >>>", "\n\n    `unbiased` is torch's older word: True for a correction of 1, False for 0.\n\n    >>>", 1
    )
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("a", kind, annotation="Any"),
            *(inspect.Parameter(n, kind, default=d, annotation="Any") for n, d in op.defaults.items()),
            inspect.Parameter("unbiased", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="bool | None"),
        ],
        return_annotation="Any",
    )
    return call


var = _spread(Var)
std = _spread(Std)


def var_mean(a: Any, dim: Any = None, *given: Any, **named: Any) -> Any:
    """Variance and mean over `dim`, as a tuple; further arguments as for `var`.

    >>> hg.var_mean(hg.Variable([1.0, 2.0, 3.0]))
    (Variable(1.), Variable(2.))
    """
    return var(a, dim, *given, **named), _mean_like(a, dim, given, named)


def std_mean(a: Any, dim: Any = None, *given: Any, **named: Any) -> Any:
    """Standard deviation and mean over `dim`, as a tuple; further arguments as for `std`.

    >>> hg.std_mean(hg.Variable([1.0, 2.0, 3.0]))
    (Variable(1.), Variable(2.))
    """
    return std(a, dim, *given, **named), _mean_like(a, dim, given, named)


def _mean_like(a: Any, dim: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    keepdim = given[1] if len(given) > 1 else named.get("keepdim", False)
    return Mean.apply(a, None if isinstance(dim, bool) else dim, keepdim)


def nansum(a: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Any:
    """`sum` of what is not NaN.

    >>> hg.nansum(hg.Variable([1.0, float("nan")]))
    Variable(1.)
    """
    a = array(_as(a, dtype))
    return Sum.apply(Where.apply(IsNaN.apply(a), 0, a), dim, keepdim)


def nanmean(a: Any, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Any:
    """`mean` of what is not NaN; NaN where all is.

    >>> hg.nanmean(hg.Variable([1.0, float("nan"), 3.0]))
    Variable(2.)
    """
    a = array(_as(a, dtype))
    return nansum(a, dim, keepdim) / Sum.apply((a == a).to(a.dtype), dim, keepdim)


def aminmax(a: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Smallest and largest element over `dim`, as a tuple; ties share the gradient evenly.

    >>> hg.aminmax(hg.Variable([1.0, 3.0, 2.0]))
    (Variable(1.), Variable(3.))
    """
    return Amin.apply(a, dim, keepdim), Amax.apply(a, dim, keepdim)


def any(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether something is not 0 or False over `dim`, as a plain bool tensor.

    >>> hg.any(hg.Variable([0.0, 2.0]))
    tensor(True)
    """
    return count_nonzero(a, dim, keepdim) > 0


def all(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether nothing is 0 or False over `dim`, as a plain bool tensor.

    >>> hg.all(hg.Variable([0.0, 2.0]))
    tensor(False)
    """
    a = array(a)
    return count_nonzero(a == 0, dim, keepdim) == 0


def count_nonzero(a: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """How many elements are not 0 over `dim`, as a plain integer tensor.

    >>> hg.count_nonzero(hg.Variable([0.0, 2.0, 3.0]))
    tensor(2)
    """
    a = array(a)
    return Sum.apply((a != 0).to(torch.int64), dim, keepdim)


def diff(a: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """Differences of neighbours along the axis `dim`, taken `n` times; with elements put before or behind first.

    >>> hg.diff(hg.Variable([1.0, 3.0, 6.0]))
    Variable([2., 3.])
    """
    a = array(a)
    if not a.ndim:
        raise ShapeError("diff: a 0-d tensor has no neighbours")
    axis = normal_axis(dim, a.ndim)
    if not isinstance(n, int) or n < 0:
        raise OperandError(f"diff: n must be a whole number, 0 or more; got {n!r:.60}")
    if not n:  # as torch, which then leaves out what was to be put before and behind
        return a
    parts = [x for x in (prepend, a, append) if x is not None]
    a = Cat.apply(*parts, dim=axis) if len(parts) > 1 else a
    before = (slice(None),) * axis
    for _ in range(min(n, a.shape[axis])):
        a = GetItem.apply(a, (*before, slice(1, None))) - GetItem.apply(a, (*before, slice(None, -1)))
    return a


def trapezoid(y: Any, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Any:
    """The integral of `y` along the axis `dim` by the trapezoidal rule, at the points `x` or at steps of `dx`.

    >>> hg.trapezoid(hg.Variable([1.0, 3.0, 5.0]))
    Variable(6.)
    """
    return Sum.apply(_areas("trapezoid", y, x, dx, dim), dim)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Any:
    """The running integral of `y` along the axis `dim` by the trapezoidal rule.

    >>> hg.cumulative_trapezoid(hg.Variable([1.0, 3.0, 5.0]))
    Variable([2., 6.])
    """
    return _areas("cumulative_trapezoid", y, x, dx, dim).cumsum(dim)


def _areas(name: str, y: Any, x: Any, dx: Any, dim: int) -> Any:
    y = array(y)
    axis = normal_axis(dim, y.ndim)
    before = (slice(None),) * axis
    heights = (GetItem.apply(y, (*before, slice(1, None))) + GetItem.apply(y, (*before, slice(None, -1)))) / 2
    if x is None:
        return heights * dx
    x = array(x)
    if (x.shape[0] if x.ndim == 1 else x.shape[axis - y.ndim] if x.ndim >= y.ndim - axis else 1) != y.shape[axis]:
        raise ShapeError(
            f"{name}: expected x with a point for each of y's {y.shape[axis]} along axis {axis}; got x {tuple(x.shape)}, y {tuple(y.shape)}"
        )
    widths = diff(Reshape.apply(x, (-1, *(1 for _ in range(y.ndim - 1 - axis)))) if x.ndim == 1 else x, dim=axis - y.ndim)
    return heights * widths


def _scanned(a: Any, dim: int, combine: Any) -> Any:
    """What an associative function makes of all elements so far along an axis, in log2(n) passes (Hillis and Steele 1986)."""
    a = array(a)
    axis = normal_axis(dim, a.ndim)
    before, step = (slice(None),) * axis, 1
    while a.ndim and step < a.shape[axis]:
        later = combine(GetItem.apply(a, (*before, slice(None, -step))), GetItem.apply(a, (*before, slice(step, None))))
        a = Cat.apply(GetItem.apply(a, (*before, slice(step))), later, dim=axis)
        step *= 2
    return a


def cumprod(a: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    """Running product along the axis `dim`, differentiable to any order where elements are 0.

    >>> hg.cumprod(hg.Variable([1.0, 2.0, 3.0]), 0)
    Variable([1., 2., 6.])
    """
    return _scanned(_as(a, dtype), dim, lambda before, x: before * x)


def logcumsumexp(a: Any, dim: int) -> Any:
    """The logarithm of the running sum of exponentials along the axis `dim`, without overflow.

    >>> hg.logcumsumexp(hg.Variable([1000.0, 1000.0]), 0)
    Variable([1000.0000, 1000.6932])
    """
    return _scanned(a, dim, lambda before, x: before.logaddexp(x))


def quantile(a: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear") -> Any:
    """The value below which the share `q` of the elements lies, along the axis `dim` or of all; several `q` make a first axis.

    `q`: a number or numbers from 0 to 1. `interpolation` between the two nearest elements: "linear", "lower", "higher", "nearest",
    "midpoint". NaN where one is NaN. Eager and replay only.

    >>> hg.quantile(hg.Variable([1.0, 2.0, 4.0]), 0.75)
    Variable(3.)
    """
    return _quantile(a, q, dim, keepdim, interpolation, False)


def nanquantile(a: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear") -> Any:
    """`quantile` of what is not NaN.

    >>> hg.nanquantile(hg.Variable([1.0, 2.0, 4.0, float("nan")]), 0.75)
    Variable(3.)
    """
    return _quantile(a, q, dim, keepdim, interpolation, True)


def _quantile(a: Any, q: Any, dim: int | None, keepdim: bool, interpolation: str, skip: bool) -> Any:
    a = array(a)
    shares = torch.as_tensor(q, dtype=a.dtype, device=a.device)
    if shares.ndim > 1 or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise OperandError(f"quantile: q must be numbers from 0 to 1, of one axis at most; got {q!r:.60}")
    modes = ("linear", "lower", "higher", "nearest", "midpoint")
    if interpolation not in modes:
        raise OperandError(f"quantile: interpolation must be one of {', '.join(modes)}; got {interpolation!r}")
    if not a.numel():
        raise ShapeError(f"quantile: shape {tuple(a.shape)} has no elements")
    ndim, axis = a.ndim, 0 if dim is None else normal_axis(dim, a.ndim)
    flat = Reshape.apply(a, (-1,)) if dim is None or not ndim else a.movedim(axis, -1)
    ordered = sort(flat, -1, stable=True).values
    missing = IsNaN.apply(ordered)
    counted = (~missing).to(a.dtype).sum(-1, True) if skip else flat.shape[-1]
    ranks = Reshape.apply(shares, (-1, *(1 for _ in range(flat.ndim)))) * (counted - 1)
    ranks = ranks.clip(0, None).expand((max(shares.numel(), 1), *flat.shape[:-1], 1))
    if interpolation in ("lower", "higher", "nearest"):
        ranks = {"lower": ranks.floor, "higher": ranks.ceil, "nearest": ranks.round}[interpolation]()
    low, high = ranks.floor(), ranks.ceil()
    several = ordered.unsqueeze(0).expand((ranks.shape[0], *ordered.shape))
    lower, upper = (Gather.apply(several, at.to(torch.int64), -1).squeeze(-1) for at in (low, high))
    weight = (ranks - low).squeeze(-1)
    out = lower + ((upper - lower) * 0.5 if interpolation == "midpoint" else (upper - lower) * weight)
    out = Where.apply((~missing).sum(-1) == 0 if skip else missing.any(-1), math.nan, out)
    if keepdim:
        out = Reshape.apply(out, (-1, *(1 for _ in range(ndim)))) if dim is None or not ndim else out.unsqueeze(axis + 1)
    return out if shares.ndim else out.squeeze(0)


def cov(a: Any, *, correction: float = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """The covariance matrix of variables that are rows and of observations that are columns.

    `fweights`: how often each observation was made, whole numbers; `aweights`: its weight.

    >>> hg.cov(hg.Variable([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]))
    Variable([[ 1., -1.],
              [-1.,  1.]])
    """
    a = array(a)
    if a.ndim > 2:
        raise ShapeError(f"cov: expected at most 2 axes; got shape {tuple(a.shape)}")
    rows = a if a.ndim == 2 else Reshape.apply(a, (1, -1))
    n = rows.shape[1]
    weights: Any = 1.0 if fweights is None else array(fweights).to(a.dtype)
    if aweights is not None:
        aweights = array(aweights).to(a.dtype)
        weights = aweights * weights
    if fweights is None and aweights is None:
        centred = rows - rows.mean(1, True)
        out = centred @ centred.mT / float(max(n - correction, 0))
    else:
        total = Sum.apply(weights)
        centred = rows - (rows * weights).sum(1, True) / total
        taken = correction if aweights is None else correction * Sum.apply(weights * aweights) / total
        out = (centred * weights) @ centred.mT / (total - taken).clip(0, None)
    return Reshape.apply(out, ()) if rows.shape[0] == 1 else out


def dist(a: Any, b: Any, p: float = 2.0) -> Any:
    """The p-norm of a - b.

    >>> hg.dist(hg.Variable([3.0, 4.0]), torch.zeros(2))
    Variable(5.)
    """
    return (array(a) - b).norm(p)
