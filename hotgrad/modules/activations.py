"""Activation functions as layers; their formulas are in `hotgrad.ops`. All but GLU, LogSoftmax and PReLU take any shape."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hotgrad.checks import whole_number
from hotgrad.core.variable import Parameter
from hotgrad.modules.module import Module
from hotgrad.ops import activations, pointwise, statistics

__all__ = [
    "CELU", "ELU", "GLU", "SELU", "Hardtanh", "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU6", "SiLU", "Softplus", "Softsign",
]  # fmt: skip


class _Activation(Module):
    """One of no settings, or of those that are named, which are its attributes."""

    _function: ClassVar[Any]
    _settings: ClassVar[tuple[str, ...]] = ()
    _row_axes = 0

    def forward(self, x: Any) -> Any:
        return type(self)._function(x, *(getattr(self, name) for name in self._settings))

    def extra_repr(self) -> str:
        return ", ".join(str(getattr(self, name)) for name in self._settings)


class SiLU(_Activation):
    """x sigmoid(x); see `silu`.

    >>> hg.nn.SiLU()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.7311])
    """

    _function = staticmethod(activations.silu)


class Mish(_Activation):
    """x tanh(softplus(x)); see `mish`.

    >>> hg.nn.Mish()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8651])
    """

    _function = staticmethod(activations.mish)


class SELU(_Activation):
    """The ELU that keeps mean and variance of normal inputs; see `selu`.

    >>> hg.nn.SELU()(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 1.0507])
    """

    _function = staticmethod(activations.selu)


class ReLU6(_Activation):
    """ReLU limited to 6; see `relu6`.

    >>> hg.nn.ReLU6()(torch.tensor([-1.0, 9.0]))
    tensor([0., 6.])
    """

    _function = staticmethod(activations.relu6)


class LogSigmoid(_Activation):
    """log(sigmoid(x)); see `logsigmoid`.

    >>> hg.nn.LogSigmoid()(torch.tensor([0.0]))
    tensor([-0.6931])
    """

    _function = staticmethod(activations.logsigmoid)


class Softsign(_Activation):
    """x / (1 + |x|); see `softsign`.

    >>> hg.nn.Softsign()(torch.tensor([3.0]))
    tensor([0.7500])
    """

    _function = staticmethod(activations.softsign)


class ELU(_Activation):
    """x above 0, else alpha (exp(x) - 1); see `elu`.

    >>> hg.nn.ELU()(torch.tensor([-1.0, 1.0]))
    tensor([-0.6321,  1.0000])
    """

    _function, _settings = staticmethod(activations.elu), ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha


class CELU(_Activation):
    """x above 0, else alpha (exp(x / alpha) - 1); see `celu`.

    >>> hg.nn.CELU()(torch.tensor([-1.0, 1.0]))
    tensor([-0.6321,  1.0000])
    """

    _function, _settings = staticmethod(activations.celu), ("alpha",)

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha


class LeakyReLU(_Activation):
    """x above 0, else negative_slope x; see `leaky_relu`.

    >>> hg.nn.LeakyReLU(0.1)(torch.tensor([-1.0, 1.0]))
    tensor([-0.1000,  1.0000])
    """

    _function, _settings = staticmethod(activations.leaky_relu), ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope


class Hardtanh(_Activation):
    """x limited to [min_val, max_val]; see `hardtanh`.

    >>> hg.nn.Hardtanh()(torch.tensor([-3.0, 0.5]))
    tensor([-1.0000,  0.5000])
    """

    _function, _settings = staticmethod(activations.hardtanh), ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.min_val, self.max_val = min_val, max_val


class Softplus(_Activation):
    """log(1 + exp(beta x)) / beta; see `softplus`.

    >>> hg.nn.Softplus()(torch.tensor([0.0]))
    tensor([0.6931])
    """

    _function, _settings = staticmethod(pointwise.Softplus.apply), ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.beta, self.threshold = beta, threshold


class LogSoftmax(_Activation):
    """The logarithm of softmax along the axis `dim`; see `log_softmax`.

    >>> hg.nn.LogSoftmax()(torch.tensor([[1.0, 1.0]]))
    tensor([[-0.6931, -0.6931]])
    """

    _function, _settings = staticmethod(statistics.log_softmax), ("dim",)
    _row_axes = None  # type: ignore[assignment]

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim


class GLU(_Activation):
    """The first half along the axis `dim` times the sigmoid of the second; see `glu`.

    >>> hg.nn.GLU()(torch.tensor([[2.0, 0.0]]))
    tensor([[1.]])
    """

    _function, _settings = staticmethod(activations.glu), ("dim",)
    _row_axes = None  # type: ignore[assignment]

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim


class PReLU(Module):
    """x above 0, else a weight times x, the weight being learnt: one, or one for each of `num_parameters` columns; see `prelu`.

    >>> hg.nn.PReLU()(torch.tensor([-1.0, 1.0])).data
    tensor([-0.2500,  1.0000])
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        self.num_parameters, self._first = whole_number("PReLU: num_parameters", num_parameters), init
        self.weight = Parameter(torch.full((num_parameters,), float(init)))

    @property
    def init(self) -> float:
        """The value that weights begin with."""
        return self._first

    def initialize(self, generator: torch.Generator | None) -> None:
        """The weights become `init`."""
        self.weight.data.fill_(self._first)

    def forward(self, x: Any) -> Any:
        return activations.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return str(self.num_parameters)
