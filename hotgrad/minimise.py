"""Fronts of `scipy.optimize`: SciPy searches; hotgrad gives it values and exact derivatives, and takes and gives nested arguments.

Everything is computed in float64, by captured programs where the function can be captured.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import one_of
from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.modes import Tape, enable_grad, state
from hotgrad.core.records import Record
from hotgrad.core.variable import Variable
from hotgrad.engines.programs import Program
from hotgrad.engines.registry import ENGINES, EXACT
from hotgrad.errors import CaptureError, DataError, DtypeError, EngineError, EngineWarning, OperandError, RangeError, ShapeError
from hotgrad.ops.composites import cat
from hotgrad.ops.indexing import GetItem
from hotgrad.ops.shaping import Reshape
from hotgrad.program.captured import captured
from hotgrad.transforms.derivatives import hessian, hvp, jacobian, value_and_grad
from hotgrad.transforms.trees import leaves, mapped, paths

__all__ = ["curve_fit", "least_squares", "minimize"]

# Relative, of least squares: with exact Jacobians a few steps more bring all digits, where SciPy's 1e-8 leaves four of MGH09.
_TOLERANCE = 1e-14
_WITHOUT_GRADIENT = frozenset(("nelder-mead", "powell", "cobyla", "cobyqa"))
_HESSIAN = frozenset(("dogleg", "trust-exact"))
_PRODUCTS = frozenset(("newton-cg", "trust-ncg", "trust-krylov", "trust-constr"))
_METHODS = (
    "Nelder-Mead", "Powell", "CG", "BFGS", "Newton-CG", "L-BFGS-B", "TNC", "COBYLA", "COBYQA", "SLSQP", "trust-constr", "dogleg", "trust-ncg",
    "trust-exact", "trust-krylov",
)  # fmt: skip


def minimize(
    f: Callable[..., Any],
    x0: Any,
    method: str = "L-BFGS-B",
    *,
    bounds: Any = None,
    constraints: Any = (),
    tol: float | None = None,
    options: dict[str, Any] | None = None,
    callback: Callable[[Any], Any] | None = None,
    engine: str = "auto",
) -> Any:
    """Minimise `f(x)`, which returns one element, by a method of `scipy.optimize.minimize`, beginning at `x0`.

    `x0`: an array or a number, or nested tuples, lists and dicts of such; `f` gets it as float64 Variables of that structure. Returns SciPy's
    result; its `x` has the structure of `x0`, and numbers, tensors, numpy arrays or Variables where that has them, in float64. SciPy
    gets the exact gradient, and for methods that take them the Hessian (dogleg, trust-exact) or its products with vectors (Newton-CG,
    trust-ncg, trust-krylov, trust-constr).

    - `bounds`: for each array in the structure of `x0` a pair (low, high) of numbers, arrays or None, or None; for `x0` a single array also
      what SciPy takes. `constraints`: a dict {"type": "eq" or "ineq", "fun": g} of a function of the same argument, SciPy's
      NonlinearConstraint with such a function, or a LinearConstraint, or a list of these; their Jacobians are computed.
    - `tol`, `options`: as in SciPy, but that L-BFGS-B goes on to `ftol` 1e-13 and `gtol` 1e-9 by itself. `callback(result)`: called after each iteration with `result.x`, in the structure of `x0`, and
      `result.fun`; raising StopIteration ends the search.
    - `engine`: "eager", or one that runs the captured function. "auto": native if it was compiled before, else replay; eager, with an
      EngineWarning, if `f` cannot be captured.

    Raises DataError where value or gradient are not finite at `x0`, DtypeError for float32 tensors that `f` uses, OperandError where SciPy
    is missing, and what `hg.grad` raises.

    >>> result = hg.minimize(lambda p: (p["a"] - 3) ** 2 + (p["b"] * p["b"]).sum(), {"a": 0.0, "b": torch.ones(2)})
    >>> result.success, round(result.x["a"], 6)
    (True, 3.0)
    """
    optimize = _scipy()
    name = one_of("method", method, _METHODS)
    point = _Point(f, x0, engine)
    how = name.lower()
    given: dict[str, Any] = {}
    if how in _WITHOUT_GRADIENT:
        objective: Any = point.program(point.value)
        start = objective(point.start)
    else:
        objective = point.program(value_and_grad(point.value))
        start = objective(point.start)
        given["jac"] = True
    point.require_finite(start)
    if how in _HESSIAN:
        given["hess"] = point.program(hessian(point.value))
    elif how in _PRODUCTS:
        given["hessp"] = point.program(lambda z, v: hvp(point.value, (z,), (v,))[1][0], torch.from_numpy(point.start))
    if bounds is not None:
        given["bounds"] = point.bounds(bounds)
    if constraints is not None and not (isinstance(constraints, (tuple, list)) and not constraints):
        several = constraints if isinstance(constraints, (tuple, list)) else [constraints]
        given["constraints"] = [_constraint(optimize, point, constraint, how) for constraint in several]
    if callback is not None:
        given["callback"] = point.callback(callback, optimize)
    if how == "l-bfgs-b" and tol is None:  # with exact gradients the last digits cost a few iterations
        options = {"ftol": 1e-13, "gtol": 1e-9, **(options or {})}
    result = optimize.minimize(objective, point.start, method=name, tol=tol, options=options, **given)
    result.x = point.as_given(result.x)
    return result


def least_squares(
    residuals: Callable[..., Any],
    x0: Any,
    *,
    method: str = "trf",
    bounds: Any = None,
    callback: Callable[[Any], Any] | None = None,
    engine: str = "auto",
    **options: Any,
) -> Any:
    """Minimise half the sum of squares of `residuals(x)`, an array or several in a structure, by `scipy.optimize.least_squares`.

    `x0`, `bounds`, `callback`, `engine`: as in `minimize`. The Jacobian is exact. `options` go to SciPy: `loss`, `f_scale`, `x_scale`,
    `max_nfev` (here 1000 times the number of elements), `ftol`, `xtol`, `gtol` (here 1e-14 each), ... Returns SciPy's result, its `x` in the structure of `x0`.

    Raises as `minimize` does.

    >>> t = torch.arange(5.0, dtype=torch.float64)
    >>> y = 2.0 * (-0.5 * t).exp()
    >>> result = hg.least_squares(lambda p: p[0] * hg.exp(-p[1] * t) - y, (1.0, 1.0))
    >>> [round(value, 6) for value in result.x]
    [2.0, 0.5]
    """
    result, point = _fitted(residuals, x0, method, bounds, callback, engine, options)
    result.x = point.as_given(result.x)
    return result


def _fitted(
    residuals: Callable[..., Any], x0: Any, method: str, bounds: Any, callback: Any, engine: str, options: dict[str, Any]
) -> tuple[Any, _Point]:
    """SciPy's own result, of vectors."""
    optimize = _scipy()
    one_of("method", method, ("trf", "dogbox", "lm"))
    point = _Point(residuals, x0, engine)

    def flat(z: Any) -> Any:
        found = [Reshape.apply(part, (-1,)) for part in leaves(point.value(z))]
        if not found:
            raise OperandError("least_squares: the function must return residuals, at least one array of them")
        return found[0] if len(found) == 1 else cat(found)

    value, slope = point.program(flat), point.program(jacobian(flat))
    point.require_finite((value(point.start), slope(point.start)))
    given = {"ftol": _TOLERANCE, "xtol": _TOLERANCE, "gtol": _TOLERANCE, "max_nfev": 1000 * point.start.size, **options}
    if bounds is not None:
        given["bounds"] = point.bounds(bounds, optimize)
    if callback is not None:
        given["callback"] = point.callback(callback, optimize)
    import numpy

    with numpy.errstate(over="ignore"):  # of a sum of squares where SciPy tries, which is then no less
        return optimize.least_squares(value, point.start, jac=slope, method=method, **given), point


def curve_fit(
    model: Callable[..., Any],
    x: Any,
    y: Any,
    p0: Any,
    *,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: Any = None,
    method: str = "trf",
    callback: Callable[[Any], Any] | None = None,
    engine: str = "auto",
    **options: Any,
) -> tuple[Any, Any]:
    """(parameters, standard errors) of the curve `model(x, *p)` that fits `y` best in the least-squares sense, both in the structure of `p0`.

    A tuple or list `p0` is handed on as arguments of their own, as in SciPy; anything else, such as a dict or an array, as one:
    `model(x, p)`. `x`: an array or a list of numbers, or several arrays in a structure; `y`: an array of the shape that the model gives; both are taken as float64.
    `sigma`: standard deviations of `y`, of its shape or one number; they weigh the residuals, and unless `absolute_sigma` only their ratios
    count, since the deviation is estimated from the residuals. Other arguments: as in `least_squares`.

    The standard errors are the roots of the diagonal of s^2 (J'J)^-1, where J is the Jacobian at the solution, and s^2 the sum of squares
    divided by the number of observations less that of parameters, or 1 with `absolute_sigma`. They are infinite where the data
    do not determine a parameter, or are no more than the parameters.

    Raises DataError where the search fails, and as `least_squares` does.

    >>> x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    >>> (slope, offset), errors = hg.curve_fit(lambda x, a, b: a * x + b, x, torch.tensor([1.1, 2.9, 5.1, 6.9]), (1.0, 0.0))
    >>> round(slope, 3), round(offset, 3), round(errors[0], 4)
    (1.96, 1.06, 0.0566)
    """
    x = _float64(x) if isinstance(x, (tuple, list)) and not any(hasattr(leaf, "shape") for leaf in leaves(x)) else mapped(_float64, x)
    y = _float64(y)._data
    weights: Any = 1.0
    if sigma is not None:
        sigma = _float64(sigma)._data
        if sigma.ndim and sigma.shape != y.shape:
            raise ShapeError(f"curve_fit: sigma must be one number or have the shape of y, {tuple(y.shape)}; got {tuple(sigma.shape)}")
        if not bool((sigma > 0).all()):
            raise RangeError("curve_fit: sigma holds standard deviations, which are above 0")
        weights = 1.0 / sigma
    several = type(p0) in (tuple, list)

    def residuals(p: Any) -> Any:
        values = model(x, *p) if several else model(x, p)
        if not isinstance(values, (Variable, Tensor)) or values.shape != y.shape:
            got = tuple(values.shape) if isinstance(values, (Variable, Tensor)) else repr(values)[:60]
            raise ShapeError(f"curve_fit: the model must give an array of y's shape {tuple(y.shape)}; got {got}")
        return (values - y) * weights

    result, point = _fitted(residuals, p0, method, bounds, callback, engine, options)
    if not result.success:
        raise DataError(
            f"curve_fit: no fit was found: {result.message} Begin elsewhere, or give max_nfev or other options of least_squares"
        )
    return point.as_given(result.x), point.as_given(_errors(result.jac, result.cost, absolute_sigma))


def _errors(slope: Any, cost: float, absolute: bool) -> Any:
    """The standard errors from the Jacobian and half the sum of squares."""
    count, parameters = slope.shape
    matrix = torch.tensor(slope, dtype=torch.float64)
    scale = matrix.norm(dim=0)
    scale[scale == 0.0] = 1.0
    _, singular, right = torch.linalg.svd(matrix / scale, full_matrices=False)  # of columns of like size, so that units do not matter
    if count < parameters or singular[-1] <= torch.finfo(torch.float64).eps * max(count, parameters) * singular[0]:
        return torch.full((parameters,), math.inf, dtype=torch.float64).numpy()
    variance = 1.0 if absolute else 2 * cost / (count - parameters) if count > parameters else math.inf
    return (((right.mT / singular).square().sum(1) * variance).sqrt() / scale).numpy()


# ---- nested arguments as one vector


class _Point:
    """The argument of a function as one vector, `start` at first, and programs of that vector."""

    def __init__(self, f: Callable[..., Any], x0: Any, engine: str) -> None:
        if not callable(f):
            raise OperandError(f"the first argument must be a function; got {f!r:.60}")
        if state.trace is not None:
            raise CaptureError("a search cannot be captured: how long it takes depends on values")
        self.f, self.x0 = f, x0
        self.engine = one_of("engine", engine, ("auto", "eager", *ENGINES))
        integers = False
        self.shapes: list[tuple[int, ...]] = []
        pieces = []
        for path, leaf in paths(x0):
            if isinstance(leaf, (bool, str)) or not (isinstance(leaf, (Variable, Tensor, int, float)) or is_numpy(leaf)):
                raise OperandError(f"x0{path} must be a number or an array; got {leaf!r:.60}")
            tensor = _float64(leaf)._data
            integers = integers or _is_integer(leaf)
            self.shapes.append(tuple(tensor.shape))
            pieces.append(tensor.reshape(-1))
        if not pieces or not sum(piece.numel() for piece in pieces):
            raise OperandError(f"x0 holds no number to begin with; got {x0!r:.60}")
        if integers:
            warnings.warn("x0 holds integers, which are taken as float64; write 1.0 for 1", stacklevel=3)
        self.start = torch.cat(pieces).cpu().numpy().copy()
        self._eager, self._looked = self.engine == "eager", False

        def value(z: Any) -> Any:  # no method, as all that an object holds would be watched
            try:
                return f(self.tree(z))
            except TypeError as error:
                if "__array_ufunc__" not in str(error):
                    raise
                raise OperandError(f"the function calls numpy on a Variable ({error}); write hg.exp for numpy.exp, or v.exp()") from error

        self.value = value  # what the function gives for a vector, a Variable

    def tree(self, z: Any) -> Any:
        """The vector, a Variable, in the structure of the argument."""
        if len(self.shapes) == 1 and isinstance(self.x0, (Variable, Tensor)) and len(self.shapes[0]) == 1:
            return z
        rest = iter(list(self._split(lambda a, b, shape: Reshape.apply(GetItem.apply(z, slice(a, b)), shape))))
        return mapped(lambda _: next(rest), self.x0)

    def _split(self, take: Callable[[int, int, tuple[int, ...]], Any]) -> Iterator[Any]:
        at = 0
        for shape in self.shapes:
            size = math.prod(shape)
            yield take(at, at + size, shape)
            at += size

    def as_given(self, z: Any) -> Any:
        """A vector of SciPy's in the structure of the argument, and of the kinds of its leaves."""
        rest = iter(list(self._split(lambda a, b, shape: z[a:b].astype("float64").reshape(shape))))

        def convert(leaf: Any) -> Any:
            values = next(rest)
            if isinstance(leaf, (int, float)):
                return float(values)
            if is_numpy(leaf):
                return values
            tensor = torch.from_numpy(values).to(leaf.device)
            return Variable(tensor) if isinstance(leaf, Variable) else tensor

        return mapped(convert, self.x0)

    # ---- programs

    def program(self, function: Callable[..., Any], *more: Tensor) -> Callable[..., Any]:
        """The function for SciPy: of numpy arrays, captured where that is possible. `more`: examples of vectors that it takes besides."""
        examples = [torch.from_numpy(self.start), *more]
        if self._eager:
            return self._eagerly(function)
        try:
            found = captured(function, [Variable(example) for example in examples], [self.f, function], watched=True)
        except CaptureError as error:
            if self.engine != "auto":
                raise
            warnings.warn(EngineWarning(f"the function runs eagerly, as it cannot be captured: {error}"), stacklevel=3)
            self._eager = True
            return self._eagerly(function)
        for value, holder in [*found.code.constants.items(), *((s.value, s.holder) for s in found.code.states)]:
            if value.dtype.is_floating_point and value.dtype != torch.float64:
                names = found.watch.names
                name = value.name or names.get(id(holder)) or _name_in(found.watch, holder)
                raise DtypeError(
                    f"the function uses {f'{name!r}, ' if name else ''}{str(value.dtype).removeprefix('torch.')}{value.shape}; searches run in "
                    "float64, which it would spoil. Convert it with to(torch.float64), outside of the function"
                )
        program = self._on_engine(found)
        return self._numpy(program)

    def _on_engine(self, found: Any) -> Program:
        if self.engine != "auto":
            return Program(found).to(self.engine)
        for name, engine in ENGINES.items():
            if name != EXACT.name and engine.at_hand([found.code]):
                try:
                    return Program(found).to(name)
                except EngineError:  # then the exact one runs it
                    continue
        return Program(found)

    def _eagerly(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not self._looked:
            self._looked = True
            with Tape(), enable_grad:
                for value in leaves(self.value(Variable(torch.from_numpy(self.start), requires_grad=True))):
                    _require_float64(value)
        return self._numpy(lambda *z: function(*[Variable(v) for v in z]))

    def _numpy(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*z: Any) -> Any:
            result = call(*[torch.from_numpy(v.astype("float64", order="C")) for v in z])
            return mapped(_to_numpy, result)

        return run

    def require_finite(self, found: Any) -> None:
        """Raises DataError unless all that the function gave at the start is finite."""
        what = ("value", "gradient") if isinstance(found, tuple) else ("value",)
        for name, values in zip(what, found if isinstance(found, tuple) else (found,)):
            if not torch.as_tensor(values).isfinite().all():
                raise DataError(f"the function's {name} at x0 is {values!r:.60}; begin where it is finite")

    # ---- what SciPy takes besides

    def bounds(self, given: Any, optimize: Any = None) -> Any:
        """SciPy's bounds: a list of pairs, or with `optimize` a Bounds."""
        low, high = (torch.full((self.start.size,), end, dtype=torch.float64) for end in (-math.inf, math.inf))
        if hasattr(given, "lb"):
            low[:], high[:] = torch.as_tensor(given.lb), torch.as_tensor(given.ub)
        else:
            at = 0
            for path, pair, size, shape in self._pairs(given):
                for into, end in zip((low, high), pair):
                    if end is not None:
                        values = _float64(end)._data.cpu()
                        if values.ndim and tuple(values.shape) != shape:
                            raise ShapeError(f"a bound of x0{path} must be a number or have its shape {shape}; got {tuple(values.shape)}")
                        into[at : at + size] = values.reshape(-1) if values.ndim else values
                at += size
        if not (low <= high).all():
            raise RangeError("a lower bound is above the upper one")
        return optimize.Bounds(low.numpy(), high.numpy()) if optimize is not None else list(zip(low.tolist(), high.tolist()))

    def _pairs(self, given: Any) -> Iterator[tuple[str, Sequence[Any], int, tuple[int, ...]]]:
        """For each array of the argument where it stands, its pair, how many elements it has and its shape."""
        shapes = iter(self.shapes)

        def visit(tree: Any, bounds: Any, path: str) -> Iterator[tuple[str, Sequence[Any], int, tuple[int, ...]]]:
            if isinstance(tree, (dict, tuple, list)):
                keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
                fits = isinstance(bounds, type(tree)) if isinstance(tree, dict) else isinstance(bounds, (tuple, list))
                if bounds is not None and (not fits or (set(bounds) != set(keys) if isinstance(tree, dict) else len(bounds) != len(keys))):
                    raise OperandError(
                        f"bounds must have the structure of x0, with a pair (low, high) for each array; got {bounds!r:.60} for x0{path}"
                    )
                for key in keys:
                    yield from visit(tree[key], None if bounds is None else bounds[key], f"{path}[{key!r}]")
            elif tree is not None:
                shape = next(shapes)
                size = math.prod(shape)
                pair = (None, None) if bounds is None else bounds
                if isinstance(pair, (tuple, list)) and len(pair) == size and pair and all(isinstance(p, (tuple, list)) for p in pair):
                    ends = zip(*[(-math.inf if low is None else low, math.inf if high is None else high) for low, high in pair])
                    pair = [torch.tensor(end, dtype=torch.float64).reshape(shape) for end in ends]
                if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                    raise OperandError(f"the bounds of x0{path} must be a pair (low, high); got {pair!r:.60}")
                yield path, pair, size, shape

        return visit(self.x0, given, "")

    def callback(self, call: Callable[[Any], Any], optimize: Any) -> Callable[..., Any]:
        def report(intermediate_result: Any) -> Any:
            known = intermediate_result if hasattr(intermediate_result, "x") else optimize.OptimizeResult(x=intermediate_result)
            return call(optimize.OptimizeResult({**known, "x": self.as_given(known.x)}))

        return report


def _constraint(optimize: Any, point: _Point, given: Any, how: str) -> Any:
    """A constraint for SciPy, of the vector, with its Jacobian, and its Hessian where that is asked for."""
    if isinstance(given, optimize.LinearConstraint):
        return given
    if isinstance(given, optimize.NonlinearConstraint):
        g, low, high, keep = given.fun, given.lb, given.ub, given.keep_feasible
    else:
        if not isinstance(given, dict) or given.get("type") not in ("eq", "ineq") or not callable(given.get("fun")):
            raise OperandError(f"a constraint is a dict {{'type': 'eq' or 'ineq', 'fun': function}}, or one of SciPy's; got {given!r:.80}")
        unknown = set(given) - {"type", "fun"}
        if unknown:
            raise OperandError(f"a constraint has 'type' and 'fun' alone, as its Jacobian is computed; got {sorted(unknown)}")
        g, low, high, keep = given["fun"], 0.0, 0.0 if given["type"] == "eq" else math.inf, False

    def flat(z: Any) -> Any:
        found = g(point.tree(z))
        return Reshape.apply(found, (-1,)) if isinstance(found, Variable) else found

    function, slope = point.program(flat), point.program(jacobian(flat))
    if how == "trust-constr":
        weights = torch.ones(len(function(point.start)), dtype=torch.float64)
        curvature = point.program(lambda z, v: hessian(lambda z: (flat(z) * v).sum())(z), weights)
        return optimize.NonlinearConstraint(function, low, high, jac=slope, hess=curvature, keep_feasible=keep)
    if isinstance(given, dict):
        return {"type": given["type"], "fun": function, "jac": slope}
    return optimize.NonlinearConstraint(function, low, high, jac=slope, keep_feasible=keep)


# ---- conversions


def _scipy() -> Any:
    try:
        from scipy import optimize
    except ImportError:
        raise OperandError("SciPy does the searching, and is not installed: pip install 'hotgrad[scipy]'") from None
    return optimize


def _float64(leaf: Any) -> Variable:
    tensor = leaf._data if isinstance(leaf, Variable) else as_tensor(leaf)
    if isinstance(leaf, (int, float)):
        tensor = torch.tensor(leaf, dtype=torch.float64)
    return Variable(tensor.detach().to(torch.float64))


def _is_integer(leaf: Any) -> bool:
    return not isinstance(leaf, float) and (isinstance(leaf, int) or not as_tensor(getattr(leaf, "_data", leaf)).dtype.is_floating_point)


def _to_numpy(value: Any) -> Any:
    array = (value._data if isinstance(value, Variable) else value).cpu().numpy()
    return array.reshape(()).item() if array.size == 1 and not array.ndim else array


def _name_in(watch: Any, holder: Any) -> str:
    """Where a tensor stands among what is watched, "" if it is not found."""
    return next((items.name(i) for items in watch.items for i, thing in enumerate(items.then) if thing is holder), "")


def _require_float64(value: Any) -> None:
    """Raises DtypeError if float32 took part in what a result in the graph was computed from."""
    stack = [value._link] if isinstance(value, Variable) else []
    seen: set[Any] = set()
    while stack:
        record = stack.pop()
        if type(record) is not Record or record in seen:
            continue
        seen.add(record)
        stack += record.parents or ()
        for operand in record.operands or ():
            dtype = getattr(operand, "dtype", None)
            if dtype is not None and dtype.is_floating_point and dtype != torch.float64:
                raise DtypeError(
                    f"{record.op.name} was called on {dtype} of shape {tuple(operand.shape)}; searches run in float64. Convert it"
                )
