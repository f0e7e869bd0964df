"""Capture: calls of ops noted as instructions of a program, while the function runs on example values.

While a ProgramTrace is on (`state.trace`), every op call on this thread comes to `ProgramTrace.apply`, gradient rules and update rules included,
since those are made of ops. What a call gives is a Traced Variable: it knows shape and dtype, and refuses to tell its values,
which would differ at each run. torch functions called on plain tensors are refused for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy, number_in
from hotgrad.core.explain import fail
from hotgrad.core.modes import MODE, Mode, Tape, state, surely
from hotgrad.core.moving import untraced
from hotgrad.core.operands import as_operands, tensors_in
from hotgrad.core.primitive import Primitive, primitives
from hotgrad.core.records import MADE, NO_ACCUMULATOR, NO_ACCUMULATORS, Accumulator, Record, next_sequence
from hotgrad.core.scalars import Hook, Moving, Scalar
from hotgrad.core.trace import Trace
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError, DtypeError, OperandError
from hotgrad.modules.parameters import LazyParameter
from hotgrad.optim.groups import Slot
from hotgrad.optim.optimizer import Steps
from hotgrad.program.instructions import Code, Draw, Instruction, State, Value
from hotgrad.program.torch_calls import TorchCalls, where
from hotgrad.program.traced import EARLIER, Earlier, Traced, address
from hotgrad.program.unsteady import Unsteady, draws

T = TypeVar("T")


class ProgramTrace(Trace):
    """One run of a function, noted as `code`."""

    def __init__(self, names: dict[int, str], buffers: Sequence[Tensor], variables: Sequence[Variable], known: Iterable[int]) -> None:
        self.code = Code()
        self.owners = {id(variable._data): variable for variable in variables if not isinstance(variable, LazyParameter)}
        self.known = {*known, *self.owners, *map(id, variables)}  # by id: what was there before the run; all else is made in it
        self.unwatched: list[Variable | Tensor] = []  # those made in the run that were written to
        self.names = names  # of Variables and buffers, by id
        self.barriers = 0
        self.leaves: set[int] = set()  # by id: Variables that were made in the run and require a gradient
        self.inside = 0  # more than 0 while an op's forward or a rule runs, which may call torch
        self.made: list[Traced] = []
        self.refused: CaptureError | None = None
        self.guard = Unsteady()
        self.hooks: list[Hook] = []  # what gives the scalars of each run, and hears of its end
        self.events: list[tuple[str, Any, Value]] = []  # what came from outside or was written to, in order
        self.current: dict[int, Traced] = {}  # by id: what a Variable or tensor from outside, or one written to, stands for now
        self.outside: list[Tensor] = []  # memory that is there without the program
        self.written: set[int] = set()  # memory that has other contents by now; what stands there was computed elsewhere
        self.kept: list[object] = []  # so that no id is used twice
        self.versions: list[tuple[Tensor, int]] = []
        self.option_tensors: list[Tensor] = []
        self.grads: list[tuple[Accumulator, Any]] = []
        self.hidden: set[int] = set()
        self.moved: dict[Any, Scalar] = {}  # by owner and name
        self.kept_memory: list[tuple[Slot, str, Tensor]] = []  # what optimizers keep, by name
        self.added: list[tuple[dict[str, Any], str]] = []  # and that of it which was made on the way
        self.buffers = {id(buffer) for buffer in buffers}

    # ---- running

    def run(self, body: Callable[[], T], trusted: bool = False) -> T:
        """What `body()` gives, traced. Then gradients of leaves are what they were, whatever happened.

        Trusted code, hotgrad's own, is not watched for torch calls on plain tensors, which takes most of the time otherwise.
        """
        now = state.now
        if now.trace is not None:
            raise CaptureError("a capture is going on already on this thread; captures do not nest")
        watching = TorchCalls(self)

        def traced() -> T:
            MODE.set(Mode(Tape(), now.recording, self, now))
            with nullcontext() if trusted else watching:
                return body()

        return surely(traced, watching.leave, self._end)

    def _end(self) -> None:
        for accumulator, grad in self.grads:
            accumulator.grad = grad
        for traced in self.made:
            try:  # noqa: SIM105 - there are thousands
                del traced._data, traced._link, traced._accumulator
            except AttributeError:  # it was, when Ctrl-C came
                pass
        self.made.clear()

    @contextmanager
    def internal(self) -> Iterator[None]:
        """Inside, torch functions may be called."""
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    @contextmanager
    def external(self) -> Iterator[None]:
        """Inside, a user's function runs in the middle of a walk."""
        inside, self.inside = self.inside, 0
        try:
            yield
        finally:
            self.inside = inside

    @contextmanager
    def looking_away(self) -> Iterator[None]:
        """Inside, code runs whose calls of clocks and dice need not be looked at."""
        self.guard.pause()
        try:
            yield
        finally:
            self.guard.go_on()

    def refuse(self, message: str) -> NoReturn:
        """Raise CaptureError, and remember it: the capture fails even if the function catches it."""
        raise self.remember(message)

    def remember(self, message: str) -> CaptureError:
        """The error with which the capture will fail once the function has ended."""
        error = CaptureError(message)
        self.refused = self.refused or error
        return error

    def new(self, data: Tensor, value: Value, link: Record | Accumulator | None = None, plain: bool = False) -> Traced:
        """A Traced Variable of `data` at this place in the program and in the graph."""
        out = Traced.__new__(Traced)
        out._data, out._link, out._accumulator, out.value, out.plain = data, link, MADE if plain else NO_ACCUMULATOR, value, plain
        self.made.append(out)
        return out

    def independent(self, variable: Variable) -> Traced:
        """The same value as a leaf of its own that requires a gradient."""
        now = self.leaf(variable)
        found = self.new(now._data, now.value)
        found._link = found._accumulator = Accumulator(now._data)
        return found

    def made_leaf(self, variable: Variable) -> None:
        """Hear of a Variable that was made with `requires_grad` in the run."""
        self.leaves.add(id(variable))
        self.kept.append(variable)
        self.grads.append((variable._accumulator, None))

    def placed(self, op: type[Primitive], value: Variable, operands: list[Any], options: dict[str, Any] | None) -> Traced:
        """`value` as what `op` gives for these operands, without an instruction."""
        now = self.leaf(value)
        given = [self.leaf(x) if isinstance(x, Variable) else x for x in operands]
        links = tuple([x._link if isinstance(x, Traced) else None for x in given])
        if not state.recording or not any(link is not None for link in links):
            return self.new(now._data, now.value)
        return self.new(now._data, now.value, self._record(op, given, links, options, now._data, now.value, state.now.tape))

    @contextmanager
    def standing_in(self, pairs: list[tuple[Variable, Variable]]) -> Iterator[None]:
        """Inside, the second of each pair is taken for the first."""
        before = dict(self.current)
        for variable, other in pairs:
            self.current[id(variable)] = self.leaf(other)
        try:
            yield
        finally:
            for variable, _ in pairs:
                if id(variable) in before:
                    self.current[id(variable)] = before[id(variable)]
                else:
                    del self.current[id(variable)]

    def barrier(self, variable: Variable) -> Any:
        """The same value, of which computations are never taken for those of the original."""
        self.barriers += 1
        return self.apply(primitives()["Alias"], (variable,), {"barrier": self.barriers})

    # ---- what comes from outside

    def input(self, tensor: Tensor, requires_grad: bool = False, plain: bool = False) -> Traced:
        """An input of the program, with `tensor` as its example; `plain`: eager execution has a tensor in its place."""
        value = self.arrived("input", None, lambda: Value.like("input", tensor))
        self.code.inputs.append(value)
        self.outside.append(tensor)
        traced = self.new(tensor, value, None, plain)
        if requires_grad:
            traced._link = traced._accumulator = Accumulator(tensor)
        return traced

    def arrived(self, kind: str, what: Any, value: Callable[[], Value]) -> Value:
        """Note what came from outside, and its new Value."""
        made = value()
        self.events.append((kind, what, made))
        return made

    def scalar(self, example: float, name: str, hook: Hook | None = None) -> Scalar:
        """A number that is given at each run, by `hook`."""
        value = self.arrived("scalar", name, lambda: Value.scalar(name))
        (self.code.scalars if hook is None else hook.values).append(value)
        return Scalar(value, example, self._note_scalar)

    def moving(self, owner: Any, name: str, number: Callable[[int], float]) -> Scalar:
        """A number that hotgrad itself changes; see `core.moving`."""
        earlier = [hook for hook in self.hooks if isinstance(hook, Steps) and hook.ended and hook.moves(owner)]
        key = (id(owner), name, len(earlier))
        if key not in self.moved:
            hook = Moving(owner, name, number, bool(earlier))
            going_on = [i for i, other in enumerate(self.hooks) if isinstance(other, Steps) and not other.ended]
            self.hooks.insert(going_on[0] if going_on else len(self.hooks), hook)  # a rule reads it before the step has moved it
            self.moved[key] = self.scalar(untraced(lambda: float(number(0))), name, hook)
        return self.moved[key]

    def take_back(self) -> None:
        """Remove what was added to the state of optimizers."""
        for kept, name in self.added:
            kept.pop(name, None)

    def settle(self) -> None:
        """After the run: the scalars in the order of the hooks that give them."""
        for hook in self.hooks:
            if isinstance(hook, Moving):
                hook.moved = any(isinstance(other, Steps) and other.moves(hook.owner) for other in self.hooks)
        self.code.scalars += [value for hook in self.hooks for value in hook.values]

    def _note_scalar(self, op: str, operands: tuple[Any, ...]) -> Scalar:
        values = tuple(o.value if isinstance(o, Scalar) else o for o in operands)
        value = self._instruction(primitives()[op], values, {}, Value.scalar)
        return Scalar(value, 1.0, self._note_scalar)

    def _instruction(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any], out: Callable[[], Value]) -> Value:
        """Note an instruction; its result."""
        value = out()
        self.code.instructions.append(Instruction(op, operands, options, value))
        return value

    def gradient(self, g: Traced, shared: bool, create_graph: bool) -> Traced:
        """As backward leaves a gradient: dense, since some kernels sum in another order otherwise, in memory of its own, and no Variable."""
        if not isinstance(g, Traced) or (shared and not g.value.is_contiguous()):  # a rule may give a constant: zero
            g = self.apply(primitives()["Copy"], (g,), None)
        if create_graph:
            return g
        return self.new(self._apart(g._data) if shared else g._data, g.value, g._link, plain=True)

    def _apart(self, data: Tensor) -> Tensor:
        """An example like `data` in memory of its own."""
        with self.internal():
            return data.clone()

    def accumulate(self, old: Traced, g: Traced, create_graph: bool) -> Traced:
        """The sum of a gradient that is there and one that a backward adds, in the memory of the first if it is no Variable."""
        total: Traced = self.apply(primitives()["Add"], (old, g), None)
        if create_graph or not old.plain:
            return total
        self.write(old, total)
        return old

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Traced:
        """Random numbers, new at each run: see Draw."""
        with self.internal():
            example = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
        value = self.arrived("draw", generator, lambda: Value.like("draw", example))
        self.code.draws.append(Draw(value, generator))
        return self.new(example, value, None, True)

    def constant(self, tensor: Tensor) -> Traced:
        """A tensor from outside, or made by hotgrad on the way: a state if it is a buffer, else a constant."""
        if id(tensor) in self.owners:
            now = self.leaf(self.owners[id(tensor)])
            return self.new(now._data, now.value, None, plain=True)
        found = self.current.get(id(tensor))
        if found is None:
            if id(tensor) in self.buffers:
                return self._state(tensor, tensor, None)
            value = self.arrived("constant", tensor, lambda: Value.like("constant", tensor))
            self.code.constants[value] = tensor
            self.versions.append((tensor, tensor._version))
            self.kept.append(tensor)
            self.outside.append(tensor)
            found = self.current[id(tensor)] = self.new(tensor, value, None, True)
        return found

    def leaf(self, variable: Variable) -> Traced:
        """A Variable as it stands now in the program."""
        found = self.current.get(id(variable), variable)
        if isinstance(found, Traced):
            # a state not written to yet may be a slice beside one that was; those that overlap are refused in the end
            if self.written and (found is variable or found.value.kind != "state") and address(found._data) in self.written:
                self.refuse(
                    f"a Variable of shape {tuple(found.shape)} was used{where()} after memory that it shares was written to, as by +=; "
                    "make it a value of its own, with clone() or an op that computes, or use it before"
                )
            return found
        if not variable.is_leaf:
            raise CaptureError(
                f"a Variable computed outside of the captured function{where()} (op {variable.previous_op.name}) was used in it; "  # type: ignore[union-attr]
                "compute it inside, or detach() it"
            )
        if variable._accumulator in NO_ACCUMULATORS:
            return self.constant(variable._data)
        if id(variable) in self.leaves:  # made in this run, to take gradients with respect to it
            now = self.constant(variable._data)
            found = self.current[id(variable)] = self.new(now._data, now.value, variable._link)
            return found
        self.keep_grad(variable._accumulator)
        return self._state(variable, variable._data, variable._link)

    def keep_grad(self, accumulator: Accumulator) -> None:
        """Hide this leaf's gradient, and give it back when the capture ends."""
        if id(accumulator) not in self.hidden:
            self.hidden.add(id(accumulator))
            self.grads.append((accumulator, accumulator.grad))
            accumulator.grad = EARLIER

    def _state(self, holder: Variable | Tensor, data: Tensor, link: Record | Accumulator | None) -> Traced:
        name = self.names.get(id(holder), "") or getattr(holder, "name", None) or ""
        value = self.arrived("state", holder, lambda: Value.like("state", data, name))
        self.code.states.append(State(value, holder))
        self.kept.append(holder)
        self.outside.append(data)
        found = self.current[id(holder)] = self.new(data, value, link, isinstance(holder, Tensor))
        return found

    def memory(self, slot: Slot, name: str) -> Traced:
        """What an optimizer keeps for a parameter under this name, zero at first, as it stands now in the program."""
        if name not in slot.state:
            with self.internal():
                slot.state[name] = torch.zeros_like(slot.parameter._data)
            self.added.append((slot.state, name))
        tensor = slot.state[name]
        self.kept_memory.append((slot, name, tensor))
        self.buffers.add(id(tensor))
        self.names.setdefault(id(tensor), f"{self.names.get(id(slot.parameter), 'w')}.{name}")
        return self.constant(tensor)

    def write(self, target: Variable | Tensor, new: Traced) -> None:
        """Write `new` where `target` is in memory, as `target += b` does; from here on it stands for that."""
        if not isinstance(target, Traced):
            self._write_outside(target, new)
            return
        old = self.leaf(target)
        if old.numel() and any(address(tensor) == address(old._data) for tensor in self.outside):
            what = "an argument of the function" if old.value.kind == "input" else "part of a Variable or tensor from outside"
            self.refuse(
                f"{what} would be written to in place{where()}; compute a new value, as in v = v + w, or write to the whole Variable"
            )
        self.events.append(("write", new.value, old.value))
        self._forget(old._data)
        self.current[id(target)] = self._cast(new, old)

    def _write_outside(self, target: Variable | Tensor, new: Traced) -> None:
        if id(target) in self.known or id(target) in self.buffers:
            self.update(target, new)
            return
        old = self.leaf(target) if isinstance(target, Variable) else self.constant(target)
        self.events.append(("write", new.value, old.value))
        self.unwatched.append(target)
        self._forget(old._data)
        holder = target._data if isinstance(target, Variable) and target._accumulator in NO_ACCUMULATORS else target
        self.current[id(holder)] = self._cast(new, old)

    def _forget(self, memory: Tensor) -> None:
        if memory.numel():
            self.written.add(address(memory))

    def overwritten(self, traced: Traced) -> bool:
        """Whether other values stand by now where this one was in memory."""
        if not self.written:
            return False
        return self.current.get(id(traced), traced) is not traced or address(traced._data) in self.written

    def _cast(self, new: Traced, old: Traced) -> Traced:
        if new.dtype != old.dtype:
            new = self.apply(primitives()["Cast"], (new,), {"dtype": old.dtype, "device": None})
        return new

    def update(self, holder: Variable | Tensor, new: Traced) -> None:
        """Leave `new` in this Variable or tensor at the end of each run; from here on it stands for that."""
        old = self.leaf(holder) if isinstance(holder, Variable) else self.constant(holder)
        holder = self.owners.get(id(holder), holder)
        name = self.names.get(id(holder), "")
        if isinstance(holder, Variable) and holder._accumulator in NO_ACCUMULATORS:
            holder = holder._data
        if old.value in self.code.constants:
            del self.code.constants[old.value]
            self.versions = [(tensor, version) for tensor, version in self.versions if tensor is not holder]
            old.value.kind, old.value.name = "state", name
            self.code.states.append(State(old.value, holder))
        new = self._cast(self.leaf(new), old)
        if (new.shape, new.device) != (old.shape, old.device):
            raise CaptureError(
                f"an update of {tuple(old.shape)} {old.dtype} on {old.device} gives {tuple(new.shape)} {new.dtype} on {new.device}"
            )
        next(s for s in self.code.states if s.holder is holder).update = new.value
        self.events.append(("update", new.value, old.value))
        self._forget(old._data)
        self.outside.append(new._data)
        self.current[id(holder)] = self.new(new._data, new.value, old._link if isinstance(holder, Variable) else None, old.plain)

    # ---- ops

    def apply(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Any:
        """Note a call of `op`; its result is a Traced Variable."""
        given, tensors, links, plain = self._operands(op, operands)
        for tensor in tensors_in(options if isinstance(options, dict) else None):
            self.versions.append((tensor, tensor._version))
            self.option_tensors.append(tensor)
        drawn = False
        self.inside += 1
        try:
            if op.__module__.startswith("hotgrad."):
                out = op.forward(*tensors, **(options or {}))
            else:
                out, drawn = draws(lambda: op._call(*tensors, **(options or {})))
            if out.is_complex():
                raise DtypeError("complex data is not supported. Use its real and imaginary parts")
        except Exception as error:
            fail(op, tensors, options, error)
        finally:
            self.inside -= 1
        if drawn:
            self.refuse(f"{op.name}: its forward draws random numbers{where()}, others at each run; make them an operand, or use Dropout")
        options = self._plain_options(options)
        values = tuple([g.value if type(g) is Traced or type(g) is Scalar else g for g in given])
        value = self._instruction(op, values, options, lambda: Value.like("result", out))
        return self._result(op, given, links, options, out, value, plain)

    def _operands(self, op: type[Primitive], operands: tuple[Any, ...]) -> tuple[list[Any], list[Any], list[Any], bool]:
        """The operands of a call as they stand in the program, as forward takes them, their links, and whether the result is plain."""
        given: list[Any] = []
        tensors: list[Any] = []
        links: list[Record | Accumulator | None] = []
        plain, numbers, traced = True, False, False
        for operand in operands:
            g = self.leaf(operand) if isinstance(operand, Variable) else self._traced_operand(op, operand)
            given.append(g)
            if type(g) is Traced:
                traced = True
                tensors.append(g._data)
                links.append(g._link)
                plain = plain and (operand.plain if type(operand) is Traced else not isinstance(operand, Variable))
            else:
                tensors.append(g.example if type(g) is Scalar else g)
                links.append(None)
                numbers = True
        if numbers and (not op.numbers or not traced):
            self._refuse_scalars(op, given)
            with self.internal():
                tensors = as_operands(op, tensors)
            given = [self.constant(t) if isinstance(t, Tensor) and not isinstance(g, Traced) else g for g, t in zip(given, tensors)]
        return given, tensors, links, plain

    def _plain_options(self, options: dict[str, Any] | None) -> dict[str, Any]:
        return {name: tuple(option) if type(option) is torch.Size else option for name, option in (options or {}).items()}

    def _result(
        self, op: type[Primitive], given: list[Any], links: list[Any], options: dict[str, Any], out: Tensor, value: Value, plain: bool
    ) -> Traced:
        """What stands for the result of a call, with a record where one is due."""
        recorded = any(link is not None for link in links) and op.differentiable and not op.plain and value.dtype.is_floating_point
        if recorded and state.now.recording:
            return self.new(out, value, self._record(op, given, tuple(links), options or None, out, value, state.now.tape))
        return self.new(out, value, None, plain or op.plain)

    def _traced_operand(self, op: type[Primitive], operand: Any) -> Any:
        """An operand that is no Variable as a Traced one, a Scalar or a number."""
        if isinstance(operand, Tensor):
            if operand.requires_grad:
                raise OperandError(f"{op.name}: an operand requires a torch gradient; wrap it in a Variable, or detach() it")
            return self.constant(as_tensor(operand))
        if isinstance(operand, (bool, int, float, Scalar)):
            return operand
        if isinstance(operand, Earlier):
            operand._refuse()
        if is_numpy(operand):
            return self.constant(as_tensor(operand)) if operand.shape else self._traced_operand(op, number_in(operand))
        raise OperandError(f"{op.name}: operands are Variables, tensors, numpy arrays and numbers; got {operand!r:.60}")

    def _refuse_scalars(self, op: type[Primitive], given: Sequence[Any]) -> None:
        if any(isinstance(g, Scalar) for g in given):
            raise CaptureError(
                f"{op.name} was called on a number that differs from step to step; calculate with it by + - * / ** only, or declare "
                "`numbers = True` if the op is yours and its forward takes Python numbers"
            )

    def _record(
        self,
        op: type[Primitive],
        given: Sequence[Any],
        links: tuple[Record | Accumulator | None, ...],
        options: dict[str, Any] | None,
        out: Tensor,
        value: Value,
        tape: Tape,
    ) -> Record:
        """A record whose rules will run on Traced Variables."""
        record = Record()
        keep, _ = op.keeps(tuple([link is not None for link in links]))
        guards: list[Any] = []
        for g, kept in zip(given, keep):
            if kept and type(g) is Traced:
                guards += (g, 0)
        record.op, record.parents, record.options, record.operands = op, links, options, tuple(given)
        record.guards = tuple(guards) or None
        record.shape, record.dtype, record.device = torch.Size(value.shape), value.dtype, value.device
        record.accumulator = NO_ACCUMULATOR
        record.out = self.new(out, value, record)  # type: ignore[assignment]
        record.sequence = next_sequence()
        record.tape = tape
        return record
