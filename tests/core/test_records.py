"""What records guard and keep: writes that are noticed, rules that run, and memory that is released in time."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: warn-unreachable=False, disable-error-code="attr-defined"

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import declare, leaf, noted

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")

# ---------------------------------------------------------------------------------------------- writes after recording


@pytest.mark.parametrize(
    ("f", "op", "what"),
    [
        (lambda x, w: x * w, "Mul", "'b'"),
        (lambda x, w: w * x, "Mul", "'a'"),
        (lambda x, w: x @ w, "MatMul", "'b'"),
        (lambda x, w: x / w, "Div", "'b'"),
        (lambda x, w: hg.maximum(x, w), "Maximum", "'b'"),
        (lambda x, w: hg.einsum("ij,jk->ik", x, w), "Einsum", "Einsum"),
    ],
)
@pytest.mark.parametrize("write", ["data", "through a view", "of a view", "out"])
def test_a_write_after_recording_is_caught_and_named(f: Callable[[Any, Any], Any], op: str, what: str, write: str) -> None:
    x, base = leaf(torch.rand(2, 2)), torch.rand(4)
    w = Variable(base.view(2, 2) if write == "of a view" else base[:4].reshape(2, 2))
    y = f(x, w).sum()
    if write == "data":
        w.data[0, 0] = 5.0
    elif write == "through a view":
        w.detach().data.T[0].mul_(2)
    elif write == "of a view":
        base.zero_()
    else:
        torch.add(base, 1, out=base)
    with pytest.raises(hg.TapeError, match=r"written to in place.*clone") as caught:
        y.backward()
    assert op in str(caught.value) and what in str(caught.value) and "(2, 2)" in str(caught.value)
    assert x.grad is None


def test_results_that_rules_read_are_guarded() -> None:
    for f in (Variable.exp, Variable.tanh, Variable.sqrt, Variable.relu):
        x = leaf([1.0, 4.0])
        y = f(x)
        z = y.sum()
        y.data[0] = 0.0
        with pytest.raises(hg.TapeError, match=r"its result of shape \(2,\) was written to in place"):
            z.backward()
        assert x.grad is None


@pytest.mark.parametrize(
    "index", [torch.tensor([0, 1, 1]), (torch.tensor([0, 1, 1]), slice(None)), (slice(None), None, torch.tensor([True, True]))]
)
def test_index_tensors_are_guarded(index: Any) -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    y = x[index].sum()
    next(i for i in (index if isinstance(index, tuple) else (index,)) if isinstance(i, torch.Tensor)).zero_()
    with pytest.raises(hg.TapeError, match=r"GetItem: an index or option.*written to in place"):
        y.backward()
    assert x.grad is None


def test_conditions_are_guarded() -> None:
    x, condition = leaf([1.0, 2.0]), torch.tensor([True, False])
    y = hg.where(condition, x, 0.0).sum()
    condition.fill_(True)
    with pytest.raises(hg.TapeError, match="Where: operand 'condition'"):
        y.backward()


def test_what_no_rule_reads_may_be_written_to() -> None:
    x, w = leaf([1.0, 2.0]), Variable([3.0, 4.0])
    y = (
        ((x + w) * 1.0).sum()
        + x.reshape(2, 1).sum()
        + (x - w).mean()
        + hg.cat([x, w]).sum()
        + (x * 2 + 1).to(torch.float64).sum().to(torch.float32)
    )
    x.data.zero_()
    w.data.zero_()
    y.backward()
    assert x.grad.tolist() == [5.5, 5.5]


def test_only_the_needed_rules_reads_are_guarded() -> None:
    x, constant = leaf([1.0, 2.0]), torch.tensor([3.0, 4.0])
    y = (x * constant).sum()
    x.data.zero_()  # only the constant's rule reads x, and the constant needs no gradient
    y.backward()
    assert x.grad.tolist() == [3.0, 4.0]
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    z = (a * b).sum()
    a.data.zero_()
    with pytest.raises(hg.TapeError, match="operand 'a'"):
        z.backward()
    assert a.grad is None and b.grad is None


def test_writes_before_recording_and_after_backward_are_fine() -> None:
    x = leaf([1.0, 2.0])
    x.data.mul_(3)
    (x * x).sum().backward()
    x.data.add_(x.grad, alpha=-0.5)
    assert x.tolist() == [0.0, 0.0]


def test_options_are_those_of_the_call() -> None:
    x, seed = leaf(torch.arange(8.0).reshape(2, 2, 2)), torch.arange(8.0).reshape(2, 2, 2)
    dims = [1, 2, 0]
    y = x.permute(dims)
    dims[:] = [0, 1, 2]
    y.backward(seed)
    assert torch.equal(x.grad, seed.permute(2, 0, 1))
    x.zero_grad()
    axes = [0]
    z = x.sum(axes, keepdim=True)
    axes[0] = 1
    z.backward(torch.arange(4.0).reshape(1, 2, 2))
    assert torch.equal(x.grad, torch.arange(4.0).reshape(1, 2, 2).expand(2, 2, 2))
    v = leaf([1.0, 2.0, 3.0])
    picks = [0, 0, 2]
    z = v[picks].sum()
    picks[:] = [1, 1, 1]
    z.backward()
    assert v.grad.tolist() == [2.0, 0.0, 1.0]


# ----------------------------------------------------------------------------------------------------- what runs, what is kept


def test_rules_run_only_for_operands_that_need_them() -> None:
    calls: list[str] = []
    product = declare(
        lambda a, b, c: a * b * c,
        lambda g, out, a, b, c: noted(g * b * c, calls, "a"),
        lambda g, out, a, b, c: noted(g * a * c, calls, "b"),
        lambda g, out, a, b, c: noted(g * a * b, calls, "c"),
        reads=("b c", "a c", "a b"),
    )
    for needed in itertools.product([False, True], repeat=3):
        calls.clear()
        operands = [Variable([2.0], requires_grad=need) for need in needed]
        y = product.apply(*operands)
        assert y.requires_grad is any(needed)
        if any(needed):
            y.backward()
        assert calls == [name for name, need in zip("abc", needed) if need]
        assert [v.grad is not None for v in operands] == list(needed)


def saved(y: Any) -> list[int]:
    (record,) = [record for record in hg.tape() if record is y._link]
    return [t.data_ptr() for t in record.saved()]


def test_a_record_keeps_what_its_needed_rules_read() -> None:
    x, w, constant = leaf([1.0, 2.0]), leaf([3.0, 4.0]), torch.tensor([5.0, 6.0])

    def of(*values: Any) -> list[int]:
        return [getattr(v, "data", v).data_ptr() for v in values]

    cases: list[tuple[Any, list[Any]]] = [
        (x + w, []), (x - constant, []), (-x, []), (x.sum(), []), (x.mean(), []), (x.reshape(2, 1), []), (x.T, []),
        (x * constant, [constant]), (constant * x, [constant]), (x * 2.0, []), (x * w, [x, w]), (x / constant, [constant]), (x**2, [x]),
        (x.sin(), [x]), (x.log(), [x]), (x.to(torch.float64), []), (hg.cat([x, w]), []), (x[0], []),
    ]  # fmt: skip
    for y, expected in cases:
        assert saved(y) == of(*expected), y
    for f in (Variable.exp, Variable.tanh, Variable.relu, Variable.sigmoid, Variable.sqrt):
        y = f(x)
        assert saved(y) == of(y)
    y = constant / x
    assert sorted(saved(y)) == sorted(of(x, y))


def test_intermediates_die_as_soon_as_nobody_reads_them() -> None:
    x = leaf(torch.rand(3))
    a = x + 1  # kept by nobody
    b = a.exp()  # kept by its own record
    c = b.sum()
    first, second = weakref.ref(a.data), weakref.ref(b.data)
    del a, b
    assert first() is None and second() is not None
    c.backward()
    assert second() is None


def test_buffers_are_released_while_walking() -> None:
    alive: list[int] = []
    tensors: list[Any] = []

    def watch(g: Any, out: Any, a: Any) -> Any:
        alive.append(sum(t() is not None for t in tensors))
        return g * out

    step = declare(lambda a: a.exp(), watch, reads=("out",))
    y = leaf(torch.zeros(3)) * 0
    for _ in range(8):
        y = step.apply(y) * 0.1
        tensors.append(weakref.ref(y._link.parents[0].out))
    y.sum().backward()
    assert alive == [8, 7, 6, 5, 4, 3, 2, 1]
    assert not any(t() is not None for t in tensors)


def test_gradients_on_their_way_are_released_too() -> None:
    seen: list[Any] = []

    def watch(g: Any, out: Any, a: Any) -> Any:
        alive.append(sum(t() is not None for t in seen))
        g = g * 2
        seen.append(weakref.ref(g))
        return g

    alive: list[int] = []
    step = declare(lambda a: a * 2, watch, reads=("",))
    y = x = leaf(torch.zeros(3))
    for _ in range(6):
        y = step.apply(y)
    y.sum().backward()
    assert max(alive) <= 1 and len(alive) == 6
    assert x.grad.tolist() == [64.0] * 3


def test_freed_records_hold_nothing() -> None:
    x = leaf([1.0, 2.0])
    y = (x.exp() * torch.ones(2)).sum()
    records = list(hg.tape())
    assert [record.op.name for record in records] == ["Exp", "Mul", "Sum"]
    y.backward()
    for record in records:
        assert record.saved() == [] and record.parents is None and record.operands is None and record.out is None and record.options is None
        assert "freed" in repr(record)
    assert len(hg.tape()) == 0


def test_zero_rules_and_constants() -> None:
    x = leaf([-1.0, 0.0, 2.0])
    x.sign().sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0] and 0 not in x.grad.stride()
    (x * 0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_a_write_by_a_rule_into_nothing_of_ours() -> None:
    """A rule that gives back what it was given, or what it read, does not make that memory a gradient."""
    passes = declare(lambda a: a * 1, lambda g, out, a: a, reads=("a",))
    x = leaf([1.0, 2.0])
    passes.apply(x).sum().backward()
    assert x.grad.data_ptr() != x.data.data_ptr()
    x.grad.zero_()
    assert x.tolist() == [1.0, 2.0]
    passes.apply(x).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0] and x.tolist() == [1.0, 2.0]
    one = torch.ones(2)
    held = declare(lambda a: a * 1, lambda g, out, a: one, reads=("",))
    x, w = leaf([1.0, 2.0]), leaf([1.0, 2.0])
    (held.apply(x) + held.apply(w) + held.apply(x)).sum().backward()
    assert x.grad.tolist() == [2.0, 2.0] and w.grad.tolist() == [1.0, 1.0] and one.tolist() == [1.0, 1.0]


def test_links_are_equal_where_they_are_of_the_same_result() -> None:
    x = leaf([1.0, 2.0, 3.0])
    first, second = x * 2, x * 3
    assert first._link == first._link and first._link != second._link
