"""Kinds of input that cannot be kept as they are: complex numbers, masks, gaps, text, times. Refused wherever input enters."""

from __future__ import annotations

import array
import datetime
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import hotgrad as hg
from hotgrad.modules import Linear
from hotgrad.training import Sequential
from hotgrad.training.inputs import to_tensor

np = pytest.importorskip("numpy")

ROWS = 6
X = np.arange(12.0).reshape(ROWS, 2) / 12
Y = np.array([0, 1, 0, 1, 1, 0])


def model() -> Sequential:
    return Sequential(Linear(2, 2), loss="cross_entropy", optimizer="sgd")


def masked(values: Any) -> Any:
    made = np.ma.masked_array(values)
    made[3] = np.ma.masked
    return made


def complex_(values: Any) -> Any:
    return values + 1j


class Items(Dataset):  # type: ignore[type-arg]
    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i], self.y[i : i + 1]


def regression() -> Sequential:
    return Sequential(Linear(2, 1), loss="mse", optimizer="sgd")


def estimators(x: Any, y: Any) -> Any:
    pytest.importorskip("sklearn")
    from hotgrad.sklearn import HotClassifier

    return HotClassifier((2,), epochs=1).fit(x, y)


v = hg.Variable(torch.ones(ROWS), requires_grad=True)
# Each gets x (ROWS, 2), y (ROWS,), of which one is bad.
ENTRIES: dict[str, Callable[[Any, Any], Any]] = {
    "fit": lambda x, y: model().fit(x, y, verbose=0),
    "lists of rows": lambda x, y: model().fit(list(x), list(y), verbose=0),
    "validation_data": lambda x, y: model().fit(X, Y, validation_data=(x, y), verbose=0),
    "predict and score": lambda x, y: (model().predict(x), model().score(x, y)),
    "classify and evaluate": lambda x, y: (model().classify(x), model().evaluate(x, y)),
    "cross_validate": lambda x, y: model().cross_validate(x, y, n_splits=2),
    "fit_many": lambda x, y: hg.fit_many(model, x, y, seeds=1),
    "Dataset": lambda x, y: regression().fit(Items(x, y), verbose=0),
    "DataLoader": lambda x, y: regression().fit(DataLoader(Items(x, y), batch_size=3), verbose=0),
    "shuffling DataLoader": lambda x, y: regression().fit(DataLoader(Items(x, y), batch_size=3, shuffle=True), verbose=0),
    "DataLoader of single items": lambda x, y: regression().fit(DataLoader(Items(x, y), batch_size=None), verbose=0),
    "validation Dataset": lambda x, y: regression().fit(X, X[:, :1], validation_data=Items(x, y), verbose=0),
    "sample_weight": lambda x, y: [model().fit(X, Y, sample_weight=w, verbose=0) for w in (x[:, 0], y + 0.5)],
    "class_weight": lambda x, y: [model().fit(X, Y, class_weight=w, verbose=0) for w in (x[3], y[3:5] + 0.5)],
    "estimators": estimators,
    "normalize": lambda x, y: hg.data.normalize(x, y[:, None] + 0.5 + X),
    "one_hot": lambda x, y: (hg.data.one_hot(y), hg.Variable(x)),
    "batches": lambda x, y: hg.data.batches(x, y, batch_size=2),
    "Variable": lambda x, y: (hg.Variable(x), hg.Parameter(y + 0.5)),
    "Variable of rows": lambda x, y: (hg.Variable(list(x)), hg.Variable([y])),
    "an operand on the right": lambda x, y: (v[:, None] * x, v - y, v @ x),
    "an operand on the left": lambda x, y: (x * v[:, None], y - v, y @ v),
    "an op's operand": lambda x, y: (hg.cat([v[:, None], x], 1), hg.maximum(v, y)),
    "a number": lambda x, y: (v + x[3, 0], y[3] * v),
    "a seed": lambda x, y: [(v.to(torch.float64) * 2).backward(g) for g in (x[:, 0], y + 0.5)],
    "an index": lambda x, y: (v[y], v * x[:, 0]),
    "a target": lambda x, y: (hg.functional.mse(v, y + 0.5), hg.functional.mse(v, x[:, 0])),
    "a layer": lambda x, y: (Linear(2, 1).to(torch.float64)(x), Linear(6, 1).to(torch.float64)(y + 0.5)),
    "capture": lambda x, y: (hg.capture(lambda a: a * 2, x), hg.capture(lambda a: a * 2, y)),
}


@pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan")  # numpy's, in the test itself
@pytest.mark.parametrize("bad", ["x", "y"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_masks_and_imaginary_parts_are_never_lost(entry: str, bad: str) -> None:
    for spoil, error in ((complex_, TypeError), (masked, hg.errors.DataError)):
        if entry == "estimators":
            error = ValueError  # scikit-learn's
        x, y = (spoil(X), Y) if bad == "x" else (X, spoil(Y))
        with pytest.raises(error, match=r"omplex|index|hides") as caught:
            ENTRIES[entry](x, y)
        assert isinstance(caught.value, hg.HotgradError) or entry == "estimators"


def test_masked_arrays_that_hide_nothing_are_read() -> None:
    whole = np.ma.masked_array(X, np.zeros_like(X, dtype=bool))
    assert torch.equal(to_tensor(whole, "x", torch.float64), torch.tensor(X))
    assert torch.equal(hg.Variable(whole).data, torch.tensor(X))
    assert torch.equal((v.detach()[:, None] * whole).data.double(), torch.tensor(X))


def test_masks_stay_the_business_of_ones_own_collate_function() -> None:
    def filled(items: Any) -> Any:
        return torch.tensor(np.stack([x.filled(0) for x, _ in items])), torch.tensor(np.stack([y for _, y in items]))

    regression().fit(DataLoader(Items(masked(X), Y), batch_size=3, collate_fn=filled), verbose=0)


def test_arrays_that_torch_refuses_are_read_by_variables_too() -> None:
    assert hg.Variable(X[::-1]).tolist() == X[::-1].tolist()
    assert hg.Variable(X.astype(">f8")).tolist() == X.tolist()
    assert hg.Variable(np.float64(0.1)).item() == 0.1


# data, then what is read
READ: dict[str, tuple[Callable[[], Any], Any]] = {
    "bools": (lambda: np.array([[True, False]]), [[1, 0]]),
    "small unsigned": (lambda: np.array([[2**32 - 1]], dtype="u4"), [[2**32 - 1]]),
    "uint64": (lambda: np.array([[2**63 - 1]], dtype="u8"), [[2**63 - 1]]),
    "int64": (lambda: [[2**53 + 1]], [[2**53 + 1]]),
    "float16": (lambda: np.array([[0.5]], dtype="f2"), [[0.5]]),
    "bfloat16": (lambda: torch.tensor([[0.5]]).bfloat16(), [[0.5]]),
    "a buffer": (lambda: array.array("d", [1.5, 2]), [1.5, 2.0]),
    "a range": (lambda: range(3), [0, 1, 2]),
    "arrays of two kinds": (lambda: [np.array([1, 2]), np.array([1.5, 2])], [[1.0, 2.0], [1.5, 2.0]]),
}


@pytest.mark.parametrize("kind", READ)
def test_what_can_be_read_exactly_is(kind: str) -> None:
    make, expected = READ[kind]
    assert to_tensor(make(), "x", torch.float64).tolist() == expected


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "uint64": (lambda: np.array([[2**63 + 5]], dtype="u8"), hg.errors.DataError, r"x holds integers of 2\*\*63"),
    "a uint64 tensor": (lambda: torch.tensor([[2**63 + 5]], dtype=torch.uint64), hg.errors.DataError, r"2\*\*63"),
    "Python's large integers": (lambda: [[2**70]], hg.OperandError, "^x"),
    "objects": (lambda: np.array([[1, 2.5]], dtype=object), hg.OperandError, r"object; .*astype\(float\)"),
    "None": (lambda: [[None, 1.0]], hg.OperandError, "^x"),
    "text": (lambda: np.array([["1", "2"]]), hg.OperandError, "text"),
    "bytes": (lambda: np.array([[b"1"]]), hg.OperandError, "text"),
    "times": (lambda: np.array([["2020-01-01"]], dtype="M8[D]"), hg.OperandError, "datetime64.*timedelta64"),
    "spans": (lambda: np.array([[3]], dtype="m8[s]"), hg.OperandError, "timedelta64"),
    "records": (lambda: np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]), hg.OperandError, "structured_to_unstructured"),
    "too large for float32": (lambda: np.array([[1e300]]), hg.errors.DataError, r"x holds values of up to 1e\+300.*float32"),
    "a sparse tensor": (lambda: torch.eye(2).to_sparse(), hg.OperandError, "to_dense"),
    "a meta tensor": (lambda: torch.ones(2, 2, device="meta"), hg.OperandError, "meta"),
    "a dict": (lambda: {"a": [1, 2]}, hg.OperandError, "dict"),
    "dates": (lambda: [[datetime.date(2020, 1, 1)]], hg.OperandError, "^x"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_refused(kind: str) -> None:
    make, error, says = BAD[kind]
    with pytest.raises(error, match=says):
        to_tensor(make(), "x", torch.float32)


def test_long_doubles_and_sparse_matrices() -> None:
    if np.dtype(np.longdouble) != np.dtype(float):
        for value in (np.ones((2, 2), dtype=np.longdouble), np.longdouble(1)):
            with pytest.raises(hg.OperandError, match=r"astype\(float\)"):
                v[:2, None] + value
    sparse = pytest.importorskip("scipy.sparse")
    for kind in (sparse.csr_matrix, sparse.csr_array, sparse.coo_matrix, sparse.dok_matrix, sparse.lil_matrix):
        with pytest.raises(hg.OperandError, match=r"^x: .*toarray\(\)"):
            model().predict(kind(X))


# ---- frames

FRAMES: dict[str, tuple[Callable[[Any], dict[str, Any]], Any]] = {
    "floats and bools": (lambda pd: {"a": [1.5, 2.0], "b": [True, False]}, [[1.5, 1.0], [2.0, 0.0]]),
    "bools": (lambda pd: {"a": [True, False]}, [[1], [0]]),
    "integers and bools": (lambda pd: {"a": [2**53 + 1, 2], "b": [True, False]}, [[2**53 + 1, 1], [2, 0]]),
    "nullable integers": (lambda pd: {"a": pd.array([2**53 + 1, 2], dtype="Int64")}, [[2**53 + 1], [2]]),
    "nullable and plain": (lambda pd: {"a": pd.array([1, 2], dtype="Int8"), "b": [0.5, 1]}, [[1.0, 0.5], [2.0, 1.0]]),
    "nullable floats": (lambda pd: {"a": pd.array([1.5, 2], dtype="Float32")}, [[1.5], [2.0]]),
    "nullable bools": (lambda pd: {"a": pd.array([True, False], dtype="boolean"), "b": [0.5, 1]}, [[1.0, 0.5], [0.0, 1.0]]),
    "categories of numbers": (lambda pd: {"a": pd.Categorical([3, 5]), "b": pd.Categorical([0.5, 2.5])}, [[3.0, 0.5], [5.0, 2.5]]),
    "sparse": (lambda pd: {"a": pd.arrays.SparseArray([0, 1.5]), "b": [1, 2]}, [[0.0, 1.0], [1.5, 2.0]]),
    "one name twice": (lambda pd: pd.DataFrame([[1, True], [2, False]], columns=["a", "a"]), [[1, 1], [2, 0]]),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames(kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    make, expected = FRAMES[kind]
    frame = pandas.DataFrame(make(pandas))
    assert to_tensor(frame, "x", torch.float64).tolist() == expected
    assert to_tensor(frame.iloc[:, 0], "y", torch.float64).tolist() == [row[0] for row in expected]
    assert model().fit(frame[["a"]].iloc[:, :1].assign(c=1.0), [0, 1], verbose=0)


BAD_FRAMES: dict[str, tuple[Callable[[Any], dict[str, Any]], type[Exception], str]] = {
    "gaps in integers": (lambda pd: {"a": [0.5, 1], "b": pd.array([1, None], dtype="Int64")}, hg.errors.DataError, "^x: column 'b': 1 of"),
    "gaps in bools": (lambda pd: {"b": pd.array([True, None], dtype="boolean")}, hg.errors.DataError, "column 'b'"),
    "gaps in floats": (lambda pd: {"a": [1.0, 2.0], "b": [0.5, None]}, hg.errors.DataError, "column 'b': 1 of .* missing"),
    "gaps in categories": (lambda pd: {"b": pd.Categorical([3, None])}, hg.errors.DataError, "column 'b'"),
    "infinity": (lambda pd: {"a": [1, 2], "b": [0.5, float("inf")]}, hg.errors.DataError, "column 'b': .*infinite"),
    "text": (lambda pd: {"a": [1, 2], "b": ["x", "y"]}, hg.OperandError, r"'b' \(.*get_dummies"),
    "categories of text": (lambda pd: {"a": [1, 2], "b": pd.Categorical(["x", "y"])}, hg.OperandError, r"'b' \(category\)"),
    "objects": (lambda pd: {"a": [1, 2], "b": pd.Series([1, 2.5], dtype=object)}, hg.OperandError, r"'b' \(object\)"),
    "times": (lambda pd: {"a": [1.0, 2], "b": pd.to_datetime(["2020", "2021"])}, hg.OperandError, r"'b' \(datetime64.*seconds"),
    "spans": (lambda pd: {"b": pd.to_timedelta([1, 2])}, hg.OperandError, r"'b' \(timedelta64"),
    "periods": (lambda pd: {"b": pd.period_range("2020", periods=2)}, hg.OperandError, r"'b' \(period"),
    "complex": (lambda pd: {"a": [1.0, 2], "b": [1j, 2]}, hg.DtypeError, "column 'b': complex"),
    "uint64": (lambda pd: {"b": np.array([2**63 + 5, 1], dtype="u8")}, hg.errors.DataError, r"2\*\*63"),
}


@pytest.mark.parametrize("kind", BAD_FRAMES)
def test_frames_that_cannot_be_read_name_the_column(kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    make, error, says = BAD_FRAMES[kind]
    frame = pandas.DataFrame(make(pandas))
    with pytest.raises(error, match=says):
        to_tensor(frame, "x", torch.float32)
    with pytest.raises(error):
        to_tensor(frame["b"], "x", torch.float32)


def test_dummies() -> None:
    """Floats beside the bools that get_dummies makes."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.get_dummies(pandas.DataFrame({"age": [1.5, 2.5, 3.5], "city": ["a", "b", "a"]}))
    made = Sequential(Linear(2), loss="cross_entropy", optimizer="sgd")
    made.fit(frame, [0, 1, 0], verbose=0)
    assert torch.equal(made.predict(frame), made.predict([[1.5, 1, 0], [2.5, 0, 1], [3.5, 1, 0]]))


# ---- differences that float32 does not resolve

LARGE = 1.7e9 + 10 * np.arange(ROWS)
STEPS: dict[str, Any] = {
    "float64": LARGE,
    "integers": LARGE.astype("int64"),
    "lists": LARGE.tolist(),
    "small steps": 1 + 1e-9 * np.arange(ROWS),
}
MANY = 30
GAP = 1.7e9 + np.arange(MANY)
NUMBERS = np.random.RandomState(0).randn(MANY)
COLLAPSED: dict[str, Any] = {
    "a gap coded 0": np.where(np.arange(MANY) == 3, 0, GAP),
    "a gap coded 0, integers": np.where(np.arange(MANY) == 3, 0, GAP).astype("int64"),
    "many gaps coded -1": np.where(np.arange(MANY) % 3 == 0, -1, GAP),
    "all of it becomes 0": 1e-60 * NUMBERS,
    "nearly all of it becomes 0": 1e-45 * NUMBERS,
    "underflow": 1e-44 * np.linspace(0.1, 1, MANY),
    "identifiers": 2**24 + np.arange(MANY),
    "large identifiers": 2**60 + np.arange(MANY),
    "negative identifiers": -(2**25) - np.arange(MANY),
}


@pytest.mark.parametrize("kind", STEPS)
def test_what_float32_does_not_resolve(kind: str) -> None:
    values = STEPS[kind]
    column = [[value] for value in values] if isinstance(values, list) else values[:, None]
    both = np.concatenate([X[:, :1], column], 1)
    made = regression()
    before = made[0].weight.data.clone()
    for x, y, where in ((both, X[:, :1], "column 1 of x"), (X, column, "y")):
        with pytest.raises(hg.errors.DataError, match=rf"^{where} varies by .* does not resolve; subtract an offset"):
            made.fit(x, y, verbose=0)
        with pytest.raises(hg.errors.DataError, match="does not resolve"):
            made.cross_validate(x, y, n_splits=2)
    assert torch.equal(made[0].weight.data, before)
    many, targets = np.concatenate([both] * 4), np.concatenate([X[:, :1]] * 4)
    for use in (made.predict, lambda x: made.score(x, targets), lambda x: made.evaluate(x, targets), made.classify):
        with pytest.raises(hg.errors.DataError, match=r"column 1 of x varies by .* does not resolve"):
            use(many)
    with pytest.raises(hg.errors.DataError, match="column 1 of validation x"):
        made.fit(X, X[:, :1], verbose=0, validation_data=(many, targets))
    made.predict(both[:3])  # which may well be alike
    made.to(torch.float64).fit(both / 1e9, np.asarray(column) / 1e9, verbose=0)


@pytest.mark.parametrize("kind", COLLAPSED)
def test_different_values_that_become_one(kind: str) -> None:
    column, x = COLLAPSED[kind], np.arange(2.0 * MANY).reshape(MANY, 2) / MANY
    both = np.stack([column * 0, column], 1)
    for use in (lambda: regression().fit(both, x[:, :1], verbose=0), lambda: regression().predict(both)):
        with pytest.raises(hg.errors.DataError, match=r"^column 1 of x .*does not resolve; subtract an offset before, or scale it"):
            use()
    if column.dtype.kind == "f":
        with pytest.raises(hg.errors.DataError, match=r"^y .*does not resolve"):
            regression().fit(x, column[:, None], verbose=0)
    if kind != "large identifiers":
        regression().to(torch.float64).predict(both)


ENOUGH: dict[str, Any] = {
    "many normal numbers": np.random.RandomState(1).randn(100_000),
    "many uniform numbers": np.random.RandomState(1).rand(300_000),
    "a heavy tail": np.exp(10 * np.random.RandomState(1).randn(1000)),
    "mostly tiny": np.exp(-np.linspace(0, 600, 1000)),
    "rounding": 0.3 + 1e-16 * np.arange(100),
    "cosines of multiples of pi": np.sin(np.pi * np.arange(100)) + 1,
    "two values": np.arange(100) % 2 * 0.1,
    "years of seconds": 1.6e9 + 1e6 * np.arange(100),
    "counts": np.arange(100) + 2**23,
    "even identifiers": 2**24 + 2 * np.arange(100),
}


@pytest.mark.parametrize("kind", ENOUGH)
def test_values_that_stay_apart_well_enough(kind: str) -> None:
    for dtype in (torch.float32, torch.bfloat16) if kind.startswith(("many", "mostly", "two")) else (torch.float32,):
        to_tensor(ENOUGH[kind], "x", dtype, resolved=2)


def test_integers_in_a_table_of_integers() -> None:
    with pytest.raises(hg.errors.DataError, match="column 1 of x"):
        regression().fit(np.stack([Y, LARGE.astype("int64")], 1), X[:, :1], verbose=0)


@pytest.mark.parametrize(
    "values",
    [[1e8, 1e8 + 16, 1e8 + 32], [2020, 2021, 2024], [0.1, 0.1], [0.1, 0.1 + 1e-16], [1e30, -1e30], [1e-30, 0], [1.7e9], [1.6e9, 1.7e9]],
)
def test_what_float32_resolves_well_enough(values: list[float]) -> None:
    for kind in (torch.tensor(values, dtype=torch.float64), values, np.array(values)[:, None]):
        to_tensor(kind, "x", torch.float32, resolved=True)


def test_class_weights_by_series() -> None:
    pandas = pytest.importorskip("pandas")
    by_index = pandas.Series({1: 9.0, 0: 1.0})
    a, b = model(), model()
    for made, weights in ((a, by_index), (b, {0: 1.0, 1: 9.0})):
        made.reset(0)
        made.fit(X, Y, class_weight=weights, verbose=0)
    assert torch.equal(a[0].weight.data, b[0].weight.data)
    with pytest.raises(hg.errors.SettingError, match="names"):
        model().fit(X, Y, class_weight=pandas.Series({"a": 1.0}), verbose=0)


@pytest.mark.parametrize("value", [1j, np.ma.masked_array([[1.0, 2.0]], [[True, False]])])
def test_initialisers(value: Any) -> None:
    def init(shape: Any, generator: Any) -> Any:
        return value if isinstance(value, np.ndarray) else torch.full(shape, value)

    with pytest.raises(hg.HotgradError, match=r"complex|hides"):
        Linear(1, 2, init=init)
