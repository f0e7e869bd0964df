"""The native engine's loops: each kernel reads and writes places of the workspace and writes itself as C."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from hotgrad.engines.native.expressions import converted, expression, literal
from hotgrad.engines.native.layout import C_TYPES, Buffer, Nest, Place, padded_row
from hotgrad.program.instructions import Instruction, Value


@dataclass
class Context:
    """What the kernels of a file share: the size of vectors, and what they need besides."""

    vector_bytes: int
    lanes: int  # rows are padded to a multiple of so many elements
    functions: set[tuple[str, torch.dtype]] = field(default_factory=set)  # vector functions
    helpers: dict[str, str] = field(default_factory=dict)  # C functions by name

    def vector(self, dtype: torch.dtype) -> int:
        """The number of elements of a vector."""
        return self.vector_bytes // dtype.itemsize


@dataclass(eq=False)
class Kernel(ABC):
    """Some lines of C. `reads`, `writes`: the places that they use; `note`: what they compute, for their readers."""

    context: Context
    reads: list[Place]
    writes: list[Place]
    note: list[str]

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """The C."""

    def exchangeable(self, place: Place, target: Place) -> bool:
        """Whether `target` may take the memory of `place`, which is read here for the last time."""
        return False


@dataclass(eq=False)
class Elementwise(Kernel):
    """A loop that computes the results of several elementwise instructions of one shape, keeping in memory what others read."""

    shape: tuple[int, ...] = ()
    members: list[Instruction] = field(default_factory=list)
    operands: dict[tuple[Instruction, int], Place] = field(default_factory=dict)
    results: dict[Value, Place] = field(default_factory=dict)
    scalars: dict[Value, str] = field(default_factory=dict)
    needed: set[Buffer] | None = None  # of the results those that are kept in memory

    def stored(self) -> list[Place]:
        """Where results that are kept in memory lie."""
        return [p for p in self.results.values() if self.needed is None or p.buffer in self.needed]

    def exchangeable(self, place: Place, target: Place) -> bool:
        same = [p for p in self.reads if p.buffer is place.buffer]
        return all(p.strides == target.strides and p.offset == target.offset and p.shape == target.shape for p in same)

    def lines(self) -> Iterator[str]:
        stored = self.stored()
        loads: dict[tuple[int, int, tuple[int, ...]], tuple[str, Place]] = {}
        texts: dict[Buffer, str] = {}  # results computed so far
        body: list[str] = []
        for instruction in self.members:
            operands = []
            for index, operand in enumerate(instruction.operands):
                if not isinstance(operand, Value):
                    operands.append("")
                elif operand.kind == "scalar":
                    operands.append(self.scalars[operand])
                else:
                    place = self.operands[instruction, index].broadcast(self.shape)
                    key = (id(place.buffer), place.offset, place.strides)
                    operands.append(texts.get(place.buffer) or loads.setdefault(key, (f"x{len(loads)}", place))[0])
            text = expression(instruction, operands, self.context.functions)
            name = texts[self.results[instruction.out].buffer] = f"y{len(texts)}"
            body.append(f"const {C_TYPES[instruction.out.dtype]} {name} = {text};")
        places = [place for _, place in loads.values()] + stored
        nest = _nest(self.shape, places, len(loads), self.context.lanes)
        head = [f"const {C_TYPES[place.dtype]} {name} = {place.at(nest.terms(i))};" for i, (name, place) in enumerate(loads.values())]
        tail = [f"{place.at(nest.terms(len(loads) + i))} = {texts[place.buffer]};" for i, place in enumerate(stored)]
        yield "{"
        yield from ("  " + line for line in nest.wrap(head + body + tail))
        yield "}"


def _nest(shape: tuple[int, ...], places: list[Place], first_written: int, lanes: int) -> Nest:
    """Loops over places of this shape, the padding included where all of them allow it."""
    strides = [p.strides for p in places]

    def vectors(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> bool:
        return all(s[-1] in (0, 1) for s in strides) and all(p.view(shape, s).allows(shape) for p, s in zip(places, strides))

    if shape and shape[-1] > 1:
        row = padded_row(shape[-1], lanes)
        wide = (*shape[:-1], row)
        # rows that are written must be as far apart as they become long
        roomy = all(len(p.shape) < 2 or all(abs(s) >= row for s, n in zip(p.strides[:-1], shape) if n > 1) for p in places[first_written:])
        if roomy and vectors(wide, strides):
            shape = wide
    nest = Nest.over(shape, strides)
    if len(nest.sizes) == 1:
        whole = -(-nest.sizes[0] // lanes) * lanes
        if vectors((whole,), nest.strides) and all(p.buffer.size == whole for p in places[first_written:]):
            nest.sizes[0] = whole
    return nest


@dataclass(eq=False)
class Transfer(Kernel):
    """Elements of one place to another of the same shape, in the other's dtype; `add`: added to those that stand there, one by one."""

    add: bool = False

    def lines(self) -> Iterator[str]:
        source, target = self.reads[0], self.writes[0]
        nest = Nest.over(target.shape, [source.strides, target.strides])
        value = converted(source.at(nest.terms(0)), source.dtype, target.dtype)
        yield from nest.wrap([f"{target.at(nest.terms(1))} {'+' if self.add else ''}= {value};"], independent=not self.add)


@dataclass(eq=False)
class Fill(Kernel):
    """One number in the whole buffer."""

    value: float = 0.0

    def lines(self) -> Iterator[str]:
        place = self.writes[0]
        number = literal(self.value, place.dtype)
        yield f"for (long i = 0; i < {place.buffer.size}; i++) {place.buffer.pointer}[i] = {number};"
