"""Rounding, division with remainder, and what is NaN or infinite. The derivative of what is rounded is 0 wherever it exists."""

from __future__ import annotations

import operator
from functools import partial
from typing import Any

import torch

from hotgrad.core.domains import Booleans, Interval
from hotgrad.core.primitive import Primitive, zero
from hotgrad.ops.arithmetic import as_tensors


class _Rounded(Primitive, abstract=True):
    """What the roundings have in common."""

    vjps = (zero,)
    reads = ("",)
    fresh = True


class Floor(_Rounded):
    """The largest whole number that is not above. Its gradient is 0.

    >>> hg.floor(hg.Variable([-0.5, 1.5]))
    Variable([-1.,  1.])
    """

    native = "floor({a})"
    forward = staticmethod(torch.floor)


class Ceil(_Rounded):
    """The smallest whole number that is not below. Its gradient is 0.

    >>> hg.ceil(hg.Variable([-0.5, 1.5]))
    Variable([-0., 2.])
    """

    native = "ceil({a})"
    forward = staticmethod(torch.ceil)


class Trunc(_Rounded):
    """The whole part, rounded towards 0. Its gradient is 0.

    >>> hg.trunc(hg.Variable([-1.5, 1.5]))
    Variable([-1.,  1.])
    """

    native = "trunc({a})"
    forward = staticmethod(torch.trunc)


class Round(_Rounded):
    """The nearest whole number, the even one of two equally near; with `decimals` a multiple of 10**-decimals. Its gradient is 0.

    >>> hg.round(hg.Variable([0.5, 1.5, 2.26]), decimals=1)
    Variable([0.5000, 1.5000, 2.3000])
    """

    @staticmethod
    def native(a: Any, *, decimals: int) -> Any:
        if not a.dtype.is_floating_point:
            return NotImplemented
        return RoundCall.apply(a) if decimals == 0 else RoundCall.apply(a * 10.0**decimals) / 10.0**decimals

    forward = staticmethod(lambda a, *, decimals=0: torch.round(a, decimals=decimals))
    into = staticmethod(lambda out, a, decimals: partial(torch.round, a, decimals=decimals, out=out))
    elementwise = True
    options = {"decimals": [0, 1]}


class RoundCall(_Rounded, register=False):
    """`nearbyint` of C."""

    function = ""
    native = "nearbyint({a})"
    forward = staticmethod(torch.round)


class Remainder(Primitive):
    """`a` modulo `b`, with the sign of `b`, as Python's `%`; the derivative by `b` is minus the floored quotient.

    >>> hg.Variable([-3.0, 5.0]) % 4
    Variable([1., 1.])
    """

    # C's remainder has the sign of a; where that is not b's, b is added
    native = "fmod({a}, {b}) + (((fmod({a}, {b}) != 0) & ((fmod({a}, {b}) < 0) != ({b} < 0))) ? {b} : 0)"
    numbers = True
    forward = staticmethod(operator.mod)
    into = staticmethod(lambda out, a, b: partial(torch.remainder, a, b, out=out))
    elementwise = True
    vjps = (lambda g, out, a, b: g, lambda g, out, a, b: -g * FloorDivide.apply(a, b))
    reads = ("", "a b")
    domain = (Interval(), Interval(0.5, 3.0))
    operators = ("__mod__", "__rmod__")


class Fmod(Primitive):
    """`a` modulo `b`, with the sign of `a`, as C's `fmod`.

    >>> hg.fmod(hg.Variable([-3.0, 5.0]), 4)
    Variable([-3.,  1.])
    """

    native = "fmod({a}, {b})"
    numbers = True
    forward = staticmethod(lambda a, b: torch.fmod(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.fmod, a, b, out=out))
    elementwise = True
    vjps = (lambda g, out, a, b: g, lambda g, out, a, b: -g * (a / b).trunc())
    reads = ("", "a b")
    domain = (Interval(), Interval(0.5, 3.0))


class FloorDivide(Primitive):
    """The quotient rounded down, as Python's `//`. Its gradient is 0.

    >>> hg.Variable([-3.0, 5.0]) // 4
    Variable([-1.,  1.])
    """

    # by way of the remainder, as torch and Python: near a whole number the quotient itself may round up to it
    native = (
        "{b} == 0 ? {a} / {b} : nearbyint(({a} - fmod({a}, {b})) / {b}) - ((fmod({a}, {b}) != 0) & ((fmod({a}, {b}) < 0) != ({b} < 0)))"
    )
    function = "floor_divide"
    numbers = True
    forward = staticmethod(lambda a, b: torch.floor_divide(*as_tensors(a, b)))
    into = staticmethod(lambda out, a, b: partial(torch.floor_divide, a, b, out=out))
    elementwise = True
    vjps = (zero, zero)
    reads = ("", "")
    domain = (Interval(), Interval(0.5, 3.0))
    operators = ("__floordiv__", "__rfloordiv__")


class _Test(Primitive, abstract=True):
    """What the questions about elements have in common: their results are plain bool tensors, also for Variables."""

    vjps = (None,)
    reads = ("",)
    plain = True


class IsNaN(_Test):
    """Where `a` is NaN, as a plain bool tensor.

    >>> hg.isnan(hg.Variable([1.0, float("nan")]))
    tensor([False,  True])
    """

    native = staticmethod(lambda a: a != a)
    forward = staticmethod(torch.isnan)
    into = staticmethod(lambda out, a: partial(torch.ne, a, a, out=out))


class IsInf(_Test):
    """Where `a` is infinite, as a plain bool tensor.

    >>> hg.isinf(hg.Variable([1.0, float("-inf")]))
    tensor([False,  True])
    """

    native = staticmethod(lambda a: a.abs() == float("inf"))
    forward = staticmethod(torch.isinf)
    allocates = True


class IsFinite(_Test):
    """Where `a` is neither NaN nor infinite, as a plain bool tensor.

    >>> hg.isfinite(hg.Variable([1.0, float("nan")]))
    tensor([ True, False])
    """

    native = staticmethod(lambda a: a - a == 0.0)
    forward = staticmethod(torch.isfinite)
    allocates = True


class Not(_Test):
    """Where a mask is false, `~mask`, as a plain tensor; of integers bit by bit.

    >>> hg.bitwise_not(torch.tensor([True, False]))
    tensor([False,  True])
    """

    native = staticmethod(lambda a: a == 0 if a.dtype is torch.bool else NotImplemented)
    function = "bitwise_not"
    forward = staticmethod(torch.bitwise_not)
    domain = (Booleans(),)
    operators = ("__invert__",)


class _Connective(Primitive, abstract=True):
    """What the connectives of masks have in common."""

    vjps = (None, None)
    reads = ("", "")
    plain = True
    domain = (Booleans(), Booleans())


class And(_Connective):
    """Where both masks are true, `m & n`, as a plain tensor; of integers bit by bit.

    >>> hg.bitwise_and(torch.tensor([True, False]), True)
    tensor([ True, False])
    """

    native = "{a} & {b}"
    function = "bitwise_and"
    forward = staticmethod(torch.bitwise_and)
    operators = ("__and__", "__rand__")


class Or(_Connective):
    """Where one of the masks or both are true, `m | n`, as a plain tensor; of integers bit by bit.

    >>> hg.bitwise_or(torch.tensor([True, False]), torch.tensor([False, False]))
    tensor([ True, False])
    """

    native = "{a} | {b}"
    function = "bitwise_or"
    forward = staticmethod(torch.bitwise_or)
    operators = ("__or__", "__ror__")


class Xor(_Connective):
    """Where one of two masks is true and the other not, `m ^ n`, as a plain tensor; of integers bit by bit.

    >>> hg.bitwise_xor(torch.tensor([True, False]), torch.tensor([True, True]))
    tensor([False,  True])
    """

    native = "{a} ^ {b}"
    function = "bitwise_xor"
    forward = staticmethod(torch.bitwise_xor)
    operators = ("__xor__", "__rxor__")
