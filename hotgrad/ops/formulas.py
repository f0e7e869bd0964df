"""Short formulas of elementwise ops under the names that torch has for them."""

from __future__ import annotations

import math
from typing import Any

import torch

from hotgrad.core.arrays import as_tensor
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError
from hotgrad.ops.arithmetic import Add, Clip, Div, Sub, Where
from hotgrad.ops.axes import array, number
from hotgrad.ops.pointwise import Sin
from hotgrad.ops.rounding import And, FloorDivide, IsNaN, Or, Trunc, Xor

__all__ = [
    "add",
    "addcdiv",
    "addcmul",
    "allclose",
    "clamp_max",
    "clamp_min",
    "clip",
    "deg2rad",
    "div",
    "equal",
    "fmax",
    "fmin",
    "frac",
    "lerp",
    "logaddexp2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "nan_to_num",
    "positive",
    "rad2deg",
    "rsub",
    "sinc",
    "sub",
]  # fmt: skip


def add(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a + alpha * b.

    >>> hg.add(hg.Variable([1.0, 2.0]), 1)
    Variable([2., 3.])
    """
    return Add.apply(a, b if alpha == 1 else b * number("alpha", alpha))


def sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    """a - alpha * b.

    >>> hg.sub(hg.Variable([1.0, 2.0]), 1)
    Variable([0., 1.])
    """
    return Sub.apply(a, b if alpha == 1 else b * number("alpha", alpha))


def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; with rounding_mode "floor" or "trunc" rounded down, or towards 0.

    >>> hg.div(hg.Variable([1.0, -3.0]), 2, rounding_mode="floor")
    Variable([ 0., -2.])
    """
    if rounding_mode not in (None, "floor", "trunc"):
        raise OperandError(f"div: rounding_mode must be None, 'floor' or 'trunc'; got {rounding_mode!r}")
    if rounding_mode == "floor":
        return FloorDivide.apply(a, b)
    return Div.apply(a, b) if rounding_mode is None else Trunc.apply(Div.apply(a, b))


def clip(a: Any, min: Any = None, max: Any = None) -> Any:
    """`a` limited to the closed interval from `min` to `max`: numbers or tensors, or None for no limit, not both None.

    Where min is above max, the result is max. NaN stays NaN. At a limit the gradient is `a`'s.

    >>> hg.Variable([-3.0, 0.5, 3.0]).clip(0, 1)
    Variable([0.0000, 0.5000, 1.0000])
    """
    if all(limit is None or isinstance(limit, (int, float, str)) for limit in (min, max)):
        return Clip.apply(a, min, max)
    a = array(a)
    a = a if min is None else Where.apply(_nan_or(min, a < min), min, a)
    return a if max is None else Where.apply(_nan_or(max, a > max), max, a)


def _nan_or(limit: Any, beyond: Any) -> Any:
    return beyond if isinstance(limit, (int, float)) else beyond | (limit != limit)


def clamp_min(a: Any, min: Any) -> Any:
    """`a`, but at least `min`, a number or a tensor.

    >>> hg.clamp_min(hg.Variable([-3.0, 3.0]), 0)
    Variable([0., 3.])
    """
    return clip(a, min)


def clamp_max(a: Any, max: Any) -> Any:
    """`a`, but at most `max`, a number or a tensor.

    >>> hg.clamp_max(hg.Variable([-3.0, 3.0]), 0)
    Variable([-3.,  0.])
    """
    return clip(a, None, max)


def fmax(a: Any, b: Any) -> Any:
    """The larger of `a` and `b`, or the one that is not NaN; at ties the gradient is `a`'s.

    >>> hg.fmax(hg.Variable([1.0, 5.0]), torch.tensor([2.0, float("nan")]))
    Variable([2., 5.])
    """
    a, b = array(a), array(b)
    return Where.apply((a >= b) | IsNaN.apply(b), a, b)


def fmin(a: Any, b: Any) -> Any:
    """The smaller of `a` and `b`, or the one that is not NaN; at ties the gradient is `a`'s.

    >>> hg.fmin(hg.Variable([1.0, 5.0]), torch.tensor([2.0, float("nan")]))
    Variable([1., 5.])
    """
    a, b = array(a), array(b)
    return Where.apply((a <= b) | IsNaN.apply(b), a, b)


def lerp(a: Any, end: Any, weight: Any) -> Any:
    """a + weight (end - a): `a` for weight 0, `end` for 1.

    >>> hg.lerp(hg.Variable([0.0, 10.0]), torch.tensor([10.0, 20.0]), 0.25)
    Variable([ 2.5000, 12.5000])
    """
    a = array(a)
    return a + weight * (end - a)


def addcmul(a: Any, tensor1: Any, tensor2: Any, value: float = 1.0) -> Any:
    """a + value * tensor1 * tensor2.

    >>> hg.addcmul(hg.Variable([1.0]), torch.tensor([2.0]), torch.tensor([3.0]), value=0.5)
    Variable([4.])
    """
    return a + tensor1 * tensor2 * number("value", value)


def addcdiv(a: Any, tensor1: Any, tensor2: Any, value: float = 1.0) -> Any:
    """a + value * tensor1 / tensor2.

    >>> hg.addcdiv(hg.Variable([1.0]), torch.tensor([3.0]), torch.tensor([2.0]), value=2)
    Variable([4.])
    """
    return a + tensor1 / tensor2 * number("value", value)


def positive(a: Any) -> Any:
    """`a` itself; what `+v` means. Raises OperandError for bool.

    >>> +hg.Variable([1.0, -2.0])
    Variable([ 1., -2.])
    """
    a = array(a)
    if a.dtype is torch.bool:
        raise OperandError("positive: a bool tensor has no sign; convert it with to(dtype)")
    return a


def rsub(a: Any, other: Any, alpha: float = 1) -> Any:
    """other - alpha * a.

    >>> hg.rsub(hg.Variable([1.0]), 3)
    Variable([2.])
    """
    return other - (a if alpha == 1 else array(a) * number("alpha", alpha))


def frac(a: Any) -> Any:
    """`a` without its whole part: a - trunc(a).

    >>> hg.frac(hg.Variable([1.25, -1.25]))
    Variable([ 0.2500, -0.2500])
    """
    a = array(a)
    return a - a.trunc()


def nan_to_num(a: Any, nan: float | None = 0.0, posinf: float | None = None, neginf: float | None = None) -> Any:
    """`a` with numbers for NaN and the infinities: by default 0 and the largest and the smallest number of the dtype.

    The gradient there is 0.

    >>> hg.nan_to_num(hg.Variable([float("nan"), float("inf"), 1.0]), posinf=9.0)
    Variable([0., 9., 1.])
    """
    a = array(a)
    if not a.dtype.is_floating_point:
        return a
    most = torch.finfo(a.dtype).max if posinf is None else number("posinf", posinf)
    least = torch.finfo(a.dtype).min if neginf is None else number("neginf", neginf)
    a = Where.apply(a == math.inf, most, Where.apply(a == -math.inf, least, a))
    return Where.apply(IsNaN.apply(a), 0.0 if nan is None else number("nan", nan), a)


def deg2rad(a: Any) -> Any:
    """Degrees as radians.

    >>> hg.deg2rad(hg.Variable([180.0]))
    Variable([3.1416])
    """
    return array(a) * (math.pi / 180)


def rad2deg(a: Any) -> Any:
    """Radians as degrees.

    >>> hg.rad2deg(hg.Variable([0.5]))
    Variable([28.6479])
    """
    return array(a) * (180 / math.pi)


def logaddexp2(a: Any, b: Any) -> Any:
    """log2(2**a + 2**b), without overflow.

    >>> hg.logaddexp2(hg.Variable([1000.0]), torch.tensor([1000.0]))
    Variable([1001.])
    """
    return (array(a) * math.log(2)).logaddexp(array(b) * math.log(2)) / math.log(2)


def sinc(a: Any) -> Any:
    """sin(pi a) / (pi a), and 1 at 0.

    Within |a| < 1/8 it is the Taylor series to the term of order 16 so that derivatives of every order up to 8 hold at 0 too.

    >>> hg.sinc(hg.Variable([0.0, 0.5]))
    Variable([1.0000, 0.6366])
    """
    x = array(a) * math.pi
    near = abs(x) < math.pi / 8
    small, large = Where.apply(near, x, 0.0), Where.apply(near, 1.0, x)
    square, series = small * small, 0.0
    for k in range(8, 0, -1):  # Horner's scheme of the sum of (-1)^k x^2k / (2k + 1)!
        series = square * (series + (-1) ** k / math.factorial(2 * k + 1))
    return Where.apply(near, series + 1.0, Sin.apply(large) / large)


def _values(a: Any) -> Any:
    """The values of `a`, which may not be read while capturing."""
    return a._values() if isinstance(a, Variable) else as_tensor(a)


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all |a - b| <= atol + rtol |b|, as a Python bool. CaptureError while capturing, as values are read.

    >>> hg.allclose(hg.Variable([1.0]), torch.tensor([1.0 + 1e-7]))
    True
    """
    return torch.allclose(_values(a), _values(b), rtol, atol, equal_nan)


def equal(a: Any, b: Any) -> bool:
    """Whether shapes and all elements are equal, as a Python bool. CaptureError while capturing, as values are read.

    >>> hg.equal(hg.Variable([1.0]), torch.tensor([1.0]))
    True
    """
    return torch.equal(_values(a), _values(b))


def logical_not(a: Any) -> Any:
    """Where `a` is 0 or False, as a plain bool tensor.

    >>> hg.logical_not(hg.Variable([0.0, 2.0]))
    tensor([ True, False])
    """
    return array(a) == 0


def logical_and(a: Any, b: Any) -> Any:
    """Where neither is 0 or False, as a plain bool tensor.

    >>> hg.logical_and(hg.Variable([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    tensor([False,  True])
    """
    return And.apply(array(a) != 0, array(b) != 0)


def logical_or(a: Any, b: Any) -> Any:
    """Where not both are 0 or False, as a plain bool tensor.

    >>> hg.logical_or(hg.Variable([0.0, 2.0]), torch.tensor([0.0, 3.0]))
    tensor([False,  True])
    """
    return Or.apply(array(a) != 0, array(b) != 0)


def logical_xor(a: Any, b: Any) -> Any:
    """Where one is 0 or False and the other not, as a plain bool tensor.

    >>> hg.logical_xor(hg.Variable([0.0, 2.0]), torch.tensor([1.0, 3.0]))
    tensor([ True, False])
    """
    return Xor.apply(array(a) != 0, array(b) != 0)
