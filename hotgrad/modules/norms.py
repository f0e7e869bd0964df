"""Normalising layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hotgrad import functional
from hotgrad.checks import finite_number, whole_number
from hotgrad.core.variable import Parameter
from hotgrad.errors import SettingError, ShapeError
from hotgrad.modules.module import Module
from hotgrad.modules.parameters import fill_both

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm"]


class LayerNorm(Module):
    """Each row brought to mean 0 and deviation 1 over its last axes, of shape `normalized_shape`; see `functional.layer_norm`.

    With `elementwise_affine` times a weight (at first 1) and, with `bias`, plus a bias (at first 0) of that shape.

    >>> hg.nn.LayerNorm(2)(torch.tensor([[1.0, 3.0]])).data
    tensor([[-1.0000,  1.0000]])
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(whole_number("LayerNorm: normalized_shape", size) for size in shape)
        self.eps = eps
        self.weight = Parameter(torch.ones(self.normalized_shape)) if elementwise_affine else None
        self.bias = Parameter(torch.zeros(self.normalized_shape)) if elementwise_affine and bias else None

    @property
    def _row_axes(self) -> int:  # type: ignore[override]
        return len(self.normalized_shape)

    @property
    def elementwise_affine(self) -> bool:
        """Whether it has a weight."""
        return self.weight is not None

    def initialize(self, generator: torch.Generator | None) -> None:
        """The weight becomes 1, the bias 0."""
        fill_both(self.weight, self.bias, "ones")

    def forward(self, x: Any) -> Any:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.normalized_shape))


class _BatchNorm(Module):
    """What batch norms of all shapes have in common."""

    _ndims: tuple[int, ...]
    _shape: str
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        self.num_features = whole_number(f"{type(self).__name__}: num_features", num_features)
        self.eps, self.momentum = eps, finite_number(f"{type(self).__name__}: momentum", momentum, 0, 1)
        self.weight = Parameter(torch.ones(num_features)) if affine else None
        self.bias = Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    @property
    def affine(self) -> bool:
        """Whether it has a weight and a bias."""
        return self.weight is not None

    def initialize(self, generator: torch.Generator | None) -> None:
        """The weight becomes 1, the bias 0, the running statistics 1 and 0."""
        fill_both(self.weight, self.bias, "ones")
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def forward(self, x: Any) -> Any:
        if x.ndim not in self._ndims or x.shape[1] != self.num_features:
            raise ShapeError(f"{self!r} takes inputs of shape {self._shape.replace('{}', str(self.num_features))}; got {tuple(x.shape)}")
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return str(self.num_features)


class BatchNorm1d(_BatchNorm):
    """Each feature of x (n, num_features) or (n, num_features, length) brought to mean 0 and deviation 1; see `functional.batch_norm`.

    In train mode over the batch, which then moves `running_mean` and `running_var` by `momentum`; in eval mode by these running
    statistics. With `affine` times a weight (at first 1) plus a bias (at first 0). Raises ShapeError for other shapes, DataError
    for training on a single row.

    >>> layer = hg.nn.BatchNorm1d(1)
    >>> layer(torch.tensor([[1.0], [3.0]])).tolist()
    [[-0.9999949932098389], [0.9999949932098389]]
    >>> layer.running_mean
    tensor([0.2000])
    """

    _row_axes = 1
    _ndims, _shape = (2, 3), "(n, {}) or (n, {}, length)"


class BatchNorm2d(_BatchNorm):
    """Each channel of images x (n, num_features, height, width) brought to mean 0 and deviation 1; see BatchNorm1d.

    >>> hg.nn.BatchNorm2d(3)(torch.randn(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """

    _row_axes = 3
    _ndims, _shape = (4,), "(n, {}, height, width)"


class GroupNorm(Module):
    """x (n, num_channels, ...) with each of `num_groups` groups of channels brought to mean 0 and deviation 1 (Wu and He 2018); see
    `functional.group_norm`. With `affine` times a weight (at first 1) plus a bias (at first 0), one for each channel.

    >>> hg.nn.GroupNorm(2, 4)(torch.randn(3, 4, 5)).shape
    torch.Size([3, 4, 5])
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self.num_groups, self.num_channels = (
            whole_number("GroupNorm: num_groups", num_groups),
            whole_number("GroupNorm: num_channels", num_channels),
        )
        if num_channels % num_groups:
            raise SettingError(f"GroupNorm: num_channels must be a multiple of num_groups; got {num_channels} and {num_groups}")
        self.eps = eps
        self.weight = Parameter(torch.ones(num_channels)) if affine else None
        self.bias = Parameter(torch.zeros(num_channels)) if affine else None

    @property
    def affine(self) -> bool:
        """Whether it has a weight and a bias."""
        return self.weight is not None

    def initialize(self, generator: torch.Generator | None) -> None:
        """The weight becomes 1, the bias 0."""
        fill_both(self.weight, self.bias, "ones")

    def forward(self, x: Any) -> Any:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"{self!r} takes inputs of shape (n, {self.num_channels}, ...); got {tuple(x.shape)}")
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}"
