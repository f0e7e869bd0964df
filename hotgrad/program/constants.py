"""The tensors that a program reads and does not change, as they are at each run."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from hotgrad.program.instructions import Instruction, Value
from hotgrad.program.memory import evaluate, shares

FEW = 4096  # elements that are compared at each run whatever torch knows of writes


class Constants:
    """Keeps the constants of a program up to date with the tensors that they came from, and with those folded from them.

    `own`: the constants whose tensor belongs to the program alone. `changes`: how often contents changed since; an engine that has
    copied them loads them again then.

    >>> weights = torch.ones(2)
    >>> found = Constants({Value.like("constant", weights): weights}, ())
    >>> weights.numpy()[0] = 5.0
    >>> found.refresh(), found.changes, found.refresh()
    (True, 1, False)
    """

    def __init__(self, tensors: dict[Value, Tensor], own: Collection[Value]) -> None:
        self.tensors, self.own = tensors, set(own)
        self.merged: dict[Value, Value] = {}  # in whose place another stands, as its contents are the same
        self.changes = 0
        self._folds: list[Instruction] = []  # computed once from constants alone
        self._folded: dict[Value, Any] = {}
        self._watched = [Contents(tensor) for value, tensor in tensors.items() if value not in self.own]
        self._stood: dict[Value, Contents] = {}  # of those that were another tensor once, the one that stands for it

    def refresh(self) -> bool:
        """Bring everything up to date; whether anything changed."""
        if not self._watched and not self._stood:
            return False
        written = [contents.changed() for contents in self._watched]
        for value, contents in self._stood.items():
            if contents.changed():
                self.tensors[value].copy_(contents.tensor)
                written.append(True)
        if not any(written):
            return False
        self._fold()
        return True

    def fold_with(self, folds: list[Instruction], constants: dict[Value, Any]) -> None:
        """Know that these instructions were computed, and all constants that there are then."""
        self._folds, self._folded = folds, constants

    def replace(self, now: dict[Value, Tensor]) -> bool:
        """Take over the contents of these tensors, into tensors of its own; False where the program would be another one."""
        changed = False
        for value, tensor in now.items():
            mine = self.tensors[value]
            if value in self._stood:
                self._stood[value] = Contents(tensor)
            if not equal_bits(mine, tensor):
                mine.copy_(tensor)
                changed = True
        if changed:
            if not all(equal_bits(self.tensors[value], self.tensors[other]) for value, other in self.merged.items()):
                return False
            self._fold()
        return True

    def release(self, values: Collection[Value]) -> None:
        """Have tensors of its own for these constants, with equal contents."""
        for value in values:
            old = self.tensors[value]
            self.tensors[value] = torch.empty_strided(value.shape, value.stride, dtype=old.dtype, device=old.device).copy_(old)
            self.own.add(value)
            self._stood[value] = Contents(old)
        self._watched = [Contents(tensor) for value, tensor in self.tensors.items() if value not in self.own]

    def _fold(self) -> None:
        self.changes += 1
        for instruction in self._folds:
            result, mine = evaluate(instruction, self._folded), self._folded[instruction.out]
            if not shares(result, mine):
                mine.copy_(result)


class Contents:
    """What stood in a tensor when it was looked at last: by torch's count of writes, and where that does not see all, by its elements.

    torch does not count writes through numpy memory, nor those through `Tensor.data`; the latter are seen in small tensors only.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._version = tensor._version
        self._kept: Tensor | None = None
        self._look()

    def changed(self) -> bool:
        """Whether there is something else now than at the last look; this is one."""
        tensor, kept = self.tensor, self._kept
        if tensor._version == self._version and (not self._uncounted() or (kept is not None and equal_bits(tensor, kept))):
            return False
        self._version = tensor._version
        self._look()
        return True

    def _look(self) -> None:
        self._kept = self.tensor.clone() if self._uncounted() else None

    def _uncounted(self) -> bool:
        """Whether it may be written to past torch's count, as one is whose memory numpy shares: such a storage cannot be resized."""
        tensor = self.tensor
        return tensor.is_cpu and (tensor.numel() <= FEW or not tensor.untyped_storage().resizable())


_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bits."""
    if a.is_floating_point() and a.element_size() > 1:
        bits = _BITS[a.element_size()]
        a, b = a.resolve_neg().view(bits), b.resolve_neg().view(bits)
    return torch.equal(a, b)
