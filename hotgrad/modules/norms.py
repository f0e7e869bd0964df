"""Normalising layers, and the convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hotgrad import functional
from hotgrad.checks import finite_number, whole_number
from hotgrad.core.variable import Parameter
from hotgrad.errors import ShapeError
from hotgrad.modules.module import Module
from hotgrad.modules.parameters import Initializer, fill, fill_both

__all__ = ["BatchNorm1d", "Conv2d", "LayerNorm"]


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


class BatchNorm1d(Module):
    """Each column of x (n, num_features) brought to mean 0 and deviation 1; see `functional.batch_norm`.

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
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        self.num_features = whole_number("BatchNorm1d: num_features", num_features)
        self.eps, self.momentum = eps, finite_number("BatchNorm1d: momentum", momentum, 0, 1)
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
        if x.ndim != 2 or x.shape[1] != self.num_features:
            raise ShapeError(f"{self!r} takes inputs of shape (n, {self.num_features}); got {tuple(x.shape)}")
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return str(self.num_features)


class Conv2d(Module):
    """Cross-correlation of images x (n, in_channels, height, width) with `out_channels` kernels; see `functional.conv2d`.

    `kernel_size`, `stride` and `padding` are numbers or pairs (vertical, horizontal). weight (out_channels, in_channels, height,
    width), drawn as `init` says (see Linear); bias (out_channels,), at first 0.

    >>> hg.nn.Conv2d(3, 8, 3, padding=1)(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    _row_axes = 3

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        *,
        init: str | Initializer = "xavier_uniform",
    ) -> None:
        channels = whole_number("Conv2d: out_channels", out_channels), whole_number("Conv2d: in_channels", in_channels)
        self.kernel_size = functional.two_numbers("Conv2d: kernel_size", kernel_size, 1)
        self.stride, self.padding = (
            functional.two_numbers("Conv2d: stride", stride, 1),
            functional.two_numbers("Conv2d: padding", padding, 0),
        )
        self.init = init
        self.weight = Parameter(torch.zeros(*channels, *self.kernel_size))
        self.bias = Parameter(torch.zeros(channels[0])) if bias else None
        fill(self.weight, init)

    @property
    def in_channels(self) -> int:
        """The number of channels that it takes."""
        return self.weight.shape[1]

    @property
    def out_channels(self) -> int:
        """The number of channels that it gives."""
        return self.weight.shape[0]

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new weights from `generator`; biases become 0."""
        fill_both(self.weight, self.bias, self.init, generator)

    def forward(self, x: Any) -> Any:
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def extra_repr(self) -> str:
        extra = "".join(
            f", {name}={value}"
            for name, value, usual in (("stride", self.stride, (1, 1)), ("padding", self.padding, (0, 0)))
            if value != usual
        )
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size}{extra}{', bias=False' if self.bias is None else ''}"
