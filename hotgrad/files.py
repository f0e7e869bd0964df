"""Files: written whole or not at all, with a digest of what is in them; read without executing anything, and checked by it.

A file is written beside its place under a name of its own, which its writer holds locked, and renamed. What killed writers left is
known by its lock being free, and goes with the next writing to that place; so it is with temporary folders.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib
import os
import re
import socket
import stat
import struct
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from hotgrad.errors import FileError, OperandError

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
FORMAT = "hotgrad"
VERSION = 2
_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40] or "_"
_ABANDONED = 24 * 3600.0  # seconds after which nobody can still be writing, where no lock tells
_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Mark:
    """A file as it was when it was last read or written here: which one it was, and the digest of its content."""

    identity: tuple[int, ...] | None
    digest: str


NO_FILE = Mark(None, "")


# ------------------------------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], kind: str, content: dict[str, Any], over: Mark | None = None) -> Mark:
    """Write `content`, nested dicts, lists and tuples of tensors, numbers, strings and None, to exactly `path`, or to what it links to.

    At any moment `path` is either the old file or the new one. The mode of an old file is kept. `over`: the file that is to be
    there, NO_FILE for none; any, if it is left out. Raises FileError for content that cannot be kept and if another file is there,
    or if it cannot be written, as without its folder (then an OSError's `errno` is its own). Whatever is raised, the old file stays.
    """
    whole = plain({"format": FORMAT, "version": VERSION, "kind": kind, **content}, f"what is to be written to {path}")
    whole.pop("digest", None)  # of what was read
    whole["digest"] = _content_digest(whole)
    with _place(path) as (target, temporary, file):
        out = _Out(file)
        try:
            torch.save(whole, cast(BinaryIO, out))
        except Exception:
            if out.error is not None:  # which torch puts into words of its own
                raise out.error from None
            raise
        file.flush()
        os.fsync(file.fileno())
        mark = Mark(identity(os.fstat(file.fileno())), whole["digest"])
        _check_over(path, target, over)
        if fcntl is None:
            file.close()  # Windows does not rename open files
        if over is not NO_FILE or not _linked(path, temporary, target):
            os.replace(temporary, target)
        _sync_folder(target.parent)
    return mark


def try_writing(path: str | os.PathLike[str]) -> None:
    """Raise what `write` would raise because of its place, as far as that can be told beforehand."""
    with _place(path):
        pass


@contextlib.contextmanager
def _place(path: str | os.PathLike[str]) -> Iterator[tuple[Path, Path, BinaryIO]]:
    """Where writing to `path` ends, and an open file beside it, which is gone afterwards unless it was moved."""
    _check_name(path)
    there = False
    try:
        target = Path(os.path.realpath(path))
        old: os.stat_result | None = None
        with contextlib.suppress(FileNotFoundError):  # all else, such as a name that is too long, comes out
            old = os.stat(target)
        there = old is not None
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise FileError(f"{path} is {_KINDS.get(stat.S_IFMT(old.st_mode), 'no file')}; give the path of a file")
        if old is not None and not os.access(target, os.W_OK):
            raise FileError(f"{path} may not be written: it is read-only here (mode {stat.S_IMODE(old.st_mode):o})")
        os.stat(target.parent)
        _clear(target)
        temporary, file = _opened(target)
        try:
            if old is not None and os.name == "posix":
                with contextlib.suppress(OSError):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            yield target, temporary, file
        finally:
            with contextlib.suppress(OSError):  # of a buffer that finds no space
                file.close()
            with contextlib.suppress(OSError):
                temporary.unlink()
    except FileError:
        raise
    except FileNotFoundError as error:
        missing = FileError(f"{path} cannot be written: its folder does not exist; make it first")
        missing.errno = error.errno
        raise missing from error
    except (OSError, ValueError) as error:  # ValueError: of a name with a zero in it
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = (getattr(error, "strerror", None) or str(error)) + (", free some" if full else "")
        found = FileError(
            f"{path} cannot be written: {reason}; {'the file that is there stays as it was' if there else 'nothing is left of it'}"
        )
        found.errno = getattr(error, "errno", None)
        raise found from error


def _check_name(path: Any) -> None:
    """Raises OperandError for what is no path, FileError for one that can name no file."""
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise OperandError(f"the path of a file is a str or a pathlib.Path; got {path!r:.60}")
    try:
        fine = bool(name) and b"\0" not in os.fsencode(name) and not name.endswith(("/", os.sep))
    except UnicodeError:
        fine = False
    if not fine:
        raise FileError(f"{name!r:.60} cannot be the name of a file; give the path of one")


class _Out:
    """A file for torch to write to, which remembers why it could not."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Nothing yet."""


def _opened(target: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `target` that is locked until it is closed."""
    while True:
        temporary = target.with_name(f"{_stem(target)}.{_HOST}-{os.getpid()}-{os.urandom(4).hex()}.tmp")
        file = open(temporary, "xb")  # noqa: SIM115
        hold(file.fileno())
        with contextlib.suppress(FileNotFoundError):  # removed by others, who found it not locked yet
            if os.name != "posix" or os.stat(temporary).st_ino == os.fstat(file.fileno()).st_ino:
                return temporary, file
        file.close()


def _stem(target: Path) -> str:
    """The name of `target`, shortened where what is added to it might make it too long."""
    name = target.name
    if len(os.fsencode(name)) <= 150:
        return name
    return f"{os.fsencode(name)[:60].decode('ascii', 'replace').replace(chr(0xFFFD), '_')}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def _clear(target: Path) -> None:
    """Remove what killed writers to `target` left beside it. A file of another machine counts only when it is a day old."""
    ours = re.compile(re.escape(_stem(target)) + r"\.(\w+)-\d+-[0-9a-f]{8}\.tmp")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for entry in entries:
            match = ours.fullmatch(entry.name)
            if match and ((fcntl is not None and match[1] == _HOST) or time.time() - entry.stat().st_mtime > _ABANDONED):
                remove_abandoned(entry.path, os.unlink)


def held_folder(prefix: str, parent: str | os.PathLike[str] | None = None) -> tuple[Path, int]:
    """A new folder that nobody else may enter, in that for temporary files unless one is given, and its lock: close it at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = os.open(folder, os.O_RDONLY)
        hold(descriptor)
        with contextlib.suppress(FileNotFoundError):  # as in `_opened`
            if os.stat(folder).st_ino == os.fstat(descriptor).st_ino:
                return folder, descriptor
        os.close(descriptor)


def hold(descriptor: int) -> None:
    """Lock an open file or folder until it is closed, or its process ends in whatever way; nothing where that cannot be done."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def remove_abandoned(path: str | os.PathLike[str], remove: Callable[[Any], Any]) -> None:
    """Remove a file or folder that nobody holds, if that can be told."""
    with contextlib.suppress(OSError):
        if fcntl is None:
            remove(path)  # which Windows refuses for open files
            return
        flags = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR  # network file systems lock what is open for writing
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        finally:
            os.close(descriptor)


def _linked(path: Any, temporary: Path, target: Path) -> bool:
    """Give `temporary` the name `target` if nothing has that name, in one step; False where the file system cannot do that."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise _other_run(path) from None
    except (OSError, NotImplementedError, AttributeError):
        return False
    return True


def _check_over(path: Any, target: Path, over: Mark | None) -> None:
    """Raise FileError if the file that is there is neither the one in `over` nor one of the same content."""
    if over is None or not target.exists():
        return
    if over is NO_FILE or (identity(os.stat(target)) != over.identity and _load(target).get("digest") != over.digest):
        raise _other_run(path)


def _other_run(path: Any) -> FileError:
    return FileError(
        f"{path} has been written by another run meanwhile, and stays as that left it; nothing of this run is written over it. "
        "Give each run a path of its own"
    )


def identity(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file from another that takes its place."""
    return found.st_ino, found.st_size, found.st_mtime_ns


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power failure, where the platform can."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------- reading


def read(path: str | os.PathLike[str], kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What `write` wrote as this `kind`; every one of `fields` is there and of the type given, and so is the "digest".

    Nothing in the file is executed (torch's `weights_only` loading). Raises FileError for a file that is not byte for byte the
    content that was written, foreign or of another kind; that a file is missing or may not be read comes out as the operating system says it.
    """
    content = _load(path)
    if content.get("format") != FORMAT:
        raise FileError(f"{path} is no file of hotgrad's; it is a torch file that holds a dict")
    if content.get("version") != VERSION:
        raise FileError(f"{path} has format version {content.get('version')!r}; this hotgrad reads version {VERSION}, so write it anew")
    try:
        whole = content.get("digest") == _content_digest({name: value for name, value in content.items() if name != "digest"})
    except Exception:  # of a tensor that is no whole one
        whole = False
    if not whole:
        raise FileError(f"{path} is broken: what it holds is not what was written (its digest differs); use another copy of it")
    if content.get("kind") != kind:
        raise FileError(f"{path} is a {content.get('kind')!r} file; a {kind!r} file is needed here")
    for name, types in fields.items():
        if not isinstance(content.get(name), types):
            raise FileError(f"{path} is broken: its entry {name!r} is missing or of the wrong type")
    return content


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    _check_name(path)
    try:
        found = os.stat(path)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        refused = FileError(f"{path} cannot be read: {error.strerror}")
        refused.errno = error.errno
        raise refused from error
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path} is {_KINDS.get(stat.S_IFMT(found.st_mode), 'no file')}; a file is needed here")
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise FileError(f"{path} is no file of hotgrad's, or is broken: {reason}") from None
    if type(content) is not dict:
        raise FileError(f"{path} is no file of hotgrad's; it is a torch file that holds {type(content).__name__}")
    return content


# ------------------------------------------------------------------------------------------------------------- content


def plain(tree: Any, where: str) -> Any:
    """`tree` of the types that a file can hold: numbers of numpy and of other derived classes become Python's.

    Raises FileError for anything else, saying that it is in `where`.
    """
    kind = type(tree)
    if tree is None or kind in (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size):
        return tree
    if kind in (dict, OrderedDict):
        return kind((plain(key, where), plain(value, where)) for key, value in tree.items())
    if kind in (list, tuple, set):
        return kind(plain(item, where) for item in tree)
    if isinstance(tree, Tensor) and tree.layout == torch.strided and tree.device.type != "meta":
        return tree
    if kind.__module__ == "numpy" and not getattr(tree, "shape", (1,)):
        return plain(tree.item(), where)
    for base in (int, float, str):
        if isinstance(tree, base):
            return base(tree)
    raise FileError(
        f"{where} holds a {kind.__module__}.{kind.__qualname__} ({tree!r:.40}), which no file of hotgrad's can keep; "
        "give tensors, numbers, strings, None, lists, tuples, sets or dicts"
    )


def _content_digest(content: dict[str, Any]) -> str:
    """A hash of everything in `content`, as text."""
    hashed = hashlib.blake2b(digest_size=16)
    _feed(hashed, content)
    return hashed.hexdigest()


def _feed(hashed: Any, tree: Any) -> None:
    kind = type(tree)
    if isinstance(tree, Tensor):
        hashed.update(f"{kind.__name__} {tree.requires_grad} {digest(tree)};".encode())
        return
    if kind in (dict, OrderedDict, list, tuple):
        hashed.update(f"{kind.__name__} {len(tree)};".encode())
        for item in tree:
            _feed(hashed, item)
            if kind in (dict, OrderedDict):
                _feed(hashed, tree[item])
        return
    if kind is set:
        hashed.update(f"set {sorted(_content_digest({'item': item}) for item in tree)};".encode())
        return
    if kind is float:
        text = struct.pack(">d", tree)
    elif kind is complex:
        text = struct.pack(">dd", tree.real, tree.imag)
    else:
        text = tree.encode("utf-8", "surrogatepass") if kind is str else tree if kind is bytes else repr(tree).encode()
    hashed.update(f"{kind.__name__} {len(text)};".encode() + text)


def digest(*tensors: Tensor | None) -> str:
    """A hash of the tensors' bytes, shapes and dtypes, as text.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)) != digest(torch.zeros(3))
    True
    """
    hashed = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        if tensor is None:
            hashed.update(b"none")
            continue
        hashed.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        here = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        if here.numel():
            hashed.update((ctypes.c_char * (here.numel() * here.element_size())).from_address(here.data_ptr()))
    return hashed.hexdigest()
