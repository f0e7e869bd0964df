"""Training steps that a callback changes, or that hotgrad itself moves: each gives a model, the callback and settings of `fit`."""

from __future__ import annotations

import argparse
import functools
import os
import random
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch

import hotgrad as hg

Step = tuple[hg.Sequential, Any, dict[str, Any]]
F, nn, optim = hg.functional, hg.nn, hg.optim
Args = argparse.Namespace


def net(*middle: Any, optimizer: Any = None, loss: Any = "cross_entropy") -> hg.Sequential:
    torch.manual_seed(0)
    return hg.Sequential(hg.Linear(3, 4), *middle, hg.Linear(4, 2), optimizer=optimizer or optim.SGD(lr=0.1), loss=loss)


def grows(args: Any) -> Callable[[Any, Any], None]:
    return lambda m, h: setattr(args, "k", 1.0 + len(h))


def layer(forward: Callable[[Any, Any], Any], **settings: Any) -> Callable[[], Step]:
    """A layer h -> forward(h, k), where k grows by 1 after each epoch."""

    def made() -> Step:
        args = Args(k=1.0)
        return net(lambda h: forward(h, args.k)), grows(args), settings

    return made


def output(use: Callable[[Any, Any], Any], make: Callable[[float], Any] = lambda k: k) -> Callable[[], Step]:
    """A loss of use(output, make(k)), where k grows by 1 after each epoch."""

    def made() -> Step:
        args = Args(k=make(1.0))
        model = net(hg.Tanh(), loss=lambda o, t: F.cross_entropy(use(o, args.k), t))
        return model, lambda m, h: setattr(args, "k", make(1.0 + len(h))), {}

    return made


def changed(change: Callable[[Any, int], Any], *middle: Callable[[], Any], optimizer: Any = None, loss: Any = None) -> Callable[[], Step]:
    """A model of hotgrad's own, and what a callback does to it after each epoch."""

    def made() -> Step:
        model = net(
            *(make() for make in middle or (hg.Tanh,)), optimizer=optimizer and optimizer(), loss=loss() if loss else "cross_entropy"
        )
        return model, lambda m, h: change(m, len(h)), {}

    return made


def without_gradient(h: Any, k: float) -> Any:
    if k > 2.5:
        with hg.no_grad():
            return h.tanh()
    return h.tanh()


def deeper(h: Any, k: float) -> Any:
    for _ in range(int(k)):
        h = (h * 1.1).tanh()
    return h


def own_op(rule: Callable[[Any, Any], Any], forward: Callable[[Any, Any], Any]) -> Callable[[], Step]:
    def made() -> Step:
        args = Args(k=1.0)
        members = {"forward": staticmethod(lambda a: forward(a, args.k)), "vjps": (lambda g, out, a: rule(g, args.k),)}
        op = type("Stepped", (hg.Primitive,), members, register=False)  # type: ignore[call-overload]
        return net(op.apply), grows(args), {}

    return made


def two_own_ops() -> Step:
    args = Args(k=1.0)
    rules: Any = {"vjps": (lambda g, out, a: g,)}
    first = type("First", (hg.Primitive,), {"forward": staticmethod(lambda a: a * 2.0), **rules}, register=False)  # type: ignore[call-overload]
    second = type("Second", (hg.Primitive,), {"forward": staticmethod(lambda a: a * args.k), **rules}, register=False)  # type: ignore[call-overload]
    return net(first.apply, second.apply), grows(args), {}


def own_op_that_asks_the_environment() -> Step:
    os.environ["STALE_STEP"] = "1.0"
    members = {"forward": staticmethod(lambda a: a * float(os.getenv("STALE_STEP", ""))), "vjps": (lambda g, out, a: g,)}
    op = type("Asking", (hg.Primitive,), members, register=False)  # type: ignore[call-overload]
    return net(op.apply), lambda m, h: os.environ.__setitem__("STALE_STEP", str(1.0 + len(h))), {}


def own_rule(rule: Callable[..., Any], lr: Any = 0.05) -> Callable[[], Step]:
    def made() -> Step:
        args = Args(k=1.0)

        class Own(optim.Optimizer):
            def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
                return rule(self, p, g, s, args.k)

        return net(hg.Tanh(), optimizer=Own(lr=lr() if callable(lr) else lr)), grows(args), {}

    return made


def weights(write: Callable[[list[Any], Any, int], Any], use: Callable[[Any, Any], Any] = lambda o, w: o * w) -> Callable[[], Step]:
    """A tensor in the loss that is written to, past torch too, or replaced."""

    def made() -> Step:
        held = [torch.tensor([1.0, 2.0])]
        memory = held[0].numpy()
        model = net(hg.Tanh(), loss=lambda o, t: F.cross_entropy(use(o, held[0]), t))
        return model, lambda m, h: write(held, memory, len(h)), {}

    return made


def told(loss: Callable[[Any, Any], Any], change: Any = None, optimizer: Any = None, **settings: Any) -> Callable[[], Step]:
    """A loss times loss(model, epochs seen by a callback), which reads what hotgrad moves."""

    def made() -> Step:
        seen: list[Any] = []
        model = net(hg.Tanh(), optimizer=optimizer and optimizer())
        model.loss = lambda o, t: F.cross_entropy(o, t) * loss(model, seen)

        def callback(m: Any, h: Any) -> None:
            seen.append(h)
            if change is not None:
                change(m, len(h))

        return model, callback if change is not None or "seen" in loss.__code__.co_varnames[1:2] else None, settings

    return made


class Decaying(optim.Schedule):
    def at(self, count: int) -> float:
        return float(self.base * 0.9**count)


class Drawing(optim.Schedule):
    """The same for the same count."""

    def at(self, count: int) -> float:
        return self.base * (0.5 + random.Random(count).random())


class DecayingLr(optim.Schedule):
    @property
    def lr(self) -> float:
        return self.base * 0.9**self.count  # type: ignore[no-any-return]


def scheduled(kind: Any) -> Callable[[], Step]:
    def made() -> Step:
        schedule = kind()
        return net(lambda h: h * (1 + schedule.lr), optimizer=optim.SGD(lr=schedule)), None, {}

    return made


class Remembering(hg.Module):
    """Computes what it needs at its first call."""

    def __init__(self) -> None:
        self.factor: float | None = None

    def forward(self, h: Any) -> Any:
        if self.factor is None:
            self.factor = 3.0
        return h * self.factor


def replaced_forward() -> Step:
    args = Args(k=1.0)
    model = net(hg.Tanh())
    model[1].forward = lambda h: h * args.k
    return model, grows(args), {}


def weighted() -> Step:
    args = Args(k=1.0)
    return net(lambda h: h * args.k), grows(args), {"sample_weight": torch.linspace(0.1, 1, 14)}


def validated() -> Step:
    args = Args(k=1.0)
    rows = torch.randn(14, 3, generator=torch.Generator().manual_seed(0)), torch.randint(0, 2, (14,))
    rows = rows[0], torch.arange(14) % 2
    return net(lambda h: h * args.k), grows(args), {"validation_data": rows}


def double() -> Step:
    args = Args(k=1.0)
    rows = torch.randn(14, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return net(lambda h: h * (args.k / 3)).to(torch.float64), grows(args), {"x": rows}


def settings_of(name: str, value: Callable[[int], Any]) -> Callable[[Any, int], None]:
    return lambda m, n: setattr(m.optimizer.groups[0].settings, name, value(n))


def warmup() -> Any:
    return optim.Adam(lr=optim.WarmupLR(0.1, 7, per="step"))


class Lion(optim.Optimizer):
    """Reads its state before and after it sets it."""

    def __init__(self, params: Any = None, lr: float = 0.01, b1: float = 0.9, b2: float = 0.99) -> None:
        super().__init__(params, lr, b1=b1, b2=b2)

    def keeps(self, s: Any) -> tuple[str, ...]:
        return ("m",)

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        u = (s.b1 * state["m"] + (1 - s.b1) * g).sign()
        state["m"] = s.b2 * state["m"] + (1 - s.b2) * g
        return p - s.lr * (u + 0.1 * p)


def cache_cleared(clears: int) -> Callable[[], Step]:
    """The number in a cache stays when it changes, until the cache is cleared."""

    def made() -> Step:
        base = [1.0]

        @functools.lru_cache(None)
        def scale(n: int) -> torch.Tensor:
            return torch.arange(n, dtype=torch.float32) / n * base[0] + 1

        def callback(m: Any, h: Any) -> None:
            if len(h) == 2:
                base[0] = 3.0
            if len(h) == clears:
                scale.cache_clear()

        return net(lambda h: h * scale(4)), callback, {}

    return made


class Masked(hg.Module):
    def __init__(self) -> None:
        self.base = 0.5

    @functools.cached_property
    def mask(self) -> torch.Tensor:
        return torch.tensor([1.0, 0.0, self.base, 1.0])

    def forward(self, h: Any) -> Any:
        return h * self.mask


class Frozen(hg.Module):
    """Keeps its BatchNorm in eval mode, as each forward says again."""

    def __init__(self) -> None:
        self.norm = nn.BatchNorm1d(4)

    def forward(self, h: Any) -> Any:
        self.norm.eval()
        return self.norm(h)


def rebound() -> Step:
    """A teacher whose Parameters are given other data after each epoch."""
    torch.manual_seed(1)
    teacher = hg.Linear(3, 2).freeze()
    model = net(hg.Tanh())
    rows = torch.randn(14, 3, generator=torch.Generator().manual_seed(0))

    def loss(o: Any, t: Any) -> Any:
        return F.cross_entropy(o, t) + (teacher.weight * teacher.bias).sum() * o.mean()

    model.loss = loss

    def callback(m: Any, h: Any) -> None:
        for parameter in teacher.parameters():
            parameter.data = parameter.data * 0.9 + 0.1

    return model, callback, {"x": rows}


def property_cleared(m: Any, n: int) -> None:
    if n == 2:
        del m[1].mask
        m[1].base = 2.0


STEPS: dict[str, Callable[[], Step]] = {
    "a detach that comes": layer(lambda h, k: (h.detach() if k > 2.5 else h) * 2),
    "a detach in a sum": layer(lambda h, k: h.detach() * 2 + h if k > 2.5 else h * 2 + h),
    "no_grad that comes": layer(without_gradient),
    "a loop that grows": layer(deeper),
    "own op, its rule": own_op(lambda g, k: g * k, lambda a, k: a * 1.0),
    "own op, its forward": own_op(lambda g, k: g, lambda a, k: a * k),
    "own ops, the second's forward": two_own_ops,
    "own op, the environment": own_op_that_asks_the_environment,
    "own optimizer, a number": own_rule(lambda self, p, g, s, k: p - s.lr * k * g),
    "own optimizer, its lr": own_rule(lambda self, p, g, s, k: p - self.lr * 2 * g, lambda: optim.WarmupLR(0.1, 5, per="step")),
    "own optimizer, its count": own_rule(lambda self, p, g, s, k: p - s.lr / (1 + self.groups[0].slots[0].count) * g),
    "frozen": changed(lambda m, n: m[0].freeze() if n == 2 else None),
    "frozen and back": changed(lambda m, n: m[0].freeze() if n % 2 else m[0].unfreeze()),
    "another layer": changed(lambda m, n: m.__setitem__(1, nn.ReLU() if n % 2 else hg.Tanh())),
    "other data": changed(lambda m, n: setattr(m[0].weight, "data", m[0].weight.data * 0.5)),
    "Dropout's p": changed(lambda m, n: setattr(m[1], "p", 0.1 * n), lambda: nn.Dropout(0.1)),
    "BatchNorm's momentum": changed(lambda m, n: setattr(m[1], "momentum", 0.1 * n), lambda: nn.BatchNorm1d(4)),
    "BatchNorm's eps": changed(lambda m, n: setattr(m[1], "eps", 0.1 * n), lambda: nn.BatchNorm1d(4)),
    "label smoothing": changed(lambda m, n: setattr(m.loss, "label_smoothing", 0.1 * n), loss=nn.CrossEntropy),
    "reduction": changed(lambda m, n: setattr(m.loss, "reduction", "sum") if n == 2 else None, loss=nn.CrossEntropy),
    "momentum": changed(settings_of("momentum", lambda n: 0.5 + 0.1 * n), optimizer=lambda: optim.SGD(lr=0.1, momentum=0.5)),
    "weight decay": changed(settings_of("weight_decay", lambda n: 0.1 * n), optimizer=lambda: optim.AdamW(lr=0.1)),
    "betas": changed(settings_of("betas", lambda n: (0.9 - 0.1 * n, 0.99)), optimizer=lambda: optim.Adam(lr=0.1)),
    "clip_norm": changed(lambda m, n: setattr(m.optimizer, "clip_norm", 1 / n), optimizer=lambda: optim.SGD(lr=0.1, clip_norm=1.0)),
    "another schedule": changed(lambda m, n: setattr(m.optimizer, "lr", optim.StepLR(0.1, 1, 0.5, per="step")) if n == 2 else None),
    "lr": changed(lambda m, n: setattr(m.optimizer, "lr", 0.1 / n)),
    "a tensor replaced": weights(lambda held, memory, n: held.__setitem__(0, torch.tensor([1.0 + n, 2.0]))),
    "a tensor replaced and back": weights(lambda held, memory, n: held.append(held.pop(0)) or held.insert(0, torch.ones(2) * n)),
    "a tensor replaced, then written to": weights(
        lambda held, memory, n: held.__setitem__(0, torch.tensor([3.0, 1.0])) if n == 1 else held[0].add_(1.0)
    ),
    "a tensor written to": weights(lambda held, memory, n: held[0].add_(1.0)),
    "a tensor written to by numpy": weights(lambda held, memory, n: np.add(memory, 1.0, out=memory)),
    "a tensor written to through data": weights(lambda held, memory, n: held[0].data.add_(1.0)),
    "a folded constant": weights(lambda held, memory, n: np.add(memory, 0.1, out=memory), lambda o, w: o * (hg.Variable(w) * 3 + 1).exp()),
    **{f"a number, {name}": output(lambda o, k: o * k, make) for name, make in {
        "int": int, "float64": np.float64, "float32": np.float32, "int64": np.int64, "0-d tensor": torch.tensor, "Variable": hg.Variable,
        "1-d tensor": lambda k: torch.tensor([k]), "array": lambda k: np.array([k, 1.0]), "thirds": lambda k: k / 3,
        "negative": lambda k: -k, "zero first": lambda k: k - 1.0, "minus zero": lambda k: -0.0 if k > 2 else 0.0,
        "int and float": lambda k: int(k) if k == 2 else k, "bool": lambda k: k > 2, "float of a Fraction": lambda k: float(Fraction(k)),
    }.items()},
    **{f"a use, {name}": output(use) for name, use in {
        "power": lambda o, k: (o * o + 1) ** k, "base": lambda o, k: k**o, "minuend": lambda o, k: k - o, "divisor": lambda o, k: o / k,
        "dividend": lambda o, k: k / (o * o + 1), "comparison": lambda o, k: hg.where(o > k * 0.1, o, o * 2),
        "choice": lambda o, k: hg.where(o > 0, o, k), "clamp": lambda o, k: o.clip(-k * 0.1, k * 0.1),
        "maximum": lambda o, k: hg.maximum(o, k * 0.1), "torch.full": lambda o, k: o * torch.full((2,), k),
        "torch.tensor": lambda o, k: o * torch.tensor(k), "smoothing": lambda o, k: hg.softplus(o * k),
        "sum": lambda o, k: o + sum([k] * int(k)), "expression": lambda o, k: o * (k**2 + 1) / (k + 3),
        "index": lambda o, k: o[:, [0, 1] if k < 2.5 else [1, 0]], "summand": lambda o, k: o + k,
    }.items()},
    "epochs_done": told(lambda m, _: 1 + m.epochs_done),
    "lr in the loss": told(lambda m, _: 1 + m.optimizer.lr, lambda m, n: setattr(m.optimizer, "lr", 0.1 / n)),
    "lr of a group": told(lambda m, _: 1 + sum(group.lr for group in m.optimizer.groups), lambda m, n: setattr(m.optimizer, "lr", 0.1 / n)),
    "a warm-up in the loss": told(lambda m, _: m.optimizer.lr * 10 + m.epochs_done, optimizer=warmup),
    "the count in the loss": told(lambda m, _: 1 / (1 + sum(group.slots[0].count for group in m.optimizer.groups))),
    "the History's length": told(lambda m, seen: 1 + sum(map(len, seen[:1])), lambda m, n: None),
    "LBFGS": told(lambda m, _: (1 + m.epochs_done) * m.optimizer.lr, lambda m, n: setattr(m.optimizer, "lr", 0.1 * (1 + n)),
                  lambda: optim.LBFGS(lr=0.1, max_iter=4), batch_size=14, epochs=3),
    "a schedule of steps": scheduled(lambda: optim.CosineLR(0.1, 9, per="step")),
    "own schedule": scheduled(lambda: Decaying(0.1, per="step")),
    "own schedule, its lr": scheduled(lambda: DecayingLr(0.1, per="step")),
    "what a first call computes": lambda: (net(Remembering()), None, {}),
    "own optimizer, Lion": lambda: (net(hg.Tanh(), optimizer=Lion()), None, {}),
    "a cache cleared later": cache_cleared(3),
    "a cache cleared with the change": cache_cleared(2),
    "a cached property": changed(property_cleared, Masked),
    "BatchNorm kept in eval mode": changed(lambda m, n: None, Frozen),
    "a teacher's data": rebound,
    "a schedule that draws": scheduled(lambda: Drawing(0.1, per="step")),
    "a replaced forward": replaced_forward,
    "sample weights": weighted,
    "validation": validated,
    "double": double,
}  # fmt: skip
