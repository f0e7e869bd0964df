"""Native forms of users' ops against their `forward`, on values drawn from the op's domain: what Python and what C says may differ."""

from __future__ import annotations

import contextlib
import functools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Booleans, Domain, Integers, Interval
from hotgrad.core.primitive import Primitive
from hotgrad.engines.engine import Engine
from hotgrad.engines.native.expressions import is_expression
from hotgrad.engines.native.layout import NativeError
from hotgrad.program.instructions import Code, Instruction, Value

COUNT = 128  # elements of ordinary size that an expression is tried on
_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 10.0, -10.0, 1e-3, -1e-3)
# Where forms have their limits: exp() overflows at 88.7 and at 709.8.
_LARGE = (3, 5, 7, 15, 20, 20.5, 25, 30, 40, 50, 64, 75, 88, 88.5, 90, 100, 150, 200, 300, 500, 700, 709, 710, 800, 1e3, 1e4, 1e5, 1e6, 1e8)
_WIDE = (1.5, 2.5, *_LARGE, 1e10, 1e30, *(1 / x for x in _LARGE), 1e-10, 1e-30, 1e-40, 1e-310)  # the last are subnormal
_BLOCK = 2 * len(_WIDE)
_ALL = COUNT + 4 * _BLOCK
_MODERATE = 1e4  # of this size at most where all operands are wide: a * a * b need not overflow where a * (a * b) does not
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


@dataclass
class Form:
    """One call of an op, as a program: its operands, and what `forward` gives for them."""

    op: type[Primitive]
    operands: list[Any]  # tensors and numbers
    options: dict[str, Any]
    code: Code
    expected: Tensor

    @classmethod
    def of(cls, op: type[Primitive], operands: Sequence[Any], options: dict[str, Any]) -> Form:
        """The call of `op` on these tensors and numbers. What `forward` raises comes out."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, where a forward in numpy overflows
            expected = op.forward(*operands, **options)
        code = Code()
        values = [Value.like("input", operand) if isinstance(operand, Tensor) else operand for operand in operands]
        code.inputs = [value for value in values if isinstance(value, Value)]
        code.outputs = [Value.like("result", expected)]
        code.instructions = [Instruction(op, tuple(values), options, code.outputs[0])]
        return cls(op, list(operands), options, code, expected)

    def run(self, engine: Engine) -> Tensor:
        """What the engine of `code` gives."""
        return engine.run_once([o for o in self.operands if isinstance(o, Tensor)])[0]

    def check(self, engine: Engine) -> None:
        """Raise NativeError where the engine gives something else than `forward`, but for rounding."""
        got, expected = self.run(engine), self.expected
        same = (got == expected) | ((got != got) & (expected != expected))
        wrong = ~(same | ((got.double() - expected.double()).abs() <= self._allowed()))
        if wrong.any():
            at = tuple(wrong.nonzero()[0].tolist())
            name = f"element {at} of the result" if at else "the result"
            raise NativeError(
                f"{self.op.name}: its native form {self.op.native!r} is not what forward computes: for {self._operands_at(at)} {name} is "
                f"{got[at].item():.7g} natively, and {expected[at].item():.7g} by forward ({expected.dtype}). Correct one of them"
            )

    def _allowed(self) -> Tensor:
        """By element how far rounding may take the result: operands moved by a rounding show how much of it the op makes."""
        dtype, exact = self.expected.dtype, self.expected.double()
        allowed = torch.zeros(exact.shape, dtype=torch.float64)
        for sign in (1, -1):
            operands = [_moved(o, sign) if isinstance(o, Tensor) and o.is_floating_point() else o for o in self.operands]
            with contextlib.suppress(Exception):  # of the user's code, outside of the op's domain
                change = (self.op.forward(*operands, **self.options).double() - exact).abs()
                allowed = torch.maximum(allowed, 8 * change.nan_to_num(0.0, math.inf))
        if dtype.is_floating_point:
            allowed += _TOLERANCE.get(dtype, 1e-4) * exact.abs() + 16 * torch.finfo(dtype).eps * self._scale()
        return torch.where(exact.isfinite(), allowed, 0.0)  # NaN and infinities are exact

    def _scale(self) -> Tensor:
        """How large the operands are, and 1 at least: by element for an expression, over all for a shape class."""
        sizes = [o.double().abs().nan_to_num(0.0, 0.0) for o in self.operands if isinstance(o, Tensor) and o.numel()]
        if not is_expression(self.op.native):
            sizes = [size.max() for size in sizes]
        return functools.reduce(torch.maximum, sizes, torch.ones((), dtype=torch.float64))

    def _operands_at(self, at: tuple[int, ...]) -> str:
        values = []
        for i, operand in enumerate(self.operands):
            name = self.op.operand_names[min(i, len(self.op.operand_names) - 1)]
            if isinstance(operand, Tensor) and operand.shape == self.expected.shape:
                operand = operand[at].item()
            elif isinstance(operand, Tensor):
                operand = operand.tolist() if operand.numel() <= 8 else f"drawn values of shape {tuple(operand.shape)}"
            values.append(f"{name} = {operand}")
        return ", ".join(values)


def forms_of(codes: Iterable[Code]) -> list[Form]:
    """The calls of users' ops that have a native form in these programs, each of a kind once, on values drawn from their domain."""
    found: dict[Any, Form] = {}
    for instruction in (i for code in codes for i in code.instructions):
        op = instruction.op
        if not op.native or op.__module__.startswith("hotgrad."):
            continue
        looks = tuple((o.kind, o.shape, o.dtype) if isinstance(o, Value) else repr(o) for o in instruction.operands)
        key = (op, looks, repr(instruction.options))
        if key not in found:
            form = _drawn(instruction)
            if form is not None:
                found[key] = form
    return list(found.values())


def _drawn(instruction: Instruction) -> Form | None:
    """None where `forward` refuses what is drawn."""
    for given in _operands(instruction):
        try:
            return Form.of(instruction.op, given, instruction.options)
        except Exception:  # of the user's code: the program itself has run it on its own shapes
            continue
    return None


def _operands(instruction: Instruction) -> Iterator[list[Any]]:
    """Operands to try `forward` on, those that say most first."""
    op = instruction.op
    values = [o for o in instruction.operands if isinstance(o, Value)]
    if is_expression(op.native):  # which computes element by element
        if len({value.dtype for value in values}) == 1:  # else 0-d operands decide less about the result's dtype than others
            yield _draw(instruction, [() if value.kind == "scalar" else (_ALL,) for value in values])
        yield _draw(instruction, [(_ALL,) if value.shape else () for value in values])
        yield _draw(instruction, [(COUNT,) if value.shape else () for value in values])
    yield _draw(instruction, [value.shape for value in values])


def _draw(instruction: Instruction, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    op, generator, left = instruction.op, torch.Generator().manual_seed(0), iter(shapes)
    operands: list[Any] = []
    for i, operand in enumerate(instruction.operands):
        domain = op.domain[min(i, len(op.domain) - 1)] if op.domain else Interval()
        if isinstance(operand, Value):
            shape = next(left)
            drawn = _values(domain, operand.dtype, math.prod(shape), i, generator).reshape(shape)
            if shape == (_ALL,) and is_expression(op.native):
                _widen(drawn, domain, i, generator)
            operand = drawn.item() if operand.kind == "scalar" else drawn
        operands.append(operand)
    return operands


def _values(domain: Domain, dtype: torch.dtype, count: int, seed: int, generator: torch.Generator) -> Tensor:
    """Special values first, in another order for each operand, then random ones."""
    if isinstance(domain, Booleans) or dtype is torch.bool:
        return torch.randint(0, 2, (count,), generator=generator).to(dtype)
    low, high = domain
    if isinstance(domain, Integers) or not dtype.is_floating_point:
        return torch.randint(int(max(low, -9)), int(min(high, 9)) + 1, (count,), generator=generator).to(dtype)
    special = [value for value in (*_SPECIAL, low, high) if low <= value <= high and math.isfinite(value)]
    turn = 5 * seed % max(len(special), 1)
    special = special[turn:] + special[:turn] if count >= COUNT else []
    if math.isfinite(low) and math.isfinite(high):
        random = low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)
    else:
        random = 2 * torch.randn(count, generator=generator, dtype=torch.float64)
        if math.isfinite(low) or math.isfinite(high):
            random = low + random.abs() if math.isfinite(low) else high - random.abs()
    values = torch.cat([torch.tensor(special, dtype=torch.float64), random])[:count]
    return values.to(dtype)


def _widen(drawn: Tensor, domain: Domain, place: int, generator: torch.Generator) -> None:
    """Put small and large values into one block, where other operands stay as they are, and into the last, where all are wide."""
    if isinstance(domain, Booleans) or drawn.dtype is torch.bool:
        return
    low, high = domain
    wide = {x: None for w in _WIDE for v in (w, -w) for x in (v, low + v, high + v) if low <= x <= high and math.isfinite(x)}
    if isinstance(domain, Integers) or not drawn.is_floating_point():
        most = _MODERATE if drawn.is_floating_point() else min(_MODERATE, torch.iinfo(drawn.dtype).max)
        wide = {x: None for x in wide if x == int(x) and abs(x) <= most}
    for block, values in ((place % 3, [*wide]), (3, [x for x in wide if abs(x) <= _MODERATE])):
        new = torch.tensor(values[:: math.ceil(len(values) / _BLOCK) or 1], dtype=torch.float64).to(drawn.dtype)
        new = new[new.isfinite()]
        if block == 3:  # each with another one of the other operands
            new = new[torch.randperm(len(new), generator=generator)]
        start = COUNT + block * _BLOCK
        drawn[start : start + len(new)] = new


def _moved(tensor: Tensor, sign: int) -> Tensor:
    return torch.where(tensor.isinf(), tensor, torch.nextafter(tensor, torch.full_like(tensor, sign * math.inf)))
