"""What lowering builds with: places for values, and kernels appended one by one, chains of elementwise ops as one loop."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from torch import Tensor

from hotgrad.engines.native.kernels import Context, Elementwise, Fill, Kernel, Transfer
from hotgrad.engines.native.layout import C_TYPES, Buffer, NativeError, Place, new_place
from hotgrad.program.instructions import Instruction, Value, described

LONGEST_CHAIN = 60  # instructions in a loop; more, and values leave the registers


class Builder:
    """Kernels, and where values lie.

    `places`: of values; `scalars`: the C names of scalar values; `constants`: what is loaded once; `slots`: the memory, C type and
    size by name.
    """

    def __init__(self, context: Context, fuse: bool, scalars: Sequence[Value]) -> None:
        self.context, self.fuse = context, fuse
        self.kernels: list[Kernel | None] = []
        self._readers: dict[Buffer, set[int]] = {}  # the positions of the kernels that read it; those that were absorbed stay noted
        self._loops: dict[tuple[Place, tuple[int, ...]], dict[int, None]] = {}  # of loops by what they read, and their shape
        self.places: dict[Value, Place] = {}
        self.scalars: dict[Value, str] = {scalar: f"scalars[{i}]" for i, scalar in enumerate(scalars)}
        self.constants: list[tuple[Place, Tensor]] = []
        self.slots: dict[str, tuple[str, int]] = {}
        self.checked: list[
            tuple[str, int, int]
        ] = []  # what looks at indices, along which axis, of which size; "wrong", the first slot, notes one

    def place_for(self, value: Value, padded: bool = True, pinned: bool = False) -> Place:
        if value.dtype not in C_TYPES:
            raise NativeError(
                f"{described(value)}: arrays of {value.dtype} have no native form; there are float32, float64, int32, int64, bool"
            )
        if value.device.type != "cpu":
            raise NativeError(f"{described(value)} is on {value.device}; native code runs on the CPU")
        return new_place(value.shape, value.dtype, self.context.lanes, padded, pinned)

    def copied(self, place: Place, padded: bool = True) -> Place:
        """A copy by rows."""
        target = new_place(place.shape, place.dtype, self.context.lanes, padded)
        self.add(Transfer(self.context, [place], [target], [f"copy {place.shape}"]))
        return target

    def pad(self, note: list[str], place: Place, around: Sequence[tuple[int, int]], target: Place, value: float = 0.0) -> None:
        """Copy a place into another, with so many elements of `value` before and after along each axis; negative: cut off."""
        self.add(Fill(self.context, [], [target], [f"fill {target.shape}"], value))
        inner = place.part([max(-b, 0) for b, _ in around], [n + min(b, 0) + min(e, 0) for n, (b, e) in zip(place.shape, around)])
        self.add(Transfer(self.context, [inner], [target.part([max(b, 0) for b, _ in around], inner.shape)], note))

    def add(self, kernel: Kernel) -> None:
        """Append a kernel."""
        position = len(self.kernels)
        self.kernels.append(kernel)
        self._note_reads(kernel, kernel.reads, position)
        for place in kernel.writes:
            place.buffer.written = position

    def _note_reads(self, kernel: Kernel, places: Iterable[Place], position: int) -> None:
        for place in places:
            self._readers.setdefault(place.buffer, set()).add(position)
            if isinstance(kernel, Elementwise):
                self._loops.setdefault((place, kernel.shape), {})[position] = None

    def check(self, instruction: Instruction, axis: int, size: int) -> int:
        """What an instruction notes, from 1 on, where it finds an index out of range along an axis of this size."""
        self.checked.append((instruction.op.name, axis, size))
        self.slots = {"wrong": ("int64_t", 2)}
        return len(self.checked)

    def note(self, instruction: Instruction) -> list[str]:
        """What the instruction does, for readers of the C."""
        operands = [
            described(o) if isinstance(o, Value) and o.kind != "scalar" else self.scalars.get(o, repr(o)) for o in instruction.operands
        ]
        options = [f"{name}={' '.join(repr(value).split()):.60}" for name, value in instruction.options.items()]
        text = f"{described(instruction.out)} = {instruction.op.name}({', '.join(operands + options)})"
        return [text.replace("torch.", "").replace("*/", "* /")]

    def elementwise(self, instruction: Instruction) -> None:
        out = instruction.out
        place = self.places[out] = self.place_for(out)
        operands = {
            (instruction, index): self.places[operand]
            for index, operand in enumerate(instruction.operands)
            if isinstance(operand, Value) and operand.kind != "scalar"
        }
        position = self._group(out.shape, list(operands.values()))
        if position is None:
            position = len(self.kernels)
            self.add(Elementwise(self.context, [], [], [], out.shape, scalars=self.scalars))
        group = cast(Elementwise, self.kernels[position])
        group.members.append(instruction)
        group.operands |= operands
        group.results[out] = place
        group.reads += operands.values()
        group.writes.append(place)
        group.note += self.note(instruction)
        place.buffer.written = position
        self._note_reads(group, operands.values(), position)
        self._absorb(group, position)

    def _group(self, shape: tuple[int, ...], operands: Sequence[Place]) -> int | None:
        """The position of a loop that can compute this too: of the same shape, and after all kernels that write its operands."""
        if not self.fuse:
            return None

        def loop(position: int) -> Elementwise | None:
            kernel = self.kernels[position] if position >= 0 else None
            return kernel if isinstance(kernel, Elementwise) and kernel.shape == shape and len(kernel.members) < LONGEST_CHAIN else None

        last = max((place.buffer.written for place in operands), default=-1)
        writer = loop(last)
        # what it computes itself it has element by element only, not views of it
        if writer is not None and all(place in writer.results.values() for place in operands if place.buffer.written == last):
            return last
        sharing = (position for place in operands for position in self._loops.get((place, shape), ()))  # a load
        return min((position for position in sharing if position > last and loop(position) is not None), default=None)

    def _absorb(self, group: Elementwise, position: int) -> None:
        """Move earlier loops whose results are read here into this one, where nothing in between reads them."""
        for place in list(group.reads):
            earlier = place.buffer.written
            kernel = self.kernels[earlier] if 0 <= earlier < position else None
            if not self.fuse or not isinstance(kernel, Elementwise) or kernel.shape != group.shape:
                continue
            results = {p.buffer: p for p in kernel.results.values()}
            if (
                len(kernel.members) + len(group.members) > LONGEST_CHAIN
                or any(earlier < i < position and self.kernels[i] is not None for b in results for i in self._readers.get(b, ()))
                or any(p.buffer in results and p != results[p.buffer] for p in group.reads)
            ):
                continue
            group.members[:0] = kernel.members
            group.operands |= kernel.operands
            group.results = kernel.results | group.results
            group.reads += kernel.reads
            self._note_reads(group, kernel.reads, position)
            group.writes += kernel.writes
            group.note[:0] = kernel.note
            for p in kernel.writes:
                p.buffer.written = position
            self.kernels[earlier] = None
