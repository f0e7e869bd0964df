"""Finding a C compiler, compiling, and the cache: private, repaired, bounded, and never in the way of training."""

from __future__ import annotations

import contextvars
import ctypes
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hotgrad.engines.native import compiler as module
from hotgrad.engines.native.compiler import CompilerError, cache_directory, compile_source, find_compiler
from hotgrad.errors import HotgradError

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C compiler")

SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own, and nothing remembered of the compiler."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("HOTGRAD_CACHE", str(directory))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(module, "_SLOW", {})
    monkeypatch.setattr(module, "_FAULTS", {})
    find_compiler.cache_clear()
    yield directory
    find_compiler.cache_clear()


def libraries(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.so"))


def script(path: Path, body: str) -> str:
    """A compiler that answers questions about itself, and does `body` instead of compiling."""
    real = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    path.write_text(f'#!/bin/sh\ncase "$*" in *--version*) echo "fake 1.0";; *-dM*) exec {real} "$@";; *) {body};; esac\n')
    path.chmod(0o700)
    return str(path)


# Finding


def test_the_compiler_is_described_and_looked_for_once() -> None:
    found = find_compiler()
    assert found is not None and os.path.isabs(found.path) and found.version and len(found.target) == 64
    assert find_compiler() is found
    assert found.native in {("-march=native",), ("-mcpu=native",), ()}


def test_cc_comes_first_and_may_have_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = find_compiler()
    assert plain is not None
    monkeypatch.setenv("CC", f"'{plain.path}' -DANSWER=43")
    find_compiler.cache_clear()
    found = find_compiler()
    assert found is not None and found.arguments == ("-DANSWER=43",)
    assert compile_source("int answer(void) { return ANSWER; }").functions.answer() == 43
    path = tmp_path / "a directory" / "my cc"
    path.parent.mkdir()
    monkeypatch.setenv("CC", f"'{script(path, 'exit 1')}'")
    find_compiler.cache_clear()
    found = find_compiler()
    assert found is not None and found.path == str(path) and found.version == "fake 1.0"


@pytest.mark.parametrize("cc", ["", "no-such-compiler", "'unclosed", "/", "false", "  "])
def test_an_unusable_cc_is_passed_over(cc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", cc)
    assert compile_source(SOURCE).functions.answer() == 42


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler() is None
    with pytest.raises(CompilerError, match=r"no C compiler was found: install one .* or set .* CC"):
        compile_source(SOURCE)
    assert issubclass(CompilerError, HotgradError) and issubclass(CompilerError, RuntimeError)


def test_a_compiler_without_native_options_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_compiler()
    assert real is not None
    path = tmp_path / "cc"
    path.write_text(f'#!/bin/sh\ncase "$*" in *=native*) echo "bad value (native)" >&2; exit 1;; *) exec {real.path} "$@";; esac\n')
    path.chmod(0o700)
    monkeypatch.setenv("CC", str(path))
    find_compiler.cache_clear()
    found = find_compiler()
    assert found is not None and found.path == str(path) and found.native == () and found.target != real.target
    assert compile_source(SOURCE).functions.answer() == 42


# Failures


def test_a_compile_error_is_shown() -> None:
    with pytest.raises(CompilerError, match=r"failed \(status 1\):\n(.|\n)*source\.c:1:\d+: error:") as caught:
        compile_source("int f(void) { return missing; }")
    assert str(caught.value).count("\n") <= 8
    assert "build-" not in str(caught.value)


def test_a_failing_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "cc", "echo out of luck >&2; exit 3"))
    with pytest.raises(CompilerError, match=r"failed \(status 3\):\n    out of luck"):
        compile_source(SOURCE)
    monkeypatch.setenv("CC", script(tmp_path / "cc", "true"))
    with pytest.raises(CompilerError, match=r"failed \(status 0\): it said nothing"):
        compile_source(SOURCE)
    assert list(cache.iterdir()) == []


def test_a_hanging_compiler_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    commands = f"exec 3>{tmp_path / 'pipe'}; echo begun >&3; (sleep 30; echo late >&3) & sleep 30"
    monkeypatch.setenv("CC", script(tmp_path / "cc", commands))
    with pytest.raises(CompilerError, match=r"did not end within 1 seconds"):
        compile_source(SOURCE, limit=1.0)
    os.set_blocking(pipe, True)
    with open(pipe) as lines:
        assert lines.read() == "begun\n"  # its end comes when no process is left to write
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_compiler_ends_with_the_process_that_started_it(how: signal.Signals, tmp_path: Path, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    commands = f"exec 3>{tmp_path / 'pipe'}; echo begun >&3; (sleep 60; echo late >&3) & sleep 60"
    environment = {**os.environ, "CC": script(tmp_path / "cc", commands)}
    code = "import sys; from hotgrad.engines.native.compiler import compile_source as c; c(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, SOURCE], env=environment, stderr=subprocess.PIPE, text=True)
    with process, open(tmp_path / "pipe") as lines:
        assert lines.readline() == "begun\n"
        process.send_signal(how)
        assert lines.read() == ""  # its end comes when no process is left to write
        said = process.communicate()[1]
    assert process.returncode
    if how is signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt") and list(cache.iterdir()) == []


def test_who_waits_for_the_compiler_may_give_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setenv("CC", script(tmp_path / "cc", f"exec 3>{tmp_path / 'pipe'}; touch {tmp_path / 'begun'}; sleep 60"))
    context = contextvars.copy_context()
    context.run(module.given_up.set, (tmp_path / "begun").exists)
    with pytest.raises(CompilerError, match="was interrupted"):
        context.run(compile_source, SOURCE)
    assert list(cache.iterdir()) == []
    os.set_blocking(pipe, True)
    with open(pipe) as lines:
        assert lines.read() == ""  # its end comes when no process is left to write


def test_a_program_that_took_too_long_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "cc", f"echo >> {tmp_path / 'calls'}; sleep 60"))
    for limit in (0.5, 0.5, 0.2, 1.0):
        with pytest.raises(CompilerError, match=r"did not end within (0.5|1) seconds"):
            compile_source(SOURCE, limit=limit)
    assert len((tmp_path / "calls").read_text()) == 2


@pytest.mark.parametrize("through", ["option", "CC", "file", "wrapper"])
@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("-ffast-math", "denormal numbers become zero in the whole process, .*NaN is taken for a number"),
        ("-ffinite-math-only", "NaN is taken for a number, infinity is taken for a finite number"),
        ("-fsanitize=address", "loading it ends the process"),
    ],
)
def test_libraries_that_do_harm_are_never_loaded(
    option: str, says: str, through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """What they do counts, since options may come from anywhere."""
    real = find_compiler()
    assert real is not None
    (tmp_path / "options").write_text(option)
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\nexec {real.path} "$@" {option}\n')
    wrapper.chmod(0o700)
    given = {"CC": f"{real.path} {option}", "file": f"{real.path} @{tmp_path / 'options'}", "wrapper": str(wrapper)}
    monkeypatch.setenv("CC", given.get(through, real.path))
    find_compiler.cache_clear()
    for _ in range(2):
        with pytest.raises(CompilerError, match=f"is not sound: {says}.*Take options such as -ffast-math"):
            compile_source(SOURCE, options=[option] if through == "option" else [])
    tiny = float("5e-324")
    assert tiny * 1.0 > 0
    assert list(cache.iterdir()) == []


def test_that_a_compiler_is_sound_is_remembered(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    compile_source(SOURCE)
    assert len(list(cache.glob("*.sound"))) == 1
    module._FAULTS.clear()
    monkeypatch.setattr(module.soundness, "CHILD", "raise SystemExit(1)")
    assert not compile_source(SOURCE + " ").cached
    next(cache.glob("*.sound")).unlink()
    module._FAULTS.clear()
    with pytest.raises(CompilerError, match=r"ends the process \(status 1\)"):
        compile_source(SOURCE + "  ")


@pytest.mark.parametrize("said", ["No space left on device", "Disk quota exceeded"])
def test_a_full_disk_under_the_cache(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    compile_source(SOURCE)  # which finds the compiler sound
    real = find_compiler()
    assert real is not None
    body = f'case "$*" in *{cache}*) echo "ld: final link failed: {said}" >&2; exit 1;; *) exec {real.path} "$@";; esac'
    monkeypatch.setenv("CC", script(tmp_path / "cc", body))
    find_compiler.cache_clear()
    check_private(compile_source(SOURCE), cache, "No space left on device")
    assert [path.suffix for path in cache.iterdir() if path.name.startswith("build-")] == []


def test_a_source_that_does_not_fit_on_the_disk(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    write = Path.write_text

    def full(self: Path, *arguments: object, **options: object) -> int:
        if cache in self.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return write(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    check_private(compile_source(SOURCE), cache, "No space left on device")
    monkeypatch.setattr(module, "_private_directory", lambda: cache)
    with pytest.raises(CompilerError, match=r"cannot be kept or loaded: .*No space left"):
        compile_source(SOURCE + " ")


# The cache


def test_the_second_time_nothing_is_compiled(cache: Path) -> None:
    first = compile_source(SOURCE)
    assert not first.cached and first.note == "" and first.path.parent == cache
    assert first.functions.answer() == 42
    (kept,) = libraries(cache)
    os.utime(kept, (1, 1))
    second = compile_source(SOURCE)
    assert second.cached and second.path == first.path and second.functions.answer() == 42
    assert kept.stat().st_mtime > 1e9  # noted as used
    assert cache.stat().st_mode & 0o777 == 0o700 and kept.stat().st_mode & 0o777 == 0o700


def test_what_the_key_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    compile_source(SOURCE)
    assert not compile_source(SOURCE, options=["-DX"]).cached
    assert not compile_source(SOURCE + " ").cached
    monkeypatch.setattr(module, "_FORMAT", "other")
    assert not compile_source(SOURCE).cached
    monkeypatch.undo()
    monkeypatch.setenv("HOTGRAD_CACHE", str(cache))
    found = find_compiler()
    assert found is not None
    for other in ({"version": "other"}, {"target": "other"}):
        fake = module.Compiler(**{**found.__dict__, **other})
        monkeypatch.setattr(module, "find_compiler", lambda fake=fake: fake)
        assert not compile_source(SOURCE).cached
    assert len(libraries(cache)) == 6


@pytest.mark.parametrize("damage", ["truncated", "empty", "changed", "text"])
def test_a_broken_entry_is_rebuilt(damage: str, cache: Path) -> None:
    path = compile_source(SOURCE).path
    content = path.read_bytes()
    broken = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}
    path.unlink()  # the file stays mapped here, and writing into it would be felt
    path.write_bytes(broken.get(damage, content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]))
    path.chmod(0o700)
    library = compile_source(SOURCE)
    assert not library.cached and library.functions.answer() == 42 and library.note == ""
    assert libraries(cache) == [library.path] and library.path.read_bytes() == content


def test_an_entry_that_does_not_load_is_rebuilt(cache: Path) -> None:
    library = compile_source(SOURCE)
    key = library.path.name.split("-")[0]
    library.path.unlink()
    foreign = cache / module._name(key, b"whole, but no library")
    foreign.write_bytes(b"whole, but no library")
    foreign.chmod(0o700)
    again = compile_source(SOURCE)
    assert not again.cached and again.functions.answer() == 42 and not foreign.exists()


def check_private(library: module.Library, refused: Path, reason: str) -> None:
    assert library.functions.answer() == 42
    assert library.path.parent != refused and library.path.parent.stat().st_mode & 0o777 == 0o700
    assert "the cache of compiled code is not used" in library.note and reason in library.note, library.note


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(mode: int, cache: Path) -> None:
    cache.mkdir()
    compile_source(SOURCE)
    before = libraries(cache)
    cache.chmod(mode)
    check_private(compile_source(SOURCE), cache, "others may write to")
    assert libraries(cache) == before


def test_a_file_that_others_may_write_to_is_refused(cache: Path) -> None:
    path = compile_source(SOURCE).path
    path.chmod(0o722)
    check_private(compile_source(SOURCE), cache, "others may write to")


def test_a_directory_of_another_user_is_refused(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(cache, 12345, -1)
        check_private(compile_source(SOURCE), cache, "belongs to another user")
        os.chown(cache, 0, -1)
        # A link of another user, to a directory of ours.
        link = tmp_path / "link"
        link.symlink_to(cache)
        os.lchown(link, 12345, -1)
        monkeypatch.setenv("HOTGRAD_CACHE", str(link))
        check_private(compile_source(SOURCE), cache, "belongs to another user")
        os.lchown(link, 0, -1)
        assert compile_source(SOURCE).note == ""  # one's own link is fine
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.raises(module._Refused, match="belongs to another user"):
            module._require_private(cache)


def test_a_cache_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "cache", tmp_path / "file"):
        monkeypatch.setenv("HOTGRAD_CACHE", str(place))
        check_private(compile_source(SOURCE), place, "file")
        assert compile_source(SOURCE).cached  # within the process


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    check_private(compile_source(SOURCE), cache, "Permission denied")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOTGRAD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    check_private(compile_source(SOURCE), Path("/"), "home directory")


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("HOTGRAD_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "hotgrad"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_directory() == tmp_path / ".cache" / "hotgrad"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_directory() == tmp_path / "Library" / "Caches" / "hotgrad"


def test_the_private_directory_is_removed_at_exit(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code = "import sys; from hotgrad.engines.native.compiler import compile_source as c; print(c(sys.argv[1]).path)"
    environment = {**os.environ, "HOTGRAD_CACHE": str(tmp_path / "file")}
    made = subprocess.run([sys.executable, "-c", code, SOURCE], check=True, capture_output=True, text=True, env=environment)
    path = Path(made.stdout.strip())
    assert path.suffix == ".so" and not path.parent.exists()


def test_the_least_recently_used_entries_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FILES", 3)
    for i in range(4):
        os.utime(compile_source(f"int f{i}(void) {{ return {i}; }}").path, (i + 1, i + 1))
    assert [int(path.stat().st_mtime) for path in sorted(libraries(cache), key=os.path.getmtime)] == [2, 3, 4]
    abandoned = cache / "build-abandoned"
    abandoned.mkdir()
    os.utime(abandoned, (1, 1))
    in_use = cache / "build-now"
    in_use.mkdir()
    monkeypatch.setattr(module, "MAX_BYTES", 1)
    last = compile_source(SOURCE)
    assert libraries(cache) == [last.path] and last.functions.answer() == 42
    assert in_use.exists() and not abandoned.exists()


def test_many_threads_compile_the_same(cache: Path) -> None:
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(compile_source(SOURCE).functions.answer())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [42] * 6 and len(libraries(cache)) == 1


def test_calls_let_go_of_the_gil() -> None:
    """C says that it has begun, and waits for Python's answer, ten seconds at most."""
    text = """#define _POSIX_C_SOURCE 200809L
    #include <time.h>
    int met(volatile int *flags) {
        flags[0] = 1;
        for (int i = 0; i < 10000 && !flags[1]; i++) { struct timespec t = {0, 1000000}; nanosleep(&t, 0); }
        return flags[1];
    }"""
    flags, answers = (ctypes.c_int * 2)(), []
    functions = compile_source(text).functions
    thread = threading.Thread(target=lambda: answers.append(functions.met(flags)))
    thread.start()
    while not flags[0]:
        time.sleep(0.001)
    flags[1] = 1
    thread.join()
    assert answers == [1]
