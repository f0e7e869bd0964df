"""A model's life in any order - trained, changed, saved, copied, used - against the same written plainly (`plain`)."""

from __future__ import annotations

import copy
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import plain
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from plain import F64, Cell, Layer, Model, Rate, Refused

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.engines.native import compiler
from hotgrad.modules.parameters import LazyParameter

G = torch.Generator().manual_seed(1)
X, HELD_OUT = torch.randn(9, 2, generator=G, dtype=F64), torch.randn(4, 2, generator=G, dtype=F64)


def targets(loss: str, x: torch.Tensor) -> torch.Tensor:
    return (x[:, 0] > x[:, 1]).long() if loss == "cross_entropy" else torch.stack([x.sum(1).sin(), x[:, 0] * 0.5], 1)


# ------------------------------------------------------------------------------------------------ layers, ours and plain


class Block(hg.Module):
    """A layer in which there is room for more."""

    def __init__(self) -> None:
        self.inner = hg.Linear(2, 2)
        self.extra: Any = None
        self.more: list[Any] = []

    def forward(self, x: Any) -> Any:
        out = x + self.inner(x).tanh()
        if self.extra is not None:
            out = out + self.extra(x)
        for layer in self.more:
            out = out + layer(out).tanh()
        return out


class Running(hg.Module):
    """A gain, and a mean that moves in training."""

    def __init__(self) -> None:
        self.gain = hg.Parameter(torch.ones(2))
        self.register_buffer("mean", torch.zeros(2))

    def initialize(self, generator: torch.Generator | None) -> None:
        self.gain.data.fill_(1.0)
        self.mean.zero_()

    def forward(self, x: Any) -> Any:
        if self.training:
            with hg.no_grad:
                self.mean *= 0.7
                self.mean += 0.3 * x.mean(0)
        return x * self.gain - self.mean


def own_loss(output: Any, target: Any) -> Any:
    return 0.5 * ((output - target) ** 2).mean() + 0.1 * output.abs().mean()


KINDS: dict[str, Callable[[], Any]] = {
    "linear": lambda: hg.Linear(2, 2),
    "lazy": lambda: hg.Linear(2),
    "tanh": hg.Tanh,
    "dropout": lambda: nn.Dropout(0.25),
    "batchnorm": lambda: nn.BatchNorm1d(2),
    "running": Running,
    "block": Block,
}
LOSSES = {"mse": "mse", "own": own_loss, "cross_entropy": nn.CrossEntropy()}
kinds = st.sampled_from(sorted(KINDS))
number = st.integers(0, 30)


def made(kind: str) -> tuple[Any, Layer]:
    """A layer, and the same plainly."""
    layer = KINDS[kind]().to(F64)
    return layer, plainly(kind, layer)


def plainly(kind: str, layer: Any) -> Layer:
    held = {name: value for name, value in vars(layer).items() if isinstance(value, hg.Parameter)}
    cells = {name: Cell(None if isinstance(p, LazyParameter) else p.data.clone()) for name, p in held.items()}
    inner: dict[str, Layer | None] = {"inner": plainly("linear", layer.inner), "extra": None} if kind == "block" else {}
    return Layer(kind, cells, {name: getattr(layer, name).clone() for name in layer._buffers}, inner)


# ------------------------------------------------------------------------------------------------ optimizers, ours and plain


@st.composite
def optimizers(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["SGD", "Adam", "sgd", "adam"]))
    return {
        "kind": kind,
        "halved": draw(st.booleans()),
        "momentum": draw(st.sampled_from([0.0, 0.8])),
        "given": draw(st.sampled_from(["none", "none", "all", "groups"])) if kind[0].isupper() else "none",
    }


def both(drawn: dict[str, Any], model: hg.Sequential, twin: Model) -> tuple[Any, plain.Optimizer]:
    """An optimizer as it was drawn, and the same plainly."""
    kind, given = drawn["kind"], drawn["given"]
    if kind in ("sgd", "adam"):
        return kind, plain.Optimizer({"sgd": "SGD", "adam": "Adam"}[kind], Rate(0.01 if kind == "sgd" else 0.001))
    momentum = drawn["momentum"] if kind == "SGD" else 0.0
    more = {"momentum": momentum} if kind == "SGD" else {"eps": 1e-4}

    def rates(lr: float) -> tuple[Any, Rate]:
        return (optim.StepLR(lr, 2, 0.5) if drawn["halved"] else lr), Rate(lr, drawn["halved"])

    lr, rate = rates(0.02)
    parameters, cells = list(model.parameters()), twin.cells()
    other, own = rates(0.01)
    cut = (len(cells) + 1) // 2
    params: Any = {
        "none": None,
        "all": parameters,
        "groups": [{"params": parameters[:cut]}, {"params": parameters[cut:], "lr": other}],
    }[given]
    groups = {"none": [], "all": [(cells, rate)], "groups": [(cells[:cut], rate), (cells[cut:], own)]}[given]
    return getattr(optim, kind)(params, lr, **more), plain.Optimizer(kind, rate, momentum, more.get("eps", 1e-8), given != "none", groups)


# ------------------------------------------------------------------------------------------------ the machine


class Life(RuleBasedStateMachine):
    engines: ClassVar[list[str]] = ["eager", "replay"]

    @initialize(drawn=st.lists(kinds, max_size=2), seed=st.sampled_from([None, 0]))
    def begin(self, drawn: list[str], seed: int | None) -> None:
        torch.manual_seed(3)
        pairs = [made(kind) for kind in ["linear", *drawn]]
        self.model = hg.Sequential([layer for layer, _ in pairs], "mse", optim.SGD(lr=0.02))
        self.twin = Model([layer for _, layer in pairs], "mse", plain.Optimizer("SGD", Rate(0.02)))
        self.folder = tempfile.TemporaryDirectory()
        self.files: list[tuple[Path, dict[str, Any]]] = []
        if seed is not None:
            self.alike(lambda: self.model.reset(seed), lambda: self.twin.reset(seed))

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def alike(self, ours: Callable[[], Any], plainly: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Both results, with equal numbers from torch's global generator; None after both refused."""
        before = torch.get_rng_state()
        try:
            expected = plainly()
        except Refused as error:
            torch.set_rng_state(before)
            with pytest.raises((hg.SettingError, hg.FileError), match=str(error)):
                ours()
            assert torch.equal(torch.get_rng_state(), before)
            return None
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        found = ours()
        assert torch.equal(torch.get_rng_state(), after), "torch's global generator"
        return found, expected

    def layer(self, i: int) -> int:
        return i % len(self.twin.layers)

    # ---- training

    @rule(
        epochs=st.integers(1, 3),
        size=st.sampled_from([9, 5, 3]),
        seed=st.sampled_from([None, None, 1]),
        shuffle=st.booleans(),
        held_out=st.booleans(),
        engine=st.sampled_from(range(6)),
        optimizer=st.none() | optimizers(),
    )
    def fit(self, epochs: int, size: int, seed: int | None, shuffle: bool, held_out: bool, engine: int, optimizer: Any) -> None:
        x, y = X, targets(self.twin.loss, X)
        validation = (HELD_OUT, targets(self.twin.loss, HELD_OUT)) if held_out else None
        given, new = (None, self.twin.optimizer) if optimizer is None else both(optimizer, self.model, self.twin)

        def plainly() -> Any:
            self.twin.check(new)
            if new is not self.twin.optimizer:
                for cell in self.twin.cells():
                    cell.forget()
                self.twin.optimizer = new
            return self.twin.fit(x, y, epochs, size, seed, shuffle, validation)

        def ours() -> Any:
            return self.model.fit(
                x, y, epochs, size, seed=seed, shuffle=shuffle, validation_data=validation, optimizer=given, verbose=0,
                engine=self.engines[engine % len(self.engines)],
            )  # fmt: skip

        results = self.alike(ours, plainly)
        if results is not None:
            for row, expected in zip(*results, strict=True):
                assert {name: value for name, value in row.items() if name != "seconds"} == pytest.approx(expected, rel=1e-6, abs=1e-9)

    @rule(lr=st.sampled_from([0.005, 0.03]))
    def change_rate(self, lr: float) -> None:
        self.model.optimizer.lr = lr
        self.twin.optimizer.set_lr(lr)

    @rule(loss=st.sampled_from(sorted(LOSSES)))
    def change_loss(self, loss: str) -> None:
        self.model.loss = LOSSES[loss]
        self.twin.loss = loss

    @rule(drawn=optimizers())
    def change_optimizer(self, drawn: Any) -> None:
        self.model.optimizer, self.twin.optimizer = both(drawn, self.model, self.twin)
        for cell in self.twin.cells():
            cell.forget()

    @rule(seed=st.sampled_from([None, 2]))
    def reset(self, seed: int | None) -> None:
        self.alike(lambda: self.model.reset(seed), lambda: self.twin.reset(seed))

    @rule(mode=st.booleans())
    def mode(self, mode: bool) -> None:
        self.model.train(mode)
        self.twin.train(mode)

    # ---- layers

    @precondition(lambda self: len(self.twin.layers) < 6)
    @rule(kind=kinds)
    def append(self, kind: str) -> None:
        layer, same = made(kind)
        assert self.model.append(layer) is self.model
        self.twin.layers.append(same)

    @rule(i=number, kind=kinds)
    def replace(self, i: int, kind: str) -> None:
        if not self.layer(i) and not made(kind)[1].cells and kind != "block":
            return  # without any parameter a model would have no dtype
        layer, same = made(kind)
        self.model[self.layer(i)] = layer
        self.twin.layers[self.layer(i)] = same

    @rule(kind=st.sampled_from(["linear", "linear", "running", "none"]), listed=st.booleans())
    def put_inside(self, kind: str, listed: bool) -> None:
        """Set a sub-module on a layer of one's own, or take it away."""
        for layer, same in zip(self.model, self.twin.layers):
            if same.kind == "block":
                inner, plainly = made(kind) if kind != "none" else (None, None)
                if listed and inner is not None and len(layer.more) < 2:
                    same.inner[f"more.{len(layer.more)}"] = plainly
                    layer.more.append(inner)
                else:
                    layer.extra, same.inner["extra"] = inner, plainly
                return

    @rule(i=number, frozen=st.booleans(), all_=st.integers(0, 5))
    def freeze(self, i: int, frozen: bool, all_: int) -> None:
        whole = all_ == 0
        target = self.model if whole else self.model[self.layer(i)]
        target.freeze() if frozen else target.unfreeze()
        for layer in self.twin.layers if whole else [self.twin.layers[self.layer(i)]]:
            for part in layer.walk():
                for cell in part.cells.values():
                    cell.frozen = frozen

    @precondition(lambda self: not self.twin.unsized())
    @rule(by=st.sampled_from([0.5, 0.9]), directly=st.booleans())
    def write(self, by: float, directly: bool) -> None:
        """Other weights and buffers, written in place."""
        state = self.model.state_dict()
        if directly:
            for tensor in state.values():
                tensor.mul_(by)
        else:
            self.model.load_state_dict({name: tensor * by for name, tensor in state.items()})
        for tensor in self.twin.tensors():
            tensor.mul_(by)

    # ---- using it

    @precondition(lambda self: not self.twin.unsized())
    @rule(times=st.sampled_from([1, 2, 5]), size=st.sampled_from([None, 2]), rows=st.sampled_from([9, 4]))
    def predict(self, times: int, size: int | None, rows: int) -> None:
        x = X if rows == 9 else HELD_OUT
        expected = self.twin.predict(x)
        for _ in range(times):
            torch.testing.assert_close(self.model.predict(x, batch_size=size), expected, rtol=1e-9, atol=1e-9)

    @precondition(lambda self: not self.twin.unsized())
    @rule()
    def measure(self) -> None:
        y = targets(self.twin.loss, X)
        expected = self.twin.measured(X, y)
        found = self.model.evaluate(X, y)
        assert found == pytest.approx(expected, rel=1e-8)
        if "accuracy" in expected:
            assert self.model.score(X, y) == expected["accuracy"]
            assert torch.equal(self.model.classify(X), self.twin.predict(X).argmax(1))

    @precondition(lambda self: not self.twin.unsized() and self.model.generator is not None)
    @rule()
    def call(self) -> None:
        """In the modes that the layers are in; those in train mode draw, and move their buffers."""
        self.model.use_generator(self.model.generator)
        output = self.model(hg.Variable(X))
        expected = self.twin.run(hg.Variable(X), self.twin.variables(), None)
        torch.testing.assert_close(output.data, expected.data, rtol=1e-9, atol=1e-9)

    # ---- keeping

    @precondition(lambda self: not self.twin.unsized())
    @rule()
    def save(self) -> None:
        path = Path(self.folder.name) / f"model {len(self.files)}"
        self.model.save(path)
        self.files.append((path, self.twin.saved()))

    @precondition(lambda self: self.files)
    @rule(i=number, elsewhere=st.booleans())
    def load(self, i: int, elsewhere: bool) -> None:
        """What was saved, into the model as it is now, or started anew."""
        path, saved = self.files[-1 - i % min(3, len(self.files))]
        if elsewhere:
            self.alike(lambda: self.model.reset(99), lambda: self.twin.reset(99))
        if not self.twin.fits(saved):
            with pytest.raises(hg.FileError, match="model"):
                self.model.load(path)
            return
        assert self.model.load(path) is self.model
        self.twin.load(saved)

    @rule(pickled=st.booleans())
    def copy(self, pickled: bool) -> None:
        """Go on with a copy; what happens to the other one is of no interest to it."""
        old, self.model = self.model, pickle.loads(pickle.dumps(self.model)) if pickled else copy.deepcopy(self.model)
        for tensor in old.state_dict().values() if not self.twin.unsized() else ():
            tensor.zero_()
        old.optimizer.lr = 7.0
        old.freeze()
        if old.generator is not None:
            old.generator.manual_seed(0)
        old.optimizer, old.loss = optim.RMSprop(), "huber"

    # ---- what must agree at any time

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "model"):
            return
        model, twin = self.model, self.twin
        parameters, cells = list(model.parameters()), twin.cells()
        assert [p.requires_grad for p in parameters] == [not cell.frozen for cell in cells]
        assert [isinstance(p, LazyParameter) for p in parameters] == [cell.value is None for cell in cells]
        pairs = {id(p): cell for p, cell in zip(parameters, cells)}
        ours = [p.data for p in parameters if not isinstance(p, LazyParameter)] + [b for _, b in model.named_buffers()]
        self.close(ours, twin.tensors())
        optimizer, other = model.optimizer, twin.optimizer
        assert type(optimizer).__name__ == other.kind
        assert optimizer.lr == pytest.approx(other.lr, rel=1e-12)
        found = [[pairs[id(slot.parameter)] for slot in group.slots if id(slot.parameter) in pairs] for group in optimizer.groups]
        assert found == [[cell for cell in group if cell in cells] for group, _ in other.groups], "the optimizer's parameters"
        for slot in optimizer._slots():
            if id(slot.parameter) in pairs:
                cell = pairs[id(slot.parameter)]
                assert slot.count == cell.count
                self.close([slot.state.get(name, torch.zeros_like(value)) for name, value in cell.state.items()], list(cell.state.values()))
        assert (model.generator is None) == (twin.generator is None)
        if twin.generator is not None:
            assert model.generator is not None and torch.equal(model.generator.get_state(), twin.generator.get_state()), "the generator"
        assert model.epochs_done == twin.epochs_done
        assert [m.training for m in model.modules()] == [twin.training, *(layer.training for layer in twin.walk())]

    def close(self, ours: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
        """Equal but for rounding, which is then removed, so that it does not grow."""
        assert len(ours) == len(expected)
        for a, b in zip(ours, expected):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
            b.copy_(a)


def test_life(count: Callable[[int, int], int], thorough: bool) -> None:
    phases = [Phase.generate, Phase.shrink] if thorough else [Phase.generate]  # shrinking takes minutes
    Life.engines = ["eager", "replay", *(["native"] if thorough and compiler.find_compiler() is not None else [])]
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=count(25, 500), stateful_step_count=count(20, 40), phases=phases, suppress_health_check=list(HealthCheck)
        ),
    )
