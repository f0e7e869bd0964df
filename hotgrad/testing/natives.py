"""The native form of an op against its `forward`, on what tests draw from its domain, and at special values, NaN and infinities."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Booleans, Domain, Integers, Interval
from hotgrad.core.primitive import Primitive
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.native.engine import native_form
from hotgrad.engines.native.expressions import is_expression
from hotgrad.engines.native.layout import NativeError
from hotgrad.engines.native.user_forms import Form
from hotgrad.errors import EngineError, OperandError
from hotgrad.testing.report import Problem, Report
from hotgrad.testing.strategies import domain_of

Draw = tuple[tuple[Tensor, ...], dict[str, Any]]
# Exact in float32 too, or out of its range, where they become infinite and 0.
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 2.0**-20, 30.0, -30.0, 100.0, -100.0, 2.0**60, -(2.0**60), 1e300, 1e-300, math.inf, -math.inf)
_DTYPES = (torch.float64, torch.float32)
_MOST = 6  # calls that are compiled as drawn, and sets of options


def require(op: type[Primitive]) -> None:
    """Raise OperandError if there is no native form, EngineError if there is no C compiler."""
    if not op.native:
        raise OperandError(f"{op.name} declares no `native` form that could be checked")
    if find_compiler() is None:
        raise EngineError("native forms are checked by compiling them: install a C compiler (`cc`, `gcc` or `clang`), or set CC to it")


def compare(op: type[Primitive], draws: Sequence[Draw], report: Report) -> list[Problem]:
    """What is wrong with the native form of `op`: it is not what `forward` computes for these draws, or does not compile.

    An expression is tried on all elements of all draws at once, since each call of other shapes is compiled anew, and on some of
    the draws as they are. A shape class may decline single calls, which then run on other engines, but not all.
    """
    declined: list[str] = []
    expression = is_expression(op.native)
    calls = _elements(op, draws) if expression else iter(())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, on degenerate draws
        for operands, options in itertools.chain(calls, _as_drawn(draws, 2 if expression else _MOST)):
            for dtype in _DTYPES if any(o.is_floating_point() for o in operands) else _DTYPES[:1]:
                given = [o.to(dtype) if o.is_floating_point() else o for o in operands]
                try:
                    op.forward(*given, **options)
                except Exception:  # it need not take what was made of the draws
                    continue
                try:
                    _call(op, given, options)
                except _Different as error:
                    return [Problem("native", str(error), "the C expression in `native` is not what `forward` says" if expression else "")]
                except NativeError as error:
                    declined.append(str(error))
                else:
                    report.native += 1
    if declined and (expression or not report.native):
        return [Problem("native", f"{op.name}: its native form {op.native!r} cannot be used: {declined[0]}")]
    return []


class _Different(Exception):
    """The native form computes something else."""


def _call(op: type[Primitive], operands: list[Tensor], options: dict[str, Any]) -> None:
    """Compare one call, then with NaN and infinities among its operands. Raises _Different, or NativeError if it is declined."""
    form, engine = native_form(op, operands, options)
    poisoned = []
    for place, operand in enumerate(operands):
        domain = domain_of(op, place)
        if operand.is_floating_point() and operand.numel() and isinstance(domain, Interval):
            values = [math.nan, *(x for x in (math.inf, -math.inf) if domain.low <= x <= domain.high)]
            given = [[*operands[:place], _poisoned(operand, value), *operands[place + 1 :]] for value in values]
            poisoned += [Form.of(op, one, form.options) for one in given]
    for one in (form, *poisoned):
        try:
            one.check(engine)
        except NativeError as error:
            raise _Different(str(error)) from None


def _poisoned(operand: Tensor, value: float) -> Tensor:
    operand = operand.clone()
    operand.view(-1)[operand.numel() // 2] = value
    return operand


def _elements(op: type[Primitive], draws: Sequence[Draw]) -> Iterator[Draw]:
    """For each set of options one call on a vector: the elements of its draws, and special values with each other."""
    groups: dict[str, list[Draw]] = {}
    for draw in draws:
        groups.setdefault(repr((sorted(draw[1].items()), len(draw[0]), [o.dtype for o in draw[0]])), []).append(draw)
    for group in itertools.islice(groups.values(), _MOST):
        columns = [[t.reshape(-1) for t in _broadcast(values)] for values, _ in group]
        columns = [column for column in columns if column]
        if columns:
            count = len(columns[0])
            special = _specials([domain_of(op, i) for i in range(count)], [column.dtype for column in columns[0]])
            yield tuple(torch.cat([*(row[i] for row in columns), special[i]]) for i in range(count)), group[0][1]


def _broadcast(values: Sequence[Tensor]) -> list[Tensor]:
    """The operands in one shape; nothing where they do not broadcast, as `forward` may take what expressions do not."""
    try:
        shape = torch.broadcast_shapes(*(v.shape for v in values))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return []
    return [v.expand(shape) for v in values]


def _specials(domains: Sequence[Domain], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Special values of each domain, NaN among them, each with each of the next operand's, and with some of the others'."""
    choices: list[list[float]] = []
    for domain in domains:
        if isinstance(domain, Booleans):
            choices.append([0, 1])
        elif isinstance(domain, Integers):
            choices.append([k for k in (domain.low, -1, 0, 1, 2, domain.high) if domain.low <= k <= domain.high])
        else:
            low, high = domain
            choices.append([*(x for x in (*_SPECIAL, low, high) if low <= x <= high), math.nan])
    counts = [len(values) for values in choices]
    rows = [
        [values[(first, second, first + second + k)[min(k, 2)] % len(values)] for k, values in enumerate(choices)]
        for first in range(counts[0])
        for second in range(max(counts[1:], default=1))
    ]
    return [torch.tensor(column, dtype=torch.float64).to(dtype) for column, dtype in zip(zip(*rows), dtypes)]


def _as_drawn(draws: Sequence[Draw], most: int) -> Iterator[Draw]:
    """Draws of different shapes and options, packed, the largest first."""
    different = {repr(([v.shape for v in values], options)): (values, options) for values, options in draws}
    ordered = sorted(different.values(), key=lambda draw: -sum(v.numel() for v in draw[0]))
    for values, options in ordered[:most]:
        yield tuple(v.contiguous() for v in values), options
