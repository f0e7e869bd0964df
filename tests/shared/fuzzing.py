"""Trainings to draw: everything that `fit` offers, in combination, and what there is to compare afterwards."""

from __future__ import annotations

import contextlib
import copy
import io
import re
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import blobs, own_loss, state
from hypothesis import strategies as st

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.modules.parameters import LazyParameter
from hotgrad.training import captured, eager

F64, F32 = torch.float64, torch.float32

# ------------------------------------------------------------------------------------------------ layers of one's own


class Gain(hg.Module):
    """Parameters in a list, and a running mean that each training step moves."""

    def __init__(self, width: int) -> None:
        self.gains = [hg.Parameter(torch.ones(width)), hg.Parameter(torch.zeros(width))]
        self.register_buffer("mean", torch.zeros(width))

    def initialize(self, generator: torch.Generator | None) -> None:
        for parameter, value in zip(self.gains, (1.0, 0.0)):
            parameter.data.fill_(value)
        self.mean.zero_()

    def forward(self, x: Any) -> Any:
        if self.training:
            with hg.no_grad:
                self.mean *= 0.7
                self.mean += 0.3 * x.mean(0)
        return x * self.gains[0] - self.mean + self.gains[1].tanh()


class Mixture(hg.Module):
    """Two experts in a dict, a gate, dice in between, and room for more."""

    def __init__(self, width: int) -> None:
        self.experts = {"a": hg.Linear(width, width), "b": hg.Linear(width, width, bias=False)}
        self.gate = hg.Linear(width, 2)
        self.more: list[Any] = []

    def forward(self, x: Any) -> Any:
        share = self.gate(x).softmax(-1)
        a = hg.functional.dropout(self.experts["a"](x).tanh(), 0.25, self.training, self.generator)
        out = share[:, :1] * a + share[:, 1:] * self.experts["b"](x)
        for layer in self.more:
            out = layer(out)
        return out


class Attention(hg.Module):
    """The features of a row attend to each other."""

    def __init__(self, width: int) -> None:
        self.query, self.key = hg.Linear(1, 2), hg.Linear(1, 2)

    def forward(self, x: Any) -> Any:
        tokens = x.unsqueeze(-1)
        weights = (self.query(tokens) @ self.key(tokens).mT).softmax(-1)
        return x + (weights @ tokens).reshape(x.shape)


class Cubic(nn.Loss):
    @staticmethod
    def function(output: Any, target: Any, reduction: str) -> Any:
        values = abs(output - target) ** 3
        return values if reduction == "none" else getattr(values, reduction)()


class Tripled(nn.Loss):
    """Another loss three times."""

    def __init__(self, loss: Any) -> None:
        self.loss, self.reduction = loss, getattr(loss, "reduction", "mean")

    def forward(self, output: Any, target: Any) -> Any:
        if not isinstance(self.loss, nn.Loss):
            return self.loss(output, target) * 3.0
        each = copy.copy(self.loss)
        each.reduction = self.reduction
        return each(output, target) * 3.0


def smoothed(output: Any, target: Any) -> Any:
    return hg.functional.cross_entropy(output, target) * 1.5 + 0.01 * (output * output).mean()


class Signs(optim.Optimizer):
    """Steps by a running mean, of bounded length; with settings and state of its own."""

    def __init__(self, params: Any = None, lr: Any = 0.01, beta: float = 0.7, **more: Any) -> None:
        super().__init__(params, lr, beta=beta, **more)

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("mean",)

    def scalars(self, s: Any, count: int) -> dict[str, float]:
        return {"step": s.lr / count**0.5}

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        m = state["mean"] = s.beta * state["mean"] + (1 - s.beta) * g
        return p - s.step * m / (abs(m) + 0.1)


class Halving(optim.Schedule):
    def at(self, count: int) -> float:
        return self.base * 0.5**count


def shared(width: int) -> list[Any]:
    layer = hg.Linear(width, width)
    return [layer, hg.Tanh(), layer]


LAYERS: dict[str, Callable[[int], list[Any]]] = {
    "linear": lambda w: [hg.Linear(w, w)],
    "lazy": lambda w: [hg.Linear(w)],
    "relu": lambda w: [hg.ReLU()],
    "tanh": lambda w: [hg.Tanh()],
    "gelu": lambda w: [nn.GELU()],
    "softmax": lambda w: [nn.Softmax()],
    "function": lambda w: [hg.softplus],
    "dropout": lambda w: [nn.Dropout(0.3)],
    "batchnorm": lambda w: [nn.BatchNorm1d(w)],
    "layernorm": lambda w: [nn.LayerNorm(w)],
    "residual": lambda w: [nn.Residual(hg.Sequential(hg.Linear(w, w), nn.Sigmoid()))],
    "frozen": lambda w: [hg.Linear(w, w).freeze()],
    "shared": shared,
    "gain": lambda w: [Gain(w)],
    "mixture": lambda w: [Mixture(w)],
    "attention": lambda w: [Attention(w)],
}

# ------------------------------------------------------------------------------------------------ losses, optimizers, rates

# By kind of target what losses there are; those without a `reduction` take no weights.
LOSSES: dict[str, dict[str, Callable[[], Any]]] = {
    "labels": {"name": lambda: "cross_entropy", "object": nn.CrossEntropy, "own": lambda: smoothed},
    "probabilities": {"name": lambda: "cross_entropy"},
    "binary": {"bce": lambda: "bce_with_logits", "mse": lambda: nn.MSE()},
    "numbers": {
        "mse": lambda: "mse", "l1": lambda: "l1", "huber": lambda: nn.Huber(0.5), "sum": lambda: nn.MSE(reduction="sum"),
        "own": lambda: own_loss, "own module": Cubic,
    },
    "signs": {"mse": lambda: "mse", "own": lambda: own_loss},
}  # fmt: skip
OPTIMIZERS: dict[str, tuple[Any, float, dict[str, Any]]] = {
    "sgd": (optim.SGD, 0.1, {}),
    "momentum": (optim.SGD, 0.05, {"momentum": 0.9}),
    "nesterov": (optim.SGD, 0.05, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01}),
    "adam": (optim.Adam, 0.01, {}),
    "adam with decay": (optim.Adam, 0.01, {"weight_decay": 0.1}),
    "adamw": (optim.AdamW, 0.02, {"betas": (0.8, 0.95)}),
    "rmsprop": (optim.RMSprop, 0.01, {}),
    "centered": (optim.RMSprop, 0.01, {"centered": True, "momentum": 0.5}),
    "own": (Signs, 0.01, {}),
    "lbfgs": (optim.LBFGS, 0.5, {"max_iter": 3}),
    "strong wolfe": (optim.LBFGS, 1.0, {"max_iter": 2, "line_search_fn": "strong_wolfe"}),
}
FULL = {"lbfgs", "strong wolfe"}
RATES: dict[str, Callable[[float], Any]] = {
    "constant": lambda lr: lr,
    "by epoch": lambda lr: optim.StepLR(lr, 2, 0.5),
    "by step": lambda lr: optim.CosineLR(lr, 7, minimum=lr / 10, per="step"),
    "warm": lambda lr: optim.WarmupLR(optim.StepLR(lr, 3, 0.7, per="step"), 4, per="step"),
    "plateau": lambda lr: optim.PlateauLR(lr, patience=0, factor=0.3, threshold=0.05),
    "own": lambda lr: Halving(lr),
    "wild": lambda lr: optim.WarmupLR(1e18, 40, per="step", start_factor=lr * 1e-18),  # until the loss is no number any more
}
WEIGHTS: dict[str, Callable[[int], dict[str, Any]]] = {
    "none": lambda rows: {},
    "rows": lambda rows: {"sample_weight": torch.linspace(2.0, 0.0, rows) if rows > 1 else torch.ones(1)},
    "classes": lambda rows: {"class_weight": {0: 0.5}},
    "balanced": lambda rows: {"class_weight": "balanced"},
    "both": lambda rows: {"class_weight": [3.0, 1.0], "sample_weight": torch.arange(rows) % 3 + 1.0},
}

# ------------------------------------------------------------------------------------------------ what changes on the way


class Stop(Exception):
    """Raised by a callback."""


def _raise(model: Any) -> None:
    raise Stop


def _replace(kind: type | tuple[type, ...], make: Callable[[Any], Any]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for i, layer in enumerate(model):
            if isinstance(layer, kind):
                model[i] = make(layer)
                return

    return change


def _like(layer: Any) -> Any:
    new = copy.deepcopy(layer)
    for parameter in new.parameters():
        parameter.data.mul_(0.5)
    return new


def _each(kind: type, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda model: [change(module) for module in model.modules() if isinstance(module, kind)] and None


def _buffers(model: Any) -> None:
    for _, buffer in model.named_buffers():
        buffer.mul_(0.5).add_(0.25)


def _written(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def _again(model: Any) -> None:
    model.load_state_dict({name: tensor * 0.8 for name, tensor in model.state_dict().items()})


def _momentum(model: Any) -> None:
    for group in model.optimizer.groups:
        if "momentum" in vars(group.settings):
            group.settings.momentum = 0.3


def _other_loss(model: Any) -> None:
    """The same, one that can be weighted if the one before can, times a number."""
    model.loss = Tripled(model.loss)


def _summed(model: Any) -> None:
    if isinstance(model.loss, nn.Loss):
        model.loss.reduction = "sum"


ACTIONS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda m: None,
    "lr": lambda m: setattr(m.optimizer, "lr", m.optimizer.lr * 0.5),
    "schedule": lambda m: setattr(m.optimizer, "lr", optim.StepLR(0.05, 3, 0.5, per="step")),
    "rate of a group": lambda m: [setattr(group, "rate", 0.003) for group in m.optimizer.groups[-1:]] and None,
    "momentum": _momentum,
    "clip": lambda m: None if m.optimizer.needs_closure else setattr(m.optimizer, "clip_norm", 0.05),
    "freeze": lambda m: m[0].freeze(),
    "unfreeze": lambda m: m.unfreeze(),
    "activation": _replace((hg.ReLU, hg.Tanh, nn.GELU), lambda layer: nn.Sigmoid()),
    "no dropout": _replace(nn.Dropout, lambda layer: hg.Tanh()),
    "other layer": _replace(hg.Linear, _like),
    "dropout": _each(nn.Dropout, lambda layer: setattr(layer, "p", 0.6)),
    "batchnorm": _each(nn.BatchNorm1d, lambda layer: setattr(layer, "momentum", 0.5)),
    "append": lambda m: m.append(hg.Tanh()),
    "append linear": lambda m: m.append(_like(m[-1])) if getattr(m[-1], "in_features", 0) == getattr(m[-1], "out_features", 1) else None,
    "sub-module": _each(Mixture, lambda layer: layer.more.append(_like(layer.experts["a"]))),
    "weights": _written,
    "state": _again,
    "buffers": _buffers,
    "summed": _summed,
    "loss": _other_loss,
    "optimizer": lambda m: setattr(m, "optimizer", optim.Adam(lr=0.02)),
    "generator": lambda m: m.use_generator(torch.Generator().manual_seed(77)),
    "eval": lambda m: m.eval(),
    "predict": lambda m: m.predict(torch.ones(2, 3)),
    "gradients": lambda m: m(torch.ones(3, 3, dtype=next(iter(m.parameters())).dtype)).sum().backward(),
    "optimizer's state": lambda m: m.optimizer.load_state_dict(copy.deepcopy(m.optimizer.state_dict())),
    "end": lambda m: True,
    "raise": _raise,
    "ctrl-c": lambda m: signal.raise_signal(signal.SIGINT),
}
BETWEEN: dict[str, Callable[[Any], Any]] = {
    **{name: action for name, action in ACTIONS.items() if name not in ("raise", "ctrl-c", "end")},
    "reset": lambda m: m.reset(5),
    "float64": lambda m: m.to(F64),
    "copy": lambda m: copy.deepcopy(m),
}

# ------------------------------------------------------------------------------------------------ one training


@dataclass(frozen=True)
class Fit:
    """One call of `fit`."""

    epochs: int = 2
    seed: int | None = 3
    shuffle: bool = True
    verbose: int | bool | str = 0
    validation: bool = False
    weights: str = "none"
    events: tuple[tuple[int, str], ...] = ()  # what a callback does after which epoch
    watched: bool = False  # by a callback that only looks
    stopping: tuple[str, int, bool] | None = None  # monitor, patience, whether the best is restored


@dataclass(frozen=True)
class Case:
    """A model, what it is trained with, and one or two calls of `fit`."""

    layers: tuple[str, ...] = ("tanh",)
    width: int = 4
    outputs: int = 2
    lazy: bool = False
    dtype: torch.dtype = F32
    target: str = "numbers"
    loss: str = "mse"
    optimizer: str = "sgd"
    parameters: str = "none"  # what the optimizer is given
    rate: str = "constant"
    clip: float | None = None
    full: int = 2  # batches
    batch: int = 4  # rows of each
    last: int = 0  # rows of the smaller last one
    fits: tuple[Fit, ...] = (Fit(),)
    between: str = "nothing"
    turns: bool = False  # whether the second runs on eager
    stop_after: int | None = None  # epochs, after which a new model resumes from the file
    calls: str = "real"  # how much one call into an engine does
    block: int = 64  # batches that eager gathers at once

    @property
    def rows(self) -> int:
        return self.full * self.batch + self.last

    def model(self) -> hg.Sequential:
        """Made anew, the same each time."""
        torch.manual_seed(7)
        w = self.width
        enter = hg.Linear(w) if self.lazy else hg.Linear(3, w)
        hidden = [layer for name in self.layers for layer in LAYERS[name](w)]
        model = hg.Sequential(enter, *hidden, hg.Linear(w, self.outputs), loss=LOSSES[self.target][self.loss]())
        model.to(self.dtype)
        model.optimizer = self.made_optimizer(model)
        return model

    def made_optimizer(self, model: hg.Sequential) -> Any:
        kind, lr, settings = OPTIMIZERS[self.optimizer]
        if self.parameters == "name":
            return self.optimizer
        rate = RATES[self.rate](lr)
        more = {**settings, **({} if self.clip is None else {"clip_norm": self.clip})}
        parameters = list(model.parameters())
        if self.parameters == "groups":
            cut = (len(parameters) + 1) // 2
            first = {"params": parameters[:cut], "lr": RATES[self.rate](lr / 2)}
            return kind([first, {"params": parameters[cut:]}], rate, **more)
        return kind(parameters if self.parameters == "all" else None, rate, **more)

    def data(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, labels = blobs(rows)
        x = x.to(self.dtype)
        one_hot = torch.nn.functional.one_hot(labels, 2).to(self.dtype)[:, : self.outputs]
        y = {
            "labels": labels,
            "probabilities": 0.8 * one_hot + 0.1,
            "binary": one_hot,
            "numbers": (x[:, : self.outputs] * 0.7).sin() + 0.1,
            "signs": 2 * one_hot - 1,
        }[self.target]
        return x, y


class Watching:
    """A callback that notes what it sees, and does what was drawn."""

    def __init__(self, events: tuple[tuple[int, str], ...], seen: list[Any]) -> None:
        self.events, self.seen = events, seen

    def __call__(self, model: Any, history: Any) -> bool:
        total = sum(float(p.data.double().sum()) for p in model.parameters())
        self.seen += [len(history), float(model.optimizer.lr), model.epochs_done, total, [m.training for m in model.modules()]]
        found = [ACTIONS[name](model) for epoch, name in self.events if epoch == len(history)]
        return any(value is True for value in found)


@dataclass
class Outcome:
    """What a training left behind, flat, by name."""

    values: dict[str, Any] = field(default_factory=dict)
    engines: list[str] = field(default_factory=list)
    refused: str = ""  # by the engine that was asked for

    def add(self, name: str, thing: Any) -> None:
        if isinstance(thing, dict):
            for key, value in thing.items():
                self.add(f"{name}.{key}", value)
        elif isinstance(thing, (list, tuple)):
            self.values[f"{name}: length"] = len(thing)
            for i, value in enumerate(thing):
                self.add(f"{name}.{i}", value)
        else:
            self.values[name] = thing


def train(case: Case, engine: str, folder: Path | None = None, nudge: int = 0) -> Outcome:
    """Run the case on an engine. `nudge`: move x by a rounding, in a direction of this number."""
    outcome = Outcome()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", hg.EngineWarning)
        patch.setattr(eager, "BLOCK_BATCHES", case.block)
        if case.calls != "real":
            patch.setattr(captured, "SECONDS", {"long": 1e9, "short": 1e-9}[case.calls])
            patch.setattr(captured, "FIRST", {"long": 16, "short": 1}[case.calls])
        model = case.model()
        path = None if folder is None else folder / f"{engine} {len(list(folder.iterdir()))}"
        for number, each in enumerate(case.fits):
            if number:
                try:
                    found = BETWEEN[case.between](model)
                    model = found if case.between == "copy" else model
                except hg.HotgradError as error:  # lazy layers are not sized where the first fit failed
                    outcome.add("between", type(error).__name__)
            if case.stop_after is not None:
                _fit(outcome, "stopped", case, replace(each, epochs=case.stop_after), model, engine, path, nudge)
                model = case.model()
            _fit(outcome, f"fit {number}", case, each, model, "eager" if number and case.turns else engine, path, nudge)
        outcome.add("global generator", torch.get_rng_state())
    return outcome


def _fit(outcome: Outcome, name: str, case: Case, each: Fit, model: Any, engine: str, path: Path | None, nudge: int) -> None:
    x, y = case.data(case.rows)
    if nudge:
        signs = torch.randn(x.shape, generator=torch.Generator().manual_seed(nudge)).sign()
        x = x * (1 + 2 * torch.finfo(x.dtype).eps * signs)
    seen: list[Any] = []
    callbacks: list[Any] = []
    if each.stopping is not None:
        monitor, patience, restore = each.stopping
        callbacks.append(hg.EarlyStopping(monitor, patience, restore_best=restore))
    if each.events or each.watched:
        callbacks.append(Watching(each.events, seen))
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "EarlyStopping.*the layers have changed", RuntimeWarning)
            history = model.fit(
                x, y, each.epochs, None if case.optimizer in FULL else case.batch, seed=each.seed, shuffle=each.shuffle, engine=engine,
                verbose=each.verbose, validation_data=case.data(5) if each.validation else None, callbacks=callbacks,
                checkpoint=path, **WEIGHTS[each.weights](case.rows),
            )  # fmt: skip
        outcome.engines.append(history.engine)
        outcome.add(f"{name}: history", [{key: value for key, value in row.items() if key != "seconds"} for row in history])
    except (Stop, KeyboardInterrupt) as error:  # a second Ctrl-C raises
        outcome.add(f"{name}: raised", repr(error))
    except hg.HotgradError as error:
        if isinstance(error, (hg.CaptureError, hg.EngineError)):
            outcome.refused = outcome.refused or f"{name}: {type(error).__name__}: {error}"
        outcome.add(f"{name}: raised", type(error).__name__)
        if isinstance(error, hg.NonFiniteLossError):
            outcome.add(f"{name}: at", [error.epoch, error.batch, len(error.history)])
    outcome.add(f"{name}: seen", seen)
    outcome.add(f"{name}: printed", re.sub(r"\d+\.\d+ s\b", "", printed.getvalue()))
    outcome.add(f"{name}: modes", [module.training for module in model.modules()])
    outcome.add(f"{name}: frozen", [not parameter.requires_grad for parameter in model.parameters()])
    if model.optimizer is not None and not any(isinstance(p, LazyParameter) for p in model.parameters()):
        found = state(model)
        # a state of zeros is as good as none: which is there once the first epoch has failed depends on the engine
        empty = [
            key for key, value in found.items() if key.startswith("optimizer.state") and isinstance(value, torch.Tensor) and not value.any()
        ]
        outcome.add(name, {key: value for key, value in found.items() if key not in empty})


# ------------------------------------------------------------------------------------------------ drawing them


@st.composite
def fits(draw: st.DrawFn, case: dict[str, Any], first: bool) -> Fit:
    epochs = draw(st.sampled_from([6, 3, 9, 25, 12, 1, 2]))
    calm = draw(st.booleans())  # nothing looks in between, so that epochs may be noted together
    weighted = case["loss"] != "own" and draw(st.booleans())
    labelled = case["target"] in ("labels", "binary", "signs") and case["rows"] > 1
    events: list[tuple[int, str]] = []
    if not calm and case["stop_after"] is None:
        events = draw(st.lists(st.tuples(st.integers(1, epochs), st.sampled_from(sorted(ACTIONS))), max_size=2))
    validation = not calm and draw(st.booleans())
    stopping = None
    if not calm and draw(st.integers(0, 2)) == 0:
        monitors = ["loss", *(["val_loss"] if validation else []), *(["accuracy"] if labelled else [])]
        stopping = draw(st.tuples(st.sampled_from(monitors), st.integers(0, 3), st.booleans()))
    return Fit(
        epochs=epochs,
        seed=draw(st.sampled_from([3, None] if first else [None, 4])),
        shuffle=draw(st.integers(0, 3)) > 0,
        verbose=draw(st.sampled_from([0, 0, 0, 1, 2, True, "auto"])),
        validation=validation,
        weights=draw(st.sampled_from(sorted(WEIGHTS) if labelled else ["none", "rows"])) if weighted else "none",
        events=tuple(events),
        watched=not calm and draw(st.booleans()),
        stopping=stopping,
    )


@st.composite
def cases(draw: st.DrawFn, optimizer: str | None = None, native: bool = False) -> Case:
    """Trainings, with this optimizer; those for the native engine are smaller, since each is compiled, and mostly of float64."""
    target = draw(st.sampled_from(sorted(LOSSES)))
    optimizer = optimizer or draw(st.sampled_from(sorted(OPTIMIZERS)))
    closure = optimizer in FULL
    batch = draw(st.integers(1, 7))
    found: dict[str, Any] = {
        "layers": tuple(draw(st.lists(st.sampled_from(sorted(LAYERS)), max_size=2 if native else 4))),
        "width": draw(st.integers(2, 5)),
        "outputs": 2 if target in ("labels", "probabilities") else draw(st.integers(1, 2)),
        "lazy": draw(st.booleans()),
        "dtype": draw(st.sampled_from([F64, F64, F64, F32] if native else [F32, F64])),
        "target": target,
        "loss": draw(st.sampled_from(sorted(LOSSES[target]))),
        "optimizer": optimizer,
        "batch": batch,
        "full": draw(st.integers(1, 4)),
        "last": draw(st.integers(0, batch - 1)),
        "rate": draw(st.sampled_from(sorted(RATES)[: -1 if draw(st.integers(0, 9)) else None])),
        "clip": draw(st.sampled_from([None, None, 0.1])) if optimizer != "strong wolfe" else None,
        "parameters": draw(st.sampled_from(["none", "all"] if closure else ["none", "all", "groups"])),
        "calls": draw(st.sampled_from(["long", "real", "long", "real", "short"])),
        "block": draw(st.sampled_from([64, 1, 2])),
        "stop_after": draw(st.sampled_from([1, 2, 4])) if draw(st.integers(0, 4)) == 4 else None,
    }
    if optimizer in ("sgd", "adam", "adamw", "rmsprop") and draw(st.integers(0, 4)) == 0:
        found["parameters"], found["rate"], found["clip"] = "name", "constant", None
    about = {**found, "rows": batch * found["full"] + found["last"]}
    made = [draw(fits(about, True))]
    if found["stop_after"] is not None:
        made[0] = replace(made[0], seed=3, epochs=max(made[0].epochs, found["stop_after"]))
    elif draw(st.integers(0, 2)) == 0:
        made.append(draw(fits(about, False)))
        found["between"], found["turns"] = draw(st.sampled_from(sorted(BETWEEN))), draw(st.integers(0, 3)) == 0
    return Case(**found, fits=tuple(made))
