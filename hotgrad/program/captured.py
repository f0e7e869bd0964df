"""A function made into a program: run twice while being traced, on different example values, and compared."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import overlapping
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.optim.groups import Slot
from hotgrad.optim.optimizer import Steps
from hotgrad.program.guards import Watch
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.passes import simplified
from hotgrad.program.trace import ProgramTrace
from hotgrad.program.tree import flatten, shown
from hotgrad.program.unsteady import Unsteady


@dataclass
class Captured:
    """A program, and what it takes as given.

    `structure`: what the function returns, see `tree`. `hooks`: the optimizers' part of each run, see `Steps`.
    """

    code: Code
    structure: Any
    hooks: list[Steps]
    watch: Watch
    versions: list[tuple[Tensor, int]]
    memory: list[tuple[Slot, str, Tensor]]
    dtype: torch.dtype | None = field(default_factory=torch.get_default_dtype)  # torch's default; None if nothing depends on it
    lock: Any = field(default_factory=threading.RLock)  # for what runs change

    def __post_init__(self) -> None:
        self._data = [(state.holder, state.tensor) for state in self.code.states if isinstance(state.holder, Variable)]

    def begin(self) -> None:
        """Give the optimizers the state that a first run needs, which is zero: capturing has not left it there, or they were reset."""
        for slot, name, tensor in self.memory:
            if name not in slot.state:
                slot.state[name] = tensor.zero_()

    def changed(self) -> str:
        """What the function depended on while it was captured and is no longer so, in words; "" if all holds."""
        for tensor, version in self.versions:
            if tensor._version != version:
                return f"a tensor of shape {tuple(tensor.shape)} from outside of the function was written to"
        if self.dtype not in (None, torch.get_default_dtype()):
            return f"torch's default dtype was {self.dtype}"
        for variable, tensor in self._data:
            if variable._data is not tensor:
                return f"the data of a Variable of shape {tuple(tensor.shape)} was replaced"
        for slot, name, tensor in self.memory:
            if slot.state.get(name, tensor) is not tensor or (name not in slot.state and slot.count):
                return f"the optimizer's state {name!r} was replaced"
        if not all(hook.steady() for hook in self.hooks):
            return "the optimizer's parameters no longer have the same number of steps"
        return self.watch.changed()


def captured(f: Callable[..., Any], examples: Sequence[Any], roots: Sequence[Any]) -> Captured:
    """The program of `f` for arguments like `examples`, tensors or Variables. `roots`: what `f` depends on, itself included.

    Parameters, buffers, optimizer state, gradients and generators stay as they are. Raises CaptureError for functions that
    cannot be captured; what `f` itself raises comes out.
    """
    watch = Watch(roots)
    # dense, as a program's own memory is
    given = [example._data if isinstance(example, Variable) else example for example in examples]
    tensors = [torch.empty_like(tensor).copy_(tensor) for tensor in given]
    traces, structures = [], []
    variables = [*watch.variables, *(parameter for optimizer in watch.optimizers for parameter in optimizer.parameters)]
    try:
        for values in (tensors, [_other(tensor) for tensor in tensors]):
            traces.append(ProgramTrace(watch.names, list(watch.buffers.values()), variables, watch.seen))
            structures.append(_traced_run(traces[-1], f, values, examples, watch, variables))
        first, second = traces
        if structures[0] != structures[1]:
            raise CaptureError(
                f"the function returned {shown(structures[0])} and then {shown(structures[1])}; it must always return the same structure"
            )
        found = _difference(first.code, second.code)
        if found:
            raise CaptureError(
                f"the function did not compute the same twice: {found}. It may depend on random numbers, the time, or on something that it "
                "changes itself"
            )
        if {*map(id, first.unwatched)} & {*map(id, second.unwatched)}:
            raise CaptureError(
                "the function writes into a tensor or Variable from outside that cannot be watched; make it an attribute or a global"
            )
        memory = [(slot, name, slot.state[name]) for slot, name in first.slots]
    finally:
        for trace in traces:
            for state, name in trace.added:
                state.pop(name, None)
    shared = overlapping([(s.value.name or described(s.value), s.tensor, s.update is not None) for s in first.code.states])
    if shared:
        raise CaptureError(
            f"{shared[0]!r} and {shared[1]!r}, of which the function changes one, overlap in memory; use one Variable or tensor in both places, or clone() one"
        )
    return Captured(simplified(first.code), structures[0], first.hooks, watch, first.versions, memory)


def _traced_run(
    trace: ProgramTrace,
    f: Callable[..., Any],
    values: Sequence[Tensor],
    examples: Sequence[Any],
    watch: Watch,
    variables: Sequence[Variable],
) -> Any:
    """One run of `f`, noted; what it returned, as a structure."""
    leaves = [variable._own_accumulator() for variable in variables if variable.is_leaf]
    unsteady = Unsteady()

    def run() -> Any:
        for leaf in leaves:
            trace.keep_grad(leaf)
        inputs = [trace.input(value, example) for value, example in zip(values, examples)]
        result = f(*inputs) if watch.trusted else unsteady.run(lambda: f(*inputs))
        arrays, structure = flatten(result)
        if not arrays:
            raise CaptureError(f"a captured function must return at least one Variable; got {result!r:.60}")
        trace.code.outputs = [(trace.leaf(a) if isinstance(a, Variable) else trace.constant(a)).value for a in arrays]
        return structure

    structure = trace.run(run, watch.trusted)
    if trace.refused is not None:  # and somebody caught it
        raise trace.refused
    if unsteady.called:
        raise CaptureError(f"the function {unsteady.called}, which gives something else at each run; make it an argument, or use Dropout")
    changed = watch.changed()
    if changed:
        raise CaptureError(f"the function changes what it depends on ({changed}), so its second run would differ from its first")
    for tensor, version in trace.versions:
        if tensor._version != version:
            raise CaptureError(f"the function writes into a tensor of shape {tuple(tensor.shape)}; compute a new value instead")
    states = {state.tensor.untyped_storage().data_ptr() for state in trace.code.states if state.value.numel()}
    for value, tensor in trace.code.constants.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in states:
            raise CaptureError(
                f"the data of a parameter or buffer of shape {value.shape} was used as a plain tensor; use the Variable itself, or its detach()"
            )
    return structure


def _other(tensor: Tensor) -> Tensor:
    """Another example of the same kind: what depends on values will differ."""
    other = torch.empty_like(tensor).copy_(tensor.flip(tuple(range(tensor.ndim))))
    return other.mul_(0.75).add_(0.125) if tensor.is_floating_point() else other


def _difference(a: Code, b: Code) -> str:
    """How two programs differ, in words; "" if they do not."""
    places: dict[Value, Value] = {}  # of values of `b`, the corresponding ones of `a`

    def pair(left: Sequence[Value], right: Sequence[Value]) -> None:
        places.update(zip(right, left))

    for name in ("inputs", "scalars"):
        pair(getattr(a, name), getattr(b, name))
    pair([d.value for d in a.draws], [d.value for d in b.draws])
    pair(list(a.constants), list(b.constants))
    pair([s.value for s in a.states], [s.value for s in b.states])
    for left, right in zip_longest(a.instructions, b.instructions):
        if left is None or right is None:
            return f"it has {len(a.instructions)} instructions and then {len(b.instructions)}"
        if not _same_instruction(left, right, places):
            return f"{_in_words(left)} became {_in_words(right)}"
        places[right.out] = left.out
    for (left, x), (right, y) in zip(a.constants.items(), b.constants.items()):
        if places.get(right) is not left or (x is not y and not _same(x, y)):
            return f"a constant {described(left)} has other values"
    if len(a.constants) != len(b.constants):
        return f"it has {len(a.constants)} constants and then {len(b.constants)}"
    if len(a.states) != len(b.states) or any(s.holder is not t.holder for s, t in zip(a.states, b.states)):
        return "it uses other parameters"
    updates = [(s.update, t.update) for s, t in zip(a.states, b.states)]
    for old, new in [*updates, *zip_longest(a.outputs, b.outputs)]:
        if old is not (places.get(new) if new is not None else None):
            return "it returns or writes something else"
    return ""


def _same_instruction(a: Instruction, b: Instruction, places: dict[Value, Value]) -> bool:
    operands = zip_longest(a.operands, b.operands)
    return (
        a.op is b.op
        and (a.out.shape, a.out.dtype, a.out.device) == (b.out.shape, b.out.dtype, b.out.device)
        and all(x is places.get(y) if isinstance(y, Value) else _same(x, y) for x, y in operands)
        and _same(a.options, b.options)
    )


def _same(a: Any, b: Any) -> bool:
    """Whether options, numbers or tensors are equal, NaN to NaN."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    return bool(a == b)


def _in_words(instruction: Instruction) -> str:
    operands = ", ".join(described(o) if isinstance(o, Value) else repr(o) for o in instruction.operands)
    options = "".join(f", {name}={value!r:.40}" for name, value in instruction.options.items())
    return f"{instruction.op.name}({operands}{options})"
