"""A function made into a program: run twice while being traced, on different example values, and compared; and later once more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import overlapping
from hotgrad.core.scalars import Hook, Lifted
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.optim.groups import Slot
from hotgrad.program.comparison import Comparison, Diverged, Examples, Place
from hotgrad.program.constants import Constants, Contents, equal_bits
from hotgrad.program.differences import difference, same
from hotgrad.program.guards import Watch
from hotgrad.program.instructions import Code, Instruction, Value, described
from hotgrad.program.passes import simplified
from hotgrad.program.trace import ProgramTrace
from hotgrad.program.tree import flatten, shown

_CHANGES = "the function changes what it depends on ({}), so its second run would differ from its first"


@dataclass
class Captured:
    """A program, and what it takes as given.

    `structure`: what the function returns, see `tree`. `hooks`: what gives the program's scalars at each run. `first`: the trace
    that it was made of, and `run` traces the function again; None for a program out of a file.
    """

    code: Code
    structure: Any
    hooks: list[Hook] = field(default_factory=list)
    watch: Watch = field(default_factory=lambda: Watch([]))
    constants: Constants = field(default_factory=lambda: Constants({}, ()))
    options: list[Contents] = field(default_factory=list)  # tensors that are no operands, such as an index
    memory: list[tuple[Slot, str, Tensor]] = field(default_factory=list)
    dtype: torch.dtype | None = field(default_factory=torch.get_default_dtype)  # torch's default; None if nothing depends on it
    first: ProgramTrace | None = None
    run: Callable[[Comparison, Watch], None] | None = None
    lock: Any = field(default_factory=threading.RLock)  # for what runs change

    def __post_init__(self) -> None:
        self._data = [(state.holder, state.tensor) for state in self.code.states if isinstance(state.holder, Variable)]
        self._lifted = Lifted()  # at the places below
        self._places: list[Place] = []
        self._spoilt = False
        self._examples: Examples | None = None
        own = {i.op: None for i in self.code.instructions if not i.op.__module__.startswith("hotgrad.")}
        self._forwards = Watch([*own]) if own else None  # what ops of the user's compute with, which no trace shows

    def begin(self) -> None:
        """Give the optimizers the state that a first run needs, which is zero: capturing has not left it there, or they were reset."""
        for slot, name, tensor in self.memory:
            if name not in slot.state:
                slot.state[name] = tensor.zero_()

    # ---- whether it still stands for its function

    def changed(self) -> str:
        """What the function depended on while it was captured and is no longer so, in words; "" if all that is watched holds."""
        return self._replaced() or self.watch.changed()

    def _replaced(self, following: bool = False) -> str:
        """What no other numbers in the same program can follow, in words; with `following` other data of parameters can be followed."""
        if self.options:
            written = [contents.changed() for contents in self.options]
            self._spoilt = self._spoilt or any(written)
        if self._spoilt:
            return "a tensor that is used as an index, or in another option of an op, was written to"
        if self.dtype not in (None, torch.get_default_dtype()):
            return f"torch's default dtype was {self.dtype}"
        for variable, tensor in self._data:
            if variable._data is not tensor and not (following and _alike(variable._data, tensor)):
                return f"the data of a Variable of shape {tuple(tensor.shape)} was replaced"
        for slot, name, tensor in self.memory:
            if slot.state.get(name, tensor) is not tensor or (name not in slot.state and slot.steps):
                return f"the optimizer's state {name!r} was replaced"
        if not all(hook.steady() for hook in self.hooks):
            return "the optimizer's parameters no longer have the same number of steps"
        return "" if self._forwards is None else self._forwards.changed()

    def stale(self) -> str:
        """What has changed so that the function is another program, or one with other numbers, in words; "" if it is the same one.

        It is traced only where something has changed.
        """
        how = self._replaced()
        if how or not self.watch.changed():
            return how
        how = self.watch.changes()
        try:
            return how if self.verify() else ""
        except Exception:  # of a function that can no longer be traced
            return how

    def verify(self) -> str:
        """How the function traced again is another program, or one with other numbers, in words; "" if it is the same. Nothing else
        changes. Raises what the function raises.
        """
        how = self._replaced()
        if how:
            return how
        watch = Watch(self.watch.roots)
        found = self.compared(watch)
        how = found.different
        if not how and found.numbers:
            (i, place), number = next(iter(found.numbers.items()))
            how = f"a number in it was {self.first.code.instructions[i].operands[place]!r} and is {number!r}"  # type: ignore[union-attr]
        if not how and any(not equal_bits(self.constants.tensors[value], tensor) for value, tensor in found.tensors.items()):
            how = "a tensor in it has other values"
        if not how:
            self.watch = found.watch
        return how

    def compared(self, watch: Watch) -> Comparison:
        """The function traced again and compared with the program. Nothing changes, but for what a first run fills, such as a cache
        that was cleared: `watch`, of what it depends on, may be another one in the result.

        Raises what the function raises.
        """
        found = self._traced(watch)
        found.watch = _settled(watch)
        if found.watch is not watch:  # then a second run must leave it, and give the same
            again = self._traced(found.watch)
            if found.watch.changed() or again.different != found.different or not same(again.numbers, found.numbers):
                changed = watch.changed()
                watch.restore()
                raise CaptureError(_CHANGES.format(changed))
            again.watch = found.watch
            return again
        return found

    def _traced(self, watch: Watch) -> Comparison:
        if self.first is None or self.run is None:
            raise CaptureError("a program out of a file has no function to be compared with")
        if self._examples is None:
            self._examples = Examples(self.first.code)
        missing = [(slot, name) for slot, name, _ in self.memory if name not in slot.state]
        comparison = Comparison(self.first, watch.all_variables(), self._examples)
        self.begin()
        try:
            self.run(comparison, watch)
        except Diverged:
            pass
        finally:
            comparison.take_back()
            for slot, name in missing:
                slot.state.pop(name, None)
        return comparison

    def follow(self) -> bool | None:
        """Bring the program to what its function computes now: traced again and compared, with other numbers in it where they differ.

        True if it is then ready to run as before, False if `code` is another one, with more scalars, and None if the function is
        another program.
        """
        if self._replaced(following=True):
            return None
        other_data = any(variable._data is not tensor for variable, tensor in self._data)
        if other_data and _overlap(self.code):
            return None
        self.watch = self.watch.renewed()
        found = self.compared(self.watch)
        self.watch = found.watch
        if found.different or self.first is None:
            return None
        instructions = self.first.code.instructions
        if not all(_liftable(instructions[i], place, number) for (i, place), number in found.numbers.items()):
            return None
        new = [place for place in found.numbers if place not in self._places]
        lost = [value for value in found.tensors if value not in self.constants.own]
        if new or lost:
            self.constants.release(lost)
            self._lift(self._places + new)
        now = {
            value: found.tensors.get(value, self.first.code.constants[value]) for value in self.constants.own if value.kind == "constant"
        }
        if not self.constants.replace(now):
            return None
        originals = (instructions[i].operands[place] for i, place in self._places)
        self._lifted.numbers = [float(found.numbers.get(place, original)) for place, original in zip(self._places, originals)]
        self._data = [(variable, variable._data) for variable, _ in self._data]
        return not (new or lost or other_data)

    def _lift(self, places: list[Place]) -> None:
        """Make the numbers at these places scalars of the program."""
        code = self.first.code  # type: ignore[union-attr]
        values = [Value.scalar() for _ in places]
        at: dict[int, dict[int, Value]] = {}
        for (i, place), value in zip(places, values):
            at.setdefault(i, {})[place] = value
        lifted = code.replaced([_with(instruction, at.get(i, {})) for i, instruction in enumerate(code.instructions)])
        lifted.scalars = [*code.scalars, *values]
        lifted.constants = {value: self.constants.tensors[value] for value in code.constants}
        if not self._places and places:
            self.hooks.append(self._lifted)
        self._places, self._lifted.values = places, values
        self.code = simplified(lifted, self.constants)


def _with(instruction: Instruction, operands: dict[int, Value]) -> Instruction:
    """The instruction with other operands at these places."""
    given = tuple(operands.get(place, operand) for place, operand in enumerate(instruction.operands))
    return Instruction(instruction.op, given, instruction.options, instruction.out)


def _liftable(instruction: Instruction, place: int, number: Any) -> bool:
    """Whether another number there makes the same program, to the bit: arithmetic in floats, whose results have the same dtype, and which no
    native function chooses by the number, as Pow does.
    """
    before = instruction.operands[place]
    if callable(instruction.op.native):
        return False
    floats = all(operand.dtype.is_floating_point for operand in instruction.reads())
    return instruction.op.numbers and floats and all(type(n) in (int, float) and _exact(n) for n in (before, number))


def _exact(number: float) -> bool:
    """Whether it is a float, or a whole number that is the same as one."""
    return type(number) is float or abs(number) < 2**53


def captured(f: Callable[..., Any], examples: Sequence[Any], roots: Sequence[Any], watched: bool = False) -> Captured:
    """The program of `f` for arguments like `examples`, tensors or Variables. `roots`: what `f` depends on, itself included.

    Parameters, buffers, optimizer state, gradients and generators stay as they are. Raises CaptureError for functions that
    cannot be captured, with `watched` also for those that depend on something that cannot be watched; what `f` itself raises comes out.
    """
    watch = before = Watch(roots)
    # dense, as a program's own memory is
    given = [example._data if isinstance(example, Variable) else example for example in examples]
    tensors = [torch.empty_like(tensor).copy_(tensor) for tensor in given]
    kinds = [(isinstance(e, Variable) and e.requires_grad, not isinstance(e, Variable)) for e in examples]
    traces: list[ProgramTrace] = []

    def trace_once(values: list[Tensor]) -> tuple[ProgramTrace, Any]:
        trace = ProgramTrace(watch.names, list(watch.buffers.values()), watch.all_variables(), watch.seen)
        traces.append(trace)
        trace.code.outputs, structure = _traced_run(trace, f, partial(_inputs, trace, list(zip(values, kinds))), watch)
        trace.settle()
        return trace, structure

    try:
        first, structure = trace_once(tensors)
        watch = _settled(before)
        second, again_structure = trace_once([_other(tensor) for tensor in tensors])
        _check_settled(watch)
        found = difference(first.code, second.code)
        if structure != again_structure:
            found = f"it returned {shown(structure)} and then {shown(again_structure)}; it must always return the same structure"
        if found:
            raise CaptureError(
                f"the function did not compute the same twice: {found}. It may depend on random numbers, the time, or on something that it "
                "changes itself"
            )
        if {*map(id, first.unwatched)} & {*map(id, second.unwatched)}:
            raise CaptureError(
                "the function writes into a tensor or Variable from outside that cannot be watched; make it an attribute or a global"
            )
    except BaseException:
        before.restore()
        raise
    finally:
        for trace in traces:
            trace.take_back()
    _check_memory(first)
    if watched and watch.open:
        raise CaptureError(
            f"the function depends on something that cannot be watched, so its program could become stale: {watch.first_open()}. Make what it "
            "gives an argument, or capture with verify=True, which traces the function again at each call and compares"
        )
    twice = zip(first.code.constants.items(), second.code.constants.values())
    constants = Constants(dict(first.code.constants), [value for (value, a), b in twice if a is not b])
    code = simplified(first.code, constants)

    def again(comparison: Comparison, watch: Watch) -> None:
        outputs, now = _traced_run(comparison, f, lambda: [comparison.input_like(*kind) for kind in kinds], watch)
        if now != structure:
            comparison.different = f"it returned {shown(structure)} and returns {shown(now)}"
        comparison.finish(outputs)

    options = [Contents(tensor) for tensor in first.option_tensors]
    return Captured(code, structure, [*first.hooks], watch, constants, options, first.kept_memory, first=first, run=again)


def _settled(watch: Watch) -> Watch:
    """What watches what a first run has left, such as a table that it filled. Raises CaptureError where it left something of its own."""
    changed = watch.changed()
    if not changed:
        return watch
    try:
        return Watch(watch.roots)  # another one, as the first knows what to bring back
    except CaptureError:
        raise CaptureError(_CHANGES.format(changed)) from None


def _check_settled(watch: Watch) -> None:
    changed = watch.changed()
    if changed:
        watch.restore()
        raise CaptureError(_CHANGES.format(changed))


def _traced_run(trace: ProgramTrace, f: Callable[..., Any], inputs: Callable[[], list[Any]], watch: Watch) -> tuple[list[Value], Any]:
    """One run of `f`, noted; the values that it returned, and their structure."""
    leaves = [variable._own_accumulator() for variable in watch.all_variables() if variable.is_leaf]
    unsteady = trace.guard

    def run() -> tuple[list[Value], Any]:
        for leaf in leaves:
            trace.keep_grad(leaf)
        given = inputs()
        result = f(*given) if watch.trusted else unsteady.run(lambda: f(*given))
        arrays, structure = flatten(result)
        if not arrays:
            raise CaptureError(f"a captured function must return at least one Variable; got {result!r:.60}")
        return [(trace.leaf(a) if isinstance(a, Variable) else trace.constant(a)).value for a in arrays], structure

    try:
        outputs, structure = trace.run(run, watch.trusted)
        if trace.refused is not None:  # and somebody caught it
            raise trace.refused
        if unsteady.called:
            raise CaptureError(
                f"the function {unsteady.called}, which gives something else at each run; make it an argument, or use Dropout"
            )
    except BaseException:
        watch.restore()
        raise
    for tensor, version in trace.versions:
        if tensor._version != version:
            raise CaptureError(f"the function writes into a tensor of shape {tuple(tensor.shape)}; compute a new value instead")
    return outputs, structure


def _check_memory(trace: ProgramTrace) -> None:
    """Raises CaptureError if states that are written to lie in memory that is also read as something else."""
    shared = _overlap(trace.code)
    if shared:
        raise CaptureError(shared)


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether one can stand where the other does, for every engine."""
    return (a.shape, a.dtype, a.device, a.stride(), a.is_neg()) == (b.shape, b.dtype, b.device, b.stride(), b.is_neg())


def _overlap(code: Code) -> str:
    """How states that are written to lie in memory that is also read as something else, in words; "" if they do not."""
    states = {state.tensor.untyped_storage().data_ptr() for state in code.states if state.value.numel()}
    for value, tensor in code.constants.items():
        if tensor.numel() and tensor.untyped_storage().data_ptr() in states:
            return f"the data of a parameter or buffer of shape {value.shape} was used as a plain tensor; use the Variable itself, or its detach()"
    shared = overlapping([(s.value.name or described(s.value), s.tensor, s.update is not None) for s in code.states])
    if shared:
        return f"{shared[0]!r} and {shared[1]!r}, of which the function changes one, overlap in memory; use one Variable or tensor in both places, or clone() one"
    return ""


def _inputs(trace: ProgramTrace, given: list[tuple[Tensor, tuple[bool, bool]]]) -> list[Any]:
    return [trace.input(tensor, *kind) for tensor, kind in given]


def _other(tensor: Tensor) -> Tensor:
    """Another example of the same kind: what depends on values will differ."""
    other = torch.empty_like(tensor).copy_(tensor.flip(tuple(range(tensor.ndim))))
    return other.mul_(0.75).add_(0.125) if tensor.is_floating_point() else other
