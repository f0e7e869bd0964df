"""What the tape keeps: records of calls, the values that rules will read, and stand-ins for the others.

Records link to the records, or to the Accumulators of the leaf Variables, from which their operands came; they never hold a
Variable. So an intermediate's data lives only while somebody holds it or a rule will read it.
"""

from __future__ import annotations

import itertools
from typing import Any, TypeVar

from torch import Tensor

from hotgrad.core.nodes import Node
from hotgrad.core.primitive import Primitive

V = TypeVar("V", bound="Value")

next_sequence = itertools.count().__next__  # grows over all tapes and threads


class Accumulator(Node):
    """Where a gradient accumulates: that of a leaf, or of another Variable after `retain_grad()`. Also keeps its name."""

    __slots__ = ("grad", "name", "retain", "hooks")

    def __init__(self, value: Tensor, name: str | None = None) -> None:
        self.shape, self.dtype, self.device = value.shape, value.dtype, value.device
        self.grad: Any = None  # a tensor, a Variable, or None
        self.name = name
        self.retain = False  # on a Record: keep the gradient that arrives there
        self.hooks: Any = None  # what is called with that gradient: functions by handle


# What Variables that need none have for an Accumulator: no gradient, no name. Never written to. MADE stands in Variables that were
# made as such, NO_ACCUMULATOR in those that an op computed.
NO_ACCUMULATOR: Accumulator = Accumulator.__new__(Accumulator)
MADE: Accumulator = Accumulator.__new__(Accumulator)
for _none in (NO_ACCUMULATOR, MADE):
    _none.grad = _none.name = _none.hooks = None
    _none.retain = False
NO_ACCUMULATORS = frozenset((NO_ACCUMULATOR, MADE))  # not a tuple, in which others are looked for with Node's `==`


class Record(Node):
    """One recorded call. Its own shape, dtype and device are those of the result. Ops make it empty and fill it in place.

    `operands` holds the values that the needed rules read, numbers and constants among them, and Nodes in place of the others;
    `out` the result if a rule reads it; `parents` the Record or Accumulator of each operand that needs a gradient. Freeing a
    record empties these three.
    """

    __slots__ = ("op", "parents", "operands", "options", "out", "guards", "sequence", "accumulator", "tape")

    op: type[Primitive]
    parents: tuple[Record | Accumulator | None, ...] | None
    operands: tuple[Any, ...]
    options: dict[str, Any] | None
    out: Tensor | None
    guards: tuple[Any, ...] | None  # the tensors kept, each followed by the version it had
    sequence: int
    accumulator: Accumulator
    tape: object  # the Tape that it is on

    @property
    def name(self) -> str | None:
        return self.accumulator.name

    def saved(self) -> list[Tensor]:
        """The tensors this record keeps alive and guards against writes, index tensors among the options included."""
        return list((self.guards or ())[::2])

    def __repr__(self) -> str:
        return f"<Record {self.sequence} {self.op.name} {tuple(self.shape)}{' freed' if self.parents is None else ''}>"


class Value:
    """What a Variable is to the tape: a tensor, and its place in the graph."""

    # _link: what records point to: the Record or Accumulator of this value, None if it needs no gradient. _accumulator: the one that
    # holds gradient and name where there is one.
    __slots__ = ("_data", "_link", "_accumulator", "__weakref__")

    _data: Tensor
    _link: Record | Accumulator | None
    _accumulator: Accumulator

    @classmethod
    def _at(cls: type[V], data: Tensor, link: Record | Accumulator | None, accumulator: Accumulator = NO_ACCUMULATOR) -> V:
        """One of `data` at this place in the graph, without checks."""
        out = cls.__new__(cls)
        out._data, out._link, out._accumulator = data, link, accumulator
        return out
