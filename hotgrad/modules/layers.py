"""Layers: Linear, the commonest activations, Dropout and other noise, Flatten, Residual, any function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hotgrad import functional
from hotgrad.checks import finite_number, one_of, whole_number
from hotgrad.core.variable import Parameter
from hotgrad.drawing import randn_like
from hotgrad.errors import OperandError, ShapeError
from hotgrad.modules.module import Module
from hotgrad.modules.parameters import Initializer, LazyParameter, fill, fill_both, initializer, shape_of, size_lazy
from hotgrad.ops.composites import flatten
from hotgrad.ops.pointwise import ReLU as ReLUOp
from hotgrad.ops.pointwise import Sigmoid as SigmoidOp
from hotgrad.ops.pointwise import Tanh as TanhOp
from hotgrad.ops.reductions import Softmax as SoftmaxOp

__all__ = ["GELU", "Dropout", "Flatten", "GaussianNoise", "Identity", "Lambda", "Linear", "ReLU", "Residual", "Sigmoid", "Softmax", "Tanh"]


class Linear(Module):
    """`x @ weight + bias`: weight (in_features, out_features), bias (out_features,); x (..., in_features).

    `Linear(out_features)` takes its input size from the first input. `init`: how weights are drawn, one of "xavier_uniform",
    "xavier_normal", "kaiming_uniform", "kaiming_normal", "zeros", "ones", or a function `(shape, generator) -> values`; biases
    start at 0. Raises ShapeError for inputs with another number of features.

    >>> hg.Linear(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    >>> layer = hg.Linear(2)
    >>> layer(torch.zeros(5, 3)).shape, layer
    (torch.Size([5, 2]), Linear(3, 2))
    """

    _row_axes = 1

    def __init__(
        self, in_features: int, out_features: int | None = None, bias: bool = True, *, init: str | Initializer = "xavier_uniform"
    ) -> None:
        inputs, outputs = (None, in_features) if out_features is None else (in_features, out_features)
        outputs = whole_number("Linear: out_features", outputs)
        initializer(init)
        self.init = init
        self.weight: Parameter
        if inputs is None:
            self.weight = LazyParameter((None, outputs))
        else:
            self.weight = Parameter(torch.zeros(whole_number("Linear: in_features", inputs), outputs))
            fill(self.weight, init)
        self.bias = Parameter(torch.zeros(outputs)) if bias else None

    @property
    def in_features(self) -> int | None:
        """The number of inputs, None while it is not known."""
        return None if isinstance(self.weight, LazyParameter) else self.weight.shape[0]

    @property
    def out_features(self) -> int:
        """The number of outputs."""
        return int(shape_of(self.weight)[1])

    def initialize(self, generator: torch.Generator | None) -> None:
        """Draw new weights from `generator`; biases become 0."""
        fill_both(self.weight, self.bias, self.init, generator)

    def forward(self, x: Any) -> Any:
        weight = self.weight
        if type(weight) is LazyParameter:
            self._size(x)
        try:
            out = x @ weight
        except ShapeError:
            raise ShapeError(f"{self!r} takes inputs of shape (..., {self.in_features}); got {tuple(x.shape)}") from None
        return out if self.bias is None else out + self.bias

    def _size(self, x: Any) -> None:
        shape = tuple(getattr(x, "shape", ()))
        if not shape or not shape[-1]:
            raise ShapeError(f"{self!r} takes inputs of shape (..., features); got {shape or x}")
        size_lazy(self.weight, (shape[-1], self.out_features))  # type: ignore[arg-type]
        fill(self.weight, self.init, self.generator)

    def extra_repr(self) -> str:
        bias = ", bias=False" if self.bias is None else ""
        init = "" if self.init == "xavier_uniform" else f", init={getattr(self.init, '__name__', self.init)!r}"
        return f"{self.in_features or '?'}, {self.out_features}{bias}{init}"


class ReLU(Module):
    """The larger of each element and 0; see `relu`.

    >>> hg.ReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    _row_axes = 0

    def forward(self, x: Any) -> Any:
        return ReLUOp.apply(x)


class Tanh(Module):
    """Hyperbolic tangent of each element; see `tanh`.

    >>> hg.Tanh()(torch.tensor([0.0, 100.0]))
    tensor([0., 1.])
    """

    _row_axes = 0

    def forward(self, x: Any) -> Any:
        return TanhOp.apply(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)) of each element; see `sigmoid`.

    >>> hg.nn.Sigmoid()(torch.tensor([0.0, 100.0]))
    tensor([0.5000, 1.0000])
    """

    _row_axes = 0

    def forward(self, x: Any) -> Any:
        return SigmoidOp.apply(x)


class Softmax(Module):
    """exp(x) divided by its sum along the axis `dim`; see `softmax`. CrossEntropy takes logits, without a Softmax before it.

    >>> hg.nn.Softmax()(torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, dim: int = -1) -> None:
        self.dim = dim

    def forward(self, x: Any) -> Any:
        return SoftmaxOp.apply(x, self.dim)

    def extra_repr(self) -> str:
        return str(self.dim)


class GELU(Module):
    """x times the normal distribution's cumulative probability at x, or with approximate="tanh" an approximation; see `gelu`.

    >>> hg.nn.GELU()(torch.tensor([0.0, 100.0]))
    tensor([  0., 100.])
    """

    _row_axes = 0

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = one_of("GELU: approximate", approximate, ("none", "tanh"))

    def forward(self, x: Any) -> Any:
        return functional.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return "" if self.approximate == "none" else f"approximate={self.approximate!r}"


class Dropout(Module):
    """In train mode each element is 0 with probability `p`, else divided by 1 - p; in eval mode nothing changes.

    Masks are drawn from the module's `generator`. Raises SettingError unless p is from 0 to 1.

    >>> layer = hg.nn.Dropout(0.5).eval()
    >>> layer(torch.ones(3))
    tensor([1., 1., 1.])
    """

    _row_axes = 0

    def __init__(self, p: float = 0.5) -> None:
        self.p = finite_number("Dropout: p", p, 0, 1)

    def forward(self, x: Any) -> Any:
        return functional.dropout(x, self.p, self.training, self.generator)

    def extra_repr(self) -> str:
        return str(self.p)


class GaussianNoise(Module):
    """In train mode `x` plus numbers of the normal distribution times `std`; in eval mode nothing changes.

    >>> layer = hg.nn.GaussianNoise(0.1).eval()
    >>> layer(torch.ones(2))
    tensor([1., 1.])
    """

    _row_axes = 0

    def __init__(self, std: float = 0.1) -> None:
        self.std = finite_number("GaussianNoise: std", std, 0)

    def forward(self, x: Any) -> Any:
        return x + self.std * randn_like(x, generator=self.generator) if self.training and self.std else x

    def extra_repr(self) -> str:
        return str(self.std)


class Identity(Module):
    """`x` itself.

    >>> hg.nn.Identity()(torch.ones(2))
    tensor([1., 1.])
    """

    _row_axes = 0

    def forward(self, x: Any) -> Any:
        return x


class Lambda(Module):
    """`function(x)`, any function as a layer. A lambda cannot be pickled: for models that are saved whole give a function of a module.

    >>> hg.nn.Lambda(lambda x: x * 2)(torch.ones(2))
    tensor([2., 2.])
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        if not callable(function):
            raise OperandError(f"Lambda: expected a function; got {function!r:.60}")
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)


class Flatten(Module):
    """All axes from `start_dim` to `end_dim` merged into one; by default all but the first, the rows.

    >>> hg.nn.Flatten()(torch.zeros(5, 2, 3)).shape
    torch.Size([5, 6])
    """

    _row_axes = 1

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        return flatten(x, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"{self.start_dim}, {self.end_dim}"


class Residual(Module):
    """`x + inner(x)`, or `shortcut(x) + inner(x)` where the shapes differ (He et al. 2016). Raises ShapeError if they do.

    >>> block = hg.nn.Residual(hg.Linear(4, 4))
    >>> block(torch.zeros(2, 4)).shape
    torch.Size([2, 4])
    """

    def __init__(self, inner: Any, shortcut: Any = None) -> None:
        self.inner, self.shortcut = inner, shortcut

    def forward(self, x: Any) -> Any:
        out = self.inner(x)
        x = x if self.shortcut is None else self.shortcut(x)
        if out.shape != x.shape:
            raise ShapeError(
                f"Residual: the inner module gave shape {tuple(out.shape)} for {tuple(x.shape)}; give a `shortcut` that makes them equal"
            )
        return x + out
