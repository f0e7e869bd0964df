"""Activation functions, composed of primitives: names and defaults are those of torch.nn.functional."""

from __future__ import annotations

import math
from typing import Any

import torch

from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.arithmetic import Clip, Where
from hotgrad.ops.axes import array, number
from hotgrad.ops.pointwise import Erf, Expm1, Sigmoid, Softplus, Tanh
from hotgrad.ops.reductions import Softmax
from hotgrad.ops.shaping import Reshape

__all__ = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logit",
    "logsigmoid",
    "mish",
    "prelu",
    "relu6",
    "selu",
    "silu",
    "softmin",
    "softshrink",
    "softsign",
    "tanhshrink",
    "threshold",
]  # fmt: skip


def silu(a: Any) -> Any:
    """a * sigmoid(a), also called swish.

    >>> hg.silu(hg.Variable([-1.0, 0.0, 1.0]))
    Variable([-0.2689,  0.0000,  0.7311])
    """
    return a * Sigmoid.apply(a)


def elu(a: Any, alpha: float = 1.0) -> Any:
    """`a` where it is above 0, else alpha (exp(a) - 1).

    >>> hg.elu(hg.Variable([-1.0, 2.0]))
    Variable([-0.6321,  2.0000])
    """
    a = array(a)
    return Where.apply(a > 0, a, Expm1.apply(Where.apply(a > 0, 0.0, a)) * number("alpha", alpha))


def celu(a: Any, alpha: float = 1.0) -> Any:
    """`a` where it is above 0, else alpha (exp(a / alpha) - 1), whose slope is continuous for every alpha.

    >>> hg.celu(hg.Variable([-1.0, 2.0]), 2.0)
    Variable([-0.7869,  2.0000])
    """
    a = array(a)
    if number("alpha", alpha) == 0:
        raise OperandError("celu: alpha must not be 0, by which it divides")
    return Where.apply(a > 0, a, Expm1.apply(Where.apply(a > 0, 0.0, a) / alpha) * alpha)


def selu(a: Any) -> Any:
    """The ELU that keeps mean and variance of normal inputs (Klambauer and others, 2017).

    >>> hg.selu(hg.Variable([-1.0, 2.0]))
    Variable([-1.1113,  2.1014])
    """
    return elu(a, 1.6732632423543772848170429916717) * 1.0507009873554804934193349852946


def leaky_relu(a: Any, negative_slope: float = 0.01) -> Any:
    """`a` where it is above 0, else negative_slope * a, which is also the derivative's choice at 0.

    >>> hg.leaky_relu(hg.Variable([-1.0, 2.0]))
    Variable([-0.0100,  2.0000])
    """
    a = array(a)
    return Where.apply(a > 0, a, a * number("negative_slope", negative_slope))


def prelu(a: Any, weight: Any) -> Any:
    """`a` where it is above 0, else weight * a; `weight` holds one element, or one for each of a's columns (axis 1).

    >>> hg.prelu(hg.Variable([-1.0, 2.0]), torch.tensor([0.25]))
    Variable([-0.2500,  2.0000])
    """
    a, weight = array(a), array(weight)
    if weight.numel() != 1 and (a.ndim < 2 or weight.shape != a.shape[1:2]):
        wanted = f"or {a.shape[1]}, as a has columns" if a.ndim > 1 else "as a has no columns"
        raise ShapeError(f"prelu: weight must have 1 element {wanted}; got shape {tuple(weight.shape)} for a of shape {tuple(a.shape)}")
    shape = (1,) * a.ndim if weight.numel() == 1 else (1, -1, *(1 for _ in a.shape[2:]))
    return Where.apply(a > 0, a, a * Reshape.apply(weight, shape))


def relu6(a: Any) -> Any:
    """ReLU limited to 6; the derivative is 0 at 0 and at 6.

    >>> hg.relu6(hg.Variable([-1.0, 2.0, 8.0]))
    Variable([0., 2., 6.])
    """
    return hardtanh(a, 0.0, 6.0)


def hardtanh(a: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """`a` limited to [min_val, max_val]; the derivative is 0 at the limits, where `clip` has 1.

    >>> hg.hardtanh(hg.Variable([-3.0, 0.5, 3.0]))
    Variable([-1.0000,  0.5000,  1.0000])
    """
    a, low, high = array(a), number("min_val", min_val), number("max_val", max_val)
    if low > high:
        raise OperandError(f"hardtanh: min_val must not be above max_val; got {low} and {high}")
    return Where.apply(a <= low, low, Where.apply(a >= high, high, a))


def hardsigmoid(a: Any) -> Any:
    """relu6(a + 3) / 6: a sigmoid of straight lines.

    >>> hg.hardsigmoid(hg.Variable([-3.0, 0.0, 3.0]))
    Variable([0.0000, 0.5000, 1.0000])
    """
    return relu6(a + 3.0) / 6.0


def hardswish(a: Any) -> Any:
    """a * hardsigmoid(a).

    >>> hg.hardswish(hg.Variable([-3.0, 1.0, 3.0]))
    Variable([-0.0000, 0.6667, 3.0000])
    """
    a = array(a)
    return Where.apply(a <= -3, 0.0 * a, Where.apply(a < 3, a * (a + 3.0) / 6.0, a))


def logsigmoid(a: Any) -> Any:
    """log(sigmoid(a)), without underflow.

    >>> hg.logsigmoid(hg.Variable([-1000.0, 0.0]))
    Variable([-1.0000e+03, -6.9315e-01])
    """
    return -Softplus.apply(-array(a), threshold=50.0)


def mish(a: Any) -> Any:
    """a * tanh(softplus(a)) (Misra, 2019).

    >>> hg.mish(hg.Variable([-1.0, 0.0, 1.0]))
    Variable([-0.3034,  0.0000,  0.8651])
    """
    return a * Tanh.apply(Softplus.apply(a))


def softsign(a: Any) -> Any:
    """a / (1 + |a|).

    >>> hg.softsign(hg.Variable([-1.0, 3.0]))
    Variable([-0.5000,  0.7500])
    """
    return a / (abs(a) + 1.0)


def softmin(a: Any, dim: int, dtype: torch.dtype | None = None) -> Any:
    """`softmax` of -a.

    >>> hg.softmin(hg.Variable([0.0, 0.0]), 0)
    Variable([0.5000, 0.5000])
    """
    return Softmax.apply(-(array(a) if dtype is None else array(a).to(dtype)), dim)


def glu(a: Any, dim: int = -1) -> Any:
    """The first half of `a` along `dim` times the sigmoid of the second.

    >>> hg.glu(hg.Variable([2.0, 0.0]))
    Variable([1.])
    """
    a = array(a)
    if not a.ndim or a.shape[dim] % 2:
        raise ShapeError(f"glu: axis {dim} must have an even size; got shape {tuple(a.shape)}")
    first, second = a.chunk(2, dim)
    return first * Sigmoid.apply(second)


def gelu(a: Any, approximate: str = "none") -> Any:
    """`a` times the normal distribution function of `a`, or with approximate="tanh" Hendrycks and Gimpel's approximation of it (2016).

    >>> hg.gelu(hg.Variable([-1.0, 0.0, 1.0]))
    Variable([-0.1587,  0.0000,  0.8413])
    """
    if approximate == "tanh":
        return a * ((Tanh.apply((a * a * 0.044715 + 1.0) * a * math.sqrt(2 / math.pi)) + 1) * 0.5)
    if approximate != "none":
        raise OperandError(f"gelu: approximate must be 'none' or 'tanh'; got {approximate!r}")
    return a * (0.5 * (Erf.apply(a * math.sqrt(0.5)) + 1))


def softshrink(a: Any, lambd: float = 0.5) -> Any:
    """`a` moved towards 0 by `lambd`, and 0 within it.

    >>> hg.softshrink(hg.Variable([-2.0, 0.3, 2.0]))
    Variable([-1.5000,  0.0000,  1.5000])
    """
    a, size = array(a), number("lambd", lambd)
    return Where.apply(a > size, a - size, Where.apply(a < -size, a + size, a * 0.0))


def hardshrink(a: Any, lambd: float = 0.5) -> Any:
    """`a`, but 0 in [-lambd, lambd].

    >>> hg.hardshrink(hg.Variable([-2.0, 0.3, 2.0]))
    Variable([-2.,  0.,  2.])
    """
    a, size = array(a), number("lambd", lambd)
    return Where.apply((a >= -size) & (a <= size), 0.0, a)


def tanhshrink(a: Any) -> Any:
    """a - tanh(a).

    >>> hg.tanhshrink(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.2384])
    """
    return a - Tanh.apply(a)


def threshold(a: Any, threshold: float, value: float) -> Any:
    """`a` where it is above `threshold`, else `value`.

    >>> hg.threshold(hg.Variable([-2.0, 2.0]), 0.0, -1.0)
    Variable([-1.,  2.])
    """
    a = array(a)
    return Where.apply(a <= number("threshold", threshold), number("value", value), a)


def logit(a: Any, eps: float | None = None) -> Any:
    """log(a / (1 - a)), the inverse of `sigmoid`; with `eps`, of `a` limited to [eps, 1 - eps].

    >>> hg.logit(hg.Variable([0.5, 0.9]))
    Variable([0.0000, 2.1972])
    """
    a = array(a) if eps is None else Clip.apply(a, number("eps", eps), 1 - eps)
    return (a / (1.0 - a)).log()
