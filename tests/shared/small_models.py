"""What tests of training share: two small models, data for them, and their weights."""

from __future__ import annotations

from typing import Any

import torch

from hotgrad import optim
from hotgrad.modules import BatchNorm1d, Dropout, Linear, ReLU, Tanh
from hotgrad.training import Sequential


def net(loss: Any = "mse", optimizer: Any = "sgd", outputs: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Sequential:
    model = Sequential(Linear(3, 5), Tanh(), Linear(5, outputs), loss=loss, optimizer=optimizer)
    model.to(dtype)
    model.reset(seed)
    return model


def noisy(optimizer: Any = None) -> Sequential:
    """A model that draws while it trains and has buffers."""
    model = Sequential(
        Linear(3, 6),
        BatchNorm1d(6),
        ReLU(),
        Dropout(0.3),
        Linear(6, 2),
        loss="cross_entropy",
        optimizer=optimizer or optim.SGD(lr=0.1, momentum=0.9),
    )
    model.reset(0)
    return model


def blobs(rows: int = 40, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(rows) % 2
    return torch.randn(rows, 3, generator=g, dtype=dtype) + labels[:, None], labels


def weights(model: Sequential) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def problem(loss: str, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = blobs(rows, dtype)
    if loss == "cross_entropy":
        return x, labels
    one_hot = torch.nn.functional.one_hot(labels).to(dtype)
    return x, one_hot if loss == "bce_with_logits" else 2 * one_hot - 1


X, Y = blobs(40)
