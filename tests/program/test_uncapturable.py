"""Functions that cannot be captured, or whose program no longer holds: CaptureError or eager's numbers, never others."""

from __future__ import annotations

import contextvars
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from scenarios import REFUSED, SCENARIOS, XS, never_wrong, reset, weight
from scenarios_changing import step
from scenarios_reading import READS

import hotgrad as hg
from hotgrad import optim

ENGINES = ["replay"]
BAD = torch.ones(2)


@pytest.fixture(autouse=True)
def _reset() -> Iterator[None]:
    yield
    reset()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_never_a_wrong_number(name: str, engine: str) -> None:
    where = never_wrong(SCENARIOS[name], engine)
    assert where == "capture" or name not in REFUSED, f"only noticed: {where or 'never'}"


def test_at_least_twenty() -> None:
    assert len(REFUSED) >= 20
    assert len(SCENARIOS) >= 200


@pytest.mark.parametrize("name", ["a branch", "float", "item", "data", "print", "numpy"])
def test_the_users_line_is_told(name: str) -> None:
    with pytest.raises(hg.CaptureError, match=r"scenarios_reading\.py, line \d+"):
        hg.capture(READS[name], XS[0])


def test_a_traced_variable_afterwards() -> None:
    """It refuses everything, and says why."""
    kept: contextvars.ContextVar[Any] = contextvars.ContextVar("kept")  # what Python's own containers held before comes back
    with pytest.raises(hg.CaptureError):
        hg.capture(lambda x: (kept.set(x * 2), x)[1], XS[0])
    for use in (lambda v: v * 2, lambda v: v.data, float, lambda v: v.sum(), lambda v: v.shape, lambda v: v.backward()):
        with pytest.raises(hg.CaptureError, match=r"over|read while"):
            use(kept.get())
    assert "over" in repr(kept.get()) and "over" in str(kept.get())


def test_a_refusal_leaves_nothing_behind() -> None:
    """Eager goes on as if nothing had been."""
    optimizer = optim.Adam([weight(2, 3, 4)], lr=0.1)
    (w,) = optimizer.parameters
    before, length = w.data.clone(), len(hg.tape())
    with pytest.raises(hg.CaptureError):
        hg.capture(lambda x: x * float(step(optimizer, x)[0]), XS[0])
    assert torch.equal(w.data, before)
    assert w.grad is None
    assert len(hg.tape()) == length
    assert optimizer.state_dict()["state"] == [{"count": 0}]
    assert torch.equal(step(optimizer, hg.Variable(XS[0]))[0].data, ((before * XS[0]) ** 2).sum())


@pytest.mark.parametrize(
    "result",
    [3.0, "text", None, (), (XS[0], 3.0), {XS[0]}, XS[0].shape, hg.ReLU(), object, iter([])],
    ids=lambda result: type(result).__name__,
)
def test_what_cannot_be_returned(result: Any) -> None:
    with pytest.raises(hg.CaptureError):
        hg.capture(lambda x: result, XS[0])


def test_other_shapes_dtypes_and_numbers_of_inputs() -> None:
    program = hg.capture(lambda x, y: x @ y, torch.ones(2, 3), torch.ones(3, 4))
    with pytest.raises(hg.ShapeError, match=r"\(5, 3\).*\(2, 3\)"):
        program(torch.ones(5, 3), torch.ones(3, 4))
    with pytest.raises(hg.ShapeError, match=r"input 1.*\(4,\).*\(3, 4\)"):
        program(torch.ones(2, 3), torch.ones(4))
    for dtype in (torch.float64, torch.int64, torch.bool):
        with pytest.raises(hg.DtypeError, match=rf"{dtype}.*float32"):
            program(torch.ones(2, 3, dtype=dtype), torch.ones(3, 4))
    for wrong in ((), (torch.ones(2, 3),), (torch.ones(2, 3),) * 3):
        with pytest.raises(hg.OperandError, match=rf"2 inputs.*{len(wrong)}"):
            program(*wrong)
    for other in ("text", None, object()):
        with pytest.raises(hg.HotgradError):
            program(other, torch.ones(3, 4))
    with pytest.raises(hg.DeviceError, match=r"meta.*cpu"):
        program(torch.ones(2, 3, device="meta"), torch.ones(3, 4))
    assert torch.equal(program(torch.ones(2, 3), torch.ones(3, 4)), torch.full((2, 4), 3.0))


@pytest.mark.parametrize("f", [3, "text", None, torch.ones(2), hg.Variable([1.0])], ids=repr)
def test_what_cannot_be_called(f: Any) -> None:
    with pytest.raises(hg.OperandError, match="function"):
        hg.capture(f, XS[0])


def test_bad_examples() -> None:
    for example in ("text", None, object(), {"a": 1}):
        with pytest.raises(hg.HotgradError):
            hg.capture(lambda x: x * 2, example)
    for examples in ((), (XS[0], XS[0])):
        with pytest.raises(TypeError):
            hg.capture(lambda x: x * 2, *examples)


def test_unknown_engines() -> None:
    with pytest.raises(hg.SettingError, match="replay"):
        hg.capture(lambda x: x * 2, XS[0]).to("repaly")


def test_a_users_own_error_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        hg.capture(lambda x: x * (1 / 0), XS[0])
    with pytest.raises(hg.ShapeError):
        hg.capture(lambda x: x + BAD, XS[0])
