"""`Sequential`: predicting and scoring, starting afresh, its layers, and copies of it."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import X, Y, net, noisy, same, weights

import hotgrad as hg
from hotgrad import optim
from hotgrad.data import disc
from hotgrad.modules import Linear, Module, ReLU, Sigmoid, Tanh
from hotgrad.training import Sequential
from hotgrad.training.evaluation import labels_of, r2
from hotgrad.training.side_by_side import stratified

# ------------------------------------------------------------------------------------------------ using a model


def test_nothing_is_recorded_and_modes_stay() -> None:
    model = noisy()
    model.fit(X, Y, epochs=1, batch_size=8, validation_data=(X, Y), verbose=0)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with hg.Tape() as tape:
        model.predict(X)
        model.score(X, Y)
        model.evaluate(X, Y)
        model.classify(X)
        assert len(tape) == 0
    assert [module.training for module in model.modules()] == modes
    model.fit(X, Y, batch_size=8, verbose=0)
    assert [module.training for module in model.modules()] == modes
    before = weights(model)
    assert torch.equal(model.predict(X), model.predict(X)), "no dropout"
    assert same(weights(model), before), "no statistics"
    assert type(model.predict(X)) is torch.Tensor


@pytest.mark.parametrize("batch_size", [1, 7, 39, 40, 1000])
def test_batch_size_changes_no_result(batch_size: int) -> None:
    model = noisy()
    torch.testing.assert_close(model.predict(X, batch_size), model.predict(X))
    assert model.score(X, Y, batch_size) == model.score(X, Y)
    assert model.evaluate(X, Y, batch_size) == pytest.approx(model.evaluate(X, Y), rel=1e-6)


def test_what_targets_mean() -> None:
    labels = torch.tensor([0, 1, 1])
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])
    column = torch.tensor([[0.0], [1.0], [1.0]])
    for y, columns in ((labels, 2), (signs, 2), ((signs + 1) / 2, 2), (column, 1), (2 * column - 1, 1), (column[:, 0], 1), (labels, 1)):
        found = labels_of(y, columns)
        assert found is not None
        assert found.tolist() == [0, 1, 1]
    for y, columns in (
        (torch.tensor([[0.5], [1.0]]), 1), (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), 2), (torch.tensor([0.0, 1.0]), 2),
        (torch.tensor([[0.2, 0.8], [0.0, 1.0]]), 2), (torch.zeros(2, 2, 2), 2), (torch.tensor([3, 4]), 1), (torch.tensor([-1, 1]), 2),
        (torch.tensor([[2.0], [1.0]]), 1),
    ):  # fmt: skip
        assert labels_of(y, columns) is None


def test_r2() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 3, generator=g), torch.randn(9, 3, generator=g)
    assert r2(a, b) == pytest.approx(sklearn.r2_score(b.double().numpy(), a.double().numpy()))
    b[:, 1] = 2
    assert r2(a, b) == pytest.approx(sklearn.r2_score(b.double().numpy(), a.double().numpy()))
    with pytest.raises(hg.ShapeError):
        r2(a, b[:, 0])


def test_r2_of_targets_that_do_not_vary() -> None:
    """Their mean may be a rounding beside them."""
    same = torch.full((7, 1), 0.1, dtype=torch.float64)
    assert r2(same, same) == 1
    assert r2(same + 1, same) == 0


def test_scores_far_from_zero() -> None:
    """Targets are compared in float64, whatever the model computes in."""
    y = 2.0**27 + torch.arange(8.0, dtype=torch.float64)[:, None]  # float32 tells multiples of 16 apart there
    model = Sequential(lambda v: v, loss="mse")
    x = torch.arange(8.0)[:, None] * 0 + 2.0**27
    assert model.score(x, y) == pytest.approx(1 - float((y - 2.0**27).square().sum() / (y - y.mean()).square().sum()))


def test_classify() -> None:
    one = Sequential(Linear(3, 1))
    with_sigmoid = Sequential(one[0], Sigmoid())
    assert torch.equal(one.classify(X), (one.predict(X)[:, 0] > 0).long())
    assert torch.equal(one.classify(X), with_sigmoid.classify(X))
    assert torch.equal(noisy().classify(X), noisy().predict(X).argmax(1))
    assert torch.equal(Sequential(one[0], Sequential(Sigmoid())).classify(X), one.classify(X))


@pytest.mark.parametrize("loss", ["mse", hg.nn.L1(), "huber", hg.functional.mse, "bce_with_logits"])
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_one_column_is_cut_between_the_two_targets(loss: Any, low: float, tmp_path: Path) -> None:
    if loss == "bce_with_logits" and low:
        low = 0.0
    x = torch.linspace(-1, 1, 40).reshape(-1, 1)
    labels = (x[:, 0] > 0.2).long()
    y = torch.where(labels == 1, 1.0, low).reshape(-1, 1)
    made = Sequential(Linear(1, 1), loss=loss, optimizer=hg.optim.SGD(lr=0.0))
    made[0].weight.data.fill_(1.0)
    made[0].bias.data.fill_(0.3)
    cut = 0.0 if low or loss == "bce_with_logits" else 0.5
    wanted = (made.predict(x)[:, 0] > cut).long()
    right = float((wanted == labels).double().mean())
    row = made.fit(x, y, verbose=0, validation_data=(x, y))[-1]
    assert row["accuracy"] == row["val_accuracy"] == right == made.score(x, y) == made.evaluate(x, y)["accuracy"]
    made.save(tmp_path / "model")
    again = Sequential(Linear(1, 1), loss=loss, optimizer="sgd").load(tmp_path / "model")
    for kept in (made, again, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(kept.classify(x), wanted)
    made.fit(x, y if loss == "bce_with_logits" else 2.5 * y, verbose=0)  # which are no labels
    assert torch.equal(made.classify(x), (made.predict(x)[:, 0] > 0).long())


def test_score_refuses_the_targets_that_fit_refuses() -> None:
    x, labels = torch.randn(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    made = Sequential(Linear(2, 2), loss="cross_entropy", optimizer="sgd")
    for wrong in (labels + 5, labels - 1, [2] * 6, labels * 2):
        for use in (made.score, made.evaluate, lambda x, y: made.fit(x, y, verbose=0)):
            with pytest.raises(hg.errors.RangeError, match="labels must be from 0 to 1, one for each of the output's 2 columns"):
                use(x, wrong)
    made = Sequential(Linear(2, 1), loss="mse", optimizer="sgd")
    for use in (made.score, made.evaluate, lambda x, y: made.fit(x, y, verbose=0)):
        with pytest.raises(hg.errors.ShapeError, match=r"Give target.reshape\(6, 1\)"):
            use(x, x[:, 0])


def test_scores_of_labels_and_one_hot_agree() -> None:
    model = net("mse")
    signs = 2 * torch.nn.functional.one_hot(Y).float() - 1
    assert model.score(X, Y) == model.score(X, signs) == float((model.classify(X) == Y).double().mean())


# ------------------------------------------------------------------------------------------------ fresh starts


def test_reset() -> None:
    model = noisy()
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    model.reset(0)
    fresh = noisy()
    assert same(weights(model), weights(fresh))
    assert model.epochs_done == 0
    for each in (model, fresh):
        each.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert same(weights(model), weights(fresh))


def test_cross_validate() -> None:
    model = noisy()
    model.fit(X, Y, batch_size=8, verbose=0)
    before = weights(model)
    scores = model.cross_validate(X, Y, n_splits=5, seed=1, epochs=4, batch_size=8)
    assert scores.keys() == {"train_score", "test_score"}
    assert [len(values) for values in scores.values()] == [5, 5]
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
    assert same(weights(model), before)
    assert model.cross_validate(X, Y, n_splits=5, seed=1, epochs=4, batch_size=8) == scores
    with pytest.raises(hg.errors.SettingError, match="checkpoint"):
        model.cross_validate(X, Y, checkpoint="x")
    with pytest.raises(hg.errors.SettingError, match="class_weight"):
        model.cross_validate(X, Y, sample_weight=torch.ones(40))
    regression = net("mse", outputs=1).cross_validate(X, X.sum(1, keepdim=True), n_splits=2, optimizer=optim.SGD(lr=0.1), epochs=20)
    assert min(regression["test_score"]) > 0
    for n_splits in (1, 41, 2.0):
        with pytest.raises(hg.errors.SettingError):
            model.cross_validate(X, Y, n_splits=n_splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [20, 23])
def test_folds_are_stratified(rows: int) -> None:
    labels = (torch.arange(rows) % 5 == 0).long()
    pairs = stratified(rows, 4, labels, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([test for _, test in pairs]).sort().values, torch.arange(rows))
    for train, test in pairs:
        assert not set(train.tolist()) & set(test.tolist())
        assert len(train) + len(test) == rows
        assert abs(float(labels[test].sum()) - float(labels.sum()) / 4) <= 1
        assert abs(len(test) - rows / 4) < 1


# ------------------------------------------------------------------------------------------------ Sequential itself


def test_layers_by_position_name_and_slice() -> None:
    model = Sequential({"first": Linear(3, 5), "squash": Tanh(), "last": Linear(5, 2)})
    assert list(model.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert model["first"] is model[0] is model.first
    assert model[-1] is model.last
    front = model[:2]
    assert isinstance(front, Sequential)
    assert front.first is model.first
    assert front(X).shape == (40, 5)
    assert len(model.append(hg.relu)) == 4
    model["last"] = Linear(5, 7)
    assert model(X).shape == (40, 7)
    assert [type(layer).__name__ for layer in model][:3] == ["Linear", "Tanh", "Linear"]
    for bad in (
        lambda: model["nothing"],
        lambda: model.append(3),
        lambda: model.append(ReLU(), "a.b"),
        lambda: model.append(ReLU(), "fit"),
    ):
        with pytest.raises(hg.HotgradError):
            bad()


def test_list_form() -> None:
    model = Sequential([Linear(3, 2)], "mse", "sgd")
    assert (model.loss, model.optimizer) != (None, None)
    for arguments in (([Linear(3, 2)], "mse", "sgd", 1), (Linear, ReLU())):
        with pytest.raises(hg.OperandError):
            Sequential(*arguments)


def test_copies_are_independent() -> None:
    model = noisy()
    model.fit(X, Y, batch_size=8, seed=0, verbose=0)
    twin = copy.deepcopy(model)
    before = weights(model)
    twin.fit(X, Y, batch_size=8, verbose=0)
    assert same(weights(model), before)
    model.fit(X, Y, batch_size=8, verbose=0)
    assert same(weights(model), weights(twin))


def test_a_network_with_a_shared_layer_half_of_it_frozen() -> None:
    class Net(Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.shared, self.leave = Linear(2, 8), Linear(8, 8), Linear(8, 2)

        def forward(self, x: Any) -> Any:
            h = self.enter(x).relu()
            h = h + self.shared(h).relu()
            h = h + self.shared(h).relu()
            return self.leave(h)

    x, labels = disc(200, seed=0)
    inner = Net()
    inner.enter.freeze()
    model = Sequential(inner, loss="cross_entropy", optimizer=optim.Adam(lr=0.01, weight_decay=0.01))
    model.reset(0)
    before = weights(model)
    history = model.fit(x, labels, epochs=30, batch_size=20, seed=0, verbose=0)
    assert history[-1]["loss"] < history[0]["loss"]
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {"0.shared.weight", "0.shared.bias", "0.leave.weight", "0.leave.bias"}


def test_lazy_layers_are_sized_by_fit() -> None:
    a = Sequential(Linear(6), ReLU(), Linear(2), loss="cross_entropy", optimizer="adam")
    b = Sequential(Linear(6), ReLU(), Linear(2), loss="cross_entropy", optimizer="adam")
    for each in (a, b):
        each.fit(X, Y, epochs=2, batch_size=8, seed=4, verbose=0)
    assert same(weights(a), weights(b))


class Counting(Module):
    """Counts the calls of its forward."""

    def __init__(self) -> None:
        self.w = hg.Parameter(torch.ones(2))
        self.count = hg.Variable(torch.zeros(()))

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x * self.w


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_a_forward_sees_the_steps_of_fit_and_no_trial(engine: str, kind: torch.dtype) -> None:
    counting = Counting()
    model = Sequential(counting, loss="mse", optimizer="sgd")
    x = torch.arange(40).reshape(20, 2).to(kind)
    model.fit(x, x / 100, epochs=2, batch_size=10, verbose=0, seed=0, engine=engine)
    assert counting.count.item() == 4
    model.fit(x, x / 100, epochs=1, batch_size=10, verbose=0, engine=engine)
    assert counting.count.item() == 6


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_a_forward_sees_each_batch_once_where_the_model_is_used(kind: torch.dtype) -> None:
    counting = Counting()
    model = Sequential(counting, loss="mse")
    x = torch.arange(40).reshape(20, 2).to(kind)
    model.evaluate(x, x)
    model.score(x, x)
    model.predict(x, batch_size=10)
    assert counting.count.item() == 4
