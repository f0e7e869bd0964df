"""Losses and optimizers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hotgrad.checks import one_of
from hotgrad.errors import OperandError
from hotgrad.modules import L1, MSE, BCEWithLogits, CrossEntropy, Huber
from hotgrad.optim import LBFGS, SGD, Adam, AdamW, RMSprop

LOSSES: dict[str, Callable[[], Any]] = {
    "mse": MSE,
    "l1": L1,
    "huber": Huber,
    "cross_entropy": CrossEntropy,
    "bce_with_logits": BCEWithLogits,
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "lbfgs": LBFGS}


def loss_of(loss: Any) -> Callable[..., Any]:
    """The loss of that name, or the callable itself. Raises SettingError for unknown names, OperandError for anything else.

    >>> loss_of("mse")
    MSE()
    """
    if isinstance(loss, str):
        return LOSSES[one_of("loss", loss, LOSSES, ", or give your own")]()  # type: ignore[no-any-return]
    if not callable(loss) or isinstance(loss, type):
        raise OperandError(f"a loss is a name or a callable loss(output, target); got {loss!r:.60}. Give an instance, such as hg.MSE()")
    return loss  # type: ignore[no-any-return]


def optimizer_of(optimizer: Any) -> Any:
    """The optimizer of that name, or the object itself. Raises SettingError for unknown names, OperandError for anything else."""
    if isinstance(optimizer, str):
        return OPTIMIZERS[one_of("optimizer", optimizer, OPTIMIZERS, ", or give your own")]()
    if isinstance(optimizer, type) or not hasattr(optimizer, "bind"):
        raise OperandError(f"an optimizer is a name or an object such as hg.optim.SGD(lr=0.1); got {optimizer!r:.60}")
    return optimizer
