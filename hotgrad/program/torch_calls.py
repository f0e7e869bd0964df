"""torch functions that a function calls while it is captured: which are constants of the program, and which are refused."""

from __future__ import annotations

import sys
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from hotgrad.core.explain import users_frame
from hotgrad.core.methods import WRITERS
from hotgrad.core.modes import state
from hotgrad.core.trace import Trace
from hotgrad.core.variable import Variable

# What may be asked of a plain tensor: nothing of it depends on values.
_STATIC = frozenset(
    "shape dtype device ndim layout is_cpu is_cuda is_mps requires_grad is_leaf dim size numel stride is_contiguous __len__ is_floating_point "
    "is_complex element_size nelement itemsize nbytes is_sparse is_quantized names _version is_inference is_meta can_cast promote_types result_type".split()
)
# What makes tensors out of Python numbers alone, and what does so for the shape and dtype of a tensor.
_FACTORIES = frozenset(
    "zeros ones full arange range linspace logspace eye tensor as_tensor asarray scalar_tensor tril_indices triu_indices bartlett_window "
    "blackman_window hamming_window hann_window kaiser_window broadcast_shapes".split()
)
_LIKE = frozenset("zeros_like ones_like full_like new_zeros new_ones new_full new_tensor".split())
# What gives something else each time, or writes elsewhere. (Two runs are compared besides.)
_UNSTEADY = frozenset(
    "bernoulli bernoulli_ multinomial normal normal_ poisson binomial rand_like randn_like randint_like uniform_ random_ exponential_ cauchy_ "
    "geometric_ log_normal_ dropout dropout_ dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout rrelu rrelu_ "
    "native_dropout empty_like new_empty new_empty_strided resize_ resize_as_ set_ share_memory_ data_ptr untyped_storage storage".split()
)
_CONSTANT = (bool, int, float, str, type(None), type(...), range, torch.dtype, torch.device, torch.layout, torch.memory_format)
# Modules whose torch calls on the way are part of capturing, or make constants out of Python numbers.
_INSIDE = ("hotgrad.program", "hotgrad.core.variable", "hotgrad.core.arrays", "hotgrad.core.explain", "hotgrad.optim")


def where() -> str:
    """The line of the user's that runs now: " (file.py, line 3)"."""
    frame, _ = users_frame()
    return "" if frame is None else f" ({frame.f_code.co_filename}, line {frame.f_lineno})"


class _Capture(Trace, Protocol):
    """The capture that asks."""

    inside: int
    current: dict[int, Any]


class TorchCalls(TorchFunctionMode):
    """Sorts the torch functions that code outside of hotgrad calls on something else than Variables.

    Tensors made of Python numbers and shapes, and what is computed from such, are the same at each run, so they may be constants of
    the program. What is computed from other tensors would go stale: it is refused.
    """

    def __init__(self, trace: _Capture) -> None:
        super().__init__()
        self.trace = trace
        self.made: dict[int, Tensor] = {}  # by id: the tensors of which the program may be sure

    def leave(self) -> None:
        """Take it off torch's stack of modes, if Ctrl-C kept `with` from doing so."""
        while any(mode is self for mode in _get_current_function_mode_stack()):  # type: ignore[no-untyped-call]
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.trace.inside:
            if kwargs.get("generator") is not None and not _calling_module().startswith("hotgrad.") and state.trace is self.trace:
                self.trace.refuse(
                    f"an op's forward draws random numbers, by torch's {func.__name__!r}{where()}, others at each run; make them an operand, "
                    "or use Dropout"
                )
            return func(*args, **kwargs)
        name = func.__name__
        if name == "__get__" or name == "__set__":
            name = func.__self__.__name__
        # a mode that Ctrl-C kept on torch's stack finds another trace or none
        if name in _STATIC or _calling_module().startswith(_INSIDE) or state.trace is not self.trace:
            return func(*args, **kwargs)
        if any(isinstance(arg, Variable) for arg in args) or _any_variable((args, kwargs)):
            result = func(*args, **kwargs)
            if name in _LIKE:
                self._keep(result)
            return result
        known = id(args[0]) in self.trace.current if args else False
        if name in WRITERS and len(args) == 2 and not kwargs and (known or id(args[0]) not in self.made):
            return WRITERS[name](*args)
        if name in ("randn", "rand", "randn_like", "rand_like", "bernoulli", "normal"):
            ours = f"hg.{name}" if name != "normal" else "mean + std * hg.randn"
            self.trace.refuse(
                f"torch's {name!r} was called while capturing{where()}: it would give the same numbers at each run. Draw with {ours}, which draws "
                "anew, from the model's generator inside fit"
            )
        if not self._steady(name, args, kwargs):
            self.trace.refuse(
                f"torch's {name!r} was called on plain tensors while capturing{where()}: its result would stay the same at each run. Make the "
                "tensor outside of the function, or of Python numbers and shapes alone, or compute with Variables"
            )
        result = func(*args, **kwargs)
        self._keep(result)
        return result

    def _steady(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call gives the same at each run."""
        if name in _LIKE and args and isinstance(args[0], Tensor):
            return self._constant((args[1:], kwargs))
        if name in _UNSTEADY or not self._constant((args, kwargs)):
            return False
        return name in _FACTORIES or _any_tensor((args, kwargs))

    def _constant(self, value: Any) -> bool:
        if isinstance(value, Tensor):
            return id(value) in self.made
        if isinstance(value, (tuple, list)):
            return all(map(self._constant, value))
        if isinstance(value, dict):
            return all(map(self._constant, value.values()))
        if isinstance(value, slice):
            return self._constant((value.start, value.stop, value.step))
        return isinstance(value, _CONSTANT)

    def _keep(self, result: Any) -> None:
        if isinstance(result, Tensor):
            self.made[id(result)] = result
        elif isinstance(result, (tuple, list)):
            for item in result:
                self._keep(item)


def _any_variable(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_any_variable, value))
    return any(map(_any_variable, value.values())) if isinstance(value, dict) else isinstance(value, Variable)


def _any_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_any_tensor, value))
    return any(map(_any_tensor, value.values())) if isinstance(value, dict) else isinstance(value, Tensor)


def _calling_module() -> str:
    """The module that called torch."""
    frame: Any = sys._getframe(2)
    while frame.f_globals.get("__name__", "").split(".")[0] == "torch" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))
