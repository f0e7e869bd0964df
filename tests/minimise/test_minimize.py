"""`hg.minimize`: SciPy's methods with exact derivatives, over nested arguments; classical problems, bounds, constraints, bad input."""

from __future__ import annotations

import builtins
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad.minimise import _METHODS


def rosenbrock(x: Any) -> Any:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def beale(x: Any) -> Any:
    return sum((c - x[0] + x[0] * x[1] ** k) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625)))


def himmelblau(x: Any) -> Any:
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def wood(x: Any) -> Any:
    first = 100 * (x[0] ** 2 - x[1]) ** 2 + (x[0] - 1) ** 2 + (x[2] - 1) ** 2 + 90 * (x[2] ** 2 - x[3]) ** 2
    return first + 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2) + 19.8 * (x[1] - 1) * (x[3] - 1)


def powell(x: Any) -> Any:
    return (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2 + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


CLASSICAL = {
    "Rosenbrock": (rosenbrock, [[-1.2, 1.0], [3.0, -2.0]], [1.0, 1.0]),
    "Rosenbrock of 10": (rosenbrock, [[-1.2, 1.0] * 5, [2.0] * 10], [1.0] * 10),
    "Beale": (beale, [[1.0, 1.0], [0.0, 0.0]], [3.0, 0.5]),
    "Himmelblau": (himmelblau, [[0.0, 0.0], [1.0, 1.0]], [3.0, 2.0]),
    "Wood": (wood, [[-3.0, -1.0, -3.0, -1.0], [-1.0, 2.0, 0.0, 1.0]], [1.0] * 4),
    "Powell": (powell, [[3.0, -1.0, 0.0, 1.0], [1.0] * 4], [0.0] * 4),
}


@pytest.mark.parametrize("start", (0, 1))
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_problems(name: str, start: int) -> None:
    f, starts, best = CLASSICAL[name]
    result = hg.minimize(f, torch.tensor(starts[start]))
    assert result.success and result.fun < 1e-9
    # Powell's Hessian is singular at the minimum, where the function is flat to fourth order
    assert torch.allclose(result.x, torch.tensor(best, dtype=torch.float64), rtol=1e-6, atol=1e-6 if name != "Powell" else 1e-2)


@pytest.mark.parametrize("method", _METHODS)
def test_every_method(method: str) -> None:
    target = torch.tensor([0.3, -0.2], dtype=torch.float64)
    seen: list[Any] = []
    result = hg.minimize(
        lambda p: ((p["a"] - target) ** 2).sum() + (p["b"][0] - 1) ** 4, {"a": torch.zeros(2), "b": [0.5]}, method, callback=seen.append
    )
    assert torch.allclose(result.x["a"], target, atol=1e-3) and abs(result.x["b"][0] - 1) < 0.1
    assert seen and seen[-1].x["a"].shape == (2,) and isinstance(seen[-1].x["b"][0], float)


def test_what_scipy_gets_is_exact() -> None:
    """Fewer evaluations than differences would take, and the result's gradient is that of the function."""
    result = hg.minimize(rosenbrock, np.array([-1.2, 1.0]), options={"maxiter": 5})
    assert result.nfev < 12
    at = torch.from_numpy(result.x)
    assert np.allclose(result.jac, torch.func.grad(rosenbrock)(at).numpy(), rtol=1e-12)


def test_results_have_the_kinds_of_the_start() -> None:
    start = (hg.Variable([1.0, 2.0]), {"t": torch.ones(()), "n": np.ones((1, 2)), "f": 3.0, "none": None}, [torch.ones(1, 1)])
    result = hg.minimize(
        lambda v, *_: (v[0] ** 2).sum() + v[1]["t"] ** 2 + (v[1]["n"] ** 2).sum() + v[1]["f"] ** 2 + (v[2][0] ** 2).sum(), start
    )
    v, d, (last,) = result.x
    assert isinstance(v, hg.Variable) and v.dtype is torch.float64 and v.shape == (2,)
    assert isinstance(d["t"], torch.Tensor) and isinstance(d["n"], np.ndarray) and isinstance(d["f"], float) and d["none"] is None
    assert d["n"].shape == (1, 2) and last.shape == (1, 1) and max(abs(v.data).max(), d["t"].abs(), abs(d["f"]), last.abs().max()) < 1e-5


def test_a_module_is_fitted_through_its_parameters() -> None:
    torch.manual_seed(0)
    model = hg.Linear(2, 1).to(torch.float64)
    x, y = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    before = {name: p.data.clone() for name, p in model.named_parameters()}
    result = hg.minimize(lambda p: hg.functional.mse(hg.functional_call(model, p, x), y), dict(model.named_parameters()))
    wanted = torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1)], 1), y).solution
    assert torch.allclose(torch.cat([result.x["weight"].data, result.x["bias"].data[None]]), wanted, atol=1e-5)
    assert all(torch.equal(before[name], p.data) and p.grad is None for name, p in model.named_parameters())


@pytest.mark.parametrize("engine", ("auto", "replay", "native", "eager"))
def test_engines_agree(engine: str) -> None:
    result = hg.minimize(rosenbrock, torch.tensor([-1.2, 1.0]), engine=engine)
    assert torch.allclose(result.x, torch.ones(2, dtype=torch.float64), rtol=1e-6)


def test_bounds_in_the_structure() -> None:
    f = lambda p: ((p["a"] - 3) ** 2).sum() + (p["b"] + 1) ** 2 + p["c"] ** 2  # noqa: E731
    start = {"a": torch.zeros(2, 2), "b": 1.0, "c": 2.0}
    result = hg.minimize(f, start, bounds={"a": (None, torch.tensor([[1.0, 9.0], [2.0, 9.0]])), "b": (0.5, None), "c": None})
    assert torch.allclose(result.x["a"], torch.tensor([[1.0, 3.0], [2.0, 3.0]], dtype=torch.float64)) and result.x["b"] == 0.5
    scipys = hg.minimize(lambda x: ((x - 3) ** 2).sum(), torch.zeros(3), bounds=[(None, 1), (0, 2), (None, None)])
    assert torch.allclose(scipys.x, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("method", ("SLSQP", "trust-constr", "COBYQA"))
def test_constraints(method: str) -> None:
    constraints = [
        {"type": "eq", "fun": lambda p: p["x"] - 2 * p["y"] + 1},
        {"type": "ineq", "fun": lambda p: 1 - p["x"] ** 2 / 4 - p["y"] ** 2},
    ]
    f = lambda p: (p["x"] - 2) ** 2 + (p["y"] - 1) ** 2  # noqa: E731
    found = hg.minimize(f, {"x": 0.5, "y": 0.5}, method, constraints=constraints).x
    assert abs(found["x"] - 0.822875656) < 1e-3 and abs(found["y"] - 0.911437828) < 1e-3


def test_scipys_own_constraints() -> None:
    from scipy.optimize import LinearConstraint, NonlinearConstraint

    f = lambda x: ((x - 2) ** 2).sum()  # noqa: E731
    for constraint in (NonlinearConstraint(lambda x: (x * x).sum(), -np.inf, 2.0), LinearConstraint([[1.0, 1.0]], -np.inf, 2.0)):
        assert np.allclose(hg.minimize(f, np.zeros(2), "trust-constr", constraints=constraint).x, [1.0, 1.0], atol=1e-3)


def test_the_callback_may_end_it() -> None:
    def once(result: Any) -> None:
        assert result.fun > 0
        raise StopIteration

    assert hg.minimize(rosenbrock, np.array([-1.2, 1.0]), callback=once).nit == 1


def test_integers_are_said_once() -> None:
    with pytest.warns(UserWarning, match="x0 holds integers, which are taken as float64") as caught:
        result = hg.minimize(lambda x: (x - 1.5) ** 2, 3)
    assert len(caught) == 1 and abs(result.x - 1.5) < 1e-6


W32 = torch.ones(2)


@pytest.mark.parametrize(
    "f, x0, options, error, words",
    [
        (lambda x: x, torch.zeros(2), {}, hg.ShapeError, "must return one element; got shape \\(2,\\)"),
        (lambda x: 3.0, torch.zeros(2), {}, hg.TapeError, "returned the number 3.0"),
        (lambda x: hg.log(x).sum(), torch.zeros(2), {}, hg.DataError, "value at x0 is -inf"),
        (lambda x: hg.sqrt(x).sum(), torch.zeros(2), {}, hg.DataError, "gradient at x0"),
        (lambda x: x * float("nan"), 1.0, {}, hg.DataError, "nan"),
        (lambda x: (x * W32).sum(), torch.zeros(2), {}, hg.DtypeError, "'W32', float32\\(2,\\)"),
        (lambda x: (x * W32).sum(), torch.zeros(2), {"engine": "eager"}, hg.DtypeError, "float32"),
        (rosenbrock, torch.zeros(2), {"method": "newton"}, hg.SettingError, "method"),
        (rosenbrock, torch.zeros(2), {"engine": "fast"}, hg.SettingError, "engine"),
        (rosenbrock, [], {}, hg.OperandError, "x0 holds no number"),
        (rosenbrock, "abc", {}, hg.OperandError, "x0 must be a number or an array"),
        (3, 1.0, {}, hg.OperandError, "must be a function"),
        (rosenbrock, torch.zeros(2), {"bounds": {"a": (0, 1)}}, hg.OperandError, "pair \\(low, high\\)"),
        (rosenbrock, torch.zeros(2), {"bounds": (2, 1)}, hg.RangeError, "above the upper"),
        (rosenbrock, torch.zeros(2), {"bounds": (torch.zeros(3), 1)}, hg.ShapeError, "shape"),
        (lambda p: p["a"] ** 2, {"a": 1.0}, {"bounds": {"b": (0, 1)}}, hg.OperandError, "structure of x0"),
        (rosenbrock, torch.zeros(2), {"method": "SLSQP", "constraints": [3]}, hg.OperandError, "a constraint is"),
        (rosenbrock, torch.zeros(2), {"method": "SLSQP", "constraints": {"type": "eq", "fun": rosenbrock, "jac": rosenbrock}}, hg.OperandError, "jac"),
    ],
)  # fmt: skip
def test_bad_input(f: Any, x0: Any, options: dict[str, Any], error: type[Exception], words: str, tape: hg.Tape) -> None:
    with pytest.raises(error, match=words):
        hg.minimize(f, x0, **options)
    assert len(tape) == 0


def test_what_cannot_be_captured_runs_eagerly_and_says_so() -> None:
    def branching(x: Any) -> Any:
        return (x**2).sum() if float(x.sum()) > 0 else (x**2).sum() + 1e-9

    with pytest.warns(hg.EngineWarning, match="runs eagerly") as caught:
        result = hg.minimize(branching, torch.ones(2))
    assert len(caught) == 1 and result.x.abs().max() < 1e-5
    with pytest.raises(hg.CaptureError):
        hg.minimize(branching, torch.ones(2), engine="replay")


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    calls: list[Callable[[], Any]] = [
        lambda: hg.minimize(rosenbrock, torch.zeros(2)),
        lambda: hg.least_squares(lambda x: x, torch.zeros(2)),
        lambda: hg.curve_fit(lambda x, a: a * x, torch.ones(2), torch.ones(2), (1.0,)),
    ]
    for call in calls:
        with pytest.raises(hg.OperandError, match="pip install 'hotgrad\\[scipy\\]'"):
            call()


def test_no_warning_where_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hg.minimize(rosenbrock, torch.tensor([-1.2, 1.0]))
