"""Lists of tensors with the operators of arrays, each run as one `torch._foreach` kernel over all of them.

An update rule `p - lr * g` is written for arrays and runs here on all parameters at once. Operators only note what is to be
done; `assign` then computes results into the memory where they belong, reusing what nobody needs any more. So a rule written
as an expression costs what hand-written in-place kernels cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.scalars import Scalar
from hotgrad.core.variable import Variable
from hotgrad.ops import CLASSES
from hotgrad.ops.arithmetic import AddScaled

# By operator: the kernel that makes new tensors, and the one that overwrites its first operand.
_KERNELS: dict[str, tuple[Any, Any]] = {
    name: (getattr(torch, f"_foreach_{name}"), getattr(torch, f"_foreach_{name}_"))
    for name in ("add", "sub", "mul", "div", "pow", "neg", "abs", "sign", "sqrt", "exp", "tanh", "reciprocal", "maximum", "minimum")
}
# By operator: the primitive that computes the same where a program is captured.
_OPS = {name: CLASSES[name.capitalize()].apply for name in _KERNELS}
_NUMBERS = (float, int, Scalar)
_COMMUTE = ("add", "mul", "maximum", "minimum")


def _each(op: str) -> Callable[..., Each]:
    """The method that notes `op`."""
    return lambda self, other=None: self._then(op, other)


class Each:
    """One tensor for each parameter, as if they were one array.

    The other operand of `+ - * /` is another Each, a number, or a 0-d tensor (with `*` and `/`); of `**`, `maximum` and
    `minimum` an Each or a number. Methods: `abs exp maximum minimum neg reciprocal sign sqrt square tanh`.

    >>> p, g = Each([torch.ones(2), torch.zeros(1)]), Each([torch.ones(2), torch.ones(1)])
    >>> assign([(p, p - 0.5 * g)])
    >>> p.tensors
    [tensor([0.5000, 0.5000]), tensor([-0.5000])]
    """

    # tensors: None until computed. op, a, b: what computes it. pending: how many uses of it are still to come.
    __slots__ = ("tensors", "op", "a", "b", "pending")

    tensors: Any
    op: str | None
    a: Any
    b: Any
    pending: int
    __array_ufunc__ = None

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.op = None
        self.pending = 0

    def _then(self, op: str, other: Any = None) -> Each:
        out = Each.__new__(Each)
        out.tensors = None
        out.op, out.a, out.b, out.pending = op, self, other, 0
        self.pending += 1
        if type(other) is Each:
            other.pending += 1
        return out

    __add__ = __radd__ = _each("add")
    __sub__ = _each("sub")
    __mul__ = __rmul__ = _each("mul")
    __truediv__ = _each("div")
    __pow__ = _each("pow")
    maximum, minimum = _each("maximum"), _each("minimum")
    __neg__ = neg = _each("neg")
    __abs__ = abs = _each("abs")
    sign, sqrt, exp, tanh, reciprocal = (_each(name) for name in ("sign", "sqrt", "exp", "tanh", "reciprocal"))

    def __rsub__(self, other: Any) -> Each:
        return self._then("neg")._then("add", other)

    def __rtruediv__(self, other: Any) -> Each:
        return self._then("reciprocal")._then("mul", other)

    def square(self) -> Each:
        return self._then("mul", self)


def assign(results: Sequence[tuple[Each, Each]]) -> None:
    """Compute each expression and write it into its destination, a list of given tensors; expressions see the old values.

    >>> a, b = Each([torch.zeros(1)]), Each([torch.ones(1)])
    >>> assign([(a, b), (b, a)])
    >>> a.tensors, b.tensors
    ([tensor([1.])], [tensor([0.])])
    """
    for _, value in results:
        value.pending += 1
    late = []
    for target, value in results:
        if value is target:
            continue
        if value.op is None:  # another list of given tensors, which may itself be written to
            late.append((target.tensors, [tensor.clone() for tensor in value.tensors]))
        elif _compute(value, target) is not target.tensors:
            late.append((target.tensors, value.tensors))
    for tensors, values in late:
        torch._foreach_copy_(tensors, values)


def noted(value: Each) -> Sequence[Any]:
    """The value of an expression over Variables, noted in the program that is being captured."""
    value.pending += 1
    return _compute(value, None)  # type: ignore[no-any-return]


def _scaled(node: Any) -> bool:
    """Whether this is an Each times a number, not computed yet and used once: then `a + number * b` is one kernel."""
    return type(node) is Each and node.tensors is None and node.op == "mul" and type(node.b) in _NUMBERS and node.pending == 1


def _compute(node: Each, into: Each | None) -> Any:
    """The tensors of `node`, computed in the memory of `into` if nothing else needs what stands there."""
    if node.tensors is not None:
        return node.tensors
    a, b, op = node.a, node.b, node.op
    scale = None
    if type(b) is Each:
        if op in _COMMUTE and a is not into and (b is into or (op == "add" and _scaled(a) and not _scaled(b))):
            a, b = b, a
        if op in ("add", "sub") and _scaled(b):
            scale, b = b.b, b.a
        other = _compute(b, None)
    else:
        other = b
    tensors = _compute(a, into if a.pending == 1 else None)
    if isinstance(tensors[0], Variable):
        node.tensors = _noted(op, tensors, other, scale)
        node.a = node.b = None
        return node.tensors
    if isinstance(other, (float, int)) and op != "pow":  # a number as exponent has kernels of its own
        other = _constant(other, tensors)
    # What stands in `a` may be overwritten if it is an intermediate result, or what is being assigned to, and of no further use.
    reusable = a.pending == 1 and (a is into or a.op is not None)
    kernel = _KERNELS[op][reusable]  # type: ignore[index]
    given = (tensors,) if other is None else (tensors, other)
    out = kernel(*given) if scale is None else kernel(*given, alpha=scale)
    a.pending -= 1
    if type(b) is Each:
        b.pending -= 1
    node.tensors = tensors if reusable else out
    node.a = node.b = None
    return node.tensors


def _noted(op: Any, arrays: Sequence[Variable], other: Any, scale: Any) -> list[Any]:
    """What the kernel would compute, noted in the program that is being captured: primitive by primitive, to the same bits."""
    others = other if isinstance(other, (list, tuple)) else [other] * len(arrays)
    if scale is not None:
        return [AddScaled.apply(a, b, scale if op == "add" else -scale) for a, b in zip(arrays, others)]
    return [_OPS[op](a) if other is None else _OPS[op](a, b) for a, b in zip(arrays, others)]


def _constant(number: float, tensors: Sequence[Tensor]) -> Any:
    """A number as the kernels take it fastest: on a CPU as tensors (measured: half the time). Short dtypes would round it."""
    first = tensors[0]
    if first.is_cpu and first.dtype in (torch.float32, torch.float64):
        return [torch.tensor(number, dtype=first.dtype, device="cpu")] * len(tensors)
    return number
