"""What a model and its optimizer are made of and hold: structure, parameters that are followed, snapshots, and copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import whole_number
from hotgrad.core.variable import Parameter, Variable
from hotgrad.errors import SettingError
from hotgrad.modules import Module
from hotgrad.modules.module import joined
from hotgrad.modules.parameters import LazyParameter, shape_of
from hotgrad.optim.groups import check_apart
from hotgrad.training.evaluation import forward
from hotgrad.training.model import Model
from hotgrad.training.side_by_side import claim_more


def parameters_of(model: Model) -> dict[str, str]:
    """Shape and dtype of each Parameter, all of them sized, and whether it is frozen."""
    return {
        name: f"{tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}{'' if p.requires_grad else ' frozen'}"
        for name, p in model.named_parameters()
    }


def structure(model: Model) -> dict[str, str]:
    """The kinds of all layers, and the shapes of their Parameters and buffers, by name."""
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        for inner, layer in module.named_layers() if hasattr(module, "named_layers") else ():
            found[joined(name, inner)] = getattr(layer, "__qualname__", type(layer).__qualname__)
        found[name] = type(module).__qualname__
    return found | {name: str(tuple(value.shape)) for name, value in model._state().items()}


def restructured(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """How the structure `then` differs from the one that is there `now`, one phrase each; of a layer that is another, only that."""
    told: list[str] = []
    phrases = []
    for path in sorted({**then, **now}, key=lambda path: path.count(".")):
        a, b = then.get(path), now.get(path)
        if a != b and not any(path.startswith(f"{outer}.") for outer in told):
            told.append(path)
            one_sided = f"{path} ({a}) came in" if b is None else f"{path} ({b}) is not in it"
            phrases.append(one_sided if None in (a, b) else f"{path} became {a}, and is {b} here")
    return phrases


def check_any(parameters: Sequence[Parameter]) -> None:
    """Raises SettingError if none of all the Parameters of a model is to be trained."""
    if not any(parameter.requires_grad for parameter in parameters):
        raise SettingError(
            f"there is nothing to train: of the model's {len(parameters)} Parameters none requires a gradient; unfreeze() some"
        )


def check_trained(model: Model, optimizer: Any) -> None:
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


def follow(model: Model, parameters: list[Parameter]) -> None:
    """Let the model's optimizer have `parameters`, all of the model, unless it was given its own, or is another model's."""
    setup, optimizer = model._setup, model.optimizer
    if not optimizer.follows:
        return
    if setup.followed is not optimizer and {id(p) for p in optimizer.parameters} <= {id(p) for p in parameters}:
        setup.followed = optimizer
    if setup.followed is optimizer:
        optimizer.follow(parameters)


def keep_up(model: Model, example: Any) -> bool:
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


def copied(tree: Any) -> Any:
    """Nested dicts, lists and tuples, with every tensor cloned.

    >>> copied({"a": [torch.ones(1), 2]})
    {'a': [tensor([1.]), 2]}
    """
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied(value) for value in tree)
    return tree


def checked(tree: Any) -> dict[str, Any]:
    """The tree of a Snapshot that comes out of a file. Raises SettingError or ValueError for one that is none."""
    if not isinstance(tree, dict) or set(tree) != {"model", "optimizer", "generator", "epochs"}:
        raise ValueError(f"it holds no state of a training: {tree!r:.60}")
    whole_number("the number of epochs done", tree["epochs"], 0)
    if not isinstance(tree["optimizer"], (dict, type(None))) or not isinstance(tree["generator"], (Tensor, type(None))):
        raise ValueError("the state of its optimizer or generator is none")
    if not isinstance(tree["model"], dict):
        raise ValueError("it holds no parameters")
    return tree


def twin(model: Module, *others: Any) -> Any:
    """A deep copy of a model, its generator included; with others a tuple of copies that belong together.

    >>> model = hg.Sequential(hg.Linear(2, 2)).use_generator(torch.Generator().manual_seed(0))
    >>> twin(model).generator.get_state().equal(model.generator.get_state())
    True
    """
    generators = {module.generator for module in model.modules() if module.generator is not None}
    memo = {id(generator): generator.clone_state() for generator in generators}  # torch's own copy of one leaks 3 KiB
    return copy.deepcopy((model, *others) if others else model, memo)


def layout(model: Module) -> dict[str, tuple[Any, ...]]:
    """The shapes of parameters and buffers by name, None for what is not known yet.

    >>> layout(hg.Linear(2))
    {'weight': (None, 2), 'bias': (2,)}
    """
    return {name: shape_of(value) for name, value in model._state().items()}


class Snapshot:
    """The state of a model and its optimizer at one moment, of tensors that share memory with nothing.

    `tree` is nested dicts of tensors and numbers, fit for a file; a Snapshot can be made from one, too.
    """

    def __init__(self, of: Any) -> None:
        if isinstance(of, dict):
            self.tree = of
            return
        optimizer, state = of.optimizer, of._state()
        self.parameters = [value for value in state.values() if isinstance(value, Parameter)]
        if optimizer is not None and optimizer.groups:
            follow(of, self.parameters)
        self.tree = {
            "model": {name: (value.data if isinstance(value, Variable) else value).clone() for name, value in state.items()},
            "optimizer": copied(optimizer.state_dict()) if optimizer is not None and optimizer.groups else None,
            "generator": None if of.generator is None else of.generator.get_state(),
            "epochs": of.epochs_done,
        }

    def fits(self, model: Model) -> bool:
        """Whether the model has the Parameters and buffers of then, by name and shape."""
        then, now = ({name: value.shape for name, value in state.items()} for state in (self.tree["model"], model._state()))
        return then == now

    def restore(self, model: Model) -> None:
        """Put the state back, in place. An optimizer that had no parameters yet is replaced by a fresh one."""
        model.load_state_dict(self.tree["model"])
        optimizer, saved = model.optimizer, self.tree["optimizer"]
        if optimizer is not None and saved is not None:
            follow(model, list(model.parameters()))
            optimizer.load_state_dict(saved)
        elif optimizer is not None and optimizer.groups:
            model.optimizer = optimizer.restarted()
        if self.tree["generator"] is not None:
            generator = model.generator
            if generator is None:
                generator = torch.Generator()
                model.use_generator(generator)
            generator.set_state(self.tree["generator"])
        model.epochs_done = self.tree["epochs"]


def trial(model: Model) -> Any:
    """What to try rows on: a copy of the model if it holds a user's code, which may count its calls."""
    return model if is_plain(model) else twin(model)


def is_plain(model: Module) -> bool:
    """Whether all layers are hotgrad's or torch's, told without a look at what else they hold."""
    kinds = [type(module) for module in model.modules()]
    plain = [layer for module in model.modules() if hasattr(module, "named_layers") for _, layer in module.named_layers()]
    parts = [*kinds, *(layer for layer in plain if not isinstance(layer, Module))]
    return all(str(getattr(part, "__module__", "")).split(".")[0] in ("hotgrad", "torch") for part in parts)
