"""Numbers that differ from step to step, as they stand while a program is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotgrad.errors import CaptureError


def _operator(op: str, reflected: bool = False) -> Callable[[Scalar, Any], Any]:
    def apply(self: Scalar, other: Any) -> Any:
        if not isinstance(other, (Scalar, int, float)):
            return NotImplemented
        return self.note(op, (other, self) if reflected else (self, other))

    return apply


class Scalar:
    """A Python float, such as a learning rate, that is known at each run of a program only.

    Arithmetic on it with numbers gives further Scalars, which each run computes in double precision; with arrays it gives arrays.
    Its value cannot be read: CaptureError.

    `note(op, operands)` adds the instruction `op` ("Add", "Sub", "Mul", "Div", "Neg", "Pow") to the program and gives its result.
    `example`: the value that it has while capturing.
    """

    __slots__ = ("value", "example", "note")

    def __init__(self, value: Any, example: float, note: Callable[[str, tuple[Any, ...]], Scalar]) -> None:
        self.value, self.example, self.note = value, example, note

    __add__, __radd__ = _operator("Add"), _operator("Add", True)
    __sub__, __rsub__ = _operator("Sub"), _operator("Sub", True)
    __mul__, __rmul__ = _operator("Mul"), _operator("Mul", True)
    __truediv__, __rtruediv__ = _operator("Div"), _operator("Div", True)
    __pow__, __rpow__ = _operator("Pow"), _operator("Pow", True)

    def __neg__(self) -> Any:
        return self.note("Neg", (self,))

    def _unknown(self, *args: Any) -> Any:
        raise CaptureError(
            "a number that differs from step to step, such as the learning rate, was read while capturing; an update rule may only "
            "calculate with it (+ - * / **). Compute what else is needed of it in the optimizer's `scalars`"
        )

    __float__ = __int__ = __bool__ = __index__ = __round__ = __abs__ = _unknown
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _unknown
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return "<a number that differs from step to step>"
