"""Networks to and from torch.nn: the same layers, with copies of the weights.

hotgrad keeps the weight of a Linear as (in, out), torch as (out, in); everything else agrees. Models of classes of one's own
are not converted, but their weights are: `torch_model.load_state_dict(to_torch_state(model))`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
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


class TorchResidual(nn.Module):
    """What a Residual becomes: torch.nn has no such layer."""

    def __init__(self, inner: Any, shortcut: Any) -> None:
        super().__init__()
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Tensor) -> Any:
        return self.inner(x) + (x if self.shortcut is None else self.shortcut(x))


# Each layer's class here and there, and how one makes the other; containers get the converter for what is in them.
_LAYERS: list[tuple[type[Module], type[nn.Module], Callable[..., Any], Callable[..., Any]]] = [
    (modules.ReLU, nn.ReLU, lambda a: nn.ReLU(), lambda b: modules.ReLU()),
    (modules.Tanh, nn.Tanh, lambda a: nn.Tanh(), lambda b: modules.Tanh()),
    (modules.Sigmoid, nn.Sigmoid, lambda a: nn.Sigmoid(), lambda b: modules.Sigmoid()),
    (modules.GELU, nn.GELU, lambda a: nn.GELU(), lambda b: _only(b, approximate="none") and modules.GELU()),
    (modules.Softmax, nn.Softmax, lambda a: nn.Softmax(a.dim), lambda b: modules.Softmax(_numbers(b, "dim"))),
    (modules.Dropout, nn.Dropout, lambda a: nn.Dropout(a.p), lambda b: modules.Dropout(b.p)),
    (modules.Flatten, nn.Flatten, lambda a: nn.Flatten(a.start_dim, a.end_dim), lambda b: modules.Flatten(b.start_dim, b.end_dim)),
    (
        modules.Linear,
        nn.Linear,
        lambda a: nn.Linear(a.in_features, a.out_features, a.bias is not None, device="meta"),
        lambda b: _undrawn(modules.Linear, b.in_features, b.out_features, b.bias is not None),
    ),
    (
        modules.LayerNorm,
        nn.LayerNorm,
        lambda a: nn.LayerNorm(a.normalized_shape, a.eps, a.weight is not None, a.bias is not None, device="meta"),
        lambda b: modules.LayerNorm(b.normalized_shape, b.eps, b.weight is not None, b.bias is not None),
    ),
    (
        modules.BatchNorm1d,
        nn.BatchNorm1d,
        lambda a: nn.BatchNorm1d(a.num_features, a.eps, a.momentum, a.weight is not None),
        lambda b: _only(b, track_running_stats=True) and modules.BatchNorm1d(b.num_features, b.eps, _numbers(b, "momentum"), b.affine),
    ),
    (
        modules.Conv2d,
        nn.Conv2d,
        lambda a: nn.Conv2d(
            a.weight.shape[1], a.weight.shape[0], a.kernel_size, a.stride, a.padding, bias=a.bias is not None, device="meta"
        ),
        lambda b: (
            _only(b, dilation=(1, 1), groups=1, padding_mode="zeros")
            and _undrawn(modules.Conv2d, b.in_channels, b.out_channels, b.kernel_size, b.stride, _numbers(b, "padding"), b.bias is not None)
        ),
    ),
    (
        modules.Residual,
        TorchResidual,
        lambda a, to: TorchResidual(to(a.inner), a.shortcut and to(a.shortcut)),
        lambda b, to: modules.Residual(to(b.inner), b.shortcut and to(b.shortcut)),
    ),
    (
        Sequential,
        nn.Sequential,
        lambda a, to: nn.Sequential(OrderedDict((name, to(layer)) for name, layer in a.named_layers())),
        lambda b, to: Sequential({name: to(layer) for name, layer in b._modules.items()}),
    ),
]
_CONTAINERS = (modules.Residual, TorchResidual, Sequential, nn.Sequential)
_TO_TORCH = {here: make for here, there, make, _ in _LAYERS}
_FROM_TORCH = {there: make for here, there, _, make in _LAYERS}


def _only(layer: nn.Module, **settings: Any) -> bool:
    """True if a torch layer has these settings, the ones we know. Raises OperandError."""
    for name, value in settings.items():
        if getattr(layer, name) != value:
            raise OperandError(f"from_torch: {layer} has {name}={getattr(layer, name)!r}; hotgrad's has only {value!r}")
    return True


def _numbers(layer: nn.Module, name: str) -> Any:
    """A setting of a torch layer that may be None or a word there, but is numbers here. Raises OperandError."""
    value = getattr(layer, name)
    if value is None or isinstance(value, str):
        raise OperandError(f"from_torch: {layer} has {name}={value!r}; hotgrad's takes numbers")
    return value


def _undrawn(kind: Any, *settings: Any) -> Any:
    """A layer of these settings whose weights are not drawn, so that no generator moves; drawn anew, they are as usual."""
    layer = kind(*settings, init="zeros")
    layer.init = "xavier_uniform"
    return layer


def _converter(function: str, known: Mapping[type, Callable[..., Any]]) -> Callable[[Any], Any]:
    """Converts layers, one that occurs several times into one."""
    made: dict[int, Any] = {}

    def convert(layer: Any) -> Any:
        if type(layer) not in known:
            raise OperandError(
                f"{function} converts {', '.join(kind.__name__ for kind in known)}; got {type(layer).__name__}. "
                "For other models exchange the weights alone: to_torch_state, from_torch_state"
            )
        if id(layer) not in made:
            make = known[type(layer)]
            made[id(layer)] = make(layer, convert) if type(layer) in _CONTAINERS else make(layer)
            made[id(layer)].train(layer.training)
        return made[id(layer)]

    return convert


def _matrices(model: Module) -> dict[str, bool]:
    """For each entry of the state whether it is the weight of a Linear, which torch keeps transposed."""
    weights = {id(module.weight) for module in model.modules() if isinstance(module, modules.Linear)}
    return {name: id(value) in weights for name, value in model._state().items()}


def to_torch_state(model: Module) -> dict[str, Tensor]:
    """Copies of the state as torch lays it out: that of `model.state_dict()`, with the weights of each Linear transposed.

    >>> state = hg.interop.to_torch_state(hg.Linear(3, 2))
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

    >>> model = hg.Linear(3, 2)
    >>> hg.interop.from_torch_state(model, torch.nn.Linear(3, 2).state_dict())
    """
    turned = _matrices(model)
    given = {name: value.mT if turned.get(name) and value.ndim == 2 else value for name, value in state.items()}
    model.load_state_dict({name: value for name, value in given.items() if not name.endswith("num_batches_tracked")}, strict)


def to_torch(model: Module) -> nn.Module:
    """A torch.nn module of the same layers, with copies of the weights, in the same mode, the same parameters frozen.

    Layers of hotgrad and Sequentials of them are converted; what occurs several times stays shared. Raises OperandError for
    others, TapeError while a lazy layer is not sized.

    >>> hg.interop.to_torch(hg.Sequential(hg.Linear(3, 2), hg.Tanh()))
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
                target._parameters[name] = tied[id(parameter)]
        for name in layer._buffers:
            target._buffers[name] = state[joined(path, name)]
    return made  # type: ignore[no-any-return]


def from_torch(module: nn.Module) -> Module:
    """A hotgrad module of the same layers, with copies of the weights, in the same mode, the same parameters frozen.

    Raises OperandError for layers, or settings of them, that hotgrad does not have.

    >>> hg.interop.from_torch(torch.nn.Linear(3, 2))
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
