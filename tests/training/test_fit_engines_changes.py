"""`fit` on captured programs of models that are changed on the way or cannot be captured, and what they predict afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fitting import ENGINES, EXACT, MODELS, ROUNDING, blobs, compare, compare_histories, fit, made, state

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.engines.costs import Cost
from hotgrad.training import engine_choice
from hotgrad.training.captured import Compiled

pytestmark = pytest.mark.usefixtures("native_in_full_runs")


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


def _layer(*sizes: int) -> Any:
    layer = hg.Linear(*sizes)
    layer.reset_parameters(torch.Generator().manual_seed(3))
    return layer


def _two(x: Any) -> Any:
    return x[:, :2] * 2


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
    "one more Linear": lambda m: m.append(_layer(2, 2)),
    "one more Linear, sized later": lambda m: m.append(hg.Linear(2)),
    "Linear and Dropout more": lambda m: (m.append(_layer(2, 6)), m.append(nn.Dropout(0.5)), m.append(_layer(6, 2))),
    "another Linear": lambda m: m.__setitem__(-1, _layer(6, 2)),
    "a Linear less": lambda m: m.__setitem__(-1, _two),
    "another Parameter": lambda m: setattr(m[-1], "bias", hg.Parameter(torch.tensor([0.5, -0.5]))),
    "a Linear frozen": lambda m: m.append(_layer(2, 2).freeze()),
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


def _l1(model: hg.Sequential) -> None:
    model.loss = "l1"


def _summed(model: hg.Sequential) -> None:
    model.loss.reduction = "sum"


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
@pytest.mark.parametrize("weighted", [(), ("rows",)])
@pytest.mark.parametrize("change", [_l1, _summed])
def test_another_loss_set_by_a_callback_is_what_trains(change: Callable[[Any], None], weighted: tuple[str, ...], engine: str) -> None:
    combination = ("tanh", "mse", "sgd", *weighted)
    parts, whole = made(combination), made(combination)
    parts.loss, whole.loss = nn.MSE(), nn.MSE()
    first = fit(parts, engine, combination, epochs=2, seed=1)
    change(parts)
    second = fit(parts, engine, combination, epochs=2)
    history = fit(whole, engine, combination, epochs=4, seed=1, callbacks=[lambda m, h: change(m) if len(h) == 2 else None])
    compare(state(whole), state(parts))
    assert history.column("loss") == [row["loss"] for row in (*first, *second)]


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
@pytest.mark.parametrize("change", [lambda m: setattr(m, "optimizer", "adam"), lambda m: m.reset(5)])
def test_another_optimizer_set_by_a_callback_is_refused(change: Callable[[Any], None], engine: str) -> None:
    model, peer = made(), made()
    optimizer = model.optimizer
    with pytest.raises(hg.SettingError, match=r"another optimizer.*call fit again"):
        fit(model, engine, epochs=4, seed=1, callbacks=[lambda m, h: change(m) if len(h) == 2 else None])
    assert model.optimizer is optimizer
    fit(peer, engine, epochs=1, seed=1)
    compare(state(model), state(peer))


@pytest.mark.parametrize("kind", ["adamw", "lbfgs, short"])
def test_the_optimizers_state_follows_parameters_that_were_converted(kind: str, exactly: list[Compiled]) -> None:
    combination, states = ("tanh", "mse", kind), []
    for engine in ("eager", "replay"):
        model = made(combination).to(torch.float32)
        fit(model, engine, combination, seed=1)
        model.to(torch.float64)
        fit(model, engine, combination)
        states.append(state(model))
        assert all(t.dtype == torch.float64 for t in states[-1].values() if isinstance(t, torch.Tensor) and t.is_floating_point())
    compare(*states)


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


OUTSIDE = torch.ones(6)
UNCAPTURABLE: dict[str, Callable[[], Any]] = {
    "reads": lambda: reads, "branches": lambda: branches, "counts": Counting, "raises": lambda: raises,
    "torch": lambda: lambda x: x * OUTSIDE.sqrt(),
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
    monkeypatch.setattr(engine_choice, "FEW", 0)
    model, peer = uncapturable(kind), uncapturable(kind)
    calls = getattr(model[3], "calls", 0)
    with pytest.warns(hg.EngineWarning, match="eager") as caught:
        history = fit(model, "auto", seed=1)
    assert len([w for w in caught if issubclass(w.category, hg.EngineWarning)]) == 1
    assert caught[0].filename == fit.__code__.co_filename, "it stands where fit was called"
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
    monkeypatch.setattr(engine_choice, "FEW", 0)
    monkeypatch.setattr(engine_choice, "estimates", lambda *_: {"eager": Cost(0.0, 2.0), "replay": Cost(0.0, 1.0)})
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
