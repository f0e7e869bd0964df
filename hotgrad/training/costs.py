"""How long the engines will take, estimated from the program alone: no clock decides, so that a training repeats to the bit.

The constants were fitted to `benchmarks/` on one core of an AVX2 machine. Only their ratios matter for the choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hotgrad.program.instructions import Code, Instruction


@dataclass
class Cost:
    """Microseconds: once, and for each step."""

    once: float
    step: float

    def total(self, steps: int) -> float:
        """Microseconds for so many steps."""
        return self.once + steps * self.step


def products(instruction: Instruction) -> int:
    """The multiplications of a matrix product, 0 for other ops."""
    if instruction.op.name != "MatMul":
        return 0
    a = instruction.reads()[0]
    return instruction.out.numel() * (a.shape[-1] if a.shape else 1)


# By engine: per instruction, per 1000 multiplications of products, per 1000 elements of other results.
_STEP = {"eager": (8.0, 0.025, 0.35), "replay": (2.6, 0.024, 0.30), "native": (0.0, 0.0255, 0.22)}
# Before the first step: in all, per instruction, and in steps that capturing takes for its trial runs. Compiling is counted half,
# since its result is kept for the next time; eager would still take longer in all from the number of steps on where native is chosen.
_ONCE = {"eager": (0.0, 0.0, 0.0), "replay": (3000.0, 200.0, 4.0), "native": (150_000.0, 800.0, 4.0)}
_COMPILING = (0.3, 0.0012)  # seconds: of a file, and of an instruction in it
# Of more multiplications than this a product is faster in torch's kernels.
_LARGE = 2**24


def estimates(code: Code, cpu: bool) -> dict[str, Cost]:
    """By engine what a training step of this program costs. On other devices than the CPU there is no native engine.

    >>> estimates(Code(), cpu=True)["eager"].total(10)
    0.0
    """
    count = len(code.instructions)
    work = [products(instruction) for instruction in code.instructions]
    elements = sum(i.out.numel() for i, size in zip(code.instructions, work) if not size)
    found = {}
    for name, (each, product, element) in _STEP.items():
        if name == "native" and (not cpu or max(work, default=0) > _LARGE):
            continue
        fixed, per, trials = _ONCE[name]
        arrays = product * math.fsum(work) / 1000 + element * elements / 1000
        found[name] = Cost(fixed + per * count + trials * arrays, each * count + arrays)
    return found


def compile_seconds(codes: Sequence[Code]) -> float:
    """How long the C compiler will take for these programs in one file.

    >>> compile_seconds([Code()])
    0.3
    """
    fixed, each = _COMPILING
    return fixed + each * sum(len(code.instructions) for code in codes)
