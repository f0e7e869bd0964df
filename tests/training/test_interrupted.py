"""Ctrl-C ends what is built on `fit` as a whole: no training that was cut off counts, and none begins after it."""

from __future__ import annotations

import contextvars
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.__main__ import main
from hotgrad.engines import ENGINES
from hotgrad.modules import CrossEntropy, Linear
from hotgrad.training import Sequential
from hotgrad.training.side_by_side import part, part_of_more, side_by_side

X, LABELS = hg.data.disc(60, seed=0)
EPOCHS = 5


def press() -> None:
    signal.raise_signal(signal.SIGINT)


class Presser:
    """A callback and a loss that press Ctrl-C in a training of their choice, and count the trainings that began."""

    def __init__(self, training: int, epoch: int = 2) -> None:
        self.training, self.epoch, self.began, self.ended = training, epoch, 0, 0

    def begin(self, model: Any) -> None:
        self.began += 1

    def end(self, model: Any, history: Any) -> None:
        self.ended += 1

    def __call__(self, model: Any, history: Any) -> None:
        if self.began == self.training and len(history) == self.epoch:
            press()


class PressingLoss(CrossEntropy):
    calls = 0

    def forward(self, output: Any, target: Any) -> Any:
        type(self).calls += 1
        if type(self).calls == 10:
            press()
        return super().forward(output, target)


def model(loss: Any = "cross_entropy") -> Sequential:
    return Sequential(Linear(2, 2), loss=loss, optimizer="sgd")


@pytest.fixture(autouse=True)
def _handler() -> Any:
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not part.get()


@pytest.mark.parametrize("epoch", [2, EPOCHS])
@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_cross_validate(engine: str, epoch: int) -> None:
    presser = Presser(2, epoch)
    with pytest.raises(KeyboardInterrupt, match="not finished: fold 2, fold 3, fold 4"):
        model().cross_validate(X, LABELS, n_splits=4, seed=0, epochs=EPOCHS, batch_size=20, engine=engine, callbacks=[presser])
    assert presser.began == presser.ended == 2


def test_fit_alone_returns_what_it_has() -> None:
    presser = Presser(1)
    assert len(model().fit(X, LABELS, EPOCHS, callbacks=[presser], verbose=0)) == 2
    with part_of_more(), pytest.raises(KeyboardInterrupt, match=f"ended after 2 of {EPOCHS} epochs"):
        model().fit(X, LABELS, EPOCHS, callbacks=[Presser(1)], verbose=0)


def test_what_was_trained_stays_with_the_model(tmp_path: Path) -> None:
    made, peer = model(), model()
    for one in (made, peer):
        one.reset(0)
    with part_of_more(), pytest.raises(KeyboardInterrupt):
        made.fit(X, LABELS, EPOCHS, callbacks=[Presser(1)], verbose=0, checkpoint=tmp_path / "run")
    peer.fit(X, LABELS, 2, verbose=0)
    assert made.epochs_done == 2
    assert torch.equal(made[0].weight.data, peer[0].weight.data)
    assert (tmp_path / "run").exists()


def test_fit_many() -> None:
    PressingLoss.calls = 0
    made: list[Sequential] = []

    def make() -> Sequential:
        made.append(model(PressingLoss()))
        return made[-1]

    with pytest.raises(KeyboardInterrupt, match="not finished: seed 5, seed 6, seed 7"):
        hg.fit_many(make, X, LABELS, epochs=EPOCHS, seeds=[4, 5, 6, 7], jobs=1, engine="eager")
    assert made[0].epochs_done == EPOCHS
    assert made[1].epochs_done < EPOCHS
    assert made[2].epochs_done == made[3].epochs_done == 0


def test_estimators() -> None:
    pytest.importorskip("sklearn")
    from sklearn.model_selection import cross_val_score

    from hotgrad.sklearn import HotClassifier, HotRegressor

    folds: list[Any] = []

    def second(model: Any, history: Any) -> None:  # unlike a Presser, not copied with the estimator
        folds.append(model)
        if len(folds) == EPOCHS + 2:
            press()

    with pytest.raises(KeyboardInterrupt):
        cross_val_score(HotRegressor((2,), epochs=EPOCHS, callbacks=[second]), X.numpy(), LABELS.numpy(), cv=3)
    assert len(folds) == EPOCHS + 2
    made = HotClassifier((2,), epochs=EPOCHS).fit(X.numpy(), LABELS.numpy())
    before = made.predict(X.numpy())
    made.set_params(callbacks=[Presser(1)])
    with pytest.raises(KeyboardInterrupt):
        made.fit(X.numpy(), ["yes" if label else "no" for label in LABELS])
    assert (made.predict(X.numpy()) == before).all()  # as it was


def test_an_exception_out_of_a_callback() -> None:
    def raising(model: Any, history: Any) -> None:
        raise KeyboardInterrupt("now")

    with pytest.raises(KeyboardInterrupt, match="not finished: fold 1, fold 2"):
        model().cross_validate(X, LABELS, n_splits=2, callbacks=[raising])


def test_while_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*arguments: Any) -> Any:
        press()
        raise AssertionError("not reached")

    monkeypatch.setattr(ENGINES["native"], "prepare", compile_)
    for engine in ("native", "auto"):
        with pytest.raises(KeyboardInterrupt, match="not finished: fold 1, fold 2"):
            model().cross_validate(X, LABELS, n_splits=2, epochs=10**7, batch_size=1, engine=engine)


def test_on_threads() -> None:
    """The main thread, which hears of it, waits; the others train."""
    began = threading.Barrier(3)

    def train(made: Sequential) -> None:
        began.wait(60)
        made.fit(X, LABELS, 10**7, 20, verbose=0, engine="replay")

    def kill() -> None:
        began.wait(60)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    models = [model() for _ in range(4)]
    threading.Thread(target=kill, daemon=True).start()
    finished: list[Any] = []
    with pytest.raises(KeyboardInterrupt, match="not finished: a, b, c, d"):
        finished = side_by_side([lambda made=made: train(made) for made in models], 2, list("abcd"))  # type: ignore[misc]
    assert not finished
    assert models[3].epochs_done == 0


def test_other_contexts_are_left_alone() -> None:
    with part_of_more():
        seen = contextvars.Context().run(part.get)
    assert not seen


COMMANDS: dict[str, tuple[list[str], str, str]] = {
    "runs on threads": (["disc", "--runs", "4", "--jobs", "2", "--epochs", "300000"], "disc:", "not finished: seed 0"),
    "a table": (["csv", "t.csv", "--target", "y", "--epochs", "10000000"], "network", "interrupted"),
}


@pytest.mark.skipif(os.name != "posix", reason="no such signals")
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line(command: str, tmp_path: Path) -> None:
    arguments, waits_for, says = COMMANDS[command]
    (tmp_path / "t.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 7 + 0.5}" for i in range(80)))
    start = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from hotgrad.__main__ import main; sys.exit(main())"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", start, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        assert process.stdout is not None
        while waits_for not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert says in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_runs_that_were_finished_are_reported(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    fit, count = Sequential.fit, [0]

    def fitting(self: Sequential, *arguments: Any, **settings: Any) -> Any:
        count[0] += 1
        return fit(self, *arguments, **settings, callbacks=[Presser(1, 2)] if count[0] == 3 else [])

    monkeypatch.setattr(Sequential, "fit", fitting)
    assert main(["disc", "--runs", "4", "--epochs", "3", "--seed", "5"]) == 130
    printed = capsys.readouterr()
    assert "2 runs in" in printed.out
    assert "run   2/4" in printed.out
    assert "run   3/4" not in printed.out
    assert printed.err == "interrupted; not finished: seed 7, seed 8\n"
