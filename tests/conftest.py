"""Options and fixtures for all tests: `--thorough` runs the full counts, and no test may leave recording state behind."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch

import hotgrad as hg
from hotgrad.core import modes, primitive
from hotgrad.training.captured import Compiled

pytest.register_assert_rewrite("capturing", "fitting", "scenarios")  # what tests share and has assertions
hypothesis.settings.register_profile("hotgrad", deadline=None, derandomize=True, print_blob=False, database=None)
hypothesis.settings.load_profile("hotgrad")
torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a shell starts in the background; some tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the full counts")


@pytest.fixture(scope="session")
def thorough(pytestconfig: pytest.Config) -> bool:
    """Whether the full counts are asked for."""
    return bool(pytestconfig.getoption("--thorough"))


@pytest.fixture(scope="session")
def count(thorough: bool) -> Callable[[int, int], int]:
    """`count(default, full)`: how many cases to run."""
    return lambda default, full: full if thorough else default


@pytest.fixture
def tape() -> Iterator[hg.Tape]:
    """A tape of its own for each test, on which others' leftovers do not show."""
    gc.freeze()  # what is there already need not be looked through for records
    with hg.Tape() as scope:
        yield scope
    gc.unfreeze()


@pytest.fixture
def native_in_full_runs(request: pytest.FixtureRequest, thorough: bool) -> None:
    """Compiling takes its time: by default only what a module's `QUICK` names, if it has one, runs on the native engine."""
    if "native" in request.node.name and not thorough and request.node.name.split("[")[0] not in getattr(request.module, "QUICK", ()):
        pytest.skip("native: in the thorough run")


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Compiled]]:
    """`fit` on captured programs does without fusing; gives the runners that it makes."""
    from fitting import recorded  # not earlier, for its assertions to be rewritten

    yield from recorded(monkeypatch, False)


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    """A test fails if it leaves recording off, a tape scope open, or primitives registered."""
    before = dict(hg.primitives())
    tape = hg.tape()
    yield
    registered = {name: op for name, op in hg.primitives().items() if name not in before}
    for name in registered:
        del primitive._REGISTRY[name]
    assert modes.state.recording, "the test left recording off"
    assert hg.tape() is tape, "the test left a tape scope open"
    assert dict(hg.primitives()) == before, "the test replaced a primitive"
