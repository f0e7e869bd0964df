"""`fit` on captured programs that ends early, by an error, a loss that is not finite or Ctrl-C, and that is resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import BATCH, DEFAULT, ENGINES, EXACT, ROUNDING, compare, fit, made, state

import hotgrad as hg
from hotgrad import optim
from hotgrad.core import modes
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.training import captured
from hotgrad.training.captured import Compiled
from hotgrad.training.side_by_side import part_of_more

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_ctrl_c_in_the_middle", "test_a_checkpoint_after_a_failure"}


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
    pressed = threading.Event()

    def press() -> None:
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is still capturing
            time.sleep(0.01)
        time.sleep(0.3)
        pressed.set()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    history = fit(model, engine, rows=rows, epochs=10**7, seed=1)
    assert pressed.is_set() and len(history) == model.epochs_done < 10**7  # which would take minutes at least
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("combination", [DEFAULT, ("gelu", "mse", "by step"), ("dropout", "mse", "adam")])
@pytest.mark.parametrize("rows", [43, 40])
def test_steps_noted_a_few_at_a_time(rows: int, combination: tuple[str, ...], engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, split = made(combination), made(combination)
    expected = fit(whole, engine, combination, rows=rows, epochs=6, seed=3)
    monkeypatch.setattr(captured, "STEPS", 2)
    monkeypatch.setattr(captured, "TOGETHER", 3)
    found = fit(split, engine, combination, rows=rows, epochs=6, seed=3)
    compare(state(split), state(whole))
    assert [{**row, "seconds": 0} for row in found] == [{**row, "seconds": 0} for row in expected]


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_among_steps_that_are_noted(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers and random arrays of a long epoch are not all computed first."""
    monkeypatch.setattr(captured, "STEPS", 8)
    counted = 0

    class Pressing(optim.Schedule):
        def step_end(self) -> None:
            nonlocal counted
            super().step_end()
            counted += 1
            if counted == 700:
                signal.raise_signal(signal.SIGINT)

    found = []
    for epochs in (1, 9):
        model, counted = made(), 0
        model.optimizer.lr = Pressing(0.05, per="step")
        assert len(fit(model, engine, rows=500 * BATCH, epochs=epochs, seed=0, callbacks=[lambda *_: None])) == 1
        found.append(state(model))
    assert 700 <= counted < 700 + 2 * 8
    compare(*found)


@pytest.mark.parametrize("engine", ["replay", "auto"])
def test_ctrl_c_while_capturing(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain fit returns an empty History; what is built on it raises. The model is as before, and can be trained."""
    monkeypatch.setattr("hotgrad.training.engine_choice.FEW", 0)
    pressed = 0

    def layer(x: Any) -> Any:
        nonlocal pressed
        if modes.state.trace is not None and not pressed:
            pressed += 1
            signal.raise_signal(signal.SIGINT)
        return x * 1

    for part in (False, True):
        model = hg.Sequential(hg.Linear(3, 4), layer, hg.Linear(4, 2), loss="cross_entropy", optimizer="adam")
        before, random, pressed = model.state_dict(), torch.get_rng_state(), 0
        before = {name: t.clone() for name, t in before.items()}
        with part_of_more() if part else nullcontext(), pytest.raises(KeyboardInterrupt) if part else nullcontext():
            history = fit(model, engine, epochs=300)
            assert len(history) == 0 and "interrupted" in history.engine_note
        assert pressed == 1 and modes.state.trace is None
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert not model.optimizer.groups and model.generator is None and torch.equal(random, torch.get_rng_state())
        assert len(fit(model, engine, epochs=2, seed=0)) == 2
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_compiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    compiler = tmp_path / "cc"
    body = f"exec 3>{tmp_path / 'pipe'}; kill -INT {os.getpid()}; sleep 60"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo "fake 1.0";; *-dM*) exec cc "$@";; *) {body};; esac\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    find_compiler.cache_clear()
    try:
        model = made()
        before = state(model)
        assert len(fit(model, "native", epochs=30)) == 0
        compare(state(model), before)
    finally:
        find_compiler.cache_clear()
    os.set_blocking(pipe, True)
    with open(pipe) as lines:
        assert lines.read() == ""  # its end comes when no process is left to write


@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_ctrl_c_in_a_training_that_a_callback_runs(engine: str) -> None:
    """Ends that one and the one around it."""
    model, inner = made(), made()
    lengths = []

    def press(inner: Any, history: Any) -> None:
        if len(history) == 2:
            signal.raise_signal(signal.SIGINT)

    def train(model: Any, history: Any) -> None:
        lengths.append(len(fit(inner, engine, epochs=50, seed=1, callbacks=[press])))

    assert len(fit(model, engine, epochs=50, seed=1, callbacks=[train])) == 1
    assert lengths == [2] and inner.epochs_done == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
