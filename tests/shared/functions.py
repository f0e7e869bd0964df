"""Forty functions, each written once for Variables and for torch tensors: `m` is hotgrad or torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

_G = torch.Generator().manual_seed(0)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=_G)


A, B, W = _normal(4, 4), _normal(3, 4), _normal(4)
POSITIVE = A @ A.T + torch.eye(4, dtype=torch.float64)
ROWS, CHOSEN = _normal(6, 4), torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1, 0, 2]]
PAIRS = ROWS[:, :2].clone()
V4, V3, M34, M43, S = _normal(4), _normal(3), _normal(3, 4), _normal(4, 3), _normal()
P4 = V4.abs() + 0.5
INDEX = torch.tensor([[2, 0], [1, 3], [0, 0]])


class Function(NamedTuple):
    """`f(m, *args)` at `args`; `scalar`: whether it gives one element."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    scalar: bool = True
    argnums: int | tuple[int, ...] = 0


def _rosenbrock(m: Any, x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def _cross_entropy(m: Any, w: Any) -> Any:
    logits = ROWS @ w
    return (m.logsumexp(logits, 1) - (logits * CHOSEN).sum(1)).mean()


def _mlp(m: Any, p: Any) -> Any:
    return ((m.tanh(ROWS @ p["w"] + p["b"]) @ p["v"]) ** 2).mean()


def _mlp_list(m: Any, layers: Any) -> Any:
    h = ROWS
    for weight, bias in layers:
        h = m.sigmoid(h @ weight + bias)
    return (h - 0.3).square().sum()


def _kepler(m: Any, x: Any) -> Any:
    return x / (x * x).sum() ** 1.5


FUNCTIONS = {
    "Rosenbrock": Function(_rosenbrock, (V4,)),
    "softmax cross-entropy": Function(_cross_entropy, (M43,)),
    "an MLP's loss in a dict": Function(_mlp, ({"w": M43, "b": V3, "v": _normal(3, 2)},)),
    "an MLP's loss in nested lists": Function(_mlp_list, ([(M43, V3), (M34[:, :2], V4[:2])],)),
    "x to the x": Function(lambda m, x: (x**x).sum(), (P4,)),
    "a quadratic form": Function(lambda m, x: x @ POSITIVE @ x + W @ x, (V4,)),
    "an unsymmetric form": Function(lambda m, x: x @ A @ x, (V4,)),
    "a norm": Function(lambda m, x: (x * x).sum().sqrt(), (V4,)),
    "a norm of order 3": Function(lambda m, x: (abs(x) ** 3).sum() ** (1 / 3), (V4,)),
    "logsumexp": Function(lambda m, x: m.logsumexp(x, 0), (V4,)),
    "entropy of a softmax": Function(lambda m, x: -(m.softmax(x, 0) * m.log_softmax(x, 0)).sum(), (V4,)),
    "ignores its second argument": Function(lambda m, x, y: (x**3).sum(), (V4, V3), argnums=(0, 1)),
    "ignores the one that counts": Function(lambda m, x, y: (x**3).sum(), (V4, V3), argnums=1),
    "linear": Function(lambda m, x: (W * x).sum(), (V4,)),
    "linear in one of two": Function(lambda m, x, y: (y * x).sum() + (x**3).sum(), (V4, W), argnums=(1, 0)),
    "the last argument": Function(lambda m, x, y: (x * m.exp(y)).sum(), (V4, W), argnums=-1),
    "bilinear": Function(lambda m, x, y: x @ B @ y, (V3, V4), argnums=(0, 1)),
    "a matrix's trace of a cube": Function(lambda m, x: ((x @ x @ x) * torch.eye(4)).sum(), (A,)),
    "a product": Function(lambda m, x: m.prod(x), (V4,)),
    "cosines": Function(lambda m, x: (m.cos(x) * m.sin(x[::2].sum())).sum(), (V4,)),
    "tanh of tanh": Function(lambda m, x: m.tanh(m.tanh(x) * 2).sum(), (V4,)),
    "a rational function": Function(lambda m, x: ((1 + x) / (2 + x * x)).sum(), (V4,)),
    "erf and log1p": Function(lambda m, x: (m.erf(x) + m.log1p(x * x)).sum(), (V4,)),
    "a variance": Function(lambda m, x: m.var(x, 0) + m.std(x * x, 0), (V4,)),
    "where": Function(lambda m, x: m.where(torch.tensor([True, False, True, True]), x**3, m.exp(x)).sum(), (V4,)),
    "a maximum": Function(lambda m, x: m.maximum(x, x * x).sum(), (V4,)),
    "a clip": Function(lambda m, x: (m.clip(x, -0.5, 0.5) * x * x).sum(), (V4,)),
    "relu": Function(lambda m, x: (m.relu(x - 0.1) ** 3).sum(), (V4,)),
    "softplus": Function(lambda m, x: m.log1p(m.exp(x)).sum(), (V4,)),
    "a cumulative sum": Function(lambda m, x: (m.cumsum(x * x, 0) ** 2).sum(), (V4,)),
    "indices": Function(lambda m, x: (x[INDEX] ** 3).sum() * x[-1], (V4,)),
    "einsum": Function(lambda m, x: m.einsum("ij,kj->ik", x, x * B).sum(), (M34,)),
    "broadcasting": Function(lambda m, x, y: ((x + y[:, None]) ** 3).mean(), (V4, V3), argnums=(0, 1)),
    "a number": Function(lambda m, x: m.exp(x) * x**2, (S,)),
    "vector to vector": Function(lambda m, x: m.tanh(B @ x) * (x * x).sum(), (V4,), scalar=False),
    "Kepler's force": Function(_kepler, (V4,), scalar=False),
    "number to vector": Function(lambda m, x: m.sin(x * V4), (S,), scalar=False),
    "vector to matrix": Function(lambda m, x: x[:, None] * m.exp(x)[None, :], (V4,), scalar=False),
    "matrix to vector": Function(lambda m, x: (x @ V4) ** 2, (M34,), scalar=False),
    "many results of few numbers": Function(lambda m, x: m.sin(PAIRS @ x).reshape(-1, 1) * V4, (V4[:2],), scalar=False),
    "several results": Function(lambda m, x: {"a": x**3, "b": (x[0] * x[1], m.exp(x))}, (V4,), scalar=False),
}
