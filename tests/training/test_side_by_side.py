"""Trainings side by side on threads give what they give one after the other."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.__main__ import main
from hotgrad.training.side_by_side import side_by_side, stopping

X, LABELS = hg.data.disc(90, seed=0)


def make() -> hg.Sequential:
    return hg.Sequential(
        hg.Linear(2, 8), hg.nn.BatchNorm1d(8), hg.ReLU(), hg.nn.Dropout(0.2), hg.Linear(8, 2), loss="cross_entropy", optimizer="adam"
    )


def parameters(model: hg.Sequential) -> torch.Tensor:
    return torch.cat([p.data.reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("engine", ["eager", "replay", "auto"])
def test_fit_many_equals_fit_one_by_one(engine: str) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 20, "engine": engine}
    many = hg.fit_many(make, X, LABELS, seeds=[3, 1, 4], jobs=3, **settings)
    for seed, (model, history) in zip([3, 1, 4], many):
        alone = make()
        alone.reset(seed)
        expected = alone.fit(X, LABELS, seed=seed, verbose=0, **settings)
        assert torch.equal(parameters(alone), parameters(model))
        assert expected.column("loss") == history.column("loss")
        assert history.engine == expected.engine


def test_models_are_made_in_order_before_any_training() -> None:
    made: list[tuple[str, int]] = []

    def noted() -> hg.Sequential:
        made.append((threading.current_thread().name, len(made)))
        return make()

    hg.fit_many(noted, X, LABELS, epochs=1, seeds=4, jobs=2)
    assert made == [(threading.main_thread().name, i) for i in range(4)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": 2, "jobs": 0}, "jobs must be"),
        ({"seeds": 2, "seed": 1}, "takes no seed"),
        ({"seeds": 2, "checkpoint": "x"}, "takes no checkpoint"),
        ({"seeds": 2, "callbacks": [hg.EarlyStopping("loss")]}, "takes no callbacks"),
        ({"seeds": 2, "optimizer": hg.optim.SGD()}, "takes no optimizer"),
    ],
)
def test_what_several_trainings_cannot_share(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(hg.HotgradError, match=says):
        hg.fit_many(make, X, LABELS, **settings)


def test_each_training_needs_a_model_of_its_own() -> None:
    model = make()
    with pytest.raises(hg.OperandError, match="same model twice"):
        hg.fit_many(lambda: model, X, LABELS, seeds=2)
    with pytest.raises(hg.OperandError, match="must return a Sequential"):
        hg.fit_many(lambda: hg.Linear(2, 2), X, LABELS, seeds=2)  # type: ignore[arg-type, return-value]


def test_the_first_error_comes_out_and_stops_the_others() -> None:
    begun = threading.Event()
    stopped: list[bool] = []

    def wrong() -> None:
        begun.wait(60)
        raise KeyError("wrong")

    def patient() -> None:
        event = stopping.get()
        assert event is not None
        begun.set()
        stopped.append(event.wait(60))

    with pytest.raises(KeyError, match="wrong"):
        side_by_side([patient, wrong, patient], jobs=3)
    assert stopped and all(stopped)


def test_a_stop_ends_trainings_between_steps() -> None:
    model = make()
    model.reset(0)
    event = threading.Event()
    done: list[hg.History] = []

    def train() -> None:
        stopping.set(event)
        done.append(model.fit(X, LABELS, epochs=10**6, batch_size=20, verbose=0, engine="replay"))

    thread = threading.Thread(target=train)
    thread.start()
    while model.epochs_done < 2 and thread.is_alive():
        time.sleep(0.05)
    event.set()
    thread.join(30)
    assert not thread.is_alive()
    assert 0 < len(done[0]) < 10**6


def test_cross_validation_on_threads() -> None:
    model = make()
    one = model.cross_validate(X, LABELS, n_splits=3, seed=5, epochs=2)
    assert model.cross_validate(X, LABELS, n_splits=3, seed=5, epochs=2, jobs=3) == one
    with pytest.raises(hg.SettingError, match="callbacks"):
        model.cross_validate(X, LABELS, jobs=2, callbacks=[hg.EarlyStopping("loss")])


def test_runs_of_the_experiment_side_by_side(capsys: Any) -> None:
    def table(*arguments: str) -> list[str]:
        assert main(["disc", "--runs", "3", "--epochs", "2", *arguments]) == 0
        lines = capsys.readouterr().out.splitlines()
        return sorted(line.split("seed")[1] for line in lines if line.startswith("run")) + [li for li in lines if li.startswith("test")]

    assert table("--jobs", "2") == table()
