"""The estimators: scikit-learn's own checks, pipelines, grid searches."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import hotgrad as hg
from hotgrad import optim
from hotgrad.modules import Linear, Tanh
from hotgrad.sklearn import HotClassifier, HotRegressor
from hotgrad.training import EarlyStopping, Sequential

# scikit-learn up to 1.7 passes a generator, which pytest warns of.
OWN_CHECKS = parametrize_with_checks(
    [HotClassifier((16,), epochs=25, optimizer=optim.Adam(lr=0.01)), HotRegressor((16,), epochs=25, optimizer=optim.Adam(lr=0.01))]
)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(OWN_CHECKS.args[0], list(OWN_CHECKS.args[1]), **OWN_CHECKS.kwargs)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_in_a_pipeline_and_a_grid_search() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), HotClassifier(epochs=10, random_state=0))
    assert cross_val_score(pipe, x, y, cv=3).mean() > 0.94
    grid = {"hotclassifier__hidden": [(), (8,)], "hotclassifier__optimizer": ["rmsprop", optim.Adam(lr=0.01)]}
    search = GridSearchCV(pipe, grid, cv=2).fit(x, y)
    assert search.best_score_ > 0.93


def test_regression() -> None:
    x, y = load_diabetes(return_X_y=True)
    x, test_x, y, test_y = train_test_split(x, y, random_state=0)
    pipe = make_pipeline(StandardScaler(), HotRegressor((16,), epochs=20, random_state=0)).fit(x, y)
    assert pipe.score(test_x, test_y) > 0.3
    both = np.stack([y, -y], 1)
    found = HotRegressor(epochs=2, random_state=0).fit(x, both).predict(x)
    assert found.shape == both.shape


def test_settings() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    names = np.where(y == 1, "benign", "malignant")

    def network(features: int, outputs: int) -> Sequential:
        return Sequential(Linear(features, 5), Tanh(), Linear(outputs))

    first = HotClassifier(
        network=network,
        epochs=8,
        optimizer=optim.SGD(lr=0.1),
        class_weight={"malignant": 2.0},
        random_state=1,
        callbacks=[EarlyStopping("loss")],
    )
    one, two = clone(first).fit(x, names), clone(first).fit(x, names)
    assert (one.predict_proba(x) == two.predict_proba(x)).all()
    assert one.model_[1].__class__ is Tanh
    assert one.score(x, names) > 0.9
    assert set(one.predict(x)) == {"benign", "malignant"}
    one.network = None  # a local function
    assert pickle.loads(pickle.dumps(one)).score(x, names) == one.score(x, names)
    assert one.model_[0].weight.dtype is torch.float64
    assert clone(first).fit(x.astype("float32"), names).model_[0].weight.dtype is torch.float32
    assert clone(first).set_params(class_weight="balanced").fit(x, names).classes_.tolist() == ["benign", "malignant"]
    with pytest.raises(hg.errors.SettingError, match="epochs"):
        HotClassifier(epochs=0).fit(x, names)
    with pytest.raises(ValueError, match="adam"):
        HotClassifier(optimizer="adan").fit(x, names)


@pytest.mark.parametrize("offset", [0.0, -1e7, 1e8, 1.7e9])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_far_from_zero(offset: float, dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    y = x[:, 0] + offset
    made = HotRegressor((16,), epochs=60, random_state=0).fit(x.astype(dtype), y)
    assert made.predict(x.astype(dtype)).dtype == np.float64
    assert made.score(x.astype(dtype), y) > 0.95
    two = HotRegressor((16,), epochs=2, random_state=0).fit(x.astype(dtype), np.stack([y, np.full(200, 0.1)], 1))
    assert np.abs(two.predict(x.astype(dtype))[:, 1] - 0.1).max() < 1e-12  # a column of equal targets is predicted as it is


@pytest.mark.parametrize("power", [-1070, -1000, -560, -100, 0, 520, 990])
def test_targets_of_any_size(power: int) -> None:
    """A power of 2 changes no digit of what is learned; it did where squares of targets over- or underflow."""
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = np.stack([3 * x[:, 0] + 1, np.full(60, 0.75)], 1)
    plain, scaled = (HotRegressor((4,), epochs=5, random_state=0).fit(x, np.ldexp(y, p)).predict(x) for p in (0, power))
    assert (plain[:, 1] == 0.75).all(), "equal targets are predicted as they are"
    if power >= -1000:
        assert (scaled == np.ldexp(plain, power)).all()
    assert np.allclose(np.ldexp(scaled, -power), plain, rtol=0.2, atol=0.2)
    with pytest.raises(hg.DataError, match="beyond 1e\\+300"):
        HotRegressor().fit(x, np.ldexp(y, 1000))


@pytest.mark.parametrize(
    ("y", "weights", "says"),
    [
        (["no", "yes"], {"yess": 200.0}, "'yess', .* did you mean 'yes'"),
        (["no", "yes"], {"no": 1.0, 1: 2.0}, "names 1, "),
        ([0, 1], {"1": 2.0}, "names '1', "),
        ([0, 1], {2: 2.0}, "names 2, "),
        ([False, True], {"True": 2.0}, "names 'True', "),
        ([0.0, 1.0], {0.5: 2.0}, "names 0.5, "),
        ([0, 1], [1.0, 2.0, 3.0], "2 classes"),
        ([0, 1], "even", "balanced"),
        ([0, 1], {1: "2"}, "class_weight"),
    ],
)
def test_weights_of_unknown_classes(y: Any, weights: Any, says: str) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises((ValueError, TypeError), match=says) as caught:
        HotClassifier((4,), epochs=1, class_weight=weights).fit(x, np.array(y * 10))
    assert isinstance(caught.value, hg.HotgradError)


def test_weights_of_known_classes() -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    kinds = np.array(["no", "yes"])[(x[:, 0] > 0).astype(int)]
    heavy = HotClassifier((8,), epochs=60, optimizer=optim.Adam(lr=0.01), random_state=0, class_weight={"yes": 200.0}).fit(x, kinds)
    assert (heavy.predict(x)[kinds == "yes"] == "yes").all()
    assert (heavy.predict(x) == "yes").mean() > (kinds == "yes").mean() + 0.1
    for names, weights in ((x[:, 0] > 0, {True: 2}), (np.where(x[:, 0] > 0, 7, 3), {np.int64(7): 2.0}), (kinds, {np.str_("no"): 2.0})):
        HotClassifier((4,), epochs=1, class_weight=weights).fit(x, names)


@pytest.mark.parametrize("seed", [2**64, 2**32, -1, "x", 1.5])
def test_random_states_out_of_range(seed: Any) -> None:
    with pytest.raises(hg.errors.SettingError, match=r"random_state must be .*2\*\*32"):
        HotRegressor((2,), epochs=1, random_state=seed).fit([[0.0], [1.0]], [0.0, 1.0])
