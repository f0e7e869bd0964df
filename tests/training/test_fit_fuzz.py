"""`fit` in drawn combinations of all that it offers: every engine leaves behind what eager does."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import FULL, OPTIMIZERS, Case, Outcome, cases, train
from hypothesis import HealthCheck, Phase, given, seed, settings

from hotgrad.engines.native import compiler

Count = Callable[[int, int], int]


def differences(found: Outcome, expected: Outcome, allowed: Callable[[str], float] = lambda name: 0.0) -> list[str]:
    """Where two outcomes differ by more than is allowed, in words."""
    wrong = []
    for name in sorted(expected.values.keys() | found.values.keys()):
        if name not in found.values or name not in expected.values:
            wrong.append(f"{name} is {'missing' if name in expected.values else 'too much'}")
            continue
        value, other = expected.values[name], found.values[name]
        same = far(value, other) <= allowed(name) if isinstance(value, (torch.Tensor, float)) else value == other
        if not same:
            wrong.append(f"{name}: {other!r} in place of {value!r}")
    return wrong


def far(a: Any, b: Any) -> float:
    """The largest difference; infinity for other shapes, dtypes or kinds."""
    if type(a) is not type(b) or (isinstance(a, torch.Tensor) and (a.shape != b.shape or a.dtype != b.dtype)):
        return float("inf")
    if isinstance(a, float):
        return 0.0 if a == b else abs(a - b)
    if torch.equal(a, b):
        return 0.0
    return float((a.double() - b.double()).abs().max())


def run(case: Case, engine: str, nudge: int = 0) -> Outcome:
    """With a folder for the file if training is to resume."""
    if case.stop_after is None:
        return train(case, engine, None, nudge)
    with tempfile.TemporaryDirectory() as folder:
        return train(case, engine, Path(folder), nudge)


def same_on_replay(case: Case) -> None:
    """To the bit, on replay and on whatever "auto" takes; and a training that was resumed ends as one that was not."""
    expected = run(case, "eager")
    for engine in ("replay", "auto"):
        found = run(case, engine)
        judge(found, differences(found, expected))
    if case.stop_after is not None:
        whole = run(replace(case, stop_after=None), "eager")
        judge(expected, differences(end_of(expected), end_of(whole)))


def end_of(outcome: Outcome) -> Outcome:
    """Without what a first part alone has, and what callbacks and the screen are told, which is of the last part only."""
    return Outcome({name: value for name, value in outcome.values.items() if not re.match("stopped|fit 0: (seen|printed)", name)})


def close_on_native(case: Case) -> None:
    """As near as eager stays to itself where x is moved by a rounding."""
    expected = run(case, "eager")
    moved = [run(case, "eager", nudge) for nudge in (1, 2, 3)]
    if any(differences(other, expected, lambda name: float("inf")) for other in moved):
        return  # the number of epochs, or a label, depends on rounding
    found = run(case, "native")

    def allowed(name: str) -> float:
        first, *others = (torch.as_tensor(outcome.values[name]) for outcome in (expected, *moved))
        if not first.is_floating_point() or not first.numel():
            return 0.0
        spread = max(far(first, other) for other in others)
        # a line search decides by rounding; and optimizers make a gradient that is 0 but for rounding large
        floor = 1e-6 if case.optimizer in FULL else torch.finfo(case.dtype).eps ** 0.6
        return 100 * spread + floor * max(1.0, float(first.abs().max()))

    judge(found, [line for line in differences(found, expected, allowed) if case.optimizer not in FULL or ".memory" not in line])


def judge(found: Outcome, wrong: list[str]) -> None:
    told = "\n  ".join(f"{line:.300}" for line in wrong[:8])
    assert not wrong, f"{', '.join(found.engines)} {found.refused}: {len(wrong)} differences\n  {told}"


def search(check: Callable[[Case], None], drawn: Any, number: int, examples: int, thorough: bool) -> None:
    """Check so many drawn cases, others for each number, the same in every run."""
    phases = [Phase.generate, Phase.shrink] if thorough else [Phase.generate]  # shrinking takes minutes
    chosen = settings(max_examples=examples, phases=phases, report_multiple_bugs=False, suppress_health_check=list(HealthCheck))
    seed(number)(chosen(given(drawn)(check)))()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replay_and_auto(optimizer: str, count: Count, thorough: bool) -> None:
    search(same_on_replay, cases(optimizer), list(OPTIMIZERS).index(optimizer), count(6, 300), thorough)


@pytest.mark.skipif(compiler.find_compiler() is None, reason="there is no C compiler")
def test_native(count: Count, thorough: bool) -> None:
    search(close_on_native, cases(native=True), 0, count(6, 300), thorough)
