"""Losses and optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from hotgrad import modules, optim
from hotgrad.checks import one_of
from hotgrad.errors import OperandError
from hotgrad.modules import Loss
from hotgrad.optim import Optimizer

T = TypeVar("T")


def published(package: ModuleType, base: type[T]) -> list[type[T]]:
    """The classes of this base in a package's `__all__`, the base aside.

    >>> optim.Adam in published(optim, Optimizer), Optimizer in published(optim, Optimizer)
    (True, False)
    """
    found = [getattr(package, name) for name in package.__all__]
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, base) and kind is not base]


LOSSES: dict[str, type[Loss]] = {loss.function.__name__: loss for loss in published(modules, Loss)}
OPTIMIZERS: dict[str, type[Optimizer]] = {optimizer.__name__.lower(): optimizer for optimizer in published(optim, Optimizer)}


def loss_of(loss: Any) -> Callable[..., Any]:
    """The loss of that name, or the callable itself. Raises SettingError for unknown names, OperandError for anything else.

    >>> loss_of("mse")
    MSE()
    """
    if isinstance(loss, str):
        return LOSSES[one_of("loss", loss, LOSSES, ", or give your own")]()
    if not callable(loss) or isinstance(loss, type):
        raise OperandError(f"a loss is a name or a callable loss(output, target); got {loss!r:.60}. Give an instance, such as hg.MSE()")
    return loss  # type: ignore[no-any-return]


def optimizer_of(optimizer: Any) -> Optimizer:
    """The optimizer of that name, or the object itself. Raises SettingError for unknown names, OperandError for anything else."""
    if isinstance(optimizer, str):
        return OPTIMIZERS[one_of("optimizer", optimizer, OPTIMIZERS, ", or give your own")]()
    if isinstance(optimizer, type) or not hasattr(optimizer, "bind"):
        raise OperandError(f"an optimizer is a name or an object such as hg.optim.SGD(lr=0.1); got {optimizer!r:.60}")
    return optimizer  # type: ignore[no-any-return]
