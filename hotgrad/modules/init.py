"""First values written into Parameters in place, under torch.nn.init's names: `hg.nn.init.xavier_uniform_(layer.weight)`.

Each returns the Parameter and forgets its gradient. Weights are hotgrad's, (in, out) for matrices and (out, in, *size) for kernels; random ones
are drawn in double from `generator`, None for torch's global one. A model's `reset` draws anew as its layers' own `init` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import finite_number, one_of
from hotgrad.core.variable import Variable
from hotgrad.errors import SettingError, ShapeError
from hotgrad.modules.parameters import fans, fill

__all__ = [
    "calculate_gain", "constant_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_", "orthogonal_", "trunc_normal_", "uniform_",
    "xavier_normal_", "xavier_uniform_", "zeros_",
]  # fmt: skip

Generator = torch.Generator | None


def _filled(v: Variable, draw: Callable[[Tensor], Any], generator: Generator = None) -> Variable:
    fill(v, lambda shape, _: draw(torch.empty(shape, dtype=torch.float64)), generator)
    return v


def uniform_(v: Variable, a: float = 0.0, b: float = 1.0, generator: Generator = None) -> Variable:
    """Numbers from `a` up to `b`, each as likely.

    >>> hg.nn.init.uniform_(hg.Parameter(torch.zeros(2)), 1.0, 1.0).data
    tensor([1., 1.])
    """
    if a > b:
        raise SettingError(f"uniform_: a must not be above b; got {a} and {b}")
    return _filled(v, lambda t: t.uniform_(a, b, generator=generator))


def normal_(v: Variable, mean: float = 0.0, std: float = 1.0, generator: Generator = None) -> Variable:
    """Numbers of the normal distribution.

    >>> hg.nn.init.normal_(hg.Parameter(torch.zeros(2)), 1.0, 0.0).data
    tensor([1., 1.])
    """
    return _filled(v, lambda t: t.normal_(mean, finite_number("normal_: std", std, 0), generator=generator))


def trunc_normal_(
    v: Variable, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Generator = None
) -> Variable:
    """Numbers of the normal distribution that lie in [a, b], by the inverse of its distribution function.

    >>> v = hg.nn.init.trunc_normal_(hg.Parameter(torch.zeros(100)), std=5.0)
    >>> bool((v.data.abs() <= 2).all())
    True
    """
    if a >= b:
        raise SettingError(f"trunc_normal_: a must be below b; got {a} and {b}")
    low, high = (math.erf((x - mean) / finite_number("trunc_normal_: std", std, above=True) / math.sqrt(2)) for x in (a, b))
    return _filled(v, lambda t: (t.uniform_(low, high, generator=generator).erfinv_() * (std * math.sqrt(2)) + mean).clamp_(a, b))


def constant_(v: Variable, val: float) -> Variable:
    """The same number everywhere.

    >>> hg.nn.init.constant_(hg.Parameter(torch.zeros(2)), 3.0).data
    tensor([3., 3.])
    """
    return _filled(v, lambda t: t.fill_(val))


def zeros_(v: Variable) -> Variable:
    """Zeros.

    >>> hg.nn.init.zeros_(hg.Parameter(torch.ones(2))).data
    tensor([0., 0.])
    """
    return constant_(v, 0.0)


def ones_(v: Variable) -> Variable:
    """Ones.

    >>> hg.nn.init.ones_(hg.Parameter(torch.zeros(2))).data
    tensor([1., 1.])
    """
    return constant_(v, 1.0)


def eye_(v: Variable) -> Variable:
    """The identity matrix. Raises ShapeError for other than matrices.

    >>> hg.nn.init.eye_(hg.Parameter(torch.zeros(2, 2))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if v.ndim != 2:
        raise ShapeError(f"eye_: expected a matrix; got shape {tuple(v.shape)}")
    return _filled(v, lambda t: torch.eye(*t.shape, dtype=t.dtype))


def xavier_uniform_(v: Variable, gain: float = 1.0, generator: Generator = None) -> Variable:
    """Numbers from -b to b, each as likely, of the variance gain^2 2 / (in + out) (Glorot and Bengio 2010, equation 16).

    >>> hg.nn.init.xavier_uniform_(hg.Parameter(torch.zeros(3, 2)), gain=0.0).sum().item()
    0.0
    """
    bound = gain * math.sqrt(6 / max(sum(fans(v.shape)), 1))
    return uniform_(v, -bound, bound, generator)


def xavier_normal_(v: Variable, gain: float = 1.0, generator: Generator = None) -> Variable:
    """Numbers of the normal distribution of the variance gain^2 2 / (in + out) (Glorot and Bengio 2010, equation 16).

    >>> hg.nn.init.xavier_normal_(hg.Parameter(torch.zeros(3, 2)), gain=0.0).sum().item()
    0.0
    """
    return normal_(v, 0.0, gain * math.sqrt(2 / max(sum(fans(v.shape)), 1)), generator)


def _he(v: Variable, a: float, mode: str, nonlinearity: str) -> float:
    """The deviation of He et al. (2015), equations 10 and 14."""
    number = fans(v.shape)[one_of("mode", mode, ("fan_in", "fan_out")) == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(number, 1))


def kaiming_uniform_(
    v: Variable, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator = None
) -> Variable:
    """Numbers from -b to b, each as likely, of the variance gain^2 / n: n the number of inputs, or of outputs for mode="fan_out", the gain
    that of `nonlinearity` with the slope `a` (He and others 2015).

    >>> hg.nn.init.kaiming_uniform_(hg.Parameter(torch.zeros(3, 2))).shape
    torch.Size([3, 2])
    """
    bound = math.sqrt(3) * _he(v, a, mode, nonlinearity)
    return uniform_(v, -bound, bound, generator)


def kaiming_normal_(
    v: Variable, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Generator = None
) -> Variable:
    """Numbers of the normal distribution of the variance that `kaiming_uniform_` has.

    >>> hg.nn.init.kaiming_normal_(hg.Parameter(torch.zeros(3, 2))).shape
    torch.Size([3, 2])
    """
    return normal_(v, 0.0, _he(v, a, mode, nonlinearity), generator)


def orthogonal_(v: Variable, gain: float = 1.0, generator: Generator = None) -> Variable:
    """A matrix with orthonormal rows, or columns where there are more rows, times `gain` (Saxe and others 2014); further axes count as columns.

    >>> v = hg.nn.init.orthogonal_(hg.Parameter(torch.zeros(2, 3)))
    >>> torch.allclose(v.data @ v.data.T, torch.eye(2), atol=1e-6)
    True
    """
    if v.ndim < 2:
        raise ShapeError(f"orthogonal_: expected two or more axes; got shape {tuple(v.shape)}")

    def draw(t: Tensor) -> Tensor:
        flat = t.normal_(generator=generator).reshape(t.shape[0], -1)
        q, r = torch.linalg.qr(flat.mT if flat.shape[0] < flat.shape[1] else flat)
        q = q * r.diagonal().sign()  # so that every such matrix is as likely
        found: Tensor = (q.mT if flat.shape[0] < flat.shape[1] else q) * gain
        return found.reshape(t.shape)

    return _filled(v, draw)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By what a layer's deviation is multiplied so that signals keep theirs through this function; torch's numbers.

    >>> hg.nn.init.calculate_gain("tanh")
    1.6666666666666667
    """
    gains = {"linear": 1.0, "sigmoid": 1.0, "conv1d": 1.0, "conv2d": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    return gains[one_of("nonlinearity", nonlinearity, (*gains, "leaky_relu"))]
