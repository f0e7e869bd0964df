"""What torch's functions of networks do on Variables: torch's names, its order of arguments and its layout of weights.

`F.linear(v, weight)`, F being torch's functional module, takes a weight (out, in) as torch does, where `hg.functional.linear` takes
(in, out). Arguments that change what is computed and have no counterpart here are refused.
"""

from __future__ import annotations

from typing import Any

from hotgrad import functional
from hotgrad.core.methods import FUNCTIONS
from hotgrad.errors import OperandError, ShapeError
from hotgrad.ops.selection import embedding as look_up


def _none(function: str, **given: Any) -> None:
    """Raise OperandError for arguments that are given and mean nothing here."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise OperandError(f"torch's {function!r} on a Variable takes no {name}; got {value!r:.60}")


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if bias is not None and tuple(bias.shape) != tuple(weight.shape[:-1]):
        raise ShapeError(
            f"linear: bias must be of shape {tuple(weight.shape[:-1])}, as weight is {tuple(weight.shape)}; got {tuple(bias.shape)}"
        )
    return functional.linear(input, weight.mT if weight.ndim > 1 else weight, bias)


def mse_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None) -> Any:
    _none("mse_loss", size_average=size_average, reduce=reduce, weight=weight)
    return functional.mse(input, target, reduction)


def l1_loss(input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None) -> Any:
    _none("l1_loss", size_average=size_average, reduce=reduce, weight=weight)
    return functional.l1(input, target, reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    _none("huber_loss", weight=weight)
    return functional.huber(input, target, reduction, delta)


def smooth_l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", beta: float = 1.0
) -> Any:
    _none("smooth_l1_loss", size_average=size_average, reduce=reduce)
    return functional.smooth_l1(input, target, reduction, beta)


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    _none("cross_entropy", size_average=size_average, reduce=reduce)
    left_out = None if target.dtype.is_floating_point else ignore_index
    return functional.cross_entropy(input, target, reduction, weight=weight, ignore_index=left_out, label_smoothing=label_smoothing)


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    _none("nll_loss", weight=weight, size_average=size_average, reduce=reduce)
    if ignore_index != -100:
        _none("nll_loss", ignore_index=ignore_index)
    return functional.nll(input, target, reduction)


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    _none("binary_cross_entropy_with_logits", size_average=size_average, reduce=reduce)
    if weight is None:
        return functional.bce_with_logits(input, target, reduction, pos_weight=pos_weight)
    values = functional.bce_with_logits(input, target, "none", pos_weight=pos_weight) * weight
    return values.mean() if reduction == "mean" else values.sum() if functional.check_reduction(reduction) == "sum" else values


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return functional.layer_norm(input, normalized_shape, weight, bias, eps)


def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    return functional.group_norm(input, num_groups, weight, bias, eps)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    _none("dropout", inplace=inplace)
    return functional.dropout(input, p, training)


def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    _none("max_pool1d", ceil_mode=ceil_mode, return_indices=return_indices)
    return functional.max_pool1d(input, kernel_size, stride or None, padding, dilation)


def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    _none("max_pool2d", ceil_mode=ceil_mode, return_indices=return_indices)
    return functional.max_pool2d(input, kernel_size, stride or None, padding, dilation)


def avg_pool1d(
    input: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False, count_include_pad: bool = True
) -> Any:
    _none("avg_pool1d", ceil_mode=ceil_mode)
    return functional.avg_pool1d(input, kernel_size, stride or None, padding, count_include_pad)


def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Any:
    _none("avg_pool2d", ceil_mode=ceil_mode, divisor_override=divisor_override)
    return functional.avg_pool2d(input, kernel_size, stride or None, padding, count_include_pad)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    _none("scaled_dot_product_attention", dropout_p=dropout_p or None, enable_gqa=enable_gqa)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask, is_causal, scale)


def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    _none("embedding", max_norm=max_norm, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse)
    return look_up(input, weight, padding_idx)


FUNCTIONS.update(
    {
        f.__name__: f
        for f in (
            linear, mse_loss, l1_loss, huber_loss, smooth_l1_loss, cross_entropy, nll_loss, binary_cross_entropy_with_logits, layer_norm, group_norm,
            dropout, max_pool1d, max_pool2d, avg_pool1d, avg_pool2d, scaled_dot_product_attention, embedding,
        )
    }
)  # fmt: skip
FUNCTIONS.update(batch_norm=functional.batch_norm, conv1d=functional.conv1d, conv2d=functional.conv2d)
