"""Files: written whole or not at all, read without executing anything."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hotgrad.errors import FileError

FORMAT = "hotgrad"
VERSION = 1


def write(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write `content`, nested dicts and lists of tensors, numbers, strings and None, to exactly `path`.

    The file is written beside it under another name, flushed to the disk and renamed, so that at any moment `path` is either
    the old file or the new one. A missing folder raises FileNotFoundError.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, "kind": kind, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last through a power failure, where the platform can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read(path: str | os.PathLike[str], kind: str, fields: dict[str, Any]) -> dict[str, Any]:
    """What `write` wrote as this `kind`; every one of `fields` is there and of the type given.

    Nothing in the file is executed (torch's `weights_only` loading). Raises FileError for a file that is truncated, foreign or
    of another kind; what the operating system raises comes out as it is.
    """
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise FileError(f"{path} is no file of hotgrad's, or is broken: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FileError(f"{path} is no file of hotgrad's; it is a torch file that holds {type(content).__name__}")
    if content.get("version") != VERSION:
        raise FileError(f"{path} has format version {content.get('version')!r}; this hotgrad reads version {VERSION}")
    if content.get("kind") != kind:
        raise FileError(f"{path} is a {content.get('kind')!r} file; a {kind!r} file is needed here")
    for name, types in fields.items():
        if not isinstance(content.get(name), types):
            raise FileError(f"{path} is broken: its entry {name!r} is missing or of the wrong type")
    return content


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
        here = tensor.detach().cpu().contiguous()
        if here.numel():
            hashed.update((ctypes.c_char * (here.numel() * here.element_size())).from_address(here.data_ptr()))
    return hashed.hexdigest()
