"""What every engine must do, whichever engines there are; and that their names come from the registry alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import hotgrad as hg
from hotgrad.engines import ENGINES
from hotgrad.engines.engine import Engine
from hotgrad.engines.native.compiler import find_compiler
from hotgrad.engines.registry import EXACT
from hotgrad.program.captured import captured
from hotgrad.program.instructions import Code

PACKAGE = Path(hg.__file__).parent


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> type[Engine]:
    found = ENGINES[request.param]
    if found.seconds([Code()]) and find_compiler() is None:
        pytest.skip("there is no C compiler")
    return found


def test_one_run(engine: type[Engine]) -> None:
    """Inputs, numbers, random numbers and states, each where it belongs; memory for the outputs is new, or what was given."""
    w = hg.Parameter([1.0, 2.0])

    def f(x: hg.Variable) -> tuple[hg.Variable, hg.Variable]:
        return (x * w).sum(), hg.nn.Dropout(0.5)(x)

    code = captured(f, [torch.ones(2)], [f]).code
    ready = engine.prepare([code, code], fuse=False)
    assert len(ready) == 2 and all(type(one) is engine for one in ready)
    first = ready[0]
    assert [tuple(v.shape) for v in first.code.outputs] == [(), (2,)] and len(first.code.draws) == 1
    total, dropped = first.run_once([torch.tensor([3.0, 4.0])], draws=[torch.tensor([0.9, 0.1])])
    assert float(total) == 11.0 and dropped.tolist() == [6.0, 0.0]
    memory = code.empty_outputs()
    again = first.run_once([torch.tensor([[0.0, 0.0], [1.0, 1.0]])[1]], memory, draws=[torch.tensor([0.9, 0.1])])
    assert [a.data_ptr() for a in again] == [m.data_ptr() for m in memory] and float(total) == 11.0 and float(again[0]) == 3.0
    torch.manual_seed(1)
    one = [first.run_once([torch.ones(2)])[1] for _ in range(8)]
    torch.manual_seed(1)
    assert all(map(torch.equal, one, [first.run_once([torch.ones(2)])[1] for _ in range(8)]))
    assert len({tuple(o.tolist()) for o in one}) > 1  # drawn anew each time


def test_what_it_says_of_itself(engine: type[Engine]) -> None:
    one, other = (hg.capture(f, torch.ones(100)).code for f in (lambda x: x.exp().sum(), lambda x: x.exp().tanh().sum()))
    ready = engine(one)
    assert ready.details.split(" ")[0] == engine.name  # by which a checkpoint finds it again
    assert ready.identity == engine(one).identity != engine(other).identity
    assert ready.memory >= 400 and ready.source()
    cheap, dear = engine.cost(one, cpu=True), engine.cost(other, cpu=True)
    assert cheap is not None and dear is not None and cheap.total(1000) < dear.total(1000)
    assert 0 <= engine.seconds([one]) <= engine.seconds([one, other])


def test_the_exact_one_is_the_default() -> None:
    assert EXACT.exact and EXACT.name == hg.capture(lambda x: x * 2, 1.0).engine
    assert all(name == engine.name for name, engine in ENGINES.items())


def test_an_engine_states_all_that_is_asked_of_it() -> None:
    for missing in ("run", "source", "memory", "seconds", "cost"):
        methods = {name: getattr(EXACT, name) for name in ("__init__", "run", "source", "memory", "seconds", "cost") if name != missing}
        with pytest.raises(TypeError, match=missing):
            type("Partial", (Engine,), methods)(Code())


@pytest.mark.parametrize("folder", ["engines", "program", "training"])
def test_names_come_from_the_registry(folder: str) -> None:
    """Beside the class that bears it, no name of an engine is spelled."""
    for path in (PACKAGE / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        own = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "name"}
        spelled = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in ENGINES and id(n) not in own]
        assert not spelled, f"{path}: {spelled}"
