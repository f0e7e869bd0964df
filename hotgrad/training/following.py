"""Which parameters `fit` trains: those of the model as it is now, if its optimizer was not given any; else those it was given."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import Any

from hotgrad.core.variable import Parameter
from hotgrad.errors import SettingError
from hotgrad.modules.parameters import LazyParameter
from hotgrad.optim.groups import check_apart
from hotgrad.training.claims import claim_more
from hotgrad.training.evaluation import forward


def check_any(parameters: Sequence[Parameter]) -> None:
    """Raises SettingError if none of all the Parameters of a model is to be trained."""
    if not any(parameter.requires_grad for parameter in parameters):
        raise SettingError(
            f"there is nothing to train: of the model's {len(parameters)} Parameters none requires a gradient; unfreeze() some"
        )


def check_trained(model: Any, optimizer: Any) -> None:
    """Raises SettingError if there is nothing to train, if the optimizer's parameters are not the model's, or share memory."""
    named = list(model.named_parameters())
    check_any([parameter for _, parameter in named])
    check_apart([*named, *model.named_buffers()])
    kind = type(optimizer).__name__
    own, known = {id(parameter) for _, parameter in named}, {id(parameter) for parameter in optimizer.parameters}
    lacks = [name for name, parameter in named if id(parameter) not in known and parameter.requires_grad]
    if lacks and not optimizer.follows:
        raise SettingError(
            f"this {kind} was given its parameters, and has not these of the model: {', '.join(lacks)}. Give it all that are to be trained "
            f"and freeze() the others, or make it without parameters, as {kind}(lr=...): then it has those that the model has"
        )
    if not known <= own and not (optimizer.follows and model._setup.followed is optimizer):
        raise SettingError(f"this {kind} has parameters of another model; make a new one, or give optimizer.fresh()")


def follow(model: Any, parameters: list[Parameter]) -> None:
    """Let the model's optimizer have `parameters`, all of the model, unless it was given its own, or is another model's."""
    setup, optimizer = model._setup, model.optimizer
    if not optimizer.follows:
        return
    if setup.followed is not optimizer and {id(p) for p in optimizer.parameters} <= {id(p) for p in parameters}:
        setup.followed = optimizer
    if setup.followed is optimizer:
        optimizer.follow(parameters)


def keep_up(model: Any, example: Any) -> bool:
    """After others had the model in hand: its new parameters, if any, are sized and trained from now on; modules share its generator.

    Gives whether its parameters are others than before. `example`: some rows of input. Raises what `check_trained` raises.
    """
    parameters, before = list(model.parameters()), model.optimizer.parameters
    if len(parameters) == len(before) and all(map(is_, parameters, before)):
        return False
    claim_more(model)
    model.use_generator(model.generator)
    if any(isinstance(parameter, LazyParameter) for parameter in parameters):
        forward(model, example)
    check_trained(model, model.optimizer)
    follow(model, parameters)
    return True
