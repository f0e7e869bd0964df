"""Levenberg-Marquardt: by itself, and in `fit` on every engine, with weights, frozen layers, checkpoints and own layers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = torch.sin(X[:, :1]) * X[:, 1:2] + 0.1
ENGINES = ("eager", "replay", "native")


class Own(hg.Sequential):
    """A class of a user's, of which it cannot be told that rows are independent."""


def made(kind: str = "plain", **settings: Any) -> hg.Sequential:
    layers: list[Any] = [hg.Linear(3, 5), hg.Tanh(), hg.Linear(5, 1)]
    if kind == "batch norm":
        layers.insert(1, hg.nn.BatchNorm1d(5))
    model = (Own if kind == "own" else hg.Sequential)(*layers, loss="mse", optimizer=hg.optim.LevenbergMarquardt(**settings))
    model.reset(0)
    return model


def weights(model: hg.Sequential) -> torch.Tensor:
    return torch.cat([p.data.reshape(-1) for p in model.parameters()])


def losses(history: Any) -> list[float]:
    return [row["loss"] for row in history]


@pytest.mark.parametrize("kind", ("plain", "own", "batch norm"))
@pytest.mark.parametrize("dense", (1000, 0))
def test_engines_agree(kind: str, dense: int) -> None:
    found, ends = [], []
    for engine in ENGINES:
        model = made(kind, max_dense=dense, max_iter=2)
        history = model.fit(X, Y, epochs=3, seed=1, engine=engine, verbose=False)
        assert history.engine == engine
        found.append(losses(history))
        ends.append(weights(model))
    assert all(torch.allclose(torch.tensor(found[0]), torch.tensor(other), rtol=2e-3) for other in found[1:])
    assert all(torch.allclose(ends[0], other, rtol=5e-2, atol=5e-3) for other in ends[1:])
    assert found[0][-1] < found[0][0] / 1.5


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_are_the_losses(engine: str) -> None:
    """What History shows is what evaluate gives, and never rises."""
    model = made()
    before = model.evaluate(X, Y)["loss"]
    history = model.fit(X, Y, epochs=6, engine=engine, verbose=False)
    assert history[0]["loss"] == pytest.approx(before, rel=1e-5)
    found = losses(history)
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(found)) and model.evaluate(X, Y)["loss"] <= found[-1] * (1 + 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reduction", ("mean", "sum"))
def test_sample_weights(engine: str, reduction: str) -> None:
    """A linear model in one step: the solution of weighted least squares."""
    w = torch.rand(40, generator=torch.Generator().manual_seed(1))
    model = hg.Sequential(hg.Linear(3, 2), loss=hg.MSE(reduction), optimizer=hg.optim.LevenbergMarquardt(damping=1e-8))
    model.reset(0)
    targets = torch.cat([Y, -Y], 1)
    model.fit(X, targets, epochs=3, sample_weight=w, engine=engine, verbose=False)
    a, root = torch.cat([X, torch.ones(40, 1)], 1), w.sqrt()[:, None]
    wanted = torch.linalg.lstsq(a * root, targets * root).solution
    assert torch.allclose(torch.cat([model[0].weight.data, model[0].bias.data[None]]), wanted, atol=2e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_layers_stay(engine: str) -> None:
    model = made()
    model[0].freeze()
    before = model[0].weight.data.clone()
    history = model.fit(X, Y, epochs=4, engine=engine, verbose=False)
    assert torch.equal(before, model[0].weight.data) and history[-1]["loss"] < history[0]["loss"]
    model.unfreeze()
    model.fit(X, Y, epochs=2, engine=engine, verbose=False)
    assert not torch.equal(before, model[0].weight.data)
    model.freeze()
    with pytest.raises(hg.HotgradError):
        model.fit(X, Y, epochs=2, engine=engine, verbose=False)


class Thaw:
    """Changes what the residuals depend on after the second epoch."""

    def __call__(self, model: Any, history: Any) -> None:
        if len(history) == 2:
            model[0].freeze()
        if len(history) == 4:
            model[0].unfreeze()
            model.loss.reduction = "sum"


def test_callbacks_that_change_things() -> None:
    found = []
    for engine in ENGINES:
        model = made(max_iter=1)
        history = model.fit(X, Y, epochs=6, engine=engine, verbose=False, callbacks=[Thaw()], validation_data=(X, Y))
        found.append(torch.tensor(losses(history)))
    assert all(torch.allclose(found[0], other, rtol=1e-2) for other in found[1:])
    assert found[0][4] > 10 * found[0][3], "the sum"


def test_the_state_goes_into_checkpoints(tmp_path: Path) -> None:
    whole = made()
    whole.fit(X, Y, epochs=6, engine="native", seed=0, verbose=False)
    part = made()
    part.fit(X, Y, epochs=3, engine="native", seed=0, verbose=False, checkpoint=str(tmp_path / "c"))
    resumed = made()
    resumed.fit(X, Y, epochs=6, engine="native", seed=0, verbose=False, checkpoint=str(tmp_path / "c"))
    assert torch.equal(weights(whole), weights(resumed))
    other = made().optimizer
    other.bind(made().parameters())
    with pytest.raises(hg.FileError):
        other.load_state_dict({**resumed.optimizer.state_dict(), "memory": {"steps": []}})


def test_auto_trains_dropout_eagerly_and_says_why() -> None:
    model = hg.Sequential(hg.Linear(3, 5), hg.nn.Dropout(0.2), hg.Linear(5, 1), loss="mse", optimizer="levenbergmarquardt")
    with pytest.raises(hg.CaptureError, match="draws random numbers"):
        model.fit(X, Y, epochs=2, engine="native", verbose=False)
    with pytest.warns(hg.EngineWarning, match="random numbers"):
        assert model.fit(X, Y, epochs=150, verbose=False).engine == "eager"


@pytest.mark.parametrize("engine", ("auto", *ENGINES))
def test_losses_without_residuals_are_refused(engine: str) -> None:
    model = made()
    before = weights(model)
    with pytest.raises((hg.SettingError, hg.CaptureError), match="needs a loss that knows its residuals"):
        model.fit(X, Y, epochs=2, loss="l1", engine=engine, verbose=False)
    with pytest.raises(hg.SettingError, match="full batches"):
        model.fit(X, Y, epochs=2, batch_size=8, engine=engine, verbose=False)
    assert torch.equal(before, weights(model))


class Relative(hg.nn.Loss):
    """Squares of relative errors, with residuals of its own."""

    function = staticmethod(lambda output, target, reduction: (((output - target) / (abs(target) + 1)) ** 2).sum())

    def residuals(self, output: Any, target: Any, weights: Any = None) -> Any:
        return (output - target) / (abs(target) + 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_of_ones_own(engine: str) -> None:
    model = made()
    history = model.fit(X, Y, epochs=10, loss=Relative(), engine=engine, verbose=False)
    assert history[-1]["loss"] < history[0]["loss"] / 100


def test_alone() -> None:
    t = torch.linspace(0, 1, 10, dtype=torch.float64)
    a, b = hg.Parameter(torch.tensor(1.0, dtype=torch.float64)), hg.Parameter(torch.tensor([1.0], dtype=torch.float64))
    for dense in (1000, 0):
        a.data.fill_(1.0)
        b.data.fill_(1.0)
        optimizer = hg.optim.LevenbergMarquardt([a, b], max_dense=dense)
        first = optimizer.step(lambda: (a * hg.exp(-b * t) - 3 * (-2 * t).exp()).reshape(2, 5))
        assert first.item() == pytest.approx(float(((-t).exp() - 3 * (-2 * t).exp()).square().sum()))
        for _ in range(5):
            last = optimizer.step(lambda: a * hg.exp(-b * t) - 3 * (-2 * t).exp())
        assert abs(a.item() - 3) < 1e-6 and abs(b.item() - 2) < 1e-6 and last.item() < 1e-10
        assert a.grad is None and b.grad is None
    at = a.data.clone()
    assert optimizer.step(lambda: a * 0 + 2.0 + 0 * b).item() == 4.0 and torch.equal(a.data, at)


def test_where_nothing_helps_the_parameters_stay() -> None:
    w = hg.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = hg.optim.LevenbergMarquardt([w], max_tries=3)
    kink = lambda: hg.where(w.detach() == torch.tensor([1.0, -2.0]), w, w * 1e6)  # noqa: E731
    assert optimizer.step(kink).item() == 5.0 and w.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda w: hg.optim.LevenbergMarquardt([w]).step(), hg.OperandError, "step\\(residuals\\)"),
        (lambda w: hg.optim.LevenbergMarquardt([w]).step(lambda: 3.0), hg.OperandError, "return the residuals"),
        (lambda w: hg.optim.LevenbergMarquardt([w]).step(lambda: hg.Variable([1.0])), hg.TapeError, "depend on no parameter"),
        (lambda w: hg.optim.LevenbergMarquardt().step(lambda: w), hg.SettingError, "no parameters"),
        (lambda w: hg.optim.LevenbergMarquardt([w], damping=0.0), hg.SettingError, "damping"),
        (lambda w: hg.optim.LevenbergMarquardt([w], max_iter=0), hg.SettingError, "max_iter"),
        (lambda w: hg.optim.LevenbergMarquardt([{"params": [w]}, {"params": [hg.Parameter([1.0])]}]), hg.SettingError, "one group"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str) -> None:
    w = hg.Parameter([1.0, 2.0])
    with pytest.raises(error, match=words):
        call(w)
    assert w.tolist() == [1.0, 2.0]
