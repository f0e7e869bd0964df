"""A function traced again, and compared with the program that it is on the way. Nothing is computed.

Where the i-th call is that of the program's i-th instruction, shape, dtype and device of its result are known. So no forward
runs, and a whole training step is compared in the time of a few eager ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.records import NO_ACCUMULATORS, Accumulator, Record
from hotgrad.core.scalars import Scalar
from hotgrad.core.variable import Variable
from hotgrad.program.differences import in_words, same
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.trace import ProgramTrace
from hotgrad.program.traced import Traced

Place = tuple[int, int]  # of a number: of the instruction, and among its operands


class Diverged(BaseException):
    """Leaves a function that is another program now; no `except Exception` of the user's catches it."""


class Comparison(ProgramTrace):
    """A run of a function, compared with `first`, the trace that its program was made of.

    `different`: how it is another program, "" if it is not. `numbers`: by place, those that differ. `tensors`: by constant, those
    that another tensor stands for now. `watch`: of what it depends on.
    """

    watch: Any

    def __init__(self, first: ProgramTrace, variables: Sequence[Variable], examples: Examples) -> None:
        super().__init__(first.names, (), variables, ())
        self.known, self.buffers = first.known, set(first.buffers)
        self.first, self.examples = first, examples
        self.different = ""
        self.numbers: dict[Place, Any] = {}
        self.tensors: dict[Value, Tensor] = {}
        self._own = all(i.op.__module__.startswith("hotgrad.") for i in first.code.instructions)  # so no rule is the user's
        self._at = 0  # how many instructions were compared
        self._seen = 0  # and events

    def differ(self, how: str) -> NoReturn:
        """End the run: this is another program."""
        self.different = self.different or how
        raise Diverged

    # ---- what comes from outside

    def arrived(self, kind: str, what: Any, value: Callable[[], Value]) -> Value:
        then, before, known = self._event(kind)
        if kind == "constant":
            if before is not what:
                self._replaced(known, before, what)
        elif then != "input" and (before is not what if kind != "scalar" else before != what):
            self.differ(f"it uses another {kind}")
        return known

    def _event(self, kind: str) -> tuple[str, Any, Value]:
        if self._seen == len(self.first.events):
            self.differ(f"it uses one more {kind}")
        event = self.first.events[self._seen]
        if event[0] != kind:
            self.differ(f"it uses a {kind} where it used a {event[0]}")
        self._seen += 1
        return event

    def _replaced(self, known: Value, before: Tensor, now: Tensor) -> None:
        """A constant that is another tensor now."""
        with self.internal():
            if (tuple(now.shape), now.dtype, now.device) != (known.shape, known.dtype, known.device):
                self.differ(f"a constant is {now.dtype}{tuple(now.shape)} and was {described(known)}")
            if known not in self.first.code.constants:  # one that is written to
                self.differ("it writes to another tensor")
            self.tensors[known] = now

    def _state(self, holder: Variable | Tensor, data: Tensor, link: Record | Accumulator | None) -> Traced:
        value = self.arrived("state", holder, Value.scalar)
        self.kept.append(holder)
        found = self.current[id(holder)] = self.new(data, value, link, isinstance(holder, Tensor))
        return found

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Traced:
        value = self.arrived("draw", generator, Value.scalar)
        if value.shape != tuple(shape):
            self.differ(f"it draws {tuple(shape)} random numbers and drew {value.shape}")
        return self.new(self.examples[value], value)

    def overwritten(self, traced: Traced) -> bool:
        return False  # a program that reads what was overwritten does not come into being, and this is the same one

    def _forget(self, memory: Tensor) -> None:
        pass

    def _apart(self, data: Tensor) -> Tensor:
        return data

    def write(self, target: Variable | Tensor, new: Traced) -> None:
        if not isinstance(target, Traced):
            self._write_outside(target, new)
            return
        old = self.leaf(target)
        self._written("write", new, old)
        self.current[id(target)] = self._cast(new, old)

    def _write_outside(self, target: Variable | Tensor, new: Traced) -> None:
        if id(target) in self.known or id(target) in self.buffers:
            self.update(target, new)
            return
        old = self.leaf(target) if isinstance(target, Variable) else self.constant(target)
        self._written("write", new, old)
        self.current[id(_holder(target))] = self._cast(new, old)

    def update(self, holder: Variable | Tensor, new: Traced) -> None:
        old = self.leaf(holder) if isinstance(holder, Variable) else self.constant(holder)
        holder = _holder(self.owners.get(id(holder), holder))
        new = self._cast(self.leaf(new), old)
        self._written("update", new, old)
        self.current[id(holder)] = self.new(new._data, new.value, old._link if isinstance(holder, Variable) else None, old.plain)

    def _written(self, kind: str, new: Traced, old: Traced) -> None:
        _, value, target = self._event(kind)
        if value is not new.value or target is not old.value:
            self.differ("it writes something else")

    # ---- ops

    def _instruction(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any], out: Callable[[], Value]) -> Value:
        """Compare a call with the instruction that is next; its result."""
        if self._at == len(self.first.code.instructions):
            self.differ(f"it goes on with {op.name}")
        then = self.first.code.instructions[self._at]
        if then.op is not op or len(then.operands) != len(operands):
            self.differ(f"{then.op.name} became {op.name}")
        for place, (before, now) in enumerate(zip(then.operands, operands)):
            if before is not now:
                if isinstance(before, Value) or isinstance(now, Value):
                    self.differ(f"{op.name} is called on something else")
                if not same(before, now):
                    self.numbers[self._at, place] = now
        if then.options or options:
            self.inside += 1
            try:
                if not same(then.options, options):
                    self.differ(f"{in_words(then)} became {in_words(Instruction(op, then.operands, options, then.out))}")
            finally:
                self.inside -= 1
        self._at += 1
        return then.out

    def apply(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Any:
        self.guard.pause()
        try:
            usual = self._compared(op, operands, options)
            return self._looked_up(op, operands, options) if usual is None else usual
        finally:
            self.guard.go_on()

    def _looked_up(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Traced:
        given, _, links, plain = self._operands(op, operands)
        options = self._plain_options(options)
        values = tuple([g.value if type(g) is Traced or type(g) is Scalar else g for g in given])
        value = self._instruction(op, values, options, Value.scalar)
        return self._result(op, given, links, options, self.examples[value], value, plain)

    def _compared(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Traced | None:
        """As `_looked_up` for the usual call, of Traced Variables and the same numbers with the same options; None for any other."""
        instructions, current = self.first.code.instructions, self.current
        if self._at == len(instructions):
            return None
        then = instructions[self._at]
        if then.op is not op or len(operands) != len(then.operands):
            return None
        given: list[Any] = []
        links: list[Record | Accumulator | None] = []
        plain = True
        for operand, before in zip(operands, then.operands):
            if type(operand) is Traced:
                g = current.get(id(operand), operand)
                if g.value is not before:
                    return None
                plain = plain and operand.plain
                links.append(g._link)
                given.append(g)
            elif type(operand) is type(before) is float and operand == before != 0 and op.numbers:
                links.append(None)
                given.append(operand)
            else:
                return None
        if options:
            options = self._plain_options(options)
            if not all(map(_simple, options.values())) or options != then.options:
                return None
        elif then.options:
            return None
        self._at += 1
        return self._result(op, given, links, options or {}, self.examples[then.out], then.out, plain)

    @contextmanager
    def internal(self) -> Iterator[None]:
        if not self._own:
            with super().internal():
                yield
            return
        self.guard.pause()
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
            self.guard.go_on()

    def input_like(self, requires_grad: bool, plain: bool) -> Traced:
        """The next input."""
        value = self.arrived("input", None, Value.scalar)
        traced = self.new(self.examples[value], value, None, plain)
        if requires_grad:
            traced._link = traced._accumulator = Accumulator(traced._data)
        return traced

    # ---- the end

    def finish(self, outputs: Sequence[Value]) -> None:
        """That all of the program was traced, and gives the same."""
        code = self.first.code
        if self._at < len(code.instructions):
            self.differ(f"it ends before {code.instructions[self._at].op.name}")
        if self._seen < len(self.first.events):
            self.differ(f"it no longer uses a {self.first.events[self._seen][0]}")
        if len(outputs) != len(code.outputs) or any(a is not b for a, b in zip(outputs, code.outputs)):
            self.differ("it returns something else")
        if len(self.hooks) != len(self.first.hooks) or not all(a.same(b) for a, b in zip(self.first.hooks, self.hooks)):
            self.differ("it steps something else")


_SIMPLE = (int, bool, str, type(None), torch.dtype)


def _simple(option: Any) -> bool:
    """Whether two options such as this one are the same if they are equal."""
    return type(option) in _SIMPLE or (type(option) is tuple and all(type(part) in _SIMPLE for part in option))


def _holder(target: Variable | Tensor) -> Variable | Tensor:
    """What stands for a Variable or tensor that is written to: the tensor of one that is a constant."""
    return target._data if isinstance(target, Variable) and target._accumulator in NO_ACCUMULATORS else target


class Examples(dict[Value, Tensor]):
    """A tensor for each value of a program that it does not find in memory, all in the memory of the largest: nobody looks at them."""

    def __init__(self, code: Code) -> None:
        values = [*code.inputs, *(d.value for d in code.draws), *(i.out for i in code.instructions if i.out.kind != "scalar")]
        memory: dict[torch.device, Tensor] = {}
        for device in {value.device for value in values}:
            size = max(_extent(value) for value in values if value.device == device)
            memory[device] = torch.empty(size, dtype=torch.uint8, device=device)
        for value in values:
            empty = torch.empty(0, dtype=value.dtype, device=value.device)
            self[value] = empty.set_(memory[value.device].untyped_storage(), 0, value.shape, value.stride)


def _extent(value: Value) -> int:
    """The bytes from the first element to behind the last."""
    if not value.numel():
        return 0
    return (1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride))) * value.dtype.itemsize
