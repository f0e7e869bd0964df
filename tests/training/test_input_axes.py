"""The axes and columns of x: those of what the model was trained on. A single row is not taken for many."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.modules import Conv2d, Dropout, Flatten, LayerNorm, Linear, Module, ReLU, Residual
from hotgrad.training import Sequential

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 1, 0])


def model() -> Sequential:
    return Sequential(Linear(2, 2), loss="cross_entropy", optimizer="sgd")


def trained() -> Sequential:
    made = model()
    made.fit(X, Y, seed=0, verbose=0)
    return made


USES: dict[str, Callable[[Sequential], Any]] = {
    "predict": lambda m: m.predict(X[0]),
    "classify": lambda m: m.classify(X[0]),
    "classify a list": lambda m: m.classify([0.5, 0.5]),
    "score": lambda m: m.score(X[0], Y[:2]),
    "evaluate": lambda m: m.evaluate(X[0], Y[:2]),
    "fit": lambda m: m.fit(X[0], Y[:2], verbose=0),
    "validation_data of other axes": lambda m: m.fit(X, Y, validation_data=(X[0][None, :, None], Y[:1]), verbose=0),
    "validation_data": lambda m: m.fit(X, Y, validation_data=(X[0], Y[:2]), verbose=0),
    "cross_validate": lambda m: m.cross_validate(X[0], Y[:2], n_splits=2),
    "fit_many": lambda m: hg.fit_many(lambda: m, X[0], Y[:2], seeds=1),
    "a lot of axes": lambda m: m.predict(X[0, 0]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("make", [model, trained])
def test_one_row_is_refused_with_the_remedy(make: Callable[[], Sequential], use: str) -> None:
    with pytest.raises(ValueError, match=r"x\[:1\]|at least one axis|of 2 axes"):
        USES[use](make())
    assert make().classify(X[:1]).shape == (1,)


def copied_by_file(made: Sequential, folder: Path) -> Sequential:
    made.save(folder / "model")
    return anything().load(folder / "model")


def anything() -> Sequential:
    """Takes rows of any number of axes."""
    return Sequential(lambda v: v.reshape((v.shape[0], -1)), Linear(2, 2), loss="cross_entropy", optimizer="sgd")


COPIES: dict[str, Callable[[Sequential, Path], Sequential]] = {
    "itself": lambda m, folder: m,
    "deepcopy": lambda m, folder: copy.deepcopy(m),
    "save and load": copied_by_file,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_trained_model_knows_its_axes(kind: str, tmp_path: Path) -> None:
    made = anything()
    made.predict(X[:, :, None])
    made.fit(X, Y, verbose=0)
    made = COPIES[kind](made, tmp_path)
    for bad in (X[:, :, None], X[0], X[:, None]):
        with pytest.raises(hg.ShapeError, match="was trained on x of 2 axes"):
            made.predict(bad)
        with pytest.raises(hg.ShapeError, match="was trained on x of 2 axes"):
            made.fit(bad, Y[: len(bad)], verbose=0)
    made.predict(X)
    made.reset()
    made.fit(X[:, :, None], Y, verbose=0)
    with pytest.raises(hg.ShapeError, match=r"of 3 axes.* For a single row"):
        made.predict(X)


def test_pickles_and_checkpoints_know_them_too(tmp_path: Path) -> None:
    made = pickle.loads(pickle.dumps(trained()))
    with pytest.raises(hg.ShapeError, match="was trained on"):
        made.classify(X[0])
    for _ in range(2):
        made = model()
        made.fit(X, Y, verbose=0, seed=0, checkpoint=tmp_path / "run")
        with pytest.raises(hg.ShapeError, match="was trained on"):
            made.classify(X[0])


def test_files_from_before_can_be_read(tmp_path: Path) -> None:
    hg.files.write(tmp_path / "old", "model", {"state": hg.training.state.Snapshot(trained()).tree, "optimizer": "SGD"})
    assert model().load(tmp_path / "old").predict(X).shape == (6, 2)


class Own(Module):
    def __init__(self) -> None:
        self.layers = [Linear(2, 2)]

    def forward(self, x: Any) -> Any:
        return self.layers[0](x * 2)


# models never trained, an x that fits, a row of it
UNTRAINED: dict[str, tuple[Callable[[], Any], torch.Tensor]] = {
    "Linear": (lambda: Linear(2, 2), X),
    "a lazy Linear": (lambda: Linear(2), X),
    "after others": (lambda: Sequential(Dropout(0.5), Sequential(ReLU(), Linear(2, 2))), X),
    "LayerNorm": (lambda: LayerNorm((1, 2)), X[:, None]),
    "Residual": (lambda: Residual(Linear(2, 2)), X),
    "Flatten": (lambda: Flatten(), X[:, None]),
    "Conv2d": (lambda: Conv2d(1, 2, 1), X[:, None, None]),
    "a module of one's own": (Own, X),
    "a function": (lambda: lambda v: v @ torch.ones(2, 2), X),
    "one feature": (lambda: Linear(1, 1), X[:, :1]),
}


@pytest.mark.parametrize("kind", UNTRAINED)
def test_before_training_the_first_layers_tell(kind: str) -> None:
    layer, x = UNTRAINED[kind]
    made = Sequential(layer(), loss="mse")
    assert len(made.predict(x)) == len(x)
    for row in (x[0], x[0].flatten()):
        if row.ndim == 1 or kind != "Flatten":  # (1, 2) is a row of one feature, too
            with pytest.raises(hg.ShapeError):
                made.predict(row)
            with pytest.raises(hg.ShapeError):
                Sequential(layer(), loss="mse").predict(row)


def test_a_refused_row_sizes_nothing() -> None:
    for first in (Linear(2), Own()):
        made = Sequential(first, Linear(3))
        with pytest.raises(hg.ShapeError):
            made.predict(X[0])
        assert made.predict(X).shape == (6, 3)


def test_numbers_as_rows() -> None:
    """What takes x of shape (n,) may have it."""

    class Table(Module):
        def __init__(self) -> None:
            self.rows = hg.Parameter(torch.rand(5, 2))

        def forward(self, x: Any) -> Any:
            return self.rows[x.data]

    made = Sequential(Table(), loss="cross_entropy", optimizer="sgd")
    assert made.predict([0, 4, 2]).shape == (3, 2)
    made.fit([0, 4, 2], [0, 1, 0], verbose=0)
    assert made.classify([1, 2]).shape == (2,)
    curve = Sequential(lambda v: v.reshape((-1, 1)), Linear(1, 1), loss="mse", optimizer="sgd")
    curve.fit([0.0, 1.0, 2.0], [[0.0], [1.0], [2.0]], verbose=0)
    assert curve.predict([3.0]).shape == (1, 1)


def test_another_first_layer_may_take_other_rows() -> None:
    made = trained()
    made[0] = Sequential(Flatten(), Linear(4, 2))
    assert made.predict(torch.ones(3, 2, 2)).shape == (3, 2)


def test_frames_have_the_columns_of_training(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X.double().numpy(), columns=["a", "b"])
    bad = {
        "lacks 'b' and has in addition 'c'": frame.rename(columns={"b": "c"}),
        "has its columns in another order": frame[["b", "a"]],
        "has in addition 'c'": frame.assign(c=1.0),
    }
    for says, other in bad.items():
        with pytest.raises(hg.errors.DataError, match=f"^validation x {says}"):
            model().fit(frame, Y, validation_data=(other, Y), verbose=0)
    made = model()
    made.predict(frame[["b", "a"]])  # never trained
    made.fit(frame, Y, validation_data=(frame, Y), verbose=0)
    made.save(tmp_path / "model")
    for one in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), model().load(tmp_path / "model")):
        for says, other in bad.items():
            for use in (one.predict, one.classify, lambda x: one.score(x, Y), lambda x: one.fit(x, Y), lambda x: one.cross_validate(x, Y)):  # noqa: B023
                with pytest.raises(hg.errors.DataError, match=f"^x {says}.*trained on the columns"):
                    use(other)
        assert torch.equal(one.predict(frame), one.predict(frame.to_numpy()))
        one.predict(pandas.DataFrame(X.double().numpy()))  # columns that are only numbered
    made.reset()
    made.fit(frame[["b", "a"]], Y, verbose=0)
