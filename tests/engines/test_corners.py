"""Corners of the engine that no other test has a reason to visit."""

from __future__ import annotations

import pytest
import torch

import hotgrad as hg


def leaf(*values: float) -> hg.Variable:
    return hg.Variable(list(values), requires_grad=True)


def test_scalars_have_axes_in_a_sense() -> None:
    x = hg.Variable(3.0, requires_grad=True)
    y = x.flatten().sum() + x.transpose(0, -1)
    y.backward()
    assert x.flatten().shape == (1,)
    assert float(x.grad) == 2  # type: ignore[arg-type]


def test_to_nothing_is_the_same() -> None:
    x = leaf(1.0, 2.0)
    assert x.to(None).dtype is x.dtype


def test_too_many_or_too_few_arguments() -> None:
    x = leaf(1.0)
    with pytest.raises(hg.OperandError, match="Tanh: got more arguments than its operands"):
        x.tanh(3)  # type: ignore[call-arg]
    with pytest.raises(hg.OperandError, match=r"Where: takes 3 operands \(condition, a, b\); got 1"):
        hg.ops.Where.apply(x)
    with pytest.raises(hg.OperandError, match="the equation as a string"):
        hg.einsum(x, "i->i")  # type: ignore[arg-type]
    with pytest.raises(hg.OperandError, match="the equation as a string"):
        hg.einsum("i->i")


def test_a_gradient_may_be_a_variable() -> None:
    x = leaf(1.0, 2.0)
    x.grad = given = hg.Variable([5.0, 6.0])
    assert x.grad is given
    (x * 2).sum().backward()
    assert x.grad.tolist() == [7.0, 8.0]


def test_tensor_options_of_an_op_with_two_operands_are_guarded() -> None:
    class Picked(hg.Primitive):
        forward = staticmethod(lambda a, b, *, mask: torch.where(mask, a, b))
        vjps = (lambda g, out, a, b, mask: hg.where(mask, g, 0.0), lambda g, out, a, b, mask: hg.where(mask, 0.0, g))
        reads = ("", "")

    mask = torch.tensor([True, False])
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    Picked.apply(x, y, mask=mask).sum().backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([1.0, 0.0], [0.0, 1.0])  # type: ignore[union-attr]
    out = Picked.apply(x, y, mask=mask).sum()
    mask[0] = False
    with pytest.raises(hg.TapeError, match="Picked: an index or option"):
        out.backward()


def test_comparing_what_was_not_kept_says_so() -> None:
    class Careless(hg.Primitive):
        forward = staticmethod(lambda a: a + 1)
        vjps = (lambda g, out, a: g if a == 0 else -g,)
        reads = ("",)

    with pytest.raises(hg.RuleError, match="the rule for 'a' uses 'a'"):
        Careless.apply(leaf(1.0)).backward()


def test_a_rule_that_does_not_tell_its_parameters_is_taken_as_it_is() -> None:
    class Opaque(hg.Primitive):
        forward = staticmethod(lambda a: a.max(dim=0).values)
        vjps = (max,)

    assert Opaque.operand_names == ("a",)


def test_gradients_come_to_their_operand_s_device() -> None:
    class Moved(hg.Primitive):
        forward = staticmethod(lambda a: torch.ones(a.shape))
        vjps = (lambda g, out, a: g,)
        reads = ("",)

    scalar = hg.Variable(torch.ones((), device="meta"), requires_grad=True)
    Moved.apply(scalar).backward()
    assert scalar.grad is not None and scalar.grad.device.type == "meta"

    class Spread(hg.Primitive):
        forward = staticmethod(lambda a: torch.ones(2, 3))
        vjps = (lambda g, out, a: g,)
        reads = ("",)

    column = hg.Variable(torch.ones(2, 1, device="meta"), requires_grad=True)
    with pytest.raises(hg.RuleError, match="returned a tensor on cpu; the operand is on meta"):
        Spread.apply(column).sum().backward()


def test_more_of_the_same() -> None:
    x = leaf(1.0, 2.0, 3.0)
    first, second = x * 2, x * 3
    assert first._link == first._link and first._link != second._link
    with pytest.raises(hg.OperandError, match="names 2 operands; got 1"):
        hg.einsum("i,i->i", x)
    picked = hg.gather(x, torch.tensor([2, 2]), 0)
    picked.sum().backward()
    x[hg.Variable([0])].sum().backward()
    assert x.grad.tolist() == [1.0, 0.0, 2.0]  # type: ignore[union-attr]
