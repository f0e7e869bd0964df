"""The whole state of a training: parameters, buffers, optimizer, generator, epochs done. Rollback, checkpoints, early
stopping and files all cover this same set.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import whole_number
from hotgrad.core.variable import Parameter, Variable
from hotgrad.modules.parameters import shape_of
from hotgrad.training.following import follow


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


def twin(model: Any, *others: Any) -> Any:
    """A deep copy of a model, its generator included; with others a tuple of copies that belong together.

    >>> model = hg.Sequential(hg.Linear(2, 2)).use_generator(torch.Generator().manual_seed(0))
    >>> twin(model).generator.get_state().equal(model.generator.get_state())
    True
    """
    generators = {module.generator for module in model.modules()} - {None}
    memo = {id(generator): generator.clone_state() for generator in generators}  # torch's own copy of one leaks 3 KiB
    return copy.deepcopy((model, *others) if others else model, memo)


def layout(model: Any) -> dict[str, tuple[Any, ...]]:
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

    def fits(self, model: Any) -> bool:
        """Whether the model has the Parameters and buffers of then, by name and shape."""
        then, now = ({name: value.shape for name, value in state.items()} for state in (self.tree["model"], model._state()))
        return then == now

    def restore(self, model: Any) -> None:
        """Put the state back, in place. An optimizer that had no parameters yet is replaced by a fresh one."""
        model.load_state_dict(self.tree["model"])
        optimizer, saved = model.optimizer, self.tree["optimizer"]
        if optimizer is not None and saved is not None:
            follow(model, list(model.parameters()))
            optimizer.load_state_dict(saved)
        elif optimizer is not None and optimizer.groups:
            model.optimizer = optimizer.restarted()
        if self.tree["generator"] is not None:
            if model.generator is None:
                model.use_generator(torch.Generator())
            model.generator.set_state(self.tree["generator"])
        model.epochs_done = self.tree["epochs"]
