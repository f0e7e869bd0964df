"""Long loops, deep chains and wide fans: nothing recurses, piles up, or costs more than what it reaches."""

# A backward changes what was just asserted of `grad`, and mypy does not know:
# mypy: disallow-untyped-calls=False, disable-error-code="attr-defined"

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from graphs import in_thread, leaf

import hotgrad as hg

pytestmark = pytest.mark.usefixtures("tape")


def lines_run(f: Callable[[], Any], unit: str = "line") -> int:
    """How many lines of hotgrad's own code `f` runs, or "opcode"s: a measure of work that no clock disturbs."""
    count = 0

    def local(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        count += event == unit
        return local

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        frame.f_trace_opcodes = unit == "opcode"
        return local if "hotgrad" in frame.f_globals.get("__name__", "") else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        f()
    finally:
        sys.settrace(before)
    return count


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


JOINS: list[Callable[[list[Any]], Any]] = [
    hg.cat,
    hg.stack,
    sum,
    lambda xs: hg.einsum(",".join("i" * len(xs)) + "->i", *xs),
    lambda xs: hg.cat([x * 2 for x in xs] + xs[:1] * len(xs), -1),
]


@pytest.mark.parametrize("join", range(len(JOINS)))
@pytest.mark.parametrize("how", ["backward", "gradients", "create_graph", "capture"])
def test_work_is_linear_in_the_number_of_operands(join: int, how: str) -> None:
    def joined(n: int) -> Callable[[], None]:
        leaves = [leaf([1.0, 1.0]) for _ in range(n)]

        def run(*xs: Any) -> Any:
            y = JOINS[join](list(xs))
            if how == "backward":
                y.sum().backward()
                return y
            return hg.gradients((y * y).sum(), xs, create_graph=how == "create_graph")

        return lambda: hg.capture(run, *leaves) if how == "capture" else run(*leaves)

    assert lines_run(joined(80), "opcode") < 2.2 * lines_run(joined(40), "opcode")


def test_thousands_of_operands() -> None:
    leaves = [leaf([float(i), 1.0]) for i in range(8_000)]
    for joined in (hg.cat(leaves), hg.stack(leaves, 1)):
        (joined * joined).sum().backward()
    assert [x.grad.tolist() for x in leaves[::1000]] == [[4.0 * i, 4.0] for i in range(0, 8_000, 1000)]


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
