"""Files: broken anywhere they are refused, and what killed writers leave goes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saving import X, Y, everything, load_checkpoint, load_model, load_program, network, trained

import hotgrad as hg
from hotgrad import files
from hotgrad.errors import FileError

Count = Callable[[int, int], int]
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX's")

# How a file of each kind is written and read.
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], str]]] = {
    "model": (lambda path: trained().save(path), load_model),
    "checkpoint": (trained, load_checkpoint),
    "program": (lambda path: hg.capture(trained().eval(), X).save(path), load_program),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
def test_single_bits(kind: str, tmp_path: Path, count: Count) -> None:
    """Any flipped bit is either told or stands where nothing is read."""
    make, load = KINDS[kind]
    path, told = tmp_path / "file", 0
    make(path)
    good, expected = path.read_bytes(), load(path)
    good = path.read_bytes()
    bits = range(len(good) * 8)
    sample = random.Random(0).sample(bits, count(120, 4000))
    for bit in sample:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            assert load(path) == expected, f"bit {bit} was not noticed"
        except FileError as error:
            assert str(path) in str(error)
            assert path.read_bytes() == bad, "never a fresh start over it"
            told += 1
    assert told > len(sample) // 2


@kinds
def test_whole_bytes_gone_or_added(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    path = tmp_path / "file"
    make(path)
    good, expected = path.read_bytes(), load(path)
    half = len(good) // 2
    broken = [b"", good[:1], good[:half], good[:-1], good[half:], good[1:], b"\0" * len(good), good[:half] + b"\0" * 64 + good[half + 64 :]]
    for bad in broken:
        path.write_bytes(bad)
        with pytest.raises(FileError, match="file"):
            load(path)
    for longer in (good + b"\0", good + good, b"\0" + good, good + bytes(5000), good[:half] + good):
        path.write_bytes(longer)
        try:
            assert load(path) == expected
        except FileError as error:
            assert str(path) in str(error)


@kinds
def test_a_file_without_digest_or_with_that_of_another(kind: str, tmp_path: Path) -> None:
    make, load = KINDS[kind]
    path = tmp_path / "file"
    make(path)
    content = torch.load(path, weights_only=True)
    for change in ({"digest": None}, {"digest": "0" * 32}, {"version": 1}, {"version": True}, {"kind": "something"}, {"more": 1}):
        torch.save({**content, **change}, path)
        with pytest.raises(FileError, match="file"):
            load(path)
    torch.save({name: value for name, value in content.items() if name != "digest"}, path)
    with pytest.raises(FileError, match="file"):
        load(path)


def rewritten(path: Path, kind: str, change: Callable[[Any], Any]) -> None:
    """The file with its content changed and a digest that fits."""
    content = torch.load(path, weights_only=True)
    change(content)
    files.write(path, kind, {name: value for name, value in content.items() if name not in ("format", "version", "kind", "digest")})


def first_entry(content: Any) -> Any:
    return content["state"]["optimizer"]["state"][0]


# What no training leaves, in files whose digest is right.
NONSENSE: dict[str, Callable[[Any], Any]] = {
    "negative epochs": lambda c: c["state"].update(epochs=-1),
    "half an epoch": lambda c: c["state"].update(epochs=2.5),
    "true epochs": lambda c: c["state"].update(epochs=True),
    "epochs in words": lambda c: c["state"].update(epochs="2"),
    "no epochs": lambda c: c["state"].pop("epochs"),
    "more in the state": lambda c: c["state"].update(code="print()"),
    "a negative count": lambda c: first_entry(c).update(count=-1),
    "a fractional count": lambda c: first_entry(c).update(count=1.5),
    "an infinite rate": lambda c: c["state"]["optimizer"]["groups"][0].update(lr=float("inf")),
    "a rate that is NaN": lambda c: c["state"]["optimizer"]["groups"][0].update(lr=float("nan")),
    "a negative rate": lambda c: c["state"]["optimizer"]["groups"][0].update(lr=-0.1),
    "betas beyond 1": lambda c: c["state"]["optimizer"]["groups"][0]["settings"].update(betas=[2.0, 0.9]),
    "clip_norm of zero": lambda c: c["state"]["optimizer"].update(clip_norm=0.0),
    "a state that the rule does not keep": lambda c: first_entry(c).update(velocity=torch.zeros(3, 4)),
    "a state of another shape": lambda c: first_entry(c).update(mean=torch.zeros(4, 3)),
    "a state that is no tensor": lambda c: first_entry(c).update(mean=1.0),
    "fewer parameters": lambda c: c["state"]["optimizer"]["state"].pop(),
    "no generator": lambda c: c["state"].update(generator=torch.zeros(7, dtype=torch.uint8)),
    "a generator in words": lambda c: c["state"].update(generator="seed 0"),
    "no tensors": lambda c: c["state"]["model"].update({"0.weight": 3}),
    "tensors of another shape": lambda c: c["state"]["model"].update({"0.weight": torch.zeros(2, 2)}),
    "weights of a list": lambda c: c["state"].update(model=[1, 2]),
}
OF_CHECKPOINTS: dict[str, Callable[[Any], Any]] = {
    "no history": lambda c: c.update(history=[]),
    "a missing epoch": lambda c: c["history"].pop(0) and c["history"].append({"epoch": 3}),
    "epochs in another order": lambda c: c["history"].reverse(),
    "more epochs than done": lambda c: c["history"].append({"epoch": 3, "loss": 1.0}),
    "an epoch that is no number": lambda c: c["history"][0].update(epoch="1"),
    "a loss that is a list": lambda c: c["history"][0].update(loss=[1.0]),
    "a history of lists": lambda c: c.update(history=[[1, 2.0]]),
}


@pytest.mark.parametrize("what", [*NONSENSE, *OF_CHECKPOINTS])
def test_nonsense_is_refused(what: str, tmp_path: Path) -> None:
    for kind in ("checkpoint", "model") if what in NONSENSE else ("checkpoint",):
        path = tmp_path / kind
        KINDS[kind][0](path)
        rewritten(path, kind, lambda content: None)
        KINDS[kind][1](path)
        rewritten(path, kind, {**NONSENSE, **OF_CHECKPOINTS}[what])
        model = trained(seed=3)
        before, data = everything(model), path.read_bytes()
        with pytest.raises(FileError, match=kind):
            model.load(path) if kind == "model" else model.fit(X, Y, 4, 8, seed=0, verbose=0, checkpoint=path, engine="eager")
        assert everything(model) == before
        assert path.read_bytes() == data


# ------------------------------------------------------------------------------------------------ what a file can hold


def test_what_comes_back(tmp_path: Path) -> None:
    content = {
        "a": [1, 2.5, float("inf"), -0.0, "text \ud800", None, True, (1, (2,)), {3, "x"}, b"bytes", 1j, 10**40],
        "b": OrderedDict([("z", torch.zeros(0, 3)), (2, torch.ones(2, dtype=torch.bfloat16))]),
        "c": torch.arange(6).view(2, 3).T,
        "d": [torch.float16, torch.device("cpu"), torch.Size([1, 2])],
        "e": torch.tensor([1 + 2j]).conj(),
        "f": np.float64(0.5),
        "g": [np.int32(3), np.bool_(True), signal.SIGINT],
    }
    files.write(tmp_path / "file", "test", content)
    found = files.read(tmp_path / "file", "test", {"a": list})
    assert found["a"] == content["a"]
    assert str(found["a"][3]) == "-0.0"
    assert list(found["b"]) == ["z", 2]
    assert torch.equal(found["c"], content["c"])  # type: ignore[arg-type]
    assert found["d"] == content["d"]
    assert found["e"].tolist() == [1 - 2j]
    assert (found["f"], found["g"]) == (0.5, [3, True, 2])
    assert {type(value) for value in (found["f"], *found["g"])} == {float, int, bool}


class Keeps:
    """A callback with this state."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def __call__(self, model: Any, history: Any) -> None:
        history[-1]["extra"] = np.float32(0.5)

    def state_dict(self) -> Any:
        return {"state": self.state}

    def load_state_dict(self, state: Any) -> None:
        self.state = state["state"]


def test_a_state_that_no_file_can_hold_is_told_before_training(tmp_path: Path) -> None:
    for state in (object(), np.zeros(3), lambda: 0, hg.Variable([1.0])):
        with pytest.raises(FileError, match=r"state of a callback holds a .*give tensors"):
            trained(tmp_path / "c", callbacks=[Keeps(state)])
    assert not list(tmp_path.iterdir())
    trained(tmp_path / "c", callbacks=[Keeps({"best": np.float64(1.5), "at": (1, "x")})])
    callback = Keeps({"best": 0.0})
    trained(tmp_path / "c", 3, callbacks=[callback])
    assert callback.state == {"best": 1.5, "at": (1, "x")}


# ---------------------------------------------------------------------------------------------------- killed while writing

WRITER = """
import os, sys, torch
from hotgrad import files
tensors = [torch.full((1000,), float(i)) for i in range(1000)]
print("ready", flush=True)
while True:
    files.write(sys.argv[1], "test", {"tensors": tensors})
"""


def writing(path: Path) -> subprocess.Popen[bytes]:
    """A process that writes to `path` without end, stopped or killed by the caller."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@posix
@pytest.mark.parametrize("name", ["a [strange] name*.pt", "x" * 250])
def test_what_a_killed_writer_left_goes_with_the_next_writing(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    others = [
        f"{name[:200]}.tmp",
        f"{name[:200]}.1234-5.tmp",
        f"z{name[:100]}.h-1-{'0' * 8}.tmp",
        f"{name[:100]}.elsewhere-1-{'0' * 8}.tmp",
    ]
    for other in others:
        (tmp_path / other).write_text("not ours")
    with writing(path) as process:
        left = caught(path, process, set(others))
        process.kill()
    assert set(os.listdir(tmp_path)) - {name} == {*others, left}
    files.write(path, "test", {"tensors": []})
    assert set(os.listdir(tmp_path)) == {*others, name}, "files of others stay"
    assert files.read(path, "test", {})["tensors"] == []


def caught(path: Path, process: subprocess.Popen[bytes], others: set[str]) -> str:
    """Stop the writer while a file is half written; that file's name."""
    for _ in range(500):
        time.sleep(random.uniform(0.002, 0.02))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.005)
        found = set(os.listdir(path.parent)) - others - {path.name}
        if found:
            return found.pop()
        process.send_signal(signal.SIGCONT)
    raise AssertionError("the writer was never caught")


@posix
def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with writing(path) as process:
        name = caught(path, process, set())
        files.write(path, "test", {"tensors": []})
        assert name in os.listdir(tmp_path), "its writer still lives, though it rests"
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)
        assert process.poll() is None, "and goes on"
        process.kill()
    files.write(path, "test", {"tensors": []})
    assert os.listdir(tmp_path) == ["model"]


def test_old_files_of_other_machines_go_in_the_end(tmp_path: Path) -> None:
    left = tmp_path / f"model.elsewhere-1-{'0' * 8}.tmp"
    left.write_text("half")
    network().save(tmp_path / "model")
    assert left.exists(), "its writer may live"
    os.utime(left, (0, time.time() - 25 * 3600))
    network().save(tmp_path / "model")
    assert os.listdir(tmp_path) == ["model"]


# Compiles forever, and says what `cc` says when it is asked who it is.
SLOW_COMPILER = """#!/bin/sh
case "$*" in *library.so*) exec sleep 600;; esac
exec cc "$@"
"""
COMPILE = "import sys; from hotgrad.engines.native.compiler import compile_source as c; print(c('int f(void) { return ' + sys.argv[1] + '; }').path)"


def compiling(number: int, wait_for: Path | None, **environment: str) -> subprocess.Popen[str]:
    """A process that compiles: one that has ended well, or one in the midst of it, once there is a folder in `wait_for`."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILE, str(number)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if wait_for is None:
        _, said = process.communicate()
        assert process.returncode == 0, said
    else:
        until = time.monotonic() + 60
        while not any(wait_for.glob("**/build-*/source.c")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
    return process


@posix
@pytest.mark.parametrize("usable", [True, False])
def test_folders_of_killed_compilations_go_with_the_next(usable: bool, tmp_path: Path) -> None:
    """In the cache, and in the temporary folder where the cache cannot be used."""
    (tmp_path / "slow").write_text(SLOW_COMPILER)
    (tmp_path / "slow").chmod(0o700)
    cache, temporary = tmp_path / "cache", tmp_path / "tmp"
    temporary.mkdir()
    if not usable:
        cache.write_text("no folder")
    mine = temporary / "hotgrad-native-experiments"
    mine.mkdir()
    where = cache if usable else temporary
    settings = {"HOTGRAD_CACHE": str(cache), "TMPDIR": str(temporary)}
    before = set(temporary.iterdir())
    with compiling(1, where, **settings, CC=str(tmp_path / "slow")) as killed:
        killed.kill()
    left = set(where.iterdir()) - before
    assert left
    with compiling(2, where, **settings, CC=str(tmp_path / "slow")) as living:
        assert compiling(3, None, **settings).returncode == 0
        assert not left & set(where.iterdir())
        assert any(where.glob("**/build-*/source.c")), "that of one that lives"
        living.kill()
    assert compiling(4, None, **settings).returncode == 0
    assert not list(tmp_path.glob("**/build-*"))
    assert set(temporary.iterdir()) == before
