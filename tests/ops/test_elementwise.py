"""Ops that say that they are elementwise are, and replayed programs write their results over operands."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

import hotgrad as hg

ELEMENTWISE = [op for op in hg.primitives().values() if op.elementwise]


def drawn(op: Any) -> tuple[list[Any], dict[str, Any]]:
    """Operands of 12 elements, and options."""
    generator = torch.Generator().manual_seed(0)
    options = {name: values[0] for name, values in op.options.items()}
    tensors: list[Any] = []
    for i in range(op.arity):
        domain = op.domain[i] if op.domain else hg.Interval()
        if isinstance(domain, hg.Booleans):
            tensors.append(torch.rand(12, generator=generator) > 0.5)
        else:
            low, high = max(domain.low, -2.0), min(domain.high, 2.0)
            tensors.append(torch.rand(12, generator=generator, dtype=torch.float64) * (high - low) + low)
    if op is hg.ops.AddScaled:  # the last operand is a number
        tensors[2] = 0.5
    return tensors, options


# which have no C expression, or a function in its place
WITHOUT_C = {hg.primitives()[name] for name in ("Erfinv", "Lgamma", "Digamma", "Polygamma", "IsNaN", "IsInf", "IsFinite", "Not")}


def test_these_are_those_of_arithmetic_and_pointwise() -> None:
    own = [op for op in hg.primitives().values() if op.__module__.startswith("hotgrad.")]
    assert {op for op in own if op.elementwise} == {
        op for op in own if op.__module__.endswith((".arithmetic", ".pointwise", ".elementary", ".rounding"))
    } - WITHOUT_C


@pytest.mark.parametrize("op", ELEMENTWISE, ids=lambda op: op.name)
def test_an_element_depends_on_its_own_place_alone(op: Any) -> None:
    tensors, options = drawn(op)
    before = op.forward(*tensors, **options)
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            continue
        changed = tensor.clone()
        changed[4] = ~changed[4] if tensor.dtype is torch.bool else changed[5] * 0.5
        after = op.forward(*[changed if k == i else t for k, t in enumerate(tensors)], **options)
        others = torch.arange(12) != 4
        assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("native", ["", "{a} * {a}"])
def test_an_op_of_ones_own_shares_memory_if_it_says_so(native: str) -> None:
    quick = type(
        "Quick", (hg.Primitive,), {"__doc__": "x", "forward": staticmethod(torch.square), "vjps": (None,), "native": native}, register=False
    )
    x = torch.rand(1000)

    def f(x: hg.Variable) -> hg.Variable:
        return quick.apply(quick.apply(x * 2.0) + 1.0)

    program = hg.capture(f, x)
    assert torch.equal(program(x).data, f(hg.Variable(x)).data)
    assert quick.elementwise is bool(native)


def test_several_reading_kernels_are_not_elementwise_unless_it_is_said() -> None:
    body = {
        "__doc__": "x", "forward": staticmethod(torch.neg), "vjps": (None,), "native": "-{a}",
        "into": staticmethod(lambda out, a: [partial(torch.neg, a, out=out), partial(torch.neg, a, out=out)]),
    }  # fmt: skip
    assert not type("Twice", (hg.Primitive,), body, register=False).elementwise
    assert type("Said", (hg.Primitive,), {**body, "elementwise": True}, register=False).elementwise
