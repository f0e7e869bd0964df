"""What the graph knows of a value that it does not keep, and what a rule that reads it all the same is told."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Unread(AttributeError):
    """A rule used a value that was not kept; `obj` is the Node that stood for it, as in every AttributeError on a Node."""

    def __init__(self, node: Node) -> None:
        super().__init__("only shape, dtype and device of this value are known, not its data")
        self.obj = node


class Node:
    """What the graph knows of a value that it does not keep: shape, dtype and device.

    Rules get it in place of operands that they do not read.
    """

    __slots__ = ("shape", "dtype", "device", "__weakref__")

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self) -> int:
        return self.shape.numel()

    def _unread(self, *args: Any, **kwargs: Any) -> Any:
        raise Unread(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Node):
            return self is other
        raise Unread(self)

    __hash__ = object.__hash__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for a in (*args, *(kwargs or {}).values()) for x in (a if isinstance(a, (list, tuple)) else (a,))]
        raise Unread(next(x for x in given if isinstance(x, Node)))


for _name in "add radd sub rsub mul rmul truediv rtruediv pow rpow matmul rmatmul neg abs getitem gt ge lt le float".split():
    setattr(Node, f"__{_name}__", Node._unread)


class Constant(Node):
    """A tensor operand that needs no gradient and that no needed rule reads."""

    __slots__ = ()

    def __init__(self, value: Tensor) -> None:
        self.shape, self.dtype, self.device = value.shape, value.dtype, value.device
