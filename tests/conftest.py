"""Options and fixtures for all tests: `--thorough` runs the full counts, and no test may leave recording state behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import torch

import hotgrad as hg
from hotgrad import primitive, records

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


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    """A test fails if it leaves recording off, a tape scope open, or primitives registered."""
    before = dict(hg.primitives())
    tape = hg.tape()
    yield
    registered = {name: op for name, op in hg.primitives().items() if name not in before}
    for name in registered:
        del primitive._REGISTRY[name]
    assert records.state.recording, "the test left recording off"
    assert hg.tape() is tape, "the test left a tape scope open"
    assert dict(hg.primitives()) == before, "the test replaced a primitive"
