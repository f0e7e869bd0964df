"""Where the values of a program stand in memory, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotgrad.program.instructions import Code, Instruction, State, Value

FOREVER = 1 << 60


def writable(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether no two elements of such a layout share memory, so that it can be written to.

    >>> writable((2, 3), (3, 1)), writable((2, 3), (0, 1))
    (True, False)
    """
    reach = 0
    for step, size in sorted((step, size) for size, step in zip(shape, stride) if size > 1):
        if step <= reach:
            return 0 in shape
        reach += step * (size - 1)
    return True


def empty(value: Value) -> Tensor:
    """A tensor of zeros as `value` is described, contiguous where its own layout cannot be written to.

    >>> empty(Value.like("input", torch.ones(2, 3).mT)).stride()
    (1, 3)
    """
    if not writable(value.shape, value.stride):
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    return torch.empty_strided(value.shape, value.stride, dtype=value.dtype, device=value.device).zero_()


def evaluate(instruction: Instruction, env: dict[Value, Any]) -> Any:
    """The result of one instruction by its op's own forward, with the operands' tensors and floats out of `env`."""
    operands = [env[operand] if isinstance(operand, Value) else operand for operand in instruction.operands]
    return instruction.op.forward(*operands, **instruction.options)


def given(code: Code) -> dict[Value, Any]:
    """Tensors for what a program does not compute: its states and constants themselves, zeros for inputs and draws."""
    env: dict[Value, Any] = {value: empty(value) for value in [*code.inputs, *(draw.value for draw in code.draws)]}
    return {**env, **dict.fromkeys(code.scalars, 0.5), **code.constants, **{s.value: s.tensor for s in code.states}}


def shares(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in the same memory."""
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


@dataclass(eq=False, slots=True)
class Memory:
    """Where each value of a program stands.

    - `owner`: for each tensor the value in whose memory it stands: itself, or what it is a view of.
    - `layout`: shape, dtype, device and strides of each result that owns its memory.
    - `last`: for each owner the place of the last instruction that reads its memory.
    - `in_state`: for what is computed right into a state's memory, its new value above all, that state.
    - `slot`: the other owners' place in `sizes`, the bytes of the buffers that they share.
    - `before`, `after`: the bytes of all results, and of the buffers.
    """

    owner: dict[Value, Value]
    layout: dict[Value, Value]
    last: dict[Value, int]
    in_state: dict[Value, State] = field(default_factory=dict)
    slot: dict[Value, int] = field(default_factory=dict)
    sizes: list[tuple[torch.device, int]] = field(default_factory=list)
    before: int = 0
    after: int = 0


def liveness(code: Code) -> Memory:
    """Which values are views of which, and until when each memory is read. Runs each op once, on zeros for inputs.

    >>> x = Value.like("input", torch.ones(2))
    >>> y, z = Value.like("result", torch.ones(1, 2)), Value.like("result", torch.ones(1, 2))
    >>> reshape = Instruction(hg.ops.Reshape, (x,), {"shape": (1, 2)}, y)
    >>> memory = liveness(Code([x], instructions=[reshape, Instruction(hg.ops.Exp, (y,), {}, z)], outputs=[z]))
    >>> memory.owner[y] is x, memory.owner[z] is z, memory.last[x]
    (True, True, 1)
    """
    env = given(code)
    owner = {value: value for value, held in env.items() if isinstance(held, Tensor)}
    layout: dict[Value, Value] = {}
    reads: dict[Value, int] = {}
    for place, instruction in enumerate(code.instructions):
        reads.update(dict.fromkeys(instruction.reads(), place))
    for place, instruction in enumerate(code.instructions):
        out = instruction.out
        if out.kind == "scalar":
            env[out] = 0.5
            continue
        try:
            result = evaluate(instruction, env)
        except Exception:  # on zeros, of which some functions of matrices do not exist; what computes is no view
            result = empty(out)
        read = [value for value in instruction.reads() if value.kind != "scalar"]
        viewed = next((value for value in read if shares(env[value], result)), None)
        owner[out] = out if viewed is None else owner[viewed]
        if viewed is None:
            if not writable(result.shape, result.stride()):
                result = result.contiguous()
            layout[out] = Value.like("result", result)
        env[out] = result
        for value in [*read, out]:
            if reads.get(value, -1) <= place:
                env[value] = None  # nothing reads it any more
    last = dict.fromkeys(owner.values(), -1)
    for value, place in reads.items():
        if value in owner:
            last[owner[value]] = max(last[owner[value]], place)
    for value in code.results():
        if value in owner:
            last[owner[value]] = FOREVER
    return Memory(owner, layout, last)


def assign_buffers(code: Code, share: bool = True) -> Memory:
    """Where each value stands. With `share` values that are not alive at the same time share buffers, and an elementwise op
    overwrites an operand that nothing reads any more.

    The new value of a state is computed right into the state's memory where nothing reads the old one later. Outputs share
    their memory with nothing that is computed after them.

    >>> x = Value.like("input", torch.ones(4))
    >>> a, b, c = (Value.like("result", torch.ones(4)) for _ in range(3))
    >>> steps = [Instruction(hg.ops.Exp, (x,), {}, a), Instruction(hg.ops.Sum, (a,), {"dim": 0, "keepdim": True}, b)]
    >>> memory = assign_buffers(Code([x], instructions=[*steps, Instruction(hg.ops.Exp, (a,), {}, c)], outputs=[c]))
    >>> memory.before, memory.after
    (36, 20)
    """
    memory = liveness(code)
    _compute_in_states(code, memory)
    free: list[int] = []
    ends: dict[int, list[Value]] = {}
    for value, place in memory.last.items():
        ends.setdefault(place, []).append(value)
    for place, instruction in enumerate(code.instructions):
        out = instruction.out
        layout = memory.layout.get(out)
        if layout is None:
            continue
        size = _bytes(layout)
        memory.before += size
        if out not in memory.in_state:
            taken = _overwritten(instruction, place, memory) if share else None
            if taken is not None:
                memory.slot[out] = memory.slot[taken]
            else:
                memory.slot[out] = _choose(memory.sizes, free, layout.device, size)
        if share:
            free += [memory.slot[v] for v in ends.get(place, []) if v in memory.slot and memory.slot[v] != memory.slot.get(out)]
            if memory.last[out] < place and out in memory.slot:  # nobody reads it at all
                free.append(memory.slot[out])
    memory.after = sum(size for _, size in memory.sizes)
    return memory


def _bytes(value: Value) -> int:
    """The bytes from the first to the last element."""
    if not value.numel():
        return 0
    return (1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride))) * value.dtype.itemsize


def _choose(sizes: list[tuple[torch.device, int]], free: list[int], device: torch.device, size: int) -> int:
    """The smallest free buffer that is large enough, else the largest, enlarged, else a new one."""
    fitting = sorted((i for i in free if sizes[i][0] == device), key=lambda i: (sizes[i][1] < size, abs(sizes[i][1] - size)))
    if not fitting:
        sizes.append((device, size))
        return len(sizes) - 1
    free.remove(fitting[0])
    sizes[fitting[0]] = (device, max(size, sizes[fitting[0]][1]))
    return fitting[0]


def _same(a: Value, b: Value) -> bool:
    return (a.shape, a.stride, a.dtype, a.device) == (b.shape, b.stride, b.dtype, b.device)


def _overwritten(instruction: Instruction, place: int, memory: Memory) -> Value | None:
    """The operand in whose buffer an elementwise op can leave its result."""
    if not instruction.op.elementwise:
        return None
    read = instruction.reads()
    for value in read:
        if (
            value in memory.slot
            and memory.last[value] == place
            and _same(memory.layout[value], memory.layout[instruction.out])
            and all(other is value for other in read if memory.owner.get(other) is value)
        ):
            return value
    return None


def _compute_in_states(code: Code, memory: Memory) -> None:
    """Find the states whose new value can be computed right into their memory."""
    places = {instruction.out: place for place, instruction in enumerate(code.instructions)}
    spans = [(state, *_span(state.tensor)) for state in code.states]
    kept = {memory.owner.get(value) for value in code.results()}
    for state, start, end in spans:
        new, old = state.update, state.value
        layout = None if new is None else memory.layout.get(new)
        if new is None or layout is None or new in memory.in_state or not _same(layout, Value.like("state", state.tensor)):
            continue
        if any(other is not state and low < end and start < high for other, low, high in spans):
            continue  # states that share memory
        place = places[new]
        if old in kept or memory.last[old] > place:
            continue
        instruction = code.instructions[place]
        mine = [value for value in instruction.reads() if memory.owner.get(value) is old]
        if mine and not (instruction.op.elementwise and all(value is old for value in mine)):
            continue
        memory.in_state[new] = state
        _extend(code.instructions, places, place, state, memory)


def _extend(instructions: list[Instruction], places: dict[Value, int], place: int, state: State, memory: Memory) -> None:
    """Let operands of what is computed into a state's memory stand there too: those that it may overwrite."""
    while instructions[place].op.elementwise:
        read = instructions[place].reads()
        for value in read:
            before = places.get(value)
            if before is None or value not in memory.layout or value in memory.in_state or memory.last[value] != place:
                continue
            source = instructions[before]
            mine = [other for other in source.reads() if memory.owner.get(other) is state.value]
            if (
                _same(memory.layout[value], Value.like("state", state.tensor))
                and all(other is value for other in read if memory.owner.get(other) is value)
                and memory.last.get(state.value, -1) <= before
                and (not mine or (source.op.elementwise and all(other is state.value for other in mine)))
            ):
                memory.in_state[value] = state
                place = before
                break
        else:
            return


def _span(tensor: Tensor) -> tuple[int, int]:
    """The addresses that a tensor takes."""
    start = tensor.data_ptr()
    return start, start + _bytes(Value.like("state", tensor))
