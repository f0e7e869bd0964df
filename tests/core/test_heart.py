"""The heart: how a call is recorded and how the walk goes, in files that are read one after the other, and short."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hotgrad as hg

CORE = Path(hg.__file__).parent / "core"
HEART = ["primitive", "records", "walk", "variable", "recording"]  # in reading order
# What these use of the rest of the core, which need not be read: names, scopes, conversions and the texts of errors.
AROUND = {"domains", "options", "nodes", "explain", "modes", "arrays", "array_like", "operands", "hooks"}


def imported(name: str) -> set[str]:
    """The modules of the core that this one imports, also only for types."""
    tree = ast.parse((CORE / f"{name}.py").read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return {module.split(".")[2] for module in found if module.startswith("hotgrad.core.")}


def test_it_is_read_in_one_sitting() -> None:
    lines = {name: len((CORE / f"{name}.py").read_text().splitlines()) for name in HEART}
    assert sum(lines.values()) <= 760, lines


@pytest.mark.parametrize("name", HEART)
def test_each_file_needs_only_those_before_it(name: str) -> None:
    assert imported(name) <= {*HEART[: HEART.index(name)], *AROUND}


def test_what_is_around_does_not_need_the_later_half() -> None:
    for name in AROUND:
        assert not imported(name) & {"walk", "variable", "recording"}, name


@pytest.mark.parametrize("path", ["hotgrad/__init__.py", "hotgrad/core/__init__.py", "README.md"])
def test_the_order_is_said(path: str) -> None:
    root = CORE.parent.parent if (CORE.parent.parent / path).exists() else Path(__file__).parents[2]
    text = (root / path).read_text()
    named = re.findall(r"`(?:hotgrad/core/|core\.)?(\w+)(?:\.py)?`", text)
    positions = [i for i in range(len(named)) if named[i : i + len(HEART)] == HEART]
    assert positions, f"{path} does not name {HEART} in this order"
