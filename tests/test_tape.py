"""Tapes, threads and recording modes: what is recorded where, how long it lives, and that nothing recurses or piles up."""

# A backward changes what was just asserted of `grad`, and mypy does not know; the modes are used as decorators in every form.
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False, disable-error-code="attr-defined"

from __future__ import annotations

import gc
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import Variable
from hotgrad.records import state


@pytest.fixture(autouse=True)
def tape() -> Iterator[hg.Tape]:
    """A tape of its own for each test, on which others' leftovers do not show."""
    gc.freeze()  # what is there already need not be looked through for records
    with hg.Tape() as scope:
        yield scope
    gc.unfreeze()


def leaf(data: Any, dtype: torch.dtype | None = None, name: str | None = None) -> Any:
    return Variable(torch.as_tensor(data, dtype=dtype).clone(), requires_grad=True, name=name)


def names(tape: hg.Tape) -> list[str]:
    return [record.op.name for record in tape]


def recording() -> bool:
    return (leaf(1.0) * 2).requires_grad  # type: ignore[no-any-return]


def in_thread(f: Callable[[], Any]) -> Any:
    """What `f` returns or raises on a thread of its own."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(f())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def lines_run(f: Callable[[], Any]) -> int:
    """How many lines of hotgrad's own code `f` runs: a measure of work that no clock disturbs."""
    count = 0

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        return local if "hotgrad" in frame.f_globals.get("__name__", "") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        f()
    finally:
        sys.settrace(before)
    return count


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


# ------------------------------------------------------------------------------------------------------- bounded and iterative


def test_forward_only_loops_hold_nothing(tape: hg.Tape, count: Callable[[int, int], int]) -> None:
    w = leaf(torch.eye(3))
    longest, alive, watched = 0, 0, []
    for i in range(count(2_000, 20_000)):
        y = (torch.ones(2, 3) @ w).tanh().sum()
        if i % 200 == 0:
            watched.append(weakref.ref(y.data))
            longest = max(longest, len(tape))
            alive = max(alive, sum(ref() is not None for ref in watched))
    assert longest <= 3 and alive <= 1
    assert y.requires_grad


def test_intermediates_die_with_the_backward_that_used_them(tape: hg.Tape) -> None:
    x = leaf([1.0, 2.0])
    a = x.exp()
    loss = (a * a.sin()).sum()
    data, record = weakref.ref(a.data), weakref.ref(a._link)
    del a
    gc.disable()
    try:
        loss.backward()
        assert data() is None and record() is None
        del loss
        assert not [o for o in gc.get_objects() if type(o) is hg.Record and o.tape is tape]
    finally:
        gc.enable()


def test_a_graph_nobody_holds_dies_at_once() -> None:
    gc.disable()
    try:
        x = leaf([1.0, 2.0])
        y = x.exp()
        data, record = weakref.ref(y.data), weakref.ref(y._link)
        y = y.sum()
        assert data() is not None
        del y
        assert data() is None and record() is None
    finally:
        gc.enable()


@pytest.fixture(scope="module")
def depth(thorough: bool) -> int:
    return 1_000_000 if thorough else 200_000


def step_plus(y: Any, x: Any) -> Any:
    return y + 1.0


def step_both(y: Any, x: Any) -> Any:
    return y + x


def step_read(y: Any, x: Any) -> Any:
    return y * x


def step_unary(y: Any, x: Any) -> Any:
    return -y


@pytest.mark.parametrize("step", [step_plus, step_both, step_read, step_unary])
def test_a_deep_chain_is_walked_and_freed(step: Callable[[Any, Any], Any], depth: int, thorough: bool, tape: hg.Tape) -> None:
    if step is not step_both and not thorough:
        depth //= 8
    x = leaf(1.0)
    y = x
    for _ in range(depth):
        y = step(y, x)
    y.backward()
    assert x.grad.item() == (depth + 1 if step in (step_both, step_read) else 1)
    assert len(tape) == 0


@pytest.mark.parametrize("step", [step_plus, step_both, step_read, step_unary])
def test_a_deep_chain_dies_without_recursion(step: Callable[[Any, Any], Any], depth: int, thorough: bool, tape: hg.Tape) -> None:
    if step is not step_both and not thorough:
        depth //= 8

    def build() -> weakref.ref[Any]:
        y = x = leaf(1.0)
        for _ in range(depth):
            y = step(y, x)
        return weakref.ref(y._link)

    assert in_thread(build)() is None  # where the stack is smaller
    assert len(tape) == 0


def test_a_deep_chain_dies_in_any_order(depth: int) -> None:
    held = [leaf(1.0)]
    for _ in range(depth // 4):
        held.append(held[-1] * held[-1])
    last = weakref.ref(held[-1]._link)
    held.reverse()
    held.clear()
    assert last() is None


def test_deep_graphs_of_gradients(depth: int) -> None:
    y = x = leaf(0.5, torch.float64)
    for _ in range(depth // 20):
        y = y.sin()
    (first,) = hg.gradients(y, x, create_graph=True)
    assert first is not None
    (second,) = hg.gradients(first, x)
    assert second is not None and second.item() != 0.0 and first.item() != 0.0


def test_a_leaf_used_very_often(depth: int) -> None:
    x = leaf(1.0, torch.float64)
    y = x * 0
    for _ in range(depth // 4):
        y = y + x * x
    y.backward()
    assert x.grad.item() == 2 * (depth // 4)


def test_a_wide_fan(depth: int) -> None:
    x = leaf(1.0, torch.float64)
    many = [x * 1.0 for _ in range(depth // 100)]
    hg.stack(many).sum().backward()
    assert x.grad.item() == depth // 100


def test_a_diamond_of_depth_60_is_no_matter() -> None:
    def walk() -> None:
        y = x = leaf(1.0, torch.float64)
        for _ in range(60):
            y = y + y
        y.backward()
        assert x.grad.item() == 2.0**60

    assert lines_run(walk) < 20_000


def test_work_is_linear_in_depth() -> None:
    def chain(n: int) -> Callable[[], None]:
        def run() -> None:
            y = x = leaf(1.0)
            for _ in range(n):
                y = y * x + x
            y.backward()

        return run

    assert lines_run(chain(800)) < 2.2 * lines_run(chain(400))


def test_losses_walked_oldest_first_cost_what_they_reach(tape: hg.Tape, count: Callable[[int, int], int]) -> None:
    """The cost of a backward depends on what its root reaches, not on what else was recorded before or after."""

    def losses(n: int) -> int:
        w = leaf([1.0, 2.0], torch.float64)
        recorded = [(w * float(i)).sum() for i in range(n)]

        def walk() -> None:
            for loss in recorded:
                loss.backward()

        lines = lines_run(walk)
        assert w.grad[0].item() == sum(range(n)) and len(tape) == 0
        return lines

    n = count(300, 5_000)
    few, many = losses(n), losses(2 * n)
    assert many < 2.2 * few


def test_the_cost_of_one_backward_does_not_grow_with_what_else_is_alive() -> None:
    x = leaf([1.0, 2.0])

    def one() -> None:
        (x * x).sum().backward()

    one()
    alone = lines_run(one)
    others = [(x.exp() * float(i)).sum() for i in range(2_000)]
    assert lines_run(one) == alone
    assert len(others) == 2_000


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


def declare(forward: Callable[..., Any], rule: Callable[..., Any], **fields: Any) -> Any:
    return type("Declared", (hg.Primitive,), {"forward": staticmethod(forward), "vjps": (rule,), **fields}, register=False)


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


# ----------------------------------------------------------------------------------------------------- no_grad and enable_grad


@pytest.mark.parametrize("parentheses", [False, True])
def test_modes_as_context_managers(parentheses: bool) -> None:
    off: Any = hg.no_grad() if parentheses else hg.no_grad
    on: Any = hg.enable_grad() if parentheses else hg.enable_grad
    with off:
        assert not recording()
        with on:
            assert recording()
            with off, off:
                assert not recording()
            assert recording()
        assert not recording()
    assert recording()
    with pytest.raises(KeyError), off, on:
        raise KeyError
    assert recording()


@pytest.mark.parametrize("parentheses", [False, True])
def test_modes_as_decorators(parentheses: bool) -> None:
    off: Any = hg.no_grad() if parentheses else hg.no_grad
    on: Any = hg.enable_grad() if parentheses else hg.enable_grad

    @off
    def outer(depth: int, *, fail: bool = False) -> list[bool]:
        """Documented."""
        if fail:
            raise KeyError
        return [recording(), inner(), *(outer(depth - 1) if depth else [])]

    @on
    def inner() -> bool:
        return recording()

    assert outer(2) == [False, True] * 3 and recording()
    assert outer.__name__ == "outer" and outer.__doc__ == "Documented."
    with pytest.raises(KeyError):
        outer(0, fail=True)
    assert recording()

    class Holder:
        @off
        def method(self) -> tuple[Any, bool]:
            return self, recording()

        @staticmethod
        @off
        def static() -> bool:
            return recording()

    holder = Holder()
    assert holder.method() == (holder, False) and Holder.static() is False


def test_generators_run_in_their_mode_and_their_consumers_in_theirs() -> None:
    seen: list[Any] = []

    @hg.no_grad
    def numbers(start: int) -> Generator[int, Any, str]:
        try:
            while True:
                try:
                    got = yield start
                    seen.append((got, recording()))
                    if got == "stop":
                        return "done"
                except ValueError as error:
                    seen.append((str(error), recording()))
                    start = -1
                start += 1
        finally:
            seen.append(("closed", recording()))

    g = numbers(5)
    assert next(g) == 5 and recording()
    assert g.send("a") == 6 and recording()
    assert g.throw(ValueError("thrown")) == 0 and recording()
    assert next(g) == 1
    with hg.no_grad, hg.enable_grad:
        assert next(g) == 2 and recording()
    with pytest.raises(StopIteration) as stopped:
        g.send("stop")
    assert stopped.value.value == "done" and recording()
    assert seen == [("a", False), ("thrown", False), (None, False), (None, False), ("stop", False), ("closed", False)]

    for thrown in (GeneratorExit("out"), KeyError("out")):
        seen.clear()
        g = numbers(0)
        next(g)
        with pytest.raises(type(thrown), match="out"):
            g.throw(thrown)
        assert seen == [("closed", False)] and recording()
    seen.clear()
    g = numbers(0)
    next(g)
    g.close()
    assert seen == [("closed", False)] and recording()
    seen.clear()
    numbers(0).close()  # never started
    assert seen == [] and numbers.__name__ == "numbers"


def test_generators_interleave_and_delegate() -> None:
    @hg.no_grad
    def off() -> Iterator[bool]:
        for _ in range(3):
            yield recording()

    @hg.enable_grad()
    def on() -> Iterator[bool]:
        yield from off()
        yield recording()
        yield from off()

    a, b = off(), on()
    for _ in range(3):
        assert next(a) is False and recording()
        assert next(b) is False and recording()
    assert list(b) == [True, False, False, False] and list(a) == []
    with hg.no_grad:
        assert list(on()) == [False] * 3 + [True] + [False] * 3
        assert not recording()


def test_a_generator_dropped_half_way_leaves_the_mode_alone() -> None:
    @hg.no_grad
    def endless() -> Iterator[bool]:
        while True:
            yield recording()

    assert next(endless()) is False
    gc.collect()
    assert recording() and state.modes == []


def test_async_functions_are_refused() -> None:
    async def coroutine() -> None: ...

    async def asynchronous() -> Any:
        yield 1

    for function in (coroutine, asynchronous):
        for mode in (hg.no_grad, hg.enable_grad()):
            with pytest.raises(hg.OperandError, match=f"grad cannot decorate the async function {function.__name__}.*with"):
                mode(function)
    assert repr(hg.no_grad) == "no_grad" and repr(hg.enable_grad) == "enable_grad"


def test_torchs_own_modes_do_not_matter() -> None:
    x = leaf([1.0, 2.0])
    with torch.no_grad():
        y = (x * x).sum()
    with torch.enable_grad():
        y.backward()
    assert x.grad.tolist() == [2.0, 4.0]
