"""What `fit` takes as data, and what it refuses, changing nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset, WeightedRandomSampler

import hotgrad as hg
from hotgrad import nn
from hotgrad.modules import BatchNorm1d, CrossEntropy, Linear, Module, ReLU
from hotgrad.optim import SGD
from hotgrad.training import Sequential, job
from hotgrad.training.inputs import pair, to_tensor

ROWS = 7


def model(loss: Any = "mse", outputs: int = 2, dtype: torch.dtype = torch.float32) -> Sequential:
    made = Sequential(Linear(3, 4), ReLU(), Linear(4, outputs), loss=loss, optimizer=SGD(lr=0.1, momentum=0.9))
    made.to(dtype)
    made.reset(1)
    return made


def rows(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 3, generator=g, dtype=dtype), torch.randn(ROWS, 2, generator=g, dtype=dtype)


def fitted(x: Any, y: Any = None, **settings: Any) -> torch.Tensor:
    made = model()
    made.fit(x, y, epochs=2, **{"batch_size": 3, "seed": 0, "verbose": 0, **settings})
    return made.state_dict()["0.weight"].clone()


def as_numpy(t: torch.Tensor) -> Any:
    return pytest.importorskip("numpy").asarray(t.numpy(), dtype="float64")


def as_frame(t: torch.Tensor) -> Any:
    return pytest.importorskip("pandas").DataFrame(t.double().numpy(), columns=[f"c{i}" for i in range(t.shape[1])])


def flipped(t: torch.Tensor) -> Any:
    return as_numpy(t.flip(0))[::-1]


def big_endian(t: torch.Tensor) -> Any:
    return as_numpy(t).astype(">f4")


def read_only(t: torch.Tensor) -> Any:
    array = as_numpy(t).astype("float32")
    array.flags.writeable = False
    return array


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "list": lambda t: t.tolist(),
    "list of tensors": lambda t: list(t),
    "list of arrays": lambda t: list(as_numpy(t)),
    "numpy float64": as_numpy,
    "numpy with negative strides": flipped,
    "numpy of another byte order": big_endian,
    "read-only numpy": read_only,
    "pandas": as_frame,
    "float64 tensor": torch.Tensor.double,
    "Variable": hg.Variable,
    "torch Parameter": lambda t: torch.nn.Parameter(t.clone()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_data(kind: str) -> None:
    x, y = rows()
    assert torch.equal(fitted(KINDS[kind](x), KINDS[kind](y)), fitted(x, y))


class Items(Dataset):  # type: ignore[type-arg]
    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i].tolist(), self.y[i]


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter(zip(*rows()))


@pytest.mark.parametrize(
    "source",
    [TensorDataset(*rows()), Items(*rows()), Stream(), DataLoader(TensorDataset(*rows()), batch_size=3),
     DataLoader(TensorDataset(*rows()), batch_size=3, shuffle=True), DataLoader(Stream(), batch_size=3),
     DataLoader(TensorDataset(*rows()), batch_size=None), DataLoader(TensorDataset(*rows()), batch_sampler=[[0, 1], [2, 3, 4, 5], [6]]),
     DataLoader(TensorDataset(*rows()), batch_size=3, shuffle=True, collate_fn=lambda items: tuple(map(torch.stack, zip(*items))))],
)  # fmt: skip
def test_datasets(source: Any) -> None:
    size = None if isinstance(source, DataLoader) and source.batch_size else 3
    assert torch.equal(fitted(source, batch_size=size), fitted(*rows()))
    made = model()
    state = torch.get_rng_state()
    made.fit(source, seed=0, verbose=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sampler_of_its_own_is_obeyed() -> None:
    x, y = rows()
    loader = DataLoader(TensorDataset(x, y), batch_size=2, sampler=WeightedRandomSampler([0, 0, 0, 1, 0, 0, 0], 5))
    got, _, size = pair(loader, None)
    assert size == 2
    assert torch.equal(got, x[3].expand(5, 3))


def test_drawing_with_replacement_is_obeyed() -> None:
    x, y = rows()
    loader = DataLoader(TensorDataset(x, y), batch_size=2, sampler=RandomSampler(range(7), replacement=True, num_samples=30))
    got, _, _ = pair(loader, None)
    assert got.shape == (30, 3)


def test_float64_models_get_lists_in_full_precision() -> None:
    assert to_tensor([[0.1]], "x", torch.float64).item() == 0.1


def test_integers_reach_layers_that_take_them() -> None:
    class Embedding(Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = hg.Parameter(torch.ones(5, 2))

        def forward(self, x: Any) -> Any:
            return self.table[x.data].sum(1)

    made = Sequential(Embedding(), Linear(2, 1), loss="mse", optimizer="sgd")
    made.fit([[0, 1], [2, 4]], [[0.0], [1.0]], verbose=0)
    assert made.predict([[0, 3]]).shape == (1, 1)
    assert (made.state_dict()["0.table"][3] == 1).all()


def test_integer_data_become_floats_elsewhere() -> None:
    x = torch.arange(ROWS * 3).reshape(ROWS, 3) % 5
    assert torch.equal(fitted(x, rows()[1]), fitted(x.float(), rows()[1]))


def nan_at(where: str) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = rows()
    (x if where == "x" else y)[5, 1] = float("nan")
    return x, y


X, Y = rows()
LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 1])
# settings of fit (x, y among them), the error, what its message says
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "empty": ({"x": torch.zeros(0, 3), "y": torch.zeros(0, 2)}, hg.errors.DataError, "x is empty"),
    "no columns": ({"x": torch.zeros(7, 0)}, hg.errors.DataError, "x is empty"),
    "lengths": ({"y": Y[:5]}, hg.errors.DataError, "x has 7 rows and y has 5"),
    "no y": ({"y": None}, hg.errors.DataError, "y is missing"),
    "a scalar": ({"x": 3.0}, hg.errors.ShapeError, "x must have at least one axis"),
    "NaN in x": (dict(zip("xy", nan_at("x"))), hg.errors.DataError, r"x holds 1 values .* \[5, 1\]"),
    "NaN in y": (dict(zip("xy", nan_at("y"))), hg.errors.DataError, r"y holds 1 values .* \[5, 1\]"),
    "infinity": ({"x": X / 0}, hg.errors.DataError, "x holds 21 values"),
    "ragged": ({"x": [[1.0, 2.0], [1.0]]}, hg.errors.OperandError, "x"),
    "text": ({"x": [["a", "b", "c"]] * 7}, hg.errors.OperandError, "x"),
    "complex": ({"x": X + 0j}, hg.errors.DtypeError, "x: complex"),
    "features": ({"x": X[:, :2]}, hg.errors.ShapeError, r"^x, of shape \(7, 2\): .*3"),
    "(n,) targets": ({"y": Y[:, 0]}, hg.errors.ShapeError, r"\(7,\)"),
    "labels out of range": ({"loss": "cross_entropy", "y": LABELS + 1}, ValueError, "2"),
    "negative labels": ({"loss": "cross_entropy", "y": -LABELS}, ValueError, "-1"),
    "fractional labels": ({"loss": "cross_entropy", "y": LABELS + 0.5}, hg.DtypeError, "^y, of shape .*integers"),
    "batch_size 0": ({"batch_size": 0}, hg.errors.SettingError, "batch_size .* got 0"),
    "batch_size -1": ({"batch_size": -1}, hg.errors.SettingError, "batch_size .* got -1"),
    "batch_size 2.0": ({"batch_size": 2.0}, hg.errors.SettingError, "batch_size .* got 2.0"),
    "epochs 0": ({"epochs": 0}, hg.errors.SettingError, "epochs .* got 0"),
    "epochs 1.5": ({"epochs": 1.5}, hg.errors.SettingError, "epochs .* got 1.5"),
    "a large seed": ({"seed": 2**64}, hg.errors.SettingError, r"seed must be from 0 to 2\*\*64 - 1; got 18446744073709551616"),
    "a negative seed": ({"seed": -1}, hg.errors.SettingError, "seed must be"),
    "seed": ({"seed": "x"}, hg.errors.SettingError, "seed .* got 'x'"),
    "epochs True": ({"epochs": True}, hg.errors.SettingError, "epochs .* got True"),
    "loss name": ({"loss": "cross_entropi"}, ValueError, "cross_entropy"),
    "optimizer name": ({"optimizer": "adan"}, ValueError, "adam"),
    "engine name": ({"engine": "eagre"}, hg.errors.SettingError, "'auto', 'eager'.*eager"),
    "a loss class": ({"loss": hg.Variable}, hg.errors.OperandError, "instance"),
    "a loss that is no scalar": ({"loss": lambda o, t: o - t}, hg.errors.ShapeError, "scalar"),
    "a loss that is no Variable": ({"loss": lambda o, t: 1.0}, hg.errors.OperandError, "float"),
    "an optimizer class": ({"optimizer": SGD}, hg.errors.OperandError, "optimizer"),
    "shuffle no": ({"shuffle": "no"}, hg.errors.SettingError, "shuffle must be True or False; got 'no'"),
    "shuffle None": ({"shuffle": None}, hg.errors.SettingError, "shuffle .* got None"),
    "shuffle 0": ({"shuffle": 0}, hg.errors.SettingError, "shuffle .* got 0"),
    "shuffle in a tensor": ({"shuffle": torch.tensor(True)}, hg.errors.SettingError, "shuffle .* got tensor"),
    "verbose": ({"verbose": "loud"}, hg.errors.SettingError, "verbose .* 'loud'"),
    "verbose -1": ({"verbose": -1}, hg.errors.SettingError, "verbose .* -1"),
    "a callback": ({"callbacks": [3]}, hg.errors.OperandError, "callback"),
    "weights' shape": ({"sample_weight": [1.0, 2.0]}, hg.errors.ShapeError, r"\(7,\)"),
    "negative weights": ({"sample_weight": -torch.ones(7)}, hg.errors.DataError, "negative"),
    "zero weights": ({"sample_weight": torch.zeros(7)}, hg.errors.DataError, "zero"),
    "class weights without labels": ({"class_weight": {0: 1.0}}, hg.errors.SettingError, "labels"),
    "an unknown class": ({"class_weight": {5: 1.0}, "loss": "cross_entropy", "y": LABELS}, hg.errors.SettingError, "5"),
    "a class within the outputs that no row has": ({"class_weight": {2: 2.0}, "loss": "cross_entropy", "y": LABELS}, hg.errors.SettingError, r"\[2\], but y has only the labels \[0, 1\]"),
    "a class by its name": ({"class_weight": {"1": 2.0}, "loss": "cross_entropy", "y": LABELS}, hg.errors.SettingError, "'1'"),
    "a class as a tensor": ({"class_weight": {torch.tensor(1): 2.0}, "loss": "cross_entropy", "y": LABELS}, hg.errors.SettingError, "tensor"),
    "a weight that is text": ({"class_weight": {0: "2"}, "loss": "cross_entropy", "y": LABELS}, hg.OperandError, "class_weight"),
    "a complex weight": ({"class_weight": {0: 2j}, "loss": "cross_entropy", "y": LABELS}, hg.DtypeError, "class_weight"),
    "too many class weights": ({"class_weight": [1.0, 2.0, 3.0], "loss": "cross_entropy", "y": LABELS}, hg.errors.ShapeError, "2 classes"),
    "too few class weights": ({"class_weight": [1.0], "loss": "cross_entropy", "y": LABELS}, hg.errors.ShapeError, "2 classes"),
    "a word for class weights": ({"class_weight": "even", "loss": "cross_entropy", "y": LABELS}, hg.errors.SettingError, "balanced"),
    "weights of a bare loss": ({"sample_weight": [1.0] * 7, "loss": lambda o, t: o.mean()}, hg.errors.OperandError, "reduction"),
    "validation lengths": ({"validation_data": (X, Y[:2])}, hg.errors.DataError, "validation x has 7 rows"),
    "validation features": ({"validation_data": (X[:, :1], Y)}, hg.errors.ShapeError, "^validation x, of shape"),
    "validation NaN": ({"validation_data": nan_at("x")}, hg.errors.DataError, "validation x"),
    "validation triple": ({"validation_data": (X, Y, Y)}, hg.errors.DataError, "pair"),
    "targets beside a Dataset": ({"x": TensorDataset(X, Y)}, hg.errors.DataError, "brings its own"),
    "an empty Dataset": ({"x": TensorDataset(X[:0], Y[:0]), "y": None}, hg.errors.DataError, "empty"),
    "a Dataset without targets": ({"x": TensorDataset(X), "y": None}, hg.errors.DataError, "pairs"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(case: str) -> None:
    settings, error, says = BAD[case]
    made = model()
    made.fit(X, Y, epochs=1, batch_size=3, seed=3, verbose=0)
    before = everything(made)
    loss, optimizer = made.loss, made.optimizer
    state = torch.get_rng_state()
    with pytest.raises(error, match=says) as caught:
        made.fit(**{"x": X, "y": Y, "batch_size": 3, "verbose": 0, "seed": 4, **settings})
    assert isinstance(caught.value, hg.HotgradError)
    assert made.loss is loss
    assert made.optimizer is optimizer
    assert_same(everything(made), before)
    assert torch.equal(torch.get_rng_state(), state)


def everything(made: Sequential) -> dict[str, Any]:
    return {
        "model": {name: t.clone() for name, t in made.state_dict().items()},
        "optimizer": copy.deepcopy(made.optimizer.state_dict()),
        "generator": None if made.generator is None else made.generator.get_state(),
        "epochs": made.epochs_done,
    }


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    else:
        assert a == b


def test_weights_by_class() -> None:
    def weights(class_weight: Any, y: torch.Tensor, outputs: int = 3) -> list[float]:
        data = job.data_for(model("cross_entropy", outputs), CrossEntropy(), X, y, "", class_weight=class_weight)
        assert data.weights is not None
        return (data.weights / data.weights.min()).tolist()

    one_in_four = [4.0 if label else 1.0 for label in LABELS.tolist()]
    for given in ({1: 4}, {0: 1.0, 1: 4.0}, {True: 4.0, 0: 1}, {1.0: 4}, [1, 4], [1, 4, 9], torch.tensor([1.0, 4.0])):
        assert weights(given, LABELS) == pytest.approx(one_in_four)
    assert weights({2: 4}, LABELS * 2) == pytest.approx(one_in_four)
    assert weights("balanced", LABELS) == pytest.approx([1.0 if label else 4 / 3 for label in LABELS.tolist()])
    binary = 2 * LABELS[:, None].float() - 1
    data = job.data_for(model("mse", 1), hg.MSE(), X, binary, "", class_weight={1: 4})
    assert data.weights is not None
    assert (data.weights / data.weights.min()).tolist() == pytest.approx(one_in_four)


@pytest.mark.parametrize("class_weight", [{2: 5.0}, {0: 1.0, 1: 2.0, 2: 5.0}, [1.0, 2.0, 5.0], "balanced"])
def test_a_fold_may_lack_a_class(class_weight: Any) -> None:
    y = torch.tensor([0, 1, 0, 1, 0, 1, 2])  # one fold trains without label 2
    found = model("cross_entropy", 3).cross_validate(X, y, n_splits=3, seed=0, class_weight=class_weight)
    assert len(found["test_score"]) == 3
    with pytest.raises(hg.errors.SettingError, match="only the labels"):
        model("cross_entropy", 3).cross_validate(X, y[:6].repeat(2)[:7], n_splits=3, class_weight={2: 5.0})


def test_many_weights_are_summed_in_float64() -> None:
    rows = 2**20
    large = job.row_weights(torch.full((rows,), 0.1), None, torch.zeros(rows, 1), None, 2, torch.float32)
    assert large is not None
    assert (large == 1).all()


def test_no_loss_and_no_optimizer() -> None:
    with pytest.raises(hg.NoLossError, match="mse"):
        Sequential(Linear(3, 2), optimizer="sgd").fit(X, Y)
    with pytest.raises(ValueError, match="optimizer"):
        Sequential(Linear(3, 2), loss="mse").fit(X, Y)
    with pytest.raises(hg.NoLossError):
        Sequential(Linear(3, 2)).evaluate(X, Y)


@pytest.mark.parametrize("seed", [2**64, -1, 0.5, True])
def test_seeds_out_of_range(seed: Any) -> None:
    made = model()
    state = everything(made)
    for call in (
        lambda: made.reset(seed),
        lambda: made.cross_validate(X, Y, seed=seed),
        lambda: hg.fit_many(model, X, Y, seeds=[seed]),
    ):
        with pytest.raises(hg.errors.SettingError, match="seed"):
            call()
    assert_same(everything(made), state)
    with pytest.raises(hg.errors.SettingError, match="single one"):
        hg.fit_many(model, X, Y, seeds=2**64)
    made.reset(2**64 - 1)


def test_bad_input_leaves_lazy_layers_unsized() -> None:
    made = Sequential(Linear(4), ReLU(), BatchNorm1d(4), Linear(2), loss="mse", optimizer="sgd")
    with pytest.raises(hg.ShapeError):
        made.fit(X, Y[:, 0], verbose=0)
    made.fit(torch.zeros(6, 9), torch.zeros(6, 2), verbose=0)
    assert made.state_dict()["0.weight"].shape == (9, 4)


def test_nothing_to_train_and_parameters_of_others() -> None:
    with pytest.raises(hg.errors.SettingError, match="none requires a gradient"):
        Sequential(Linear(3, 2).freeze(), loss="mse", optimizer="sgd").fit(X, Y)
    other = model()
    other.fit(X, Y, verbose=0)
    with pytest.raises(hg.errors.SettingError, match="another model"):
        model().fit(X, Y, optimizer=other.optimizer)


def test_an_optimizer_of_some_parameters_trains_those() -> None:
    made = model()
    with pytest.raises(hg.SettingError, match=r"has not these of the model: 0\.weight, 0\.bias\. .*freeze\(\).*SGD\(lr=\.\.\.\)"):
        made.fit(X, Y, optimizer=SGD(made[2].parameters(), lr=0.1), verbose=0)
    made[0].freeze()
    before = {name: t.clone() for name, t in made.state_dict().items()}
    made.fit(X, Y, optimizer=SGD(made[2].parameters(), lr=0.1), verbose=0)
    assert [name for name, t in made.state_dict().items() if not torch.equal(t, before[name])] == ["2.weight", "2.bias"]


def test_outputs_that_do_not_fit() -> None:
    for layer, says in ((lambda v: v.sum(), "one row per row"), (lambda v: 3, "must give a Variable")):
        with pytest.raises(hg.HotgradError, match=says):
            Sequential(Linear(3, 2), layer, loss="mse", optimizer="sgd").fit(X, Y)
    with pytest.raises(hg.ShapeError, match="labels need an output"):
        Sequential(lambda v: v.reshape(7, 3, 1), Linear(1, 1)).classify(X)
    with pytest.raises(hg.OperandError):
        model()[0] = 3


def test_errors_of_a_users_own_come_out_as_they_are() -> None:
    class Own(hg.HotgradError):
        def __init__(self, number: int) -> None:
            self.number = number

    def loss(output: Any, target: Any) -> Any:
        raise Own(3)

    with pytest.raises(Own) as caught:
        model(loss).fit(X, Y)
    assert caught.value.number == 3


def test_datasets_that_cannot_be_read() -> None:
    class Ragged(Items):
        def __getitem__(self, i: int) -> Any:
            return list(range(i)), 0.0

    for source in (Ragged(X, Y), DataLoader(TensorDataset(X, Y), batch_size=2, sampler=[])):
        with pytest.raises(ValueError, match=r"equal shapes|empty"):
            model().fit(source)


def test_validation_from_a_dataset() -> None:
    history = model().fit(X, Y, validation_data=TensorDataset(X, Y), verbose=0)
    assert "val_loss" in history[0]


def test_text_columns_are_named() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"age": [1.0, 2.0], "town": ["a", "b"]})
    with pytest.raises(hg.OperandError, match="town"):
        model().fit(frame, [[0.0, 0.0]] * 2)


def test_predict_checks_its_input_too() -> None:
    made = model()
    for x in (torch.zeros(2, 5), torch.zeros(0, 3), torch.full((2, 3), float("nan")), "text"):
        with pytest.raises(hg.HotgradError):
            made.predict(x)
    with pytest.raises(hg.errors.SettingError, match="batch_size"):
        made.predict(X, batch_size=0)


@pytest.mark.parametrize("engine", ["eager", "replay", "auto"])
def test_a_batch_of_one_row_is_found_before_the_first_step(engine: str) -> None:
    """Where a model cannot be trained on one, and only there."""
    x, labels = hg.data.disc(22, seed=0)

    class Columns(hg.Module):
        """Takes each feature as a row of its own."""

        def __init__(self) -> None:
            self.norm = nn.BatchNorm1d(1)

        def forward(self, v: Any) -> Any:
            return self.norm(v.reshape(-1, 1)).reshape(-1, 2)

    def made(layer: Any) -> Any:
        return Sequential(layer, Linear(2, 2), loss="cross_entropy", optimizer="adam")

    for rows, size, better in ((22, 7, "8"), (22, 21, "22"), (22, 3, "4"), (22, 1, "2"), (3, 2, "3"), (1, None, "more rows")):
        model = made(nn.Residual(nn.BatchNorm1d(2)))
        before = {name: t.clone() for name, t in model.state_dict().items()}
        random = torch.get_rng_state()
        with pytest.raises(hg.DataError, match=rf"of {rows} rows in batches of {size or rows} the last.*{better}"):
            model.fit(x[:rows], labels[:rows], batch_size=size, seed=0, verbose=0, engine=engine)
        assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
        assert not model.optimizer.groups and model.generator is None and torch.equal(random, torch.get_rng_state())
    for layer, size in ((nn.BatchNorm1d(2), 8), (Columns(), 7), (nn.LayerNorm(2), 7), (nn.Dropout(0.5), 1)):
        assert len(made(layer).fit(x, labels, batch_size=size, seed=0, verbose=0, engine=engine)) == 1
    model = made(nn.BatchNorm1d(2))
    model.fit(x, labels, batch_size=11, validation_data=(x[:1], labels[:1]), seed=0, verbose=0)


def test_the_global_generator_is_left_alone() -> None:
    """Also by what a lazy layer is sized with for a trial."""
    before = torch.get_rng_state()
    model = Sequential(Linear(3), nn.Dropout(0.5), Linear(2), loss="mse", optimizer="sgd")
    with pytest.raises(hg.DataError):
        model.fit(X[:, :2], Y[:-1], seed=1, verbose=0)
    model.fit(torch.zeros(4, 3), torch.zeros(4, 2), seed=1, verbose=0)
    model.evaluate(torch.zeros(4, 3), torch.zeros(4, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_shuffle_takes_numpys_bools() -> None:
    falses = (False, pytest.importorskip("numpy").bool_(False))
    assert len({model().fit(X, Y, 2, 3, shuffle=value, verbose=0)[-1]["epoch"] for value in falses}) == 1
