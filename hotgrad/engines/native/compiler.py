"""The system's C compiler: finding it, and turning C text into a loaded library, through a private cache.

Libraries are loaded with `ctypes.CDLL`, whose calls let go of the GIL: other Python threads run meanwhile.

A cached library is code that will be run, so a directory or file that others could have written is never read. Where the cache
cannot be used, a temporary directory of this process takes its place, and `Library.note` says why.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import ctypes
import errno
import functools
import hashlib
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hotgrad.engines.engine import LIMIT
from hotgrad.engines.native import soundness
from hotgrad.errors import EngineError
from hotgrad.files import held_folder, remove_abandoned

# Without errno and traps, selects become vector code; results do not change. ISO mode alone would forbid fused multiply-add.
OPTIONS = ("-std=c11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
NATIVE = ("-march=native", "-mcpu=native")
# For gcc alone: a sixth less time to compile, and selects stay selects; the code is as fast or faster.
GCC = ("-fno-gcse", "-fno-thread-jumps")

# Whether the training that waits for a compiler here is to end: asked while it waits, where a Ctrl-C raises nothing.
given_up: contextvars.ContextVar[Callable[[], bool]] = contextvars.ContextVar("given_up", default=lambda: False)
_PIECE = 0.1  # seconds between two such questions

MAX_FILES = 500
MAX_BYTES = 200 * 2**20
# Part of each key: a library that was made in another way is not found.
_FORMAT = "hotgrad 2"
# Runs a program, and ends it with all of its children when its input, a pipe from us, ends: so when we are killed, too.
_WATCHED = """exec 3<&0
"$@" 0</dev/null 3<&- & run=$!
{ read -r _ <&3; kill -9 0; } >/dev/null 2>&1 & watch=$!
exec 3<&-
wait $run; status=$?
exec 2>/dev/null
kill $watch; wait $watch
exit $status"""
_BUILD = re.compile(r"build-\d+-[a-z0-9_]{8}")
_PRIVATE = re.compile(r"hotgrad-native-\d+-[a-z0-9_]{8}")  # what stands for the cache where that cannot be used
_ABANDONED = 24 * 3600.0  # seconds after which a directory that a killed process was building in is removed


_FULL = ("No space left on device", "Disk quota exceeded")
_LEAST = 2**16  # bytes that a small library takes
_FAULTS: dict[str, str] = {}  # by key of compiler and options what is wrong with libraries made so, "" for nothing
_SLOW: dict[str, float] = {}  # by key the seconds within which the compiler did not end, in this process


class CompilerError(EngineError):
    """There is no C compiler, or it failed, took too long, or made something that cannot be loaded."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler: its `path`, the arguments that always go with it, its `version`, and the CPU `target` it compiles for."""

    path: str
    arguments: tuple[str, ...]
    version: str
    native: tuple[str, ...]  # the option for this machine's CPU, if it has one
    own: tuple[str, ...]  # options that other compilers would refuse
    target: str  # a digest of what the compiler knows about that CPU


@dataclass(frozen=True)
class Library:
    """A loaded library, the file it came from, whether that was `cached`, and a `note` where the cache could not be used."""

    functions: ctypes.CDLL
    path: Path
    cached: bool
    note: str = ""


@functools.cache
def find_compiler() -> Compiler | None:
    """The compiler: `$CC`, or `cc`, `gcc`, `clang` on the PATH; None without one. Looked for once: `find_compiler.cache_clear()` forgets.

    >>> compiler = find_compiler()
    >>> compiler is None or len(compiler.target)
    64
    """
    if os.name != "posix":
        return None
    candidates = [["cc"], ["gcc"], ["clang"]]
    with contextlib.suppress(ValueError):  # quotes that do not close
        candidates.insert(0, shlex.split(os.environ.get("CC", "")))
    for words in candidates:
        path = shutil.which(words[0]) if words else None
        compiler = _examine(path, tuple(words[1:])) if path is not None else None
        if compiler is not None:
            return compiler
    return None


def _examine(path: str, arguments: tuple[str, ...]) -> Compiler | None:
    """What this program says of itself; None if it does not answer as a compiler does."""
    try:
        code, said, _ = _run([path, *arguments, "--version"], 10.0)
        if code != 0 or not said.strip():
            return None
        # The predefined macros name every instruction set that the option turned on, with gcc and clang alike.
        for native in (*((option,) for option in NATIVE), ()):
            code, macros, _ = _run([path, *arguments, *native, "-dM", "-E", "-x", "c", "-"], 10.0)
            if code == 0:
                break
        else:
            macros = ""
    except (OSError, subprocess.TimeoutExpired):
        return None
    own = GCC if "__GNUC__" in macros and "__clang__" not in macros else ()
    return Compiler(path, arguments, said.strip().splitlines()[0], native, own, hashlib.sha256(macros.encode()).hexdigest())


def compile_source(source: str, *, options: Sequence[str] = (), limit: float = LIMIT) -> Library:
    """Compile C text to a shared library and load it, or load it from the cache.

    `options` are added to those of this module. Raises CompilerError.

    >>> library = compile_source("int twice(int a) { return 2 * a; }")
    >>> library.functions.twice(21)
    42
    """
    compiler = find_compiler()
    if compiler is None:
        raise CompilerError("no C compiler was found: install one (`cc`, `gcc` or `clang`), or set the environment variable CC to it")
    given = (*OPTIONS, *compiler.own, *compiler.native, *options)
    key = _key(source, compiler, given)
    if limit <= _SLOW.get(key, 0.0):
        raise _timeout(compiler, _SLOW[key])
    try:
        directory = _prepared(cache_directory())
        library = _from_cache(directory, key) or _build(directory, key, source, compiler, given, limit)
        return Library(*library)
    except CompilerError:
        raise
    except (OSError, RuntimeError, _Refused) as reason:  # RuntimeError: no home
        note = f"the cache of compiled code is not used, and what is compiled now is lost when this process ends: {reason}"
    try:
        directory = _private_directory()
        functions, path, cached = _from_cache(directory, key) or _build(directory, key, source, compiler, given, limit)
    except OSError as reason:
        raise CompilerError(f"what {compiler.path} compiles cannot be kept or loaded: {reason}") from reason
    return Library(functions, path, cached, note)


def is_cached(source: str, options: Sequence[str] = ()) -> bool:
    """Whether `compile_source` would find what it needs in the cache.

    >>> is_cached("int thrice(int a);")
    False
    """
    compiler = find_compiler()
    if compiler is None:
        return False
    key = _key(source, compiler, (*OPTIONS, *compiler.own, *compiler.native, *options))
    try:
        return any(cache_directory().glob(f"{key}-*.so"))
    except (OSError, RuntimeError):
        return False


def _key(source: str, compiler: Compiler, options: Sequence[str]) -> str:
    parts = (_FORMAT, source, compiler.path, *compiler.arguments, compiler.version, compiler.target, sys.platform, *options)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def cache_directory() -> Path:
    """Where compiled libraries are kept: `$HOTGRAD_CACHE`, or `hotgrad` in the user's directory for caches. It need not exist."""
    given = os.environ.get("HOTGRAD_CACHE")
    if given:
        return Path(given).absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "hotgrad"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "hotgrad"


class _Refused(Exception):
    """Others could have written here."""


def _prepared(directory: Path) -> Path:
    """The directory, made if it is missing, and private."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    _require_private(directory)
    return directory


def _require_private(path: Path) -> None:
    """Raise _Refused where anyone else could write `path`, or point it somewhere else."""
    found = [os.lstat(path), os.stat(path)]
    for state in found:
        if state.st_uid != os.geteuid():
            raise _Refused(f"{path} belongs to another user; set HOTGRAD_CACHE to a directory of your own")
    mode = stat.S_IMODE(found[1].st_mode)
    if mode & 0o022:
        raise _Refused(f"others may write to {path} (mode {mode:o}); `chmod go-w` it, or set HOTGRAD_CACHE to another directory")


@functools.cache
def _private_directory() -> Path:
    """A directory of this process, removed when it ends."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:  # what killed processes left
        for entry in entries:
            if _PRIVATE.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                remove_abandoned(entry.path, shutil.rmtree)
    owner = os.getpid()
    directory, _ = held_folder(f"hotgrad-native-{owner}-")  # until the process ends

    def remove() -> None:
        if os.getpid() == owner:  # not in a fork
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return directory


def _from_cache(directory: Path, key: str) -> tuple[ctypes.CDLL, Path, bool] | None:
    """The library of this key, if a whole one is there; broken ones are removed.

    A file is named after its key and the digest of its content, as loading a truncated library can end the process.
    """
    for path in directory.glob(f"{key}-*.so"):
        try:
            _require_private(path)
            content = path.read_bytes()
        except FileNotFoundError:  # another process has just removed it
            continue
        if path.name == _name(key, content):
            with contextlib.suppress(OSError):
                functions = ctypes.CDLL(str(path))
                os.utime(path)
                return functions, path, True
        path.unlink(missing_ok=True)
    return None


def _name(key: str, content: bytes) -> str:
    return f"{key}-{hashlib.sha256(content).hexdigest()[:32]}.so"


def _build(
    directory: Path, key: str, source: str, compiler: Compiler, options: Sequence[str], limit: float
) -> tuple[ctypes.CDLL, Path, bool]:
    """Compile, move the result to its place in one step, and load it."""
    workplace, lock = held_folder(f"build-{os.getpid()}-", directory)
    try:
        _require_sound(directory, workplace, compiler, options, limit)
        made = _compile(workplace, source, compiler, options, limit)
        path = directory / _name(key, made.read_bytes())
        os.replace(made, path)
    except subprocess.TimeoutExpired:
        _SLOW[key] = limit
        raise _timeout(compiler, limit) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
        os.close(lock)
    _prune(directory, path)
    return ctypes.CDLL(str(path)), path, False


def _compile(workplace: Path, source: str, compiler: Compiler, options: Sequence[str], limit: float) -> Path:
    text, made = workplace / "source.c", workplace / "library.so"
    text.write_text(source, encoding="utf-8")
    command = [compiler.path, *compiler.arguments, *options, str(text), "-o", str(made), "-lm"]
    code, said, errors = _run(command, limit, watched=True)
    if code != 0 or not made.is_file():
        # the linker may also die of it
        if any(sign in errors for sign in _FULL) or shutil.disk_usage(workplace).free < text.stat().st_size + _LEAST:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(workplace.parent))
        lines = (errors or said).replace(str(text), "source.c").strip().splitlines()
        excerpt = "".join(f"\n    {line}" for line in lines[:8])
        raise CompilerError(f"the C compiler {compiler.path} failed (status {code}):{excerpt or ' it said nothing'}")
    os.chmod(made, 0o700)
    return made


def _require_sound(directory: Path, workplace: Path, compiler: Compiler, options: Sequence[str], limit: float) -> None:
    """Raise CompilerError if libraries that are compiled with these options do harm. Tried once; the directory keeps that it went well."""
    key = _key(soundness.SOURCE, compiler, options)
    mark = directory / f"{key}.sound"
    if key not in _FAULTS:
        if mark.exists():
            _require_private(mark)
            _FAULTS[key] = ""
        else:
            made = _compile(workplace, soundness.SOURCE, compiler, options, limit)
            # another program that has Python in it would do what it does
            python = sys.executable if "python" in Path(sys.executable or "").name else shutil.which("python3")
            _FAULTS[key] = soundness.told(*_run([python, "-I", "-S", "-c", soundness.CHILD, str(made)], limit)) if python else ""
            if not _FAULTS[key]:
                mark.touch(mode=0o600)
    if _FAULTS[key]:
        raise CompilerError(
            f"what the C compiler {compiler.path} makes is not sound: {_FAULTS[key]}. Take options such as -ffast-math or -fsanitize out of CC"
        )


def _timeout(compiler: Compiler, limit: float) -> CompilerError:
    return CompilerError(f"the C compiler {compiler.path} did not end within {limit:g} seconds")


def _prune(directory: Path, keep: Path) -> None:
    """Remove the libraries that were not used for longest, beyond the limits of the cache, and what killed processes left."""
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        states = [(entry.stat(follow_symlinks=False), Path(entry.path)) for entry in entries]
        states.sort(key=lambda item: item[0].st_mtime, reverse=True)
        files = total = 0
        for state, path in states:
            if path.suffix == ".so":
                files, total = files + 1, total + state.st_size
                if path != keep and (files > MAX_FILES or total > MAX_BYTES):
                    path.unlink(missing_ok=True)
            elif path.name.startswith("build-"):
                if _BUILD.fullmatch(path.name):
                    remove_abandoned(path, shutil.rmtree)
                if time.time() - state.st_mtime > _ABANDONED:  # where no lock tells
                    shutil.rmtree(path, ignore_errors=True)


def _run(command: Sequence[str], limit: float, watched: bool = False) -> tuple[int, str, str]:
    """Run a program: its status, output and errors. When time is up, its own children are ended too; if it is `watched`, also with us."""
    alive, ours = os.pipe()
    release = _without_ctrl_c()
    try:
        process = subprocess.Popen(
            [*(("/bin/sh", "-c", _WATCHED, "sh") if watched else ()), *command],
            stdin=alive if watched else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        with process:
            try:
                release()
                output, errors = _communicated(process, limit)
            except BaseException:  # a key press, too
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()  # Popen itself gives up waiting after a quarter of a second where Ctrl-C was pressed
                raise
    finally:
        os.close(alive)
        os.close(ours)
        release()
    return process.returncode, output, errors


def _without_ctrl_c() -> Callable[[], None]:
    """Put off Ctrl-C, which would lose a process between its start and the block that waits for it, until what is returned is called."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        return lambda: None
    pressed: list[tuple[int, Any]] = []
    signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    held = [handler]

    def release() -> None:
        while held:
            signal.signal(signal.SIGINT, held.pop())
        while pressed:
            handler(*pressed.pop())

    return release


def _communicated(process: subprocess.Popen[str], limit: float) -> tuple[str, str]:
    end = time.monotonic() + limit
    while True:
        left = max(end - time.monotonic(), 0.0)
        try:
            return process.communicate(timeout=min(left, _PIECE))
        except subprocess.TimeoutExpired:
            if given_up.get()():
                raise CompilerError("the C compiler was interrupted") from None
            if left <= _PIECE:
                raise
