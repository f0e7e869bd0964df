"""Operands of a call that are no Variables, as `forward` takes them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy, number_in
from hotgrad.core.domains import Booleans, Integers
from hotgrad.core.explain import describe
from hotgrad.core.nodes import Node, Unread
from hotgrad.core.primitive import Primitive
from hotgrad.errors import DtypeError, HotgradError, OperandError


def _tensor(op: type[Primitive], value: Any) -> Tensor:
    """`value` as a tensor. Raises the HotgradError that names the op."""
    try:
        return as_tensor(value)
    except HotgradError as error:
        raise type(error)(f"{op.name}: {error}") from None


def raw_operand(op: type[Primitive], value: Any) -> Any:
    """An operand that is no Variable, as forward takes it. Raises OperandError or DtypeError."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise OperandError(
                f"{op.name}: an operand of shape {tuple(value.shape)} requires a torch gradient; wrap it in a Variable, or detach() it"
            )
        return _tensor(op, value)
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, complex):
        raise DtypeError(f"{op.name}: complex numbers are not supported; got {value!r}")
    if is_numpy(value):
        return _tensor(op, value) if value.shape else raw_operand(op, number_in(value))
    if isinstance(value, Node):
        raise Unread(value)
    remedy = ". Make one tensor or Variable of it first, with hg.stack([v0, v1]) of Variables" if isinstance(value, (list, tuple)) else ""
    raise OperandError(
        f"{op.name}: operands are Variables, tensors, numpy arrays and numbers; got {type(value).__name__} ({value!r:.60}){remedy}"
    )


def as_operands(op: type[Primitive], values: Sequence[Any]) -> list[Any]:
    """The operands as forward takes them, given tensors and numbers: numbers become 0-d tensors unless the op takes numbers.

    Their dtype is the one that torch's promotion of Python numbers gives beside the other operands, or their own where `domain` asks
    for booleans or integers.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return [torch.as_tensor(value) for value in values]
    if op.numbers or len(tensors) == len(values):
        return list(values)

    def tensor(number: Any, domain: Any) -> Tensor:
        try:
            kinds = (torch.result_type(t, number) for t in tensors)
            dtype = None if isinstance(domain, (Booleans, Integers)) else functools.reduce(torch.promote_types, kinds)
            return torch.tensor(number, dtype=dtype, device=tensors[0].device)
        except (OverflowError, RuntimeError) as error:
            raise OperandError(f"{op.name}: the number {number} is too large beside {describe(tensors[0])} ({error})") from None

    domains: Sequence[Any] = op.domain if op.domain and op.arity is not None else [None] * len(values)
    return [value if isinstance(value, Tensor) else tensor(value, domain) for value, domain in zip(values, domains)]


def tensors_in(options: dict[str, Any] | None) -> list[Tensor]:
    found: list[Tensor] = []
    for value in (options or {}).values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, Tensor):
                found.append(item)
    return found
