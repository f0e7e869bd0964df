"""Of what layers a model consists, as text: what a checkpoint compares with the model that is to go on from it."""

from __future__ import annotations

from typing import Any

from hotgrad.modules.module import joined


def parameters_of(model: Any) -> dict[str, str]:
    """Shape and dtype of each Parameter, all of them sized, and whether it is frozen."""
    return {
        name: f"{tuple(p.shape)} {str(p.dtype).removeprefix('torch.')}{'' if p.requires_grad else ' frozen'}"
        for name, p in model.named_parameters()
    }


def structure(model: Any) -> dict[str, str]:
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
