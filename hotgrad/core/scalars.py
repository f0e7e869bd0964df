"""Numbers that differ from step to step, as they stand while a program is captured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hotgrad.core.explain import users_frame
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
        frame, _ = users_frame()
        where = "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"
        raise CaptureError(
            f"{self!r} was read while capturing{where}; calculate with it by + - * / ** only. An update rule has what else is needed of it "
            "computed in the optimizer's `scalars`"
        )

    __float__ = __int__ = __bool__ = __index__ = __round__ = __abs__ = _unknown
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _unknown
    __hash__ = _unknown

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """float, for `isinstance`: what a user's code asks that has a float in its place otherwise."""
        return float

    def __repr__(self) -> str:
        name = getattr(self.value, "name", "")
        return f"the number {name!r}, which differs from step to step," if name else "a number that differs from step to step"


class Hook:
    """Where some of the numbers come from that differ from run to run of a program, and what is told that a run was done.

    `values`: the program's scalars that it gives, in the order of `next`.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []

    @property
    def varies(self) -> bool:
        """Whether `next` must be asked at each step, since it cannot tell what it gives steps ahead."""
        return False

    @property
    def counts(self) -> bool:
        """Whether `next` gives something else steps ahead."""
        return False

    def next(self, ahead: int = 0) -> list[float]:
        """The numbers of the next run, or of one so many runs further on."""
        return []

    def done(self, steps: int = 1) -> None:
        """So many runs were done."""

    def mark(self) -> Any:
        """What `back` takes, to undo what was done since."""

    def back(self, mark: Any) -> None:
        """Return to where `mark` was taken."""

    def steady(self) -> bool:
        """Whether the program still fits it."""
        return True

    def same(self, other: Hook) -> bool:
        """Whether `other`, of a later trace, stands for the same."""
        return self is other


class Moving(Hook):
    """A number that hotgrad itself changes; see `moving`."""

    def __init__(self, owner: Any, name: str, number: Callable[[int], float], varies: bool) -> None:
        super().__init__()
        self.owner, self.name, self.number, self._varies = owner, name, number, varies
        self.moved = False  # by the steps of the program

    @property
    def varies(self) -> bool:
        return self._varies

    @property
    def counts(self) -> bool:
        return self.moved

    def next(self, ahead: int = 0) -> list[float]:
        return [self.number(ahead if self.moved else 0)]

    def same(self, other: Hook) -> bool:
        return isinstance(other, Moving) and self.owner is other.owner and self.name == other.name


class Lifted(Hook):
    """Numbers of the user's, each of which was another one in a later trace."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[float] = []

    def next(self, ahead: int = 0) -> list[float]:
        return self.numbers

    def same(self, other: Hook) -> bool:
        return isinstance(other, Lifted)


def numbers_of(hooks: Sequence[Hook], steps: int) -> list[list[float]]:
    """The numbers of the next `steps` runs, which are counted as done; a single row if they are the same for each."""
    rows: list[list[float]] = []
    if any(hook.varies for hook in hooks):
        for _ in range(steps):
            row: list[float] = []
            for hook in hooks:  # in the order of the program: what one leaves, the next may read
                row += hook.next()
                hook.done()
            rows.append(row)
        return rows
    for ahead in range(steps if any(hook.counts for hook in hooks) else 1):
        rows.append([number for hook in hooks for number in hook.next(ahead)])
    for hook in hooks:
        hook.done(steps)
    return rows
