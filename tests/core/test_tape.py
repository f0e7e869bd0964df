"""Tapes, scopes and threads: what is recorded where, and that exceptions leave all of it usable."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: disallow-untyped-calls=False, disable-error-code="attr-defined"

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import declare, in_thread, leaf, names, recording

import hotgrad as hg
from hotgrad import Variable

pytestmark = pytest.mark.usefixtures("tape")


# ------------------------------------------------------------------------------------------------------------ what it shows


def test_a_tape_shows_live_records_in_order(tape: hg.Tape) -> None:
    assert hg.tape() is tape and len(tape) == 0 and list(tape) == [] and str(tape) == "(nothing recorded)" and bool(tape)
    x = leaf([1.0, 2.0], name="x")
    y = x.exp()
    z = (y * 3).sum()
    assert names(tape) == ["Exp", "Mul", "Sum"] and len(tape) == 3
    assert [record.sequence for record in tape] == sorted(record.sequence for record in tape)
    assert next(iter(tape)) is y._link
    z.backward()
    assert len(tape) == 0 and list(tape) == []


def test_only_what_is_recorded_shows(tape: hg.Tape) -> None:
    x, constant = leaf([1.0, 2.0]), Variable([1.0, 2.0])
    kept = [constant * 2, x > 1, hg.exp(x.data), x.detach() + 1, x.to(torch.int64), x.data * 2]
    with hg.no_grad:
        kept.append(x * 2)
    assert len(tape) == 0 and not any(v.requires_grad for v in kept)
    kept.append(x * constant)
    assert names(tape) == ["Mul"]
    kept.pop()
    assert len(tape) == 0


def test_str_is_a_table(tape: hg.Tape) -> None:
    x, w = leaf([1.0, 2.0], name="x"), leaf([[1.0, 0.0], [0.0, 1.0]])
    hidden = (x @ w).tanh()
    hidden.name = "hidden"
    loss = (hidden * torch.ones(2) * 0.5).sum()
    rows = str(tape).splitlines()
    assert len(rows) == 1 + len(tape) == 6
    assert rows[0].split() == ["op", "operands", "result", "keeps"]
    assert [row.split()[1] for row in rows[1:]] == ["MatMul", "Tanh", "Mul", "Mul", "Sum"]
    assert "x, leaf(2, 2)" in rows[1] and "24 B" in rows[1]
    assert "hidden(2) float32" in rows[2] and "%0" in rows[2]
    assert "constant(2)" in rows[3] and "0.5" in rows[4]
    assert len({len(row) for row in rows}) == 1
    assert loss.item() != 0
    del x, w, hidden


def test_a_freed_record_shows_as_freed_in_others(tape: hg.Tape) -> None:
    x = leaf([1.0, 2.0])
    y = x * 2
    z = y + 1
    y.sum().backward()
    assert names(tape) == ["Add"]
    assert "freed(2)" in str(tape)
    with pytest.raises(hg.TapeError, match="freed"):
        z.sum().backward()


# -------------------------------------------------------------------------------------------------------------------- scopes


def test_scopes_nest(tape: hg.Tape) -> None:
    x = leaf(2.0)
    a = x * 2
    with hg.Tape() as inner:
        assert hg.tape() is inner
        b = a.exp()
        with hg.Tape() as innermost:
            c = b.sin()
            assert names(innermost) == ["Sin"]
        with inner:  # again
            assert hg.tape() is inner
            d = c.cos()
        assert hg.tape() is inner
    assert hg.tape() is tape
    e = d.tanh()
    assert (names(tape), names(inner), names(innermost)) == (["Mul", "Tanh"], ["Exp", "Cos"], ["Sin"])
    e.backward()  # a graph may span scopes
    assert len(tape) == len(inner) == len(innermost) == 0
    t = torch.tensor(2.0, requires_grad=True)
    (t * 2).exp().sin().cos().tanh().backward()
    torch.testing.assert_close(x.grad, t.grad)


def test_a_graph_can_be_walked_after_its_tape_closed_and_was_dropped() -> None:
    x = leaf([1.0, 2.0])
    with hg.Tape() as inner:
        y = (x * x).sum()
    assert len(inner) == 2
    del inner
    gc.collect()
    y.backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_scopes_survive_exceptions_and_keep_the_mode(tape: hg.Tape) -> None:
    with pytest.raises(KeyError), hg.no_grad, hg.Tape():
        assert not recording()
        with hg.enable_grad, hg.Tape():
            assert recording()
            raise KeyError
    assert hg.tape() is tape and recording()
    with hg.Tape() as inner, hg.no_grad:
        assert hg.tape() is inner and not recording()
        with hg.Tape():
            assert not recording()


# ------------------------------------------------------------------------------------------------------------------- threads


def test_each_thread_has_its_own_tape_and_mode(tape: hg.Tape) -> None:
    def other() -> Any:
        assert hg.tape() is not tape and recording()
        y = leaf(1.0) * 2
        assert names(hg.tape()) == ["Mul"]
        return hg.tape(), y

    with hg.no_grad:
        theirs, y = in_thread(other)
        assert not recording()
    assert names(theirs) == ["Mul"] and len(tape) == 0 and y.requires_grad


def test_a_thread_that_leaves_recording_off_disturbs_nobody() -> None:
    in_thread(hg.no_grad.__enter__)
    assert recording() and in_thread(recording)


def test_a_graph_can_be_walked_from_another_thread(tape: hg.Tape) -> None:
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    assert len(tape) == 2
    in_thread(y.backward)
    assert x.grad.tolist() == [2.0, 4.0] and len(tape) == 0
    with pytest.raises(hg.TapeError, match="freed"):
        y.backward()


def test_a_graph_can_span_threads() -> None:
    x = leaf(3.0)
    y = x * x
    z = in_thread(lambda: y * x)
    (z + y).backward()
    assert x.grad.item() == 27.0 + 6.0


def test_threads_work_at_the_same_time(count: Callable[[int, int], int]) -> None:
    rounds, gate = count(20, 500), threading.Barrier(4)
    failures: list[str] = []

    def work(seed: int) -> None:
        x = leaf([1.0 + seed, 2.0])
        gate.wait()
        for i in range(rounds):
            with hg.Tape() as mine:
                y = ((x * x).exp().log() + x).sum()
                if i % 10 == 0 and len(mine) != 5:
                    failures.append("a foreign record")
                if i % 3 == seed % 3:
                    with hg.no_grad:
                        if recording():
                            failures.append("recording inside no_grad")
                x.zero_grad()
                y.backward()
                if not torch.allclose(x.grad, 2 * x.data + 1):
                    failures.append(f"gradient {x.grad}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# ---------------------------------------------------------------------------------------------------------------- exceptions


def test_a_failing_forward_records_nothing(tape: hg.Tape) -> None:
    class Broken(hg.Primitive, register=False):
        @staticmethod
        def forward(a: Any, b: Any) -> Any:
            raise ArithmeticError("broken")

        vjps = (None, lambda g, out, a, b: g)

    x = leaf([1.0, 2.0])
    y = x * 2
    for call, error in (
        (lambda: Broken.apply(x, x), ArithmeticError),
        (lambda: x + leaf([1.0, 2.0, 3.0]), hg.ShapeError),
        (lambda: x.sum(3), hg.AxisError),
        (lambda: x @ leaf([1.0]), hg.ShapeError),
        (lambda: hg.cat([x, "text"]), hg.OperandError),
    ):
        with pytest.raises(error):
            call()
        assert names(tape) == ["Mul"] and x.grad is None
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 2.0] and len(tape) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda y: y + torch.ones(3),
        lambda y: y.reshape(17),
        lambda y: y @ y.unsqueeze(0),
        lambda y: y.sum(4),
        lambda y: y * "text",
        lambda y: y.backward(),
        lambda y: declare(lambda a: 1 / 0, lambda g, out, a: g).apply(y),
        lambda y: declare(lambda a: a * 1, lambda g, out, a: 1 / 0).apply(y).sum().backward(),
        lambda y: declare(lambda a: a * 1, lambda g, out, a: g * a, reads="").apply(y).sum().backward(),
        lambda y: declare(lambda a: a * 1, lambda g, out, a: None).apply(y).sum().backward(),
    ],
)
def test_what_failed_dies_at_once(call: Callable[[Any], Any]) -> None:
    def failing() -> weakref.ref[Any]:
        y = leaf([1.0, 2.0]) * 2
        record = weakref.ref(y._link)
        try:
            call(y)
        except (hg.HotgradError, ZeroDivisionError):
            return record
        raise AssertionError("nothing raised")

    gc.disable()
    try:
        assert failing()() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_failing_rule_leaves_a_usable_tape(tape: hg.Tape, create_graph: bool) -> None:
    class Broken(hg.Primitive, register=False):
        forward = staticmethod(lambda a: a * 2)

        @staticmethod
        def rule(g: Any, out: Any, a: Any) -> Any:
            raise ArithmeticError("broken")

        vjps = (rule,)

    x = leaf([1.0, 2.0])
    loss = (Broken.apply(x.exp()) + x).sum()
    with pytest.raises(ArithmeticError):
        loss.backward(create_graph=create_graph)
    assert x.grad is None and hg.tape() is tape and recording()
    del loss
    gc.collect()
    assert len(tape) == 0
    (x * x).sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_rules_and_forwards_may_use_the_engine_themselves(tape: hg.Tape) -> None:
    class Inner(hg.Primitive, register=False):
        """x**2, its derivative found by a backward within the rule, and a graph built and walked within the forward."""

        @staticmethod
        def forward(a: Any) -> Any:
            v = Variable(a, requires_grad=True)
            (v * 2).sum().backward()
            assert v.grad is not None and (v.grad == 2).all()
            return a * a

        @staticmethod
        def rule(g: Any, out: Any, a: Any) -> Any:
            with hg.enable_grad, hg.Tape():
                v = Variable(a, requires_grad=True)
                (v * v).sum().backward()
            return g * v.grad

        vjps = (rule,)
        reads = ("a",)

    x = leaf([1.0, 2.0])
    y = Inner.apply(Inner.apply(x))
    assert names(tape) == ["Inner", "Inner"]
    y.sum().backward()
    assert x.grad.tolist() == [4.0, 32.0] and len(tape) == 0


def test_a_rule_may_walk_the_same_leaf() -> None:
    x = leaf([1.0, 2.0])

    class Meddling(hg.Primitive, register=False):
        forward = staticmethod(lambda a: a * 1)
        vjps = (lambda g, out, a: ((x * 10).sum().backward(), g)[1],)
        reads = ("",)

    Meddling.apply(x).sum().backward()
    assert x.grad.tolist() == [11.0, 11.0]
