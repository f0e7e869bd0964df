"""Paths of files: what cannot be written is told beforehand, a full disk leaves what was there, and two runs do not share one."""

from __future__ import annotations

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from saving import X, load_model, network, trained

import hotgrad as hg
from hotgrad import files
from hotgrad.errors import FileError

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX's")

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
