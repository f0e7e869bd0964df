"""From a program's instructions to kernels over places: views become index arithmetic, chains of elementwise ops one loop, and
buffers whose lives do not overlap share memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from hotgrad.engines.native.expressions import is_expression, literal
from hotgrad.engines.native.kernels import Context, Copy, Elementwise, Kernel
from hotgrad.engines.native.layout import C_TYPES, Buffer, NativeError, Place, fresh
from hotgrad.engines.native.structured import SHAPE_CLASSES
from hotgrad.engines.native.written_out import written_out
from hotgrad.ops.arithmetic import Cast, Pow, PowCall
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.passes import remove_dead

_LETTERS = {"float": "f", "double": "d", "int64_t": "l", "int32_t": "i", "uint8_t": "b"}  # names of shared memory
LONGEST_CHAIN = 60  # instructions in a loop; more, and values leave the registers


class Lowering:
    """The kernels of a program, and where its values lie.

    `places`: of values; `scalars`: the C names of scalar values; `constants`: what is loaded once; `slots`: the memory, C type and
    size by name.
    """

    def __init__(self, code: Code, context: Context, fuse: bool = True) -> None:
        self.code = code = remove_dead(written_out(code))
        self.context, self.fuse = context, fuse
        self.kernels: list[Kernel | None] = []
        self._readers: dict[Buffer, set[int]] = {}  # the positions of the kernels that read it; those that were absorbed stay noted
        self._loops: dict[tuple[Place, tuple[int, ...]], dict[int, None]] = {}  # of loops by what they read, and their shape
        self.places: dict[Value, Place] = {}
        self.scalars: dict[Value, str] = {scalar: f"scalars[{i}]" for i, scalar in enumerate(code.scalars)}
        self.derived: list[str] = []  # lines that compute scalars from scalars
        self.constants: list[tuple[Place, Tensor]] = []
        self.slots: dict[str, tuple[str, int]] = {}
        self.checked: list[Instruction] = []  # whose indices are looked at; "wrong", the first slot, tells of one out of range
        for value in [*code.inputs, *(d.value for d in code.draws), *(s.value for s in code.states), *code.constants]:
            self.places[value] = self.fresh(value, pinned=True)
        self.constants += [(self.places[value], tensor) for value, tensor in code.constants.items()]
        for instruction in code.instructions:
            self._lower(instruction)
        self._finish()

    # ---- instructions

    def fresh(self, value: Value, padded: bool = True, pinned: bool = False) -> Place:
        if value.dtype not in C_TYPES:
            raise NativeError(
                f"{described(value)}: arrays of {value.dtype} have no native form; there are float32, float64, int32, int64, bool"
            )
        if value.device.type != "cpu":
            raise NativeError(f"{described(value)} is on {value.device}; native code runs on the CPU")
        return fresh(value.shape, value.dtype, self.context.lanes, padded, pinned)

    def _lower(self, instruction: Instruction) -> None:
        op, out = instruction.op, instruction.out
        if out.kind == "scalar":
            self._scalar(instruction)
        elif is_expression(op.native):
            self._elementwise(instruction)
        elif op.native in SHAPE_CLASSES:
            self.places[out] = SHAPE_CLASSES[op.native](self, instruction, *map(self._array, instruction.operands), **instruction.options)
            if self.places[out].shape != out.shape or self.places[out].dtype is not out.dtype:
                raise NativeError(f"{op.name}: lowered to {self.places[out].shape}, {self.places[out].dtype}; expected {described(out)}")
        else:
            raise NativeError(f"{op.name} has no native form" + (f": {op.native!r} is not known" if op.native else ""))

    def _array(self, operand: Any) -> Any:
        """The place of an operand of an op that is not elementwise."""
        return self.places[operand] if isinstance(operand, Value) and operand.kind != "scalar" else operand

    def _scalar(self, instruction: Instruction) -> None:
        native = str((PowCall if instruction.op is Pow else instruction.op).native)
        texts = [self.scalars[o] if isinstance(o, Value) else f"({literal(o, torch.float64)})" for o in instruction.operands]
        for name, text in zip(instruction.op.operand_names, texts):
            native = native.replace("{" + name + "}", text)
        self.scalars[instruction.out] = f"derived[{len(self.derived)}]"
        self.derived.append(f"{self.scalars[instruction.out]} = {native};")

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

    def check(self, instruction: Instruction) -> int:
        """What an instruction notes, from 1 on, where it finds an index out of range."""
        self.checked.append(instruction)
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

    # ---- elementwise chains

    def _elementwise(self, instruction: Instruction) -> None:
        out = instruction.out
        place = self.places[out] = self.fresh(out)
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

    # ---- memory

    def copied(self, place: Place, padded: bool = True) -> Place:
        """A copy by rows."""
        target = fresh(place.shape, place.dtype, self.context.lanes, padded)
        self.add(Copy(self.context, [place], [target], [f"copy {place.shape}"]))
        return target

    def _finish(self) -> None:
        code = self.code
        for value in code.results():
            if value.kind == "scalar" and value not in self.places:
                place = self.places[value] = self.fresh(value)
                cast = Elementwise(self.context, [], [place], ["a scalar"], (), scalars=self.scalars)
                cast.members.append(Instruction(Cast, (value,), {}, Value.like("result", torch.empty((), dtype=torch.float64))))
                cast.results[cast.members[0].out] = place
                self.add(cast)
        updates = [(s.value, s.update) for s in code.states if s.update is not None and s.update is not s.value]
        for value, update in updates:
            if (value.shape, value.dtype) != (update.shape, update.dtype):
                raise NativeError(f"a state {described(value)} gets a value {described(update)}")
        owned = {self.places[value].buffer for value, _ in updates}
        # where outputs lie. One that is a state's old value needs a copy, as the state changes before outputs are read.
        self.outputs = [self.copied(p) if p.buffer in owned else p for p in (self.places[v] for v in code.outputs)]
        final = [self.copied(p) if p.buffer in owned else p for p in (self.places[u] for _, u in updates)]
        end = len(self.kernels)
        readers: dict[Buffer, set[int]] = {place.buffer: {end} for place in [*self.outputs, *final]}
        for position, kernel in enumerate(self.kernels):
            for place in kernel.reads if kernel else ():
                readers.setdefault(place.buffer, set()).add(position)
        for position, kernel in enumerate(self.kernels):
            if isinstance(kernel, Elementwise):
                own = {p.buffer for p in kernel.results.values()}
                kernel.needed = {b for b in own if readers.get(b, set()) - {position}}
                kernel.reads = [p for p in kernel.reads if p.buffer not in own]
                kernel.writes = [p for p in kernel.writes if p.buffer in kernel.needed]
        last = {buffer: max(positions) for buffer, positions in readers.items()}
        self._name_pinned()
        self._in_place(updates, final, last, end)
        self._share(last)

    def _name_pinned(self) -> None:
        code = self.code
        groups = {"x": code.inputs, "r": [d.value for d in code.draws], "w": [s.value for s in code.states], "c": list(code.constants)}
        for letter, values in groups.items():
            for number, value in enumerate(values):
                self._slot(self.places[value].buffer, f"{letter}{number}")
        for number, (place, _) in enumerate(self.constants[len(code.constants) :]):
            self._slot(place.buffer, f"t{number}")

    def _slot(self, buffer: Buffer, name: str) -> None:
        """Give it the memory of this name, which grows if it must."""
        buffer.slot = name
        self.slots[name] = (C_TYPES[buffer.dtype], max(buffer.size, self._size(name)))

    def _in_place(self, updates: list[tuple[Value, Value]], final: list[Place], last: dict[Buffer, int], end: int) -> None:
        """States' new values are computed where the old ones stand, if nobody needs those any more, else copied at the end."""
        taken: set[Buffer] = set()
        writers = Counter(buffer for kernel in self.kernels if kernel for buffer in {place.buffer for place in kernel.writes})
        for (value, _), place in zip(updates, final):
            state, buffer = self.places[value], place.buffer
            position = buffer.written
            kernel = self.kernels[position] if 0 <= position < end else None
            old = last.get(state.buffer, -1)
            suits = (
                kernel is not None
                and not buffer.pinned
                and buffer not in taken
                and (place.strides, place.offset, buffer.size) == (state.strides, 0, state.buffer.size)
                and writers[buffer] == 1
                and (old < position or (old == position and kernel.exchangeable(state, place)))
            )
            if suits:
                buffer.slot, buffer.pinned = state.buffer.slot, True
                taken.add(buffer)
            else:
                self.add(Copy(self.context, [place], [state], ["a state's new value"]))

    def _share(self, last: dict[Buffer, int]) -> None:
        """Give every buffer memory: that of one which is read no more, if there is one."""
        free: dict[str, list[str]] = {}
        dying: dict[int, list[Buffer]] = {}
        seen: set[Buffer] = set()
        for position, kernel in enumerate(self.kernels):
            if kernel is None:
                continue
            ends = {p.buffer: p for p in kernel.reads if last.get(p.buffer, -1) == position and p.buffer in seen and not p.buffer.pinned}
            for place in kernel.writes:
                buffer = place.buffer
                if buffer.pinned or buffer in seen:
                    continue
                seen.add(buffer)
                ctype = C_TYPES[buffer.dtype]
                heir = next(
                    (b for b, p in ends.items() if b.size == buffer.size and b.dtype is buffer.dtype and kernel.exchangeable(p, place)),
                    None,
                )
                available = free.setdefault(ctype, [])
                if heir is not None:
                    del ends[heir]
                    seen.discard(heir)
                    buffer.slot = heir.slot
                elif available:
                    enough = [s for s in available if self.slots[s][1] >= buffer.size]
                    name = min(enough, key=self._size) if enough else max(available, key=self._size)
                    available.remove(name)
                    self._slot(buffer, name)
                else:
                    self._slot(buffer, f"{_LETTERS[ctype]}{sum(t == ctype for t, _ in self.slots.values())}")
                dying.setdefault(last.get(buffer, position), []).append(buffer)
            for buffer in dying.pop(position, []):
                if buffer in seen:
                    free.setdefault(C_TYPES[buffer.dtype], []).append(buffer.slot)
        # what is empty is written by nobody, and yet has a name where a loop of no runs would read it
        for place in [p for kernel in self.kernels if kernel for p in kernel.reads] + self.outputs:
            if not place.buffer.slot:
                self._slot(place.buffer, f"empty_{_LETTERS[C_TYPES[place.buffer.dtype]]}")

    def _size(self, slot: str) -> int:
        return self.slots[slot][1] if slot in self.slots else 0
