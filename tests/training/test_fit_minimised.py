"""`fit` with an optimizer that evaluates the objective itself: each epoch is one step, on every engine and whatever else is asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import ENGINES, compare, compare_histories, fit, made, state

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.optim import lbfgs

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_each_epoch_is_one_step"}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "plain": lambda: optim.LBFGS(lr=0.1, max_iter=4),
    "search": lambda: optim.LBFGS(max_iter=3, line_search_fn="strong_wolfe"),
    "by epoch": lambda: optim.LBFGS(lr=optim.StepLR(0.2, 2, 0.5), max_iter=3),
    "by step": lambda: optim.LBFGS(lr=optim.CosineLR(0.2, 9, per="step"), max_iter=3),
    "plateau": lambda: optim.LBFGS(lr=optim.PlateauLR(0.2, patience=0, factor=0.5), max_iter=2),
    "clipped": lambda: optim.LBFGS(lr=0.1, max_iter=3, clip_norm=0.1),
}
COMBINATIONS = [
    ("relu", "mse", "plain"), ("dropout", "cross_entropy", "plain"), ("tanh", "mse", "search"), ("noisy", "cross_entropy", "by epoch"),
    ("dropout", "mse", "by step"), ("linear", "cross_entropy", "plateau"), ("batchnorm", "mse", "clipped"), ("lazy", "mse", "plain"),
]  # fmt: skip


def trained(engine: str, combination: tuple[str, ...], epochs: int = 9, **more: Any) -> tuple[Any, Any, int]:
    """The model, its History, and how often the optimizer was asked for a step."""
    model = made((*combination[:2], "lbfgs"))
    optimizer = OPTIMIZERS[combination[2]]()
    steps = 0
    step = optimizer.step

    def counted(closure: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(closure)

    optimizer.step = counted
    model.optimizer = optimizer
    history = fit(model, engine, (*combination[:2], "lbfgs"), epochs=epochs, seed=2, **more)
    return model, history, steps


@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
@pytest.mark.parametrize("combination", COMBINATIONS, ids="/".join)
def test_each_epoch_is_one_step(combination: tuple[str, ...], engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hotgrad.training.engine_choice.FEW", 1)
    expected, history, _ = trained("eager", combination)
    model, found, steps = trained(engine, combination)
    assert steps == len(found) == model.epochs_done == 9
    assert found.engine == engine or engine == "auto"
    compare_histories(found, history)
    compare(state(model), state(expected), 0.0 if found.engine in ("eager", "replay") else 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("extra", ["validation", "callback", "verbose", "checkpoint"])
def test_whatever_else_is_asked_for(extra: str, engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    combination = ("dropout", "mse", "by epoch")
    expected, history, _ = trained("eager", combination, 12)
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    more: dict[str, Any] = {
        "validation": {"validation_data": (x, y)}, "callback": {"callbacks": [lambda *_: None]}, "verbose": {"verbose": 3},
        "checkpoint": {"checkpoint": tmp_path / "file"},
    }[extra]  # fmt: skip
    if extra == "checkpoint":
        trained(engine, combination, 5, **more)
    model, found, steps = trained(engine, combination, 12, **more)
    assert steps == (7 if extra == "checkpoint" else 12)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in history], rel=1e-6)
    compare(state(model), state(expected), 0.0 if engine == "replay" else 1e-6)


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
def test_ctrl_c_within_a_step(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may last long; it ends between two evaluations, and the model stands as after the last epoch."""
    found = []
    evaluate = lbfgs._Run.evaluate
    for pressed in (True, False):
        model = made(("relu", "mse", "lbfgs"))
        model.optimizer = optim.LBFGS(lr=0.01, max_iter=4)
        evaluations = 0

        def counting(run: Any, pressed: bool = pressed) -> Any:
            nonlocal evaluations
            evaluations += 1
            if pressed and evaluations == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return evaluate(run)

        monkeypatch.setattr(lbfgs._Run, "evaluate", counting)
        history = fit(model, engine, ("relu", "mse", "lbfgs"), epochs=30 if pressed else len(found[0][1]), seed=1)
        found.append((state(model), history))
        assert not pressed or evaluations == 10
    assert 1 <= len(found[0][1]) < 4
    compare(found[0][0], found[1][0])


@pytest.mark.parametrize("engine", ENGINES)
def test_parameters_that_the_loss_does_not_reach(engine: str) -> None:
    class Spare(hg.Module):
        def __init__(self) -> None:
            self.layer, self.spare = hg.Linear(3, 2), hg.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.layer(x)

    found = []
    for name in ("eager", engine):
        model = hg.Sequential(Spare(), loss="mse", optimizer=optim.LBFGS(lr=0.2, max_iter=3)).to(torch.float64)
        nn_state = {key: torch.full_like(value, 0.3) for key, value in model.state_dict().items()}
        model.load_state_dict(nn_state)
        fit(model, name, ("own", "mse", "lbfgs"), epochs=4, seed=0)
        found.append(state(model))
    compare(found[1], found[0], 0.0 if engine == "replay" else 1e-6)


def test_no_step_evaluates_more_often_than_allowed() -> None:
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    for search in (None, "strong_wolfe"):
        for max_iter, max_eval in [(20, None), (1, None), (3, None), (20, 2), (20, 3), (20, 7), (50, 40), (5, 1)]:
            if max_eval == 1 and search:
                with pytest.raises(hg.SettingError, match="max_eval"):
                    optim.LBFGS(max_iter=max_iter, max_eval=max_eval, line_search_fn=search)
                continue
            w = hg.Parameter(torch.full((1, 1), 4.0, dtype=torch.float64))
            optimizer = optim.LBFGS([w], lr=0.9, max_iter=max_iter, max_eval=max_eval, line_search_fn=search, tolerance_change=0)
            evaluations, losses = 0, []

            def closure(w: Any = w, optimizer: Any = optimizer) -> Any:
                nonlocal evaluations
                evaluations += 1
                optimizer.zero_grad()
                loss = nn.MSE()((x @ w).tanh() * (x @ w), x * x)
                loss.backward()
                return loss

            for _ in range(6):
                evaluations = 0
                losses.append(optimizer.step(closure).item())
                assert evaluations <= (max_eval or max(max_iter * 5 // 4, 2))
            if search:
                assert losses == sorted(losses, reverse=True)
