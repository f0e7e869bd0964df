"""Every example in a docstring and in the README is run, and every public function and primitive has one."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hotgrad as hg

ROOT = Path(__file__).parent.parent
# Modules that need an optional dependency, and which.
OPTIONAL = {"hotgrad.sklearn": "sklearn"}


def modules() -> Iterator[Any]:
    yield hg
    for info in pkgutil.walk_packages(hg.__path__, "hotgrad."):
        if info.name.split(".")[-1] == "__main__":
            continue
        needs = OPTIONAL.get(info.name)
        if needs and importlib.util.find_spec(needs) is None:
            continue
        yield importlib.import_module(info.name)


def _members(owner: Any, module: str) -> Iterator[tuple[str, Any]]:
    """Functions, classes and their methods and properties defined in this module, decorated ones included."""
    for name, value in list(vars(owner).items()):
        value = inspect.unwrap(getattr(value, "__func__", value)) if callable(value) else value
        if isinstance(value, property):
            yield name, value
        elif getattr(value, "__module__", None) == module and callable(value):
            yield name, value
            if inspect.isclass(value):
                for inner, member in _members(value, module):
                    yield f"{name}.{inner}", member


def examples() -> Iterator[Any]:
    parser = doctest.DocTestParser()
    seen: set[int] = set()
    for module in modules():
        texts = [("", module.__doc__)] + [(name, member.__doc__) for name, member in _members(module, module.__name__)]
        for name, text in texts:
            if text and ">>>" in text and id(text) not in seen:
                seen.add(id(text))
                globs = {**vars(module), "hg": hg, "torch": torch, "__name__": f"example_of_{module.__name__}.{name}"}
                test = parser.get_doctest(inspect.cleandoc(text), globs, f"{module.__name__}.{name}".rstrip("."), module.__file__, 0)
                yield pytest.param(test, id=test.name)


def _run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, out=said.append)
    assert runner.tries and not runner.failures, "".join(said)


@pytest.mark.parametrize("test", list(examples()))
def test_example(test: doctest.DocTest) -> None:
    _run(test)


def test_every_primitive_and_function_has_an_example() -> None:
    built_in = [op for op in hg.primitives().values() if op.__module__.startswith("hotgrad.")]
    without = [op.name for op in built_in if ">>>" not in (op.__doc__ or "")]
    without += [name for name in hg.ops.__all__ if ">>>" not in (getattr(hg, name).__doc__ or "")]
    assert len(built_in) > 50
    assert not without


def test_readme_says_what_ops_declare_of_their_kinks() -> None:
    named = {op: op.function or op.name.lower() for op in hg.primitives().values() if op.kinks}
    declared = [f"| `{name}` | {text} |" for op, name in named.items() if name in hg.ops.PUBLIC for text in op.kinks]
    text = (ROOT / "README.md").read_text()
    table = text.split("### Conventions at kinks")[1].split("|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(declared) > 10 and sorted(table) == sorted(declared)
    assert all(" ".join(op.kinks) in str(op.apply.__doc__) for op in hg.primitives().values() if op.kinks)


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where it writes a drawing
    monkeypatch.setenv("MPLBACKEND", "agg")
    torch.manual_seed(0)
    text = (ROOT / "README.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    interactive = [block for block in blocks if ">>>" in block]
    assert interactive
    test = doctest.DocTestParser().get_doctest("\n".join(interactive), {"__name__": "readme"}, "README", "README.md", 0)
    _run(test)
