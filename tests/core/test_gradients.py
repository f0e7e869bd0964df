"""Graphs of gradients, and `gradients` itself: of which outputs by which inputs, and what it walks."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: warn-unreachable=False, disable-error-code="attr-defined"

from __future__ import annotations

from typing import Any

import pytest
import torch
from graphs import declare, leaf, noted

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")

# ------------------------------------------------------------------------------------------------------------ create_graph


@pytest.mark.parametrize("recording", [hg.enable_grad, hg.no_grad])
def test_derivatives_to_third_order(recording: Any) -> None:
    x = leaf([0.3, -0.7, 1.2], torch.float64)
    y = (x.sin() * x).sum()
    sin, cos, v = x.data.sin(), x.data.cos(), x.data
    with recording():
        (first,) = hg.gradients(y, x, create_graph=True)
        assert first is not None
        (second,) = hg.gradients(first, x, torch.ones(3, dtype=torch.float64), create_graph=True)
        assert second is not None
        (third,) = hg.gradients(second, x, torch.ones(3, dtype=torch.float64), create_graph=True)
    assert third is not None and third.requires_grad
    torch.testing.assert_close(first.data, sin + v * cos)
    torch.testing.assert_close(second.data, 2 * cos - v * sin)
    torch.testing.assert_close(third.data, -3 * sin - v * cos)
    assert x.grad is None


def test_backward_with_create_graph() -> None:
    x = leaf(2.0)
    y = x**3
    y.backward(create_graph=True)
    assert isinstance(x.grad, Variable) and x.grad.item() == 12.0 and x.grad.requires_grad
    g = x.grad
    x.zero_grad()
    g.backward(create_graph=True)
    assert x.grad.item() == 12.0
    g = x.grad
    x.zero_grad()
    g.backward()
    assert isinstance(x.grad, torch.Tensor) and x.grad.item() == 6.0


@pytest.mark.parametrize("recording", [hg.enable_grad, hg.no_grad])
def test_gradients_of_a_graph_accumulate_out_of_place_and_stay_in_it(recording: Any) -> None:
    x = leaf(2.0)
    y = x**3
    with recording():
        y.backward(create_graph=True)
        first = x.grad
        y.backward(create_graph=True)
        second = x.grad
        (x * 5).backward() if recording is hg.enable_grad else None
    assert first.item() == 12.0 and second.item() == 24.0 and second.requires_grad
    (gg,) = hg.gradients(second, x)
    assert gg is not None and gg.item() == 24.0
    if recording is hg.enable_grad:
        assert isinstance(x.grad, Variable) and x.grad.item() == 29.0


def test_create_graph_keeps_the_graph() -> None:
    x = leaf(2.0)
    y = x.exp() * x
    hg.gradients(y, x, create_graph=True)
    hg.gradients(y, x)
    with pytest.raises(hg.TapeError, match="freed"):
        hg.gradients(y, x)


def test_gradients_of_a_gradient_with_respect_to_the_seed() -> None:
    x, seed = leaf([1.0, 2.0]), leaf([1.0, 1.0])
    (g,) = hg.gradients(x * x, x, seed, create_graph=True)
    assert g is not None
    (gs,) = hg.gradients(g.sum(), seed)
    assert gs is not None and gs.tolist() == [2.0, 4.0]


def test_mixed_second_derivatives_through_intermediates() -> None:
    x, w = leaf([1.0, 2.0], torch.float64), leaf([[1.0, -1.0], [0.5, 2.0]], torch.float64)
    t, u = x.data.clone().requires_grad_(), w.data.clone().requires_grad_()
    y = ((x @ w).tanh() ** 2).sum()
    (gx,) = hg.gradients(y, x, create_graph=True)
    assert gx is not None
    (gx * gx).sum().backward()
    z = ((t @ u).tanh() ** 2).sum()
    (gt,) = torch.autograd.grad(z, t, create_graph=True)
    (gt * gt).sum().backward()
    torch.testing.assert_close(w.grad, u.grad)
    torch.testing.assert_close(x.grad, t.grad)


# ------------------------------------------------------------------------------------------------------------- gradients()


def test_gradients_touches_no_grad_and_takes_intermediates() -> None:
    x = leaf([1.0, 2.0])
    y = x * 3
    z = (y * y).sum()
    y.retain_grad()
    gx, gy, gz = hg.gradients(z, (x, y, z))
    assert gx is not None and gy is not None and gz is not None
    assert gx.tolist() == [18.0, 36.0] and gy.tolist() == [6.0, 12.0] and gz.item() == 1.0
    assert x.grad is None and y.grad is None
    assert not gx.requires_grad


def test_gradients_of_several_outputs_add_up() -> None:
    x = leaf([1.0, 2.0])
    y = x * x
    (g,) = hg.gradients((y.sum(), y, y), x, (None, torch.tensor([1.0, 0.0]), [0.0, 5.0]))
    assert g is not None and g.tolist() == [4.0, 24.0]
    (g,) = hg.gradients([x, x * 2], [x], [[1, 1], [1, 1]])
    assert g is not None and g.tolist() == [3.0, 3.0]
    with pytest.raises(hg.ShapeError, match="one entry per output"):
        hg.gradients((x, x), x, (torch.ones(2),))


def test_gradients_walks_no_further_than_needed() -> None:
    calls: list[str] = []

    def spy(name: str) -> Any:
        return declare(lambda a: a * 2, lambda g, out, a: noted(g * 2, calls, name), reads=("",))

    x, w = leaf(1.0), leaf(1.0)
    early = spy("early").apply(x)
    middle = spy("middle").apply(early)
    z = spy("late").apply(middle) * spy("aside").apply(w)
    (g,) = hg.gradients(z, middle, retain_graph=True)
    assert g is not None and calls == ["late"]
    calls.clear()
    hg.gradients(z, w, retain_graph=True)
    assert calls == ["aside"]
    calls.clear()
    hg.gradients(z, (middle, early))
    assert calls == ["late", "middle"]


def test_gradients_of_inputs_the_outputs_do_not_depend_on() -> None:
    x, unused = leaf([1.0, 2.0]), leaf([1.0])
    y = (x * x).sum()
    with pytest.raises(hg.TapeError, match=r"input 1.*allow_unused=True"):
        hg.gradients(y, (x, unused), retain_graph=True)
    g, nothing = hg.gradients(y, (x, unused), retain_graph=True, allow_unused=True)
    assert g is not None and g.tolist() == [2.0, 4.0] and nothing is None
    with pytest.raises(hg.TapeError, match="input 0"):
        hg.gradients(y, x * 2)
    refused: list[Any] = [Variable([1.0]), torch.ones(1), 3.0]
    for wrong in refused:
        with pytest.raises(hg.TapeError, match=r"input 0.*requires_grad=True"):
            hg.gradients(y, (wrong,), allow_unused=True)
    with pytest.raises(hg.TapeError, match="requires a gradient"):
        hg.gradients(Variable(1.0), x)
    assert x.grad is None
