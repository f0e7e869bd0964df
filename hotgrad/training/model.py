"""What `fit` trains: a module with a loss and an optimizer, which may be given by name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad import modules, optim
from hotgrad.checks import one_of
from hotgrad.core.moving import moving
from hotgrad.errors import NoLossError, OperandError, SettingError
from hotgrad.modules import Loss, Module
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


class Setup:
    """Loss and optimizer of a model, out of the sight of its modules: a loss is no layer."""

    loss: Callable[..., Any] | None = None
    optimizer: Any = None
    followed: Any = None  # the optimizer that has had this model's parameters
    predictor: Callable[[Tensor], Any] | None = None
    noted = 0  # epochs of a training that are to run, when the next one is noted
    axes: int | None = None  # of the x that it was trained on
    columns: list[str] | None = None  # and their names, if it was a frame
    cut = 0.0  # where its one column turns from one label to the other
    warned = False  # that "auto" could not take the engine that it would have chosen

    @contextlib.contextmanager
    def kept(self, model: Model, given: Any) -> Iterator[None]:
        """Loss, optimizer, the one that is `given`, and generators return to what they were if an exception leaves the block."""
        loss, optimizer, generator = self.loss, self.optimizer, model.generator
        followed, settings, random = self.followed, dict(vars(given)), torch.get_rng_state()
        slots = [(slot, dict(slot.state)) for slot in given._slots()]
        state = None if generator is None else generator.get_state()
        try:
            yield
        except BaseException:
            self.loss, self.optimizer, self.followed = loss, optimizer, followed
            vars(given).clear()
            vars(given).update(settings)
            for slot, kept in slots:
                slot.state = kept
            torch.set_rng_state(random)
            model.use_generator(generator)
            if generator is not None and state is not None:
                generator.set_state(state)
            raise

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: programs belong to the model that they were captured from."""
        return {name: value for name, value in vars(self).items() if name != "predictor"}


class Model(Module):
    """Base of Sequential: a module with a loss and an optimizer."""

    def __init__(self, loss: Any, optimizer: Any) -> None:
        self._setup = Setup()
        self.loss, self.optimizer = loss, optimizer
        self._epochs = 0

    @property
    def epochs_done(self) -> int:
        """Over all trainings since it was last reset."""
        return moving(self, "epochs_done", lambda ahead: self._epochs + self._setup.noted)  # type: ignore[no-any-return]

    @epochs_done.setter
    def epochs_done(self, value: int) -> None:
        self._epochs = value

    @property
    def loss(self) -> Any:
        """What `fit` and `evaluate` use, None if there is none. May be set to a name."""
        return self._setup.loss

    @loss.setter
    def loss(self, value: Any) -> None:
        self._setup.loss = None if value is None else loss_of(value)

    @property
    def optimizer(self) -> Any:
        """What `fit` uses, None if there is none. May be set to a name."""
        return self._setup.optimizer

    @optimizer.setter
    def optimizer(self, value: Any) -> None:
        self._setup.optimizer = None if value is None else optimizer_of(value)

    def _given_loss(self, loss: Any) -> Callable[..., Any]:
        found = self.loss if loss is None else loss_of(loss)
        if found is None:
            raise NoLossError('no loss is set: give one to Sequential or to fit, for example loss="mse" or loss="cross_entropy"')
        return found

    def _given_optimizer(self, optimizer: Any) -> Any:
        found = self.optimizer if optimizer is None else optimizer_of(optimizer)
        if found is None:
            raise SettingError('no optimizer is set: give one to Sequential or to fit, for example optimizer="sgd" or hg.optim.SGD(lr=0.1)')
        return found
