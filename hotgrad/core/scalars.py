"""Numbers that differ from step to step, as they stand while a program is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotgrad.errors import CaptureError


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

    def _with(self, op: str, a: Any, b: Any) -> Any:
        return self.note(op, (a, b)) if all(isinstance(x, (Scalar, int, float)) for x in (a, b)) else NotImplemented

    def __add__(self, other: Any) -> Any:
        return self._with("Add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self._with("Add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self._with("Sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._with("Sub", other, self)

    def __mul__(self, other: Any) -> Any:
        return self._with("Mul", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self._with("Mul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self._with("Div", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._with("Div", other, self)

    def __pow__(self, other: Any) -> Any:
        return self._with("Pow", self, other)

    def __rpow__(self, other: Any) -> Any:
        return self._with("Pow", other, self)

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
