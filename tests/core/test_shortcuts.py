"""The calls that are written out by hand leave the same records, results and errors as the general call."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import hotgrad as hg
from hotgrad import Variable
from hotgrad.core import modes
from hotgrad.core.nodes import Constant, Node
from hotgrad.core.recording import call
from hotgrad.core.records import Record

OPS = [op for op in hg.primitives().values() if op.__module__.startswith("hotgrad.ops.") and op.arity in (1, 2)]


INDEX = torch.tensor([1])


class Keeper(hg.Primitive, register=False):
    """Of two operands: keeps the first and its result."""

    forward = staticmethod(torch.mul)
    vjps = (lambda g, out, a, b: g * out / a, lambda g, out, a, b: g * a)
    reads = ("a out", "a")


class Counts(hg.Primitive, register=False):
    """Has an index among its options, and one option by which it gives whole numbers."""

    forward = staticmethod(lambda a, *, k=(INDEX, 2), whole=False: (a * 2).long() if whole else a * 2)
    vjps = (lambda g, out, a, k, whole: g * 2,)
    reads = ("",)
    options = {"whole": [False, True]}


GIVEN: list[Tensor] = []  # the tensors that the call at hand was given, not made from arrays or numbers


def told(value: Any) -> Any:
    """A value that a record keeps, for comparison: links by identity, tensors by place in memory and contents, stand-ins by shape."""
    if isinstance(value, Constant):
        return ("constant", tuple(value.shape), value.dtype)
    if isinstance(value, Tensor):
        where = value.data_ptr() if any(value is one for one in GIVEN) else 0
        return ("tensor", where, value.dtype, tuple(value.shape), repr(value.tolist()))
    return id(value) if isinstance(value, Node) else (type(value), repr(value))


def outcome(run: Any) -> Any:
    """The result of a call, and all of its record but its number; or the error."""
    try:
        out = run()
    except hg.HotgradError as error:  # where two things are wrong, either may be told
        return (hg.HotgradError,) if any(tensor.requires_grad for tensor in GIVEN) else (type(error), str(error))
    if not isinstance(out, Variable):
        return type(out), out
    link = out._link
    if not isinstance(link, Record):
        return type(out), out._data, link, id(out._accumulator)
    same = lambda kept: "its result" if kept is out._data else told(kept)  # noqa: E731
    return (
        type(out), out._data, id(out._accumulator), link.op, [id(p) for p in link.parents or ()], [same(x) for x in link.operands],
        {k: told(v) for k, v in (link.options or {}).items()}, link.out is None or link.out is out._data, link.out is None,
        None if link.guards is None else [same(x) for x in link.guards], tuple(link.shape), link.dtype, link.device,
        id(link.accumulator), id(link.tape),
    )  # fmt: skip


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (2, 1), (0,), (2,)])
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16])


@st.composite
def operands(draw: st.DrawFn) -> Any:
    """A leaf, a computed Variable, a Parameter, a constant Variable, a tensor, a numpy array or a number."""
    kind = draw(st.sampled_from(["leaf", "computed", "parameter", "constant", "tensor", "numpy", "number", "written", "wrong"]))
    shape, dtype = draw(SHAPES), draw(DTYPES)
    data = torch.ones(shape).add(torch.arange(float(torch.Size(shape).numel())).reshape(shape)).to(dtype)
    if kind == "number":
        return draw(st.sampled_from([2, 0.5, True, float("nan")]))
    if kind == "wrong":
        return draw(st.sampled_from([None, "text", [1.0], 1j, torch.ones(2, requires_grad=True)]))
    if kind in ("tensor", "numpy"):
        return data if kind == "tensor" or dtype is torch.bfloat16 else data.numpy()
    needs = kind != "constant" and dtype.is_floating_point
    variable = hg.Parameter(data) if kind == "parameter" and needs else Variable(data, requires_grad=needs)
    if kind == "computed" and needs:
        variable = variable * 1.0
        if draw(st.booleans()):
            variable.retain_grad()
    if kind == "written":
        variable.data.copy_(data.clone())  # another version
    return variable


@settings(max_examples=600)
@given(op=st.one_of(st.sampled_from(OPS), st.sampled_from([Keeper, Counts])), recording=st.booleans(), data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_records_equal_those_of_the_general_call(op: Any, recording: bool, data: st.DataObject) -> None:
    options = {name: data.draw(st.sampled_from(list(values))) for name, values in op.options.items() if isinstance(values, (list, tuple))}
    try:
        bound = op.bind((), options) if op.defaults else None
    except hg.HotgradError:
        return  # an option is missing
    with hg.Tape():
        given_ = [data.draw(operands()) for _ in range(op.arity)]
        GIVEN[:] = [x._data if isinstance(x, Variable) else x for x in given_ if isinstance(x, (Variable, Tensor))]
        with modes.RecordingMode(recording):
            general, quick = outcome(lambda: call(op, tuple(given_), bound)), outcome(lambda: op.apply(*given_, **options))
            assert equal(general, quick), (general, quick)
