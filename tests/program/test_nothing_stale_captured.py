"""A Program follows what its function reads, or says that it no longer stands for it; and what cannot be watched is refused."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from stale import READERS, one

import hotgrad as hg
from hotgrad.engines.native.compiler import find_compiler

X = torch.ones(3)
FORMS: dict[str, Callable[[Callable[[], Any]], Callable[[Any], Any]]] = {
    "a factor": lambda read: lambda x: x * read(),
    "a branch": lambda read: lambda x: x * 2 if read() < 1.5 else x * 7,
}
# What cannot be watched, so that it is refused at the capture without verify=True.
UNWATCHED = {
    "module by sys", "module by importlib", "weak reference", "weak proxy", "weak dict", "environment getenv", "ctypes pointer",
    "big numpy array", "globals called", "evaluated", "recursion limit", "subclass check",
}  # fmt: skip
# Numbers that hotgrad moves, which no branch can be taken on.
MOVING = {"hotgrad other lr", "hotgrad schedule", "hotgrad schedule count", "hotgrad plateau"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READERS)
def test_what_a_function_reads(name: str, form: str, thorough: bool) -> None:
    if not thorough and (list(READERS).index(name) + list(FORMS).index(form)) % 2:
        pytest.skip("every other one: all in the thorough run")
    read, change = one(READERS[name])
    f = FORMS[form](read)
    if name in MOVING and form == "a branch":
        with pytest.raises(hg.CaptureError, match=r"differs from step to step.*line \d+"):
            hg.capture(f, X, verify=True)
        return
    if name in UNWATCHED:
        with pytest.raises(hg.CaptureError, match=r"line \d+\), .*verify=True"):
            hg.capture(f, X)
    for verify in (True,) if name in UNWATCHED else (True, False):
        change(1.0) if read() != 1.0 and verify is False else None
        program = hg.capture(f, X, verify=verify)
        program.verify()
        captured_value = f(hg.Variable(X)).data
        assert torch.equal(program(X), captured_value)
        for k in (2.0, 3.0):
            change(k)
            expected = f(hg.Variable(X)).data
            for _ in range(2):
                try:
                    assert torch.equal(program(X), expected)
                except hg.CaptureError:
                    continue
            if name not in MOVING and not torch.equal(expected, captured_value):
                with pytest.raises(hg.CaptureError):
                    program.verify()
                with pytest.raises(hg.CaptureError):
                    program(X)


STANDARD = """
w = hg.Parameter(torch.ones(3)); opt = hg.optim.Adam([w], lr=0.1)
step, mean, data, log, loss = 0, 0.0, "x", [], None
def train_step(x):
    opt.zero_grad()
    loss = ((w * x) ** 2).mean()
    loss.backward()
    opt.step()
    return loss
program = {make}
for step in range(4):
    loss = program(torch.ones(3))
    mean += loss.item()
    log.append(mean)
"""


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
def test_the_standard_script(engine: str) -> None:
    """At module level, in a cell that is run twice, and in a function: names after a dot are no globals."""
    if engine == "native" and find_compiler() is None:
        pytest.skip("there is no C compiler")
    make = "train_step" if engine == "eager" else f"hg.capture(train_step, torch.ones(3)).to({engine!r})"
    text = STANDARD.format(make=make)
    w, expected = torch.nn.Parameter(torch.ones(3)), [0.0]
    optimizer = torch.optim.Adam([w], lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        loss = (w**2).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected.append(expected[-1] + loss.item())
    cell: dict[str, Any] = {"hg": hg, "torch": torch}
    for _ in range(2):
        exec(compile(text, "<cell>", "exec"), cell)
        assert cell["log"] == pytest.approx(expected[1:], abs=1e-5)
    inside = "def main():\n" + "".join(f"    {line}\n" for line in text.splitlines()) + "    return log\n"
    exec(compile(inside, "<function>", "exec"), cell)
    assert cell["main"]() == pytest.approx(expected[1:], abs=1e-5)


@pytest.mark.parametrize("verify", [False, True])
def test_what_differs_at_each_call_is_refused(verify: bool) -> None:
    numbers = iter([1.0, 2.0])
    for f in (
        lambda x: x * time.time(),
        lambda x: x * random.random(),
        lambda x: x * next(numbers),
        lambda x: (threading.Thread(target=print).start(), x)[1],
    ):
        with pytest.raises(hg.CaptureError):
            hg.capture(f, X, verify=verify)


def two_steps(kind: Any) -> tuple[Callable[[Any], Any], Any, Any]:
    w = hg.Parameter(torch.ones(3))
    optimizer = kind(w)

    def steps(x: Any) -> Any:
        for _ in range(2):
            optimizer.zero_grad()
            loss = ((w * x) ** 2).sum()
            before = optimizer.lr
            (loss * before).backward()
            optimizer.step()
        return loss * optimizer.lr

    return steps, w, optimizer


@pytest.mark.parametrize(
    "kind",
    [
        lambda w: hg.optim.SGD([w], lr=0.1),
        lambda w: hg.optim.Adam([w], lr=0.1),
        lambda w: hg.optim.Adam([w], lr=hg.optim.WarmupLR(0.1, 5, per="step")),
        lambda w: hg.optim.SGD([w], lr=hg.optim.CosineLR(0.1, 9, per="step"), momentum=0.9),
    ],
)
def test_two_steps_in_one_program(kind: Any) -> None:
    """Each at the rate and count of its own, which the function reads before and after."""
    eager, captured = two_steps(kind), two_steps(kind)
    program = hg.capture(captured[0], X)
    for _ in range(3):
        assert torch.equal(program(X), eager[0](hg.Variable(X)).data)
    assert torch.equal(captured[1].data, eager[1].data) and captured[2].state_dict()["groups"] == eager[2].state_dict()["groups"]
    before = captured[2].lr
    with pytest.raises(hg.ShapeError):
        program(torch.ones(4))
    assert captured[2].lr == before


def test_a_rate_cannot_be_set_while_capturing() -> None:
    optimizer = hg.optim.SGD([hg.Parameter(torch.ones(3))])
    with pytest.raises(hg.CaptureError, match="learning rate was set"):
        hg.capture(lambda x: (setattr(optimizer, "lr", 0.1), x)[1], X)


def test_what_a_first_call_fills_is_let_be() -> None:
    table: dict[str, float] = {}

    def f(x: Any) -> Any:
        return x * table.setdefault("k", 2.0)

    program = hg.capture(f, X)
    assert table == {"k": 2.0} and program(X).tolist() == [2.0] * 3
    tensors: dict[str, torch.Tensor] = {}
    assert hg.capture(lambda x: x * tensors.setdefault("t", torch.full((3,), 4.0)), X)(X).tolist() == [4.0] * 3
    table["k"] = 3.0
    with pytest.raises(hg.CaptureError, match="'k'"):
        program(X)


def test_a_refusal_brings_the_users_objects_back() -> None:
    class Thing:
        def __init__(self) -> None:
            self.calls, self.names, self.table = 0, ["a"], {"a": 1}

    thing = Thing()

    def f(x: Any) -> Any:
        thing.calls += 1
        thing.names.append("b")
        thing.table[str(thing.calls)] = 1
        return x * thing.calls

    with pytest.raises(hg.CaptureError, match="changes what it depends on"):
        hg.capture(f, X)
    assert vars(thing) == {"calls": 0, "names": ["a"], "table": {"a": 1}}


def test_a_loaded_program_has_nothing_to_be_compared_with(tmp_path: Any) -> None:
    hg.capture(lambda x: x * 2, X).save(tmp_path / "p")
    program = hg.Program.load(tmp_path / "p")
    assert program(X).tolist() == [2.0] * 3
    with pytest.raises(hg.CaptureError, match="out of a file"):
        program.verify()


def test_what_does_not_matter_may_change() -> None:
    """The state of a loop around the program: it is traced again, and goes on."""

    class Trainer:
        def __init__(self) -> None:
            self.layer, self.steps, self.losses, self.factor = hg.Linear(3, 2), 0, [0.0], 1.0
            self.optimizer = hg.optim.SGD(self.layer.parameters(), lr=0.1)

        def step(self, x: Any) -> Any:
            self.optimizer.zero_grad()
            loss = (self.layer(x) ** 2).mean() * self.factor
            loss.backward()
            self.optimizer.step()
            return loss

    trainer = Trainer()
    program = hg.capture(trainer.step, torch.ones(4, 3))
    for _ in range(4):
        trainer.losses.append(program(torch.ones(4, 3)).item())
        trainer.steps += 1
    assert trainer.losses[4] < trainer.losses[1]
    trainer.factor = 2.0
    for _ in range(2):
        with pytest.raises(hg.CaptureError, match=r"'factor' was 1\.0 and is 2\.0"):
            program(torch.ones(4, 3))
    trainer.factor = 1.0
    assert program(torch.ones(4, 3)).item() < trainer.losses[4]


def test_an_index_written_to_stays_noticed() -> None:
    index = torch.tensor([0, 1])
    program = hg.capture(lambda x: x[index], X)
    program(X)
    index[0] = 2
    for _ in range(2):
        with pytest.raises(hg.CaptureError, match="index"):
            program(X)


@pytest.mark.parametrize("f", [lambda x: x * torch.get_num_threads(), lambda x: x * (2 if torch.is_grad_enabled() else 1)])
def test_how_torch_is_set_is_not_read(f: Any) -> None:
    with pytest.raises(hg.CaptureError, match="cannot be watched"):
        hg.capture(f, X)
    assert hg.capture(f, X, verify=True)(X).shape == (3,)
