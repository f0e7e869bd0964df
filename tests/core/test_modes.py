"""`no_grad` and `enable_grad`, as context managers and decorators, and torch's own modes beside them."""

# The modes are used as decorators in every form:
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import Generator, Iterator
from typing import Any

import pytest
import torch
from graphs import leaf, recording

import hotgrad as hg
from hotgrad.core.modes import state

pytestmark = pytest.mark.usefixtures("tape")


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

    now = state.now
    assert next(endless()) is False
    gc.collect()
    assert recording() and state.now is now


def test_asynchronous_generators_are_refused() -> None:
    async def asynchronous() -> Any:
        yield 1

    for mode in (hg.no_grad, hg.enable_grad()):
        with pytest.raises(hg.OperandError, match=r"grad cannot decorate the asynchronous generator asynchronous.*with"):
            mode(asynchronous)
    assert repr(hg.no_grad) == "no_grad" and repr(hg.enable_grad) == "enable_grad"


def test_tasks_have_modes_and_tapes_of_their_own() -> None:
    seen: list[tuple[str, bool, bool]] = []
    outside = hg.tape()

    def look(name: str) -> None:
        seen.append((name, recording(), hg.tape() is outside))

    async def off(rounds: int) -> None:
        for _ in range(rounds):
            with hg.no_grad:
                await asyncio.sleep(0)
                look("off")
                with hg.enable_grad, hg.Tape():
                    await asyncio.sleep(0)
                    look("scope")
            look("on")
            await asyncio.sleep(0)

    @hg.no_grad
    async def decorated(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
            look("off")

    async def on(rounds: int) -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)
            look("on")

    async def main() -> None:
        await asyncio.gather(*(task(5) for task in (off, on, decorated, off, on)))

    asyncio.run(main())
    wanted = {"off": (False, True), "on": (True, True), "scope": (True, False)}
    assert len(seen) == 2 * 3 * 5 + 2 * 5 + 5
    assert [row for row in seen if row[1:] != wanted[row[0]]] == []
    assert recording() and hg.tape() is outside


def test_a_task_starts_in_the_mode_of_who_started_it() -> None:
    async def look() -> bool:
        return recording()

    async def main() -> tuple[bool, bool]:
        with hg.no_grad:
            task = asyncio.create_task(look())
        return await task, await look()

    assert asyncio.run(main()) == (False, True)


def test_leaving_elsewhere_is_told() -> None:
    with pytest.raises(hg.TapeError, match=r"no_grad was left in another task"):
        hg.no_grad.__exit__(None, None, None)
    context = contextvars.copy_context()
    context.run(hg.no_grad.__enter__)
    with pytest.raises(hg.TapeError, match=r"another task"):
        hg.no_grad.__exit__(None, None, None)
    assert recording() and not context.run(recording)
    context.run(hg.no_grad.__exit__, None, None, None)
    assert context.run(recording)


def test_leaving_goes_back_to_what_was_there() -> None:
    """Also where something entered inside was never left."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(hg.no_grad)
        stack.enter_context(hg.enable_grad)
        stack.enter_context(hg.no_grad)
        assert not recording()
    assert recording()
    with hg.no_grad:
        hg.enable_grad.__enter__()
        hg.Tape().__enter__()
        hg.no_grad.__enter__()
    assert recording()


def test_threads_have_tapes_of_their_own() -> None:
    found: list[Any] = []
    with hg.no_grad:
        for _ in range(2):
            thread = threading.Thread(target=lambda: found.append((hg.tape(), recording(), hg.tape())))
            thread.start()
            thread.join()
    assert all(a is c and on for a, on, c in found)
    assert len({id(hg.tape()), *(id(a) for a, _, _ in found)}) == 3


def test_torchs_own_modes_do_not_matter() -> None:
    x = leaf([1.0, 2.0])
    with torch.no_grad():
        y = (x * x).sum()
    with torch.enable_grad():
        y.backward()
    assert x.grad.tolist() == [2.0, 4.0]
