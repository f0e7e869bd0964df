"""Whether an engine of kernels of its own computes what torch's kernels do: one step on both, compared by what rounding can explain.

Rounding is judged by the exact engine, replay, itself: states and batch are moved by a rounding, several times, and so is, in a second run of
each, the result of every instruction, as differences of numbers that are nearly equal lay bare what was rounded before them. What that moves
is rounding's. So a gradient whose true value is zero, and what an optimizer makes of it, may differ, and nothing else may.

The step is taken where it shows most: from states that are not zero, since zeros hide terms, and with learning rates that move the
parameters by about their own size.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.engines.engine import Engine
from hotgrad.engines.registry import EXACT
from hotgrad.errors import EngineError
from hotgrad.ops.arithmetic import Mul
from hotgrad.optim.optimizer import Steps
from hotgrad.program.captured import Captured
from hotgrad.program.instructions import Code, Instruction, described

MOVED = 3  # how often the exact engine is run on moved states and batches
FACTOR = 50  # by how much the other may be farther off than that was moved
ROUNDINGS = 256  # of a tensor's largest entry, besides: sums of many terms, where moved inputs average out
_AGREED: set[str] = set()  # the programs that did agree, in this process, by what they are


def check_agreement(program: Captured, engine: Engine, batch: Sequence[Tensor]) -> None:
    """Raise EngineError unless one step on this batch gives the same on `engine` as on an exact one but for rounding. Nothing changes."""
    key = f"{engine.identity} {len(batch[0])}"
    if key in _AGREED:
        return
    code = program.code
    before = [state.tensor.clone() for state in code.states]
    try:
        _compare(_Step(program, list(batch), list(before)), EXACT(code, fuse=False), EXACT(_rounded(code), fuse=False), engine)
    finally:
        for state, old in zip(code.states, before):
            state.tensor.copy_(old)
    _AGREED.add(key)


def _rounded(code: Code) -> Code:
    """The same program, with every float that an instruction computes moved by a rounding: up or down, all elements alike, so that those
    that were equal stay equal.
    """
    ways = random.Random(0)
    instructions: list[Instruction] = []
    for instruction in code.instructions:
        out = instruction.out
        if out.kind == "scalar" or not out.dtype.is_floating_point:
            instructions.append(instruction)
            continue
        raw = dataclasses.replace(out)
        factor = 1 + ways.choice((-1, 1)) * torch.finfo(out.dtype).eps
        instructions.append(Instruction(instruction.op, instruction.operands, instruction.options, raw))
        instructions.append(Instruction(Mul, (raw, factor), {}, out))
    return code.replaced(instructions)


def _compare(step: _Step, exact_engine: Engine, rounded: Engine, engine: Engine) -> None:
    step.choose_point(exact_engine)
    expected = step.run(exact_engine)
    noise = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in expected]
    for seed in range(MOVED):
        for judge in (exact_engine, rounded):
            for worst, exact, moved in zip(noise, expected, step.moved(seed).run(judge)):
                torch.maximum(worst, _distance(exact, moved), out=worst)
    step.turned().run(engine)  # which leaves other values than zeros in its memory
    values = [*step.code.outputs, *(state.value for state in step.code.states)]
    for value, exact, worst, got in zip(values, expected, noise, step.run(engine)):
        if not exact.numel():
            continue
        scale = float(exact.double().nan_to_num(0, 0, 0).abs().max())
        roundings = ROUNDINGS * torch.finfo(exact.dtype).eps * scale if exact.is_floating_point() else 0.0
        usual = float(worst[worst.isfinite()].mean()) if worst.isfinite().any() else 0.0
        off = _distance(exact, got)
        wrong = off > FACTOR * (worst + usual) + roundings
        if wrong.any():
            most = int(off.where(wrong, -1.0).argmax())
            raise EngineError(
                f"the {engine.name} engine's step differs from {exact_engine.name}'s by {float(off.flatten()[most]):.3g} in {value.name or 'an output'}, "
                f"{described(value)}, of values up to {scale:.3g}; rounding explains {float(worst.flatten()[most]):.1g}"
            )


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """By element how far they are apart; 0 where both are NaN or the same infinity, and infinite where one of them is."""
    same = (a == b) | ((a != a) & (b != b))
    return (a.double() - b.double()).abs().nan_to_num(math.inf, math.inf).masked_fill(same, 0.0)


@dataclass
class _Step:
    """One step of a program from given states on a given batch."""

    program: Captured
    batch: list[Tensor]
    states: list[Tensor]
    rate: float = 0.75  # in place of all numbers that the optimizer gives

    @property
    def code(self) -> Code:
        return self.program.code

    def run(self, engine: Engine) -> list[Tensor]:
        """The outputs and the new states."""
        code = self.code
        for state, tensor in zip(code.states, self.states):
            state.tensor.copy_(tensor)
        generator = torch.Generator().manual_seed(0)
        draws = [torch.rand(draw.value.shape, generator=generator, dtype=draw.value.dtype) for draw in code.draws]
        numbers = [n for hook in self.program.hooks for n in ([self.rate] * len(hook.values) if isinstance(hook, Steps) else hook.next())]
        outputs = engine.run_once(self.batch, scalars=numbers, draws=draws)
        return [*outputs, *(state.tensor.clone() for state in code.states)]

    def choose_point(self, engine: Engine) -> None:
        """States and a rate from which every term of the step counts; found by taking one step."""
        new = self.run(engine)[len(self.code.outputs) :]
        generator = torch.Generator().manual_seed(1)
        moved = 0.0
        for i, (state, after) in enumerate(zip(self.code.states, new)):
            old = self.states[i]
            if state.update is None or not old.is_floating_point() or not old.numel():
                continue
            size, reached = (float(t.double().nan_to_num(0, 0, 0).abs().max()) for t in (old, after))
            if size == 0:
                reached = max(reached, 0.1) if isinstance(state.holder, Variable) else reached  # a bias is added to something
                self.states[i] = (0.1 + torch.rand(old.shape, generator=generator)).mul_(reached).to(old.dtype)
            elif isinstance(state.holder, Variable):
                moved = max(moved, float((after.double() - old.double()).nan_to_num(0, 0, 0).abs().max()) / size)
        if moved:
            self.rate /= min(max(moved, 1e-6), 1e6)

    def moved(self, seed: int) -> _Step:
        """The same, with states and batch moved by a rounding."""
        generator = torch.Generator().manual_seed(2 + seed)

        def move(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            factors = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * torch.finfo(tensor.dtype).eps
            return (tensor * (1 + factors)).to(tensor.dtype)

        return _Step(self.program, [move(tensor) for tensor in self.batch], [move(tensor) for tensor in self.states], self.rate)

    def turned(self) -> _Step:
        """The same with the rows in another order."""
        return _Step(self.program, [tensor.flip(0) for tensor in self.batch], self.states, self.rate)
