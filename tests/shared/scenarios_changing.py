"""Scenarios of what changes: by itself, by counting, later by the user, in modules, and in optimizers."""

from __future__ import annotations

import collections
import contextvars
import dataclasses
import datetime
import functools
import itertools
import random
import sys
import threading
import time
import types
import uuid
from typing import Any

import numpy as np
import torch
from scenarios import RESETS, SCENARIOS, WIDE, XS, F, depend, doubled, network, nothing, put, refuse, set_to, weight

import hotgrad as hg
from hotgrad import optim

K: Any = 2.0  # a global that functions below use


def set_k(value: Any) -> None:
    global K
    K = value


def set_globals() -> None:
    set_k(2.0)
    globals().pop("LATER", None)
    Holder.k, Scaled.factor, Holder.swapped = 2.0, 1.5, Holder.by_class


RESETS.append(set_globals)

# ------------------------------------------------------------------------------------------------ what changes by itself

RNG, NUMPY_RNG = random.Random(0), np.random.default_rng(0)
refuse("random", {
    "random.random": lambda x: x * random.random(),
    "a rare branch": lambda x: x * 2 if random.random() < 1e-9 else x,
    "an own Random": lambda x: x * 2 if RNG.random() < 1e-9 else x,
    "choice": lambda x: x * random.choice([1.0, 1.0]),
    "randint": lambda x: x * 2 if random.randint(0, 10**9) == 5 else x,
    "gauss": lambda x: x * 2 if random.gauss(0, 1) > 30 else x,
    "shuffle": lambda x: x * (random.shuffle([1, 2]) is None),
    "numpy": lambda x: x * np.random.rand(),
    "numpy's rare branch": lambda x: x * 2 if np.random.rand() < 1e-9 else x,
    "numpy's generator": lambda x: x * 2 if NUMPY_RNG.random() < 1e-9 else x,
    "numpy's new generator": lambda x: x * 2 if np.random.default_rng().normal() > 30 else x,
    "torch.rand": lambda x: x * torch.rand(3),
    "torch's rare branch": lambda x: x * 2 if torch.rand(()) < 1e-9 else x,
    "disc": lambda x: x * hg.sum(hg.data.disc(3)[0], 1),
    "time.time": lambda x: x * (time.time() % 1),
    "a date": lambda x: x * 2 if time.time() > 1e12 else x,
    "perf_counter": lambda x: x * 2 if time.perf_counter() < 0 else x,
    "monotonic_ns": lambda x: x * 2 if time.monotonic_ns() < 0 else x,
    "datetime.now": lambda x: x * datetime.datetime.now().year,
    "date.today": lambda x: x * datetime.date.today().year,
    "utc": lambda x: x * datetime.datetime.now(datetime.timezone.utc).year,
    "strftime": lambda x: x * int(time.strftime("%Y")),
    "gmtime": lambda x: x * time.gmtime().tm_year,
    "uuid": lambda x: x * (uuid.uuid4().int % 1000),
})  # fmt: skip
CONSTANTS: dict[str, F] = {
    "ones": lambda x: x * torch.ones(3),
    "tensor": lambda x: x * torch.tensor([1.0, 2.0, 3.0]),
    "arange": lambda x: x * torch.arange(3),
    "as_tensor": lambda x: x * torch.as_tensor([1.0, 2.0, 3.0]),
    "full of a global": lambda x: x * torch.full((3,), K),
    "nn.functional": lambda x: x * torch.nn.functional.softplus(torch.ones(3)),
}
depend("torch inside", {name: (lambda: None, lambda _, x, f=f: f(x), nothing) for name, f in CONSTANTS.items()})  # type: ignore[misc]
INNER = hg.capture(lambda y: y * 2, XS[0])
refuse("nested", {
    "a capture": lambda x: x * hg.capture(lambda y: y * 2, XS[0])(XS[0]),
    "a program": lambda x: x * INNER(XS[0]),
    "fit": lambda x: (trainable().fit(WIDE, WIDE, verbose=0, seed=0), x)[1],
})  # fmt: skip


def trainable() -> hg.Sequential:
    return hg.Sequential(hg.Linear(3, 3), loss="mse", optimizer="sgd")


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k: Any = 2.0) -> None:
        self.k = k


class Counting(hg.Module):
    n = 0

    def forward(self, x: Any) -> Any:
        self.n += 1
        return x * (self.n // 4)


def counted(thing: Any) -> int:
    """How often it was called for this thing."""
    thing.n = getattr(thing, "n", 0) + 1
    return int(thing.n)


def counted_global(x: Any) -> Any:
    global K
    K += 1
    return x * K


def counted_default(x: Any, counts: list[int] = []) -> Any:  # noqa: B006
    counts.append(1)
    return x * (1.0 if len(counts) % 100 < 90 else 2.0)


def counted_attribute(x: Any) -> Any:
    return x * (counted(counted_attribute) // 1000)


def in_a_cell() -> F:
    n = 0

    def f(x: Any) -> Any:
        nonlocal n
        n += 1
        return x * (1.0 if n < 5 else 2.0)

    return f


def kept_in_a_slot(holder: Slotted, x: Any) -> Any:
    holder.k = x * holder.k
    return holder.k


refuse("counts", {"a global": counted_global, "a default": counted_default, "the function": counted_attribute})
depend("counts", {
    "a closure": (in_a_cell, lambda f, x: f(x), nothing),
    "an attribute": (lambda: Holder(), lambda h, x: x * (counted(h) // 4), nothing),
    "a namespace": (types.SimpleNamespace, lambda s, x: x * (counted(s) // 4), nothing),
    "a class": (lambda: type("Own", (), {}), lambda c, x: x * (counted(c) // 4), nothing),
    "a list": (list, lambda c, x: (c.append(1), x * len(c))[1], nothing),
    "a dict": (dict, lambda c, x: (c.update(n=c.get("n", 0) + 1), x * (c["n"] // 4))[1], nothing),
    "a set": (set, lambda c, x: (c.add(len(c)), x * (len(c) // 4))[1], nothing),
    "a slot": (lambda: Slotted(0), lambda h, x: (setattr(h, "k", h.k + 1), x * (h.k // 4))[1], nothing),
    "a layer": (Counting, lambda m, x: m(x), nothing),
    "itertools.count": (itertools.count, lambda c, x: x * next(c), nothing),
    "an iterator": (lambda: iter([1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]), lambda c, x: x * next(c), nothing),
    "a generator": (lambda: (1.0 if i < 2 else float(i) for i in range(99)), lambda c, x: x * next(c), nothing),
    "a cycle": (lambda: itertools.cycle([1.0, 1.0, 2.0]), lambda c, x: x * next(c), nothing),
    "a deque": (lambda: collections.deque([1.0, 1.0, 2.0]), lambda c, x: (c.rotate(-1), x * c[-1])[1], nothing),
    "structures": (lambda: itertools.cycle([True, False]), lambda c, x: (x, x * 2) if next(c) else [x, x * 2], nothing),
    "a Variable kept": (list, lambda c, x: (c.append(x * 2), x * c[0])[1], nothing),
    "a Variable kept in a slot": (lambda: Slotted(hg.Variable([1.0, 1.0, 1.0])), kept_in_a_slot, nothing),
}, refused=True)  # fmt: skip


# ------------------------------------------------------------------------------------------------ what is changed later


class Holder:
    """A user's object, with what it holds in its class, in itself, and behind methods."""

    k = 2.0

    def __init__(self) -> None:
        self.inner = types.SimpleNamespace(k=2.0)

    def by_class(self, x: Any) -> Any:
        return x * self.k

    swapped = by_class

    def by_global(self, x: Any) -> Any:
        return x * K

    @property
    def looked_up(self) -> float:
        return float(K)

    @staticmethod
    def static(x: Any) -> Any:
        return x * K

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * cls.k

    def __call__(self, x: Any) -> Any:
        return x * K


@dataclasses.dataclass
class Config:
    k: Any = 2.0


def to_three(_: Any = None) -> None:
    set_k(3.0)


def in_class(_: Any) -> None:
    Holder.k = 3.0


depend("a change", {
    "a list item": (lambda: [2.0, 3.0], lambda ks, x: x * ks[0], put(0)),
    "a list grows": (lambda: [2.0, 3.0], lambda ks, x: x * len(ks), lambda ks: ks.append(5.0)),
    "a list's order": (lambda: [2.0, 3.0], lambda ks, x: x * ks[0], lambda ks: ks.reverse()),
    "a list of many": (lambda: [[float(i)] for i in range(20_001)], lambda ks, x: x * ks[20_000][0], lambda ks: put(0)(ks[20_000])),
    "the sign of zero": (lambda: [0.0], lambda ks, x: x / ks[0], put(0, -0.0)),
    "an int to a float": (lambda: [2], lambda ks, x: x ** ks[0] + ks[0], put(0, 2.0)),
    "NaN": (lambda: [float("nan")], lambda ks, x: x * ks[0], put(0, float("nan"))),
    "a dict item": (lambda: {"a": 2.0}, lambda ks, x: x * ks["a"], put("a")),
    "a dict key": (lambda: {2.0: None}, lambda ks, x: x * next(iter(ks)), lambda ks: (ks.clear(), ks.update({3.0: None}))),
    "a renamed key": (lambda: {"a": 2.0, "b": 2.0}, lambda ks, x: x * (5 if "b" in ks else 3), lambda ks: (ks.pop("b"), ks.update(c=2.0))),
    "a set": (lambda: {2.0}, lambda ks, x: x * next(iter(ks)), lambda ks: (ks.clear(), ks.add(3.0))),
    "a set's order": (lambda: {0.5, 3.25, "a", 7.125, None}, lambda ks, x: sum((x * k for k in ks if isinstance(k, float)), x), nothing),
    "a nested attribute": (lambda: Config(Config(Config())), lambda c, x: x * c.k.k.k, lambda c: set_to("k")(c.k.k)),
    "a slot": (Slotted, lambda s, x: x * s.k, set_to("k")),
    "a namespace": (lambda: types.SimpleNamespace(k=2.0), lambda s, x: x * s.k, set_to("k")),
    "a namespace in an object": (Holder, lambda h, x: x * h.inner.k, lambda h: set_to("k")(h.inner)),
    "an attribute over the class": (Holder, lambda h, x: x * h.k, set_to("k")),
    "a deque": (lambda: collections.deque([2.0]), lambda ks, x: x * ks[0], put(0)),
    "a UserDict": (lambda: collections.UserDict(a=2.0), lambda ks, x: x * ks["a"], put("a")),
    "a ChainMap": (lambda: collections.ChainMap({"a": 2.0}), lambda ks, x: x * ks["a"], put("a")),
    "a defaultdict": (lambda: collections.defaultdict(float, a=2.0), lambda ks, x: x * ks["a"], put("a")),
    "a context variable": (lambda: contextvars.ContextVar("k", default=2.0), lambda k, x: x * k.get(), lambda k: k.set(3.0)),
    "a thread-local": (threading.local, lambda s, x: x * getattr(s, "k", 2.0), set_to("k")),
    "a class attribute": (Holder, lambda h, x: x * Holder.k, in_class),
    "a class attribute by an instance": (Holder, lambda h, x: h.by_class(x), in_class),
    "a class method": (Holder, lambda h, x: Holder.of_class(x), in_class),
    "a method": (Holder, lambda h, x: h.swapped(x), lambda h: setattr(Holder, "swapped", lambda self, x: x * 3)),
    "a default dtype": (list, lambda _, x: x * hg.Variable([1.0, 2.0, 3.0]), lambda _: torch.set_default_dtype(torch.float64)),
    "a global": (list, lambda _, x: x * K, to_three),
    "a global by globals()": (list, lambda _, x: x * globals()["K"], to_three),
    "a global by its module": (lambda: sys.modules[__name__], lambda m, x: x * m.K, to_three),
    "a global that appears": (list, lambda _, x: later(x), lambda _: globals().update(LATER=3.0)),
    "a global in a lambda": (list, lambda _, x: (lambda y: (lambda z: z * K)(y))(x), to_three),
    "a global in a method": (Holder, lambda h, x: h.by_global(x), to_three),
    "a global in a property": (Holder, lambda h, x: x * h.looked_up, to_three),
    "a global in a static method": (Holder, lambda h, x: Holder.static(x), to_three),
    "a global in a cached function": (lambda: functools.lru_cache(lambda n: n * K), lambda f, x: x * f(1), lambda f: (to_three(), f.cache_clear())),
    "a global in a wrapped function": (lambda: wrapped(lambda x: x * K), lambda f, x: f(x), to_three),
    "a global in a partial": (lambda: functools.partial(lambda k, x: x * k * K, 2.0), lambda f, x: f(x), to_three),
    "a global in a partial's method": (lambda: functools.partial(Holder().by_global), lambda f, x: f(x), to_three),
    "a function's attribute": (lambda: with_attribute(), lambda f, x: x * f.k, set_to("k")),
    "a function's default": (lambda: types.FunctionType((lambda x, k=2.0: x * k).__code__, {}, "f", (2.0,)), lambda f, x: f(x), set_to("__defaults__", (3.0,))),
    "a function's code": (lambda: types.FunctionType((lambda x: x * 2).__code__, {}), lambda f, x: f(x), set_to("__code__", (lambda x: x * 3).__code__)),
    "a gradient": (lambda: with_gradient(), lambda w, x: x * w.grad, set_to("grad", torch.zeros(3))),
    "a gradient, written": (lambda: with_gradient(), lambda w, x: x * w.grad, lambda w: w.grad.mul_(3)),
})  # fmt: skip


def later(x: Any) -> Any:
    try:
        return x * LATER  # type: ignore[name-defined]
    except NameError:
        return x


def wrapped(f: F) -> F:
    @functools.wraps(f)
    def wrapper(*args: Any) -> Any:
        return f(*args) * 2

    return wrapper


def with_attribute() -> F:
    def f() -> None: ...

    f.k = 2.0  # type: ignore[attr-defined]
    return f


def with_gradient() -> hg.Parameter:
    w = weight(2, 3, 4)
    w.grad = torch.ones(3)
    return w


def a_number() -> tuple[F, F]:
    k = 2.0

    def change() -> None:
        nonlocal k
        k = 3.0

    return lambda x: x * k, change


def a_keyword_default() -> tuple[F, F]:
    def f(x: Any, *, k: float = 2.0) -> Any:
        return x * k

    return f, lambda: f.__kwdefaults__.update(k=3.0)  # type: ignore[union-attr]


SCENARIOS["a change: a number in a closure"] = a_number
SCENARIOS["a change: a keyword's default"] = a_keyword_default
SCENARIOS["a change: behind a bound method"] = lambda: (Holder().by_global, to_three)
SCENARIOS["a change: behind a callable object"] = lambda: (Holder(), to_three)
SCENARIOS["a change: behind a callable object's partial"] = lambda: (functools.partial(Holder()), to_three)


# ------------------------------------------------------------------------------------------------ modules


class Scaled(hg.Module):
    """A layer of a user's."""

    factor = 1.5

    def __init__(self) -> None:
        self.weight = weight(1, 2, 3)
        self.k = 2.0

    def forward(self, x: Any) -> Any:
        return self.scaled(x) * self.factor

    def scaled(self, x: Any) -> Any:
        return self.weight * x * self.k * K


class Derived(Scaled):
    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


ON_MODEL: dict[str, F] = {
    "unchanged": nothing,
    "weights written": doubled,
    "train": lambda m: m.train(),
    "eval": lambda m: m.eval(),
    "one layer's mode": lambda m: m[1].train(not m[1].training),
    "freeze": lambda m: m.freeze(),
    "a layer replaced": lambda m: m.__setitem__(3, hg.ReLU()),
    "a layer added": lambda m: m.append(hg.nn.Softmax()),
    "a setting": lambda m: setattr(m[1], "eps", 0.5),
    "a weight replaced": lambda m: setattr(m[0], "weight", hg.Parameter(torch.ones(3, 4))),
    "a weight removed": lambda m: setattr(m[0], "bias", None),
    "data replaced": lambda m: setattr(m[0].weight, "data", torch.ones(3, 4)),
    "load_state_dict": lambda m: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}),
    "a buffer written": lambda m: m[1].running_mean.add_(1.0),
    "a buffer replaced": lambda m: setattr(m[1], "running_mean", torch.ones(4)),
    "a buffer registered anew": lambda m: m[1].register_buffer("running_var", torch.full((4,), 3.0)),
    "reset": lambda m: m.reset(1),
    "a forward of its own": lambda m: setattr(m[3], "forward", lambda x: x * 7),
    "another forward": lambda m: setattr(m[3], "__class__", hg.ReLU),
}
for _mode in (True, False):
    depend("training" if _mode else "evaluating", {
        name: (lambda mode=_mode: network(mode), lambda m, x: m(x.reshape(3, 1).expand((3, 3)) * x), change) for name, change in ON_MODEL.items()
    })  # fmt: skip
depend("a layer", {
    "attribute": (Scaled, lambda m, x: m(x), set_to("k")),
    "global": (Scaled, lambda m, x: m(x), to_three),
    "class attribute": (lambda: hg.Sequential(Scaled()), lambda m, x: m(x), lambda m: setattr(Scaled, "factor", 3.0)),
    "base's global": (Derived, lambda m, x: m(x), to_three),
    "dtype": (lambda: network()[0], lambda m, x: m(x.reshape(1, 3).to(m.weight.dtype)), lambda m: m.to(torch.float64)),
})  # fmt: skip
depend("a layer", {"lazy": (lambda: hg.Linear(2), lambda m, x: m(x.reshape(1, 3)), nothing)}, refused=True)


# ------------------------------------------------------------------------------------------------ optimizers and gradients


class OwnRule(optim.Optimizer):
    """An update rule of a user's that depends on more than its settings."""

    strength = 1.0

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        return p - s.lr * self.strength * K * g


def step(optimizer: Any, x: Any) -> Any:
    (w,) = optimizer.parameters
    optimizer.zero_grad()
    loss = ((w * x) ** 2).sum()
    loss.backward()
    optimizer.step()
    return loss, w * 1.0


def without_zero_grad(optimizer: Any, x: Any) -> Any:
    (w,) = optimizer.parameters
    loss = ((w * x) ** 2).sum()
    loss.backward()
    optimizer.step()
    return loss


def gradient_written(w: Any, x: Any) -> Any:
    w.grad = None
    (w * x).sum().backward()
    w.grad.mul_(0.5)
    return w.grad


def lbfgs(optimizer: Any, x: Any) -> Any:
    (w,) = optimizer.parameters

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((w * x) ** 2).sum()
        loss.backward()
        return loss

    return optimizer.step(closure)


def made(kind: Any, **settings: Any) -> F:
    return lambda: kind([weight(2, 3, 4)], **{"lr": 0.01, **settings})


def thawed(optimizer: Any) -> None:
    (w,) = optimizer.parameters
    w.requires_grad = False
    w.requires_grad = True


momentum, adam = made(optim.SGD, momentum=0.9), made(optim.Adam)
depend("an optimizer", {
    "unchanged": (momentum, step, nothing),
    "lr": (momentum, step, set_to("lr", 0.001)),
    "lr a schedule": (momentum, step, lambda o: setattr(o, "lr", optim.StepLR(0.01, 1, 0.5, per="step"))),
    "a group's rate": (momentum, step, lambda o: setattr(o.groups[0], "rate", 0.001)),
    "a setting": (momentum, step, lambda o: setattr(o.groups[0].settings, "momentum", 0.5)),
    "weight decay": (momentum, step, lambda o: setattr(o.groups[0].settings, "weight_decay", 0.5)),
    "clip_norm": (momentum, step, set_to("clip_norm", 0.1)),
    "state written": (momentum, step, lambda o: o._slots()[0].state["velocity"].zero_()),
    "state loaded": (momentum, step, lambda o: o.load_state_dict(o.state_dict())),
    "state cleared": (momentum, step, lambda o: o._slots()[0].state.clear()),
    "frozen and not": (momentum, step, thawed),
    "Adam": (adam, step, nothing),
    "Adam, betas": (adam, step, lambda o: setattr(o.groups[0].settings, "betas", (0.5, 0.5))),
    "Adam, its count": (adam, step, lambda o: setattr(o._slots()[0], "count", 100)),
    "Adam, loaded": (adam, step, lambda o: o.load_state_dict(made(optim.Adam)().state_dict())),
    "AdamW": (made(optim.AdamW), step, set_to("lr", 0.1)),
    "a schedule": (lambda: optim.Adam([weight(2, 3, 4)], lr=optim.CosineLR(0.1, 6, per="step")), step, nothing),
    "a schedule's count": (lambda: optim.SGD([weight(2, 3, 4)], lr=optim.StepLR(0.01, 1, 0.5)), step, lambda o: o.epoch_end()),
    "clipping": (made(optim.SGD, clip_norm=0.5), step, nothing),
    "a rule's attribute": (made(OwnRule), step, set_to("strength")),
    "a rule's global": (made(OwnRule), step, to_three),
    "no zero_grad": (momentum, without_zero_grad, nothing),
    "data afterwards": (momentum, lambda o, x: (step(o, x), hg.Variable(o.parameters[0].data) * x)[1], nothing),
    "gradients that add up": (lambda: weight(2, 3, 4), lambda w, x: ((w * x).sum().backward(), w.grad)[1], nothing),
    "a gradient written": (lambda: weight(2, 3, 4), gradient_written, nothing),
})  # fmt: skip
depend("an optimizer", {"L-BFGS": (made(optim.LBFGS), lbfgs, nothing)}, refused=True)
