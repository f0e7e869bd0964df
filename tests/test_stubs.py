"""The committed type stubs are what the registry gives, and type checkers see precise types."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import hotgrad as hg

_spec = importlib.util.spec_from_file_location("generate_stubs", Path(__file__).with_name("generate_stubs.py"))
assert _spec is not None and _spec.loader is not None
generate_stubs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate_stubs)


@pytest.mark.parametrize("path", list(generate_stubs.stubs()), ids=lambda path: "/".join(path.parts[-2:]))
def test_stubs_are_current(path: Path) -> None:
    assert path.read_text() == generate_stubs.stubs()[path], "run: python tests/generate_stubs.py"


class Empty:
    """What Python itself puts into a class, which differs by version."""

    __slots__ = ()


def test_stubs_name_every_method() -> None:
    text = generate_stubs.methods_stub()
    names = [name for name in vars(hg.methods.Methods) if name not in vars(Empty) and name not in ("__hash__", "__getattr__")]
    assert len(names) > 60
    assert [name for name in names if f"def {name}(" not in text] == []
