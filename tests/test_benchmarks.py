"""The benchmarks: contenders compute the same, what differs or is missing is said, and the command writes its files. No timing."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import shutil
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


def test_two_trees_are_compared(module: Callable[[str], Any], tmp_path: Path) -> None:
    for side in ("this", "that"):
        shutil.copytree(FOLDER.parent / "hotgrad", tmp_path / side / "hotgrad", ignore=shutil.ignore_patterns("__pycache__"))
    against = module("against")
    assert against.same(tmp_path / "this", tmp_path / "that")
    engine = tmp_path / "that" / "hotgrad" / "__init__.py"
    engine.write_text(engine.read_text() + "\ndel capture\n")
    assert not against.same(tmp_path / "this", tmp_path / "that")
    runs, fails = against.compare(tmp_path, ["fixed eager", "call replay step"], 2, budget=0.01)
    assert [set(pair) for pair in runs.samples] == [{"this", "that"}] * 2
    assert all(len(times) >= 5 and min(times) > 0 for pair in runs.samples for times in pair.values())
    assert runs.interval[1] < runs.interval[0] < runs.interval[2]
    assert runs.ran == {"this": "eager", "that": "eager"}
    assert "cannot run on that side: AttributeError" in fails.failed
    assert "fixed eager" in (text := against.table([runs, fails])) and fails.failed in text


@pytest.mark.parametrize(
    ("ratios", "slower"), [((1.01, 1.0, 0.99), "?"), ((1.1, 1.11, 1.1), "YES"), ((1.001, 1.0, 0.999), "no"), ((1.1,), "?")]
)
def test_the_interval_comes_from_how_much_pairs_differ(module: Callable[[str], Any], ratios: tuple[float, ...], slower: str) -> None:
    case = module("against").Case("name", [{"this": [9.0, ratio, ratio], "that": [1.0, 1.0, 9.0]} for ratio in ratios])
    assert case.ratios == list(ratios)
    assert case.slower == slower


def test_cases_are_chosen_by_words(module: Callable[[str], Any]) -> None:
    cases = module("cases")
    assert cases.chosen(False, ["native fit", "capture"]) == [*(f"fit {p.name} native" for p in cases.SIZES), "capture"]
    assert set(cases.chosen(True, None)) < set(cases.chosen(False, None)) == set(cases.CASES)
    with pytest.raises(ValueError, match="no case holds the words 'fits'; there are: eager 20x25"):
        cases.chosen(False, ["fits"])


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_commit_is_put_beside_the_tree_as_it_stands(module: Callable[[str], Any], tmp_path: Path) -> None:
    root, folder = tmp_path / "root", tmp_path / "folder"
    (root / "hotgrad").mkdir(parents=True)
    (root / "hotgrad" / "a.py").write_text("1")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first words"]):
        subprocess.run([*git, *words], check=True)
    (root / "hotgrad" / "a.py").write_text("2")
    assert module("against").unpacked(root, "HEAD", folder).endswith(" first words")
    assert [(folder / side / "hotgrad" / "a.py").read_text() for side in ("this", "that")] == ["2", "1"]
    with pytest.raises(RuntimeError, match="'no-such' is no commit of"):
        module("against").unpacked(root, "no-such", folder)


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
