"""Files: broken anywhere they are refused, what killed writers leave goes, and paths that cannot be written are told beforehand."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hotgrad as hg
from hotgrad import files, nn, optim
from hotgrad.errors import FileError

Count = Callable[[int, int], int]
G = torch.Generator().manual_seed(1)
X = torch.randn(20, 3, generator=G)
Y = torch.arange(20) % 2
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX's")


def network(seed: int = 0) -> hg.Sequential:
    model = hg.Sequential(
        hg.Linear(3, 4), nn.BatchNorm1d(4), hg.ReLU(), hg.Linear(4, 2), loss="cross_entropy", optimizer=optim.Adam(lr=0.01)
    )
    model.reset(seed)
    return model


def trained(path: Any = None, epochs: int = 2, seed: int = 0, **settings: Any) -> hg.Sequential:
    model = network()
    model.fit(X, Y, epochs, 8, seed=seed, verbose=0, checkpoint=path, engine="eager", **settings)
    return model


def everything(model: hg.Sequential) -> str:
    """All that a file brings back, as a digest."""
    state: Any = model.state_dict(), model.optimizer.state_dict(), model.epochs_done, model.generator.get_state()  # type: ignore[union-attr]
    return files._content_digest({"all": files.plain(state, "")})


def load_model(path: Path) -> str:
    return everything(network(5).load(path))


def load_checkpoint(path: Path) -> str:
    model = network(5)
    history = model.fit(X, Y, 2, 8, seed=0, verbose=0, checkpoint=path, engine="eager")
    return everything(model) + repr([{name: value for name, value in row.items() if name != "seconds"} for row in history])


def load_program(path: Path) -> str:
    program = hg.Program.load(path)
    return str(program) + repr(program(X).tolist())


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


# ------------------------------------------------------------------------------------------------------------- paths

BAD_PATHS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder": (lambda folder: folder, "is a directory"),
    "a pipe": (lambda folder: (os.mkfifo(folder / "p"), folder / "p")[1], "is a pipe"),
    "a device": (lambda folder: "/dev/full", "is a device"),
    "nothing": (lambda folder: "", "cannot be the name of a file"),
    "a name that is too long": (lambda folder: folder / ("x" * 300), "too long"),
    "a path that is too long": (lambda folder: str(folder) + "/x" * 3000, "too long"),
    "a file for a folder": (lambda folder: ((folder / "f").write_text(""), folder / "f" / "c")[1], "f/c cannot be written"),
    "a zero in the name": (lambda folder: f"{folder}/a\0b", "cannot be the name of a file"),
    "a loop of links": (lambda folder: (os.symlink("loop", folder / "loop"), folder / "loop")[1], "cannot be written"),
    "a link to a pipe": (lambda folder: (os.mkfifo(folder / "p"), os.symlink("p", folder / "l"), folder / "l")[2], "is a pipe"),
}


@posix
@pytest.mark.parametrize("name", BAD_PATHS)
def test_paths_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    make, says = BAD_PATHS[name]
    path = make(tmp_path)
    before = sorted(os.listdir(tmp_path))
    seen: list[int] = []
    with pytest.raises(FileError, match=says):
        trained(path, callbacks=[lambda model, history: seen.append(1)])
    assert not seen, "told before training begins"
    with pytest.raises(FileError, match=says):
        network().save(path)
    with pytest.raises(FileError, match=says):
        hg.capture(lambda x: x * 2, X).save(path)
    assert sorted(os.listdir(tmp_path)) == before


def test_what_is_no_path() -> None:
    for wrong in (True, 5, b"bytes", ["a"]):
        with pytest.raises(hg.OperandError, match="checkpoint must be the path of a file"):
            trained(wrong)


@posix
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        monkeypatch.chdir(tmp_path)  # for the path of a socket may not be long
        unix.bind("socket")
        for path, says in ((tmp_path / "pipe", "pipe"), (tmp_path, "directory"), ("/dev/zero", "device"), (tmp_path / "socket", "socket")):
            with pytest.raises(FileError, match=says):
                network().load(path)
            with pytest.raises(FileError, match=says):
                hg.Program.load(path)


# Root may write anywhere: as another user.
UNWRITABLE = """
import os, sys, torch, hotgrad as hg
folder = sys.argv[1]
if os.getuid() == 0:
    os.setuid(65534)
model = hg.Sequential(hg.Linear(2, 2), loss="cross_entropy", optimizer="sgd")
x, y = hg.data.disc(20, seed=0)
trained = []
for path, old in ((folder + "/closed/c", None), (folder + "/open/readonly", b"mine"), (folder + "/closed/there", b"mine")):
    for write in (lambda: model.fit(x, y, verbose=0, checkpoint=path, callbacks=[lambda *a: trained.append(1)]), lambda: model.save(path)):
        try:
            write()
        except hg.FileError as error:
            assert isinstance(error, OSError) and path in str(error), error
            print(str(error).replace(folder, ""))
        else:
            raise SystemExit("no error for " + path)
    assert old is None or open(path, "rb").read() == old
assert not trained
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users reach: pytest closes its own ones to them whenever it starts."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@posix
def test_folders_and_files_that_may_not_be_written(public: Path) -> None:
    for name in ("closed", "open"):
        (public / name).mkdir()
    (public / "closed" / "there").write_text("mine")
    (public / "closed" / "there").chmod(0o666)
    (public / "open" / "readonly").write_text("mine")
    (public / "open" / "readonly").chmod(0o444)
    (public / "closed").chmod(0o555)
    (public / "open").chmod(0o777)
    done = subprocess.run([sys.executable, "-c", UNWRITABLE, str(public)], capture_output=True, text=True, check=False)
    (public / "closed").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "/closed/c cannot be written: Permission denied; nothing is left of it" in done.stdout
    assert "/closed/there cannot be written: Permission denied; the file that is there stays as it was" in done.stdout
    assert "/open/readonly may not be written: it is read-only here (mode 444)" in done.stdout


@posix
def test_modes_and_links_stay(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for name, write in {
        "c": trained,
        "m": lambda path: network().save(path),
        "p": lambda path: hg.capture(lambda x: x * 2, X).save(path),
    }.items():
        target, link = tmp_path / "real" / name, tmp_path / name
        link.symlink_to(target)
        before = os.umask(0o027)
        try:
            write(link)  # type: ignore[operator]
        finally:
            os.umask(before)
        assert link.is_symlink()
        assert stat.S_IMODE(target.stat().st_mode) == 0o640, "a new file obeys the umask"
        target.chmod(0o604)
        trained(link, 3) if name == "c" else write(link)  # type: ignore[operator]
        assert link.is_symlink()
        assert stat.S_IMODE(target.stat().st_mode) == 0o604, "an old one keeps its mode"
    assert sorted(os.listdir(tmp_path)) == ["c", "m", "p", "real"]
    assert sorted(os.listdir(tmp_path / "real")) == ["c", "m", "p"]
    assert load_model(tmp_path / "m")


@posix
def test_a_link_into_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "file")
    for write in (trained, network().save):
        with pytest.raises(hg.FileError, match="link cannot be written: its folder does not exist"):
            write(tmp_path / "link")


# --------------------------------------------------------------------------------------------------------------- no space

# The kernel itself refuses to let files grow: a real failure in the midst of torch's writing.
FULL = """
import os, resource, signal, sys, torch, hotgrad as hg
path = sys.argv[1]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = hg.Sequential(hg.Linear(2, 2000), hg.Linear(2000, 2), loss="cross_entropy", optimizer="sgd")
x, y = hg.data.disc(20, seed=0)
model.save(path + "/model")
old = open(path + "/model", "rb").read()
for limit in (0, 100, 5000, len(old) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for write in (lambda: model.save(path + "/model"), lambda: model.fit(x, y, 2, verbose=0, checkpoint=path + "/c"),
                  lambda: hg.capture(model, x).save(path + "/program")):
        try:
            write()
        except hg.FileError as error:
            assert isinstance(error, OSError) and error.errno and path in str(error) and "File too large" in str(error), error
        else:
            raise SystemExit("no error")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert open(path + "/model", "rb").read() == old and os.listdir(path) == ["model"], os.listdir(path)
assert model.epochs_done >= 2
print("fine")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits as on Linux")
def test_a_disk_that_is_full_in_the_midst_of_writing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


@pytest.mark.parametrize("where", ["write", "flush", "fsync"])
def test_no_space_is_said(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    network().save(path)
    old = path.read_bytes()

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Full(io.FileIO):
        pass

    setattr(Full, where, full)
    if where == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(files, "open", lambda name, mode: Full(name, mode.replace("b", "")), raising=False)
    with pytest.raises(
        FileError, match=r"model cannot be written: No space left on device, free some; the file that is there stays"
    ) as caught:
        network(3).save(path)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["model"]


# ------------------------------------------------------------------------------------------------------- two runs, one path


def test_two_runs_on_one_fresh_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one begins while there is no file yet, and writes first."""
    path = tmp_path / "c"

    def other(model: Any, history: Any) -> None:
        if len(history) == 1:
            trained(path, 4, seed=1)

    with pytest.raises(FileError, match=r"c has been written by another run meanwhile.*path of its own"):
        trained(path, 3, callbacks=[other])
    trained(path, 5, seed=1)
    with pytest.raises(FileError, match="seed: 1 in the file, 0 now"):
        trained(path, 3)
    assert os.listdir(tmp_path) == ["c"]


def test_two_runs_that_go_on_from_one_file(tmp_path: Path) -> None:
    path = tmp_path / "c"
    trained(path, 1)

    def other(model: Any, history: Any) -> None:
        if len(history) == 2:
            trained(path, 6)

    with pytest.raises(FileError, match="another run"):
        trained(path, 3, callbacks=[other])
    assert len(torch.load(path)["history"]) == 6


def test_many_runs_at_once_leave_one_file_of_one_of_them(tmp_path: Path) -> None:
    path, ended, barrier = tmp_path / "c", [], threading.Barrier(4)

    def run(seed: int) -> None:
        def wait(model: Any, history: Any) -> None:
            if len(history) == 1:
                barrier.wait()

        try:
            trained(path, 3, seed=seed, callbacks=[wait])
            ended.append(seed)
        except FileError:
            pass

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 1
    assert torch.load(path)["fingerprint"]["seed"][""] == str(ended[0])
    assert os.listdir(tmp_path) == ["c"]


def test_a_copy_of_ones_own_file_or_none_is_no_other_run(tmp_path: Path) -> None:
    path = tmp_path / "c"

    def put_back(model: Any, history: Any) -> None:
        if len(history) == 2:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
        if len(history) == 4:
            path.unlink()

    trained(path, 1)
    trained(path, 3, callbacks=[put_back])
    trained(path, 5, callbacks=[put_back])
    assert len(torch.load(path)["history"]) == 5


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    trained(tmp_path / "c")
    trained(tmp_path / "c", 3)
    assert len(torch.load(tmp_path / "c")["history"]) == 3
    assert os.listdir(tmp_path) == ["c"]
