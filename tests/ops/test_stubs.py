"""The committed type stubs are what the registry gives, and type checkers see precise types."""

from __future__ import annotations

from pathlib import Path

import generate_stubs
import pytest

from hotgrad.core import methods


@pytest.mark.parametrize("path", list(generate_stubs.stubs()), ids=lambda path: "/".join(path.parts[-2:]))
def test_stubs_are_current(path: Path) -> None:
    assert path.read_text() == generate_stubs.stubs()[path], "run: python tests/shared/generate_stubs.py"


class Empty:
    """What Python itself puts into a class, which differs by version."""

    __slots__ = ()


def test_stubs_name_every_method() -> None:
    text = generate_stubs.methods_stub()
    names = [name for name in vars(methods.Methods) if name not in vars(Empty) and name not in ("__hash__", "__getattr__")]
    assert len(names) > 60
    assert [name for name in names if f"def {name}(" not in text] == []
