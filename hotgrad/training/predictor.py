"""Predictions on captured programs, for inputs of a shape that comes again and again."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hotgrad.core.variable import wrap
from hotgrad.engines.registry import EXACT
from hotgrad.modules import Module
from hotgrad.program.captured import captured
from hotgrad.program.guards import Watch
from hotgrad.training.state import twin

CALLS = 3  # of a shape, after which a program is worth its capture
SHAPES = 16  # remembered


class Predictor:
    """What runs a model in eval mode on batches: eagerly at first, then by replay, to the same bits.

    Only models of hotgrad's own layers are captured: trial runs of a user's code could be noticed. Whatever goes wrong with a
    program, the model itself is run, which shows what is wrong, or works.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._found: dict[Any, Any] = {}  # by shape and dtype: the calls so far, or program and engine, or None if there can be none

    def __call__(self, x: Tensor) -> Any:
        """The model's output, a Variable or a tensor; the model must be in eval mode."""
        key = (x.shape, x.dtype, x.device)
        found = self._found.get(key, 0)
        if isinstance(found, int) and found < CALLS:
            if len(self._found) >= SHAPES and key not in self._found:
                del self._found[next(iter(self._found))]
            self._found[key] = found + 1
        elif found is not None:
            try:
                if isinstance(found, int) or found[0].changed():
                    found = self._captured(x)
                self._found[key] = found
                if found is not None:
                    return found[1].run_once([x])[0]
            except Exception:  # of a user's object that is looked at, or of hotgrad's
                self._found[key] = None
        return self.model(wrap(x, None))

    def _captured(self, x: Tensor) -> Any:
        if not _own(self.model) or not Watch([self.model]).trusted:
            return None
        program = captured(self.model, [wrap(x, None)], [self.model])
        if program.structure != 0 or program.code.draws or any(state.update is not None for state in program.code.states):
            return None
        return program, EXACT(program.code, fuse=False)


def trial(model: Any) -> Any:
    """What to try rows on: a copy of the model if it holds a user's code, which may count its calls."""
    return model if _own(model) else twin(model)


def _own(model: Module) -> bool:
    """Whether all layers are hotgrad's or torch's, told without a look at what else they hold."""
    kinds = [type(module) for module in model.modules()]
    plain = [layer for module in model.modules() if hasattr(module, "named_layers") for _, layer in module.named_layers()]
    parts = [*kinds, *(layer for layer in plain if not isinstance(layer, Module))]
    return all(str(getattr(part, "__module__", "")).split(".")[0] in ("hotgrad", "torch") for part in parts)
