"""Layers for signals x (n, channels, length) and images x (n, channels, height, width): convolutions and pooling."""

from __future__ import annotations

from typing import Any

import torch

from hotgrad import functional
from hotgrad.checks import one_of, whole_number
from hotgrad.core.variable import Parameter
from hotgrad.errors import SettingError
from hotgrad.modules.module import Module
from hotgrad.modules.parameters import Initializer, fill, fill_both
from hotgrad.ops.windows import numbers_for

__all__ = ["AvgPool1d", "AvgPool2d", "Conv1d", "Conv2d", "MaxPool1d", "MaxPool2d"]

Sizes = int | tuple[int, ...]


class _Convolution(Module):
    """What convolutions of one and two axes have in common."""

    _axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        init: str | Initializer = "xavier_uniform",
    ) -> None:
        name = type(self).__name__
        outs, ins = whole_number(f"{name}: out_channels", out_channels), whole_number(f"{name}: in_channels", in_channels)
        self.groups = whole_number(f"{name}: groups", groups, 1)
        if ins % groups or outs % groups:
            raise SettingError(f"{name}: groups must divide in_channels and out_channels; got {groups} for {ins} and {outs}")
        self.kernel_size = numbers_for(f"{name}: kernel_size", kernel_size, 1, self._axes)
        self.stride = numbers_for(f"{name}: stride", stride, 1, self._axes)
        self.dilation = numbers_for(f"{name}: dilation", dilation, 1, self._axes)
        by_name = isinstance(padding, str)
        self.padding = (
            one_of(f"{name}: padding", padding, ("same", "valid")) if by_name else numbers_for(f"{name}: padding", padding, 0, self._axes)
        )
        self.init = init
        self.weight = Parameter(torch.zeros(outs, ins // groups, *self.kernel_size))
        self.bias = Parameter(torch.zeros(outs)) if bias else None
        fill(self.weight, init)

    @property
    def in_channels(self) -> int:
        """The number of channels that it takes."""
        return self.weight.shape[1] * self.groups

    @property
    def out_channels(self) -> int:
        """The number of channels that it gives."""
        return self.weight.shape[0]

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new weights from `generator`; biases become 0."""
        fill_both(self.weight, self.bias, self.init, generator)

    def forward(self, x: Any) -> Any:
        convolve = functional.conv1d if self._axes == 1 else functional.conv2d
        return convolve(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        usual = {"stride": (1,) * self._axes, "padding": (0,) * self._axes, "dilation": (1,) * self._axes, "groups": 1}
        extra = "".join(f", {name}={value!r}" for name, value in ((name, getattr(self, name)) for name in usual) if value != usual[name])
        return f"{self.in_channels}, {self.out_channels}, {self.kernel_size}{extra}{', bias=False' if self.bias is None else ''}"


class Conv1d(_Convolution):
    """Cross-correlation of x (n, in_channels, length) with `out_channels` kernels; see `functional.conv1d` and Conv2d.

    >>> hg.nn.Conv1d(3, 8, 3, padding="same")(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 8, 5])
    """

    _axes = 1
    _row_axes = 2


class Conv2d(_Convolution):
    """Cross-correlation of images x (n, in_channels, height, width) with `out_channels` kernels; see `functional.conv2d`.

    `kernel_size`, `stride`, `padding` and `dilation` are numbers or pairs (vertical, horizontal); padding may be "same" or "valid". weight
    (out_channels, in_channels / groups, height, width), drawn as `init` says (see Linear); bias (out_channels,), at first 0.

    >>> hg.nn.Conv2d(3, 8, 3, padding=1)(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 8, 5, 5])
    """

    _axes = 2
    _row_axes = 3


class _Pool(Module):
    """What pooling has in common."""

    _axes: int

    def _sizes(self, kernel_size: Sizes, stride: Sizes | None, padding: Sizes) -> None:
        name = type(self).__name__
        self.kernel_size = numbers_for(f"{name}: kernel_size", kernel_size, 1, self._axes)
        self.stride = self.kernel_size if stride is None else numbers_for(f"{name}: stride", stride, 1, self._axes)
        self.padding = numbers_for(f"{name}: padding", padding, 0, self._axes)

    def extra_repr(self) -> str:
        usual = {"stride": self.kernel_size, "padding": (0,) * self._axes, "dilation": (1,) * self._axes, "count_include_pad": True}
        shown = ((name, getattr(self, name)) for name in usual if hasattr(self, name))
        return f"{self.kernel_size}" + "".join(f", {name}={value}" for name, value in shown if value != usual[name])


class _MaxPool(_Pool):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1) -> None:
        self._sizes(kernel_size, stride, padding)
        self.dilation = numbers_for(f"{type(self).__name__}: dilation", dilation, 1, self._axes)

    def forward(self, x: Any) -> Any:
        pool = functional.max_pool1d if self._axes == 1 else functional.max_pool2d
        return pool(x, self.kernel_size, self.stride, self.padding, self.dilation)


class MaxPool1d(_MaxPool):
    """The largest element of each window of x (n, channels, length); see `functional.max_pool1d`.

    >>> hg.nn.MaxPool1d(2)(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
    tensor([[[3., 2.]]])
    """

    _axes = 1
    _row_axes = 2


class MaxPool2d(_MaxPool):
    """The largest element of each window of images x (n, channels, height, width); see `functional.max_pool2d`.

    >>> hg.nn.MaxPool2d(2)(torch.zeros(1, 1, 4, 6)).shape
    torch.Size([1, 1, 2, 3])
    """

    _axes = 2
    _row_axes = 3


class _AvgPool(_Pool):
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, count_include_pad: bool = True) -> None:
        self._sizes(kernel_size, stride, padding)
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Any:
        pool = functional.avg_pool1d if self._axes == 1 else functional.avg_pool2d
        return pool(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)


class AvgPool1d(_AvgPool):
    """The mean of each window of x (n, channels, length); see `functional.avg_pool1d`.

    >>> hg.nn.AvgPool1d(2)(torch.tensor([[[1.0, 3.0, 2.0, 0.0]]]))
    tensor([[[2., 1.]]])
    """

    _axes = 1
    _row_axes = 2


class AvgPool2d(_AvgPool):
    """The mean of each window of images x (n, channels, height, width); see `functional.avg_pool2d`.

    >>> hg.nn.AvgPool2d(2)(torch.zeros(1, 1, 4, 6)).shape
    torch.Size([1, 1, 2, 3])
    """

    _axes = 2
    _row_axes = 3
