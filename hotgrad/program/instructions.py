"""What a program is: values, and the instructions that compute them, in order.

A program is straight-line code over arrays of fixed shapes. Every value is defined once (static single assignment): as an
input, a constant, a state, or the result of one instruction. A state is memory that outlives a call, such as a parameter: a
call reads it at the start and leaves its new value there at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.variable import Variable

# input: given at each call. scalar: a Python float that differs from call to call, such as a learning rate, or one computed from
# such. draw: uniform random numbers in [0, 1), made anew for each call. constant: the same at every call. state: see above.
KINDS = ("input", "scalar", "draw", "constant", "state", "result")
_LETTERS = {"input": "x", "scalar": "s", "draw": "r", "constant": "c", "state": "w", "result": "%"}


@dataclass(eq=False, slots=True)
class Value:
    """An array of the program: its kind, shape, dtype and device, and the strides that it has in eager execution."""

    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    stride: tuple[int, ...]
    name: str = ""

    @classmethod
    def like(cls, kind: str, tensor: Tensor, name: str = "") -> Value:
        """A Value of this kind that looks like `tensor`."""
        return cls(kind, tuple(tensor.shape), tensor.dtype, tensor.device, tuple(tensor.stride()), name)

    @classmethod
    def scalar(cls, name: str = "") -> Value:
        """A Python float that differs from call to call."""
        return cls("scalar", (), torch.float64, torch.device("cpu"), (), name)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def nbytes(self) -> int:
        """The bytes that its elements take."""
        return self.numel() * self.dtype.itemsize

    def is_contiguous(self) -> bool:
        """Whether eager execution has it row after row in memory."""
        step = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride)):
            if size != 1 and stride != step:
                return 0 in self.shape
            step *= size
        return True

    def __repr__(self) -> str:
        return f"{self.kind} {described(self)}"


def described(value: Value) -> str:
    """Dtype and shape: float32(20, 25)."""
    return f"{str(value.dtype).removeprefix('torch.')}{value.shape}"


@dataclass(eq=False, slots=True)
class Instruction:
    """`out = op(*operands, **options)`. Operands are Values and Python numbers.

    Where `out` is a scalar, so are all operands that are no numbers, the op is Add, Sub, Mul, Div, Neg or Pow, and the host computes it in
    double precision.
    """

    op: type[Primitive]
    operands: tuple[Any, ...]
    options: dict[str, Any]
    out: Value

    def reads(self) -> list[Value]:
        """The operands that are Values."""
        return [operand for operand in self.operands if isinstance(operand, Value)]


@dataclass(eq=False, slots=True)
class State:
    """Memory that outlives a call: a Variable, read and written through its `data`, or a tensor.

    `update`: the Value that stands in it after a call, None where the program only reads it.
    """

    value: Value
    holder: Variable | Tensor
    update: Value | None = None

    @property
    def tensor(self) -> Tensor:
        """The memory as it is now."""
        return self.holder.data if isinstance(self.holder, Variable) else self.holder


@dataclass(eq=False, slots=True)
class Draw:
    """Random numbers for each call: `torch.rand` of the value's shape in float32 from `generator`, None for torch's global one."""

    value: Value
    generator: torch.Generator | None

    def fill(self, out: Tensor) -> Tensor:
        """Draw into `out`, which is on a CPU."""
        return torch.rand(self.value.shape, generator=self.generator, out=out)


@dataclass(eq=False, slots=True)
class Code:
    """A program without its caller's conventions: what passes transform and engines run. See the module's text.

    `outputs` and the states' updates may be any Values, the same one several times, inputs and constants among them.
    """

    inputs: list[Value] = field(default_factory=list)
    scalars: list[Value] = field(default_factory=list)  # those given at each call, in order; derived ones are results of instructions
    draws: list[Draw] = field(default_factory=list)
    constants: dict[Value, Tensor] = field(default_factory=dict)
    states: list[State] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def results(self) -> list[Value]:
        """What must be there after a call: the outputs, then the states' new values."""
        return [*self.outputs, *(state.update for state in self.states if state.update is not None)]

    def empty_outputs(self) -> list[Tensor]:
        """Memory for the outputs of one run, (1, *shape) each."""
        return [torch.empty((1, *value.shape), dtype=value.dtype, device=value.device) for value in self.outputs]

    def drawn(self) -> list[Tensor]:
        """The random numbers of one run, from each draw's generator."""
        return [draw.fill(torch.empty(draw.value.shape, dtype=draw.value.dtype)) for draw in self.draws]

    def replaced(self, instructions: Sequence[Instruction], new: Callable[[Value], Value] = lambda value: value) -> Code:
        """The same program with other instructions, and with Values exchanged by `new` wherever they are read."""
        return Code(
            self.inputs,
            self.scalars,
            self.draws,
            dict(self.constants),
            [State(s.value, s.holder, None if s.update is None else new(s.update)) for s in self.states],
            [Instruction(i.op, tuple(new(o) if isinstance(o, Value) else o for o in i.operands), i.options, i.out) for i in instructions],
            [new(value) for value in self.outputs],
        )

    def __str__(self) -> str:
        return "\n".join(listing(self))


def listing(code: Code) -> Iterator[str]:
    """The program as lines of text: what it is given, its instructions, and what it leaves."""
    names: dict[Value, str] = {}
    taken: set[str] = set()

    def name(value: Value) -> str:
        if value not in names:
            letter = _LETTERS[value.kind]
            name = value.name or f"{letter}{sum(other.kind == value.kind for other in names)}"
            while name in taken:
                name += "'"
            taken.add(name)
            names[value] = name
        return names[value]

    for title, values in (
        ("inputs", code.inputs),
        ("scalars", code.scalars),
        ("draws", [draw.value for draw in code.draws]),
        ("constants", list(code.constants)),
        ("states", [state.value for state in code.states]),
    ):
        if values:
            yield f"{title}: " + ", ".join(f"{name(v)} {described(v)}" for v in values)
    rows = []
    for instruction in code.instructions:
        operands = [name(o) if isinstance(o, Value) else repr(o) for o in instruction.operands]
        options = [f"{key}={_option(value)}" for key, value in instruction.options.items()]
        call = f"{instruction.op.name}({', '.join(operands + options)})"
        rows.append((name(instruction.out), call, described(instruction.out)))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
    for out, call, looks in rows:
        yield f"  {out:{widths[0]}} = {call:{widths[1]}}  {looks}"
    updates = [f"{name(state.value)} <- {name(state.update)}" for state in code.states if state.update is not None]
    if updates:
        yield "updates: " + ", ".join(updates)
    yield "outputs: " + ", ".join(map(name, code.outputs))


def _option(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    return repr(value).removeprefix("torch.")
