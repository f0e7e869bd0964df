"""A model and its training written plainly, for others to be compared with: lists of tensors, loops over steps and formulas.

Of hotgrad only the ops and `gradients` are used, eagerly. Every layer maps (n, 2) to (n, 2), so that any may stand anywhere.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import hotgrad as hg

F64 = torch.float64


class Refused(Exception):
    """What a SettingError or a FileError is expected for."""


@dataclass(eq=False)
class Cell:
    """A parameter: its value, None while it is not sized; and what an optimizer keeps for it."""

    value: Tensor | None
    frozen: bool = False
    count: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)

    def forget(self) -> None:
        self.count, self.state = 0, {}


@dataclass(eq=False)
class Layer:
    """What it is, its parameters and buffers by name, and layers inside it, None where there may be one."""

    kind: str
    cells: dict[str, Cell] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    inner: dict[str, Layer | None] = field(default_factory=dict)
    training: bool = True

    def walk(self) -> Iterator[Layer]:
        """This layer and those inside, in the order in which a Module lists its own."""
        yield self
        for layer in self.inner.values():
            if layer is not None:
                yield from layer.walk()


def forward(layer: Layer, x: Any, values: dict[Cell, Any], mode: bool | None, generator: torch.Generator | None) -> Any:
    """The layer's output; `values`: the parameters as Variables. `mode`: train or eval, None for that of each layer. In training
    buffers move, and Dropout draws.
    """
    training = layer.training if mode is None else mode
    own = {name: values[cell] for name, cell in layer.cells.items()}
    if layer.kind in ("linear", "lazy"):
        return hg.matmul(x, own["weight"]) + own["bias"]
    if layer.kind == "tanh":
        return hg.tanh(x)
    if layer.kind == "dropout":
        if not training:
            return x
        mask = torch.rand(tuple(x.shape), generator=generator) >= 0.25
        return hg.where(mask, x * (1 / 0.75), 0.0)
    if layer.kind == "batchnorm":
        mean, variance = layer.buffers["running_mean"], layer.buffers["running_var"]
        if training:
            n = x.shape[0]
            centre, spread = x.mean(0), x.var(0, correction=0)
            mean += 0.1 * (plain(centre) - mean)
            variance += 0.1 * (plain(spread) * n / (n - 1) - variance)
            mean, variance = centre, spread
        return (x - mean) / hg.sqrt(variance + 1e-5) * own["weight"] + own["bias"]
    if layer.kind == "running":
        mean = layer.buffers["mean"]
        if training:
            mean *= 0.7
            mean += 0.3 * plain(x).mean(0)
        return x * own["gain"] - mean
    out = x
    for name, inner in layer.inner.items():
        if inner is not None and name == "extra":
            out = out + forward(inner, x, values, mode, generator)
        elif inner is not None:
            out = out + hg.tanh(forward(inner, out, values, mode, generator))
    return out


def plain(x: Any) -> Tensor:
    return x.data.clone() if isinstance(x, hg.Variable) else x


LOSSES: dict[str, Any] = {
    "mse": lambda output, y: ((output - y) ** 2).mean(),
    "own": lambda output, y: 0.5 * ((output - y) ** 2).mean() + 0.1 * output.abs().mean(),
    "cross_entropy": lambda output, y: -(output.log_softmax(1) * torch.nn.functional.one_hot(y, 2).to(F64)).sum(1).mean(),
}


@dataclass
class Rate:
    """A learning rate; with `halved`, by half every two epochs."""

    base: float
    halved: bool = False
    count: int = 0

    @property
    def now(self) -> float:
        return self.base * 0.5 ** (self.count // 2) if self.halved else self.base


@dataclass(eq=False)
class Optimizer:
    """Its kind and settings; `groups` are pairs of parameters and a Rate, none before the first fit unless it was given some."""

    kind: str
    rate: Rate
    momentum: float = 0.0
    eps: float = 1e-8
    given: bool = False
    groups: list[tuple[list[Cell], Rate]] = field(default_factory=list)

    @property
    def lr(self) -> float:
        return (self.groups[0][1] if self.groups else self.rate).now

    def set_lr(self, value: float) -> None:
        self.rate = Rate(value)
        self.groups = [(cells, Rate(value)) for cells, _ in self.groups]

    def rates(self) -> list[Rate]:
        return list({id(rate): rate for _, rate in self.groups}.values())

    def cells(self) -> list[Cell]:
        return [cell for cells, _ in self.groups for cell in cells]

    def restarted(self) -> Optimizer:
        """State and schedules from the start; parameters that were given stay, others are found again."""
        for cell in self.cells():
            cell.forget()
        start = {id(rate): Rate(rate.base, rate.halved) for rate in [self.rate, *self.rates()]}
        groups = [(cells, start[id(rate)]) for cells, rate in self.groups] if self.given else []
        return Optimizer(self.kind, start[id(self.rate)], self.momentum, self.eps, self.given, groups)

    def update(self, cell: Cell, g: Tensor, lr: float) -> None:
        p, s = cell.value, cell.state
        assert p is not None
        cell.count += 1
        if self.kind == "SGD":
            if self.momentum:
                s["velocity"] = g = self.momentum * s.get("velocity", torch.zeros_like(p)) + g
            p -= lr * g
            return
        s["mean"] = 0.9 * s.get("mean", torch.zeros_like(p)) + 0.1 * g
        s["square"] = 0.999 * s.get("square", torch.zeros_like(p)) + 0.001 * g * g
        mean, square = s["mean"] / (1 - 0.9**cell.count), s["square"] / (1 - 0.999**cell.count)
        p -= lr * mean / (square.sqrt() + self.eps)


@dataclass(eq=False)
class Model:
    """Layers in a row with all that belongs to training them."""

    layers: list[Layer]
    loss: str
    optimizer: Optimizer
    generator: torch.Generator | None = None
    epochs_done: int = 0
    training: bool = True
    followed: Optimizer | None = None  # the optimizer that has had these parameters

    def walk(self) -> Iterator[Layer]:
        for layer in self.layers:
            yield from layer.walk()

    def cells(self) -> list[Cell]:
        return [cell for layer in self.walk() for cell in layer.cells.values()]

    def unsized(self) -> bool:
        return any(cell.value is None for cell in self.cells())

    def train(self, mode: bool) -> None:
        self.training = mode
        for layer in self.walk():
            layer.training = mode

    # ---- computing

    def variables(self) -> dict[Cell, Any]:
        return {cell: hg.Variable(cell.value, requires_grad=not cell.frozen) for cell in self.cells()}

    def run(self, x: Any, values: dict[Cell, Any], mode: bool | None) -> Any:
        for layer in self.layers:
            x = forward(layer, x, values, mode, self.generator)
        return x

    def predict(self, x: Tensor) -> Tensor:
        return plain(self.run(x, {cell: cell.value for cell in self.cells()}, False))

    def measured(self, x: Tensor, y: Tensor) -> dict[str, float]:
        output = self.predict(x)
        found = {"loss": float(plain(LOSSES[self.loss](hg.Variable(output), y)))}
        if self.loss == "cross_entropy":
            found["accuracy"] = float((output.argmax(1) == y).double().mean())
        return found

    # ---- training

    def seed(self, seed: int | None) -> None:
        """The generator restarted by a seed; without one kept, or made by a draw from torch's global one."""
        if seed is None and self.generator is not None:
            return
        if seed is None:
            seed = int(torch.randint(2**63 - 1, ()))
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, cell: Cell) -> None:
        """Xavier's uniform first values of a weight."""
        bound = math.sqrt(6 / 4)
        value = torch.empty(2, 2, dtype=F64).uniform_(-bound, bound, generator=self.generator)
        if cell.value is None:
            cell.value = value
        else:
            cell.value.copy_(value)

    def check(self, optimizer: Optimizer) -> None:
        """Raises Refused where there is nothing to train, or where the optimizer's parameters are not the model's."""
        cells = self.cells()
        if all(cell.frozen for cell in cells):
            raise Refused("nothing to train")
        known = optimizer.cells()
        if optimizer.given and any(cell not in known and not cell.frozen for cell in cells):
            raise Refused("was given its parameters")
        if (optimizer.given or self.followed is not optimizer) and any(cell not in cells for cell in known):
            raise Refused("parameters of another model")

    def follow(self) -> None:
        """An optimizer that was given no parameters has those of the model; the state of those that left is forgotten."""
        optimizer = self.optimizer
        if not optimizer.given:
            before = optimizer.cells()
            cells = self.cells()
            for cell in cells:
                if cell not in before:
                    cell.forget()
            optimizer.groups = [(cells, optimizer.groups[0][1] if optimizer.groups else optimizer.rate)]
            self.followed = optimizer

    def fit(self, x: Tensor, y: Tensor, epochs: int, size: int, seed: int | None, shuffle: bool, held_out: Any) -> list[dict[str, float]]:
        self.check(self.optimizer)
        self.seed(seed)
        for cell in self.cells():
            if cell.value is None:
                self.draw(cell)
        self.follow()
        history = []
        for _ in range(epochs):
            row: dict[str, float] = {"epoch": self.epochs_done + 1, "loss": 0.0, "lr": self.optimizer.lr}
            right = 0
            order = torch.randperm(len(x), generator=self.generator) if shuffle else torch.arange(len(x))
            for rows in order.split(size):
                value, output = self.step(x[rows], y[rows])
                row["loss"] += value * len(rows) / len(x)
                right += int((output.argmax(1) == y[rows]).sum()) if self.loss == "cross_entropy" else 0
            if self.loss == "cross_entropy":
                row["accuracy"] = right / len(x)
            self.epochs_done += 1
            for rate in self.optimizer.rates():
                rate.count += 1
            if held_out is not None:
                row.update({f"val_{name}": value for name, value in self.measured(*held_out).items()})
            history.append(row)
        return history

    def step(self, x: Tensor, y: Tensor) -> tuple[float, Tensor]:
        values = self.variables()
        output = self.run(hg.Variable(x), values, True)
        loss = LOSSES[self.loss](output, y)
        work = [(cell, rate.now) for cells, rate in self.optimizer.groups for cell in cells if not cell.frozen]
        gradients = hg.gradients(loss, [values[cell] for cell, _ in work])
        for (cell, lr), g in zip(work, gradients):
            self.optimizer.update(cell, g.data, lr)
        return loss.item(), plain(output)

    def reset(self, seed: int | None) -> None:
        self.seed(seed)
        for layer in self.walk():
            for name, cell in layer.cells.items():
                if name == "weight" and layer.kind in ("linear", "lazy"):
                    if cell.value is not None:
                        self.draw(cell)
                elif cell.value is not None:
                    cell.value.fill_(0.0 if name == "bias" else 1.0)
            for name, buffer in layer.buffers.items():
                buffer.fill_(1.0 if name == "running_var" else 0.0)
        self.optimizer = self.optimizer.restarted()
        self.epochs_done = 0

    # ---- keeping

    def tensors(self) -> list[Tensor]:
        """All parameters, then all buffers."""
        values = [cell.value for cell in self.cells()]
        return [value for value in values if value is not None] + [b for layer in self.walk() for b in layer.buffers.values()]

    def shape(self) -> Any:
        """What a file of parameters and buffers must agree in: where there are any, and of which layers."""

        def parts(layer: Layer, path: str) -> Iterator[tuple[str, str]]:
            if layer.cells:
                yield path, "linear" if layer.kind == "lazy" else layer.kind
            for name, inner in layer.inner.items():
                if inner is not None:
                    yield from parts(inner, f"{path}.{name}")

        return [part for i, layer in enumerate(self.layers) for part in parts(layer, str(i))]

    def saved(self) -> dict[str, Any]:
        """All that training changes."""
        optimizer = self.optimizer
        if optimizer.groups:
            self.follow()
        return {
            "shape": self.shape(),
            "kind": optimizer.kind,
            "tensors": [tensor.clone() for tensor in self.tensors()],
            "groups": [(len(cells), copy.copy(rate)) for cells, rate in optimizer.groups],
            "settings": (optimizer.momentum, optimizer.eps),
            "state": [(cell.count, {name: t.clone() for name, t in cell.state.items()}) for cell in optimizer.cells()],
            "generator": None if self.generator is None else self.generator.get_state(),
            "epochs": self.epochs_done,
        }

    def fits(self, saved: dict[str, Any]) -> bool:
        """Whether it can be loaded: the same layers and kind of optimizer, with as many parameters in each group and rates of one kind."""
        optimizer = self.optimizer
        if saved["shape"] != self.shape() or saved["kind"] != optimizer.kind:
            return False
        groups = optimizer.groups if optimizer.given else [(self.cells(), optimizer.groups[0][1] if optimizer.groups else optimizer.rate)]
        kinds = [(len(cells), rate.halved) for cells, rate in groups]
        return not saved["groups"] or [(number, rate.halved) for number, rate in saved["groups"]] == kinds

    def load(self, saved: dict[str, Any]) -> None:
        for cell in self.cells():
            cell.value = torch.zeros(2, 2, dtype=F64) if cell.value is None else cell.value
        for tensor, value in zip(self.tensors(), saved["tensors"]):
            tensor.copy_(value)
        if not saved["groups"]:
            self.optimizer = self.optimizer.restarted() if self.optimizer.groups else self.optimizer
        else:
            self.follow()
            optimizer = self.optimizer
            optimizer.momentum, optimizer.eps = saved["settings"]
            for (_, rate), (_, kept) in zip(optimizer.groups, saved["groups"]):
                rate.count = kept.count
                if not rate.halved:
                    rate.base = kept.base
            for cell, (count, state) in zip(optimizer.cells(), saved["state"]):
                cell.count, cell.state = count, {name: t.clone() for name, t in state.items()}
        if saved["generator"] is not None:
            self.generator = self.generator or torch.Generator()
            self.generator.set_state(saved["generator"])
        self.epochs_done = saved["epochs"]
