"""Deep models on the native engine: the compiler's time grows with the program's length, and "auto" does not wait for it long."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fitting import compare, state

import hotgrad as hg
from hotgrad.core.variable import wrap
from hotgrad.engines.costs import Cost
from hotgrad.engines.native import compiler, csource
from hotgrad.engines.native.engine import Native
from hotgrad.program.captured import captured
from hotgrad.training import engine_choice
from hotgrad.training.runner import training_step

pytestmark = pytest.mark.skipif(compiler.find_compiler() is None, reason="there is no C compiler")

X, Y = torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), torch.ones(40, 1)


class Block(hg.Module):
    def __init__(self) -> None:
        self.linear = hg.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return x + hg.tanh(self.linear(x))


def deep(blocks: int) -> hg.Sequential:
    model = hg.Sequential(hg.Linear(2, 4), *[Block() for _ in range(blocks)], hg.Linear(4, 1), loss="mse")
    model.reset(0)
    model.optimizer = hg.optim.Adam(model.parameters(), lr=0.001)
    return model


def text(blocks: int) -> str:
    model = deep(blocks)
    found = captured(training_step(model, False), [wrap(X, None), wrap(Y, None)], [model, model.loss, model.optimizer])
    return csource.source([csource.lowered(found.code)], ["program"])


def test_no_function_is_long_and_the_text_is_linear() -> None:
    """A compiler's time for one function grows with its square."""
    one, two, three = (text(blocks).splitlines() for blocks in (20, 40, 60))
    assert len(three) - len(two) == pytest.approx(len(two) - len(one), rel=0.05)
    bodies = re.split(r"^};?$", "\n".join(three), flags=re.MULTILINE)
    steps = [body.count("\n") for body in bodies if "void program_" in body]
    assert len(steps) > 10 and max(steps) < 1.5 * csource.LONGEST


def test_where_a_step_is_cut_changes_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for longest in (30, 10**9):
        monkeypatch.setattr(csource, "LONGEST", longest)
        model = deep(3)
        model.fit(X, Y, epochs=2, batch_size=16, seed=1, engine="native")
        states.append(state(model))
    compare(states[0], states[1], 1e-5)
    model = deep(3)
    model.fit(X, Y, epochs=2, batch_size=16, seed=1, engine="eager")
    compare(state(model), states[0], 1e-4)


INTERRUPTED = """
import os, signal, subprocess, sys, threading, time
import torch
import hotgrad as hg

threading.Thread(target=lambda: [open(sys.argv[1]).read(6), os.kill(os.getpid(), signal.SIGINT)], daemon=True).start()
x, y = torch.randn(20, 2), torch.ones(20, 1)
model = hg.Sequential(hg.Linear(2, 3), hg.Linear(3, 1), loss="mse", optimizer="adam")
before = [p.data.clone() for p in model.parameters()]
history = model.fit(x, y, epochs=300, seed=1, verbose=0, engine="native")
print(len(history), history.engine_note)
assert all(torch.equal(p.data, q) for p, q in zip(model.parameters(), before)) and model.epochs_done == 0
assert torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0))
w = hg.Variable(1.0, requires_grad=True)
(w * 2).backward()
assert w.grad == 2 and len(hg.tape()) == 0
assert model.fit(x, y, epochs=2, verbose=0, engine="replay").engine == "replay"
"""


def test_a_fit_interrupted_while_it_compiles_leaves_all_as_it_was(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    real = compiler.find_compiler()
    assert real is not None
    script = tmp_path / "cc"
    # `echo` ends once the pipe is read
    script.write_text(f"""#!/bin/sh
case "$*" in *--version*|*-dM*) exec {real.path} "$@";; *) echo begun > {tmp_path}/pipe; sleep 60;; esac
""")
    script.chmod(0o755)
    environment = {**os.environ, "CC": str(script), "HOTGRAD_CACHE": str(tmp_path / "cache")}
    ran = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path / "pipe")], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == "0 interrupted before the first step\n", ran.stderr
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.fixture
def native_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "estimates", lambda *_: {"eager": Cost(0, 3), "replay": Cost(0, 2), "native": Cost(0, 1)})


def test_auto_does_not_compile_what_would_take_long(native_pays: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_choice, "PATIENCE", 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = deep(2).fit(X, Y, epochs=200, seed=1, verbose=0)
    assert history.engine == "replay"
    assert re.fullmatch(
        r"native: compiling \d+ instructions may take more than 0.1 seconds; engine='native' waits for it", history.engine_note
    )
    assert deep(2).fit(X, Y, epochs=1, seed=1, engine="native").engine == "native"


def test_auto_waits_for_a_slow_compiler_once(native_pays: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "cc"
    real = compiler.find_compiler()
    assert real is not None
    script.write_text(f'#!/bin/sh\ncase "$*" in *--version*|*-dM*) exec {real.path} "$@";; *) echo >> {tmp_path}/calls; sleep 60;; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(engine_choice, "PATIENCE", 0.9)
    monkeypatch.setattr(Native, "seconds", lambda codes: 0.0)
    compiler.find_compiler.cache_clear()
    try:
        with pytest.warns(hg.EngineWarning, match="did not end within 0.9 seconds"):
            history = deep(2).fit(X, Y, epochs=200, seed=1, verbose=0)
        assert history.engine == "replay" and "did not end within 0.9 seconds" in history.engine_note
        with pytest.warns(hg.EngineWarning, match="did not end within"):
            deep(2).fit(X, Y, epochs=200, seed=1, verbose=0)
        assert len((tmp_path / "calls").read_text()) == 1
    finally:
        compiler.find_compiler.cache_clear()
