"""Programs built by hand, with an example of each of their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import hotgrad as hg
from hotgrad.core.primitive import Primitive
from hotgrad.program.instructions import Code, Draw, Instruction, State, Value


class Build:
    """A program under construction. What is given to it is a tensor, or a shape, which stands for ones."""

    def __init__(self) -> None:
        self.code = Code()
        self.values: dict[Value, Any] = {}  # what each would be in the first run

    def _given(self, kind: str, tensor: Tensor) -> Value:
        value = Value.like(kind, tensor)
        self.values[value] = tensor
        return value

    def input(self, *given: Tensor | int) -> Value:
        value = self._given("input", _tensor(given))
        self.code.inputs.append(value)
        return value

    def constant(self, *given: Tensor | int) -> Value:
        tensor = _tensor(given)
        value = self._given("constant", tensor)
        self.code.constants[value] = tensor
        return value

    def state(self, *given: Tensor | int) -> Value:
        """The tensor itself is the state; its example stays as it is now."""
        tensor = _tensor(given)
        value = self._given("state", tensor)
        self.values[value] = tensor.clone()
        self.code.states.append(State(value, tensor))
        return value

    def draw(self, *shape: int, generator: torch.Generator | None = None) -> Value:
        value = self._given("draw", torch.zeros(shape))
        self.code.draws.append(Draw(value, generator))
        return value

    def scalar(self, number: float) -> Value:
        value = Value.scalar()
        self.values[value] = number
        self.code.scalars.append(value)
        return value

    def run(self, op: type[Primitive] | str, *operands: Any, **options: Any) -> Value:
        """Adds an instruction, and computes its example."""
        op = hg.primitives()[op] if isinstance(op, str) else op
        options = op.bind((), options)
        result = op.forward(*[self.values[o] if isinstance(o, Value) else o for o in operands], **options)
        value = Value.like("result", result) if isinstance(result, Tensor) else Value.scalar()
        self.values[value] = result
        self.code.instructions.append(Instruction(op, operands, options, value))
        return value

    def update(self, state: Value, new: Value) -> None:
        next(s for s in self.code.states if s.value is state).update = new

    def done(self, *outputs: Value) -> Code:
        self.code.outputs = list(outputs)
        return self.code


def _tensor(given: Sequence[Tensor | int]) -> Tensor:
    return given[0] if given and isinstance(given[0], Tensor) else torch.ones(given)  # type: ignore[arg-type]


def interpret(code: Code, inputs: Sequence[Tensor], scalars: Sequence[float]) -> list[Tensor]:
    """One run, each instruction by its op's forward; the states' new values are left in their memory."""
    values: dict[Value, Any] = {**dict(zip(code.inputs, inputs)), **dict(zip(code.scalars, scalars)), **code.constants}
    values.update({s.value: s.tensor.clone(memory_format=torch.preserve_format) for s in code.states})
    for i in code.instructions:
        values[i.out] = i.op.forward(*[values[o] if isinstance(o, Value) else o for o in i.operands], **i.options)
    for s in code.states:
        if s.update is not None:
            s.tensor.copy_(values[s.update])
    return [torch.as_tensor(values[value], dtype=value.dtype).clone() for value in code.outputs]
