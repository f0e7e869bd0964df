"""The elementary functions beside those of `pointwise`: inverse and hyperbolic ones, logarithms to other bases, the gamma family,
and those of two operands that have a kernel of their own.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Interval
from hotgrad.core.primitive import Primitive
from hotgrad.errors import OperandError
from hotgrad.ops.arithmetic import Where, as_tensors


class Asin(Primitive):
    """Inverse sine, in radians; NaN outside of [-1, 1].

    >>> hg.asin(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 1.5708])
    """

    native = "asin({a})"
    forward = staticmethod(torch.asin)
    vjps = (lambda g, out, a: g / (1 - a * a).sqrt(),)
    reads = ("a",)
    domain = (Interval(-0.9, 0.9),)
    fresh = True


class Acos(Primitive):
    """Inverse cosine, in radians; NaN outside of [-1, 1].

    >>> hg.acos(hg.Variable([0.0, 1.0]))
    Variable([1.5708, 0.0000])
    """

    native = "acos({a})"
    forward = staticmethod(torch.acos)
    vjps = (lambda g, out, a: -g / (1 - a * a).sqrt(),)
    reads = ("a",)
    domain = (Interval(-0.9, 0.9),)
    fresh = True


class Atan(Primitive):
    """Inverse tangent, in radians.

    >>> hg.atan(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.7854])
    """

    native = "atan({a})"
    forward = staticmethod(torch.atan)
    vjps = (lambda g, out, a: g / (a * a + 1),)
    reads = ("a",)
    fresh = True


class Sinh(Primitive):
    """Hyperbolic sine.

    >>> hg.sinh(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 1.1752])
    """

    native = "sinh({a})"
    forward = staticmethod(torch.sinh)
    vjps = (lambda g, out, a: g * a.cosh(),)
    reads = ("a",)
    fresh = True


class Cosh(Primitive):
    """Hyperbolic cosine.

    >>> hg.cosh(hg.Variable([0.0, 1.0]))
    Variable([1.0000, 1.5431])
    """

    native = "cosh({a})"
    forward = staticmethod(torch.cosh)
    vjps = (lambda g, out, a: g * a.sinh(),)
    reads = ("a",)
    fresh = True


class Asinh(Primitive):
    """Inverse hyperbolic sine.

    >>> hg.asinh(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.8814])
    """

    native = "asinh({a})"
    forward = staticmethod(torch.asinh)
    vjps = (lambda g, out, a: g / (a * a + 1).sqrt(),)
    reads = ("a",)
    fresh = True


class Acosh(Primitive):
    """Inverse hyperbolic cosine; NaN below 1.

    >>> hg.acosh(hg.Variable([1.0, 2.0]))
    Variable([0.0000, 1.3170])
    """

    native = "acosh({a})"
    forward = staticmethod(torch.acosh)
    vjps = (lambda g, out, a: g / ((a - 1) * (a + 1)).sqrt(),)
    reads = ("a",)
    domain = (Interval(1.2, 4.0),)
    fresh = True


class Atanh(Primitive):
    """Inverse hyperbolic tangent; NaN outside of [-1, 1].

    >>> hg.atanh(hg.Variable([0.0, 0.5]))
    Variable([0.0000, 0.5493])
    """

    native = "atanh({a})"
    forward = staticmethod(torch.atanh)
    vjps = (lambda g, out, a: g / (1 - a * a),)
    reads = ("a",)
    domain = (Interval(-0.9, 0.9),)
    fresh = True


class Rsqrt(Primitive):
    """1 / sqrt(a).

    >>> hg.rsqrt(hg.Variable([4.0, 16.0]))
    Variable([0.5000, 0.2500])
    """

    native = "1 / sqrt({a})"
    forward = staticmethod(torch.rsqrt)
    vjps = (lambda g, out, a: g * (out * out * out) * -0.5,)
    reads = ("out",)
    domain = (Interval(0.0),)
    fresh = True


class Exp2(Primitive):
    """2 to the power of each element.

    >>> hg.exp2(hg.Variable([0.0, 3.0]))
    Variable([1., 8.])
    """

    native = "exp2({a})"
    forward = staticmethod(torch.exp2)
    vjps = (lambda g, out, a: g * out * math.log(2),)
    reads = ("out",)
    fresh = True


class Log2(Primitive):
    """Logarithm to base 2; -inf at 0, NaN below.

    >>> hg.log2(hg.Variable([1.0, 8.0]))
    Variable([0., 3.])
    """

    native = "log2({a})"
    forward = staticmethod(torch.log2)
    vjps = (lambda g, out, a: g / (a * math.log(2)),)
    reads = ("a",)
    domain = (Interval(0.0),)
    fresh = True


class Log10(Primitive):
    """Logarithm to base 10; -inf at 0, NaN below.

    >>> hg.log10(hg.Variable([1.0, 1000.0]))
    Variable([0., 3.])
    """

    native = "log10({a})"
    forward = staticmethod(torch.log10)
    vjps = (lambda g, out, a: g / (a * math.log(10)),)
    reads = ("a",)
    domain = (Interval(0.0),)
    fresh = True


class Erfc(Primitive):
    """1 - erf(a), accurate where that is near 1.

    >>> hg.erfc(hg.Variable([0.0, 1.0]))
    Variable([1.0000, 0.1573])
    """

    native = "erfc({a})"
    forward = staticmethod(torch.erfc)
    vjps = (lambda g, out, a: g * ((-a * a).exp() * (-2 / math.sqrt(math.pi))),)
    reads = ("a",)
    fresh = True


class Erfinv(Primitive):
    """The inverse of `erf`; NaN outside of [-1, 1]. Eager and replay only.

    >>> hg.erfinv(hg.Variable([0.0, 0.5]))
    Variable([0.0000, 0.4769])
    """

    forward = staticmethod(torch.erfinv)
    vjps = (lambda g, out, a: g * ((out * out).exp() * (math.sqrt(math.pi) / 2)),)
    reads = ("out",)
    domain = (Interval(-0.9, 0.9),)
    fresh = True


class Lgamma(Primitive):
    """Natural logarithm of the absolute value of the gamma function. Eager and replay only, as are its derivatives.

    >>> hg.lgamma(hg.Variable([1.0, 4.0]))
    Variable([0.0000, 1.7918])
    """

    forward = staticmethod(torch.lgamma)
    vjps = (lambda g, out, a: g * a.digamma(),)
    reads = ("a",)
    domain = (Interval(0.2, 6.0),)
    fresh = True


class Digamma(Primitive):
    """The derivative of `lgamma`. Eager and replay only.

    >>> hg.digamma(hg.Variable([1.0, 4.0]))
    Variable([-0.5772,  1.2561])
    """

    forward = staticmethod(torch.digamma)
    vjps = (lambda g, out, a: g * Polygamma.apply(a, n=1),)
    reads = ("a",)
    domain = (Interval(0.2, 6.0),)
    fresh = True


class Polygamma(Primitive):
    """The derivative of order `n` >= 0 of `digamma`; torch's order of arguments is `polygamma(n, a)`. Eager and replay only.

    >>> hg.ops.Polygamma.apply(hg.Variable([1.0, 4.0]), n=1)
    Variable([1.6449, 0.2838])
    """

    function = ""

    @staticmethod
    def forward(a: Any, *, n: int) -> Tensor:
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise OperandError(f"n must be a whole number, 0 or more; got {n!r:.60}")
        return torch.polygamma(n, a)

    into = staticmethod(lambda out, a, n: partial(torch.polygamma, n, a, out=out))
    vjps = (lambda g, out, a, n: g * Polygamma.apply(a, n=n + 1),)
    reads = ("a",)
    domain = (Interval(0.5, 6.0),)
    options = {"n": [1, 2]}
    fresh = True


class Atan2(Primitive):
    """The angle of the point (`b`, `a`), in radians from -pi to pi.

    >>> hg.atan2(hg.Variable([1.0, 1.0]), torch.tensor([1.0, -1.0]))
    Variable([0.7854, 2.3562])
    """

    native = "atan2({a}, {b})"
    numbers = True
    forward = staticmethod(lambda a, b: torch.atan2(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.atan2, a, b, out=out))
    elementwise = True
    vjps = (lambda g, out, a, b: g * _over_square(b, a, g), lambda g, out, a, b: -g * _over_square(a, b, g))
    reads = ("a b", "a b")
    fresh = True
    kinks = {"0 at the origin": [([[0.0], [0.0]], {}, [1.0], [[0.0], [0.0]])]}


def _like(a: Any, g: Any) -> Any:
    """An operand as an array of the dtype of `g`: rules must not compute with integers, nor a number decide."""
    if isinstance(a, (int, float)):
        return torch.tensor(a, dtype=g.dtype, device=g.device)
    return a if a.dtype is g.dtype else a.to(g.dtype)


def _over_square(a: Any, b: Any, g: Any) -> Any:
    """a / (a^2 + b^2), and 0 at the origin, where there is no direction."""
    a, b = _like(a, g), _like(b, g)
    square = a * a + b * b
    return Where.apply(square == 0, 0.0, a / Where.apply(square == 0, 1.0, square))


class Hypot(Primitive):
    """sqrt(a^2 + b^2), without overflow on the way.

    >>> hg.hypot(hg.Variable([3.0, 5.0]), torch.tensor([4.0, 12.0]))
    Variable([ 5., 13.])
    """

    native = "hypot({a}, {b})"
    numbers = True
    forward = staticmethod(lambda a, b: torch.hypot(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.hypot, a, b, out=out))
    elementwise = True
    vjps = (lambda g, out, a, b: g * (a / _above(out)), lambda g, out, a, b: g * (b / _above(out)))
    reads = ("a out", "b out")
    fresh = True
    kinks = {"0 at the origin": [([[0.0], [0.0]], {}, [1.0], [[0.0], [0.0]])]}


def _above(out: Any) -> Any:
    return Where.apply(out == 0, 1.0, out)


class LogAddExp(Primitive):
    """log(exp(a) + exp(b)), without overflow.

    >>> hg.logaddexp(hg.Variable([1000.0]), 1000.0)
    Variable([1000.6932])
    """

    @staticmethod
    def native(a: Any, b: Any) -> Any:
        equal = a == b  # at equal infinities the difference is NaN
        spread = Where.apply(equal, 0.0, Where.apply(equal, 0.0, a - b).abs())
        return Where.apply(a > b, a, b) + (-spread).exp().log1p()

    numbers = True
    forward = staticmethod(lambda a, b: torch.logaddexp(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.logaddexp, a, b, out=out))
    elementwise = True
    vjps = (lambda g, out, a, b: _share(g, out, a), lambda g, out, a, b: _share(g, out, b))
    reads = ("a out", "b out")
    fresh = True
    stable = True
    kinks = {"0 of an operand that is -inf": [([[-math.inf, -math.inf], [-math.inf, 0.0]], {}, [1.0, 2.0], [[0.0, 0.0], [0.0, 2.0]])]}


def _share(g: Any, out: Any, a: Any) -> Any:
    nothing = a == -math.inf
    return Where.apply(nothing, 0.0, g * (a - Where.apply(nothing, 0.0, out)).exp())


class XLogY(Primitive):
    """`a` times log(`b`), and 0 where `a` is 0, unless `b` is NaN.

    >>> hg.xlogy(hg.Variable([0.0, 2.0]), torch.tensor([0.0, 1.0]))
    Variable([0., 0.])
    """

    native = "(({a} == 0) & ({b} == {b})) ? 0 : {a} * log({b})"
    numbers = True
    forward = staticmethod(torch.xlogy)
    into = staticmethod(lambda out, a, b: partial(torch.xlogy, a, b, out=out))
    elementwise = True
    vjps = (
        lambda g, out, a, b: _times_log(g, a, b),
        lambda g, out, a, b: g * (a / b),
    )
    reads = ("a b", "a b")
    domain = (Interval(), Interval(0.1, 4.0))
    fresh = True
    kinks = {"of `a` by a 0 where `a` is 0 and `b` not above": [([[0.0, 1.0], [0.0, 1.0]], {}, [1.0, 2.0], [[0.0, 0.0], None])]}


def _times_log(g: Any, a: Any, b: Any) -> Any:
    a, b = _like(a, g), _like(b, g)
    nothing = Where.apply(a == 0, b <= 0, False)
    return Where.apply(nothing, 0.0, g * Where.apply(nothing, 1.0, b).log())
