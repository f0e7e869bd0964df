"""Hypothesis strategies for shapes, tensors, Variables and the operands of a primitive.

Every class of shape and layout that has hidden a bug somewhere is drawn often: 0-d, empty, of size 1, square (where a missing
transposition shows no wrong shape), of different rank; strided, transposed, expanded, and starting inside a larger storage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

from hotgrad.core.domains import Booleans, Domain, Integers, Interval
from hotgrad.core.options import REQUIRED
from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable
from hotgrad.errors import DeclarationError

Shape = tuple[int, ...]
Strategy = st.SearchStrategy[Any]

REALS = Interval()
# Exact in binary, as all numbers of a draw with special values are: rounding must not turn a tie into something else.
_SPECIAL = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 1.5, 3.0, -3.0, 2.0**-7, -(2.0**-7), 2.0**-10, 30.0, -30.0, 100.0)
_MOST = 18  # elements of a drawn shape


@st.composite
def shapes(draw: Any, min_dims: int = 0, max_dims: int = 3, max_side: int = 4) -> Shape:
    """Shapes with `min_dims` to `max_dims` axes: a quarter square, and empty, 0-d and size-1 ones among the others.

    >>> from hypothesis import find
    >>> find(shapes(min_dims=2), lambda shape: 0 in shape)
    (0, 1)
    """
    kind = draw(_KIND)
    if kind == 0 and min_dims == 0:
        return ()
    ndim: int = draw(st.integers(min(max(min_dims, 1), max_dims), max_dims))
    if 5 <= kind < 9 and max_dims > 1:  # square
        ndim = max(ndim, 2)
        side: int = draw(st.integers(2, max(2, int(_MOST ** (1 / ndim)))))
        return (side,) * ndim
    sizes: list[int] = []
    for _ in range(ndim):
        sizes.append(draw(st.integers(1, max(1, min(max_side, _MOST // max(1, math.prod(sizes)))))))
    if 1 <= kind < 5 and sizes:
        sizes[draw(st.integers(0, ndim - 1))] = 0 if kind < 3 else 1
    shape: Shape = tuple(sizes)
    return shape


_KIND = st.integers(0, 15)


@st.composite
def broadcastable_shapes(draw: Any, n: int = 2, max_dims: int = 3) -> tuple[Shape, ...]:
    """`n` shapes that broadcast against each other: equal ones, of lower rank, and with axes of size 1.

    >>> from hypothesis import find
    >>> find(broadcastable_shapes(2), lambda pair: len(pair[0]) > len(pair[1]))
    ((1,), ())
    """
    result = draw(shapes(max_dims=max_dims))
    if n == 1 or draw(st.integers(0, 3)) == 1:
        return (result,) * n
    found = []
    for _ in range(n):
        drop = draw(st.integers(0, len(result)))
        ones = draw(st.integers(0, 2 ** len(result) - 1)) if draw(st.booleans()) else 0
        found.append(tuple(1 if ones >> i & 1 else size for i, size in enumerate(result))[drop if draw(st.booleans()) else 0 :])
    return tuple(found)


def _numbers(domain: Domain, special: bool) -> Strategy:
    """Numbers of a domain: short decimals, or eighths with special values among them."""
    key = (domain, special)
    if key not in _NUMBERS:
        _NUMBERS[key] = _make_numbers(domain, special)
    return _NUMBERS[key]


_NUMBERS: dict[Any, Strategy] = {}


def _make_numbers(domain: Domain, special: bool) -> Strategy:
    if isinstance(domain, Integers):
        return st.integers(domain.low, domain.high)
    if isinstance(domain, Booleans):
        return st.booleans()
    low, high = domain
    if math.isfinite(low) and math.isfinite(high):
        grid = [low + (high - low) * k / 64 if special else round(low + (high - low) * k / 60, 4) for k in range(1, 60)]
    else:
        part = 8 if special else 10
        steps = [k / part for k in range(1, 48)]
        if math.isfinite(low) or math.isfinite(high):
            grid = [low + x if math.isfinite(low) else high - x for x in steps]
        else:
            grid = [x for step in steps for x in (step, -step)]
    grid.sort(key=lambda x: (abs(x - 1), x))  # hypothesis shrinks towards the first
    if special:
        marks = [x for x in (0.0, 0.0, 0.0, *_SPECIAL, low, high) if low <= x <= high and math.isfinite(x)]
        return st.one_of(st.sampled_from(grid), st.sampled_from(marks))
    return st.sampled_from(grid)


@st.composite
def tensors(draw: Any, shape: Any = None, domain: Domain = REALS, dtype: torch.dtype | None = None, special: bool | None = None) -> Tensor:
    """Tensors with values of `domain` (float64, or int64 and bool for Integers and Booleans), in any memory layout.

    `shape`: a shape or a strategy, default any. `special`: whether values such as 0, bounds and ties are mixed in; default drawn.

    >>> from hypothesis import find
    >>> find(tensors((2,)), lambda t: t[0] > 2 and not t.is_contiguous())
    tensor([2.1000, 1.0000], dtype=torch.float64)
    """
    if shape is None:
        shape = draw(shapes())
    elif isinstance(shape, st.SearchStrategy):
        shape = draw(shape)
    if special is None:
        special = draw(st.booleans())
    if dtype is None:
        dtype = torch.int64 if isinstance(domain, Integers) else torch.bool if isinstance(domain, Booleans) else torch.float64
    n = math.prod(shape)
    values = draw(st.lists(_numbers(domain, special), min_size=n, max_size=n))
    layout = draw(_LAYOUT)
    return laid_out(torch.tensor(values, dtype=dtype).reshape(shape), 0 if layout == 3 and not special else layout)


_LAYOUT = st.integers(0, 7)


def laid_out(t: Tensor, kind: int) -> Tensor:
    """`t` in one of several memory layouts: 1 strided, 2 transposed, 3 expanded, 4 inside a larger storage, else contiguous.

    What lies between its elements is NaN, so that whoever reads it is found out.
    """
    filler = torch.nan if t.dtype.is_floating_point else True if t.dtype is torch.bool else -99
    if kind == 1 and t.ndim:
        return torch.full((*t.shape[:-1], 2 * t.shape[-1]), filler, dtype=t.dtype)[..., ::2].copy_(t)
    if kind == 2 and t.ndim > 1:
        return t.mT.contiguous().mT
    if kind == 3 and t.ndim and t.shape[0] > 1:
        return t[:1].clone().expand(t.shape)
    if kind == 4:
        return torch.full((t.numel() + 3,), filler, dtype=t.dtype)[3:].reshape(t.shape).copy_(t)
    return t


@st.composite
def variables(draw: Any, shape: Any = None, domain: Domain = REALS, requires_grad: Any = None) -> Variable:
    """Variables over `tensors(shape, domain)`; `requires_grad` a bool, default drawn.

    >>> from hypothesis import find
    >>> find(variables(()), lambda v: v.requires_grad)
    Variable(1., dtype=torch.float64, requires_grad=True)
    """
    floating = isinstance(domain, Interval)
    needs = draw(st.booleans()) if requires_grad is None and floating else bool(requires_grad)
    return Variable(draw(tensors(shape, domain)), requires_grad=needs)


# ------------------------------------------------------------------------------------------------- operands of a primitive


def domain_of(op: type[Primitive], index: int) -> Domain:
    """The domain of operand `index`; the reals where none is declared."""
    if not op.domain:
        return Interval()
    return op.domain[index] if op.arity is not None else op.domain[0]


@st.composite
def operands(draw: Any, op: type[Primitive]) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Operands (tensors) and options for `op`, as its declaration says: `operands()`, or `signature`, `domain` and `options`.

    Raises DeclarationError for a required option of which it says nothing.

    >>> from hypothesis import find
    >>> (a, b), options = find(operands(hg.ops.MatMul), lambda drawn: drawn[0][0].ndim == 3)
    >>> a.ndim
    3
    """
    special = draw(st.booleans())
    options: dict[str, Any] = {}
    own: Callable[[], Any] | None = getattr(op, "operands", None)
    if own is not None:
        choice = own()
        given, options = draw(choice if isinstance(choice, st.SearchStrategy) else st.sampled_from(choice))
        options = dict(options)
    elif op.signature:
        given = draw(_signature_shapes(op.signature))
    else:
        given = draw(broadcastable_shapes(op.arity or draw(st.integers(1, 3))))
    for name, choice in op.options.items():
        if name not in options:
            options[name] = draw(choice if isinstance(choice, st.SearchStrategy) else st.sampled_from(list(choice)))
    missing = [name for name, value in op.defaults.items() if value is REQUIRED and name not in options]
    if missing:
        raise DeclarationError(
            f"{op.name}: tests cannot draw the required option {missing[0]!r}; declare it in `options` or give `operands()`"
        )
    filled = [
        draw(tensors(x, domain_of(op, i), special=special)) if isinstance(x, tuple) else x if isinstance(x, Tensor) else torch.tensor(x)
        for i, x in enumerate(given)
    ]
    return tuple(filled), options


@st.composite
def _signature_shapes(draw: Any, signature: str) -> tuple[Shape, ...]:
    """Shapes that fit a generalised-ufunc signature, with leading axes that broadcast."""
    terms = [re.findall(r"\w+", term) for term in re.findall(r"\(([^)]*)\)", signature.partition("->")[0])]
    batch: Sequence[Shape] = draw(broadcastable_shapes(len(terms), max_dims=1)) if draw(st.integers(0, 2)) == 1 else ((),) * len(terms)
    letters = {letter for term in terms for letter in term}
    kind = draw(_KIND)
    square = draw(st.integers(2, 3)) if 5 <= kind < 9 else None
    sizes = {letter: square or draw(st.integers(0 if kind in (1, 2) else 1, 3)) for letter in sorted(letters)}
    return tuple((*lead, *(sizes[letter] for letter in term)) for lead, term in zip(batch, terms))
