"""The benchmarks: contenders compute the same, what differs or is missing is said, and the command writes its files. No timing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"

if not FOLDER.exists():
    pytest.skip("the benchmarks are not here", allow_module_level=True)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the benchmarks, which import each other as scripts do."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


def prepared(module: Callable[[str], Any], contenders: dict[str, Any], ready: str) -> Any:
    """The group after all contenders trained on a tiny problem and were compared."""
    training = module("training")
    group = module("measure").Group("tiny")
    problem = module("network").Problem(8, 5, 32)
    training.prepared(group, "tiny", contenders, functools.partial(getattr(training, ready), problem))
    return group


def small(contenders: dict[str, Any]) -> dict[str, Any]:
    """Those that are here and need no compiling."""
    return {name: some for name, some in contenders.items() if not some.missing and "compile" not in name and "JAX" not in name}


def test_steps_compute_the_same(module: Callable[[str], Any]) -> None:
    group = prepared(module, small(module("steps").STEPS), "ready_step")
    assert not group.failed
    assert not group.missing


def test_trainers_compute_the_same(module: Callable[[str], Any]) -> None:
    group = prepared(module, small(module("trainers").TRAINERS), "ready_trainer")
    assert not group.failed
    assert {"hotgrad eager at tiny", "hotgrad auto at tiny", "torch.nn at tiny"}.isdisjoint(group.missing)


def test_what_differs_or_cannot_run_is_said(module: Callable[[str], Any]) -> None:
    steps, trainers = module("steps"), module("trainers")

    def slower(problem: Any, shuffle: bool) -> Any:
        trainer = trainers.hotgrad_fit("eager", problem, shuffle)
        trainer.train(1)
        return trainer

    contenders = {
        "torch.nn": trainers.TRAINERS["torch.nn"],
        "one epoch more": steps.Contender(slower),
        "hotgrad none": steps.Contender(functools.partial(trainers.hotgrad_fit, "none")),
    }
    group = prepared(module, contenders, "ready_trainer")
    assert len(group.failed) == 1
    assert "one epoch more at tiny computes something else than torch.nn" in group.failed[0]
    assert list(group.missing) == ["hotgrad none at tiny"]
    assert "SettingError" in group.missing["hotgrad none at tiny"]
    assert steps.Contender(slower, "no_such_package").missing == "not installed: no_such_package"


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn")
def test_scikit_learn_differs_in_nothing_but_the_last_tanh(module: Callable[[str], Any]) -> None:
    problem = module("network").Problem(8, 5, 32)
    weights, biases = ([p.requires_grad_() for p in part] for part in problem.parameters())
    x, y = problem.data()
    for rows in torch.split(torch.arange(32), 8):
        h = x[rows]
        for i, (w, b) in enumerate(zip(weights, biases)):
            h = h @ w + b
            h = h.relu() if i < 3 else h
        gradients = torch.autograd.grad(((h - y[rows]) ** 2).mean(), weights + biases)
        with torch.no_grad():
            for p, g in zip(weights + biases, gradients):
                p -= module("network").RATE * g
    trainer = module("trainers").scikit_learn(problem, False)
    trainer.train(1)
    for found, expected in zip(trainer.parameters(), weights + biases):
        torch.testing.assert_close(torch.as_tensor(found), expected.detach())


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.61e-6, "2.61 us"), (31.25e-6, "31.2 us"), (171.4e-6, "171 us"), (0.0123, "12.3 ms"), (75.0, "75.0 s")]
)
def test_quantities(module: Callable[[str], Any], seconds: float, text: str) -> None:
    assert module("report").quantity(seconds, "s") == text


def test_tables_name_medians_ratios_and_who_is_missing(module: Callable[[str], Any]) -> None:
    group = module("measure").Group("title", ("a", "b"), "the best of ours", missing={"d": "not installed: d"})
    group.add("small", {"a": [3e-6, 2e-6, 1e-6], "b": [4e-6], "c": [2e-5]})
    text = module("report").section("name", group)
    for part in ("2.00 ±1.00 us (1.00x)", "4.00 ±0.00 us (2.00x)", "20.0 ±0.0 us (10.0x)", "not available: d: not installed: d"):
        assert part in text
    group.failed.append("c computes something else")
    assert "WRONG: c computes something else" in module("report").section("name", group)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plot(module: Callable[[str], Any], tmp_path: Path) -> None:
    group = module("measure").Group("title")
    group.add("small", {"hotgrad": [3e-6], "other": [2e-6]})
    module("report").plot(tmp_path / "a.png", {"name": group})
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"


def test_processes_tell_why_they_fail(module: Callable[[str], Any]) -> None:
    measure = module("measure")
    assert measure.in_fresh_process("imported:seconds", "json") >= 0
    with pytest.raises(RuntimeError, match="No module named 'no_such_module'"):
        measure.in_fresh_process("imported:seconds", "no_such_module")
    with pytest.raises(RuntimeError, match="longer than"):
        measure.in_fresh_process("time:sleep", 60, limit=0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no alarms")
def test_deadlines(module: Callable[[str], Any]) -> None:
    with pytest.raises(TimeoutError, match=r"longer than 0\.1 s"), module("measure").deadline(0.1):
        time.sleep(10)


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run.py"), "--quick", "--only", "op", "--out", str(tmp_path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "matmul, 100x25" in printed
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["environment"]["threads"] == 1
    figures = found["groups"]["op"]["samples"]["add, 1 element, forward"]["hotgrad"]
    assert set(figures) == {"median", "iqr", "samples"}
    assert figures["median"] > 0
    assert "torch.autograd" in (tmp_path / "results.md").read_text()
