"""From a program's instructions to kernels over places: views become index arithmetic, chains of elementwise ops one loop, and
buffers whose lives do not overlap share memory.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from hotgrad.engines.native.builder import Builder
from hotgrad.engines.native.expressions import is_expression, literal
from hotgrad.engines.native.kernels import Context, Elementwise, Transfer
from hotgrad.engines.native.layout import C_TYPES, Buffer, NativeError, Place
from hotgrad.engines.native.structured import KERNELS
from hotgrad.engines.native.written_out import written_out
from hotgrad.ops.arithmetic import Cast, Pow, PowCall
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.passes import remove_dead

_LETTERS = {"float": "f", "double": "d", "int64_t": "l", "int32_t": "i", "uint8_t": "b"}  # names of shared memory


class Lowering(Builder):
    """The kernels of a program. `derived`: lines that compute scalars from scalars; `outputs`: where those lie."""

    def __init__(self, code: Code, context: Context, fuse: bool = True) -> None:
        super().__init__(context, fuse, code.scalars)
        self.program = code  # as it was given
        self.code = code = remove_dead(written_out(code))
        self.derived: list[str] = []
        for value in [*code.inputs, *(d.value for d in code.draws), *(s.value for s in code.states), *code.constants]:
            self.places[value] = self.place_for(value, pinned=True)
        self.constants += [(self.places[value], tensor) for value, tensor in code.constants.items()]
        for instruction in code.instructions:
            self._lower(instruction)
        self._finish()

    # ---- instructions

    def _lower(self, instruction: Instruction) -> None:
        op, out = instruction.op, instruction.out
        if out.kind == "scalar":
            self._scalar(instruction)
        elif is_expression(op.native):
            self.elementwise(instruction)
        elif op.native in KERNELS:
            self.places[out] = KERNELS[op.native](self, instruction, *map(self._array, instruction.operands), **instruction.options)
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

    # ---- memory

    def _finish(self) -> None:
        code = self.code
        for value in code.results():
            if value.kind == "scalar" and value not in self.places:
                place = self.places[value] = self.place_for(value)
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
                self.add(Transfer(self.context, [place], [state], ["a state's new value"]))

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
                replaced = next(
                    (b for b, p in ends.items() if b.size == buffer.size and b.dtype is buffer.dtype and kernel.exchangeable(p, place)),
                    None,
                )
                available = free.setdefault(ctype, [])
                if replaced is not None:
                    del ends[replaced]
                    seen.discard(replaced)
                    buffer.slot = replaced.slot
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
