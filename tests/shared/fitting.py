"""What tests of `fit` on captured programs share: models, losses and optimizers to combine, and comparisons of trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.engines.engine import LIMIT
from hotgrad.training import engine_choice
from hotgrad.training.captured import Compiled

ENGINES = ["replay", "native"]
EXACT = {"replay"}  # those that without fusing give eager's bits

ROUNDING = 1e-4  # of the largest entry, after several epochs with momentum
BATCH = 8


def shared() -> hg.Sequential:
    layer = hg.Linear(3, 3)
    return hg.Sequential(layer, hg.Tanh(), layer, hg.Linear(3, 2))


def frozen() -> hg.Sequential:
    model = hg.Sequential(hg.Linear(3, 6), hg.ReLU(), hg.Linear(6, 2))
    model[0].freeze()
    return model


def image(x: Any) -> Any:
    return x.reshape(-1, 1, 3, 1).expand((x.shape[0], 1, 3, 3))


MODELS: dict[str, Callable[[], hg.Sequential]] = {
    "relu": lambda: hg.Sequential(hg.Linear(3, 6), hg.ReLU(), hg.Linear(6, 5), hg.ReLU(), hg.Linear(5, 2)),
    "tanh": lambda: hg.Sequential(hg.Linear(3, 6), hg.Tanh(), hg.Linear(6, 2), hg.Tanh()),
    "sigmoid": lambda: hg.Sequential(hg.Linear(3, 6), nn.Sigmoid(), hg.Linear(6, 2)),
    "gelu": lambda: hg.Sequential(hg.Linear(3, 6), nn.GELU(), hg.Linear(6, 2)),
    "softplus": lambda: hg.Sequential(hg.Linear(3, 6), hg.softplus, hg.Linear(6, 2)),
    "dropout": lambda: hg.Sequential(hg.Linear(3, 8), nn.Dropout(0.3), hg.ReLU(), nn.Dropout(0.2), hg.Linear(8, 2)),
    "batchnorm": lambda: hg.Sequential(hg.Linear(3, 6, bias=False), nn.BatchNorm1d(6), hg.ReLU(), hg.Linear(6, 2)),
    "layernorm": lambda: hg.Sequential(hg.Linear(3, 6), nn.LayerNorm(6), hg.Tanh(), hg.Linear(6, 2)),
    "residual": lambda: hg.Sequential(hg.Linear(3, 4), nn.Residual(hg.Sequential(hg.Linear(4, 4), hg.ReLU())), hg.Linear(4, 2)),
    "conv": lambda: hg.Sequential(image, nn.Conv2d(1, 2, 2), hg.Tanh(), nn.Flatten(), hg.Linear(8, 2)),
    "noisy": lambda: hg.Sequential(hg.Linear(3, 6, bias=False), nn.BatchNorm1d(6), hg.ReLU(), nn.Dropout(0.3), hg.Linear(6, 2)),
    "softmax": lambda: hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 2), nn.Softmax()),
    "lazy": lambda: hg.Sequential(hg.Linear(6), hg.Tanh(), hg.Linear(2)),
    "linear": lambda: hg.Sequential(hg.Linear(3, 2)),
    "shared": shared,
    "frozen": frozen,
}


def own_loss(output: Any, target: Any) -> Any:
    return ((output - target) ** 4).mean() + 0.1 * output.abs().mean()


LOSSES: dict[str, Any] = {"own": own_loss, "probabilities": "cross_entropy", "sum": nn.MSE(reduction="sum"), "huber": nn.Huber(0.5)}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: optim.SGD(lr=0.1),
    "momentum": lambda: optim.SGD(lr=0.05, momentum=0.9),
    "nesterov": lambda: optim.SGD(lr=0.05, momentum=0.9, nesterov=True),
    "decay": lambda: optim.SGD(lr=0.05, momentum=0.8, weight_decay=0.02),
    "adam": lambda: optim.Adam(lr=0.01),
    "adam with decay": lambda: optim.Adam(lr=0.01, weight_decay=0.1),
    "adamw": lambda: optim.AdamW(lr=0.01),
    "rmsprop": lambda: optim.RMSprop(lr=0.01),
    "rmsprop, centered": lambda: optim.RMSprop(lr=0.01, centered=True, momentum=0.5),
    "clipped": lambda: optim.SGD(lr=0.1, momentum=0.9, clip_norm=0.05),
    "adam, clipped": lambda: optim.Adam(lr=0.01, clip_norm=0.05),
    "by epoch": lambda: optim.SGD(lr=optim.StepLR(0.1, 1, 0.5)),
    "by step": lambda: optim.Adam(lr=optim.CosineLR(0.05, 20, per="step")),
    "warm": lambda: optim.AdamW(lr=optim.WarmupLR(0.02, 7, per="step")),
    "plateau": lambda: optim.SGD(lr=optim.PlateauLR(0.5, patience=0, factor=0.3)),
    "lbfgs": lambda: optim.LBFGS(lr=0.5),
    "lbfgs, short": lambda: optim.LBFGS(lr=0.1, max_iter=4),
}
WEIGHTS = {
    "rows": lambda rows: {"sample_weight": torch.linspace(0.0, 2.0, rows)},
    "classes": lambda rows: {"class_weight": {0: 0.5, 1: 2.0}},
    "balanced": lambda rows: {"class_weight": "balanced"},
}

COMBINATIONS: list[tuple[str, ...]] = [
    ("relu", "mse", "sgd"), ("relu", "cross_entropy", "momentum"), ("relu", "l1", "adam"), ("relu", "own", "nesterov"),
    ("relu", "cross_entropy", "sgd", "rows"), ("relu", "mse", "clipped"), ("relu", "huber", "rmsprop, centered"),
    ("tanh", "mse", "sgd"), ("tanh", "huber", "adamw"), ("tanh", "mse", "by epoch"), ("tanh", "mse", "lbfgs"), ("tanh", "sum", "adamw"),
    ("sigmoid", "bce_with_logits", "adam"), ("sigmoid", "probabilities", "momentum"), ("sigmoid", "bce_with_logits", "plateau"),
    ("gelu", "cross_entropy", "adamw"), ("gelu", "mse", "by step"), ("softplus", "l1", "rmsprop"), ("softplus", "own", "adam, clipped"),
    ("dropout", "cross_entropy", "sgd"), ("dropout", "mse", "adam"), ("dropout", "cross_entropy", "momentum", "classes"),
    ("batchnorm", "cross_entropy", "sgd"), ("batchnorm", "mse", "adam"), ("batchnorm", "bce_with_logits", "decay"),
    ("layernorm", "cross_entropy", "adam with decay"), ("layernorm", "own", "adam"), ("residual", "cross_entropy", "adam"),
    ("residual", "mse", "warm"), ("conv", "cross_entropy", "momentum"), ("conv", "mse", "adam"), ("noisy", "cross_entropy", "momentum"),
    ("noisy", "cross_entropy", "adam", "balanced"), ("softmax", "mse", "sgd"), ("lazy", "cross_entropy", "adam"),
    ("linear", "mse", "sgd"), ("linear", "cross_entropy", "lbfgs"), ("shared", "cross_entropy", "momentum"), ("shared", "mse", "adam"),
    ("frozen", "cross_entropy", "adam"), ("frozen", "mse", "decay"), ("frozen", "mse", "lbfgs"),
    ("batchnorm", "mse", "lbfgs, short"), ("dropout", "mse", "lbfgs, short"),
]  # fmt: skip
ROUGH = {("frozen", "mse", "lbfgs")}  # in which rounding grows without bound
NAMES = ["/".join(parts) for parts in COMBINATIONS]
DEFAULT = ("noisy", "cross_entropy", "momentum")


def blobs(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(rows) % 2
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)) + labels[:, None], labels


def problem(loss: str, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = blobs(rows)
    one_hot = torch.nn.functional.one_hot(labels, 2).float()
    if loss == "probabilities":
        return x, 0.8 * one_hot + 0.1
    return x, labels if loss == "cross_entropy" else one_hot if loss == "bce_with_logits" else 2 * one_hot - 1


def made(combination: tuple[str, ...] = DEFAULT) -> hg.Sequential:
    model = MODELS[combination[0]]()
    model.loss = LOSSES.get(combination[1], combination[1])
    model.optimizer = OPTIMIZERS[combination[2]]()
    if combination[2].startswith("lbfgs"):
        model.to(torch.float64)  # its line search would make rounding large
    model.reset(0)
    return model


def fit(model: hg.Sequential, engine: str, combination: tuple[str, ...] = DEFAULT, rows: int = 43, epochs: int = 3, **more: Any) -> Any:
    x, y = problem(combination[1], rows)
    given = WEIGHTS[combination[3]](rows) if len(combination) > 3 else {}
    settings = {"batch_size": None if combination[2].startswith("lbfgs") else BATCH, "verbose": 0, **given, **more}
    return model.fit(x, y, epochs=epochs, engine=engine, **settings)


def recorded(monkeypatch: pytest.MonkeyPatch, fuse: bool) -> Iterator[list[Compiled]]:
    found: list[Compiled] = []

    class Recorded(Compiled):
        def start(self, engine: str, _: bool | None = None, limit: float = LIMIT) -> None:
            found.append(self)
            super().start(engine, fuse, limit)

    with monkeypatch.context() as patch:
        patch.setattr(engine_choice, "Compiled", Recorded)
        yield found


def state(model: hg.Sequential) -> dict[str, Any]:
    """All that training changes, flat: tensors and numbers by name."""
    found: dict[str, Any] = {f"model.{name}": t.clone() for name, t in model.state_dict().items()}

    def visit(path: str, thing: Any) -> None:
        if isinstance(thing, dict):
            for key, value in thing.items():
                visit(f"{path}.{key}", value)
        elif isinstance(thing, (list, tuple)):
            for i, value in enumerate(thing):
                visit(f"{path}.{i}", value)
        else:
            found[path] = thing.clone() if isinstance(thing, torch.Tensor) else thing

    visit("optimizer", model.optimizer.state_dict())
    found["generator"] = model.generator.get_state() if model.generator is not None else None
    found["epochs"] = model.epochs_done
    return found


def compare(a: dict[str, Any], b: dict[str, Any], tolerance: float = 0.0) -> None:
    """Fails where `a` differs from `b` by more than the tolerance times the largest entry of the tensor."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        other = b[name]
        if isinstance(value, torch.Tensor) and value.is_floating_point() and tolerance:
            largest = float(other.abs().max())
            assert float((value - other).abs().max()) <= tolerance * largest, f"{name}: {value} in place of {other}"
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other), f"{name}: {value} in place of {other}"
        elif isinstance(value, float) and tolerance:
            assert value == pytest.approx(other, rel=tolerance), name
        else:
            assert value == other, f"{name}: {value} in place of {other}"


def compare_histories(a: Any, b: Any) -> None:
    assert [row.keys() for row in a] == [row.keys() for row in b]
    for row, other in zip(a, b):
        for name, value in row.items():
            assert isinstance(value, (int, float))
            if name != "seconds":
                assert value == pytest.approx(other[name], rel=2e-5), name
