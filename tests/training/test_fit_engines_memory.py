"""`fit` on captured programs: steps allocate nothing, memory stays flat, and no more is compiled or run than needed."""

from __future__ import annotations

import copy
import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import COMBINATIONS, ENGINES, compare, fit, made, problem, recorded, state
from torch.profiler import ProfilerActivity, profile, record_function

import hotgrad as hg
from hotgrad.engines.native import engine
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.training.captured import Compiled

pytestmark = pytest.mark.usefixtures("native_in_full_runs")


@pytest.fixture
def runners(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Compiled]]:
    """The runners that `fit` makes."""
    yield from recorded(monkeypatch, True)


def test_steps_allocate_nothing(runners: list[Compiled], thorough: bool) -> None:
    """Of more than 64 bytes, nor do they free; `allocating` would name the ops that cannot do without."""
    combinations = COMBINATIONS[:: 1 if thorough else 5]
    for combination in combinations:
        fit(made(combination), "replay", combination, epochs=1, seed=1)
    every = [(name, engine) for name, runner in zip(combinations, runners) for engine in runner.engines.values()]
    engines = [(name, engine) for name, engine in every if not engine.allocating]
    assert len(every) > len(combinations)
    assert {op for _, engine in every for op in engine.allocating} <= {"Convolution", "ConvolutionInput", "ConvolutionWeight"}
    assert len(engines) > 0.7 * len(every)
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
def test_a_number_that_changes_at_every_epoch_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it was another one for the first time: from then on the program is given it."""
    compiled: list[str] = []
    compile_source = engine._compiled

    def counting(text: str, *args: Any) -> Any:
        compiled.append(text)
        return compile_source(text, *args)

    monkeypatch.setattr(engine, "_compiled", counting)

    def train(name: str) -> tuple[hg.Sequential, Any]:
        layer = Scaled()
        model = hg.Sequential(layer, hg.Linear(3, 2), loss="cross_entropy", optimizer="sgd")
        model.reset(0)

        def change(model: Any, history: Any) -> None:
            layer.factor = 1.0 + 0.1 * len(history)

        return model, fit(model, name, epochs=8, seed=1, callbacks=[change])

    (eager, _), (native, history) = train("eager"), train("native")
    assert history.engine == "native" and not history.engine_note and len(compiled) == 2
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


@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_fits_leave_nothing_behind(engine: str, count: Callable[[int, int], int]) -> None:
    """Not even outside of Python's heap, where a copied generator leaves 3 KiB."""
    x, labels = hg.data.disc(20, seed=0)
    model = hg.Sequential(hg.Linear(2, 2), loss="cross_entropy", optimizer="adam")
    fits = count(120, 3000)

    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run() -> None:
        for _ in range(fits):
            model.fit(x, labels, seed=0, verbose=0, engine=engine)

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc")
    run()  # what is made once is made here
    before = resident()
    run()
    assert resident() - before < 1000 * fits
