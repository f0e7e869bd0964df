"""Training, files and estimators, given what they do not take: an error that says what was got, and nothing has changed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import same, weights
from torch.utils.data import DataLoader

import hotgrad as hg
from hotgrad.checks import finite_number, shown, whole_number
from hotgrad.errors import DataError, FileError, OperandError, SettingError

X, LABELS = hg.data.disc(40, seed=0)


def model() -> hg.Sequential:
    return hg.Sequential(hg.Linear(2, 4), hg.Tanh(), hg.Linear(4, 2), loss="cross_entropy", optimizer="sgd")


LOADER = DataLoader([(torch.zeros(2), 1)])  # type: ignore[arg-type]
CASES: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "seeds 2.5": (SettingError, r"seeds .*2\.5", lambda: hg.fit_many(model, X, LABELS, seeds=2.5)),  # type: ignore[arg-type]
    "seeds None": (SettingError, "seeds .*None", lambda: hg.fit_many(model, X, LABELS, seeds=None)),  # type: ignore[arg-type]
    "seeds True": (SettingError, "seeds .*True", lambda: hg.fit_many(model, X, LABELS, seeds=True)),
    "seeds text": (SettingError, "seeds .*'1'", lambda: hg.fit_many(model, X, LABELS, seeds="12")),  # type: ignore[arg-type]
    "seeds inside": (SettingError, "seeds .*None", lambda: hg.fit_many(model, X, LABELS, seeds=[1, None])),  # type: ignore[list-item]
    "seeds many": (SettingError, "so many", lambda: hg.fit_many(model, X, LABELS, seeds=10**7)),
    "a model": (OperandError, "make_model is a function", lambda: hg.fit_many(model(), X, LABELS, seeds=2)),  # type: ignore[arg-type]
    "no model": (OperandError, "make_model .*None", lambda: hg.fit_many(None, X, LABELS, seeds=2)),  # type: ignore[arg-type]
    "min_delta text": (SettingError, "min_delta .*'a'", lambda: hg.EarlyStopping(min_delta="a")),  # type: ignore[arg-type]
    "min_delta None": (SettingError, "min_delta .*None", lambda: hg.EarlyStopping(min_delta=None)),  # type: ignore[arg-type]
    "min_delta huge": (SettingError, "min_delta", lambda: hg.EarlyStopping(min_delta=10**5000)),
    "restore_best": (SettingError, "restore_best .*'no'", lambda: hg.EarlyStopping(restore_best="no")),  # type: ignore[arg-type]
    "lr huge": (SettingError, "lr must", lambda: hg.optim.SGD(lr=10**400)),
    "lr larger": (SettingError, "lr must .*16610 bits", lambda: hg.optim.SGD(lr=10**5000)),
    "lr array": (SettingError, "lr must", lambda: hg.optim.SGD(lr=np.ones(3))),  # type: ignore[arg-type]
    "lr tensor": (SettingError, "lr must", lambda: hg.optim.SGD(lr=torch.ones(3))),  # type: ignore[arg-type]
    "lr complex": (SettingError, "lr must", lambda: hg.optim.SGD(lr=1j)),  # type: ignore[arg-type]
    "seed huge": (SettingError, "seed must", lambda: model().fit(X, LABELS, seed=10**5000)),
    "predict a loader": (OperandError, "x: a DataLoader .*torch.cat", lambda: model().predict(LOADER)),
    "classify a data set": (OperandError, "x: a .*Dataset .*torch.stack", lambda: model().classify(torch.utils.data.TensorDataset(X, LABELS))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_wrong_arguments(name: str) -> None:
    kind, says, call = CASES[name]
    with pytest.raises(kind, match=says):
        call()


def test_arguments_of_other_types_that_are_right() -> None:
    assert [len(h) for _, h in hg.fit_many(model, X, LABELS, seeds=np.int64(2))] == [1, 1]  # type: ignore[arg-type]
    assert [len(h) for _, h in hg.fit_many(model, X, LABELS, seeds=np.array([3, 4]))] == [1, 1]  # type: ignore[arg-type]
    assert finite_number("x", np.float32(2)) == whole_number("x", np.int8(2)) == 2
    assert shown(2) == "2"


def test_gradients_of_what_is_no_function() -> None:
    from hotgrad.testing import check_gradients

    with pytest.raises(OperandError, match="got 3 as the function"):
        check_gradients(3, torch.ones(2))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer", [0.5, 0, 1, "stop", [], np.array([1, 2]), torch.tensor(True), hg.Variable(1.0), NotImplemented], ids=lambda a: f"{a!r:.12}"
)
@pytest.mark.parametrize("engine", ["eager", "replay"])
def test_what_a_callback_may_not_return(answer: Any, engine: Any) -> None:
    trained, ended = model(), []

    class Ends:
        def __call__(self, model: Any, history: Any) -> Any:
            ended.append(len(history))
            return answer if len(history) == 2 else None

    trained.reset(0)
    trained.fit(X, LABELS, 1, seed=0, verbose=0, engine=engine)
    after_one = weights(trained)
    trained.reset(0)
    with pytest.raises(OperandError, match=rf"the callback .*Ends.* returned {re.escape(repr(answer)[:20])}"):
        trained.fit(X, LABELS, 5, seed=0, verbose=0, engine=engine, callbacks=[Ends()])
    assert ended == [1, 2], "raised at that moment"
    assert same(weights(trained), after_one), "as at the end of the last completed epoch"


@pytest.mark.parametrize(("answer", "epochs"), [(True, 1), (np.bool_(True), 1), (False, 3), (np.bool_(False), 3), (None, 3)])
def test_what_a_callback_may_return(answer: Any, epochs: int) -> None:
    assert len(model().fit(X, LABELS, 3, verbose=0, callbacks=[lambda model, history: answer])) == epochs


class Bytes:
    def __fspath__(self) -> bytes:
        return b"x"


PATHS: dict[str, tuple[Any, type[Exception]]] = {
    "None": (None, OperandError), "3": (3, OperandError), "77": (77, OperandError), "True": (True, OperandError), "bytes": (b"x", OperandError),
    "1.5": (1.5, OperandError), "PathLike of bytes": (Bytes(), OperandError), "nothing": ("", FileError), "NUL": ("a\0b", FileError), "surrogate": ("\ud800", FileError),
    "long": ("a" * 300, FileError), "deep": ("a/" * 3000 + "b", FileError), "slash": ("new/", FileError), "there/": ("there/", FileError), "folder": ("folder", FileError),
    "through a file": ("there/x", FileError),
}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_paths_that_can_name_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    made, program = model(), hg.capture(lambda x: x * 2, torch.ones(2))
    made.save("there")
    before, content = weights(made), (tmp_path / "there").read_bytes()
    path, kind = PATHS[name]
    calls: list[Callable[[], Any]] = [
        lambda: made.save(path),
        lambda: made.load(path),
        lambda: program.save(path),
        lambda: hg.Program.load(path),
    ]
    if path is not None:
        calls.append(lambda: made.fit(X, LABELS, verbose=0, checkpoint=path))
    for call in calls:
        with pytest.raises(kind):
            call()
    assert same(weights(made), before)
    assert (tmp_path / "there").read_bytes() == content
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "there"]


def test_estimators() -> None:
    pytest.importorskip("sklearn")
    from hotgrad.sklearn import HotClassifier, HotRegressor

    def wide(features: int, outputs: int) -> hg.Sequential:
        return hg.Sequential(hg.Linear(outputs + 1))

    rows, y = X.numpy(), LABELS.numpy()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"hidden": 3}, SettingError, "hidden .*got 3"),
        ({"hidden": None}, SettingError, "hidden .*got None"),
        ({"hidden": (2.5,)}, SettingError, r"hidden .*got 2\.5"),
        ({"hidden": "64"}, SettingError, "hidden .*got '6'"),
        ({"hidden": (0,)}, SettingError, "hidden .*got 0"),
        ({"optimizer": hg.optim.SGD}, OperandError, "an optimizer is a name or an object"),
        ({"optimizer": None}, OperandError, "an optimizer is .*got None"),
        ({"network": lambda a, b: None}, OperandError, "must return a Sequential; it returned None"),
        ({"network": hg.Linear}, OperandError, "must return a Sequential; it returned Linear"),
        ({"network": hg.Linear(2, 2)}, OperandError, "network is a function"),
        ({"network": model()}, OperandError, "network is a function"),
        ({"network": 3}, OperandError, "network is a function"),
        ({"network": wide}, SettingError, r"rows of \d numbers, one for each .*it gives \(1, \d\)"),
    ]
    for settings, kind, says in cases:
        for estimator in (HotClassifier, HotRegressor):
            with pytest.raises(kind, match=says):
                estimator(epochs=1, **settings).fit(rows, y)
            with pytest.raises((TypeError, ValueError)):
                estimator(epochs=1, **settings).fit(rows, y)
    assert issubclass(DataError, ValueError)
    made = HotClassifier(epochs=1, hidden=np.array([3, 2]), optimizer="sgd", random_state=0).fit(rows, y)
    assert made.predict_proba(rows).shape == (40, 2)
