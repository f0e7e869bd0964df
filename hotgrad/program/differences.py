"""Whether two traces of a function are the same program, and how they differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor

from hotgrad.program.instructions import Code, Instruction, Value, described


def difference(a: Code, b: Code) -> str:
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
            return f"{in_words(left)} became {in_words(right)}"
        places[right.out] = left.out
    for (left, x), (right, y) in zip(a.constants.items(), b.constants.items()):
        if places.get(right) is not left or (x is not y and not same(x, y)):
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
        and all(x is places.get(y) if isinstance(y, Value) else same(x, y) for x, y in operands)
        and same(a.options, b.options)
    )


def same(a: Any, b: Any) -> bool:
    """Whether options, numbers or tensors are equal, NaN to NaN, and 0.0 not to -0.0.

    >>> same({"dim": (0, 1)}, {"dim": (0, 1)}), same(1, 1.0), same(float("nan"), float("nan"))
    (True, False, True)
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a is b:
            return True
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, slice):
        return same((a.start, a.stop, a.step), (b.start, b.stop, b.step))
    if isinstance(a, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    return bool(a == b)


def in_words(instruction: Instruction) -> str:
    """A call as text.

    >>> x = Value.like("input", torch.ones(2))
    >>> in_words(Instruction(hg.ops.Mul, (x, 2.0), {}, x))
    'Mul(float32(2,), 2.0)'
    """
    operands = ", ".join(described(o) if isinstance(o, Value) else repr(o) for o in instruction.operands)
    options = "".join(f", {name}={value!r:.40}" for name, value in instruction.options.items())
    return f"{instruction.op.name}({operands}{options})"
