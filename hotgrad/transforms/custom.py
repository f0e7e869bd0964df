"""Functions with gradients of their own, and modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

from hotgrad.core.arrays import as_tensor, is_numpy
from hotgrad.core.modes import no_grad, state, surely
from hotgrad.core.placing import placed
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import Record, next_sequence
from hotgrad.core.variable import Variable
from hotgrad.errors import OperandError, RuleError, ShapeError, TapeError
from hotgrad.modules.module import Module
from hotgrad.ops.shaping import Alias
from hotgrad.transforms.made import Made, name_of
from hotgrad.transforms.passes import unreached

F = TypeVar("F", bound=Callable[..., Any])

__all__ = ["custom_gradient", "functional_call"]


class CustomGradient(Primitive, register=False):
    """What a function under `custom_gradient` gave; the option `gradient` is what it says of its gradient."""

    reads = ("",)

    @staticmethod
    def forward(*operands: Tensor, gradient: Any) -> Tensor:
        raise TapeError("this op stands for a function whose value is computed otherwise")

    @staticmethod
    def vjp_of(*operands: Any, gradient: Callable[[Any], Any]) -> Callable[..., Any]:
        found: list[Any] = []

        def vjp(index: int, g: Any, out: Any) -> Any:
            if not found:
                found.extend(_gradients(gradient, g, len(operands)))
            return 0.0 if found[index] is None else found[index]

        return vjp

    @staticmethod
    def vjp(index: int, g: Any, out: Any, *operands: Any, gradient: Callable[[Any], Any]) -> Any:
        return CustomGradient.vjp_of(*operands, gradient=gradient)(index, g, out)


def _gradients(gradient: Callable[[Any], Any], g: Any, count: int) -> list[Any]:
    """What the function gives for this cotangent, an entry per operand: tensors if that is one, else Variables."""
    plain = isinstance(g, Tensor)
    given = no_grad.run(gradient, Variable(g)) if plain else gradient(g)
    given = [*given] if isinstance(given, (tuple, list)) else [given]
    name = getattr(gradient, "__qualname__", repr(gradient))
    if len(given) != count:
        raise RuleError(f"{name}: returned {len(given)} gradients for {count} operands; return a tuple with one for each, None for zero")
    for i, value in enumerate(given):
        if not isinstance(value, (Tensor, Variable, int, float, type(None))):
            raise RuleError(f"{name}: returned {type(value).__name__} as the gradient of operand {i}; it must be an array like the operand")
    return [x._data if plain and isinstance(x, Variable) else x for x in given]


def custom_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with the gradient that it gives itself: `f(*xs)` returns (value, gradient), and the function made of it the value, a Variable.

    `gradient(g)` gets the gradient of the final result with respect to the value, and returns that with respect to each operand: a tuple,
    or one array for one operand, None for zero. It may use what `f` computed. Where it is made of ops it can be differentiated again; where
    it uses the value, that has the gradient of the ops that made it.

    Raises TapeError if `f` depends on a Variable that requires a gradient and is no operand, RuleError if `gradient` does not fit.

    The logarithm of 1 + exp(x), exact for large x too, where exp(x) overflows and the ops' own gradient is not a number:

    >>> @hg.custom_gradient
    ... def log1pexp(x):
    ...     value = x.relu() + hg.log1p(hg.exp(-abs(x)))
    ...     return value, lambda g: g * hg.sigmoid(x)
    >>> hg.grad(lambda x: hg.log(1 + hg.exp(x)))(1000.0)
    Variable(nan)
    >>> hg.value_and_grad(log1pexp)(1000.0)
    (Variable(1000.), Variable(1.))
    >>> hg.grad(hg.grad(log1pexp))(0.0)
    Variable(0.2500)
    """

    return Made(f, "custom_gradient", lambda f: lambda *xs: _with_gradient(f, xs))


def _with_gradient(f: Callable[..., Any], xs: tuple[Any, ...]) -> Variable:
    name = name_of(f)
    operands = [Variable(as_tensor(x)) if isinstance(x, Tensor) or is_numpy(x) else x for x in xs]
    apart = [Alias.apply(x) if isinstance(x, Variable) and x._link is not None else x for x in operands]
    start = next_sequence()
    found = f(*apart)
    if not isinstance(found, tuple) or len(found) != 2 or not callable(found[1]):
        raise OperandError(f"custom_gradient({name}): the function must return a pair (value, gradient); got {found!r:.60}")
    value, gradient = found
    if not isinstance(value, Variable):
        raise OperandError(f"custom_gradient({name}): the value must be a Variable; got {value!r:.60}")
    other = unreached([value], {x._link for x in apart if isinstance(x, Variable)}, start)
    if other is not None:
        what = f"computed by {other.op.name}" if type(other) is Record else "a leaf"
        raise TapeError(
            f"custom_gradient({name}): the value depends on a Variable of shape {tuple(other.shape)}, {what}, that requires a gradient "
            "and is no operand, so its gradient would be lost. Make it an operand, or detach() it"
        )
    return placed(CustomGradient, value, operands, {"gradient": gradient})


def functional_call(module: Module, parameters: Mapping[str, Any], *inputs: Any, **keywords: Any) -> Any:
    """What `module(*inputs, **keywords)` gives with these Variables or tensors in place of its Parameters, by their dotted names.

    Parameters that are not named stay the module's own. Nothing of the module changes, but for buffers that its forward moves. Other
    threads must not use the module meanwhile.

    Raises OperandError for a name that is no parameter's, ShapeError for another shape.

    >>> layer = hg.Linear(2, 1)
    >>> weights = {"weight": torch.ones(2, 1), "bias": torch.zeros(1)}
    >>> hg.functional_call(layer, weights, torch.tensor([[1.0, 2.0]]))
    Variable([[3.]])
    >>> hg.grad(lambda p: hg.functional_call(layer, p, torch.tensor([[1.0, 2.0]])).sum())(weights)["weight"]
    Variable([[1.],
              [2.]])
    """
    if not isinstance(module, Module) or not isinstance(parameters, Mapping):
        raise OperandError(
            "functional_call takes a Module, a dict of Variables by its parameters' names, and inputs; got "
            f"{type(module).__name__} and {type(parameters).__name__}"
        )
    own = dict(module.named_parameters())
    unknown = [name for name in parameters if name not in own]
    if unknown:
        raise OperandError(f"functional_call: {type(module).__name__} has no parameter {unknown[0]!r}; it has {', '.join(own) or 'none'}")
    pairs = []
    for name, value in parameters.items():
        value = value if isinstance(value, Variable) else Variable(as_tensor(value))
        if value.shape != own[name].shape:
            raise ShapeError(f"functional_call: {name!r} has shape {tuple(own[name].shape)}; got {tuple(value.shape)}")
        pairs.append((own[name], value))
    if state.trace is not None:
        with state.trace.standing_in(pairs):
            return module(*inputs, **keywords)
    slots = [(parameter, parameter._data, parameter._link, parameter._accumulator) for parameter, _ in pairs]
    values = [(value._data, value._link, value._accumulator) for _, value in pairs]

    def call() -> Any:
        for (parameter, _), (data, link, accumulator) in zip(pairs, values):
            parameter._data, parameter._link, parameter._accumulator = data, link, accumulator
        return module(*inputs, **keywords)

    def put_back() -> None:
        for parameter, data, link, accumulator in slots:
            parameter._data, parameter._link, parameter._accumulator = data, link, accumulator

    return surely(call, put_back)
