"""Every op, given what it does not take: a HotgradError that names it, or torch's value with torch's gradient; never anything else.

A new op is covered by being in the registry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad import Variable

pytestmark = [
    pytest.mark.usefixtures("tape"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning"),
]

NAN, INF = math.nan, math.inf
F64 = torch.float64
OPERANDS: dict[str, Callable[[Any], Any]] = {
    "int64": lambda t: (t * 5).long(), "int32": lambda t: (t * 5).int(), "uint8": lambda t: (t * 5).to(torch.uint8), "bool": lambda t: t > 0.4,
    "float16": lambda t: t.half(), "bfloat16": lambda t: t.bfloat16(), "float32": lambda t: t.float(), "uint16": lambda t: (t * 5).to(torch.uint16),
    "float8": lambda t: t.to(torch.float8_e5m2), "complex": lambda t: t * 1j, "sparse": lambda t: t.to_sparse(), "0-d": lambda t: t.sum(),
    "an axis more": lambda t: t.unsqueeze(0).expand(2, *t.shape), "another shape": lambda t: torch.full((7, 5), 0.5, dtype=F64), "empty": lambda t: t.new_zeros(0),
    "no rows": lambda t: t.new_zeros((0, *t.shape)), "None": lambda t: None, "text": lambda t: "a", "list": lambda t: [1.0], "object": lambda t: object(),
    "2": lambda t: 2, "-1": lambda t: -1, "2.5": lambda t: 2.5, "True": lambda t: True, "nan": lambda t: NAN, "inf": lambda t: INF, "huge": lambda t: 10**400, "1j": lambda t: 1j,
    "array": lambda t: np.ones(3), "array of text": lambda t: np.array(["a"]), "array of objects": lambda t: np.array([None]),
}  # fmt: skip
SHAPES = ("0-d", "an axis more", "another shape", "empty", "no rows")
OPTIONS: list[Any] = [
    None, "a", "", 1.5, True, -1, -7, 7, 0, 1, 10**30, 2**63, NAN, INF, -INF, [], (), (0, 0), (0, 1), [0], (None,), ("a",), (1.5,), object(), torch.tensor(1),
    torch.tensor([0, 1]), torch.tensor(0.5), np.int64(1), np.array([0, 1]), {}, {0}, slice(None), ..., torch.float32, torch.complex64, "cuda:9", range(2), len,
    (2**40, 2**40), -0.0, "fro", b"a", 2 + 1j, Variable(1), Variable(1.0, requires_grad=True),
]  # fmt: skip
Call = tuple[list[Any], dict[str, Any]]


def calls(op: type[hg.Primitive]) -> Iterator[Call]:
    """Right calls of an op, a few."""
    generator = torch.Generator().manual_seed(0)

    def operand(given: Any) -> Any:
        return torch.rand(given, generator=generator, dtype=F64) * 0.6 + 0.2 if isinstance(given, tuple) else given

    if hasattr(op, "operands"):
        drawn = list(op.operands())
        for values, options in drawn[:: max(1, len(drawn) // 3)]:
            yield [operand(value) for value in values], dict(options)
    else:
        domain = op.domain or (hg.Interval(),) * (op.arity or 2)
        first = {name: next((v for v in values if v is not None), None) for name, values in op.options.items()}
        yield [operand((2, 3)) > 0.5 if isinstance(d, hg.Booleans) else operand((2, 3)) for d in domain], first


def leaves_of(op: type[hg.Primitive], values: list[Any]) -> list[Any]:
    """Floating tensors as Variables that require a gradient where the op has one for them."""

    def differentiable(i: int, value: Any) -> bool:
        dense = isinstance(value, torch.Tensor) and value.dtype.is_floating_point and value.layout is torch.strided
        return dense and (op.arity is None or i >= len(op.rules) or op.rules[i] is not None)

    return [Variable(value, requires_grad=True) if differentiable(i, value) else value for i, value in enumerate(values)]


def torchs(op: type[hg.Primitive], values: list[Any], options: dict[str, Any], wanted: list[int], seed: torch.Tensor) -> list[Any] | None:
    """What torch's autograd finds through the op's own forward; None where it finds nothing, or differs by a bug or a convention."""
    tensors = [v.detach().clone().requires_grad_(i in wanted) if isinstance(v, torch.Tensor) else v for i, v in enumerate(values)]
    try:
        with torch.enable_grad():
            out = op.forward(*tensors, **options)
            found = torch.autograd.grad(out, [tensors[i] for i in wanted], seed, allow_unused=True, materialize_grads=True)
    except Exception:
        return None
    return list(found)


def misused(op: type[hg.Primitive], values: list[Any], options: dict[str, Any]) -> str:
    """Call it and say what is wrong with what comes; "" if nothing is."""
    given = leaves_of(op, values)
    if not any(isinstance(value, Variable) for value in given):
        given = [Variable(v) if isinstance(v, torch.Tensor) and not v.is_complex() and v.layout is torch.strided else v for v in given]
    try:
        out = op.apply(*given, **options)
    except hg.HotgradError as error:
        return "" if op.name in str(error) else f"{type(error).__name__} without the name: {error}"
    except TypeError as error:  # Python's own about the number of arguments
        return "" if re.match(rf"{op.name}\.apply\(\) (missing|takes|got an unexpected)", str(error)) else f"TypeError: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if not isinstance(out, Variable) or not out.requires_grad or out.numel() > 10**6:
        return ""
    seed = torch.linspace(0.5, 1.5, out.numel(), dtype=F64).reshape(out.shape).to(out.dtype)
    try:
        out.backward(seed)
    except hg.HotgradError as error:
        return "" if out.dtype is torch.float8_e5m2 else f"backward: {type(error).__name__}: {error}"
    except Exception as error:
        return "" if out.dtype is torch.float8_e5m2 else f"backward: {type(error).__name__}: {error}"
    wanted = [i for i, v in enumerate(given) if isinstance(v, Variable) and v.requires_grad]
    bound = op.bind((), options) if options else options
    expected = torchs(op, values, bound, wanted, seed)
    exact = all(v.dtype is F64 for v in values if isinstance(v, torch.Tensor) and v.dtype.is_floating_point)
    for i, right in zip(wanted, expected or []):
        got = given[i].grad
        if got.dtype is not given[i].dtype or got.layout is not torch.strided:
            return f"the gradient is {got.dtype}, {got.layout}"
        if op.name in ("Var", "Std") and not bool(out.data.isfinite().all()):
            continue  # over too few elements: torch's gradient is that of another divisor than its value's
        if op.name in ("Var", "Std") and isinstance(bound.get("dim"), tuple) and not bound["dim"]:
            continue  # torch takes () for all axes in the value, and for none in the gradient
        tolerance = {"rtol": 1e-8, "atol": 1e-10} if exact else {"rtol": 0.05, "atol": 0.02}
        if not torch.allclose(got.double(), right.double(), equal_nan=True, **tolerance):
            return f"the gradient of operand {i} is {got.tolist()}, torch's {right.tolist()}"
    return ""


# Where torch's gradient is another by convention (of a symmetric matrix), has another sign in another dtype, or overflows in uint8.
DIFFERENT = {"Cholesky", "Eigh", "SVD", "QR", "Atan2"}


@pytest.mark.parametrize("name", [n for n, op in hg.primitives().items() if op.__module__.startswith("hotgrad.") and n not in DIFFERENT])
def test_misuse(name: str) -> None:
    op = hg.primitives()[name]
    found: dict[str, str] = {}

    def attempt(what: str, values: list[Any], options: dict[str, Any]) -> None:
        wrong = misused(op, values, options)
        if wrong:
            found.setdefault(wrong[:80], f"{name} with {what}, {options}: {wrong[:300]}")

    for values, options in calls(op):
        attempt("right operands", values, options)
        for what, change in OPERANDS.items():
            if not op.function and what in SHAPES:
                continue  # gradients of others, which get what these were given
            changed = [change(v) if isinstance(v, torch.Tensor) and v.dtype is F64 else v for v in values]
            attempt(f"all operands {what}", changed, options)
            for i in range(len(values)):
                attempt(f"operand {i} {what}", [*values[:i], changed[i], *values[i + 1 :]], options)
        attempt("an operand less", values[:-1], options)
        attempt("an operand more", [*values, values[-1]], options)
        attempt("an unknown option", values, {**options, "nonsense": 1})
        if op.function:
            for option in op.defaults:
                for value in OPTIONS:
                    attempt(f"{option}={value!r}", values, {**options, option: value})
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype=dtype):
                attempt(
                    f"autocast to {dtype}", [v.float() if isinstance(v, torch.Tensor) and v.dtype is F64 else v for v in values], options
                )
    assert not found, "\n".join(found.values())
