"""Parameters that are sized later, and how parameters get their first values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import one_of
from hotgrad.core.arrays import as_tensor
from hotgrad.core.modes import state
from hotgrad.core.records import NO_ACCUMULATORS, Accumulator
from hotgrad.core.variable import Parameter, Variable
from hotgrad.errors import CaptureError, OperandError, ShapeError, TapeError

Initializer = Callable[[tuple[int, ...], "torch.Generator | None"], Any]

# ------------------------------------------------------------------------------------------------------- first values


def fans(shape: Sequence[int]) -> tuple[int, int]:
    """How many inputs each output sums, and how many outputs each input feeds, for weights of this shape.

    Matrices are (in, out), kernels of convolutions (out, in, *size).

    >>> fans((3, 5)), fans((8, 3, 2, 2))
    ((3, 5), (12, 32))
    """
    if len(shape) < 2:
        raise ShapeError(f"this initialiser needs weights of two or more axes; got shape {tuple(shape)}. Use 'zeros' or a function")
    if len(shape) == 2:
        return shape[0], shape[1]
    size = math.prod(shape[2:])
    return shape[1] * size, shape[0] * size


def _uniform(shape: tuple[int, ...], generator: torch.Generator | None, variance: float) -> Tensor:
    bound = math.sqrt(3 * variance)
    return torch.empty(shape, dtype=torch.float64, device="cpu").uniform_(-bound, bound, generator=generator)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, variance: float) -> Tensor:
    return torch.empty(shape, dtype=torch.float64, device="cpu").normal_(0.0, math.sqrt(variance), generator=generator)


def _glorot(shape: tuple[int, ...]) -> float:
    return 2 / max(sum(fans(shape)), 1)


def _he(shape: tuple[int, ...]) -> float:
    return 2 / max(fans(shape)[0], 1)


# Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16: the variance
# 2 / (in + out); He et al. 2015, "Delving deep into rectifiers", equation 10: 2 / in. Drawn in double, so that a model starts
# from the same values in every dtype.
INITIALIZERS: dict[str, Initializer] = {
    "xavier_uniform": lambda shape, generator: _uniform(shape, generator, _glorot(shape)),
    "xavier_normal": lambda shape, generator: _normal(shape, generator, _glorot(shape)),
    "kaiming_uniform": lambda shape, generator: _uniform(shape, generator, _he(shape)),
    "kaiming_normal": lambda shape, generator: _normal(shape, generator, _he(shape)),
    "zeros": lambda shape, generator: torch.zeros(shape),
    "ones": lambda shape, generator: torch.ones(shape),
}


def initializer(init: str | Initializer) -> Initializer:
    """The function `(shape, generator) -> values` of that name, or the function itself. Raises SettingError for unknown names."""
    if callable(init):
        return init
    return INITIALIZERS[one_of("initialiser", init, INITIALIZERS, ", or a function (shape, generator)")]


def fill(parameter: Variable, init: str | Initializer, generator: torch.Generator | None = None) -> None:
    """Write new first values into a parameter, in place, and forget its gradient. Raises ShapeError if the function gives others.

    >>> w = hg.Parameter(torch.zeros(2, 2))
    >>> fill(w, "ones")
    >>> w.tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    values = initializer(init)(tuple(parameter.shape), generator)
    values = as_tensor(values.data if isinstance(values, Variable) else values)
    if values.shape != parameter.shape:
        raise ShapeError(f"the initialiser gave shape {tuple(values.shape)} for a parameter of shape {tuple(parameter.shape)}")
    parameter.data.copy_(values)
    parameter.grad = None


def fill_both(weight: Variable | None, bias: Variable | None, init: str | Initializer, generator: torch.Generator | None = None) -> None:
    """New first values for a layer's weight, unless it is not sized yet, and zeros for its bias; either may be missing."""
    if weight is not None and not isinstance(weight, LazyParameter):
        fill(weight, init, generator)
    if bias is not None:
        fill(bias, "zeros")


# ------------------------------------------------------------------------------------------------------- sized later


class LazyParameter(Parameter):
    """A Parameter whose shape is not known yet. It exists, can be frozen and be held by an optimizer; reading it raises TapeError.

    `shape`: its future shape, with None where unknown. `size_lazy` fills it in place, and from then on it is a Parameter.

    >>> w = LazyParameter((None, 2))
    >>> w.data
    Traceback (most recent call last):
    hotgrad.errors.TapeError: this Parameter of shape (?, 2) is not sized yet; call the model on an input first
    """

    __slots__ = ()

    def __init__(self, shape: Sequence[int | None], dtype: torch.dtype | None = None, device: Any = None) -> None:
        like = torch.empty(0, dtype=dtype, device=device)
        self._accumulator = Accumulator(like)
        self._accumulator.shape = tuple(shape)  # type: ignore[assignment]
        self._link = self._accumulator

    def _unsized(self, *args: Any) -> Any:
        raise TapeError(f"this Parameter of shape {pattern(self)} is not sized yet; call the model on an input first")

    _data = property(_unsized, _unsized)

    @property
    def requires_grad(self) -> bool:
        return self._link is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._link = self._accumulator if value else None

    @property
    def dtype(self) -> torch.dtype:
        return self._accumulator.dtype

    @property
    def device(self) -> torch.device:
        return self._accumulator.device

    def __repr__(self) -> str:
        return f"LazyParameter{pattern(self)}"

    def __reduce__(self) -> Any:
        return _lazy, (self._accumulator.shape, self.dtype, str(self.device), self.requires_grad, self.name)

    def __copy__(self) -> LazyParameter:
        return _lazy(self._accumulator.shape, self.dtype, self.device, self.requires_grad, self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> LazyParameter:
        memo[id(self)] = copied = self.__copy__()
        return copied


def _lazy(shape: Any, dtype: torch.dtype, device: Any, requires_grad: bool, name: str | None) -> LazyParameter:
    parameter = LazyParameter(shape, dtype, device)
    parameter.requires_grad = requires_grad
    parameter.name = name
    return parameter


def shape_of(parameter: Variable | Tensor) -> tuple[Any, ...]:
    """A parameter's shape, with None for what is not known yet.

    >>> shape_of(LazyParameter((None, 3)))
    (None, 3)
    """
    return tuple(parameter._accumulator.shape if isinstance(parameter, LazyParameter) else parameter.shape)


def pattern(parameter: Variable) -> str:
    """A parameter's shape as text, "?" for what is not known yet.

    >>> pattern(LazyParameter((None, 3)))
    '(?, 3)'
    """
    return str(shape_of(parameter)).replace("None", "?")


def fits(parameter: Variable, shape: Sequence[int]) -> bool:
    """Whether `shape` is the parameter's, or may become that of a lazy one."""
    own = shape_of(parameter)
    return len(own) == len(shape) and all(a is None or a == b for a, b in zip(own, shape))


def size_lazy(parameter: LazyParameter, shape: Sequence[int]) -> None:
    """Turn a LazyParameter into a Parameter of this shape, in place; its values are zeros.

    Raises ShapeError if it cannot have that shape, OperandError if it is sized already.
    """
    if state.trace is not None:
        raise CaptureError("a lazy layer would be sized while capturing; call the model on an input first")
    if not isinstance(parameter, LazyParameter):
        raise OperandError(f"only a LazyParameter can be sized; this {type(parameter).__name__} is sized already")
    if not fits(parameter, shape):
        raise ShapeError(f"a Parameter of shape {pattern(parameter)} cannot be sized as {tuple(shape)}")
    data = torch.zeros(tuple(shape), dtype=parameter.dtype, device=parameter.device)
    parameter.__class__ = Parameter  # type: ignore[assignment]
    replace(parameter, data)


def replace(parameter: Variable, data: Tensor) -> None:
    """Give a leaf other data, of any dtype and device; its gradient and what links to it follow."""
    accumulator = parameter._accumulator
    if isinstance(accumulator.grad, Variable):
        raise OperandError("a parameter whose gradient belongs to a graph cannot be converted; call zero_grad() first")
    parameter._data = data
    if accumulator not in NO_ACCUMULATORS:
        accumulator.shape, accumulator.dtype, accumulator.device = data.shape, data.dtype, data.device
        accumulator.grad = None if accumulator.grad is None else accumulator.grad.to(device=data.device, dtype=data.dtype)
