"""`remat`: functions whose results inside are not kept for backward but computed again when it needs them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.explain import written
from hotgrad.core.modes import MODE, Mode, Tape, state, surely
from hotgrad.core.nodes import Constant, Node
from hotgrad.core.recompute import Draws
from hotgrad.core.records import Record, next_sequence
from hotgrad.core.variable import Variable
from hotgrad.errors import TapeError
from hotgrad.modules.module import Module
from hotgrad.transforms.made import Made, name_of
from hotgrad.transforms.trees import leaves, mapped

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["remat"]


def remat(f: F) -> F:
    """`f` with less memory: what it computes inside is not kept for backward, which runs `f` again to get it.

    Values and gradients are those of `f`, to the last bit, Parameters that it closes over included. In the second run random numbers are
    the same again, from torch's generators and from those of hotgrad's layers, and batch norm does not move its running statistics
    again; whatever else `f` leaves behind, it leaves twice. Captured programs compute it twice as well. A Module gives a Module. Chen et al. 2016, "Training deep
    nets with sublinear memory cost".

    Raises TapeError in backward if `f` then computes something else, or if an argument was written to.

    >>> block = hg.remat(lambda x: ((x * 2).tanh() * 3).tanh())
    >>> x = hg.Variable(0.5, requires_grad=True)
    >>> y = block(x)
    >>> y.backward()
    >>> x.grad
    tensor(0.1023)
    """

    if isinstance(f, Module):
        return Recomputed(f)  # type: ignore[return-value]
    return Made(f, "remat", lambda f: lambda *args, **kwargs: _called(f, args, kwargs))  # type: ignore[return-value]


class Recomputed(Module):
    """A module under `remat`: a module again, with its parameters."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return _called(self.module, args, kwargs)


def _called(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return Segment(f, args, kwargs).forward() if state.recording else f(*args, **kwargs)


class Segment:
    """One call of a function under `remat`: its arguments, and the records made in it, which keep nothing."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.f = f
        self.arguments: Any = (args, kwargs)
        self.draws = Draws()
        self.records: list[Record] = []
        self.kept: list[list[tuple[Any, int]]] = []  # of each record, weak references to what it guarded, and the versions
        self.prints: list[Any] = []

    def forward(self) -> Any:
        first = next_sequence()
        result = self.draws.run(lambda: self.f(*self.arguments[0], **self.arguments[1]), again=False)
        self.records = _records_since(first, result)
        if self.records:
            given = [value for value in leaves(self.arguments) if isinstance(value, (Tensor, Variable))]
            self.versions = [_version(value) for value in given]
            # as they are now: a Variable may get other data
            if state.trace is None:
                copied = lambda v: Variable._at(v._data, v._link, v._accumulator) if isinstance(v, Variable) else v  # noqa: E731
                self.arguments = mapped(copied, self.arguments)
            self.given = [value for value in leaves(self.arguments) if isinstance(value, (Tensor, Variable))]
            self.prints = _prints(result)
            for i, record in enumerate(self.records):
                self.kept.append(_drop(record, Dropped(self, i)))
        return result

    def compute_again(self) -> None:
        """Give the records of the first run what those of another one keep."""
        trace = state.trace
        for value, version in zip(self.given, self.versions):
            if _version(value) != version:
                raise TapeError(
                    f"remat({name_of(self.f)}): an argument of shape {tuple(value.shape)} was written to after the forward, so what was dropped "
                    "cannot be computed again. Give it a copy, or write after backward"
                )

        def run() -> tuple[int, Any]:
            args, kwargs = self.arguments
            if trace is not None:
                args, kwargs = mapped(lambda v: trace.barrier(v) if isinstance(v, Variable) else v, (args, kwargs))
            return next_sequence(), self.f(*args, **kwargs)

        first, result = self.draws.run(lambda: _recording(run), again=True)
        new = _records_since(first, result)
        same = len(new) == len(self.records) and all(
            (a.op, a.shape, a.dtype) == (b.op, b.shape, b.dtype) for a, b in zip(new, self.records)
        )
        if not same or not all(map(torch.equal, self.prints, _prints(result))):
            raise TapeError(
                f"remat({name_of(self.f)}): it computed something else when it was run again in backward. It may depend on what was changed "
                "after the forward, such as a Parameter, or on what it changes itself"
            )
        for i, (record, other) in enumerate(zip(self.records, new)):
            if record.parents is not None:
                _refill(record, other, self.kept[i])

    def __repr__(self) -> str:
        return f"<{name_of(self.f)} under remat, {len(self.records)} records>"


class Dropped:
    """In the place of a record's guards: what it needs is computed again when they are asked for."""

    __slots__ = ("segment", "index")

    def __init__(self, segment: Segment, index: int) -> None:
        self.segment, self.index = segment, index

    def __iter__(self) -> Iterator[Any]:
        trace = state.trace
        with trace.external() if trace is not None else nullcontext():
            self.segment.compute_again()
        return iter(self.segment.records[self.index].guards or ())

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        return ()


def _drop(record: Record, dropped: Dropped) -> list[tuple[Any, int]]:
    """Let a record keep nothing that can be computed again; what it guarded, by weak reference, and the versions."""
    guards: Any = record.guards
    if guards is None and record.out is None and not any(hasattr(operand, "_version") for operand in record.operands):
        return []
    kept: list[tuple[Any, int]] = []
    if isinstance(guards, tuple):
        kept = [(weakref.ref(value), version) for value, version in zip(guards[::2], guards[1::2])]
    parents = record.parents or ()
    stand_in: Callable[..., Any] = lambda operand, parent: Constant(operand) if parent is None else parent  # noqa: E731
    record.operands = tuple(
        stand_in(operand, parent) if isinstance(operand, (Tensor, Variable)) else operand
        for operand, parent in zip(record.operands, parents)
    )
    record.out = None
    record.guards = dropped  # type: ignore[assignment]
    return kept


def _refill(record: Record, other: Record, kept: list[tuple[Any, int]]) -> None:
    guards: Any = other.guards
    if isinstance(guards, Dropped):  # of a function under remat within this one: it is to fill this record
        guards.segment.records[guards.index] = record
    elif guards is not None:
        before = {id(value): version for ref, version in kept if (value := ref()) is not None}
        for value, version in zip(guards[::2], guards[1::2]):
            if before.get(id(value), version) != version:
                raise written(record, value)
    operands = []
    for old, new in zip(record.operands, other.operands):
        operands.append(old if isinstance(old, Node) and isinstance(new, Node) else new)
    record.operands, record.out, record.guards, record.options = tuple(operands), other.out, guards, other.options


def _recording(body: Callable[[], Any]) -> Any:
    """What `body()` gives, recorded on a tape of its own."""

    def run() -> Any:
        now = state.now
        MODE.set(Mode(Tape(), True, now.trace, now))
        return body()

    return surely(run)


def _records_since(first: int, result: Any) -> list[Record]:
    """The records made since that the result was computed by, in order."""
    stack = [value._link for value in leaves(result) if isinstance(value, Variable)]
    found: set[Record] = set()
    while stack:
        record = stack.pop()
        if type(record) is Record and record.sequence > first and record not in found and record.parents is not None:
            found.add(record)
            stack += record.parents
    return sorted(found, key=lambda record: record.sequence)


def _version(value: Any) -> Any:
    return value._version if isinstance(value, Tensor) or state.trace is not None else value._data._version


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _prints(result: Any) -> list[Tensor]:
    """The sum of the bits of each result, which is another if anything changed. None is made while capturing: there values are not read."""
    if state.trace is not None:
        return []
    found = [value._data if isinstance(value, Variable) else value for value in leaves(result) if isinstance(value, (Tensor, Variable))]
    return [tensor.contiguous().view(_BITS[tensor.element_size()]).sum() for tensor in found]
