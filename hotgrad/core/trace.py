"""What the tape asks of a capture that is going on. The capture itself is `program.trace`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol

from torch import Generator, Tensor

from hotgrad.core.primitive import Primitive
from hotgrad.core.records import Accumulator
from hotgrad.core.scalars import Hook, Scalar


class Trace(Protocol):
    """While one is on, every call of an op on this thread goes to it. What it makes in place of Variables knows no values."""

    hooks: list[Hook]  # what computes the scalars of each run, and hears of its end

    def apply(self, op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Any:
        """The call of an op: noted, and its result."""

    def internal(self) -> AbstractContextManager[None]:
        """Inside, hotgrad itself calls torch functions; elsewhere those are looked at."""

    def external(self) -> AbstractContextManager[None]:
        """Inside, a user's function runs in the middle of a walk; torch functions are looked at."""

    def made_leaf(self, variable: Any) -> None:
        """Hear of a Variable that was made with `requires_grad` in the run."""

    def placed(self, op: type[Primitive], value: Any, operands: list[Any], options: dict[str, Any] | None) -> Any:
        """`value` as what `op` gives for these operands, without an instruction."""

    def standing_in(self, pairs: list[tuple[Any, Any]]) -> AbstractContextManager[None]:
        """Inside, the second of each pair is taken for the first."""

    def independent(self, variable: Any) -> Any:
        """The same value as a leaf of its own that requires a gradient."""

    def barrier(self, variable: Any) -> Any:
        """The same value, of which computations are never taken for those of the original."""

    def looking_away(self) -> AbstractContextManager[None]:
        """Inside, code runs whose calls of clocks and dice need not be looked at: hotgrad's own, or such as runs at each step."""

    def refuse(self, message: str) -> NoReturn:
        """Raise CaptureError, and let the capture fail even if that is caught."""

    def remember(self, message: str) -> Exception:
        """The error with which the capture will fail, not raised."""

    def new(self, data: Tensor, value: Any) -> Any:
        """What stands for a value of the program, with `data` as its example."""

    def overwritten(self, traced: Any) -> bool:
        """Whether other values stand by now where this one was in memory."""

    def constant(self, tensor: Tensor) -> Any:
        """A tensor from outside as it stands now in the program."""

    def leaf(self, variable: Any) -> Any:
        """A Variable as it stands now in the program."""

    def write(self, target: Any, new: Any) -> None:
        """Write `new` where `target` is in memory."""

    def update(self, holder: Any, new: Any) -> None:
        """Leave `new` in this Variable or tensor at the end of each run."""

    def gradient(self, g: Any, shared: bool, create_graph: bool) -> Any:
        """A result of the walk as backward leaves it."""

    def accumulate(self, old: Any, g: Any, create_graph: bool) -> Any:
        """The sum of a gradient that is there and one that a backward adds."""

    def keep_grad(self, accumulator: Accumulator) -> None:
        """Hide this leaf's gradient until the capture ends."""

    def memory(self, slot: Any, name: str) -> Any:
        """What an optimizer keeps for a parameter under this name."""

    def scalar(self, example: float, name: str, hook: Hook | None = None) -> Scalar:
        """A number that is given at each run, by `hook`."""

    def moving(self, owner: Any, name: str, number: Callable[[int], float]) -> Scalar:
        """A number that hotgrad itself changes; see `core.moving`."""

    def draw(self, shape: tuple[int, ...], generator: Generator | None) -> Any:
        """Random numbers, new at each run."""
