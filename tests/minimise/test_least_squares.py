"""`hg.least_squares` and `hg.curve_fit`: NIST's data, SciPy's own results, standard errors, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from nist import PROBLEMS

import hotgrad as hg


@pytest.mark.parametrize("start", (0, 1))
@pytest.mark.parametrize("name", PROBLEMS)
def test_nist(name: str, start: int) -> None:
    """The certified values to six digits, from both starting points."""
    problem = PROBLEMS[name]
    x, y = np.array(problem.x, dtype=float), np.array(problem.y, dtype=float)
    found, errors = hg.curve_fit(problem.model, x, y, problem.starts[start])
    assert np.allclose(found, problem.certified, rtol=5e-7, atol=0)
    assert np.allclose(errors, problem.deviations, rtol=2e-6, atol=0)
    result = hg.least_squares(lambda b: problem.model(hg.Variable(x), *b) - y, problem.starts[start])
    assert 2 * result.cost == pytest.approx(problem.squares, rel=1e-9)


def line(x: Any, a: Any, b: Any) -> Any:
    return a * x + b


X, Y = np.array([0.0, 1.0, 2.0, 3.0, 4.0]), np.array([1.1, 2.9, 5.2, 6.8, 9.1])


@pytest.mark.parametrize("absolute", (False, True))
@pytest.mark.parametrize("sigma", (None, np.array([0.1, 0.2, 0.1, 0.3, 0.2])))
def test_standard_errors_are_scipys(sigma: Any, absolute: bool) -> None:
    wanted, covariance = scipy.optimize.curve_fit(line, X, Y, (1.0, 0.0), sigma=sigma, absolute_sigma=absolute)
    found, errors = hg.curve_fit(line, X, Y, (1.0, 0.0), sigma=sigma, absolute_sigma=absolute)
    assert np.allclose(found, wanted, rtol=1e-6) and np.allclose(errors, np.sqrt(np.diag(covariance)), rtol=1e-5)


def test_structures() -> None:
    as_dict, errors = hg.curve_fit(lambda x, p: p["a"] * x + p["b"], torch.tensor(X), torch.tensor(Y), {"a": torch.ones(()), "b": 0.0})
    as_array, array_errors = hg.curve_fit(lambda x, p: p[0] * x + p[1], X, Y, np.array([1.0, 0.0]))
    as_list, _ = hg.curve_fit(line, X, Y, [1.0, 0.0])
    assert isinstance(as_dict["a"], torch.Tensor) and isinstance(as_dict["b"], float) and isinstance(as_list, list)
    assert np.allclose([float(as_dict["a"]), as_dict["b"]], as_array) and np.allclose(as_array, as_list)
    assert np.allclose([float(errors["a"]), errors["b"]], array_errors)


def test_lists_of_numbers_are_arrays() -> None:
    assert hg.curve_fit(lambda x, a: a * x, [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0])[0] == pytest.approx([2.0])


def test_several_inputs_and_bounds() -> None:
    x = {"u": torch.linspace(0, 1, 9), "v": torch.linspace(1, 3, 9) ** 2}
    y = 2.0 * x["u"] + 3.0 * x["v"]
    (a, b), _ = hg.curve_fit(lambda x, a, b: a * x["u"] + b * x["v"], x, y, (1.0, 1.0))
    assert abs(a - 2) < 1e-5 and abs(b - 3) < 1e-5
    (a, b), _ = hg.curve_fit(lambda x, a, b: a * x["u"] + b * x["v"], x, y, (1.0, 1.0), bounds=((None, 1.5), None))
    assert 1.4999 < a <= 1.5


def test_parameters_that_the_data_do_not_determine_have_infinite_errors() -> None:
    _, errors = hg.curve_fit(lambda x, a, b: (a + b) * x, X, Y, (1.0, 1.0))
    assert errors == (np.inf, np.inf)
    _, errors = hg.curve_fit(line, X[:2], Y[:2], (1.0, 1.0))
    assert errors == (np.inf, np.inf)


def test_least_squares_takes_scipys_options() -> None:
    outlier = Y.copy()
    outlier[2] = 40.0
    plain = hg.least_squares(lambda p: line(hg.Variable(X), *p) - outlier, (1.0, 0.0)).x
    robust = hg.least_squares(lambda p: line(hg.Variable(X), *p) - outlier, (1.0, 0.0), loss="soft_l1", f_scale=0.1).x
    assert abs(robust[0] - 2) < 0.1 < abs(plain[1] - 1)
    seen: list[Any] = []
    if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 16):
        hg.least_squares(lambda p: {"r": [p[0] - 1, p[1] * p[0] - 2]}, (3.0, 1.0), callback=seen.append)
        assert seen and isinstance(seen[0].x, tuple)


@pytest.mark.parametrize("engine", ("replay", "native", "eager"))
def test_engines(engine: str) -> None:
    found, errors = hg.curve_fit(line, X, Y, (1.0, 0.0), engine=engine)
    assert np.allclose(found, (1.99, 1.04), atol=1e-6) and np.allclose(errors, (0.0597, 0.1463), atol=1e-4)


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: hg.curve_fit(line, X, Y[:3], (1.0, 0.0)), hg.ShapeError, "y's shape \\(3,\\); got \\(5,\\)"),
        (lambda: hg.curve_fit(lambda x, a: 3.0, X, Y, (1.0,)), hg.ShapeError, "must give an array"),
        (lambda: hg.curve_fit(line, X, Y, (1.0, 0.0), sigma=X), hg.RangeError, "above 0"),
        (lambda: hg.curve_fit(line, X, Y, (1.0, 0.0), sigma=X[:2]), hg.ShapeError, "sigma"),
        (lambda: hg.curve_fit(line, X, Y, (1.0, 0.0), max_nfev=1), hg.DataError, "no fit was found"),
        (lambda: hg.curve_fit(line, X, Y * np.nan, (1.0, 0.0)), hg.DataError, "value at x0"),
        (lambda: hg.curve_fit(lambda x, a: a * x * torch.ones(5), X, Y, (1.0,)), hg.DtypeError, "float32"),
        (lambda: hg.curve_fit(lambda x, a: a * np.exp(a), X, Y, (1.0,)), hg.OperandError, "write hg.exp for numpy.exp"),
        (lambda: hg.least_squares(lambda p: None, (1.0,)), hg.OperandError, "must return residuals"),
        (lambda: hg.least_squares(lambda p: p[0], (1.0,), method="gauss"), hg.SettingError, "method"),
        (lambda: hg.least_squares(lambda p: p[0].detach(), (1.0,)), hg.TapeError, "argument 0"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], words: str, tape: hg.Tape) -> None:
    with pytest.raises(error, match=words):
        call()
    assert len(tape) == 0
