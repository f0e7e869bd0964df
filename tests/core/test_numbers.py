"""Python numbers as operands: ops of one's own get 0-d tensors, of the dtype that torch's promotion of numbers gives."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad.testing import check_op

pytestmark = pytest.mark.usefixtures("own")


@pytest.fixture
def own() -> Any:
    """An op whose forward and rules use methods of tensors on both operands."""

    class XTimesLogY(hg.Primitive):
        """a * log(b)."""

        forward = staticmethod(lambda a, b: a * b.log())
        vjps = (lambda g, out, a, b: g * b.log(), lambda g, out, a, b: g * a / b)
        domain = (hg.Interval(), hg.Interval(0.5, 3.0))
        native = "{a} * log({b})"

    return XTimesLogY


DTYPES = [torch.float16, torch.float32, torch.float64, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
@pytest.mark.parametrize("number", [2, 2.5, True, np.float32(2.5), np.float64(2.5), np.int64(2)])
def test_values_and_dtypes_are_torchs(own: Any, dtype: torch.dtype, shape: tuple[int, ...], number: Any) -> None:
    a = torch.full(shape, 3, dtype=dtype)
    plain = number.item() if isinstance(number, np.generic) else number
    for found, expected in (
        (own.apply(hg.Variable(a), number).data, torch.special.xlogy(a, plain)),
        (own.apply(number, hg.Variable(a)).data, torch.special.xlogy(plain, a)),
        (own.apply(a, number), torch.special.xlogy(a, plain)),
    ):
        assert found.dtype == expected.dtype
        assert torch.allclose(found, expected)


def test_what_forward_and_rules_get() -> None:
    seen: list[Any] = []

    class Weighted(hg.Primitive):
        """a + b + c."""

        @staticmethod
        def forward(a: Any, b: Any, c: Any) -> Any:
            seen.extend((a, b, c))
            return a + b + c

        vjps = (lambda g, out, a, b, c: (seen.extend((a, b, c)), g)[1], lambda g, out, a, b, c: g, lambda g, out, a, b, c: g)

    x = hg.Parameter([1.0, 2.0])
    Weighted.apply(x, 2, True).sum().backward()
    Weighted.apply(1, 2.5, 3)
    assert all(isinstance(value, torch.Tensor) for value in seen)
    assert [value.dtype for value in seen[:3]] == [torch.float32, torch.float32, torch.float32]
    assert [value.dtype for value in seen[-3:]] == [torch.int64, torch.float32, torch.int64]


def test_an_op_that_declares_numbers_gets_them() -> None:
    seen: list[Any] = []

    class Repeated(hg.Primitive):
        """a added b times."""

        numbers = True
        forward = staticmethod(lambda a, b: (seen.append(b), sum([a] * b))[1])
        vjps = (lambda g, out, a, b: (seen.append(b), g * b)[1], None)

    x = hg.Parameter([1.0])
    Repeated.apply(x, 3).backward()
    assert seen == [3, 3]
    assert [type(value) for value in seen] == [int, int]
    assert x.grad.tolist() == [3.0]


def test_where_the_domain_is_no_real_numbers() -> None:
    class Chosen(hg.Primitive):
        """a[index] where the mask is set."""

        domain = (hg.Booleans(), hg.Interval(), hg.Integers(0, 1))
        forward = staticmethod(lambda mask, a, index: torch.where(mask, a[index], 0.0))
        vjps = (None, lambda g, out, mask, a, index: 0.0, None)

    assert Chosen.apply(True, hg.Variable([1.0, 2.0]), 1).item() == 2.0


def test_any_number_of_operands() -> None:
    assert hg.stack([hg.Variable(1.0), 2.0, 3]).tolist() == [1.0, 2.0, 3.0]
    assert hg.stack([hg.Variable(torch.tensor(1.0, dtype=torch.float64)), 2]).dtype == torch.float64


def test_gradients_of_every_order(own: Any) -> None:
    x = hg.Parameter([1.0, 2.0])
    (first,) = hg.gradients(own.apply(3, x).sum(), x, create_graph=True)
    (second,) = hg.gradients(first.sum(), x)
    assert torch.allclose(first.data, 3 / x.data)
    assert torch.allclose(second.data, -3 / x.data**2)
    check_op(own, max_examples=10)


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_in_programs(own: Any, engine: str) -> None:
    w = hg.Parameter([1.0, 2.0])

    def step(x: Any) -> Any:
        w.zero_grad()
        loss = sum(own.apply(a, b).sum() for a, b in itertools.permutations((w * x, 2.5, 3), 2))
        loss.backward()
        return loss, w.grad

    x = torch.tensor([1.5, 0.5])
    program = hg.capture(step, x).to(engine)
    for a, b in zip(program(x), step(hg.Variable(x))):
        assert torch.allclose(a, b.data if isinstance(b, hg.Variable) else b, rtol=1e-6)


def test_a_number_too_large_for_the_dtype(own: Any) -> None:
    with pytest.raises(hg.HotgradError, match="XTimesLogY"):
        own.apply(hg.Variable([1, 2]), 2**70)


def test_a_learning_rate_cannot_become_a_tensor(own: Any) -> None:
    class Odd(hg.optim.Optimizer):
        def rule(self, p: Any, g: Any, state: Any, s: Any) -> Any:
            own.apply(w, s.lr)
            return p - s.lr * g

    w = hg.Parameter([1.0, 2.0])
    optimizer = Odd([w], lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(hg.CaptureError, match="numbers = True"):
        hg.capture(step, torch.ones(2))
