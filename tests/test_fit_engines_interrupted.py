"""`fit` on captured programs that ends early, by an error, a loss that is not finite or Ctrl-C, and that is resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fitting import DEFAULT, ENGINES, EXACT, ROUNDING, compare, fit, made, state

import hotgrad as hg
from hotgrad.training.compiled import Compiled

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
