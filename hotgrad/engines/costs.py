"""How long engines take, estimated from the program alone: no clock decides, so that a training repeats to the bit, but for one that
finds compiled code in the cache that the one before did not.

The engines' rates were fitted to `benchmarks/` on one core of an AVX2 machine. Only their ratios matter for the choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hotgrad.program.instructions import Code, Instruction


@dataclass
class Cost:
    """Microseconds: once, for each step, and once for compiling, which falls away where the program is at hand."""

    once: float
    step: float
    compiling: float = 0.0

    def total(self, steps: int, at_hand: bool = False) -> float:
        """Microseconds for so many steps.

        >>> Cost(10.0, 2.0, 100.0).total(5), Cost(10.0, 2.0, 100.0).total(5, at_hand=True)
        (120.0, 20.0)
        """
        return self.once + (0.0 if at_hand else self.compiling) + steps * self.step


def products(instruction: Instruction) -> int:
    """The multiplications of a matrix product or a convolution, 0 for other ops."""
    name, reads = instruction.op.name, instruction.reads()
    if name == "MatMul":
        return instruction.out.numel() * (reads[0].shape[-1] if reads[0].shape else 1)
    if name not in ("Convolution", "ConvolutionInput", "ConvolutionWeight"):
        return 0
    kernels = instruction.out if name == "ConvolutionWeight" else reads[1]
    result = instruction.out if name == "Convolution" else reads[0]
    return result.numel() * math.prod(kernels.shape[1:])


@dataclass(frozen=True)
class Rates:
    """Microseconds of a step: per instruction, per 1000 multiplications of products, per 1000 elements of other results. And before the
    first step: in all, per instruction, and in steps that capturing takes for its trial runs; and for compiling, in all and per
    instruction.
    """

    instruction: float
    product: float
    element: float
    once: float = 0.0
    once_instruction: float = 0.0
    trial_steps: float = 0.0
    compiling: float = 0.0
    compiling_instruction: float = 0.0

    def cost(self, code: Code) -> Cost:
        """What a training step of this program costs.

        >>> Rates(8.0, 0.025, 0.35).cost(Code()).total(10)
        0.0
        """
        count = len(code.instructions)
        work = [products(instruction) for instruction in code.instructions]
        elements = sum(i.out.numel() for i, size in zip(code.instructions, work) if not size)
        arrays = self.product * math.fsum(work) / 1000 + self.element * elements / 1000
        once = self.once + self.once_instruction * count + self.trial_steps * arrays
        return Cost(once, self.instruction * count + arrays, self.compiling + self.compiling_instruction * count)
