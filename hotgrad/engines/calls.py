"""From an instruction to the calls of torch kernels that compute it into a given tensor."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from functools import partial
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive

Call = partial[Any]

# What Python's operators are as kernels.
_OPERATORS: dict[Any, Any] = {
    operator.add: torch.add, operator.sub: torch.sub, operator.mul: torch.mul, operator.truediv: torch.div, operator.neg: torch.neg,
    operator.lt: torch.lt, operator.le: torch.le, operator.gt: torch.gt, operator.ge: torch.ge, operator.eq: torch.eq, operator.ne: torch.ne,
}  # fmt: skip


def lower(
    op: type[Primitive], out: Tensor, operands: tuple[Any, ...], options: dict[str, Any], numbers: tuple[Any, ...]
) -> list[Call] | None:
    """The calls that compute `op` into `out` without allocating, None where there are none.

    `operands`: tensors, with 0-d ones for numbers; `numbers`: those numbers, see `Primitive.into`.

    >>> zeros = torch.zeros(2)
    >>> lower(hg.ops.Exp, torch.empty(2), (zeros,), {}, (None,))[0]()
    tensor([1., 1.])
    """
    if op.into is not None:
        told = {"numbers": numbers} if op._told_numbers else {}
        calls = op.into(out, *operands, **options, **told)
        return [calls] if isinstance(calls, partial) else calls
    kernel = _OPERATORS.get(op.forward, op.forward)
    if not isinstance(kernel, BuiltinFunctionType):
        return None
    try:
        partial(kernel, *operands, **options, out=torch.empty_like(out))()
    except TypeError:  # this kernel takes no `out`
        return None
    return [partial(kernel, *operands, **options, out=out)]


def number_dtype(number: float, operands: tuple[Any, ...], out: torch.dtype) -> torch.dtype:
    """The dtype of the 0-d tensor that stands for a number among `operands`, so that the result is the same to the last bit.

    In short floats it is float32, as their kernels compute in that.

    >>> number_dtype(0.5, (torch.ones(2, dtype=torch.int64), 0.5), torch.float32)
    torch.float32
    """
    dtype = out
    if out is torch.bool and not isinstance(number, bool):  # a comparison
        tensor = next(operand for operand in operands if isinstance(operand, Tensor))
        dtype = torch.result_type(tensor, number)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


# Kernels that overwrite the first operand, for lists of tensors.
_LISTS: dict[Any, Any] = {
    getattr(torch, name): getattr(torch, f"_foreach_{name}_")
    for name in ("add", "sub", "mul", "div", "neg", "abs", "sign", "sqrt", "exp", "tanh", "reciprocal")
}


def grouped(steps: Sequence[tuple[Call | str, str]]) -> Iterator[tuple[Call | str, str]]:
    """The same steps, with calls that stand together and overwrite one tensor each as one call on lists: half the time.

    >>> a, b, one = torch.zeros(2), torch.zeros(2), torch.tensor(1.0)
    >>> steps = [(partial(torch.add, tensor, one, out=tensor), "") for tensor in (a, b)]
    >>> _ = [call() for call, _ in grouped(steps)]
    >>> a, b
    (tensor([1., 1.]), tensor([1., 1.]))
    """
    group: list[Call] = []
    notes: list[str] = []
    for step, note in [*steps, ("", "")]:
        if group and not (isinstance(step, partial) and _alike(group, step)):
            yield _joined(group), ", ".join(dict.fromkeys(notes))
            group, notes = [], []
        if isinstance(step, partial) and step.func in _LISTS and step.keywords["out"] is step.args[0]:
            group.append(step)
            notes.append(note)
        elif step:
            yield step, note


def _alike(group: list[Call], call: Call) -> bool:
    """Whether a call can join the others of a group: of the same kernel, and none reads what another writes."""
    first = group[0]
    if (
        call.func is not first.func
        or call.keywords["out"] is not call.args[0]
        or call.keywords.get("alpha") is not first.keywords.get("alpha")
    ):
        return False
    written = {other.args[0].untyped_storage()._cdata for other in group}
    read = {tensor.untyped_storage()._cdata for other in group for tensor in other.args[1:]}
    own = call.args[0].untyped_storage()._cdata
    return own not in written | read and not any(tensor.untyped_storage()._cdata in written for tensor in call.args[1:])


def _joined(group: list[Call]) -> Call:
    if len(group) == 1:
        return group[0]
    keywords = {key: value for key, value in group[0].keywords.items() if key != "out"}
    return partial(_LISTS[group[0].func], *map(list, zip(*(call.args for call in group))), **keywords)
