"""Convolution and pooling as functions, of signals x (n, channels, length) and images x (n, channels, height, width)."""

from __future__ import annotations

import math
from typing import Any

import torch

from hotgrad.checks import one_of, whole_number
from hotgrad.errors import SettingError, ShapeError
from hotgrad.ops.axes import array
from hotgrad.ops.convolutions import Convolution, PoolArgMax, check_images, patches
from hotgrad.ops.indexing import Gather
from hotgrad.ops.reductions import Sum
from hotgrad.ops.shaping import Pad, Reshape

__all__ = ["avg_pool1d", "avg_pool2d", "conv1d", "conv2d", "max_pool1d", "max_pool2d"]


def numbers_for(name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    """A whole number as many of it, or the numbers given. Raises SettingError for anything else."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(given) != axes:
        raise SettingError(f"{name} must be a whole number or {axes} of them; got {value!r}")
    return tuple(whole_number(name, number, least) for number in given)


def _windows(name: str, x: Any, axes: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[tuple[int, ...]]:
    """Kernel, stride, padding and dilation as a number for each axis. Raises ShapeError where no window fits."""
    check_images(name, x, axes)
    given = [numbers_for(f"{name}: {what}", value, least, axes) for what, value, least in (
        ("kernel_size", kernel, 1), ("stride", stride, 1), ("padding", padding, 0), ("dilation", dilation, 1)
    )]  # fmt: skip
    for n, k, _, p, d in zip(x.shape[2:], *given):
        if n + 2 * p < d * (k - 1) + 1:
            fits = " x ".join(map(str, given[0]))
            raise ShapeError(f"{name}: kernels of {fits} do not fit into {' x '.join(map(str, x.shape[2:]))}, padding included")
    return given


def _convolved(name: str, axes: int, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    x, weight = array(x), array(weight)
    groups = whole_number(f"{name}: groups", groups, 1)
    if x.ndim != axes + 2 or weight.ndim != axes + 2 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        sizes = ("length", "height, width")[axes - 1]
        raise ShapeError(
            f"{name} takes x (n, in, {sizes}) and kernels (out, in{' / groups' if groups > 1 else ''}, {('k', 'h, w')[axes - 1]}) with equal "
            f"in{f', groups = {groups} dividing both' if groups > 1 else ''}; got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    kernel = tuple(weight.shape[2:])
    if isinstance(padding, str):
        x, padding = _padded_by_name(name, x, kernel, stride, padding, numbers_for(f"{name}: dilation", dilation, 1, axes))
    _, strides, paddings, dilations = _windows(name, x, axes, kernel, stride, padding, dilation)
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ShapeError(f"{name}: bias must have one element for each of {weight.shape[0]} kernels; got shape {tuple(bias.shape)}")
    out = Convolution.apply(x, weight, strides, paddings, dilations, groups)
    return out if bias is None else out + bias.reshape((-1, *(1 for _ in range(axes))))


def _padded_by_name(name: str, x: Any, kernel: Any, stride: Any, padding: str, dilation: tuple[int, ...]) -> tuple[Any, Any]:
    """x and the padding that "valid" or "same" means; where "same" is not even, x is padded behind first, as in torch."""
    one_of(f"{name}: padding", padding, ("same", "valid"))
    if padding == "valid":
        return x, 0
    if any(s != 1 for s in (stride if isinstance(stride, (tuple, list)) else (stride,))):
        raise SettingError(f"{name}: padding='same' wants stride 1; got {stride!r}")
    totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
    if any(total % 2 for total in totals):
        x = Pad.apply(x, tuple(n for total in reversed(totals) for n in (0, total % 2)))
    return x, tuple(total // 2 for total in totals)


def conv1d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Cross-correlation of x (n, in, length) with kernels weight (out, in / groups, k), plus bias (out,); see `conv2d`.

    >>> hg.functional.conv1d(torch.ones(1, 1, 3), torch.ones(2, 1, 2)).shape
    torch.Size([1, 2, 2])
    """
    return _convolved("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Cross-correlation of images x (n, in, height, width) with kernels weight (out, in / groups, h, w), plus bias (out,).

    `stride`, `padding` (of zeros) and `dilation` are numbers or pairs (vertical, horizontal); padding may be "valid", none, or "same", which
    keeps the sizes at stride 1. With `groups` the channels are cut into as many parts, which do not see each other. The result is (n, out,
    height', width') with height' = (height + 2 padding - dilation (h - 1) - 1) // stride + 1. Raises ShapeError.

    >>> hg.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(2, 1, 2, 2)).shape
    torch.Size([1, 2, 2, 2])
    """
    return _convolved("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def _pools(name: str, x: Any, axes: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> list[tuple[int, ...]]:
    """The windows of a pool, none of which is in the padding alone."""
    sizes = _windows(name, x, axes, kernel, kernel if stride is None else stride, padding, dilation)
    if any(2 * p > k for k, p in zip(sizes[0], sizes[2])):
        raise ShapeError(f"{name}: padding must be at most half of the kernel; got padding {sizes[2]} and kernel {sizes[0]}")
    return sizes


def _largest(name: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    x = array(x)
    sizes = _pools(name, x, axes, kernel, stride, padding, dilation)
    at = PoolArgMax.apply(x, *sizes)
    flat = Gather.apply(Reshape.apply(x, (*x.shape[:2], -1)), Reshape.apply(at, (*at.shape[:2], -1)), -1)
    return Reshape.apply(flat, tuple(at.shape))


def max_pool1d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Any:
    """The largest element of each window of x (n, channels, length); see `max_pool2d`.

    >>> hg.functional.max_pool1d(hg.Variable([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    Variable([[[3., 2.]]])
    """
    return _largest("max_pool1d", 1, x, kernel_size, stride, padding, dilation)


def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1) -> Any:
    """The largest element of each window of images x (n, channels, height, width); `stride` is that of the kernel by default.

    The gradient goes to the largest element, the first of several. Padding never is largest.

    >>> hg.functional.max_pool2d(hg.Variable([[[[1.0, 3.0], [2.0, 0.0]]]]), 2)
    Variable([[[[3.]]]])
    """
    return _largest("max_pool2d", 2, x, kernel_size, stride, padding, dilation)


def _averaged(name: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, count_include_pad: bool) -> Any:
    x = array(x)
    size, step, pad, dilation = _pools(name, x, axes, kernel, stride, padding, 1)
    last = tuple(range(-axes, 0))
    total = Sum.apply(patches(x, size, step, pad, dilation), last)
    if count_include_pad or not any(pad):
        return total / math.prod(size)
    return total / Sum.apply(patches(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), size, step, pad, dilation), last)


def avg_pool1d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True) -> Any:
    """The mean of each window of x (n, channels, length); see `avg_pool2d`.

    >>> hg.functional.avg_pool1d(hg.Variable([[[1.0, 3.0, 2.0, 0.0]]]), 2)
    Variable([[[2., 1.]]])
    """
    return _averaged("avg_pool1d", 1, x, kernel_size, stride, padding, count_include_pad)


def avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, count_include_pad: bool = True) -> Any:
    """The mean of each window of images x (n, channels, height, width); `stride` is that of the kernel by default.

    The zeros of the padding count as elements unless `count_include_pad` is False.

    >>> hg.functional.avg_pool2d(hg.Variable([[[[1.0, 3.0], [2.0, 0.0]]]]), 2)
    Variable([[[[1.5000]]]])
    """
    return _averaged("avg_pool2d", 2, x, kernel_size, stride, padding, count_include_pad)
