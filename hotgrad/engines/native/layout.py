"""Where arrays lie in the native engine's workspace: buffers, places in them, and the loops that run over them.

A buffer's rows are padded to whole vectors, so that loops need no remainder: they compute on the padding too, which nobody
reads. A view, such as a transpose or a slice, is a place in the same buffer with other strides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from hotgrad.errors import EngineError

C_TYPES = {torch.float32: "float", torch.float64: "double", torch.int64: "int64_t", torch.int32: "int32_t", torch.bool: "uint8_t"}
INDICES = "ijklmnopqrstu"


class NativeError(EngineError):
    """The native engine cannot run this program; the text says why."""


@dataclass(eq=False, slots=True)
class Buffer:
    """Memory for one array. `size` counts elements, padding included. Behind it lies room for one vector, which may be read.

    `pinned`: its memory is its own all the time. Other buffers share memory: `slot` says which.
    `written`: the position of the last kernel so far that writes to it; -1 is before the first one.
    """

    dtype: torch.dtype
    size: int
    pinned: bool = False
    slot: str = ""
    written: int = -1

    @property
    def pointer(self) -> str:
        """Its memory, in C."""
        return f"w->{self.slot}"


@dataclass(frozen=True, slots=True)
class Place:
    """The elements of an array: those at `offset` + index * strides of a buffer."""

    buffer: Buffer = field(repr=False)
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return self.buffer.dtype

    def at(self, terms: str) -> str:
        """The element at an index, in C."""
        return f"{self.buffer.pointer}[{added(term(self.offset), terms) or '0'}]"

    def address(self, terms: str = "") -> str:
        """The address of the element at an index, in C."""
        return f"&{self.at(terms)}" if self.offset or terms else self.buffer.pointer

    def view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> Place:
        """Other elements of the same buffer; `offset` counts from this place's."""
        return Place(self.buffer, tuple(shape), tuple(strides), self.offset + offset)

    def broadcast(self, shape: tuple[int, ...]) -> Place:
        """Repeated along new axes and axes of size 1, without a copy."""
        missing = len(shape) - len(self.shape)
        strides = (0,) * missing + tuple(
            0 if n == 1 and m != 1 else stride for n, m, stride in zip(self.shape, shape[missing:], self.strides)
        )
        return self.view(shape, strides)

    def permuted(self, dims: Sequence[int]) -> Place:
        """Its axes in the order `dims`."""
        return self.view([self.shape[d] for d in dims], [self.strides[d] for d in dims])

    def part(self, starts: Sequence[int], shape: Sequence[int]) -> Place:
        """The block of this shape that starts at an index."""
        return self.view(shape, self.strides, sum(i * stride for i, stride in zip(starts, self.strides)) if math.prod(shape) else 0)

    def turned(self) -> Place:
        """The transpose of its last two axes."""
        last = len(self.shape) - 1
        return self.permuted([*range(last - 1), last, last - 1])

    def reach(self, shape: Sequence[int]) -> tuple[int, int]:
        """The lowest and the highest element read in a loop over `shape` with these strides."""
        steps = [(n - 1) * stride for n, stride in zip(shape, self.strides)]
        return self.offset + sum(s for s in steps if s < 0), self.offset + sum(s for s in steps if s > 0)

    def allows(self, shape: Sequence[int], spare: int = 0) -> bool:
        """Whether a loop over `shape` with these strides stays inside the buffer, or at most `spare` elements behind it."""
        low, high = self.reach(shape)
        return low >= 0 and high < self.buffer.size + spare


def padded_row(size: int, lanes: int) -> int:
    """The distance of rows of so many elements: whole vectors, and no large power of two, for whose multiples a cache has few places."""
    if size <= 1:
        return size
    row = -(-size // lanes) * lanes
    return row + lanes if row >= 128 and row % 128 == 0 else row


def new_place(shape: tuple[int, ...], dtype: torch.dtype, lanes: int, padded: bool = True, pinned: bool = False) -> Place:
    """A place in a buffer of its own, by rows; `padded`: with rows of whole vectors."""
    strides = []
    step = 1
    for axis, size in reversed(list(enumerate(shape))):
        strides.append(step)
        step *= padded_row(size, lanes) if padded and axis == len(shape) - 1 else max(size, 1)
    return Place(Buffer(dtype, max(-(-step // lanes), 1) * lanes, pinned), shape, tuple(reversed(strides)))


def reshaped(place: Place, shape: tuple[int, ...]) -> Place | None:
    """The same elements in another shape, None where no strides say that."""
    if place.shape == shape:
        return place
    if math.prod(shape) == 0:
        return place.view(shape, (0,) * len(shape))
    # blocks of axes that lie in memory like a single one: (elements, stride of the last)
    blocks: list[tuple[int, int]] = []
    for size, stride in zip(place.shape, place.strides):
        if size == 1:
            continue
        if blocks and blocks[-1][1] == size * stride:
            blocks[-1] = (blocks[-1][0] * size, stride)
        else:
            blocks.append((size, stride))
    strides = [0] * len(shape)
    elements, step = 1, 0
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:
            continue
        if elements == 1:
            elements, step = blocks.pop()
        if elements % shape[axis]:
            return None
        strides[axis] = step
        elements //= shape[axis]
        step *= shape[axis]
    return place.view(shape, strides)


def added(*terms: str) -> str:
    """A sum in C; "" for no terms."""
    return " + ".join(term for term in terms if term).replace("+ -", "- ")


def term(number: int) -> str:
    """A number as a term of a sum in C, "" for 0."""
    return str(number) if number else ""


def scaled(index: str, stride: int) -> str:
    """index * stride in C, "" for 0."""
    return "" if stride == 0 else index if stride == 1 else f"{index} * {stride}"


@dataclass(slots=True)
class Nest:
    """Nested loops: the sizes from the outermost to the innermost, and for each place that they run over its strides."""

    sizes: list[int]
    strides: list[list[int]]

    @classmethod
    def over(cls, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Nest:
        """The loops over `shape`, without those of a single run, and with neighbours merged where all strides allow it."""
        sizes: list[int] = []
        kept: list[list[int]] = [[] for _ in strides]
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            step = [s[axis] for s in strides]
            if sizes and all(k[-1] == size * s for k, s in zip(kept, step)):
                sizes[-1] *= size
                for k, s in zip(kept, step):
                    k[-1] = s
            else:
                sizes.append(size)
                for k, s in zip(kept, step):
                    k.append(s)
        return cls(sizes, kept)

    def terms(self, place: int, names: str = INDICES) -> str:
        """The index of the place of that number, without its offset."""
        return (
            added(*(scaled(names[depth], stride) for depth, stride in enumerate(self.strides[place]))) if any(self.strides[place]) else ""
        )

    def wrap(self, body: list[str], names: str = INDICES, independent: bool = True) -> Iterator[str]:
        """The loops as lines of C around `body`. `independent`: no run of the innermost one needs another's result."""
        for depth, size in enumerate(self.sizes):
            if independent and depth == len(self.sizes) - 1:
                yield "  " * depth + "INDEPENDENT"
            i = names[depth]
            yield "  " * depth + f"for (long {i} = 0; {i} < {size}; {i}++) {{"
        yield from ("  " * len(self.sizes) + line for line in body)
        for depth in reversed(range(len(self.sizes))):
            yield "  " * depth + "}"
