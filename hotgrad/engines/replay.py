"""The replay engine: a program as a list of torch kernels on memory that is allocated once.

Each instruction becomes a call of a kernel that writes into its result's buffer. Views are made once, and cost nothing then.
The calls stand one below the other in a generated Python function, which is the fastest way for CPython to make them.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor

from hotgrad.engines.calls import Call, grouped, lower, number_dtype
from hotgrad.engines.costs import Cost, Rates
from hotgrad.engines.engine import Engine
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.memory import assign_buffers, empty, evaluate, given
from hotgrad.program.passes import fuse_matmul_add, simplified, sum_rows_by_product

_RATES = Rates(2.6, 0.024, 0.30, once=3000.0, once_instruction=200.0, trial_steps=4.0)
# How the host computes scalars.
_HOST = {"Add": "{} + {}", "Sub": "{} - {}", "Mul": "{} * {}", "Div": "{} / {}", "Neg": "-{}", "Pow": "{} ** {}"}


class Replay(Engine):
    """A program that is ready to run again and again. Fill `inputs`, `draws` and `scalars`, call `step`, read `outputs`.

    - `inputs`, `draws`, `outputs`: tensors that stay the same; an output is valid until the next step.
    - `scalars`: a list of numbers.
    - `allocating`: names of the ops that have no kernel which computes into a given tensor; they allocate at each step.

    With `fuse` (products with their sums in one kernel) results differ from eager's by rounding; without they are equal bit for
    bit. On a CUDA device the kernels of a step become one CUDA graph.

    >>> x = Value.like("input", torch.ones(2))
    >>> y = Value.like("result", torch.ones(2))
    >>> replay = Replay(Code([x], instructions=[Instruction(hg.ops.Exp, (x,), {}, y)], outputs=[y]))
    >>> _ = replay.inputs[0].copy_(torch.tensor([0.0, 1.0]))
    >>> replay.step()
    >>> replay.outputs[0]
    tensor([1.0000, 2.7183])
    >>> print(replay.source())
    def step():
        with inference_mode():
            exp(x0, out=exp0)  # float32(2,)
    """

    name = "replay"
    exact = True

    def __init__(self, code: Code, fuse: bool = True) -> None:
        code = sum_rows_by_product(fuse_matmul_add(simplified(code))) if fuse else code
        self.code = code
        writer = _Writer(code, share=True)
        self.inputs: list[Tensor] = [writer.tensors[value] for value in code.inputs]
        self.draws: list[Tensor] = [writer.tensors[draw.value] for draw in code.draws]
        self.scalars: list[float] = writer.scalars
        self.outputs: list[Tensor] = writer.outputs
        self.allocating: list[str] = sorted(writer.allocating)
        self._bytes = writer.memory.after
        self._source = writer.source()
        self.step: Callable[[], None] = writer.compiled(self._source)

    @classmethod
    def seconds(cls, codes: Sequence[Code]) -> float:
        """None worth a thought."""
        return 0.0

    @classmethod
    def cost(cls, code: Code, cpu: bool) -> Cost:
        """See Engine."""
        return _RATES.cost(code)

    @property
    def memory(self) -> int:
        """The bytes of the buffers that hold the results."""
        return self._bytes

    def run(
        self,
        sources: Sequence[Tensor],
        order: Tensor | None,
        steps: int,
        scalars: Tensor,
        draws: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Run `steps` times; see Engine."""
        numbers = scalars.tolist()
        rows = [] if order is None else order.view(steps, -1).unbind(0)
        kept = [(out, array.unbind(0)) for out, array in zip(self.outputs, outputs)]
        step, inputs, select = self.step, list(zip(self.inputs, sources)), torch.index_select
        for buffer, source in inputs if order is None else ():
            buffer.copy_(source)
        for i in range(steps):
            for buffer, source in inputs if rows else ():
                select(source, 0, rows[i], out=buffer)
            if i < len(numbers):
                self.scalars[:] = numbers[i]
            for buffer, draw in zip(self.draws, draws):
                buffer.copy_(draw[i])
            step()
            for out, array in kept:
                if len(array) > 1 or i == steps - 1:
                    array[i if len(array) > 1 else 0].copy_(out)

    def source(self) -> str:
        """The generated function."""
        return self._source


class _Writer:
    """Allocates the memory of a program and writes its function."""

    def __init__(self, code: Code, share: bool) -> None:
        self.code = code
        self.memory = assign_buffers(code, share)
        self.tensors: dict[Value, Any] = given(code)
        self.scalars: list[float] = [0.0] * len(code.scalars)
        self.outputs: list[Tensor] = []
        self.allocating: set[str] = set()
        self.prelude: list[str] = []  # what the host computes
        self.steps: list[tuple[Call | str, str]] = []  # calls or lines, and what they compute
        self.names: dict[int, str] = {}  # by the object's id
        self.objects: dict[str, Any] = {}  # the same, so that ids stay valid
        self.counts: dict[str, int] = {}
        self.taken = {"scalars", "inference_mode", "step", "prepare", "kernels"}
        self.numbers: dict[tuple[Any, torch.dtype], Tensor] = {}
        self.written_as: dict[int, str] = {}  # how to write a 0-d tensor as the number that it stands for
        self.filled: set[int] = set()  # the ids of the scalars' 0-d tensors
        self.arenas = [torch.empty(size, dtype=torch.uint8, device=device) for device, size in self.memory.sizes]
        self.buffers: dict[Any, Tensor] = {}  # values that share a buffer share the tensor too where they can
        self.host: dict[Value, str] = {}  # the scalars' names
        for values, letter in ((code.inputs, "x"), (code.constants, "c"), ([d.value for d in code.draws], "r")):
            for value in values:
                self.name(self.tensors[value], letter, value.name)
        for state in code.states:
            self.name(self.tensors[state.value], "w", state.value.name)
        for i, value in enumerate(code.scalars):
            self.host[value] = self.new_name(value.name or "s", not value.name)
            self.prelude.append(f"{self.host[value]} = scalars[{i}]")
        self.objects["scalars"] = self.scalars
        for instruction in code.instructions:
            self.write(instruction)
        self.finish()

    # ---- names

    def new_name(self, stem: str, numbered: bool = True) -> str:
        """A name that is not taken: the stem itself if it may be, else with a number."""
        stem = re.sub(r"[^0-9A-Za-z_]+", "_", stem) or "v"
        stem = f"_{stem}" if stem[0].isdigit() or keyword.iskeyword(stem) else stem
        name = stem
        if numbered or name in self.taken:
            stem += "_" * stem[-1].isdigit()
            name = next(f"{stem}{i}" for i in count(self.counts.get(stem, 0)) if f"{stem}{i}" not in self.taken)
            self.counts[stem] = int(name[len(stem) :]) + 1
        self.taken.add(name)
        return name

    def name(self, thing: Any, stem: str, given: str = "") -> str:
        """The name of an object that the function uses: as `given`, else by its `stem`."""
        if id(thing) not in self.names:
            name = self.names[id(thing)] = self.new_name(given or stem, not given)
            self.objects[name] = thing
        return self.names[id(thing)]

    def text(self, thing: Any, number: bool = False) -> str:
        """How the function writes an argument; with `number` a 0-d tensor that stands for a number as that."""
        if isinstance(thing, Tensor):
            return self.written_as[id(thing)] if number and id(thing) in self.written_as else self.name(thing, "t")
        if isinstance(thing, (tuple, list)):
            return "(" + ", ".join(map(self.text, thing)) + "," * (len(thing) == 1) + ")"
        if thing is None or isinstance(thing, (bool, int, str)) or (isinstance(thing, float) and math.isfinite(thing)):
            return repr(thing)
        return self.name(thing, "k")

    # ---- instructions

    def write(self, instruction: Instruction) -> None:
        """Append the lines that compute an instruction."""
        out = instruction.out
        if out.kind == "scalar":
            numbers = [self.host[o] if isinstance(o, Value) else f"({o!r})" for o in instruction.operands]
            self.host[out], self.tensors[out] = self.new_name("s"), 0.5
            self.prelude.append(f"{self.host[out]} = " + _HOST[instruction.op.name].format(*numbers))
            return
        if self.memory.owner[out] is not out:
            self.tensors[out] = view = evaluate(instruction, self.tensors)
            self.name(view, instruction.op.name.lower())
            return
        self.tensors[out] = buffer = self.allocate(out)
        self.name(buffer, instruction.op.name.lower(), out.name)
        if not buffer.numel():
            return
        held = zip(instruction.operands, map(self.raw, instruction.operands))
        known = tuple(... if o in self.host else None if isinstance(value, Tensor) else value for o, value in held)
        operands = tuple(self.operand(o, instruction) for o in instruction.operands)
        calls: Sequence[Call | str] | None = lower(instruction.op, buffer, operands, instruction.options, known)
        if calls is None:
            self.allocating.add(instruction.op.name)
            arguments = [self.host[o] if o in self.host else self.text(self.raw(o)) for o in instruction.operands]
            arguments += [f"{key}={self.text(value)}" for key, value in instruction.options.items()]
            forward = self.name(instruction.op.forward, "", instruction.op.name.lower() + "_forward")
            calls = [f"{self.text(buffer)}.copy_({forward}({', '.join(arguments)}))"]
        for call in calls:
            if isinstance(call, partial) and not getattr(call.func, "__name__", ""):
                self.name(call.func, "", instruction.op.name.lower() + "_kernel")
            self.steps.append((call, described(out)))

    def raw(self, operand: Any) -> Any:
        """An operand as forward takes it: a tensor or a number."""
        return self.tensors[operand] if isinstance(operand, Value) else operand

    def operand(self, operand: Any, instruction: Instruction) -> Any:
        """An operand as kernels take it fastest: numbers and scalars as 0-d tensors."""
        value = self.raw(operand)
        if isinstance(value, Tensor):
            return value
        dtype = number_dtype(value, tuple(map(self.raw, instruction.operands)), instruction.out.dtype)
        key = (operand if isinstance(operand, Value) else (type(value), repr(value)), dtype)
        if key not in self.numbers:
            if isinstance(operand, Value):
                self.numbers[key] = torch.zeros((), dtype=dtype, device=instruction.out.device)
                self.written_as[id(self.numbers[key])] = self.host[operand]
                self.filled.add(id(self.numbers[key]))
            else:
                self.numbers[key] = torch.tensor(value, dtype=dtype)
                self.written_as[id(self.numbers[key])] = self.text(value)
        return self.numbers[key]

    def call(self, call: Call) -> str:
        """A kernel call as text. A scalar's 0-d tensor is filled before if any kernel reads it."""
        for tensor in (item for argument in call.args for item in (argument if isinstance(argument, (list, tuple)) else [argument])):
            if id(tensor) in self.filled and id(tensor) not in self.names:
                scalar = self.written_as[id(tensor)]
                self.prelude.append(f"{self.name(tensor, scalar + '_')}.fill_({scalar})")
        arguments = [self.text(argument) for argument in call.args]
        arguments += [f"{key}={self.text(value, key != 'out')}" for key, value in call.keywords.items()]
        of, kernel = getattr(call.func, "__self__", None), getattr(call.func, "__name__", "")
        function = f"{self.text(of)}.{kernel}" if isinstance(of, Tensor) else self.name(call.func, "", kernel)
        return f"{function}({', '.join(arguments)})"

    # ---- memory

    def allocate(self, value: Value) -> Tensor:
        """The tensor that a result is computed into."""
        if value in self.memory.in_state:
            return self.memory.in_state[value].tensor
        layout, slot = self.memory.layout[value], self.memory.slot[value]
        key = (slot, layout.shape, layout.stride, layout.dtype)
        if key not in self.buffers:
            buffer = torch.empty(0, dtype=layout.dtype, device=layout.device)
            self.buffers[key] = buffer.set_(self.arenas[slot].untyped_storage(), 0, layout.shape, layout.stride)
        return self.buffers[key]

    def finish(self) -> None:
        """Leave outputs and the states' new values where they belong."""
        for value in self.code.outputs:
            owner = self.memory.owner.get(value)
            if owner is not None and owner.kind == "result" and owner not in self.memory.in_state:
                self.outputs.append(self.tensors[value])
                continue
            buffer = empty(value) if value.kind != "scalar" else torch.zeros((), dtype=torch.float64)
            self.name(buffer, "out")
            self.outputs.append(buffer)
            self.move(value, buffer)
        pending = []
        for state in self.code.states:
            new = state.update
            if new is None or new is state.value or self.memory.in_state.get(new) is state:
                continue
            owner = self.memory.owner.get(new)
            if owner is not None and owner.kind == "state":  # what may be written to meanwhile
                kept = empty(new)
                self.move(new, kept)
                pending.append(partial(state.tensor.copy_, kept))
            elif new.kind == "scalar":
                self.steps.append((f"{self.text(state.tensor)}.fill_({self.host[new]})", ""))
            else:
                pending.append(partial(state.tensor.copy_, self.tensors[new]))
        self.steps += [(call, "") for call in pending]

    def move(self, value: Value, to: Tensor) -> None:
        """Copy a value into another tensor."""
        if value.kind == "scalar":
            self.prelude.append(f"{self.text(to)}.fill_({self.host[value]})")
        elif to.numel():
            self.steps.append((partial(to.copy_, self.tensors[value]), ""))

    # ---- the function

    def source(self) -> str:
        """The function's text."""
        lines = []
        for step, note in grouped(self.steps):
            line = step if isinstance(step, str) else self.call(step)
            lines.append(line + (f"  # {note}" if note else ""))
        if self.graphed():
            return _function("prepare", self.prelude) + "\n\n" + _function("kernels", lines)
        return _function("step", [*self.prelude, *lines], inference=not self.allocating)

    def compiled(self, source: str) -> Callable[[], None]:
        """The function of this source."""
        namespace = {**self.objects, "inference_mode": torch.inference_mode}
        exec(compile(source, "<replay>", "exec"), namespace)
        if not self.graphed():
            return namespace["step"]  # type: ignore[no-any-return]
        return _graph(namespace["prepare"], namespace["kernels"], [state.tensor for state in self.code.states])

    def graphed(self) -> bool:
        """Whether all is done on one CUDA device and by kernels alone, so that the step can be a CUDA graph."""
        devices = {value.device for value in self.memory.owner}
        return len(devices) == 1 and devices.pop().type == "cuda" and not any(isinstance(step, str) for step, _ in self.steps)


def _function(name: str, lines: list[str], inference: bool = False) -> str:
    """A function as text. In inference mode kernels skip what torch's autograd would look at: measured, a twentieth of their time."""
    head = [f"def {name}():"] + ["    with inference_mode():"] * inference
    return "\n".join(head + ["    " * len(head) + line for line in lines or ["pass"]])


def _graph(prepare: Callable[[], None], kernels: Callable[[], None], states: list[Tensor]) -> Callable[[], None]:
    """A step whose kernels are captured into one CUDA graph, after a first run that leaves the states as they were."""
    before = [tensor.clone() for tensor in states]
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        prepare()
        kernels()
        for tensor, old in zip(states, before):
            tensor.copy_(old)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels()

    def step() -> None:
        prepare()
        graph.replay()

    return step
