"""What ops publish: the operators and methods of Variable, and the functions by name. The ops fill both; stubs list them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, NoReturn

from torch import Tensor

from hotgrad.errors import HotgradError, NoMethodError, OperandError

# The function of each op by its public name, which is torch's; `torch.exp(v)` is looked up here.
FUNCTIONS: dict[str, Callable[..., Any]] = {}

# What writes into its first operand, a Variable or tensor, by the name of the method: "__iadd__", and torch's "add_".
WRITERS: dict[str, Callable[..., Any]] = {}

# torch's second names for the same functions, for `torch.multiply(v, 2)`; hotgrad itself has one name for each, but for the commonest.
ALIASES = {
    "absolute": "abs", "concat": "cat", "concatenate": "cat", "divide": "div", "multiply": "mul", "negative": "neg",
    "subtract": "sub", "true_divide": "div", "swapdims": "transpose", "moveaxis": "movedim",
    "arccos": "acos", "arcsin": "asin", "arctan": "atan", "arctan2": "atan2", "arccosh": "acosh", "arcsinh": "asinh", "arctanh": "atanh",
    "fix": "trunc", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne", "row_stack": "vstack",
    "log_sigmoid": "logsigmoid", "trapz": "trapezoid", "expit": "sigmoid", "psi": "digamma", "gammaln": "lgamma",
    "linalg_cross": "cross", "linalg_diagonal": "diagonal", "linalg_matmul": "matmul",
}  # fmt: skip

# What does the work of a method or function that only torch has.
_INSTEAD = {
    "type": "v.to(dtype)", "cpu": 'v.to("cpu")',
    "cuda": 'v.to("cuda")',
    "randn_like": "hg.randn_like(v)", "rand_like": "hg.rand_like(v)", "bernoulli": "hg.bernoulli(v)", "normal": "mean + std * hg.randn_like(mean)",
}  # fmt: skip


def instead(name: str) -> str:
    """The end of a message about a torch name that Variables do not have: what to use.

    >>> instead("cuda")
    '; use v.to("cuda")'
    """
    if name in FUNCTIONS:
        named = FUNCTIONS[name].__name__
        return f"; use {f'v.{named}(...)' if hasattr(Methods, named) else f'hg.{named}(...)'}"
    if name in _INSTEAD:
        return f"; use {_INSTEAD[name]}"
    if name.endswith("_"):
        return "; it writes in place, compute a new value instead"
    return "; compose it from hotgrad's ops or declare a Primitive, or apply it to v.detach().data where no gradient is wanted"


def published(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, whose refusal of its arguments is an OperandError, by whatever of what it calls they are refused."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            if isinstance(error, HotgradError) or type(error) not in (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
                raise
            what = str(error).partition("() ")[2] or str(error)
            raise OperandError(f"{function.__name__}: {what}; it takes ({', '.join(signature(function).parameters)})") from error

    return call


def counterpart(function: Any) -> Callable[..., Any]:
    """What does on Variables what torch's `function` does. Raises OperandError if there is nothing."""
    if function is Tensor.where:  # as a method it takes its operands in another order
        return vars(Methods)["where"]  # type: ignore[no-any-return]
    name = function.__name__
    if name not in FUNCTIONS:
        raise OperandError(f"torch's {name!r} has no counterpart that records{instead(name)}")
    return FUNCTIONS[name]


class Methods:
    """Base of Variable that carries one method per op."""

    __slots__ = ()

    def __getattr__(self, name: str) -> NoReturn:
        known = not name.startswith("__") and (hasattr(Tensor, name) or name in FUNCTIONS)
        kind = type(self).__name__
        raise NoMethodError(f"a {kind} has no {name!r}{instead(name)}" if known else f"{kind!r} object has no attribute {name!r}")
