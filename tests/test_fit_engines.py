"""`fit` on captured programs: the same training as eager's, whatever the model, and the same when it is changed or interrupted."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.engines.compiler import find_compiler
from hotgrad.training import choice
from hotgrad.training.compiled import Compiled
from hotgrad.training.costs import Cost

ENGINES = ["replay", "native"]
QUICK = {"test_float64", "test_ctrl_c_in_the_middle", "test_a_checkpoint_after_a_failure"}
EXACT = {"replay"}  # those that without fusing give eager's bits

ROUNDING = 1e-4  # of the largest entry, after several epochs with momentum
BATCH = 8


@pytest.fixture(autouse=True)
def _native_in_full_runs(request: pytest.FixtureRequest, thorough: bool) -> None:
    """Compiling takes its time: by default only what `QUICK` names runs on the native engine."""
    if "native" in request.node.name and not thorough and request.node.name.split("[")[0] not in QUICK:
        pytest.skip("native: in the thorough run")


# ------------------------------------------------------------------------------------------------ models, losses, optimizers


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


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Compiled]]:
    """Without fusing; gives the runners that `fit` makes."""
    yield from recorded(monkeypatch, False)


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Compiled]]:
    yield from recorded(monkeypatch, True)


def recorded(monkeypatch: pytest.MonkeyPatch, fuse: bool) -> Iterator[list[Compiled]]:
    found: list[Compiled] = []

    class Recorded(Compiled):
        def start(self, engine: str, _: bool = True) -> None:
            found.append(self)
            super().start(engine, fuse)

    with monkeypatch.context() as patch:
        patch.setattr(choice, "Compiled", Recorded)
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


# ------------------------------------------------------------------------------------------------ the same training


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=NAMES)
def test_three_epochs_equal_eagers(combination: tuple[str, ...], engine: str, thorough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a smaller last batch and without; by default half of the combinations each."""
    for rows in (40, 43) if thorough else (40 + 3 * (COMBINATIONS.index(combination) % 2),):
        compare_engines(combination, rows, engine, monkeypatch)


def compare_engines(combination: tuple[str, ...], rows: int, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if combination in ROUGH and engine not in EXACT:
        pytest.skip("rounding grows without bound, so that only equality to the bit can be asked for")
    eager = made(combination)
    expected = fit(eager, "eager", combination, rows, validation_data=problem(combination[1], 9), seed=5)
    for fuse in (False,) if combination in ROUGH else (False, True):
        for _ in recorded(monkeypatch, fuse):
            model = made(combination)
            history = fit(model, engine, combination, rows, validation_data=problem(combination[1], 9), seed=5)
        assert history.engine == engine and not history.engine_note
        assert all(p.grad is None for p in model.parameters())
        assert model.training
        compare_histories(history, expected)
        compare(state(model), state(eager), 0.0 if engine in EXACT and not fuse else 1e-5)


def test_thirty_combinations() -> None:
    assert len(set(COMBINATIONS)) >= 30


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("combination", [DEFAULT, ("dropout", "mse", "adam"), ("gelu", "mse", "by step"), ("relu", "own", "nesterov")])
def test_two_fits_equal_one(combination: tuple[str, ...], engine: str) -> None:
    whole, parts = made(combination), made(combination)
    history = fit(whole, engine, combination, epochs=5, seed=3)
    first = fit(parts, engine, combination, epochs=2, seed=3)
    torch.manual_seed(99)
    second = fit(parts, engine, combination, epochs=3)
    compare(state(whole), state(parts))
    assert [row["loss"] for row in history] == [row["loss"] for row in (*first, *second)]


@pytest.mark.parametrize("engine", ENGINES)
def test_many_epochs_at_once_equal_epochs_one_by_one(engine: str) -> None:
    """With nothing to look at in between, epochs run together."""
    together, single = made(), made()
    first = fit(together, engine, epochs=60, seed=3)
    second = fit(single, engine, epochs=60, seed=3, callbacks=[lambda model, history: None])
    compare(state(together), state(single))
    assert [row["loss"] for row in first] == [row["loss"] for row in second]


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_may_take_turns(engine: str, exactly: list[Compiled]) -> None:
    turns, eager = made(), made()
    for i in range(4):
        fit(turns, [engine, "eager"][i % 2], epochs=2, **({"seed": 3} if not i else {}))
    fit(eager, "eager", epochs=8, seed=3)
    compare(state(turns), state(eager), 0.0 if engine in EXACT else ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", [{"shuffle": False}, {"batch_size": 1}, {"batch_size": 43}, {"batch_size": 100}, {"batch_size": 42}])
def test_batch_sizes(settings: dict[str, Any], engine: str, exactly: list[Compiled]) -> None:
    combination = ("tanh", "cross_entropy", "adam")
    model, eager = made(combination), made(combination)
    compare_histories(fit(model, engine, combination, seed=1, **settings), fit(eager, "eager", combination, seed=1, **settings))
    compare(state(model), state(eager), 0.0 if engine in EXACT else ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
def test_float64(engine: str, exactly: list[Compiled]) -> None:
    model, eager = made().to(torch.float64), made().to(torch.float64)
    fit(model, engine, seed=1)
    fit(eager, "eager", seed=1)
    compare(state(model), state(eager), 0.0 if engine in EXACT else 1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_generator_of_its_own(engine: str) -> None:
    """The model's masks come from its generator alone; the global one gives one number, as with eager."""
    states = []
    for name in (engine, "eager"):
        model = made()
        model.use_generator(None)
        torch.manual_seed(5)
        fit(model, name)
        states.append((torch.get_rng_state(), model.generator.get_state()))  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(*states))


@pytest.mark.parametrize("engine", ENGINES)
def test_fit_in_threads(engine: str) -> None:
    models = [made() for _ in range(3)]
    threads = [threading.Thread(target=lambda m=m: fit(m, engine, seed=0)) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = made()
    fit(alone, engine, seed=0)
    for model in models:
        compare(state(model), state(alone))


# ------------------------------------------------------------------------------------------------ what is changed on the way


def _half(model: hg.Sequential) -> None:
    model.load_state_dict({name: t * 0.5 for name, t in model.state_dict().items()})


def _written(model: hg.Sequential) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.9)


def _data_set(model: hg.Sequential) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.9


def _reloaded(model: hg.Sequential) -> None:
    model.optimizer.load_state_dict(model.optimizer.state_dict())


CHANGES: dict[str, Callable[[hg.Sequential], Any]] = {
    "nothing": lambda m: None,
    "freeze": lambda m: m[0].freeze(),
    "freeze all but one": lambda m: (m.freeze(), m[-1].unfreeze()),
    "lr": lambda m: setattr(m.optimizer, "lr", 0.01),
    "lr a schedule": lambda m: setattr(m.optimizer, "lr", optim.StepLR(0.1, 3, 0.5, per="step")),
    "momentum": lambda m: setattr(m.optimizer.groups[0].settings, "momentum", 0.5),
    "clip_norm": lambda m: setattr(m.optimizer, "clip_norm", 0.01),
    "a layer": lambda m: m.__setitem__(2, hg.Tanh()),
    "one more layer": lambda m: m.append(hg.Tanh()),
    "Dropout's p": lambda m: setattr(m[3], "p", 0.6),
    "no Dropout": lambda m: m.__setitem__(3, hg.ReLU()),
    "BatchNorm's momentum": lambda m: setattr(m[1], "momentum", 0.5),
    "a buffer": lambda m: m[1].running_mean.zero_(),
    "a buffer replaced": lambda m: m[1].register_buffer("running_mean", torch.ones(6)),
    "eval": lambda m: m.eval(),
    "train": lambda m: m.train(),
    "load_state_dict": _half,
    "weights": _written,
    "data": _data_set,
    "the optimizer's state": _reloaded,
    "the optimizer's state cleared": lambda m: m.optimizer._slots()[0].state.clear(),
    "the loss": lambda m: setattr(m, "loss", lambda output, y: hg.nn.CrossEntropy()(output, y) * 2),
    "a new generator": lambda m: m.use_generator(torch.Generator().manual_seed(77)),
    "predict": lambda m: m.predict(torch.ones(2, 3)),
    "gradients": lambda m: m.loss(m(torch.ones(2, 3)), torch.tensor([0, 1])).backward(),
}
BETWEEN: dict[str, Callable[[hg.Sequential], Any]] = {
    "float64": lambda m: m.to(torch.float64),
    "a new optimizer": lambda m: setattr(m, "optimizer", optim.Adam(lr=0.01)),
    "a wider layer": lambda m: (m.__setitem__(-1, hg.Linear(6, 2)), m.reset(3)),
    "reset": lambda m: m.reset(1),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", {**CHANGES, **BETWEEN})
def test_changes_between_fits(change: str, engine: str, exactly: list[Compiled]) -> None:
    states = []
    for name in (engine, "eager"):
        model = made()
        fit(model, name, epochs=1, seed=1)
        {**CHANGES, **BETWEEN}[change](model)
        history = fit(model, name, epochs=2)
        states.append((state(model), history))
    compare(states[0][0], states[1][0], 0.0 if engine in EXACT else ROUNDING)
    compare_histories(states[0][1], states[1][1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_by_a_callback(change: str, engine: str, exactly: list[Compiled]) -> None:
    states = []
    for name in (engine, "eager"):
        model = made()

        def callback(model: Any, history: Any) -> None:
            if len(history) == 2:
                CHANGES[change](model)

        history = fit(model, name, epochs=4, seed=1, callbacks=[callback], validation_data=blobs(9))
        states.append((state(model), history))
    compare(states[0][0], states[1][0], 0.0 if engine in EXACT else ROUNDING)
    compare_histories(states[0][1], states[1][1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [40, 43])
def test_early_stopping_and_its_best_weights(rows: int, engine: str, exactly: list[Compiled]) -> None:
    states = []
    for name in (engine, "eager"):
        model = made(("noisy", "cross_entropy", "adam"))
        stop = hg.EarlyStopping(patience=2)
        history = fit(model, name, rows=rows, epochs=40, seed=1, callbacks=[stop], validation_data=blobs(9))
        states.append((state(model), len(history)))
    assert states[0][1] == states[1][1]
    compare(states[0][0], states[1][0], 0.0 if engine in EXACT else ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_for_callbacks(engine: str) -> None:
    seen: list[Any] = []

    def look(model: Any, history: Any) -> None:
        seen.append([p.grad is not None for p in model.parameters()])

    look.needs_gradients = True  # type: ignore[attr-defined]
    model = made()
    before = state(model)
    with pytest.raises(hg.SettingError, match="gradients"):
        fit(model, engine, callbacks=[look], seed=1)
    assert torch.equal(before["model.0.weight"], state(model)["model.0.weight"]) and not seen
    assert fit(model, "auto", callbacks=[look], seed=1).engine == "eager"
    assert seen == [[True] * 5] * 3


# ------------------------------------------------------------------------------------------------ what goes wrong on the way


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("attended", [True, False])
def test_a_loss_that_is_not_finite(attended: bool, engine: str, exactly: list[Compiled]) -> None:
    """It blows up after some epochs, which may have run together."""
    found = []
    for name in (engine, "eager"):
        model = made(("relu", "own", "sgd"))
        model.optimizer.lr = 0.3
        model.load_state_dict({key: 1.5 * t for key, t in model.state_dict().items()})
        with pytest.raises(hg.NonFiniteLossError, match=r"epoch \d+, batch \d+.*learning rate") as caught:
            fit(model, name, ("relu", "own", "sgd"), epochs=500, seed=1, callbacks=[lambda *_: None] if attended else [])
        error = caught.value
        found.append((state(model), error.epoch, error.batch, len(error.history)))
        assert error.epoch == len(error.history) + 1 == model.epochs_done + 1
    assert found[0][1:] == found[1][1:]
    compare(found[0][0], found[1][0], 0.0 if engine in EXACT else 1e-3)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_explodes_later(engine: str, exactly: list[Compiled]) -> None:
    found = []
    for name in (engine, "eager"):
        model = made()

        def explode(model: Any, history: Any) -> None:
            if len(history) == 2:
                model.optimizer.lr = 1e38

        with pytest.raises(hg.NonFiniteLossError, match="epoch 3") as caught:
            fit(model, name, epochs=9, seed=1, callbacks=[explode])
        found.append((state(model), caught.value.epoch, caught.value.batch, [row["loss"] for row in caught.value.history]))
    assert found[0][1:3] == found[1][1:3]
    assert found[0][3] == pytest.approx(found[1][3])
    compare(found[0][0], found[1][0], 0.0 if engine in EXACT else ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_callbacks_error_comes_out(engine: str, exactly: list[Compiled]) -> None:
    found = []
    for name in (engine, "eager"):
        model = made()

        def fail(model: Any, history: Any) -> None:
            if len(history) == 3:
                raise KeyError("a user's own")

        with pytest.raises(KeyError, match="a user's own"):
            fit(model, name, epochs=9, seed=1, callbacks=[fail])
        assert all(p.grad is None for p in model.parameters()) or name == "eager"
        found.append(state(model))
        fit(model, name, epochs=2)
        found.append(state(model))
    for a, b in zip(found[:2], found[2:]):
        compare(a, b, 0.0 if engine in EXACT else ROUNDING)


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_in_a_callback(engine: str) -> None:
    model, peer = made(), made()

    def interrupt(model: Any, history: Any) -> None:
        if len(history) == 3:
            signal.raise_signal(signal.SIGINT)

    assert len(fit(model, engine, epochs=9, seed=1, callbacks=[interrupt])) == 3
    fit(peer, engine, epochs=3, seed=1)
    compare(state(model), state(peer))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rows", [40, 4003])
def test_ctrl_c_in_the_middle(rows: int, engine: str) -> None:
    model, peer = made(), made()
    pressed: list[float] = []

    def press() -> None:
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is still capturing
            time.sleep(0.01)
        time.sleep(0.3)
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    history = fit(model, engine, rows=rows, epochs=10**7, seed=1)
    assert pressed and time.perf_counter() - pressed[0] < 20  # all the epochs would take minutes at least
    assert len(history) == model.epochs_done
    if history:
        fit(peer, engine, rows=rows, epochs=len(history), seed=1)
        compare(state(model), state(peer))
    assert all(p.grad is None for p in model.parameters())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("combination", [DEFAULT, ("gelu", "mse", "by step"), ("relu", "huber", "rmsprop, centered")])
def test_resuming_from_a_checkpoint(combination: tuple[str, ...], engine: str, tmp_path: Path) -> None:
    whole = made(combination)
    history = fit(whole, engine, combination, epochs=5, seed=3)
    file = tmp_path / "run"
    fit(made(combination), engine, combination, epochs=2, seed=3, checkpoint=file)
    resumed = made(combination)
    found = fit(resumed, engine, combination, epochs=5, seed=3, checkpoint=file)
    compare(state(resumed), state(whole))
    assert [row["loss"] for row in found] == [row["loss"] for row in history]
    automatic = made(combination)
    assert fit(automatic, "auto", combination, epochs=6, seed=3, checkpoint=file).engine == engine


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_after_a_failure(engine: str, tmp_path: Path) -> None:
    def fail(model: Any, history: Any) -> None:
        if len(history) == 3 and failing:
            raise KeyError("a user's own")

    failing, file, whole, resumed = True, tmp_path / "run", made(), made()
    with pytest.raises(KeyError):
        fit(made(), engine, epochs=5, seed=3, checkpoint=file, callbacks=[fail])
    failing = False
    fit(resumed, engine, epochs=5, seed=3, checkpoint=file, callbacks=[fail])
    fit(whole, engine, epochs=5, seed=3)
    compare(state(resumed), state(whole))


# ------------------------------------------------------------------------------------------------ what cannot be captured


def reads(x: Any) -> Any:
    return x * (1.0 + 0.0 * float(x.sum()))


def branches(x: Any) -> Any:
    return x if x.sum() > 0 else x * 2


class Counting(hg.Module):
    calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += 1
        return x * (1 + self.calls % 2)


def raises(x: Any) -> Any:
    if isinstance(x, hg.Variable) and type(x) is not hg.Variable:
        raise ValueError("something of its own")
    return x


UNCAPTURABLE: dict[str, Callable[[], Any]] = {
    "reads": lambda: reads, "branches": lambda: branches, "counts": Counting, "raises": lambda: raises,
    "torch": lambda: lambda x: x * torch.ones(6),
    "random": lambda: lambda x: x * torch.rand(6),
}  # fmt: skip


def uncapturable(kind: str) -> hg.Sequential:
    model = hg.Sequential(hg.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), UNCAPTURABLE[kind](), hg.Linear(6, 2))
    model.loss, model.optimizer = "cross_entropy", optim.Adam(lr=0.01)
    model.reset(0)
    model.optimizer.bind(list(model.parameters()))
    return model


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("generator", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in UNCAPTURABLE if kind != "random"])
def test_an_engine_asked_for_says_why_not(kind: str, generator: bool, engine: str) -> None:
    model = uncapturable(kind)
    if not generator:
        model.use_generator(None)
    before, own, chosen, drawn = state(model), model.generator, model.optimizer, torch.get_rng_state()
    with pytest.raises(hg.CaptureError):
        fit(model, engine, seed=4 if generator else None)
    after = state(model)
    compare(after, before)
    assert model.generator is own and model.optimizer is chosen
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("kind", UNCAPTURABLE)
def test_auto_warns_once_and_trains_eagerly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FEW", 0)
    model, peer = uncapturable(kind), uncapturable(kind)
    calls = getattr(model[3], "calls", 0)
    with pytest.warns(hg.EngineWarning, match="eager") as caught:
        history = fit(model, "auto", seed=1)
    assert len([w for w in caught if issubclass(w.category, hg.EngineWarning)]) == 1
    assert caught[0].filename == __file__, "it stands where fit was called"
    assert history.engine == "eager" and "captured" in history.engine_note
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fit(model, "auto")
    assert again.engine_note
    if kind not in ("random", "counts"):
        fit(peer, "eager", seed=1)
        fit(peer, "eager")
        compare(state(model), state(peer))
    assert getattr(model[3], "calls", 0) >= calls


def test_auto_takes_what_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "FEW", 0)
    monkeypatch.setattr(choice, "estimates", lambda *_: {"eager": Cost(0.0, 2.0), "replay": Cost(0.0, 1.0)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = fit(made(), "auto", seed=1)
    assert history.engine == "replay" and not history.engine_note


def test_unknown_engine() -> None:
    with pytest.raises(hg.SettingError, match="replay"):
        fit(made(), "repaly")


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_input_is_still_bad(engine: str) -> None:
    model = made()
    with pytest.raises(hg.DataError):
        model.fit(torch.full((3, 3), float("nan")), torch.zeros(3, dtype=torch.int64), engine=engine)
    with pytest.raises(hg.HotgradError):
        model.fit(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), engine=engine)


# ------------------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize("kind", MODELS)
def test_predictions_have_the_same_bits_each_time(kind: str) -> None:
    model, (x, _) = made((kind, "cross_entropy", "sgd")), blobs(11)
    first = model.predict(x)
    results = [model.predict(x) for _ in range(6)]
    assert all(torch.equal(result, first) for result in results)
    kept = [result.clone() for result in results]
    model.predict(x + 1)
    assert all(torch.equal(a, b) for a, b in zip(results, kept)), "results are tensors of their own"
    _written(model)
    fresh = made((kind, "cross_entropy", "sgd"))
    fresh.predict(x)  # sizes lazy layers
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(model.predict(x), fresh.predict(x))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MODELS)
def test_predictions_follow_training(kind: str, engine: str) -> None:
    """And so do validation columns, whose program is kept from epoch to epoch."""
    combination = (kind, "cross_entropy", "adam")
    model, (x, y) = made(combination), blobs(11)
    for _ in range(2):
        history = fit(model, engine, combination, epochs=5, seed=1, validation_data=(x, y))
        peer = made(combination)
        peer.predict(x)
        peer.load_state_dict(model.state_dict())
        assert torch.equal(model.predict(x), peer.predict(x))
        assert history[-1]["val_loss"] == peer.evaluate(x, y)["loss"]
        assert history[-1]["val_accuracy"] == model.score(x, y)


def test_predictions_after_changes() -> None:
    for name, change in {**CHANGES, **BETWEEN}.items():
        model, (x, _) = made(), blobs(11)
        fit(model, "eager", seed=1)
        for _ in range(6):
            model.predict(x)
        change(model)
        found = model.predict(x)
        model._setup.predictor = None
        assert torch.equal(found, model.predict(x)), name


def test_predictions_of_what_cannot_be_captured() -> None:
    for kind in ("reads", "branches", "torch"):
        model, (x, _) = uncapturable(kind), blobs(11)
        for i in range(8):
            data = x if i % 2 else -x
            assert torch.equal(model.predict(data), model.eval()(data).data), kind


# ------------------------------------------------------------------------------------------------ memory


def test_steps_allocate_nothing(runners: list[Compiled], thorough: bool) -> None:
    """Of more than 64 bytes, nor do they free; `allocating` would name the ops that cannot do without."""
    combinations = COMBINATIONS[:: 1 if thorough else 5]
    for combination in combinations:
        fit(made(combination), "replay", combination, epochs=1, seed=1)
    engines = [(name, engine) for name, runner in zip(combinations, runners) for engine in runner.engines.values()]
    assert len(engines) > len(combinations)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        for name, engine in engines:
            with record_function("/".join(name)):
                for _ in range(10):
                    engine.step()
    found: dict[str, int] = {}
    for event in profiled.events():
        if abs(event.self_cpu_memory_usage) > 64:
            found[event.name] = max(found.get(event.name, 0), event.self_cpu_memory_usage)
    assert not found
    assert not {op for _, engine in engines for op in engine.allocating}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_stays_flat(engine: str, count: Callable[[int, int], int]) -> None:
    steps = count(3_000, 100_000)
    model = made(("noisy", "cross_entropy", "adam"))
    fit(model, engine, seed=1, epochs=steps // 60)
    before = resident()
    history = fit(model, engine, epochs=steps // 6)
    assert len(history) == steps // 6
    rows = sum(len(repr(row)) for row in history)
    assert resident() - before < 4 * 2**20 + 20 * rows, "the History grows, nothing else"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_flat_over_steps(count: Callable[[int, int], int], runners: list[Compiled]) -> None:
    fit(made(), "replay", seed=1)
    engine, *_ = runners[0].engines.values()
    for _ in range(200):
        engine.step()
    before = resident()
    for _ in range(count(5_000, 100_000)):
        engine.step()
    assert resident() - before < 2**20


def test_fits_again_and_again_keep_no_programs() -> None:
    model = made()
    found: list[Any] = []
    for _ in range(3):
        gc.collect()
        found.append((len(hg.tape()), sum(type(thing) is Compiled for thing in gc.get_objects())))
        fit(model, "replay", seed=1, epochs=1)
    assert found[1] == found[-1], "the programs of earlier fits are gone"


def test_a_model_that_predicted_can_be_copied_and_pickled() -> None:
    model = made()
    fit(model, "replay")
    x, _ = problem("cross_entropy", 9)
    outputs = [model.predict(x) for _ in range(6)]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.predict(x), outputs[-1])


@pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")
def test_what_changes_at_every_epoch_is_not_compiled_at_every_epoch() -> None:
    def train(engine: str) -> tuple[hg.Sequential, Any]:
        layer = Scaled()
        model = hg.Sequential(layer, hg.Linear(3, 2), loss="cross_entropy", optimizer="sgd")
        model.reset(0)

        def change(model: Any, history: Any) -> None:
            layer.factor = 1.0 + 0.1 * len(history)

        return model, fit(model, engine, epochs=8, seed=1, callbacks=[change])

    (eager, _), (native, history) = train("eager"), train("native")
    assert "replay after 4 changes" in history.engine_note
    compare(state(native), state(eager), 1e-4)


class Scaled(hg.Module):
    """Depends on a number that a callback changes."""

    factor = 1.0

    def forward(self, x: Any) -> Any:
        return x * self.factor


def test_predictions_run_a_users_forward_once_each() -> None:
    class Counting(hg.Module):
        calls = 0

        def forward(self, x: Any) -> Any:
            Counting.calls += 1
            return x * 2.0

    model = hg.Sequential(Counting(), hg.Linear(3, 2))
    x, _ = problem("cross_entropy", 9)
    before = Counting.calls
    for _ in range(8):
        model.predict(x)
    calls = Counting.calls - before
    model.predict(x)
    assert Counting.calls - before == calls * 9 / 8
