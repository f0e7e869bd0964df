"""Ctrl-C at every line of hotgrad's code: modes, tapes, gradients, profilers and the collector are as before."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import _get_current_function_mode_stack

import hotgrad as hg
from hotgrad.core.modes import state
from hotgrad.training import side_by_side

PACKAGE = str(Path(hg.__file__).parent)
# A signal that comes when a `with` block has ended and before Python calls `__exit__` cannot be helped.
WITH = ("__exit__", "_leave")


class Model:
    """A model in mixed modes with gradients that are there already, and what must not change."""

    def __init__(self) -> None:
        self.model = hg.Sequential(hg.Linear(3, 4), Doubled(), hg.nn.Dropout(0.5), hg.Linear(4, 2), loss="mse", optimizer="adam")
        self.model.reset(0)
        list(self.model.modules())[1].eval()
        self.x, self.y = torch.ones(5, 3), torch.ones(5, 2)
        self.w = hg.Parameter([1.0, 2.0])
        self.w.grad = torch.tensor([3.0, 4.0])
        self.tape, self.modes = hg.tape(), [module.training for module in self.model.modules()]
        self.handler = signal.getsignal(signal.SIGINT)

    def check(self) -> None:
        assert state.recording and state.trace is None and hg.tape() is self.tape
        assert not _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        assert float(torch.ones(2).sum()) == 2.0
        assert gc.isenabled() and sys.getprofile() is None
        assert [module.training for module in self.model.modules()] == self.modes
        assert self.w.grad.tolist() == [3.0, 4.0]
        assert signal.getsignal(signal.SIGINT) == self.handler
        assert (self.w * 2).previous_op is hg.ops.Mul


class Doubled(hg.Module):
    def forward(self, x: Any) -> Any:
        with hg.no_grad:
            y = x * 1
        return x + y


def captured(m: Model) -> Any:
    w = m.w

    def step(x: Any) -> Any:
        w.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        return loss, w.grad

    return hg.capture(step, torch.ones(2))


@hg.no_grad
def decorated(m: Model) -> Any:
    return m.w * 2


@hg.no_grad
def steps(m: Model) -> Any:
    yield m.w * 2
    yield m.w * 3


def second(m: Model) -> Any:
    with hg.no_grad:
        loss = hg.grad(lambda w: (w**3).sum()) if hasattr(hg, "grad") else None
        with hg.enable_grad:
            (first,) = hg.gradients((m.w**3).sum(), m.w, create_graph=True)
    return first, loss


SCENARIOS: dict[str, Callable[[Model], Any]] = {
    "predict": lambda m: m.model.predict(m.x),
    "evaluate": lambda m: m.model.evaluate(m.x, m.y),
    "capture": captured,
    "fit eagerly": lambda m: m.model.fit(m.x, m.y, epochs=1, batch_size=3, verbose=0, engine="eager"),
    "fit by replay": lambda m: m.model.fit(m.x, m.y, epochs=1, batch_size=3, verbose=0, engine="replay"),
    "decorator": decorated,
    "generator": lambda m: list(steps(m)),
    "with": second,
}


def interrupted(f: Callable[[], Any], at: int, skipped: tuple[str, ...]) -> str:
    """Where KeyboardInterrupt was raised: at the line of hotgrad's numbered `at`, counted as they are run; "" if `f` ended before."""
    count = 0
    raised, where = False, ""

    def local(frame: Any, event: str, _: Any) -> Any:
        nonlocal count, raised
        if event == "line":
            count += 1
            if count == at and not raised:
                raised = True
                sys.settrace(None)
                raise KeyboardInterrupt(f"{frame.f_code.co_qualname if hasattr(frame.f_code, 'co_qualname') else ''} {frame.f_lineno}")
        return local

    def outer(frame: Any, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(PACKAGE) and frame.f_code.co_name not in skipped else None

    before = sys.gettrace()
    sys.settrace(outer)
    try:
        f()
    except KeyboardInterrupt as error:
        where = str(error)
    finally:
        sys.settrace(before)
    return where


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_is_as_before(name: str, count: Callable[[int, int], int]) -> None:
    f = SCENARIOS[name]
    f(Model())  # what is made once is made
    lines, most = 0, count(15, 5_000)
    at = 1
    while True:
        m = Model()
        where = interrupted(lambda m=m: f(m), at, WITH if name in ("with", "generator") else ())  # type: ignore[misc]
        if not where:
            break
        lines += 1
        try:
            m.check()
        except AssertionError as error:
            raise AssertionError(f"interrupted at {where}: {error}") from error
        side_by_side._held.clear()  # of dead trainings
        at += 1 if lines < most else max(1, at // most)  # then ever more sparsely
    assert lines >= 5


@pytest.mark.parametrize("engine", ["replay", "native"])
@pytest.mark.parametrize("stepping", [False, True])
def test_a_program_can_be_called_after_each(engine: str, stepping: bool) -> None:
    w = hg.Parameter([1.0, 2.0])
    optimizer = hg.optim.SGD([w], lr=0.0)

    def f(x: Any) -> Any:
        loss = (w * x).sum()
        if stepping:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss

    program = hg.capture(f, torch.ones(2)).to(engine)
    program(torch.ones(2))
    at, results = 1, []

    def call() -> None:
        results.append(program(torch.ones(2)).item())

    while interrupted(lambda: program(torch.ones(2)), at, ()):
        for other in (call, call):  # on other threads, for which a lock that is still held would be one
            thread = threading.Thread(target=other, daemon=True)
            thread.start()
            thread.join(10)
            assert not thread.is_alive(), f"the program hangs after the line numbered {at}"
        call()
        at += 1
    assert at > 15 and results == [3.0] * (3 * at - 3)
