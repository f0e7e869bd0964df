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

from hotgrad.checks import finite_number, one_of
from hotgrad.core import recompute
from hotgrad.core.arrays import as_tensor
from hotgrad.core.drawing import uniform
from hotgrad.core.explain import describe
from hotgrad.core.modes import state
from hotgrad.core.variable import Variable, wrap
from hotgrad.errors import DataError, DtypeError, HotgradError, OperandError, RangeError, SettingError, ShapeError
from hotgrad.ops.activations import gelu
from hotgrad.ops.arithmetic import Abs, AddScaled, Cast, Clip, Where
from hotgrad.ops.indexing import Gather, Take
from hotgrad.ops.pointwise import Softplus, Sqrt
from hotgrad.ops.reductions import LogSoftmax, Mean, Softmax, Sum
from hotgrad.ops.shaping import Reshape
from hotgrad.ops.windows import avg_pool1d, avg_pool2d, conv1d, conv2d, max_pool1d, max_pool2d

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
    "hinge",
    "huber",
    "l1",
    "layer_norm",
    "linear",
    "max_pool1d",
    "max_pool2d",
    "mse",
    "nll",
    "scaled_dot_product_attention",
    "smooth_l1",
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


def cross_entropy(
    output: Any, target: Any, reduction: str = "mean", *, weight: Any = None, ignore_index: int | None = None, label_smoothing: float = 0.0
) -> Any:
    """-log of the probability that softmax over the classes of `output` (n, classes) gives to each row's target.

    `target`: integer labels (n,), or float probabilities (n, classes), whose cross-entropy with those of the output is taken. Further axes
    follow the classes, (n, classes, ...) and (n, ...), and count as rows. `weight` (classes,): how much each class counts. Rows of the label
    `ignore_index` do not count. `label_smoothing` moves that share of each target to all classes alike (Szegedy and others 2016).
    "mean" averages over the rows that count, by the weights of their labels. Stable for logits of any size. Raises DataError for labels out of range, DtypeError for float
    labels, ShapeError for other shapes.

    >>> hg.functional.cross_entropy(hg.Variable([[0.0, 0.0], [1000.0, 0.0]]), torch.tensor([0, 0]))
    Variable(0.3466)
    """
    a, b = _as_variable(output), _as_variable(target)
    if a.ndim != 2 or weight is not None or ignore_index is not None or label_smoothing:
        return _weighed(
            a, b, reduction, weight, ignore_index, label_smoothing, isinstance(output, Variable) or isinstance(target, Variable)
        )
    values = _chosen(a, b) if b.ndim == 1 and a.ndim == 2 else _expected(a, b)
    if reduction == "none":
        return _reduced(-values.reshape((-1,)), reduction, output, target)
    return -_reduced(values, reduction, output, target)


def _weighed(a: Any, b: Any, reduction: str, weight: Any, ignore_index: int | None, smoothing: float, recorded: bool) -> Any:
    """The cross-entropy of any rank, with weights of classes, rows that do not count, and smoothed targets."""
    finite_number("cross_entropy: label_smoothing", smoothing, 0, 1)
    if a.ndim < 2:
        raise ShapeError(f"cross_entropy takes an output (n, classes, ...); got output {tuple(a.shape)} and target {tuple(b.shape)}")
    axis, classes = 1, a.shape[1]
    logs = LogSoftmax.apply(a, axis)
    shape = (-1, *(1 for _ in range(a.ndim - axis - 1)))
    weights = None if weight is None else Cast.apply(_as_variable(weight), a.dtype, a.device)
    if weights is not None and tuple(weights.shape) != (classes,):
        raise ShapeError(f"cross_entropy: weight must have one element for each of {classes} classes; got shape {tuple(weights.shape)}")
    scaled = logs if weights is None else logs * weights.reshape(shape)
    rows = (*a.shape[:axis], *a.shape[axis + 1 :])
    if b.dtype.is_floating_point:
        if a.shape != b.shape or ignore_index is not None:
            given = f"got output {tuple(a.shape)}, target {tuple(b.shape)} and ignore_index {ignore_index}"
            raise ShapeError(f"cross_entropy: target probabilities have the output's shape, and no row is left out; {given}")
        impossible = Where.apply(scaled == -math.inf, b == 0, False)
        values = -Sum.apply((b * (1 - smoothing) + smoothing / classes) * Where.apply(impossible, 0.0, scaled), axis)
        mean = Sum.apply(values) / max(math.prod(rows), 1)
    else:
        if tuple(b.shape) != rows or b.dtype is torch.bool:
            raise ShapeError(
                f"cross_entropy takes an output (n, classes, ...) with integer labels (n, ...), here {rows}; got {b.dtype} {tuple(b.shape)} for "
                f"output {tuple(a.shape)}"
            )
        counts = None if ignore_index is None else b != ignore_index
        labels = b if counts is None else Where.apply(counts, b, 0)
        each = Gather.apply(logs, labels.unsqueeze(axis), axis).squeeze(axis)
        share = Take.apply(weights, labels, 0) if weights is not None else None
        values = -(each if share is None else each * share) * (1 - smoothing)
        if smoothing:
            values = values - Sum.apply(scaled, axis) * (smoothing / classes)
        if counts is not None:
            values = Where.apply(counts, values, 0.0)
            share = Where.apply(counts, 1.0 if share is None else share, 0.0).to(a.dtype)
        mean = Sum.apply(values) / (max(math.prod(rows), 1) if share is None else Sum.apply(share))
    found = mean if reduction == "mean" else Sum.apply(values) if reduction == "sum" else values
    check_reduction(reduction)
    return found if recorded else found.data


def nll(output: Any, target: Any, reduction: str = "mean") -> Any:
    """Minus the log-probability, given by `output` (n, classes), of each row's label: cross_entropy after a log_softmax.

    >>> hg.functional.nll(torch.tensor([[-1.0, -2.0]]), torch.tensor([1]))
    tensor(2.)
    """
    a, b = _as_variable(output), _as_variable(target)
    if a.ndim != 2 or b.dtype.is_floating_point or tuple(b.shape) != tuple(a.shape[:1]):
        raise ShapeError(
            f"nll takes log-probabilities (n, classes) and integer labels (n,); got {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        )
    return _reduced(-Gather.apply(a, b.reshape(-1, 1), 1).squeeze(1), reduction, output, target)


def smooth_l1(output: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Half the squared differences over `beta` up to `beta`, beyond it linear: `huber` over its delta. L1 for a beta of 0.

    >>> hg.functional.smooth_l1(hg.Variable([1.0, 2.0]), torch.tensor([1.0, 4.0]))
    Variable(0.7500)
    """
    if finite_number("smooth_l1: beta", beta, 0) == 0:
        return l1(output, target, reduction)
    return huber(output, target, reduction, beta) / beta


def hinge(output: Any, target: Any, reduction: str = "mean") -> Any:
    """What 1 - output * target is above 0, for targets -1 and 1 of the output's shape: the loss of support vector machines.

    >>> hg.functional.hinge(hg.Variable([0.5, 2.0]), torch.tensor([1.0, 1.0]))
    Variable(0.2500)
    """
    a, b = _pair("hinge", output, target)
    return _reduced((1 - a * b).relu(), reduction, output, target)


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


def bce_with_logits(output: Any, target: Any, reduction: str = "mean", *, pos_weight: Any = None) -> Any:
    """Cross-entropy of targets y in [0, 1] with sigmoid(x) of the logits x, of equal shape: (1 - y) x + log(1 + e^-x).

    Targets may be floats, bools or integers. `pos_weight`, a number or what broadcasts, is how much more a target of 1 counts than one of 0.
    Stable for logits of any size. Raises ShapeError.

    >>> hg.functional.bce_with_logits(hg.Variable([0.0, 1000.0]), torch.tensor([0.0, 1.0]))
    Variable(0.3466)
    """
    x, y = _pair("bce_with_logits", output, target)
    if not y.dtype.is_floating_point:
        y = y.to(x.dtype)
    if pos_weight is not None:
        more = pos_weight if isinstance(pos_weight, (int, float)) else Cast.apply(_as_variable(pos_weight), x.dtype, x.device)
        more = 1 + (more - 1) * y
        return _reduced((1 - y) * x + Softplus.apply(-x, threshold=50.0) * more, reduction, output, target)
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
    _check_affine("batch_norm", x.shape[1], weight, bias, running_mean, running_var)
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


def _check_affine(name: str, features: int, *given: Any) -> None:
    """Raise ShapeError unless each that is given has one element for each feature: others would broadcast."""
    for parameter in given:
        if parameter is not None and tuple(parameter.shape) != (features,):
            raise ShapeError(f"{name}: expected one element for each of {features} features; got shape {tuple(parameter.shape)}")


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """x (n, channels, ...) normalised over the elements of each of `num_groups` groups of channels, times weight plus bias (channels,).

    >>> hg.functional.group_norm(torch.tensor([[[1.0], [3.0]]]), 1).squeeze()
    tensor([-1.0000,  1.0000])
    """
    if x.ndim < 2 or x.shape[1] % num_groups:
        raise ShapeError(f"group_norm: expected x (n, channels, ...), channels a multiple of {num_groups}; got {tuple(x.shape)}")
    _check_affine("group_norm", x.shape[1], weight, bias)
    grouped = x.reshape((x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups))
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
