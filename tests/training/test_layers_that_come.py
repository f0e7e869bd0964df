"""Callbacks that change layers beside a checkpoint or EarlyStopping: what is kept fits, or it is said why not."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import blobs, compare, state

import hotgrad as hg
from hotgrad.training import checkpoint

X, Y = blobs(40)


def _double(x: Any) -> Any:
    return x * 2


CHANGES: dict[str, tuple[Callable[[hg.Sequential], Any], str]] = {
    "a Linear": (lambda m: m.append(hg.Linear(2, 2)), r"3 \(Linear\) came in\."),
    "a lazy Linear": (lambda m: m.append(hg.Linear(2)), r"3 \(Linear\) came in\."),
    "a Linear and a Tanh": (lambda m: m.append(hg.Tanh()).append(hg.Linear(2, 2), "last"), r"3 \(Tanh\) came in; last \(Linear\) came in\."),
    "no parameters": (lambda m: m.append(hg.Tanh()), r"3 \(Tanh\) came in\."),
    "a function": (lambda m: m.append(_double), r"3 \(_double\) came in\."),
    "another kind": (lambda m: m.__setitem__(1, hg.ReLU()), r"1 became ReLU, and is Tanh here\."),
    "another size": (lambda m: (m.__setitem__(0, hg.Linear(3, 5)), m.__setitem__(2, hg.Linear(5, 2))), r"0\.weight became \(3, 5\), and is \(3, 6\) here;"),
    "a block": (lambda m: m.append(hg.Sequential(hg.Linear(2, 4), hg.nn.BatchNorm1d(4), hg.Linear(4, 2))), r"3 \(Sequential\) came in\."),
    "a layer less": (lambda m: m.__setitem__(2, _pair), r"2 became _pair, and is Linear here\."),
}  # fmt: skip


def _pair(x: Any) -> Any:
    return x[:, :2]


def made(change: Callable[[hg.Sequential], Any] = lambda m: None) -> hg.Sequential:
    model = hg.Sequential(hg.Linear(3, 6), hg.Tanh(), hg.Linear(6, 2), loss="cross_entropy", optimizer="adam")
    change(model)
    return model


def run(model: hg.Sequential, epochs: int, path: Path | None, *callbacks: Any, **more: Any) -> Any:
    return model.fit(X, Y, epochs=epochs, batch_size=8, seed=3, verbose=0, checkpoint=path, callbacks=callbacks, **more)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_resumes_with_the_layers_of_the_end(name: str, killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, says = CHANGES[name]
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)

    def grow(model: hg.Sequential, history: Any) -> None:
        if len(history) == 3:
            torch.manual_seed(7)
            change(model)
        if (
            len(history) == 5 and not (tmp_path / "killed").exists() and (tmp_path / "c").exists()
        ):  # as a process that is killed now leaves it
            shutil.copy(tmp_path / "c", tmp_path / "killed")

    torch.manual_seed(0)
    whole = made()
    before = {name: t.clone() for name, t in whole.state_dict().items()}
    expected = run(whole, 8, None, grow)
    first = made()
    first.load_state_dict(before)
    run(first, 5, tmp_path / "c", grow)
    path = tmp_path / ("killed" if killed else "c")
    fresh = made()
    kept = state(fresh)
    with pytest.raises(hg.FileError, match=f"layers changed during that training: {says}") as caught:
        run(fresh, 8, path, grow)
    assert "broken" not in str(caught.value) and "Build the model with the layers" in str(caught.value)
    compare({k: v for k, v in state(fresh).items() if k.startswith("model")}, {k: v for k, v in kept.items() if k.startswith("model")})
    grown = made(change)
    found = run(grown, 8, path, grow)
    assert found.column("loss") == expected.column("loss")
    compare(state(grown), state(whole))


def test_a_failure_right_after_the_change(tmp_path: Path) -> None:
    """The file is of the epoch before, and of its layers."""

    def grow(model: hg.Sequential, history: Any) -> None:
        if len(history) == 3 and failing:
            model.append(hg.Linear(2, 2))
            raise KeyError("a user's own")

    failing = True
    with pytest.raises(KeyError):
        run(made(), 5, tmp_path / "c", grow)
    failing = False
    with pytest.raises(hg.FileError, match=r"3 \(Linear\) is not in it\."):
        run(made(CHANGES["a Linear"][0]), 5, tmp_path / "c", grow)
    assert len(run(made(), 5, tmp_path / "c", grow)) == 5


def test_other_layers_are_another_run(tmp_path: Path) -> None:
    def grow(model: hg.Sequential, history: Any) -> None:
        if len(history) == 3:
            model.append(hg.Linear(2, 2))

    run(made(), 5, tmp_path / "c", grow)
    with pytest.raises(hg.FileError, match="another run"):
        run(made(lambda m: m.append(hg.Tanh())), 8, tmp_path / "c", grow)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("when", [2, 3, 6])
@pytest.mark.parametrize("name", ["a Linear", "another size", "a block", "a layer less"])
def test_early_stopping_counts_anew(name: str, when: int, first: bool) -> None:
    """Training ends with the best weights of the epochs since; at the end of the last one with those there are."""

    def grow(model: hg.Sequential, history: Any) -> None:
        if len(history) == when:
            CHANGES[name][0](model)

    seen = []
    stopping = hg.EarlyStopping("val_loss", patience=20)
    callbacks = [grow, stopping] if first else [stopping, grow]
    model = made()
    model.optimizer = hg.optim.SGD(lr=3.0, momentum=0.9)
    with pytest.warns(RuntimeWarning, match="EarlyStopping.*best weights so far, of epoch .*do not fit the model after epoch"):
        torch.manual_seed(0)
        history = run(model, 6, None, *callbacks, lambda m, h: seen.append(state(m)), validation_data=(X, Y))
    assert len(history) == 6
    best = stopping.best_epoch or 6
    assert best > when or best == 6
    compare(
        {k: v for k, v in state(model).items() if k.startswith("model")}, {k: v for k, v in seen[best - 1].items() if k.startswith("model")}
    )


def test_early_stopping_does_not_mind_layers_without_weights() -> None:
    def grow(model: hg.Sequential, history: Any) -> None:
        if len(history) == 2:
            model.append(hg.Tanh())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(run(made(), 5, None, hg.EarlyStopping("loss"), grow)) == 5
