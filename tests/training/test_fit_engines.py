"""`fit` on captured programs: the same training as eager's, whatever the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from fitting import (
    COMBINATIONS,
    DEFAULT,
    ENGINES,
    EXACT,
    NAMES,
    ROUGH,
    ROUNDING,
    compare,
    compare_histories,
    fit,
    made,
    problem,
    recorded,
    state,
)

import hotgrad as hg
from hotgrad.training.captured import Compiled

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_float64"}


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
def test_few_outputs_of_many_inputs(engine: str) -> None:
    """With such sizes the gradient of a weight is computed as the transpose of a product, but in the last, smaller batch."""
    x = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    states = []
    for name in (engine, "eager"):
        model = hg.Sequential(hg.Linear(64, 64), hg.Tanh(), hg.Linear(64, 10), loss="cross_entropy", optimizer="adam")
        model.reset(0)
        model.fit(x, torch.arange(300) % 10, epochs=2, batch_size=128, seed=1, verbose=0, engine=name)
        states.append(state(model))
    compare(*states, 0.0 if engine in EXACT else ROUNDING)


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
