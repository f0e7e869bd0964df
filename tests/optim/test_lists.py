"""The lists of tensors that update rules run on: the same as with plain tensors, written in place."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import hotgrad as hg
from hotgrad.optim import SGD, lists
from hotgrad.optim.lists import Each, assign

BINARY = ["add", "sub", "rsub", "mul", "div", "maximum", "minimum"]
UNARY = ["neg", "square", "abs", "sign", "tanh"]


def _apply(op: str, a: Any, b: Any) -> Any:
    if op in ("add", "sub", "mul", "div", "rsub"):
        return {"add": lambda: a + b, "sub": lambda: a - b, "rsub": lambda: b - a, "mul": lambda: a * b, "div": lambda: a / b}[op]()
    if op in ("maximum", "minimum"):
        return getattr(a, op)(b) if isinstance(a, Each) else getattr(torch, op)(a, torch.as_tensor(b, dtype=a.dtype))
    return getattr(a, op)()


PLACES = st.one_of(st.integers(-3, -1), st.integers(0, 9))  # often one of the latest, so that results are used soon and again


@settings(max_examples=300)
@given(
    program=st.lists(
        st.tuples(st.sampled_from(BINARY + UNARY), PLACES, st.one_of(PLACES, PLACES, st.sampled_from(["0.5", "-2.0", "3"]))), max_size=8
    ),
    targets=st.lists(st.tuples(st.integers(0, 2), PLACES), min_size=1, max_size=3, unique_by=lambda pair: pair[0]),
)
def test_lists_compute_what_tensors_compute(program: Any, targets: Any) -> None:
    """Any expressions, assigned to any of the given lists at once: the same as with plain tensors and old values."""
    data = [[[1.5, -0.5], 2.0], [[-1.0, 4.0], 0.25], [[3.0, 0.75], -1.25]]
    lists_: list[Any] = [Each([torch.tensor(x, dtype=torch.float64) for x in values]) for values in data]
    plain: list[Any] = [[t.clone() for t in each.tensors] for each in lists_]
    given_tensors = [list(each.tensors) for each in lists_]
    for op, i, j in program:
        i %= len(plain)
        number = float(j) if isinstance(j, str) else None
        other = j % len(plain) if number is None else None
        lists_.append(_apply(op, lists_[i], number if other is None else lists_[other]))
        plain.append([_apply(op, t, number if other is None else plain[other][k]) for k, t in enumerate(plain[i])])
    expected = {target: plain[place % len(plain)] for target, place in targets}
    assign([(lists_[target], lists_[place % len(plain)]) for target, place in targets])
    for k in range(3):
        for got, wanted in zip(given_tensors[k], expected.get(k, plain[k])):
            assert torch.allclose(got, wanted, rtol=1e-12, atol=0, equal_nan=True)


def test_a_scaled_list_used_twice() -> None:
    """`a + c * b` is one kernel only where `c * b` is used once."""
    p, g, s, t, v = (Each([torch.tensor([x])]) for x in (1.0, 10.0, 0.0, 0.0, 0.0))
    m = p * 2.0
    assign([(s, g + m), (t, g - m), (p, p * 3.0), (v, p * 5.0)])
    assert [each.tensors[0].item() for each in (p, g, s, t, v)] == [3.0, 10.0, 12.0, 8.0, 5.0]


def test_lists_take_other_operands_of_rules() -> None:
    p, g = Each([torch.tensor([4.0, 9.0])]), Each([torch.tensor([1.0, 2.0])])
    result = Each([torch.zeros(2)])
    assign([(result, (2 / p.sqrt() + p**0.5 + p**g).exp() * torch.tensor(0.5) - (-g) + abs(g) + 1 - 1.0 / g.reciprocal() + g.neg())])
    x, y = torch.tensor([4.0, 9.0]), torch.tensor([1.0, 2.0])
    assert torch.allclose(result.tensors[0], (2 / x.sqrt() + x**0.5 + x**y).exp() * 0.5 + y + y + 1 - y - y)


def test_plain_sgd_is_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """`p - lr * g` is written straight into p: one kernel, no new tensor."""
    calls: list[str] = []
    counted = {
        name: tuple((lambda k, n: lambda *a, **o: calls.append(n) or k(*a, **o))(kernel, kernel.__name__) for kernel in pair)
        for name, pair in lists._KERNELS.items()
    }
    monkeypatch.setattr(lists, "_KERNELS", counted)
    w = hg.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    SGD([w], lr=0.5).step()
    assert calls == ["_foreach_sub_"]
