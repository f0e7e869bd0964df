"""Networks to and from torch.nn: the same layers, with copies of the weights.

hotgrad keeps the weight of a Linear as (in, out), torch as (out, in); everything else agrees. Models of classes of one's own
are not converted, but their weights are: `torch_model.load_state_dict(to_torch_state(model))`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from inspect import Parameter as Setting
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from hotgrad import modules
from hotgrad.core.variable import Parameter
from hotgrad.errors import OperandError
from hotgrad.modules import Module
from hotgrad.modules.module import held, joined
from hotgrad.modules.parameters import replace
from hotgrad.training import Sequential
from hotgrad.training.model import published


class TorchResidual(nn.Module):
    """What a Residual becomes: torch.nn has no such layer."""

    def __init__(self, inner: Any, shortcut: Any) -> None:
        super().__init__()
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) + (x if self.shortcut is None else self.shortcut(x))


_CONTAINERS: dict[type, Callable[..., Any]] = {
    modules.Residual: lambda a, to: TorchResidual(to(a.inner), a.shortcut and to(a.shortcut)),
    TorchResidual: lambda b, to: modules.Residual(to(b.inner), b.shortcut and to(b.shortcut)),
    Sequential: lambda a, to: nn.Sequential(OrderedDict((name, to(layer)) for name, layer in a.named_layers())),
    nn.Sequential: lambda b, to: Sequential({name: to(layer) for name, layer in b._modules.items()}),
}
# The other layers become those of the same names, with settings of the same names.
_TO_TORCH: dict[type, type] = {kind: getattr(nn, kind.__name__) for kind in published(modules, Module) if hasattr(nn, kind.__name__)}
_FROM_TORCH = {there: here for here, there in _TO_TORCH.items()}
# Settings that one side may have alone: they do not change what is computed, and a bias without its own setting comes with the weight.
_OF_ONE_SIDE = ("init", "device", "dtype", "inplace", "bias")


def _settings(kind: type) -> Mapping[str, Any]:
    """What a layer's constructor takes, by name."""
    of = nn.RNNBase if issubclass(kind, nn.RNNBase) else kind  # torch's recurrent layers do not tell their own
    found = [item for item in signature(of).parameters.items() if item[0] not in ("mode", "_freeze", "_weight")]
    if kind is nn.RNN:
        found.append(("nonlinearity", Setting("nonlinearity", Setting.KEYWORD_ONLY, default="tanh")))
    return {name: setting for name, setting in found if setting.kind not in (setting.VAR_POSITIONAL, setting.VAR_KEYWORD)}


def _alike(function: str, layer: Any, kind: type) -> Any:
    """A layer of the other library with the settings of this one, its weights not drawn, so that no generator moves.

    Raises OperandError for a setting that the other has not, or has as a number where this one is None or a word.
    """
    own, others = _settings(type(layer)), _settings(kind)
    settings: dict[str, Any] = {}
    for name, parameter in own.items():
        value = getattr(layer, name, parameter.default)
        if name == "bias" and hasattr(layer, "in_proj_bias"):
            value = layer.in_proj_bias is not None
        if name in ("kdim", "vdim") and value == layer.embed_dim:  # as usual
            continue
        if name not in others:
            if name not in _OF_ONE_SIDE and value not in (parameter.default, (parameter.default,) * 2):
                raise OperandError(
                    f"{function}: {layer} has {name}={value!r}; {kind.__module__.split('.')[0]}'s has only {parameter.default!r}"
                )
        elif isinstance(parameter.default, bool):
            settings[name] = value if isinstance(value, bool) else value is not None  # whether it has that parameter
        elif (
            (value is None or isinstance(value, str))
            and value != others[name].default
            and name != "padding"
            and not isinstance(others[name].default, str)
        ):
            raise OperandError(f"{function}: {layer} has {name}={value!r}; {kind.__module__.split('.')[0]}'s takes numbers")
        else:
            settings[name] = value
    drawn = any(isinstance(found["init"].default, str) for found in (own, others) if "init" in found)
    random = torch.get_rng_state()
    made = kind(**settings, **({"device": "meta"} if "device" in others else {"init": "zeros"} if drawn else {}))
    torch.set_rng_state(random)
    if drawn and "init" in others:
        made.init = others["init"].default  # drawn anew, they are as usual
    return made


def _converter(function: str, known: Mapping[type, type]) -> Callable[[Any], Any]:
    """Converts layers, one that occurs several times into one."""
    made: dict[int, Any] = {}

    def convert(layer: Any) -> Any:
        kind = type(layer)
        if kind not in known and kind not in _CONTAINERS:
            raise OperandError(
                f"{function} converts Sequential, Residual, {', '.join(kind.__name__ for kind in known)}; got {kind.__name__}. "
                "For other models exchange the weights alone: to_torch_state, from_torch_state"
            )
        if id(layer) not in made:
            made[id(layer)] = _CONTAINERS[kind](layer, convert) if kind in _CONTAINERS else _alike(function, layer, known[kind])
            made[id(layer)].train(layer.training)
        return made[id(layer)]

    return convert


def _matrices(model: Module) -> dict[str, bool]:
    """For each entry of the state whether it is the weight of a Linear, which torch keeps transposed."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, modules.Linear)}
    return {name: id(value) in weights for name, value in model._state().items()}


def to_torch_state(model: Module) -> dict[str, Tensor]:
    """Copies of the state as torch lays it out: that of `model.state_dict()`, with the weights of each Linear transposed.

    >>> from hotgrad import interop
    >>> state = interop.to_torch_state(hg.Linear(3, 2))
    >>> state["weight"].shape
    torch.Size([2, 3])
    """
    turned = _matrices(model)
    return {
        name: (value.mT if turned[name] else value).clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }


def from_torch_state(model: Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """Load what a torch model of the same names gives as `state_dict()`; as `model.load_state_dict`, with its errors.

    >>> from hotgrad import interop
    >>> model = hg.Linear(3, 2)
    >>> interop.from_torch_state(model, torch.nn.Linear(3, 2).state_dict())
    """
    turned = _matrices(model)
    given = {name: value.mT if turned.get(name) and value.ndim == 2 else value for name, value in state.items()}
    model.load_state_dict({name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}, strict)


def to_torch(model: Module) -> nn.Module:
    """A torch.nn module of the same layers, with copies of the weights, in the same mode, the same parameters frozen.

    Layers of hotgrad and Sequentials of them are converted; what occurs several times stays shared. Raises OperandError for
    others, TapeError while a lazy layer is not sized.

    >>> from hotgrad import interop
    >>> interop.to_torch(hg.Sequential(hg.Linear(3, 2), hg.Tanh()))
    Sequential(
      (0): Linear(in_features=3, out_features=2, bias=True)
      (1): Tanh()
    )
    """
    state = to_torch_state(model)
    made = _converter("to_torch", _TO_TORCH)(model)
    tied: dict[int, nn.Parameter] = {}
    for path, layer in model.named_modules():
        target = made.get_submodule(path)
        for name, parameter in held(layer):
            if isinstance(parameter, Parameter):
                if id(parameter) not in tied:
                    tied[id(parameter)] = nn.Parameter(state[joined(path, name)], parameter.requires_grad)
                setattr(target, name, tied[id(parameter)])  # which its own lists follow
        for name in layer._buffers:
            target._buffers[name] = state[joined(path, name)]
    return made  # type: ignore[no-any-return]


def from_torch(module: nn.Module) -> Module:
    """A hotgrad module of the same layers, with copies of the weights, in the same mode, the same parameters frozen.

    Raises OperandError for layers, or settings of them, that hotgrad does not have.

    >>> from hotgrad import interop
    >>> interop.from_torch(torch.nn.Linear(3, 2))
    Linear(3, 2)
    """
    made: Module = _converter("from_torch", _FROM_TORCH)(module)
    given = dict(module.named_parameters(remove_duplicate=False))
    tied: dict[int, Parameter] = {}
    for path, layer in made.named_modules():
        for name, parameter in held(layer):
            if isinstance(parameter, Parameter):
                source = given[joined(path, name)]
                if id(source) in tied:
                    setattr(layer, name, tied[id(source)])
                    continue
                value = source.detach().mT if isinstance(layer, modules.Linear) and name == "weight" else source.detach()
                replace(parameter, value.clone(memory_format=torch.contiguous_format))
                parameter.requires_grad = source.requires_grad
                tied[id(source)] = parameter
        for name in layer._buffers:
            setattr(layer, name, module.get_submodule(path).get_buffer(name).detach().clone())
    return made
