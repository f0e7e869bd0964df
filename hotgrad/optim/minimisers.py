"""Optimizers whose step is itself a search: they evaluate the objective several times, over all rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.errors import FileError, SettingError
from hotgrad.optim.groups import Slot
from hotgrad.optim.optimizer import Optimizer

M = TypeVar("M", bound="Minimiser")


class Minimiser(Optimizer):
    """Base of such optimizers: one group of parameters, seen as one flat vector, and a memory, as `nothing` gives it at first."""

    needs_closure = True

    def __init__(self, params: Any = None, lr: Any = 1.0, **settings: Any) -> None:
        self._memory = self.nothing()
        super().__init__(params, lr, **settings)

    @staticmethod
    def nothing() -> dict[str, Any]:
        """What is remembered at first: numbers, tensors, lists of tensors, or None."""
        return {}

    def bind(self, params: Any) -> None:
        """As for every optimizer, but for one group only. Raises SettingError for more."""
        before = self.groups
        super().bind(params)
        if len(self.groups) > 1:
            self.groups, self._given = before, False
            raise SettingError(f"{type(self).__name__} takes one group of parameters")

    def follow(self, parameters: list[Variable]) -> None:
        before = self.groups
        super().follow(parameters)
        if self.groups is not before:  # what was learnt is of another space
            self._memory = self.nothing()

    def fresh(self: M) -> M:
        out = super().fresh()
        out._memory = self.nothing()
        return out

    def state_dict(self) -> dict[str, Any]:
        memory = {name: list(value) if isinstance(value, list) else value for name, value in self._memory.items() if value is not None}
        return {**super().state_dict(), "memory": memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        memory = state.get("memory") if isinstance(state, dict) else None
        if not isinstance(memory, dict) or not set(memory) <= set(self.nothing()):
            raise FileError(f"the optimizer state does not fit this {type(self).__name__}: it holds no memory of one")
        super().load_state_dict(state)
        self._memory = {**self.nothing(), **_each(memory, Tensor.clone)}

    def convert_state(self) -> None:
        super().convert_state()
        like = self.parameters[0].data
        self._memory = _each(self._memory, lambda tensor: tensor.to(like))

    def _active(self) -> list[Slot]:
        """Those of its parameters that require a gradient; where they are not those of the last step, what was learnt is forgotten."""
        slots = self._slots()
        active = [i for i, slot in enumerate(slots) if slot.parameter.requires_grad]
        if active != self._memory["active"]:
            self._memory.update(self.nothing(), active=active)
        return [slots[i] for i in active]


def move(slots: list[Slot], by: Tensor) -> None:
    """Add a flat vector to these parameters, in place."""
    datas = [slot.parameter._data for slot in slots]
    pieces = torch.split_with_sizes(by, [data.numel() for data in datas])
    torch._foreach_add_(datas, [piece.view(data.shape) for piece, data in zip(pieces, datas)])


def _each(memory: dict[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """What is remembered, with every tensor changed."""

    def changed(value: Any) -> Any:
        return [changed(item) for item in value] if isinstance(value, list) else change(value) if isinstance(value, torch.Tensor) else value

    return {name: changed(value) for name, value in memory.items()}
