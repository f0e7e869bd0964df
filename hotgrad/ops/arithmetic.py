"""Arithmetic, comparisons and choice, element by element. Operands broadcast as in torch, and so do dtypes promote."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Booleans, Interval
from hotgrad.core.primitive import Primitive, zero
from hotgrad.errors import OperandError


class Where(Primitive):
    """`a` where `condition` is true, else `b`; all three broadcast.

    `condition` must be boolean.

    >>> x = hg.Variable([1.0, -2.0])
    >>> hg.where(x > 0, x, 0.0)
    Variable([1., 0.])
    """

    native = "{condition} ? {a} : {b}"
    elementwise = True
    numbers = True
    domain = (Booleans(), Interval(), Interval())

    @staticmethod
    def forward(condition: Any, a: Any, b: Any) -> Tensor:
        return torch.where(torch.as_tensor(condition), a, b)

    into = staticmethod(lambda out, condition, a, b: partial(torch.where, condition, a, b, out=out))
    vjps = (
        None,
        lambda g, out, condition, a, b: Where.apply(condition, g, 0.0),
        lambda g, out, condition, a, b: Where.apply(condition, 0.0, g),
    )
    reads = ("", "condition", "condition")
    fresh = True
    kinks = {
        "the chosen operand's alone, whatever the other one holds": [
            ([[True, False], [1.0, 2.0], [3.0, 4.0]], {}, [math.inf, math.nan], [None, [math.inf, 0.0], [0.0, math.nan]]),
        ]
    }  # fmt: skip


class Add(Primitive):
    """Sum `a + b`.

    >>> hg.Variable([1.0, 2.0]) + 1
    Variable([2., 3.])
    """

    function = ""
    native = "{a} + {b}"
    numbers = True
    forward = staticmethod(operator.add)
    vjps = (lambda g, out, a, b: g, lambda g, out, a, b: g)
    reads = ("", "")
    operators = ("__add__", "__radd__")


class AddScaled(Primitive):
    """`a + alpha * b` in one kernel, for a number `alpha`: what update rules are made of.

    >>> hg.ops.AddScaled.apply(hg.Variable([1.0, 2.0]), torch.ones(2), -0.5)
    Variable([0.5000, 1.5000])
    """

    native = "{a} + {alpha} * {b}"
    elementwise = True
    numbers = True
    function = ""
    forward = staticmethod(lambda a, b, alpha: torch.add(a, b, alpha=alpha))

    @staticmethod
    def operands() -> Any:
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ()), ((2,), (2,)), ((2, 3), (3,)), ((1,), (2, 1)), ((0, 2), (2,))]
        return [((a, b, -0.5), {}) for a, b in shapes]

    @staticmethod
    def into(out: Tensor, a: Any, b: Any, alpha: Any, *, numbers: tuple[Any, ...]) -> partial[Any]:
        if out.is_cuda and numbers[2] is ...:  # a graph of kernels would keep the number
            return partial(torch.addcmul, a, b, alpha, out=out)
        return partial(torch.add, a, b, alpha=alpha, out=out)

    vjps = (lambda g, out, a, b, alpha: g, lambda g, out, a, b, alpha: g * alpha, None)
    reads = ("", "alpha", "")


class Sub(Primitive):
    """Difference `a - b`.

    >>> 1 - hg.Variable([1.0, 2.0])
    Variable([ 0., -1.])
    """

    function = ""
    native = "{a} - {b}"
    numbers = True
    forward = staticmethod(operator.sub)
    vjps = (lambda g, out, a, b: g, lambda g, out, a, b: -g)
    reads = ("", "")
    operators = ("__sub__", "__rsub__")


class Mul(Primitive):
    """Product `a * b`, element by element.

    >>> hg.Variable([1.0, 2.0]) * 3
    Variable([3., 6.])
    """

    native = "{a} * {b}"
    numbers = True
    forward = staticmethod(operator.mul)
    vjps = (lambda g, out, a, b: g * b, lambda g, out, a, b: g * a)
    reads = ("b", "a")
    fresh = True
    operators = ("__mul__", "__rmul__")


class Div(Primitive):
    """Quotient `a / b`; integers divide to floats, and zero divides as in IEEE arithmetic.

    >>> 1 / hg.Variable([1.0, 2.0])
    Variable([1.0000, 0.5000])
    """

    function = ""
    native = "{a} / {b}"
    elementwise = True
    numbers = True
    forward = staticmethod(operator.truediv)

    @staticmethod
    def into(out: Tensor, a: Any, b: Any, *, numbers: tuple[Any, ...]) -> Any:
        if numbers[0] is None:
            return partial(torch.div, a, b, out=out)
        return [partial(torch.reciprocal, b, out=out), partial(torch.mul, out, a, out=out)]  # as torch's operator does

    vjps = (lambda g, out, a, b: g / b, lambda g, out, a, b: -g * (out / b))
    reads = ("b", "out b")
    fresh = True
    operators = ("__truediv__", "__rtruediv__")


class Neg(Primitive):
    """Negation `-a`.

    >>> -hg.Variable([1.0, 2.0])
    Variable([-1., -2.])
    """

    native = "-{a}"
    forward = staticmethod(operator.neg)
    vjps = (lambda g, out, a: -g,)
    reads = ("",)
    fresh = True
    operators = ("__neg__",)


def _pow_base(g: Any, out: Any, a: Any, b: Any) -> Any:
    """d/da a^b = b a^(b-1), but 0 for b = 0, whatever `g` and `a` are."""
    if isinstance(b, (int, float)):
        if b == 2:
            return g * (a + a)  # one kernel fewer
        return 0.0 if b == 0 else g * (b * a ** (b - 1))
    b = b if b.dtype is g.dtype else b.to(g.dtype)
    unbounded = g - 1 / a
    nothing = Where.apply(b == 0, unbounded - unbounded != 0, False)  # else the product is 0, and right in its derivatives
    return Where.apply(nothing, 0.0, g * (b * a ** (Where.apply(nothing, 1.0, b) - 1)))


def _pow_exponent(g: Any, out: Any, a: Any, b: Any) -> Any:
    """d/db a^b = a^b log(a), but 0 at a = 0 for b >= 0, and at a = inf for b < 0."""
    if isinstance(a, (int, float)):
        a = torch.tensor(a, dtype=b.dtype, device=b.device)
    a = a if a.dtype is g.dtype else a.to(g.dtype)  # the logarithm of integers, in the precision of the result
    nothing = Where.apply(a == 0, b >= 0, Where.apply(a == math.inf, b < 0, False))
    return Where.apply(nothing, 0.0, g * (out * Where.apply(nothing, 1.0, a).log()))


class PowCall(Primitive, register=False):
    """`pow` of C, element by element."""

    function = ""
    name = "Pow"
    native = "pow({a}, {b})"
    numbers = True
    forward = staticmethod(torch.pow)
    vjps = (None, None)


# Powers that torch computes without `pow` too.
_POWERS: dict[float, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a * a,
    3: lambda a: a * a * a,
    -1: lambda a: a.reciprocal(),
    -2: lambda a: (a * a).reciprocal(),
    0.5: lambda a: a.sqrt(),
    -0.5: lambda a: a.sqrt().reciprocal(),
}


class Pow(Primitive):
    """Power `a ** b`; a negative base gives NaN unless the exponent is a whole number.

    A number as exponent costs nothing extra; its gradient is never computed.

    >>> hg.Variable([1.0, 2.0]) ** 3
    Variable([1., 8.])
    """

    @staticmethod
    def native(a: Any, b: Any) -> Any:
        if not any(isinstance(x, float) or getattr(x, "dtype", torch.int64).is_floating_point for x in (a, b)):
            return NotImplemented  # integers
        exact = isinstance(b, (int, float)) and b in _POWERS and getattr(a, "dtype", torch.int64).is_floating_point
        return _POWERS[b](a) if exact else PowCall.apply(a, b)

    numbers = True
    forward = staticmethod(torch.pow)

    @staticmethod
    def into(out: Tensor, a: Any, b: Any, *, numbers: tuple[Any, ...]) -> partial[Any]:
        square = type(numbers[1]) in (int, float) and numbers[1] == 2  # which torch's kernel finds out later
        return partial(torch.mul, a, a, out=out) if square else partial(torch.pow, a, exponent=b, out=out)

    vjps = (_pow_base, _pow_exponent)
    reads = ("a b", "a b out")
    domain = (Interval(0.0), Interval(-3.0, 3.0))
    fresh = True
    elementwise = True
    operators = ("__pow__", "__rpow__")
    kinks = {
        "of `a ** b` by a 0 at b = 0, by b 0 at a = 0 and b >= 0": [
            ([[0.0, 2.0, -2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 2.0]], {}, [1.0, 1.0, 1.0, 3.0, 3.0], [[0.0, 0.0, 0.0, 3.0, 0.0], None]),
            ([[0.0, 0.0, 0.0], [0.0, 0.5, 2.0]], {}, [1.0, 1.0, 1.0], [None, [0.0, 0.0, 0.0]]),
            ([[-2.0, -2.0, -1.0, -2.0], [2.0, 3.0, -1.0, -2.0]], {}, [1.0, 2.0, 1.0, 1.0], [[-4.0, 24.0, -1.0, 0.25], None]),
            ([[0.0, -3.0, 2.0], 0], {}, [1.0, 2.0, 3.0], [[0.0, 0.0, 0.0], None]),
            ([[0.0, -3.0, 2.0], 1], {}, [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0], None]),
            ([[0.0, -3.0, 2.0], 2], {}, [1.0, 2.0, 3.0], [[0.0, -12.0, 12.0], None]),
            ([[0.0, -3.0, 2.0], 3], {}, [1.0, 2.0, 3.0], [[0.0, 54.0, 36.0], None]),
            ([0.0, [0.0, 1.0, 2.0]], {}, [1.0, 2.0, 3.0], [None, [0.0, 0.0, 0.0]]),
            ([[0.0, 1e-310, 2.0, math.inf], [0.0, 0.0, 0.0, 0.0]], {}, [math.inf, 1.0, math.nan, -math.inf], [[0.0, 0.0, 0.0, 0.0], None]),
            ([[0.0, 0.0, math.inf], [0.0, 2.0, -1.0]], {}, [math.inf, math.nan, math.inf], [None, [0.0, 0.0, 0.0]]),
        ]
    }  # fmt: skip


def signed(g: Any, a: Any) -> Any:
    """`g` times the sign of `a`, but 0 where that is 0: the rule of Abs."""
    sign = a.sign()
    return Where.apply(sign == 0, 0.0, g * sign)


class Abs(Primitive):
    """Absolute value.

    >>> abs(hg.Variable([-1.0, 2.0]))
    Variable([1., 2.])
    """

    native = "fabs({a})"
    forward = staticmethod(torch.abs)
    vjps = (lambda g, out, a: signed(g, a),)
    reads = ("a",)
    fresh = True
    operators = ("__abs__",)
    kinks = {
        "0 at 0": [
            ([[-2.0, -0.0, 0.0, 1e-300, 3.0]], {}, [1.0, 2.0, 3.0, 4.0, 5.0], [[-1.0, 0.0, 0.0, 4.0, 5.0]]),
            ([[0.0, -0.0, -2.0]], {}, [math.inf, math.nan, math.inf], [[0.0, 0.0, -math.inf]]),
            ([[math.nan, -0.5, math.inf, -math.inf]], {}, [1.0, 1.0, 1.0, 1.0], [[0.0, -1.0, 1.0, -1.0]]),
        ]
    }  # fmt: skip


class Sign(Primitive):
    """-1, 0 or 1.

    >>> hg.sign(hg.Variable([-3.0, 0.0, 2.0]))
    Variable([-1.,  0.,  1.])
    """

    native = "({a} > 0) - ({a} < 0)"
    forward = staticmethod(torch.sign)
    vjps = (zero,)
    reads = ("",)
    kinks = {
        "0 everywhere": [
            ([[-2.0, 0.0, 3.0]], {}, [1.0, math.inf, math.nan], [[0.0, 0.0, 0.0]]),
        ]
    }  # fmt: skip


def as_tensors(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """For kernels that take no numbers: a number becomes a 0-d tensor that does not widen the other's dtype."""
    if not isinstance(a, Tensor):
        a = torch.tensor(a, dtype=torch.result_type(b, a), device=b.device)
    elif not isinstance(b, Tensor):
        b = torch.tensor(b, dtype=torch.result_type(a, b), device=a.device)
    return a, b


class Maximum(Primitive):
    """The larger of `a` and `b`, element by element; NaN where either is. At ties each gets half of the gradient.

    >>> hg.maximum(hg.Variable([1.0, 5.0]), 2.0)
    Variable([2., 5.])
    """

    native = "(({a} > {b}) | ({a} != {a})) ? {a} : {b}"
    elementwise = True
    numbers = True
    forward = staticmethod(lambda a, b: torch.maximum(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.maximum, a, b, out=out))
    vjps = (
        lambda g, out, a, b: Where.apply(a < b, 0.0, Where.apply(a == b, g / 2, g)),
        lambda g, out, a, b: Where.apply(b < a, 0.0, Where.apply(a == b, g / 2, g)),
    )
    reads = ("a b", "a b")
    fresh = True
    kinks = {
        "half each at ties": [
            ([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], {}, [2.0, 3.0, 5.0], [[1.0, 0.0, 5.0], [1.0, 3.0, 0.0]]),
            ([[1.0, 2.0], [2.0, 1.0]], {}, [math.inf, math.nan], [[0.0, math.nan], [math.inf, 0.0]]),
            ([[0.0, 1.0, 2.0], 1.0], {}, [1.0, 1.0, 1.0], [[0.0, 0.5, 1.0], None]),
        ]
    }  # fmt: skip


class Minimum(Primitive):
    """The smaller of `a` and `b`, element by element; NaN where either is. At ties each gets half of the gradient.

    >>> hg.minimum(hg.Variable([1.0, 5.0]), 2.0)
    Variable([1., 2.])
    """

    native = "(({a} < {b}) | ({a} != {a})) ? {a} : {b}"
    elementwise = True
    numbers = True
    forward = staticmethod(lambda a, b: torch.minimum(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.minimum, a, b, out=out))
    vjps = (
        lambda g, out, a, b: Where.apply(a > b, 0.0, Where.apply(a == b, g / 2, g)),
        lambda g, out, a, b: Where.apply(b > a, 0.0, Where.apply(a == b, g / 2, g)),
    )
    reads = ("a b", "a b")
    fresh = True
    kinks = {
        "half each at ties": [
            ([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0]], {}, [2.0, 3.0, 5.0], [[1.0, 3.0, 0.0], [1.0, 0.0, 5.0]]),
            ([[1.0, 2.0], [2.0, 1.0]], {}, [math.inf, math.nan], [[math.inf, 0.0], [0.0, math.nan]]),
            ([[0.0, 1.0, 2.0], 1.0], {}, [1.0, 1.0, 1.0], [[1.0, 0.5, 0.0], None]),
        ]
    }  # fmt: skip


def _clip_rule(g: Any, out: Any, a: Any, min: float | None, max: float | None) -> Any:
    if min is not None:
        g = Where.apply(a >= min, g, 0.0)
    return g if max is None else Where.apply(a <= max, g, 0.0)


class Clip(Primitive):
    """`a` limited to the closed interval from `min` to `max`, numbers or None for no limit, not both None.

    NaN stays NaN. Raises OperandError for limits that are no numbers.

    >>> hg.ops.Clip.apply(hg.Variable([-3.0, 0.5, 3.0]), 0, 1)
    Variable([0.0000, 0.5000, 1.0000])
    """

    function = ""

    @staticmethod
    def native(a: Any, *, min: float | None, max: float | None) -> Any:
        a = a if min is None else Maximum.apply(a, min)
        return a if max is None else Minimum.apply(a, max)

    @staticmethod
    def forward(a: Any, *, min: float | None = None, max: float | None = None) -> Tensor:
        for limit in (min, max):
            if not (limit is None or isinstance(limit, (int, float))):
                raise OperandError(f"limits must be numbers or None; got {limit!r:.60}. Use maximum and minimum for tensors")
        if min is None and max is None:
            raise OperandError("give min, max or both")
        return torch.clip(a, min, max)

    into = staticmethod(lambda out, a, min, max: partial(torch.clip, a, min, max, out=out))
    vjps = (_clip_rule,)
    reads = ("a",)
    fresh = True
    elementwise = True
    options = {"min": [None, -1.0, 0.5], "max": [1.5, 2.0]}
    kinks = {
        "passes on the closed interval, bounds included; 0 at NaN": [
            ([[-2.0, -1.0, 0.0, 2.0, 3.0]], {"min": -1.0, "max": 2.0}, [1.0, 2.0, 3.0, 4.0, 5.0], [[0.0, 2.0, 3.0, 4.0, 0.0]]),
            ([[-2.0, -1.0, 3.0]], {"min": -1.0}, [math.inf, 2.0, 3.0], [[0.0, 2.0, 3.0]]),
            ([[-2.0, 2.0, 3.0]], {"max": 2.0}, [1.0, 2.0, math.nan], [[1.0, 2.0, 0.0]]),
            ([[math.nan, 1.0]], {"min": 0.0, "max": 2.0}, [1.0, 2.0], [[0.0, 2.0]]),
            ([[0.0, 1.0, 2.0]], {"min": 1.0, "max": 1.0}, [1.0, 1.0, 1.0], [[0.0, 1.0, 0.0]]),
            ([[math.nan, 0.5]], {"min": -1.0}, [1.0, 1.0], [[0.0, 1.0]]),
            ([[math.nan, 0.5]], {"max": 1.0}, [1.0, 1.0], [[0.0, 1.0]]),
        ]
    }  # fmt: skip


class Cast(Primitive):
    """`a` in another dtype, on another device, or both; what `to(...)` records. The gradient returns to `a`'s own.

    >>> hg.cast(hg.Variable([1.5]), torch.float64).dtype
    torch.float64
    """

    native = "{a}"
    elementwise = True

    @staticmethod
    def forward(a: Any, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Any:
        if not isinstance(dtype, (torch.dtype, type(None))):
            raise OperandError(f"dtype must be a torch.dtype; got {dtype!r:.60}")
        if dtype is not None and dtype.is_complex:
            raise OperandError("complex data is not supported")
        return a.to(device=device, dtype=dtype)

    into = staticmethod(lambda out, a, dtype, device: partial(out.copy_, a))
    vjps = (lambda g, out, a, dtype, device: g.to(device=a.device, dtype=a.dtype),)
    reads = ("",)
    options = {"dtype": [torch.float64, None], "device": [None]}


class Comparison(Primitive, abstract=True):
    """Base of the comparisons: their results are plain bool tensors, also for Variables."""

    vjps = (None, None)
    reads = ("", "")
    plain = True
    numbers = True


class Less(Comparison):
    """`a < b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) < 2
    tensor([ True, False])
    """

    native = "{a} < {b}"
    function = "lt"
    forward = staticmethod(operator.lt)
    operators = ("__lt__",)


class LessEqual(Comparison):
    """`a <= b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) <= 1
    tensor([ True, False])
    """

    native = "{a} <= {b}"
    function = "le"
    forward = staticmethod(operator.le)
    operators = ("__le__",)


class Greater(Comparison):
    """`a > b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) > 2
    tensor([False,  True])
    """

    native = "{a} > {b}"
    function = "gt"
    forward = staticmethod(operator.gt)
    operators = ("__gt__",)


class GreaterEqual(Comparison):
    """`a >= b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) >= 3
    tensor([False,  True])
    """

    native = "{a} >= {b}"
    function = "ge"
    forward = staticmethod(operator.ge)
    operators = ("__ge__",)


class Equal(Comparison):
    """`a == b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) == 3
    tensor([False,  True])
    """

    native = "{a} == {b}"
    function = "eq"
    forward = staticmethod(operator.eq)
    operators = ("__eq__",)


class NotEqual(Comparison):
    """`a != b` as a plain bool tensor.

    >>> hg.Variable([1.0, 3.0]) != 3
    tensor([ True, False])
    """

    native = "{a} != {b}"
    function = "ne"
    forward = staticmethod(operator.ne)
    operators = ("__ne__",)
