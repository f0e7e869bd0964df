"""Expressions as text and as drawings."""

from __future__ import annotations

import pytest

import hotgrad as hg
from hotgrad.modules import Linear, ReLU
from hotgrad.show import graph_repr, to_dot, to_mermaid
from hotgrad.training import Sequential


def test_branches_that_meet_again() -> None:
    x = hg.Variable([1.0, 2.0], requires_grad=True, name="x")
    h = x * 3
    y = (h.relu() + h.tanh()).sum()
    assert graph_repr(y).splitlines() == [
        "Sum ()",
        "Add (2)",
        "├─ ReLU (2)",
        "│  #1 Mul (2) [x (2), 3]",
        "└─ Tanh (2)",
        "   #1 Mul (2), above",
    ]


def test_the_same_operand_twice() -> None:
    x = hg.Variable(2.0, requires_grad=True)
    h = x.exp()
    assert graph_repr(h * h).splitlines() == ["Mul ()", "Exp () [leaf ()]"]


def test_a_model() -> None:
    model = Sequential(Linear(2, 3), ReLU(), Linear(3, 1))
    assert graph_repr(model) == repr(model)
    text = graph_repr(model, [[0.0, 0.0]])
    assert text.splitlines() == [
        "Add (1, 1) [2.bias (1)]",
        "MatMul (1, 1) [2.weight (3, 1)]",
        "ReLU (1, 3)",
        "Add (1, 3) [0.bias (3)]",
        "MatMul (1, 3) [0.weight (2, 3), constant (1, 2)]",
    ]


def test_deep_and_wide() -> None:
    x = hg.Variable(1.0, requires_grad=True)
    y = x
    for _ in range(3000):
        y = y + y
    assert len(graph_repr(y).splitlines()) == 3000
    assert to_dot(y).count("->") == 3000
    assert to_mermaid(y).count("-->") == 3000


def test_drawings_name_everything_once() -> None:
    x = hg.Variable([1.0], requires_grad=True, name='a "quoted" \\ name')
    y = x.exp() * x
    dot, mermaid = to_dot(y), to_mermaid(y)
    assert '\\"quoted\\"' in dot
    assert "'quoted'" in mermaid
    assert dot.count("label=") == 3
    assert dot.count("->") == mermaid.count("-->") == 3


def test_what_cannot_be_shown() -> None:
    x = hg.Variable(1.0, requires_grad=True)
    y = x * 2
    y.backward()
    with pytest.raises(hg.TapeError, match="freed"):
        graph_repr(y)
    with pytest.raises(hg.TapeError, match="needs no gradient"):
        graph_repr(hg.Variable(1.0))
    for draw in (to_dot, to_mermaid):
        with pytest.raises(hg.OperandError, match="example"):
            draw(Linear(2, 2))
    with pytest.raises(hg.OperandError, match="int"):
        graph_repr(3)
