"""The tape: records of what was computed, the values they keep, and the state of each thread.

Records link to the records, or to the Sinks of the leaf Variables, from which their operands came; they never hold a
Variable. So an intermediate's data lives only while somebody holds it or a rule will read it.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hotgrad.errors import OperandError, TapeError
from hotgrad.primitive import Primitive

if TYPE_CHECKING:
    from hotgrad.variable import Variable

next_sequence = itertools.count().__next__  # grows over all tapes and threads


class Unread(AttributeError):
    """A rule used a value that was not kept; `obj` is the Node that stood for it, as in every AttributeError on a Node."""

    def __init__(self, node: Node) -> None:
        super().__init__("only shape, dtype and device of this value are known, not its data")
        self.obj = node


class Node:
    """What the graph knows of a value that it does not keep: shape, dtype and device.

    Rules get it in place of operands that they do not read.
    """

    __slots__ = ("shape", "dtype", "device", "__weakref__")

    def __init__(self, value: Tensor) -> None:
        self.shape, self.dtype, self.device = value.shape, value.dtype, value.device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    def _unread(self, *args: Any, **kwargs: Any) -> Any:
        raise Unread(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is other
        raise Unread(self)

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise Unread(next(a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Node)))


for _name in "add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul neg abs getitem gt ge lt le float".split():
    setattr(Node, f"__{_name}__", Node._unread)


class Sink(Node):
    """Where a gradient accumulates: that of a leaf, or of another Variable after `retain_grad()`. Also keeps its name."""

    __slots__ = ("grad", "name", "retain")

    def __init__(self, value: Tensor, name: str | None = None) -> None:
        super().__init__(value)
        self.grad: Tensor | Variable | None = None
        self.name = name
        self.retain = False  # on a Record: keep the gradient that arrives there


# What Variables have for a Sink that need none: no gradient, no name. Never written to.
NO_SINK: Sink = Sink.__new__(Sink)
NO_SINK.grad = NO_SINK.name = None
NO_SINK.retain = False


class Record(Node):
    """One recorded call. Its own shape, dtype and device are those of the result.

    `operands` holds the values that the needed rules read, numbers and constants among them, and Nodes in place of the others;
    `out` the result if a rule reads it; `parents` the Record or Sink of each operand that needs a gradient. Freeing a
    record empties these three.
    """

    __slots__ = ("op", "parents", "operands", "options", "out", "guards", "sequence", "sink")

    op: type[Primitive]
    parents: tuple[Record | Sink | None, ...] | None
    operands: tuple[Any, ...]
    options: dict[str, Any] | None
    out: Tensor | None
    guards: tuple[Any, ...] | None  # the tensors kept, each followed by the version it had
    sequence: int
    sink: Sink

    @property
    def name(self) -> str | None:
        return self.sink.name

    def saved(self) -> list[Tensor]:
        """The tensors this record keeps alive and guards against writes, index tensors among the options included."""
        return list((self.guards or ())[::2])

    def __repr__(self) -> str:
        return f"<Record {self.sequence} {self.op.name} {tuple(self.shape)}{' freed' if self.parents is None else ''}>"


def tensors_in(options: dict[str, Any] | None) -> list[Tensor]:
    found: list[Tensor] = []
    for value in (options or {}).values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                found.append(item)
    return found


# ---------------------------------------------------------------------------------------------------------------- tapes


class Tape:
    """The records of one thread, in order. `with Tape() as t:` records on a tape of its own.

    `len`, iteration and `str` show live records only: not freed by a backward, and still reachable from some Variable.

    >>> import hotgrad as hg
    >>> x = hg.Variable([1.0, 2.0], requires_grad=True)
    >>> with hg.Tape() as t:
    ...     y = (x * x).sum()
    >>> [record.op.name for record in t]
    ['Mul', 'Sum']
    """

    __slots__ = ("_records", "_limit", "_owner", "_depth")
    smallest: ClassVar[int] = 1000  # no pruning below so many records

    def __init__(self) -> None:
        self._records = _list()
        self._limit = self.smallest
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> Tape:
        me = threading.get_ident()
        if self._depth and self._owner != me:
            raise TapeError("this Tape is in use by another thread; give each thread a Tape of its own")
        self._owner = me
        self._depth += 1
        state.tapes.append(state.tape)
        state.switch(self, state.recording)
        return self

    def __exit__(self, *exc: object) -> None:
        self._depth -= 1
        state.switch(state.tapes.pop(), state.recording)

    def __len__(self) -> int:
        return len(self._live())

    def __iter__(self) -> Iterator[Record]:
        return iter(self._live())

    def __str__(self) -> str:
        return table(self._live())

    def _live(self) -> list[Record]:
        if self._owner == threading.get_ident():  # only the owner takes records off
            self._prune()
        return [r for r in map(_held, list(self._records)) if r is not None and r.parents is not None]

    def _prune(self) -> None:
        """Drop records that are freed or that nothing but this list can reach: newest first, so that a dropped record
        uncovers its parents. Called whenever the list has doubled, hence at amortised constant cost, and without recursion.
        """
        records, kept = self._records, []
        while records:
            item = records.pop()
            if _reachable(item):
                kept.append(item)
        kept.reverse()
        records.extend(kept)
        self._limit = max(self.smallest, 2 * len(kept))


def _reachable_by_count(record: Record) -> bool:
    return sys.getrefcount(record) > _alone and record.parents is not None


def _reachable_by_weakref(reference: weakref.ref[Record]) -> bool:
    record = reference()
    return record is not None and record.parents is not None


class _WeakList(list[Any]):
    """Refers to its records weakly: for interpreters whose reference counts do not tell what others still hold."""

    def append(self, record: Record) -> None:
        super().append(weakref.ref(record))


_alone: int  # the reference count that `_reachable_by_count` sees for a record that only the tape holds
_reachable: Callable[[Any], bool]
_held: Callable[[Any], Record | None]
_list: type[list[Any]] = list


def use_weak_references(yes: bool) -> None:
    """Choose how tapes made from now on refer to their records."""
    global _reachable, _held, _list
    _reachable = _reachable_by_weakref if yes else _reachable_by_count
    _held = (lambda reference: reference()) if yes else (lambda record: record)
    _list = _WeakList if yes else list


def counts_tell() -> bool:
    """Whether, seen from inside `_prune`, a record somebody holds has just one more reference than one nobody holds."""
    global _alone, _reachable
    seen: list[int] = []

    def spy(record: Record) -> bool:
        seen.append(sys.getrefcount(record))
        return True

    _reachable = spy
    try:
        for somebody in (None, Record.__new__(Record), Record.__new__(Record), None):
            probe = Tape()
            probe._records.append(somebody or Record.__new__(Record))
            probe._prune()
    except AttributeError:  # no sys.getrefcount
        return False
    _alone = seen[0]
    # `somebody` is referred to by the loop's tuple, too
    return seen[0] == seen[3] and seen[1] == seen[2] > seen[0]


use_weak_references(not counts_tell())


class _State(threading.local):
    """What each thread has of its own."""

    def __init__(self) -> None:
        self.modes: list[bool] = []
        self.tapes: list[Tape] = []
        self.switch(Tape(), True)
        self.tape._owner = threading.get_ident()

    def switch(self, tape: Tape, recording: bool) -> None:
        """Make `tape` the current one, and record on it or not."""
        self.tape, self.recording = tape, recording
        self.active = tape if recording else None  # what the ops look at


state = _State()


def trim() -> None:
    """Take freed records off the end of this thread's tape."""
    records = state.tape._records
    if type(records) is _WeakList:
        state.tape._prune()
        return
    n = len(records)
    while n and records[n - 1].parents is None:
        n -= 1
    del records[n:]
    if state.tape._limit > 2 * n:  # what a large graph had raised
        state.tape._limit = max(state.tape.smallest, 2 * n)


def tape() -> Tape:
    """This thread's current tape.

    >>> import hotgrad as hg
    >>> isinstance(hg.tape(), hg.Tape)
    True
    """
    return state.tape


class RecordingMode:
    """Switches recording on or off for a block, a function or a generator, on this thread. See `no_grad`, `enable_grad`."""

    def __init__(self, recording: bool) -> None:
        self._recording = recording

    def __enter__(self) -> None:
        state.modes.append(state.recording)
        state.switch(state.tape, self._recording)

    def __exit__(self, *exc: object) -> None:
        state.switch(state.tape, state.modes.pop())

    def __call__(self, function: Callable[..., Any] | None = None) -> Any:
        if function is None:
            return self
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise OperandError(
                f"{self!r} cannot decorate the async function {function.__name__}: other tasks would run in its mode; "
                "use `with` around the parts that do not await"
            )
        wrapper = self._generator if inspect.isgeneratorfunction(function) else self._plain
        return functools.wraps(function)(wrapper(function))

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The mode holds while the generator's own code runs, never in its consumer's between two items."""

        def call(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            resume, value = generator.send, None
            try:
                while True:
                    try:
                        with self:
                            item = resume(value)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        resume, value = generator.send, (yield item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        resume, value = generator.throw, error
            finally:
                with self:
                    generator.close()

        return call

    def __repr__(self) -> str:
        return "enable_grad" if self._recording else "no_grad"


no_grad = RecordingMode(False)
"""Nothing is recorded inside: a context manager and a decorator, with or without parentheses.

>>> import hotgrad as hg
>>> x = hg.Variable(1.0, requires_grad=True)
>>> with hg.no_grad():
...     (x * 2).requires_grad
False
"""

enable_grad = RecordingMode(True)
"""Recording is on inside, whatever holds outside; used like `no_grad`."""


def table(records: Sequence[Record]) -> str:
    """Records as text, one line each: number, op, where the operands came from, result, what is kept for backward."""
    numbers = {id(record): f"%{i}" for i, record in enumerate(records)}
    rows = [("", "op", "operands", "result", "keeps")]
    for record in records:
        operands = []
        for parent, value in zip(record.parents or (), record.operands):
            shown = numbers.get(id(parent)) or (parent.name if parent is not None else None)
            if shown is None:
                leaf = "leaf" if isinstance(parent, Sink) else "constant" if parent is None else "freed"
                shown = f"{leaf}{_shape(value)}" if isinstance(value, (Tensor, Node)) else repr(value)
            operands.append(shown)
        size = sum(t.numel() * t.element_size() for t in record.saved())
        result = f"{record.name or ''}{_shape(record)} {str(record.dtype).removeprefix('torch.')}"
        rows.append((numbers[id(record)], record.op.name, ", ".join(operands), result, f"{size:,} B"))
    if len(rows) == 1:
        return "(nothing recorded)"
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row[:-1], widths)) + "  " + row[-1].rjust(widths[-1]) for row in rows]
    return "\n".join(lines)


def _shape(value: Tensor | Node) -> str:
    return "(" + ", ".join(map(str, value.shape)) + ")"
