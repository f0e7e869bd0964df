"""The house itself: imports go one way, names do not clash, and nothing is used that should not be."""

from __future__ import annotations

import ast
import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hotgrad as hg

PACKAGE = Path(hg.__file__).parent
# Each may import from those before it, and from nothing after. A package counts as one; within it there is no circle.
ORDER = """
    errors checks files core ops drawing linalg
    functional torch_functions modules optim data program engines transforms minimise training show testing parallel
    interop sklearn experiments __main__
""".split()
REEXPORTS = {"hotgrad", "hotgrad.nn"}  # the top level and `nn` only give names from elsewhere
# What is imported inside functions, because it is optional.
OPTIONAL = {"numpy", "matplotlib", "safetensors", "pandas", "IPython", "sklearn", "graphviz", "hypothesis", "scipy"}
# Who may use torch's own autograd, nn and optim: conversions, the baselines of the command line, and the checker's oracle.
MAY_USE_TORCHS = {"interop", "__main__", "experiments", "testing"}


def paths() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


PATHS = paths()
TREES = {module: ast.parse(path.read_text()) for module, path in PATHS.items()}


def layer(module: str) -> str:
    """`hotgrad.ops.axes` belongs to `ops`."""
    return module.split(".")[1] if "." in module else module


def imported(module: str) -> Iterator[tuple[str, bool]]:
    """The modules that this one imports, for types only too, and whether it does so inside a function."""

    def visit(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, inside
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in TREES or node.module == "torch" else node.module or ""), inside
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    yield from visit(TREES[module], False)


def own(module: str) -> set[str]:
    return {name for name, _ in imported(module) if name.split(".")[0] == "hotgrad"}


def test_every_module_has_its_place() -> None:
    unknown = {layer(module) for module in TREES} - {*ORDER, "hotgrad", "nn"}
    assert not unknown, f"put {sorted(unknown)} into ORDER, after what they import"


@pytest.mark.parametrize("module", sorted(set(TREES) - REEXPORTS))
def test_imports_go_one_way(module: str) -> None:
    place = ORDER.index(layer(module))
    for name in own(module):
        assert name not in ("hotgrad", "hotgrad.nn") or layer(module) in ("experiments", "__main__"), (
            f"{module} imports {name}, which re-exports"
        )
        if name not in REEXPORTS and layer(name) != layer(module):
            assert ORDER.index(layer(name)) < place, f"{module} imports {name}, which comes after it"


def test_there_is_no_circle_at_all() -> None:
    waiting = {module: own(module) & set(TREES) - {module} for module in TREES}
    while waiting:
        ready = {module for module, needs in waiting.items() if not needs & set(waiting)}
        assert ready, f"a circle among {sorted(waiting)}"
        waiting = {module: needs for module, needs in waiting.items() if module not in ready}


@pytest.mark.parametrize("module", sorted(TREES))
def test_functions_import_only_what_is_optional(module: str) -> None:
    for name, inside in imported(module):
        needs_hypothesis = module == "hotgrad.__main__" and layer(name) == "testing"
        baseline = layer(module) in MAY_USE_TORCHS and name.split(".")[0] == "torch"
        assert not inside or needs_hypothesis or baseline or name.split(".")[0] in OPTIONAL, f"{module} imports {name} inside a function"


@pytest.mark.parametrize("module", sorted(TREES))
def test_torch_gives_arrays_and_kernels_and_nothing_else(module: str) -> None:
    forbidden = ("torch.autograd", "torch.nn", "torch.optim", "torch.func")
    if layer(module) in MAY_USE_TORCHS:
        return
    used = {name for name, _ in imported(module)} | {
        ast.unparse(node) for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)
    }
    assert not [name for name in used if any(name == f or name.startswith(f + ".") for f in forbidden)]
    calls = {node.attr for node in ast.walk(TREES[module]) if isinstance(node, ast.Attribute)}
    assert not calls & {"requires_grad_", "enable_grad_", "set_grad_enabled"}


@pytest.mark.parametrize("module", sorted(TREES))
def test_checks_are_not_assertions(module: str) -> None:
    if layer(module) != "testing":
        assert not [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)]


def test_no_submodule_shares_a_name_with_a_public_function() -> None:
    """In the package that holds the submodule, whose name would mean the one or the other."""
    shared = {
        module
        for module in TREES
        if "." in module
        and not module.startswith("hotgrad.testing.")
        and callable(getattr(sys.modules[module.rpartition(".")[0]], module.split(".")[-1], None))
    }
    assert not shared


def test_public_names_are_there_and_sorted_out() -> None:
    assert len(set(hg.__all__)) == len(hg.__all__)
    for name in hg.__all__:
        assert getattr(hg, name, None) is not None, name
    for name in hg.ops.__all__:
        assert getattr(hg, name) is getattr(hg.ops, name)


def test_files_stay_readable() -> None:
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert not {path: n for path, n in lengths.items() if n > 600}


# ---- nothing stands twice

RUN = 6
PARTS = ("body", "orelse", "finalbody", "handlers", "cases")  # where statements hold others


def steps(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a function in their order, each without those in it; other functions, classes and docstrings aside."""
    for inner in (inner for part in PARTS for inner in getattr(node, part, ())):
        if not isinstance(inner, (ast.FunctionDef, ast.ClassDef)) and not is_text(inner):
            alone = copy.copy(inner)
            for part in PARTS:
                if hasattr(alone, part):
                    setattr(alone, part, [])
            yield alone
            yield from steps(inner)


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def shape(nodes: list[ast.AST]) -> tuple[Any, ...]:
    """What is left of these with every constant alike, and each name replaced by the number of names before it."""
    names: dict[str, int] = {}
    found: list[Any] = []

    def visit(thing: Any) -> None:
        if isinstance(thing, (ast.Constant, ast.JoinedStr)):
            found.append("constant")
        elif isinstance(thing, ast.AST):
            found.append(type(thing).__name__)
            for name in thing._fields:
                visit(getattr(thing, name, None))
        elif isinstance(thing, list):
            found.append(len(thing))
            for inner in thing:
                visit(inner)
        else:
            found.append(names.setdefault(thing, len(names)) if isinstance(thing, str) else thing)

    for node in nodes:
        visit(node)
    return tuple(found)


def shapes(module: str) -> Iterator[tuple[Any, str]]:
    """All runs of statements in a module's functions by their shape, and where they begin; not those in which each is like the others,
    as the rows of a table are.
    """
    for function in ast.walk(TREES[module]):
        if isinstance(function, ast.FunctionDef):
            found = list(steps(function))
            for run in (found[i : i + RUN] for i in range(len(found) - RUN + 1)):
                if len({shape([step]) for step in run}) > 1:
                    yield shape(run), f"{module}:{run[0].lineno}"  # type: ignore[attr-defined]


def letters(module: str) -> Iterator[tuple[Any, str]]:
    """All runs of lines in a module, and where they begin. Comments, docstrings, imports, lists of names and the heads of functions, which
    spell out what callers may give, are passed over.
    """
    passed: set[int] = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.FunctionDef):
            passed.update(range(node.lineno, node.body[0].lineno))
        elif (
            isinstance(node, (ast.Import, ast.ImportFrom))
            or is_text(node)
            or (isinstance(node, ast.Assign) and "__all__" in ast.unparse(node))
        ):
            passed.update(range(node.lineno, (node.end_lineno or 0) + 1))
    text = [(i, line.strip()) for i, line in enumerate(PATHS[module].read_text().splitlines(), 1) if i not in passed]
    lines = [(i, line) for i, line in text if line and not line.startswith("#")]
    for run in (lines[i : i + RUN] for i in range(len(lines) - RUN + 1)):
        yield tuple(line for _, line in run), f"{module}:{run[0][0]}"


@pytest.mark.parametrize("runs", [shapes, letters])
def test_nothing_stands_twice(runs: Callable[[str], Iterator[tuple[Any, str]]]) -> None:
    """No six lines, nor six statements but for names and constants: what is alike stands in a function of its own."""
    places: dict[Any, set[str]] = {}
    for module in TREES:
        for run, place in runs(module):
            places.setdefault(run, set()).add(place)
    assert not [sorted(found) for found in places.values() if len(found) > 1]


# Who imports what, told by Python itself: every import statement that runs in one of hotgrad's modules.
SPY = """
import builtins, sys
import torch
wanted = set()
real = builtins.__import__
def spy(name, globals=None, locals=None, fromlist=(), level=0):
    if globals and str(globals.get("__name__")).split(".")[0] == "hotgrad":
        wanted.add(name.split(".")[0])
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = spy
import hotgrad
print(sorted(wanted & {"numpy", "hypothesis", "matplotlib", "sklearn", "pandas", "scipy", "pytest", "safetensors"}), "torch" in wanted)
"""

WITHOUT_NUMPY = """
import sys, warnings
warnings.simplefilter("ignore")  # torch says that it has no numpy
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("numpy", "hypothesis", "matplotlib", "sklearn", "pandas", "scipy"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import torch, copy, pickle
import hotgrad as hg
x = hg.Variable([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
y = ((x @ torch.eye(2)).tanh() * 2 + x[[0, 1]]).sum()
y.backward()
for bad in ("text", None, [1.0]):
    try:
        x + bad
    except hg.OperandError:
        pass
try:
    x.numpy()
except hg.TapeError:
    print("refused")
assert len(pickle.loads(pickle.dumps(x)).data) == 2 and copy.copy(x).shape == (2, 2)
model = hg.Sequential(hg.Linear(2, 3), hg.Tanh(), hg.Linear(3, 1), loss="mse", optimizer="sgd")
history = model.fit(torch.rand(8, 2), torch.rand(8, 1), epochs=2, batch_size=4, seed=0, verbose=0)
print(len(history), "numpy" in sys.modules)
"""


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert not result.returncode, result.stderr
    return result.stdout.strip()


def test_importing_hotgrad_asks_for_nothing_optional() -> None:
    assert run(SPY) == "[] True"


def test_it_works_without_numpy() -> None:
    assert run(WITHOUT_NUMPY) == "refused\n2 False"
