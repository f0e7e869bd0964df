"""What an op is: one class that holds its forward, its gradient rules, what they read, and where tests draw from.

    class Mul(Primitive):
        '''Product of `a` and `b`, element by element.'''
        forward = staticmethod(operator.mul)
        vjps = (lambda g, out, a, b: g * b, lambda g, out, a, b: g * a)
        reads = ("b", "a")
        operators = ("__mul__", "__rmul__")

A rule is called as `rule(g, out, *operands, **options)` and returns the vector-Jacobian product for its operand. It is
written in array notation and runs on plain tensors or on Variables, so it is differentiable itself. Declaring the class
checks and registers it; nothing else is needed, for the ops of this package and for those of its users alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Tensor

from hotgrad.core.domains import Domain
from hotgrad.core.options import TakesOptions
from hotgrad.errors import DeclarationError

KERNELS = tuple(
    "reshape permute expand flip unfold fold getitem putitem pad cat stack sum prod amax amin cumsum gather scatter scatter_add matmul "
    "einsum convolution convolution_input convolution_weight pool_argmax".split()
)
_REGISTRY: dict[str, type[Primitive]] = {}
# Later layers complete a declaration (`declarations` checks it, `operators` gives it `apply`) without being imported here.
on_declare: list[Callable[[type[Primitive]], None]] = []


def primitives() -> Mapping[str, type[Primitive]]:
    """All registered primitives by name, in the order of their declaration, as a read-only view.

    >>> import hotgrad as hg
    >>> hg.primitives()["Mul"] is hg.ops.Mul
    True
    """
    return MappingProxyType(_REGISTRY)


def zero(g: Any, out: Any, *operands: Any, **options: Any) -> float:
    """The rule of an operand whose derivative is zero wherever it exists. Any rule may return the number 0 in this sense."""
    return 0.0


class Primitive(TakesOptions):
    """Base of all ops. Subclass it to declare one; see the module's text for the form.

    Fields of a declaration (all but `forward` and the rules are optional):

    - `forward(*operands, **options)`: plain tensors in, plain tensor out; options are keyword-only. It may return an operand or a
      view of one, and must not write into one: RuleError.
    - `vjps`: one rule per operand, None where the op is not differentiable; or `vjp(index, g, out, *operands, **options)`,
      one rule for ops of any number of operands. `vjp_of(*operands, **options)`, which returns `vjp(index, g, out)`, may stand
      beside it, so that what all rules need of many operands is computed once.
    - `reads`: per rule the names it reads, separated by spaces ("a out", "" for none). Default: everything. Values that no
      needed rule reads are not kept; the rule then gets a stand-in that knows `shape dtype device ndim numel()` only.
    - `fresh`: True promises that every rule's result is a new tensor sharing memory with nothing. The engine then saves a
      copy where it must own the memory. Default False, which is always safe.
    - `domain`: per operand an Interval, Integers or Booleans from which tests draw. Default: the reals.
    - `options`: what tests draw for each option, as a list of values or a hypothesis strategy.
    - `operands()`: a list, from simple to intricate, or a hypothesis strategy, of (operands, options) where domain and
      signature do not say enough; an operand may be given by its shape alone.
    - `kinks`: what the gradient is where the derivative is not unique or a mask must select: in words, and for each a list of cases
      (operands, options, cotangent, the gradient of each operand or None), which the checker compares.
    - `signature`: numpy's generalised-ufunc form, "(m,k),(k,n)->(m,n)". Default: all operands broadcast.
    - `operators`: names of the Variable methods this op provides, ("__mul__", "__rmul__").
    - `collects`: True where several positional options are one tuple, as in `x.reshape(2, 3)`.
    - `numbers`: True where `forward` and the rules take Python numbers as operands. Else a number reaches them as a 0-d tensor, of the
      dtype that it takes beside the other operands: 2.0 beside float32 is float32.
    - `plain`: True where the result is a plain tensor also for Variables (comparisons).
    - `stable`: True promises no overflow where the exact result is representable; tests probe it.
    - `native`: how the native engine lowers the op: a C expression of operands and options in braces ("{a} * {b}"); or a function
      `native(*operands, **options)` that computes the same with other ops, on Variables of which only shape and dtype are known, or
      returns NotImplemented where it cannot; or the name of one of the engine's kernels (KERNELS).
    - `elementwise`: whether each element of the result depends on the same element of the broadcast operands alone, so that the
      result may take the memory of an operand. Default: True for a C expression without an `into` of its own, else False.
    - `into(out, *operands, **options)`: how to compute the result into the tensor `out` without allocating: a functools.partial
      of a kernel, a list of several to be called in turn, or None where these operands have none. Only the first may read the
      operands of an elementwise op, since `out` may be one of them. Numbers come as 0-d tensors; a kernel gets the number
      itself where the partial gives it by name. With a parameter `numbers` it is also told what they are: per operand the number,
      `...` for one that differs from step to step, None for a tensor. Default: `forward` with `out=`, if it is a kernel that takes that.
    - `allocates`: True where a step of a replayed program allocates memory all the same, as some of torch's kernels do inside.
    - `name`: the registered name; default the class's own. `function`: the name of the function and method that a built-in op
      publishes, "" for none. `aliases`: names that it had before, under which saved programs may hold it.

    Class keywords: `abstract=True` for a base that is no op itself, `register=False` to keep an op out of the registry.
    A class of the same module and qualified name replaces the earlier one; any other taken name raises DeclarationError.

    >>> import torch, hotgrad as hg
    >>> class Cube(hg.Primitive):
    ...     '''The third power of each element.'''
    ...     forward = staticmethod(lambda a: a * a * a)
    ...     vjps = (lambda g, out, a: 3 * g * a * a,)
    ...     reads = ("a",)
    >>> x = hg.Variable(2.0, requires_grad=True)
    >>> Cube.apply(x).backward()
    >>> x.grad
    tensor(12.)
    """

    forward: ClassVar[Callable[..., Tensor]]
    apply: ClassVar[Callable[..., Any]]
    vjp: ClassVar[Callable[..., Any]]
    vjp_of: ClassVar[Callable[..., Callable[..., Any]] | None] = None
    operands: ClassVar[Callable[[], Any]]
    vjps: ClassVar[tuple[Callable[..., Any] | None, ...]]
    reads: ClassVar[Sequence[str] | str]
    fresh: ClassVar[bool] = False
    domain: ClassVar[Sequence[Domain]] = ()
    options: ClassVar[Mapping[str, Any]] = {}
    kinks: ClassVar[Mapping[str, Sequence[tuple[Sequence[Any], Mapping[str, Any], Any, Sequence[Any]]]]] = {}
    signature: ClassVar[str] = ""
    operators: ClassVar[Sequence[str]] = ()
    numbers: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    stable: ClassVar[bool] = False
    native: ClassVar[str | Callable[..., Any]] = ""
    elementwise: ClassVar[bool]
    into: ClassVar[Callable[..., partial[Any] | list[partial[Any]] | None] | None] = None
    allocates: ClassVar[bool] = False
    function: ClassVar[str]
    aliases: ClassVar[Sequence[str]] = ()

    # Derived from the declaration, by `declarations`.
    _call: ClassVar[Callable[..., Any]]  # `forward`, with a look at what a user's one did
    operand_names: ClassVar[tuple[str, ...]]
    arity: ClassVar[int | None]  # None: any number of operands
    rules: ClassVar[tuple[Callable[..., Any] | None, ...]]
    differentiable: ClassVar[bool]
    _watched: ClassVar[Callable[[Callable[..., Any]], Callable[..., Any]]]  # a rule, with a look at what a user's one gave
    _told_numbers: ClassVar[bool]  # whether `into` is told which numbers 0-d operands stand for
    _plans: ClassVar[dict[tuple[bool, ...], tuple[tuple[bool, ...], bool]]]

    def __init_subclass__(cls, abstract: bool = False, register: bool = True) -> None:
        super().__init_subclass__()
        if abstract:
            return
        for field in ("name", "function"):
            if field not in cls.__dict__:
                setattr(cls, field, cls.__name__ if field == "name" else cls.name.lower())
        taken = _REGISTRY.get(cls.name)
        if register:
            if taken and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise wrong(cls, f"the name is taken by {taken.__module__}.{taken.__qualname__}; choose another name")
            _REGISTRY[cls.name] = cls
        try:
            for complete in on_declare:
                complete(cls)
        except DeclarationError:
            if taken:
                _REGISTRY[cls.name] = taken
            else:
                _REGISTRY.pop(cls.name, None)
            raise

    @classmethod
    def keeps(cls, needed: tuple[bool, ...]) -> tuple[tuple[bool, ...], bool]:
        """Which operands, and whether the result, must be kept when the operands marked in `needed` need a gradient."""
        plan = cls._plans.get(needed)
        if plan is None:
            if cls.arity is None:
                names = set(cls.reads[0].split())
                plan = (cls.operand_names[0] in names,) * len(needed), "out" in names
            else:
                names = {name for reads, need in zip(cls.reads, needed) if need for name in reads.split()}
                plan = tuple(name in names for name in cls.operand_names), "out" in names
            cls._plans[needed] = plan
        return plan

    @classmethod
    def rules_on(cls, operands: Sequence[Any], options: dict[str, Any] | None) -> list[partial[Any]]:
        """The rules of an op of any number of operands, on these; each is called with (g, out) alone."""
        given = options or {}
        usual = lambda index, g, out: cls.vjp(index, g, out, *operands, **given)  # noqa: E731
        vjp = cls.vjp_of(*operands, **given) if cls.vjp_of else usual
        vjp = cls._watched(vjp)
        return [partial(vjp, index) for index in range(len(operands))]


def wrong(cls: type[Primitive], what: str) -> DeclarationError:
    return DeclarationError(f"Primitive {cls.__module__}.{cls.__qualname__}: {what}")
