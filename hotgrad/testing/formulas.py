"""Mistakes that people make when they derive or write down a rule, op by op: (class, op, what is wrong about it).

For `mutants`. Every one is a rule that some test people would write accepts.
"""

from __future__ import annotations

import math
from typing import Any

import torch

import hotgrad.ops as hg
from hotgrad.ops import CLASSES
from hotgrad.ops.reductions import count, kept

_WRONG = "wrong formula"
_TIES = "ties and kinks"
_OPTION = "option ignored"
_ENDS = "right inside only"
_OTHER = "wrong elements"
Fields = dict[str, Any]


def _one(rule: Any) -> Fields:
    return {"vjps": (rule,)}


def _first(name: str, rule: Any) -> Fields:
    return {"vjps": (rule, *CLASSES[name].vjps[1:])}


def _second(name: str, rule: Any) -> Fields:
    return {"vjps": (CLASSES[name].vjps[0], rule)}


def _right(name: str, operand: int) -> Any:
    """The right rule."""
    return CLASSES[name].vjps[operand]


def _equal(a: Any, out: Any, dim: Any, keepdim: bool) -> Any:
    return a == kept(out, a, dim, keepdim)


def _cat(index: int, g: Any, out: Any, *tensors: Any, dim: int) -> Any:
    """Takes all parts to be as long as its own."""
    axis, own = dim % g.ndim, tensors[index].shape
    if len(own) != g.ndim:
        return 0.0
    start = min(index * own[axis], g.shape[axis] - own[axis])
    return g[(slice(None),) * axis + (slice(start, start + own[axis]),)]


def _put_overwriting(g: Any, out: Any, a: Any, index: Any) -> Any:
    """The last of several gradients of one element wins."""
    zeros = torch.zeros(tuple(a.shape), dtype=g.dtype)
    zeros[index] = g.data if not isinstance(g, torch.Tensor) else g
    return zeros if isinstance(g, torch.Tensor) else g.sum() * 0.0 + zeros


FORMULAS: list[tuple[str, str, Fields]] = [
    (_WRONG, "Mul", _first("Mul", lambda g, out, a, b: g * a)),
    (_WRONG, "Div", _second("Div", lambda g, out, a, b: -g * (a / b))),
    (_WRONG, "Div", _second("Div", lambda g, out, a, b: g * (a / (b * b)))),
    (_WRONG, "Pow", _first("Pow", lambda g, out, a, b: g * a ** (b - 1))),
    (_WRONG, "Pow", _second("Pow", lambda g, out, a, b: g * out)),
    (_WRONG, "Exp", _one(lambda g, out, a: g * a)),
    (_WRONG, "Log", _one(lambda g, out, a: g / (a + 1e-6))),
    (_WRONG, "Log1p", _one(lambda g, out, a: g / a)),
    (_WRONG, "Expm1", _one(lambda g, out, a: g * out)),
    (_WRONG, "Sqrt", _one(lambda g, out, a: g / out)),
    (_WRONG, "Square", _one(lambda g, out, a: g * a)),
    (_WRONG, "Reciprocal", _one(lambda g, out, a: -g * out)),
    (_WRONG, "Cos", _one(lambda g, out, a: g * a.sin())),
    (_WRONG, "Tan", _one(lambda g, out, a: g * (1 + a * a))),
    (_WRONG, "Tanh", _one(lambda g, out, a: g * (1 - out))),
    (_WRONG, "Sigmoid", _one(lambda g, out, a: g * out * (1 + out))),
    (_WRONG, "Erf", _one(lambda g, out, a: g * (-a * a).exp())),
    (_WRONG, "Softplus", _one(lambda g, out, a, beta, threshold: g * hg.tanh(a * beta))),
    (_WRONG, "TanhGrad", _second("TanhGrad", lambda h, res, g, out: -(h * g * out))),
    (_WRONG, "MatMul", _first("MatMul", lambda g, out, a, b: g @ b if b.ndim > 1 and b.shape[-1] == b.shape[-2] else _right("MatMul", 0)(g, out, a, b))),
    (_WRONG, "Softmax", _one(lambda g, out, a, dim: out * g)),
    (_WRONG, "Softmax", _one(lambda g, out, a, dim: out * (g - g.mean(dim, True)))),
    (_WRONG, "LogSoftmax", _one(lambda g, out, a, dim: g - out.exp() * g)),
    (_WRONG, "LogSumExp", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim) * (a - kept(out, a, dim, keepdim)))),
    (_WRONG, "Var", _one(lambda g, out, a, dim, correction, keepdim: kept(g, a, dim, keepdim) * a * 2 / max(count(a, dim) - correction, 1e-9))),
    (_WRONG, "Norm", _one(lambda g, out, a, p, dim, keepdim: kept(g, a, dim, keepdim) * a / kept(hg.where(_data(out) == 0, 1.0, out), a, dim, keepdim))),
    (_WRONG, "Prod", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim) * kept(out, a, dim, keepdim))),
    ("wrong count", "Mean", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim).expand(tuple(a.shape)) / max(a.numel(), 1))),
    ("wrong count", "Mean", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim).expand(tuple(a.shape)))),
    ("wrong count", "Mean", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim).expand(tuple(a.shape)) / (a.shape[0] if a.ndim else 1))),
    ("wrong count", "Var", _one(lambda g, out, a, dim, correction, keepdim: _right("Var", 0)(g, out, a, dim, 1, keepdim))),
    ("wrong count", "Std", _one(lambda g, out, a, dim, correction, keepdim: _right("Std", 0)(g, out, a, dim, 0, keepdim))),
    ("wrong count", "Sum", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim).expand(tuple(a.shape)) / (1 + len(a.shape) // 3))),
    (_TIES, "ReLU", _one(lambda g, out, a: hg.where(_data(a) >= 0, g, 0.0))),
    (_TIES, "ReLU", _one(lambda g, out, a: g * (_data(a) > 0))),
    (_TIES, "Abs", _one(lambda g, out, a: hg.where(_data(a) >= 0, g, -g))),
    (_TIES, "Clip", _one(lambda g, out, a, min, max: hg.where((_data(a) > (-math.inf if min is None else min)) & (_data(a) < (math.inf if max is None else max)), g, 0.0))),
    (_TIES, "Clip", _one(lambda g, out, a, min, max: g if min is None else hg.where(_data(a) >= min, g, 0.0))),
    (_TIES, "Maximum", {"vjps": (lambda g, out, a, b: hg.where(_data(a) >= _data(b), g, 0.0), lambda g, out, a, b: hg.where(_data(b) > _data(a), g, 0.0))}),
    (_TIES, "Minimum", {"vjps": (lambda g, out, a, b: hg.where(_data(a) <= _data(b), g, 0.0), lambda g, out, a, b: hg.where(_data(b) <= _data(a), g, 0.0))}),
    (_TIES, "Maximum", {"vjps": (lambda g, out, a, b: g * (_data(a) > _data(b)), lambda g, out, a, b: g * (_data(b) > _data(a)))}),
    (_TIES, "Amax", _one(lambda g, out, a, dim, keepdim: hg.where(_data(_equal(a, out, dim, keepdim)), kept(g, a, dim, keepdim), 0.0))),
    (_TIES, "Amin", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim) * _data(_equal(a, out, dim, keepdim)))),
    (_TIES, "Prod", _one(lambda g, out, a, dim, keepdim: kept(g * out, a, dim, keepdim) / a)),
    (_TIES, "Where", {"vjps": (None, lambda g, out, condition, a, b: g * _data(condition), lambda g, out, condition, a, b: g * ~_data(condition))}),
    (_TIES, "Pow", _first("Pow", lambda g, out, a, b: g * out * b / a)),
    (_TIES, "Pow", _second("Pow", lambda g, out, a, b: g * out * (a if not isinstance(a, (int, float)) else torch.tensor(float(a))).log())),
    (_OPTION, "Sum", _one(lambda g, out, a, dim, keepdim: (kept(g, a, dim, keepdim) if dim != -1 else kept(g, a, dim, keepdim) * 0.5).expand(tuple(a.shape)))),
    (_OPTION, "Softmax", _one(lambda g, out, a, dim: out * (g - (g * out).sum(-1, True)))),
    (_OPTION, "LogSoftmax", _one(lambda g, out, a, dim: g - out.exp() * g.sum(-1, True))),
    (_OPTION, "Cumsum", _one(lambda g, out, a, dim: g.flip(0).cumsum(0).flip(0) if a.ndim else g)),
    (_OPTION, "Softplus", _one(lambda g, out, a, beta, threshold: g * hg.sigmoid(a))),
    (_OPTION, "Norm", _one(lambda g, out, a, p, dim, keepdim: _right("Norm", 0)(g, out, a, 2.0 if p == 3.0 else p, dim, keepdim))),
    (_OPTION, "Flip", _one(lambda g, out, a, dims: g.flip((0,)) if dims else g)),
    (_OPTION, "Unfold", _one(lambda g, out, a, dimension, size, step: CLASSES["Fold"].apply(g, shape=tuple(a.shape), dimension=dimension % len(a.shape), size=size, step=1))),
    (_OTHER, "Cumsum", _one(lambda g, out, a, dim: g.cumsum(dim) if a.ndim else g)),
    (_OTHER, "Flip", _one(lambda g, out, a, dims: g)),
    (_OTHER, "Permute", _one(lambda g, out, a, dims: g.permute(dims) if tuple(g.permute(dims).shape) == tuple(a.shape) else _right("Permute", 0)(g, out, a, dims))),
    (_OTHER, "Reshape", _one(lambda g, out, a, shape: g.mT.reshape(tuple(a.shape)) if g.ndim > 1 else g.reshape(tuple(a.shape)))),
    (_OTHER, "Pad", _one(lambda g, out, a, pad, mode, value: hg.pad(g, tuple(-n for pair in zip(pad[1::2], pad[::2]) for n in pair)))),
    (_OTHER, "GetItem", _one(_put_overwriting)),
    (_OTHER, "Cat", {"vjp": staticmethod(_cat)}),
    (_OTHER, "Stack", {"vjp": staticmethod(lambda index, g, out, *tensors, dim: g[(slice(None),) * (dim % g.ndim) + (0,)])}),
    (_OTHER, "Gather", _first("Gather", lambda g, out, a, index, dim: CLASSES["ScatterAdd"].apply(g, index * 0, shape=tuple(a.shape), dim=dim))),
    (_ENDS, "MatMul", _second("MatMul", lambda g, out, a, b: a.mT @ g if a.ndim == b.ndim == 2 else _right("MatMul", 1)(g, out, a, b) * 0.5)),
    (_ENDS, "Tanh", _one(lambda g, out, a: g * (1 - out * out) * hg.where(_data(out).abs() > 0.99, 0.0, 1.0))),
    (_ENDS, "Softplus", _one(lambda g, out, a, beta, threshold: g * (a * beta).exp() / (1 + (a * beta).exp()))),
    (_ENDS, "Sigmoid", _one(lambda g, out, a: g * (-a).exp() / ((1 + (-a).exp()) ** 2))),
    (_ENDS, "LogSumExp", _one(lambda g, out, a, dim, keepdim: kept(g, a, dim, keepdim) * a.exp() / a.exp().sum(dim, True))),
    (_ENDS, "Std", _one(lambda g, out, a, dim, correction, keepdim: kept(g / out, a, dim, keepdim) * (a - a.mean(dim, True)) / max(count(a, dim) - correction, 0))),
]  # fmt: skip


def _data(x: Any) -> Any:
    """The tensor of a Variable."""
    return x if isinstance(x, torch.Tensor) else x.data
