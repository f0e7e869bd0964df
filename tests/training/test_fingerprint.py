"""What a checkpoint belongs to: another run is refused in the user's words, the same one always goes on, whatever it is made of."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import enum
import functools
import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.errors import FileError
from hotgrad.training import fingerprint
from hotgrad.training.checkpoint import differences

X, Y = hg.data.disc(30, seed=0)
Made = tuple[hg.Sequential, dict[str, Any]]
Make = Callable[[Any], Made]
K = 0.1  # a global that some losses read


def scaled(o: Any, t: Any, k: Any) -> Any:
    return hg.functional.cross_entropy(o, t) * k


def by_global(o: Any, t: Any) -> Any:
    return scaled(o, t, K)


class Gain(hg.Module):
    def __init__(self, k: float) -> None:
        self.k = k

    def forward(self, x: Any) -> Any:
        return x * self.k


class Nested(hg.Module):
    def __init__(self, k: float) -> None:
        self.inner, self.settings = [Gain(1.0)], {"scale": k}

    def forward(self, x: Any) -> Any:
        return self.inner[0](x) * self.settings["scale"]


class Counting:
    """Counts its calls, and keeps what no code reads: neither is another run."""

    def __init__(self, k: float) -> None:
        self.k, self.calls, self.label = k, 0, f"made at {id(self)}"

    def __call__(self, o: Any, t: Any) -> Any:
        self.calls += 1
        return scaled(o, t, self.k)

    def method(self, o: Any, t: Any) -> Any:
        return self(o, t)


class Slots:
    __slots__ = ("k",)

    def __init__(self, k: float) -> None:
        self.k = k

    def __call__(self, o: Any, t: Any) -> Any:
        return scaled(o, t, self.k)


class Reads:
    """Reads its attributes without naming them."""

    def __init__(self, **settings: Any) -> None:
        vars(self).update(settings)

    def __call__(self, o: Any, t: Any) -> Any:
        return scaled(o, t, sum(vars(self).values()))


class Hidden:
    def __init__(self, k: float) -> None:
        self._k = k

    @property
    def k(self) -> float:
        return self._k

    def __call__(self, o: Any, t: Any) -> Any:
        return scaled(o, t, self.k)


class OfClass:
    k = 0.1

    def __call__(self, o: Any, t: Any) -> Any:
        return scaled(o, t, self.k)


@dataclasses.dataclass
class Settings:
    k: float
    also: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, o: Any, t: Any) -> Any:
        return scaled(o, t, self.k)


class Own(nn.Loss):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, output: Any, target: Any) -> Any:
        return scaled(output, target, self.k)


class Scaling(optim.SGD):
    def __init__(self, k: float) -> None:
        super().__init__(lr=0.1)
        self.k = k

    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        return super().rule(p, g * self.k, state, s)


class BySetting(optim.Optimizer):
    def rule(self, p: Any, g: Any, state: dict[str, Any], s: Any) -> Any:
        return p - s.lr * s.k * g


class Power(optim.Schedule):
    def __init__(self, k: float) -> None:
        super().__init__(0.1)
        self.k = k

    def at(self, count: int) -> float:
        return float(self.base * self.k**count)


class Kind(enum.Enum):
    SMALL = 0.1
    LARGE = 5.0


class Pair(collections.namedtuple("Pair", "k other")):
    pass


class Patience:
    """A callback with a setting and a state."""

    def __init__(self, k: float) -> None:
        self.k, self.seen, self._kept = k, 0, 0

    def __call__(self, model: Any, history: Any) -> bool:
        self.seen, self._kept = self.seen + 1, self._kept + 2
        return self.seen > 1000 * self.k

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self._kept = state["seen"], state["kept"]


def net(layer: Any = None, optimizer: Any = "sgd") -> hg.Sequential:
    return hg.Sequential(hg.Linear(2, 2), layer or hg.Tanh(), loss="cross_entropy", optimizer=optimizer)


def with_loss(make: Callable[[Any], Any]) -> Make:
    return lambda k: (net(), {"loss": make(k)})


def with_optimizer(make: Callable[[Any, hg.Sequential], Any]) -> Make:
    def made(k: Any) -> Made:
        model = net()
        return model, {"optimizer": make(k, model)}

    return made


def using(value: Any, use: Callable[[Any], Any] = lambda value: value) -> Callable[..., Any]:
    """A loss whose closure holds `value`."""
    return lambda o, t: scaled(o, t, use(value))


def keyword_default(k: float) -> Callable[..., Any]:
    def loss(o: Any, t: Any, *, k: float = k) -> Any:
        return scaled(o, t, k)

    return loss


def with_attribute(k: float) -> Callable[..., Any]:
    def loss(o: Any, t: Any) -> Any:
        return scaled(o, t, loss.k)  # type: ignore[attr-defined]

    loss.k = k  # type: ignore[attr-defined]
    return loss


def wrapped(k: float) -> Callable[..., Any]:
    inner = using(k)

    @functools.wraps(inner)
    def loss(*args: Any) -> Any:
        return inner(*args)

    return loss


def of_one(model: hg.Sequential, name: str) -> Any:
    parameter = getattr(model.freeze()[0], name)
    parameter.requires_grad = True
    return optim.SGD([parameter])


def changed(optimizer: Any, **settings: Any) -> Any:
    for name, value in settings.items():
        if name == "lr":
            optimizer.lr = value
        else:
            setattr(optimizer.groups[0].settings, name, value)
    return optimizer


# What is trained for k = 0.1 and k = 5.0, and how the error names the difference.
OTHERS: dict[str, tuple[Make, str]] = {
    "closure": (with_loss(using), r"loss: value was 0\.1, is 5\.0"),
    "closure of a closure": (with_loss(lambda k: using(using(k), lambda f: f.__closure__[-1].cell_contents)), r"value\.value was 0\.1, is 5\.0"),
    "partial keyword": (with_loss(lambda k: functools.partial(scaled, k=k)), r"loss: k was 0\.1, is 5\.0"),
    "partial argument": (with_loss(lambda k: functools.partial(lambda k, o, t: scaled(o, t, k), k)), r"loss: \[0\] was 0\.1, is 5\.0"),
    "partial of a loss": (with_loss(lambda k: functools.partial(lambda h, o, t: h(o, hg.data.one_hot(t, 2)), nn.Huber(k))), r"loss: \[0\]\.delta was 0\.1"),
    "default": (with_loss(lambda k: lambda o, t, k=k: scaled(o, t, k)), r"loss: k was 0\.1, is 5\.0"),
    "keyword default": (with_loss(keyword_default), r"loss: k was 0\.1, is 5\.0"),
    "attribute": (with_loss(Counting), r"loss: k was 0\.1, is 5\.0"),
    "bound method": (with_loss(lambda k: Counting(k).method), r"loss: k was 0\.1, is 5\.0"),
    "slot": (with_loss(Slots), r"loss: k was 0\.1, is 5\.0"),
    "attributes without names": (with_loss(lambda k: Reads(whatever=k)), r"loss: whatever was 0\.1, is 5\.0"),
    "behind a property": (with_loss(Hidden), r"loss: _k was 0\.1, is 5\.0"),
    "of the class": (with_loss(lambda k: type("OfClass", (OfClass,), {"k": k})()), r"loss: k was 0\.1, is 5\.0"),
    "dataclass": (with_loss(Settings), r"loss: k was 0\.1, is 5\.0"),
    "attribute of a function": (with_loss(with_attribute), r"loss: k was 0\.1, is 5\.0"),
    "decorated": (with_loss(wrapped), r"loss: inner\.value was 0\.1, is 5\.0"),
    "cached": (with_loss(lambda k: using(functools.lru_cache(lambda: k), lambda f: f())), r"loss: value\.func\.k was 0\.1"),
    "decorated by hotgrad": (with_loss(lambda k: hg.enable_grad()(using(k))), r"value was 0\.1, is 5\.0"),
    "namespace": (with_loss(lambda k: using(argparse.Namespace(k=k), lambda a: a.k)), r"loss: value\.k was 0\.1, is 5\.0"),
    "simple namespace": (with_loss(lambda k: using(types.SimpleNamespace(k=k), lambda a: a.k)), r"loss: value\.k was 0\.1, is 5\.0"),
    "dict": (with_loss(lambda k: using({"a": [1, k]}, lambda d: d["a"][1])), r"loss: value\['a'\]\[1\] was 0\.1, is 5\.0"),
    "named tuple": (with_loss(lambda k: using(Pair(k, 2), lambda p: p.k)), r"loss: value\[0\] was 0\.1, is 5\.0"),
    "set": (with_loss(lambda k: using({k}, max)), "loss: value was set"),
    "long list": (with_loss(lambda k: using([0.0] * 1000 + [k], max)), "loss: value was list of 1001"),
    "long list of lists": (with_loss(lambda k: using([[0.0]] * 100 + [[k]], lambda v: v[-1][0])), "loss: value was list of 101"),
    "enum": (with_loss(lambda k: using(Kind(k), lambda e: e.value)), r"value was Kind.SMALL = 0\.1, is Kind.LARGE = 5\.0"),
    "numpy number": (with_loss(lambda k: using(np.float64(k))), r"loss: value was float64 0\.1, is float64 5\.0"),
    "array": (with_loss(lambda k: using(np.full(9, k), lambda a: float(a[0]))), r"loss: value was float64\(9,\)"),
    "tensor": (with_loss(lambda k: using(torch.full((9,), k), lambda a: a[0])), r"loss: value was float32\(9,\)"),
    "Variable": (with_loss(lambda k: using(hg.Variable(k))), r"loss: value was float32\(\) 0\.1\d*, is float32\(\) 5\.0"),
    "lambda": (with_loss(lambda k: (lambda o, t: scaled(o, t, 0.1)) if k < 1 else (lambda o, t: scaled(o, t, 5.0))), "loss: its code is another"),
    "code of a helper": (with_loss(lambda k: using((lambda: 0.1) if k < 1 else (lambda: 5.0), lambda f: f())), "loss: the code of value is another"),
    "own loss": (with_loss(Own), r"loss: k was 0\.1, is 5\.0"),
    "settings of a loss": (with_loss(lambda k: nn.CrossEntropy("mean" if k < 1 else "sum")), r"loss: reduction was 'mean', is 'sum'"),
    "module": (lambda k: (net(Gain(k)), {}), r"layers: 1\.k was 0\.1, is 5\.0"),
    "module in a module": (lambda k: (net(Nested(k)), {}), r"layers: 1\.settings\['scale'\] was 0\.1, is 5\.0"),
    "layer that is a function": (lambda k: (net(lambda v: v * k), {}), r"layers: 1\.k was 0\.1, is 5\.0"),
    "setting that no repr shows": (lambda k: (net(nn.BatchNorm1d(2, eps=k)), {}), r"layers: 1\.eps was 0\.1, is 5\.0"),
    "own optimizer": (with_optimizer(lambda k, model: Scaling(k)), r"optimizer: k was 0\.1, is 5\.0"),
    "own optimizer's setting": (with_optimizer(lambda k, model: BySetting(k=k)), r"optimizer: k was 0\.1, is 5\.0"),
    "first group's rate": (with_optimizer(lambda k, model: optim.SGD([{"params": list(model.parameters()), "lr": k}])), r"optimizer: lr was 0\.1, is 5\.0"),
    "second group's rate": (
        with_optimizer(lambda k, model: optim.SGD([{"params": [model[0].weight]}, {"params": [model[0].bias], "lr": k}])),
        r"optimizer: group 1\.lr was 0\.1, is 5\.0",
    ),
    "other groups": (
        with_optimizer(lambda k, model: optim.SGD([{"params": [p]} for p in list(model.parameters())[:: 1 if k < 1 else -1]])),
        r"group 0\.parameters\[0\] was '0\.weight', is '0\.bias'",
    ),
    "part of the parameters": (with_optimizer(lambda k, model: of_one(model, "weight" if k < 1 else "bias")), r"parameters\[0\] was '0\.weight'"),
    "rate that was set": (with_optimizer(lambda k, model: changed(optim.SGD(model.parameters()), lr=k)), r"optimizer: lr was 0\.1, is 5\.0"),
    "momentum that was set": (
        with_optimizer(lambda k, model: changed(optim.SGD(model.parameters(), momentum=0.5), momentum=k / 10)),
        r"optimizer: momentum was 0\.01, is 0\.5",
    ),
    "clip_norm": (with_optimizer(lambda k, model: optim.SGD(clip_norm=k)), r"optimizer: clip_norm was 0\.1, is 5\.0"),
    "schedule": (with_optimizer(lambda k, model: optim.SGD(lr=optim.StepLR(0.1, 1, k / 10))), r"optimizer: lr\.gamma was 0\.01, is 0\.5"),
    "schedule in a schedule": (
        with_optimizer(lambda k, model: optim.SGD(lr=optim.WarmupLR(optim.StepLR(0.1, 1, k / 10), 1))),
        r"optimizer: lr\.then\.gamma was 0\.01, is 0\.5",
    ),
    "own schedule": (with_optimizer(lambda k, model: optim.SGD(lr=Power(k / 10))), r"optimizer: lr\.k was 0\.01, is 0\.5"),
    "callback": (lambda k: (net(), {"callbacks": [Patience(k)]}), r"callbacks: Patience\.k was 0\.1, is 5\.0"),
    "hotgrad's callback": (
        lambda k: (net(), {"callbacks": [hg.EarlyStopping("loss", patience=50 if k < 1 else 60)]}),
        r"callbacks: EarlyStopping\.patience was 50, is 60",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_and_the_same_one_goes_on(name: str, tmp_path: Path) -> None:
    make, says = OTHERS[name]

    def fit(made: Made, epochs: int) -> int:
        return len(made[0].fit(X, Y, epochs, seed=0, verbose=0, checkpoint=tmp_path / "c", **made[1]))

    fit(make(0.1), 1)
    same = make(0.1)
    assert fit(same, 2) == 2, "made anew, as in a new process"
    assert fit(same, 3) == 3, "going on, with what has counted its calls"
    assert fit(make(0.1), 4) == 4
    with pytest.raises(FileError, match=says):
        fit(make(5.0), 5)
    assert fit(make(0.1), 5) == 5, "the file is as it was"


def test_globals_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net().fit(X, Y, loss=by_global, seed=0, verbose=0, checkpoint=tmp_path / "c")
    monkeypatch.setitem(globals(), "K", 0.2)
    with pytest.raises(FileError, match=r"loss: K was 0\.1, is 0\.2"):
        net().fit(X, Y, loss=by_global, seed=0, verbose=0, checkpoint=tmp_path / "c")
    monkeypatch.setitem(globals(), "K", 0.1)
    monkeypatch.setattr(scaled, "__code__", (lambda o, t, k: hg.functional.cross_entropy(o, t)).__code__)
    with pytest.raises(FileError, match="loss: the code of scaled is another"):
        net().fit(X, Y, loss=by_global, seed=0, verbose=0, checkpoint=tmp_path / "c")


def test_what_stands_in_other_modules_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module of settings by what is read of it; an installed package by name, but its objects that are called by what they hold."""
    settings, inner, package = types.ModuleType("settings"), types.ModuleType("settings.inner"), types.ModuleType("zpackage")
    settings.inner, inner.k, inner.started = inner, 0.1, 1.0  # type: ignore[attr-defined]
    for module in (settings, inner, package):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    package.__file__ = fingerprint._INSTALLED[0] + "/zpackage.py"
    exec("class Focal:\n    def __init__(self, k): self.k = k\n    def __call__(self, o, t): return o.mean() * self.k", vars(package))
    monkeypatch.setitem(globals(), "settings", settings)

    loss = types.FunctionType(compile("lambda o, t: scaled(o, t, settings.inner.k)", "", "eval").co_consts[0], globals())
    fingerprint._own.cache_clear()
    for k, says in ((0.1, ""), (5.0, "was 0.1, is 5.0")):
        inner.k, inner.started = k, k + 1  # type: ignore[attr-defined]
        for name, made in (("mine", loss), ("installed", package.Focal(k))):
            with pytest.raises(FileError, match=says) if says else contextlib.nullcontext():
                net().fit(X, Y, 1, loss=made, seed=0, verbose=0, engine="eager", checkpoint=tmp_path / name)


_HEAD = "def loss(o, t):\n    "
_BODIES = {
    "import": "import zcfg; return (o - t).square().mean() * zcfg.k",
    "from": "from zcfg import k; return (o - t).square().mean() * k",
    "as": "import zcfg as c; return (o - t).square().mean() * c.k",
    "function": "from zcfg import f; return f(o, t)",
    "dotted": "import zpack.inner; return (o - t).square().mean() * zpack.inner.k",
    "dotted as": "import zpack.inner as i; return (o - t).square().mean() * i.k",
    "submodule": "from zpack import inner; return (o - t).square().mean() * inner.k",
    "of a submodule": "from zpack.inner import k as z; return (o - t).square().mean() * z",
    "relative": "from . import inner; return (o - t).square().mean() * inner.k",
    "relative of": "from .inner import k; return (o - t).square().mean() * k",
    "nested": "\n    def inside():\n        import zcfg\n        return zcfg.k\n    return (o - t).square().mean() * inside()",
    "chain": "from zpack import chain; return chain.f(o, t)",
    "optional": "\n    try:\n        import zmissing, zbroken\n    except ImportError:\n        pass\n    from zcfg import k\n"
    "    try:\n        from zcfg import nothing\n    except ImportError:\n        return (o - t).square().mean() * k",
}


@pytest.mark.parametrize("name", _BODIES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_a_function_imports_when_it_is_run_counts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "zpack").mkdir()
    (tmp_path / "zpack/chain.py").write_text(
        "def f(o, t):\n    from . import inner\n    import torch, json\n    return (o - t).square().mean() * inner.k"
    )
    (tmp_path / "zbroken.py").write_text("import zmissing")
    (tmp_path / "zpack/mod.py").write_text(_HEAD + _BODIES[name])

    def run(k: float, epochs: int) -> int:
        for file in ("zcfg.py", "zpack/inner.py"):
            (tmp_path / file).write_text(f"k = {k}\nunread = {epochs}\ndef f(o, t): return (o - t).square().mean() * {k}")
        for module in [module for module in sys.modules if module.startswith(("zcfg", "zpack"))]:
            monkeypatch.delitem(sys.modules, module)
        importlib.invalidate_caches()
        fingerprint._own.cache_clear()
        loss = importlib.import_module("zpack.mod").loss
        return len(net().fit(X, X, epochs, loss=loss, seed=0, verbose=0, engine="eager", checkpoint=tmp_path / "c"))

    assert [run(0.1, epochs) for epochs in (1, 2)] == [1, 2]
    says = r"the code of .*zcfg\.f is another" if name == "function" else r"(zcfg|zpack.*inner)\.k was 0\.1, is 5\.0"
    with pytest.raises(FileError, match=says):
        run(5.0, 3)


def test_what_code_imports_by_a_text_is_said_not_to_be_compared(tmp_path: Path) -> None:
    def loss(o: Any, t: Any) -> Any:
        return (o - t).square().mean() * importlib.import_module("math").pi

    with pytest.warns(RuntimeWarning, match=r"not compared.*loss: the whole \(what it imports by import_module\)"):
        net().fit(X, X, loss=loss, seed=0, verbose=0, checkpoint=tmp_path / "c")


def test_a_loss_may_use_the_model_itself(tmp_path: Path) -> None:
    """Its weights are in the file: that they have changed makes it no other run."""
    for epochs in (1, 2, 3):
        model = net()

        def decay(o: Any, t: Any, model: hg.Sequential = model, w: Any = model[0].weight) -> Any:
            return scaled(o, t, 1.0) + 0.01 * (w * w).sum() + 0.01 * sum((p * p).sum() for p in model.parameters())

        assert len(model.fit(X, Y, epochs, loss=decay, seed=0, verbose=0, checkpoint=tmp_path / "c")) == epochs


def test_what_a_callback_anneals_may_go_on_but_not_start_elsewhere(tmp_path: Path) -> None:
    def run(args: argparse.Namespace, epochs: int) -> int:
        def anneal(model: Any, history: Any) -> None:
            args.k *= 0.5

        loss = using(args, lambda a: a.k)
        return len(net().fit(X, Y, epochs, loss=loss, seed=0, verbose=0, engine="eager", checkpoint=tmp_path / "c", callbacks=[anneal]))

    args = argparse.Namespace(k=0.1)
    assert run(args, 2) == 2
    assert args.k == 0.025
    assert run(args, 3) == 3
    assert run(argparse.Namespace(k=0.1), 4) == 4
    with pytest.raises(FileError, match=r"loss: value\.k was 0\.1, is 5\.0"):
        run(argparse.Namespace(k=5.0), 5)


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    numbers = iter(range(1000))

    def loss(o: Any, t: Any) -> Any:
        return scaled(o, t, 1 + 0 * next(numbers))

    for epochs in (1, 2):
        with pytest.warns(RuntimeWarning, match=r"not compared.*loss: numbers \(range_iterator\)") as caught:
            net().fit(X, Y, epochs, loss=loss, seed=0, verbose=0, engine="eager", checkpoint=tmp_path / "c")
        assert caught[0].filename == __file__


def test_another_python_is_said_and_all_but_code_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hotgrad.training import checkpoint

    def run(loss: Any, epochs: int) -> int:
        return len(net().fit(X, Y, epochs, loss=loss, seed=0, verbose=0, checkpoint=tmp_path / "c"))

    run(using(0.1), 1)
    monkeypatch.setattr(checkpoint, "PYTHON", "cpython 3.99")
    monkeypatch.setattr(fingerprint, "_code", lambda code: "otherwise")
    with pytest.warns(RuntimeWarning, match=r"written by cpython 3\.\d+.*cpython 3\.99"):
        assert run(using(0.1), 2) == 2
    assert run(using(0.1), 3) == 3, "written anew, it is this Python's"
    monkeypatch.setattr(checkpoint, "PYTHON", "cpython 3.98")
    with pytest.raises(FileError, match=r"loss: value was 0\.1, is 0\.2"):
        run(using(0.2), 4)


SCRIPT = """
import collections, contextlib, dataclasses, enum, functools, logging, os, sys, tempfile, threading, time, torch, types, weakref
import hotgrad as hg
from hotgrad import optim, nn
x, y = hg.data.disc(30, seed=0)
log, lock, started, where = logging.getLogger("run"), threading.Lock(), time.time(), tempfile.mkdtemp()
class Thing:
    pass
class Node:
    def __init__(self): self.me, self.next = self, None
    def __hash__(self): return id(self)
class Kind(enum.IntFlag):
    A = 1
    B = 2
@dataclasses.dataclass(frozen=True)
class Settings:
    names: frozenset = frozenset(("alpha", "beta", "gamma", "delta"))
    things: dict = dataclasses.field(default_factory=lambda: {"k": 1.0, Kind.A | Kind.B: {1, 2, "three", None, (4, 5)}})
@functools.singledispatch
def factor(k): return 1.0
@factor.register
def _(k: int): return 2.0
@contextlib.contextmanager
def around():
    yield 1.0
@functools.lru_cache
def cached(k): return k * 1.0
def even(n): return True if n == 0 else odd(n - 1)
def odd(n): return False if n == 0 else even(n - 1)
deep = []
for _ in range(500): deep = [deep]
class Loss:
    limit = 3
    def __init__(self):
        self.started, self.where, self.id = time.time(), tempfile.mkdtemp(), id(self)
        self.set, self.objects, self.node = {"one", "two", "three", "four"}, {Thing, Node, len}, Node()
        self.node.next = Node()
        self.settings, self.log, self.file, self.lock = Settings(), log, open(os.devnull), threading.Lock()
        self.cache, self.big = {}, torch.arange(1000.0)
        self.count, self.keys = collections.Counter("hello"), {Thing: 1, even: 2, (1, "a"): 3}
    def __call__(self, o, t):
        class Local:
            def __init__(self): self.a, self.b, self.c, self.d, self.e = range(5)
        assert "alpha" in {"alpha", "beta", "gamma"} and "a" not in ("x", "y")
        self.cache[len(self.cache)] = time.time()
        self.log.debug("called"); self.lock; self.file; self.node; self.objects; self.set; self.count; self.keys; self.big; deep
        with around() as one, lock:
            return hg.functional.cross_entropy(o, t) * (one * factor(1) * cached(2) * even(4) * self.settings.things["k"] * self.limit)
class Best:
    def __init__(self): self.seen, self.opened = set(), time.time()
    def __call__(self, model, history): self.seen.add(len(history))
    def state_dict(self): return {"seen": sorted(self.seen)}
    def load_state_dict(self, state): self.seen = set(state["seen"])
class Gate(hg.Module):
    names = frozenset(("p", "q", "r"))
    def __init__(self):
        self.scale, self.lookup, self.made = hg.Parameter([1.0, 1.0]), {n: len(n) for n in ("one", "two")}, time.time()
    def forward(self, v): return v * self.scale * self.lookup["one"] * len(self.names)
model = hg.Sequential(hg.Linear(8), nn.BatchNorm1d(8), hg.tanh, hg.Linear(8, 2), Gate(), lambda v: v * 1.0)
model.add = types.MethodType(lambda self, v: v, model)
optimizer = optim.Adam(lr=optim.WarmupLR(optim.StepLR(0.1, 2), 2))
history = model.fit(x, y, int(sys.argv[2]), 10, loss=Loss(), optimizer=optimizer, seed=0, verbose=0, engine="eager", checkpoint=sys.argv[1],
                    callbacks=[Best(), hg.EarlyStopping("loss", 50)])
print(len(history), [row["seconds"] for row in history][0])
"""


def test_an_unchanged_script_always_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(SCRIPT)
    first = ""
    for epochs, seed in ((1, "0"), (2, "1"), (3, "random")):
        command = [sys.executable, "-W", "error::UserWarning", "run.py", "c", str(epochs)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        rows, seconds = done.stdout.split()
        assert int(rows) == epochs
        assert seconds == (first or seconds), "the first epoch was not run again"
        first = seconds


def test_code_is_compared_by_what_it_does_not_where_it_stands() -> None:
    def digests(text: str) -> Any:
        code = compile(text, "somewhere", "exec").co_consts[0]
        return fingerprint._code(code)

    one = digests("def f(o, t):\n    return (o - t) * 2 if 'a' in {'a', 'b', 'c'} else [i for i in range(3)]")
    assert one == digests("\n\n\n\ndef f(o, t):\n    # moved\n    return (o - t) * 2 if 'a' in {'a', 'b', 'c'} else [i for i in range(3)]")
    for other in (
        "(o - t) * 3 if 'a' in {'a', 'b', 'c'} else [i for i in range(3)]",
        "(o - t) * 2 if 'a' in {'a', 'b', 'd'} else [i for i in range(3)]",
    ):
        assert one != digests(f"def f(o, t):\n    return {other}")
    assert digests("def f(o, t):\n    return o.mean()") != digests("def f(o, t):\n    return o.sum()")
    assert digests("def f(o, t):\n    return o - t") != digests("def f(o, t):\n    return o + t")


def test_where_in_hotgrad_a_thing_stands_does_not_count() -> None:
    stored = {"loss": {"f": "hotgrad.recording.Exp.apply", "g": "hotgrad.functional.mse"}}
    assert differences(stored, {}, {"loss": {"f": "hotgrad.core.shortcuts.Exp.apply", "g": "hotgrad.functional.mse"}}) == []
    assert differences(stored, {}, {"loss": {"f": "hotgrad.core.shortcuts.Log.apply", "g": "hotgrad.functional.mse"}}) != []
