"""The native engine against plain torch: every op's own examples, special values, chains, updates and many steps in a call."""

from __future__ import annotations

import itertools
import math
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad.engines.compiler import find_compiler
from hotgrad.engines.csource import lowered, source, standalone
from hotgrad.engines.native import Native, NativeError
from hotgrad.program.instructions import Code, Draw, Instruction, State, Value

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")

ops = hg.ops
NONE = torch.zeros(1, 0, dtype=torch.float64)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}
GENERATOR = torch.Generator().manual_seed(0)


class Example:
    """A program under construction, and what torch computes for each of its values."""

    def __init__(self) -> None:
        self.code = Code()
        self.values: dict[Value, Any] = {}

    def given(self, tensor: Tensor, kind: str = "input") -> Value:
        value = Value.like(kind, tensor)
        self.values[value] = tensor
        if kind == "input":
            self.code.inputs.append(value)
        elif kind == "constant":
            self.code.constants[value] = tensor
        elif kind == "state":
            self.code.states.append(State(value, tensor.clone()))
        return value

    def scalar(self, number: float) -> Value:
        value = Value.scalar()
        self.values[value] = number
        self.code.scalars.append(value)
        return value

    def __call__(self, op: Any, *operands: Any, **options: Any) -> Value:
        options = op.bind((), options)
        result = op.forward(*[self.values[o] if isinstance(o, Value) else o for o in operands], **options)
        out = Value.like("result", result) if isinstance(result, Tensor) else Value.scalar()
        self.values[out] = result
        self.code.instructions.append(Instruction(op, operands, options, out))
        return out

    def update(self, state: Value, new: Value) -> None:
        next(s for s in self.code.states if s.value is state).update = new

    def run(self, native: Native) -> list[Tensor]:
        """The outputs of one run, then the states."""
        code = self.code
        scalars = torch.tensor([[self.values[s] for s in code.scalars]], dtype=torch.float64) if code.scalars else NONE
        outputs = [torch.full((1, *v.shape), 77).to(v.dtype) for v in code.outputs]
        native.many([self.values[v] for v in code.inputs], None, 1, scalars, [], outputs)
        return [o[0] for o in outputs] + [s.tensor for s in code.states if s.update is not None]

    def check(self, native: Native, what: str = "") -> None:
        for value, got in zip(self.code.results(), self.run(native)):
            close(got, torch.as_tensor(self.values[value], dtype=value.dtype), f"{what}\n{self.code}")


def close(got: Tensor, expected: Tensor, what: str) -> None:
    assert got.shape == expected.shape and got.dtype is expected.dtype, what
    if not expected.is_floating_point():
        assert torch.equal(got, expected), f"{what}\n{got}\n{expected}"
        return
    finite = expected[expected.isfinite()].abs()
    limit = TOLERANCE[expected.dtype] * max(float(finite.max()) if finite.numel() else 0.0, 1e-30)
    same = (got == expected) | (got.isnan() & expected.isnan()) | (expected.isfinite() & ((got - expected).abs() <= limit))
    assert bool(same.all()), f"{what}\n{got}\n{expected}"


def check_together(examples: Sequence[tuple[str, Example]]) -> None:
    for start in range(0, len(examples), 150):
        part = examples[start : start + 150]
        for (what, example), native in zip(part, Native.together([e.code for _, e in part])):
            example.check(native, what)


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, domain: Any = None) -> Tensor:
    if isinstance(domain, hg.primitive.Booleans):
        return torch.rand(shape, generator=GENERATOR) > 0.5
    low, high = -2.0, 2.0
    if isinstance(domain, hg.primitive.Interval):
        low, high = max(domain.low, -2.0), min(domain.high, 2.0)
    return (torch.rand(shape, generator=GENERATOR, dtype=torch.float64) * (high - low) + low).to(dtype)


def one(op: Any, operands: Sequence[Any], options: dict[str, Any], dtype: torch.dtype = torch.float32) -> Example | None:
    """A program of one op, None where torch refuses the operands."""
    example = Example()
    domains = [*op.domain, *[None] * len(operands)]
    tensors = [drawn(o, dtype, d) if isinstance(o, tuple) else o for o, d in zip(operands, domains)]
    given = [example.given(t) if isinstance(t, Tensor) else t for t in tensors]
    try:
        example.code.outputs.append(example(op, *given, **options))
    except Exception:
        return None
    return example


BROADCAST = [
    ((), ()), ((1,), (1,)), ((3,), ()), ((25,), (25,)), ((2, 3), (3,)), ((4, 1), (1, 5)), ((20, 25), (25,)), ((20, 25), (20, 1)), ((100, 2), (2,)),
    ((0, 3), (3,)), ((2, 3, 9), (3, 1)), ((2, 1, 4, 5), (3, 1, 5)), ((17, 1), (17, 1)), ((1, 1), (1, 1)), ((5, 0), ()),
]  # fmt: skip
SHAPES = [(), (1,), (3,), (25,), (2, 3), (20, 25), (5, 1), (0, 3), (2, 3, 4), (3, 17, 40), (2, 1, 3, 2), (70, 130), (300,)]


def elementwise(op: Any) -> bool:
    return "{" in op.native or op.native in ("pow", "clip")


def op_examples() -> list[tuple[str, Example]]:
    found: list[tuple[str, Example | None]] = []
    for name, op in hg.primitives().items():
        if name == "Einsum":
            continue
        for dtype in (torch.float32, torch.float64):
            cases: list[tuple[Any, dict[str, Any]]] = []
            choices = op.options if isinstance(op.options, dict) else {}
            options = [dict(zip(choices, c)) for c in itertools.product(*choices.values())] if choices else [{}]
            if hasattr(op, "operands"):
                cases = list(op.operands())
            elif elementwise(op):
                shapes = {1: [(s,) for s in SHAPES], 2: BROADCAST, 3: [(a, *([b] if b else [b]), a) for a, b in BROADCAST]}[op.arity or 1]
                cases = [(s, o) for s in shapes for o in options]
            else:
                cases = [((s,), o) for s in SHAPES for o in options]
            found += [(f"{name} {[getattr(o, 'shape', o) for o in c]} {o}", one(op, c, o, dtype)) for c, o in cases]
    return [(what, example) for what, example in found if example is not None]


def test_every_op_computes_what_torch_computes() -> None:
    examples = op_examples()
    assert {e.code.instructions[0].op.name for _, e in examples} == set(hg.primitives()) - {"Einsum"}
    check_together(examples)


SPECIAL = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -1e-40, 1e-310, 1.0, -1.0, 0.5, -2.5, 3e38, -3e38, 1e308, 88.0, -104.0, 710.0]


def test_special_values() -> None:
    examples = []
    for name, op in hg.primitives().items():
        if not elementwise(op) or name in ("Where",):
            continue
        for dtype in (torch.float32, torch.float64):
            numbers = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
            if name in ("Sin", "Cos", "Tan"):
                numbers = numbers[numbers.abs() < 1e6]
            options: dict[str, Any] = {"min": -1.0, "max": 1.0} if name == "Clip" else {}
            example = Example()
            a, b = example.given(numbers.reshape(-1, 1)), example.given(numbers)
            operands = [a, b] if op.arity == 2 else [a, b, -0.5] if name == "AddScaled" else [a]
            example.code.outputs.append(example(op, *operands, **options))
            examples.append((name, example))
            if op.arity == 2:
                for number in (2.0, -1, 0.5, 3, -0.5, -2, 0, 1, 1.7, math.inf):
                    example = Example()
                    example.code.outputs.append(example(op, example.given(numbers), number))
                    examples.append((f"{name} {number}", example))
    check_together(examples)


def test_reductions_of_every_set_of_axes() -> None:
    examples = []
    for shape in [(4,), (3, 5), (20, 25), (2, 3, 4), (2, 3, 4, 9), (3, 1, 33), (40, 3, 2)]:
        for count in range(1, len(shape) + 1):
            for axes in itertools.combinations(range(len(shape)), count):
                for op, keepdim in itertools.product((ops.Sum, ops.Amax, ops.Var, ops.LogSumExp, ops.Norm), (False, True)):
                    example = one(op, (shape,), {"dim": axes, "keepdim": keepdim})
                    assert example is not None
                    examples.append((f"{op.name} {shape} {axes}", example))
                turned = Example()
                a = turned(ops.Permute, turned.given(drawn(shape)), dims=tuple(reversed(range(len(shape)))))
                turned.code.outputs.append(turned(ops.Sum, a, dim=axes))
                examples.append((f"transposed {shape} {axes}", turned))
    for dtype in (torch.bool, torch.int64, torch.int32):
        for op, axes in itertools.product((ops.Sum, ops.Amax, ops.Amin), (None, 0, 1)):
            example = Example()
            numbers = torch.randint(-3, 4, (5, 19), generator=GENERATOR)
            example.code.outputs.append(example(op, example.given((numbers > 0) if dtype is torch.bool else numbers.to(dtype)), dim=axes))
            examples.append((f"{op.name} of {dtype} {axes}", example))
    for number in (math.nan, math.inf, -math.inf):
        for op in (ops.Amax, ops.Amin, ops.LogSumExp, ops.Softmax, ops.LogSoftmax, ops.Sum):
            for dim in (0, 1):
                tensor = drawn((11, 12))
                tensor[3, 4] = number
                tensor[:, 7] = number
                example = Example()
                example.code.outputs.append(example(op, example.given(tensor), dim=dim))
                examples.append((f"{op.name} {number} {dim}", example))
    check_together(examples)


def test_matrix_products() -> None:
    examples = []
    sizes = [(1, 1, 1), (3, 25, 4), (7, 2, 25), (20, 25, 25), (25, 20, 25), (5, 30, 33), (13, 400, 70), (1, 50, 9), (50, 9, 1), (6, 0, 3), (2, 1, 100)]
    for (m, k, n), dtype in itertools.product(sizes, (torch.float32, torch.float64)):
        for turn_a, turn_b in itertools.product((False, True), repeat=2):
            for batch in ((), (3,)):
                example = Example()
                a = example.given(drawn((*batch, k, m) if turn_a else (*batch, m, k), dtype))
                b = example.given(drawn((n, k) if turn_b else (k, n), dtype))
                if turn_a:
                    a = example(ops.Permute, a, dims=(0, 2, 1) if batch else (1, 0))
                if turn_b:
                    b = example(ops.Permute, b, dims=(1, 0))
                example.code.outputs.append(example(ops.MatMul, a, b))
                examples.append((f"{m} {k} {n} {turn_a} {turn_b} {batch}", example))
    check_together(examples)


def test_dtypes_promote_as_in_torch() -> None:
    examples = []
    tensors = [torch.tensor([1, 2, 3]), torch.tensor([True, False, True]), torch.tensor([0.5, -1.5, 2.0])]
    tensors += [torch.tensor([0.1, 1.5, 2.5], dtype=torch.float64), torch.tensor(2), torch.tensor(0.1, dtype=torch.float64), torch.tensor([1, 5, 9], dtype=torch.int32)]
    for op in (ops.Add, ops.Mul, ops.Div, ops.Less, ops.Equal, ops.Maximum, ops.Sub):
        for a, b in itertools.product([*tensors, 2, 0.1], repeat=2):
            example = Example()
            operands = [example.given(o) if isinstance(o, Tensor) else o for o in (a, b)]
            if not example.code.inputs:
                continue
            try:
                example.code.outputs.append(example(op, *operands))
            except Exception:
                continue
            examples.append((f"{op.name} {a} {b}", example))
    for a, dtype in itertools.product(tensors, (torch.float32, torch.float64, torch.int64, torch.bool)):
        example = Example()
        example.code.outputs.append(example(ops.Cast, example.given(a), dtype=dtype))
        examples.append((f"cast {a} {dtype}", example))
    check_together(examples)
