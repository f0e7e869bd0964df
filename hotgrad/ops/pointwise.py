"""Functions of one operand, element by element; the shape of the result is that of the operand.

Where torch has a fused kernel for a derivative, that is a primitive of its own here, with rules of its own: `tanh` needs
half the time so, and every order of derivative stays available.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from hotgrad.core.domains import Interval
from hotgrad.core.primitive import Primitive, zero
from hotgrad.ops.arithmetic import Where
from hotgrad.ops.axes import number


def _kernel(name: str, overload: str = "default") -> Callable[..., Tensor]:
    """A kernel that torch gives no function of its own. Its packet's call costs a fifth more, so it is taken out where it can be."""
    packet = getattr(getattr(torch.ops.aten, name), overload)
    return getattr(packet, "_op", packet)  # type: ignore[no-any-return]


_threshold_backward = _kernel("threshold_backward")
_tanh_backward = _kernel("tanh_backward")
_sigmoid_backward = _kernel("sigmoid_backward")
_threshold_backward_into = _kernel("threshold_backward", "grad_input")
_tanh_backward_into = _kernel("tanh_backward", "grad_input")
_softplus_into: Callable[..., Tensor] = torch._C._nn.softplus
_sigmoid_backward_into = _kernel("sigmoid_backward", "grad_input")


class Exp(Primitive):
    """e to the power of each element.

    >>> hg.exp(hg.Variable([0.0, 1.0]))
    Variable([1.0000, 2.7183])
    """

    native = "exp({a})"
    forward = staticmethod(torch.exp)
    vjps = (lambda g, out, a: g * out,)
    reads = ("out",)
    fresh = True


class Log(Primitive):
    """Natural logarithm; -inf at 0, NaN below.

    >>> hg.log(hg.Variable([1.0, 10.0]))
    Variable([0.0000, 2.3026])
    """

    native = "log({a})"
    forward = staticmethod(torch.log)
    vjps = (lambda g, out, a: g / a,)
    reads = ("a",)
    domain = (Interval(0.0),)
    fresh = True


class Log1p(Primitive):
    """log(1 + a), accurate for small `a`.

    >>> hg.log1p(hg.Variable([0.0, 1e-6]))
    Variable([0.0000e+00, 1.0000e-06])
    """

    native = "log1p({a})"
    forward = staticmethod(torch.log1p)
    vjps = (lambda g, out, a: g / (a + 1),)
    reads = ("a",)
    domain = (Interval(-1.0),)
    fresh = True


class Expm1(Primitive):
    """exp(a) - 1, accurate for small `a`.

    >>> hg.expm1(hg.Variable([0.0, 1e-6]))
    Variable([0.0000e+00, 1.0000e-06])
    """

    native = "expm1({a})"
    forward = staticmethod(torch.expm1)
    vjps = (lambda g, out, a: g * a.exp(),)  # out + 1 would lose the digits of a small exp(a)
    reads = ("a",)
    fresh = True


class Sqrt(Primitive):
    """Square root; NaN below 0. Its derivative at 0 is infinite.

    >>> hg.sqrt(hg.Variable([4.0, 9.0]))
    Variable([2., 3.])
    """

    native = "sqrt({a})"
    forward = staticmethod(torch.sqrt)
    vjps = (lambda g, out, a: g / (out + out),)
    reads = ("out",)
    domain = (Interval(0.0),)
    fresh = True


class Square(Primitive):
    """a * a.

    >>> hg.square(hg.Variable([2.0, 3.0]))
    Variable([4., 9.])
    """

    native = "{a} * {a}"
    forward = staticmethod(torch.square)
    vjps = (lambda g, out, a: g * (a + a),)
    reads = ("a",)
    fresh = True


class Reciprocal(Primitive):
    """1 / a.

    >>> hg.reciprocal(hg.Variable([2.0, 4.0]))
    Variable([0.5000, 0.2500])
    """

    native = "1 / {a}"
    forward = staticmethod(torch.reciprocal)
    vjps = (lambda g, out, a: -g * (out * out),)
    reads = ("out",)
    fresh = True


class Sin(Primitive):
    """Sine of each element, in radians.

    >>> hg.sin(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.8415])
    """

    native = "sin({a})"
    forward = staticmethod(torch.sin)
    vjps = (lambda g, out, a: g * a.cos(),)
    reads = ("a",)
    fresh = True


class Cos(Primitive):
    """Cosine of each element, in radians.

    >>> hg.cos(hg.Variable([0.0, 1.0]))
    Variable([1.0000, 0.5403])
    """

    native = "cos({a})"
    forward = staticmethod(torch.cos)
    vjps = (lambda g, out, a: -g * a.sin(),)
    reads = ("a",)
    fresh = True


class Tan(Primitive):
    """Tangent of each element, in radians.

    >>> hg.tan(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 1.5574])
    """

    native = "tan({a})"
    forward = staticmethod(torch.tan)
    vjps = (lambda g, out, a: g * (1 + out * out),)
    reads = ("out",)
    domain = (Interval(-1.5, 1.5),)
    fresh = True


class TanhGrad(Primitive):
    """g * (1 - out**2) in one kernel: the rule of Tanh.

    >>> hg.ops.TanhGrad.apply(torch.ones(2), torch.tensor([0.0, 0.5]))
    tensor([1.0000, 0.7500])
    """

    native = "{g} * (1 - {out} * {out})"
    elementwise = True
    function = ""
    forward = staticmethod(_tanh_backward)
    into = staticmethod(lambda res, g, out: partial(_tanh_backward_into, g, out, grad_input=res))
    vjps = (lambda h, res, g, out: TanhGrad.apply(h, out), lambda h, res, g, out: h * g * out * -2)
    reads = ("out", "g out")
    domain = (Interval(), Interval(-1.0, 1.0))
    fresh = True


class Tanh(Primitive):
    """Hyperbolic tangent.

    >>> hg.tanh(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.7616])
    """

    native = "tanh({a})"
    forward = staticmethod(torch.tanh)
    vjps = (lambda g, out, a: TanhGrad.apply(g, out),)
    reads = ("out",)
    fresh = True
    stable = True


class SigmoidGrad(Primitive):
    """g * out * (1 - out) in one kernel: the rule of Sigmoid.

    >>> hg.ops.SigmoidGrad.apply(torch.ones(2), torch.tensor([0.5, 1.0]))
    tensor([0.2500, 0.0000])
    """

    native = "{g} * (1 - {out}) * {out}"
    elementwise = True
    function = ""
    forward = staticmethod(_sigmoid_backward)
    into = staticmethod(lambda res, g, out: partial(_sigmoid_backward_into, g, out, grad_input=res))
    vjps = (lambda h, res, g, out: SigmoidGrad.apply(h, out), lambda h, res, g, out: h * g * (1 - (out + out)))
    reads = ("out", "g out")
    domain = (Interval(), Interval(0.0, 1.0))
    fresh = True


class Sigmoid(Primitive):
    """1 / (1 + exp(-a)), without overflow.

    >>> hg.sigmoid(hg.Variable([0.0, 1000.0]))
    Variable([0.5000, 1.0000])
    """

    native = "sigmoid({a})"
    forward = staticmethod(torch.sigmoid)
    vjps = (lambda g, out, a: SigmoidGrad.apply(g, out),)
    reads = ("out",)
    fresh = True
    stable = True


class Erf(Primitive):
    """The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to `a`.

    >>> hg.erf(hg.Variable([0.0, 1.0]))
    Variable([0.0000, 0.8427])
    """

    native = "erf({a})"
    forward = staticmethod(torch.erf)
    vjps = (lambda g, out, a: g * ((-a * a).exp() * (2 / math.sqrt(math.pi))),)
    reads = ("a",)
    fresh = True


class ReLUGrad(Primitive):
    """0 where `out` <= 0, else `g`: the rule of ReLU. NaN in `out` lets `g` pass.

    >>> hg.ops.ReLUGrad.apply(torch.ones(2), torch.tensor([0.0, 3.0]))
    tensor([0., 1.])
    """

    native = "{out} <= 0 ? 0 : {g}"
    elementwise = True
    function = ""
    forward = staticmethod(lambda g, out: _threshold_backward(g, out, 0))
    into = staticmethod(lambda res, g, out: partial(_threshold_backward_into, g, out, 0, grad_input=res))
    vjps = (lambda h, res, g, out: ReLUGrad.apply(h, out), zero)
    reads = ("out", "")
    fresh = True
    kinks = {
        "0 where the result is 0 or below": [
            ([[1.0, math.inf, math.nan, 2.0], [0.0, -1.0, 0.0, math.nan]], {}, [3.0, math.inf, 1.0, 5.0], [[0.0, 0.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]]),
        ]
    }  # fmt: skip


class ReLU(Primitive):
    """The larger of each element and 0. NaN stays NaN.

    >>> hg.relu(hg.Variable([-1.0, 2.0]))
    Variable([0., 2.])
    """

    native = "{a} <= 0 ? 0 : {a}"
    elementwise = True
    forward = staticmethod(torch.relu)
    into = staticmethod(lambda out, a: partial(torch.relu_, a) if out is a else partial(torch.clamp_min, a, 0, out=out))
    vjps = (lambda g, out, a: ReLUGrad.apply(g, out),)
    reads = ("out",)
    fresh = True
    kinks = {
        "0 at 0 and at NaN": [
            ([[-1.0, -0.0, 0.0, 1e-7, 2.0]], {}, [1.0, 2.0, 3.0, 4.0, 5.0], [[0.0, 0.0, 0.0, 4.0, 5.0]]),
            ([[-1.0, 0.0, 1.0, math.nan]], {}, [math.inf, math.nan, math.inf, 2.0], [[0.0, 0.0, math.inf, 2.0]]),
            ([[math.inf, -math.inf]], {}, [1.0, 1.0], [[1.0, 0.0]]),
        ]
    }  # fmt: skip


class Softplus(Primitive):
    """log(1 + exp(beta a)) / beta, a smooth ReLU; `a` itself where beta a > `threshold`.

    >>> hg.softplus(hg.Variable([0.0, 1000.0]))
    Variable([6.9315e-01, 1.0000e+03])
    """

    native = "{beta} * {a} > {threshold} ? {a} : softplus({beta} * {a}) / {beta}"
    elementwise = True

    @staticmethod
    def forward(a, *, beta=1.0, threshold=20.0):  # type: ignore[no-untyped-def]
        return torch.ops.aten.softplus(a, number("beta", beta), number("threshold", threshold))

    into = staticmethod(lambda out, a, beta, threshold: partial(_softplus_into, a, beta, threshold, out=out))
    vjps = (lambda g, out, a, beta, threshold: Where.apply(a * beta > threshold, g, g * (a * beta).sigmoid()),)
    reads = ("a",)
    fresh = True
    stable = True
    options = {"beta": [1.0, 2.0]}
