"""Functions of networks, composed from ops: they have no gradient code, and are differentiable to any order.

Inputs are Variables or tensors; without a Variable among them the result is a plain tensor. `reduction` says what a loss does
with its values: "mean" over all elements (over rows for cross_entropy), "sum", or "none" to return them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import finite_number, one_of, whole_number
from hotgrad.core import recompute
from hotgrad.core.arrays import as_tensor
from hotgrad.core.drawing import uniform
from hotgrad.core.explain import describe
from hotgrad.core.modes import state
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import DataError, DtypeError, HotgradError, OperandError, RangeError, SettingError, ShapeError
from hotgrad.ops.activations import gelu
from hotgrad.ops.arithmetic import Abs, AddScaled, Clip, Where
from hotgrad.ops.convolutions import Convolution, PoolArgMax, check_images, patches
from hotgrad.ops.indexing import Gather
from hotgrad.ops.pointwise import Softplus, Sqrt
from hotgrad.ops.reductions import LogSoftmax, Mean, Softmax, Sum
from hotgrad.ops.shaping import Pad, Reshape

__all__ = [
    "avg_pool1d",
    "avg_pool2d",
    "batch_norm",
    "bce_with_logits",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "dropout",
    "gelu",
    "group_norm",
    "huber",
    "l1",
    "layer_norm",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "mse",
    "scaled_dot_product_attention",
]

REDUCTIONS = ("mean", "sum", "none")


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """`x @ weight + bias`; x (..., in), weight (in, out), bias (out,) or None, result (..., out).

    >>> hg.functional.linear(torch.ones(1, 3), torch.ones(3, 2), torch.tensor([0.0, 1.0]))
    tensor([[3., 4.]])
    """
    out = x @ weight
    return out if bias is None else out + bias


# --------------------------------------------------------------------------------------------------------------- losses


def check_reduction(reduction: str) -> str:
    """`reduction` if there is one of that name. Raises SettingError."""
    return one_of("reduction", reduction, REDUCTIONS)


def _reduced(values: Any, reduction: str, output: Any, target: Any) -> Any:
    """The loss from its values; a plain tensor if the caller gave no Variable."""
    if reduction == "mean":
        values = Mean.apply(values)
    elif reduction == "sum":
        values = Sum.apply(values)
    else:
        check_reduction(reduction)
    return values if isinstance(output, Variable) or isinstance(target, Variable) else values.data


def _as_variable(value: Any) -> Any:
    """An output or a target as a Variable, which ops take fastest."""
    if isinstance(value, Variable):
        return value
    if isinstance(value, Tensor) and value.requires_grad:
        raise OperandError(f"a tensor of shape {tuple(value.shape)} requires a torch gradient; wrap it in a Variable, or detach() it")
    return wrap(as_tensor(value), None)


def _pair(loss: str, output: Any, target: Any) -> tuple[Any, Any]:
    """Output and target, of equal shape. Raises ShapeError for others: losses never broadcast."""
    output, target = _as_variable(output), _as_variable(target)
    if output.shape != target.shape:
        raise ShapeError(
            f"{loss}: the output has shape {tuple(output.shape)} and the target {tuple(target.shape)}; they must be equal, "
            f"losses do not broadcast. {remedy(output, target)}"
        )
    return output, target


def remedy(output: Any, target: Any) -> str:
    """What to do where an output and a target that must have equal shapes have not."""
    if output.numel() == target.numel():
        return f"Give target.reshape({', '.join(map(str, output.shape))})"
    if target.ndim == output.ndim - 1 and not target.dtype.is_floating_point:
        return "For labels use cross_entropy, or hg.data.one_hot(labels)"
    return "The last layer must give as many columns as the target has"


def mse(output: Any, target: Any, reduction: str = "mean") -> Any:
    """Squared differences. Output and target of equal shape, else ShapeError.

    >>> hg.functional.mse(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(2.)
    """
    a, b = _pair("mse", output, target)
    return _reduced((a - b) ** 2, reduction, output, target)


def mse_residuals(output: Any, target: Any, reduction: str = "mean", weights: Any = None) -> Any:
    """What `mse` is the sum of squares of: the differences, over the root of their number for "mean", times the roots of the rows' weights.

    Raises SettingError for the reduction "none".

    >>> hg.functional.mse_residuals(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]), "sum")
    Variable([ 0., -2.])
    """
    a, b = _pair("mse", output, target)
    if one_of("reduction", reduction, ("mean", "sum")) == "mean":
        scale = 1 / math.sqrt(max(a.numel(), 1))
        found = (a - b) * scale
    else:
        found = a - b
    if weights is None:
        return found
    return found * Sqrt.apply(weights).reshape((-1, *(1 for _ in range(a.ndim - 1))))


def l1(output: Any, target: Any, reduction: str = "mean") -> Any:
    """Absolute differences. Output and target of equal shape, else ShapeError.

    >>> hg.functional.l1(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(1.)
    """
    a, b = _pair("l1", output, target)
    return _reduced(Abs.apply(a - b), reduction, output, target)


def huber(output: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 for differences up to `delta`, delta (|d| - delta / 2) beyond (Huber 1964). Shapes equal, else ShapeError.

    >>> hg.functional.huber(hg.Variable([0.5, 4.0]), torch.zeros(2), "none")
    Variable([0.1250, 3.5000])
    """
    a, b = _pair("huber", output, target)
    difference = a - b
    near = Clip.apply(difference, -delta, delta)
    return _reduced(near * (difference - 0.5 * near), reduction, output, target)


def cross_entropy(output: Any, target: Any, reduction: str = "mean") -> Any:
    """-log of the probability that softmax over the last axis of `output` (n, classes) gives to each row's target.

    `target`: integer labels (n,), or float probabilities (n, classes), whose cross-entropy with those of the output is taken.
    "mean" averages over rows. Stable for logits of any size. Raises DataError for labels out of range, DtypeError for float
    labels, ShapeError for other shapes.

    >>> hg.functional.cross_entropy(hg.Variable([[0.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 0]))
    Variable(0.3466)
    """
    a, b = _as_variable(output), _as_variable(target)
    values = _chosen(a, b) if b.ndim == 1 and a.ndim == 2 else _expected(a, b)
    if reduction == "none":
        return _reduced(-values.reshape((-1,)), reduction, output, target)
    return -_reduced(values, reduction, output, target)


def _chosen(output: Any, labels: Any) -> Any:
    """The log-probability of each row's label, (n, 1)."""
    if labels.dtype.is_floating_point or labels.dtype is torch.bool:
        raise DtypeError(
            f"cross_entropy: labels must be integers; got {describe(labels.data)}. Give labels.long(), or for one column of 0/1 "
            "targets use bce_with_logits"
        )
    if labels.shape[0] != output.shape[0]:
        raise ShapeError(
            f"cross_entropy: the output has {output.shape[0]} rows and there are {labels.shape[0]} labels; they must be as many"
        )
    try:
        return Gather.apply(LogSoftmax.apply(output, -1), Reshape.apply(labels, (-1, 1)), dim=1)
    except HotgradError:
        check_labels(labels.data, output.shape[1])
        raise


def _expected(output: Any, target: Any) -> Any:
    """The log-probability that each row's target expects, (n, 1)."""
    if output.shape != target.shape or output.ndim != 2:
        raise ShapeError(
            "cross_entropy takes an output (n, classes), and as target integer labels (n,) or probabilities (n, classes); "
            f"got output {tuple(output.shape)} and target {tuple(target.shape)}"
        )
    if not target.dtype.is_floating_point:
        raise DtypeError(f"cross_entropy: probabilities must be floats; got {describe(target.data)}. Give target.float()")
    logs = LogSoftmax.apply(output, -1)
    impossible = Where.apply(logs == -math.inf, target == 0, False)  # and not expected either: it adds nothing
    return Sum.apply(target * Where.apply(impossible, 0.0, logs), -1, True)


def check_labels(labels: Tensor, classes: int, what: str = "cross_entropy") -> None:
    """Raises RangeError, a DataError, unless all `labels` are in 0 .. classes - 1."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise RangeError(
            f"{what}: labels must be from 0 to {classes - 1}, one for each of the output's {classes} columns; "
            f"got {int(labels[first])} in row {first} ({int(wrong.sum())} rows are wrong)"
        )


def bce_with_logits(output: Any, target: Any, reduction: str = "mean") -> Any:
    """Cross-entropy of float targets y in [0, 1] with sigmoid(x) of the logits x, of equal shape: (1 - y) x + log(1 + e^-x).

    Stable for logits of any size. Raises ShapeError, or DtypeError for integer targets.

    >>> hg.functional.bce_with_logits(hg.Variable([0.0, 1000.0]), torch.tensor([0.0, 1.0]))
    Variable(0.3466)
    """
    x, y = _pair("bce_with_logits", output, target)
    if not y.dtype.is_floating_point:
        raise DtypeError(f"bce_with_logits: targets must be floats of 0 and 1; got {describe(y.data)}. Give target.float()")
    # beyond 50, log(1 + e^x) is x in every dtype
    return _reduced((1 - y) * x + Softplus.apply(-x, threshold=50.0), reduction, output, target)


# --------------------------------------------------------------------------------------------------------------- layers


def dropout(x: Any, p: float = 0.5, training: bool = True, generator: torch.Generator | None = None) -> Any:
    """Each element 0 with probability `p`, else divided by 1 - p; `x` itself unless `training` (Srivastava et al. 2014).

    The mask is drawn on the host from `generator`, None for the current one (see `hg.randn`).

    >>> hg.functional.dropout(torch.ones(4), 0.5, generator=torch.Generator().manual_seed(0))
    tensor([0., 2., 0., 0.])
    """
    finite_number("dropout: p", p, 0, 1)
    if not training or p == 0:
        return x
    mask = uniform(tuple(x.shape), generator) >= p
    return Where.apply(mask if x.device == mask.device else mask.to(x.device), x * (1 / (1 - p) if p < 1 else 0.0), 0.0)


def _normalized(x: Any, mean: Any, variance: Any, weight: Any, bias: Any, eps: float) -> Any:
    out = (x - mean) / (variance + eps).sqrt()
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def layer_norm(x: Any, normalized_shape: int | Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """`x` less its mean, over its deviation, each over the last axes, of shape `normalized_shape`; then times `weight`, plus `bias`.

    Ba, Kiros and Hinton 2016. Raises ShapeError if the last axes are others.

    >>> hg.functional.layer_norm(torch.tensor([[1.0, 3.0]]), 2)
    tensor([[-1.0000,  1.0000]])
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ShapeError(f"layer_norm: the last axes must be {shape}; got shape {tuple(x.shape)}")
    axes = tuple(range(-len(shape), 0))
    return _normalized(x, x.mean(axes, True), x.var(axes, correction=0, keepdim=True), weight, bias, eps)


def batch_norm(
    x: Any,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """`x` (n, features, ...) less each feature's mean, over its deviation; then times `weight`, plus `bias`, (features,).

    The statistics are those over rows and all axes after the features.

    With `training` the batch's own statistics are used, and the running ones, if given, move towards them in place by
    `momentum`, the variance as the unbiased one; else the running ones are used. Ioffe and Szegedy 2015, algorithms 1 and 2.
    Raises ShapeError for other shapes, DataError for training on one value a feature.

    >>> hg.functional.batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
    tensor([[-1.0000],
            [ 1.0000]])
    """
    if x.ndim < 2:
        raise ShapeError(f"batch_norm takes (n, features, ...); got shape {tuple(x.shape)}")
    if x.ndim > 2:
        wide = (-1, *(1 for _ in x.shape[2:]))
        weight, bias = (None if p is None else p.reshape(wide) for p in (weight, bias))
    if not training:
        if running_mean is None or running_var is None:
            raise OperandError("batch_norm: outside of training the running mean and variance are needed")
        if state.trace is not None:  # there they are memory that may change, not values
            running_mean, running_var = _as_variable(running_mean), _as_variable(running_var)
        if x.ndim > 2:
            running_mean, running_var = running_mean.reshape(wide), running_var.reshape(wide)
        return _normalized(x, running_mean, running_var, weight, bias, eps)
    axes = (0, *range(2, x.ndim))
    n = x.numel() // max(x.shape[1], 1)
    if n < 2:
        raise DataError(
            "batch_norm: a batch of one row has no deviation to train with; choose a batch_size that does not leave a single row over, or use eval()"
        )
    mean, variance = x.mean(axes), x.var(axes, correction=0)
    for running, batch in ((running_mean, mean), (running_var, variance * (n / (n - 1)))):
        if running is not None:
            _move(running, batch.detach(), momentum)
    if x.ndim > 2:
        mean, variance = mean.reshape(wide), variance.reshape(wide)
    return _normalized(x, mean, variance, weight, bias, eps)


def _move(running: Tensor, towards: Any, by: float) -> None:
    """Bring a buffer nearer to a value by this share of the way, in place; once, where a forward runs again in backward."""
    if recompute.again():
        return
    towards = towards if towards.dtype == running.dtype else towards.to(running.dtype)
    if state.trace is not None:
        state.trace.update(running, AddScaled.apply(running, towards - running, by))
    else:
        running.add_((towards.data if isinstance(towards, Variable) else towards) - running, alpha=by)


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
    x, weight = (a if isinstance(a, (Variable, Tensor)) else as_tensor(a) for a in (x, weight))
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


def _largest(name: str, axes: int, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    x = x if isinstance(x, (Variable, Tensor)) else as_tensor(x)
    sizes = _windows(name, x, axes, kernel, kernel if stride is None else stride, padding, dilation)
    if any(2 * p > k for k, p in zip(sizes[0], sizes[2])):
        raise ShapeError(f"{name}: padding must be at most half of the kernel; got padding {sizes[2]} and kernel {sizes[0]}")
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
    x = x if isinstance(x, (Variable, Tensor)) else as_tensor(x)
    size, step, pad, dilation = _windows(name, x, axes, kernel, kernel if stride is None else stride, padding, 1)
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


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """x (n, channels, ...) normalised over the elements of each of `num_groups` groups of channels, times weight plus bias (channels,).

    >>> hg.functional.group_norm(torch.tensor([[[1.0], [3.0]]]), 1).squeeze()
    tensor([-1.0000,  1.0000])
    """
    if x.ndim < 2 or x.shape[1] % num_groups:
        raise ShapeError(f"group_norm: expected x (n, channels, ...), channels a multiple of {num_groups}; got {tuple(x.shape)}")
    grouped = x.reshape((x.shape[0], num_groups, -1))
    scaled = _normalized(grouped, grouped.mean(-1, True), grouped.var(-1, correction=0, keepdim=True), None, None, eps).reshape(
        tuple(x.shape)
    )
    shape = (-1, *(1 for _ in x.shape[2:]))
    scaled = scaled if weight is None else scaled * weight.reshape(shape)
    return scaled if bias is None else scaled + bias.reshape(shape)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, is_causal: bool = False, scale: float | None = None
) -> Any:
    """softmax(query @ key^T * scale + mask) @ value, for query (..., l, e), key (..., s, e) and value (..., s, v): (..., l, v).

    `attn_mask` (..., l, s): bool, True where a position may be seen, or numbers that are added. `is_causal`: no position sees later ones.
    `scale`: 1 / sqrt(e) by default (Vaswani and others 2017).

    >>> q = torch.ones(1, 2, 4)
    >>> hg.functional.scaled_dot_product_attention(q, q, q).shape
    torch.Size([1, 2, 4])
    """
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        shapes = f"{tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        raise ShapeError(f"scaled_dot_product_attention: expected (..., l, e), (..., s, e) and (..., s, v); got {shapes}")
    scores = (query @ key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        if attn_mask is not None:
            raise SettingError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
        rows, columns = (torch.arange(n, device=scores.device) for n in scores.shape[-2:])
        attn_mask = columns <= rows.unsqueeze(1)
    if attn_mask is not None:
        scores = Where.apply(attn_mask, scores, -math.inf) if attn_mask.dtype is torch.bool else scores + attn_mask
    return Softmax.apply(scores, -1) @ value
