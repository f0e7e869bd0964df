"""What a step changes: parameters in groups that share settings, those that can be changed now, and the norm of their gradients."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from hotgrad.checks import overlapping
from hotgrad.core.modes import state
from hotgrad.core.moving import moving
from hotgrad.core.variable import Variable
from hotgrad.errors import SettingError
from hotgrad.modules.parameters import LazyParameter
from hotgrad.ops.arithmetic import Minimum
from hotgrad.ops.reductions import Norm
from hotgrad.ops.shaping import Stack
from hotgrad.optim.schedules import Schedule


class Slot:
    """What an optimizer keeps for one parameter: how many steps changed it, and the rule's state."""

    __slots__ = ("parameter", "steps", "state")

    def __init__(self, parameter: Variable) -> None:
        self.parameter = parameter
        self.steps = 0  # `count` as a number, also while a program is captured
        self.state: dict[str, Tensor] = {}

    @property
    def count(self) -> int:
        """How many steps changed the parameter."""
        return moving(self, "count", lambda ahead: self.steps + ahead)  # type: ignore[no-any-return]

    @count.setter
    def count(self, value: int) -> None:
        self.steps = value


class Group:
    """Parameters that share settings. `rate` is a number or a Schedule; `settings` holds all others."""

    def __init__(self, slots: list[Slot], rate: float | Schedule, settings: dict[str, Any]) -> None:
        self.slots = slots
        self.rate = rate
        self.settings = SimpleNamespace(**settings)

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return moving(self, "lr", lambda ahead: self.now())  # type: ignore[no-any-return]

    def now(self) -> float:
        """`lr` as a number, also while a program is captured."""
        return self.rate.now() if isinstance(self.rate, Schedule) else self.rate

    def step_settings(self) -> SimpleNamespace:
        """What the rule is given: the settings, and `lr`."""
        return SimpleNamespace(lr=self.now(), **vars(self.settings))


def ready(group: Group) -> Iterable[tuple[list[Slot], list[Any], list[Any]]]:
    """The slots of a group that can be changed now, with parameters and gradients: those of one count and dtype together."""
    found: dict[Any, tuple[list[Slot], list[Any], list[Any]]] = {}
    count = dtype = None
    trace = state.trace
    for slot in group.slots:
        p = slot.parameter
        g = p._accumulator.grad
        if g is None or p._link is None:
            continue
        data: Any = p._data if trace is None else trace.leaf(p)
        if slot.steps != count or data.dtype is not dtype:
            count, dtype = slot.steps, data.dtype
            slots, tensors, gradients = found.setdefault((count, dtype), ([], [], []))
        slots.append(slot)
        tensors.append(data)
        gradients.append(g if type(g) is Tensor or trace is not None else g.data)
    return found.values()


def check_apart(named: Iterable[tuple[str, Any]]) -> None:
    """Raises SettingError if memory that is trained belongs to two of these Parameters or buffers, or twice to one, or is negated.

    A step would change both at once, or one after the other: what comes of it would depend on the engine.
    """
    listed = []
    for name, thing in named:
        if not isinstance(thing, LazyParameter):
            data = thing._data if isinstance(thing, Variable) else thing
            trained = isinstance(thing, Variable) and thing.requires_grad
            if trained and data.is_neg():
                raise SettingError(
                    f"{name} of shape {tuple(data.shape)} is a negated view, which cannot be written to; give resolve_neg() of it"
                )
            listed.append((f"{name} of shape {tuple(data.shape)}", data, trained))
    found = overlapping(listed)
    if found:
        raise SettingError(
            f"{found[0]} overlaps {'itself' if found[0] == found[1] else found[1]} in memory, and would be trained twice; to share values, "
            "use one Parameter in both places, else clone() the tensor"
        )


def clip_factor(norms: list[Any], limit: float) -> Any:
    """What to multiply all gradients with so that their joint norm is at most `limit`: 1 if it is less (Pascanu et al. 2013)."""
    total = Norm.apply(Stack.apply(*norms))
    return Minimum.apply(limit / (total + 1e-6), 1.0)
