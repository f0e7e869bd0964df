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

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hotgrad.errors import DeclarationError, DtypeError, OperandError, RuleError


class Interval(NamedTuple):
    """The closed interval of real numbers from `low` to `high`; either end may be infinite."""

    low: float = -math.inf
    high: float = math.inf


class Integers(NamedTuple):
    """Whole numbers from `low` to `high`, both included; a domain without gradient."""

    low: int
    high: int


class Booleans(NamedTuple):
    """True and False; a domain without gradient."""


Domain = Interval | Integers | Booleans

REQUIRED = inspect.Parameter.empty
_REGISTRY: dict[str, type[Primitive]] = {}
# Later layers complete a declaration (`variable` gives it `apply` and binds its operators) without being imported here.
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


class Primitive:
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
    - `signature`: numpy's generalised-ufunc form, "(m,k),(k,n)->(m,n)". Default: all operands broadcast.
    - `operators`: names of the Variable methods this op provides, ("__mul__", "__rmul__").
    - `collects`: True where several positional options are one tuple, as in `x.reshape(2, 3)`.
    - `numbers`: True where `forward` and the rules take Python numbers as operands. Else a number reaches them as a 0-d tensor, of the
      dtype that it takes beside the other operands: 2.0 beside float32 is float32.
    - `plain`: True where the result is a plain tensor also for Variables (comparisons).
    - `stable`: True promises no overflow where the exact result is representable; tests probe it.
    - `native`: the C expression, or the name of the shape class, by which the native engine lowers the op.
    - `into(out, *operands, **options)`: how to compute the result into the tensor `out` without allocating: a functools.partial
      of a kernel, a list of several to be called in turn, or None where these operands have none. Only the first may read the
      operands of an elementwise op, since `out` may be one of them. Numbers come as 0-d tensors; a kernel gets the number
      itself where the partial gives it by name. Default: `forward` with `out=`, if it is a kernel that takes that.
    - `name`: the registered name; default the class's own. `function`: the name of the function and method that a built-in op
      publishes, "" for none.

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
    signature: ClassVar[str] = ""
    operators: ClassVar[Sequence[str]] = ()
    collects: ClassVar[bool] = False
    numbers: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    stable: ClassVar[bool] = False
    native: ClassVar[str] = ""
    into: ClassVar[Callable[..., partial[Any] | list[partial[Any]] | None] | None] = None
    name: ClassVar[str]
    function: ClassVar[str]

    # Derived from the declaration.
    _call: ClassVar[Callable[..., Any]]  # `forward`, with a look at what a user's one did
    operand_names: ClassVar[tuple[str, ...]]
    arity: ClassVar[int | None]  # None: any number of operands
    defaults: ClassVar[dict[str, Any]]  # every option; REQUIRED where it has no default
    rules: ClassVar[tuple[Callable[..., Any] | None, ...]]
    differentiable: ClassVar[bool]
    _plans: ClassVar[dict[tuple[bool, ...], tuple[tuple[bool, ...], bool]]]

    def __init_subclass__(cls, abstract: bool = False, register: bool = True) -> None:
        super().__init_subclass__()
        if abstract:
            return
        for field in ("name", "function"):
            if field not in cls.__dict__:
                setattr(cls, field, cls.__name__ if field == "name" else cls.name.lower())
        _complete(cls)
        taken = _REGISTRY.get(cls.name)
        if register:
            if taken and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise _wrong(cls, f"the name is taken by {taken.__module__}.{taken.__qualname__}; choose another name")
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
        if not _own(cls):
            vjp = _checked_rule(cls, cls.operand_names[0], vjp)
        return [partial(vjp, index) for index in range(len(operands))]

    @classmethod
    def bind(cls, extra: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        """All options by name, from those given by position and by name. Raises OperandError for wrong ones."""
        names = tuple(cls.defaults)
        if cls.collects and extra and (len(extra) > 1 or not isinstance(extra[0], (tuple, list))):
            extra = (extra,)
        if len(extra) > len(names):
            takes = f"{len(names)} options ({', '.join(names)})" if names else "no options"
            raise OperandError(f"{cls.name}: got {len(extra)} more arguments than its operands, but it takes {takes}")
        options = {**cls.defaults, **dict(zip(names, extra))}
        for name, value in given.items():
            if name not in options:
                known = f"it takes {', '.join(names)}" if names else "it takes none"
                raise OperandError(f"{cls.name}: unknown option {name!r}; {known}")
            if name in names[: len(extra)]:
                raise OperandError(f"{cls.name}: option {name!r} is given twice, by position and by name")
            options[name] = value
        missing = [name for name, value in options.items() if value is REQUIRED]
        if missing:
            raise OperandError(f"{cls.name}: missing option {missing[0]!r}")
        # a caller may go on to change a list, and the rules shall see what forward saw
        return {name: tuple(value) if type(value) is list else value for name, value in options.items()}


def _wrong(cls: type[Primitive], what: str) -> DeclarationError:
    return DeclarationError(f"Primitive {cls.__module__}.{cls.__qualname__}: {what}")


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters of a function, None if it does not tell: kernels such as torch.exp, or a bare (*args, **kwargs)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else parameters


def _complete(cls: type[Primitive]) -> None:
    """Check a declaration and fill in what follows from it."""
    cls._plans = {}
    if not callable(getattr(cls, "forward", None)):
        raise _wrong(cls, "declares no `forward`")
    has_vjps, has_vjp = hasattr(cls, "vjps"), hasattr(cls, "vjp")
    if has_vjps == has_vjp:
        raise _wrong(
            cls,
            "declares both `vjps` and `vjp`; keep one" if has_vjps else
            "declares no gradient rules; give `vjps`, one per operand (None where there is no derivative), or one `vjp`",
        )  # fmt: skip
    parameters = _parameters(cls.forward)
    if parameters is None:  # then the rules name the operands
        told = (_parameters(rule) for rule in getattr(cls, "vjps", ()) if callable(rule))
        parameters = next((p[2:] for p in told if p is not None), [])
    starred = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    named = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
    cls.defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if has_vjp:
        if not starred or named:
            raise _wrong(cls, "gives one `vjp` for any number of operands, so `forward` must take `*operands` and no other operand")
        cls.operand_names, cls.arity, cls.rules, cls.differentiable = tuple(starred), None, (), True
        if "vjp" in vars(cls) and "vjp_of" not in vars(cls):
            cls.vjp_of = None  # what the base declares says the same as its own `vjp`
    else:
        if starred:
            raise _wrong(cls, "`forward` takes any number of operands; give one `vjp(index, g, out, *operands, **options)`")
        if not isinstance(cls.vjps, tuple) or len(cls.vjps) != (len(named) or len(cls.vjps)):
            raise _wrong(
                cls, f"has {len(named)} operands ({', '.join(named)}), so `vjps` must be a tuple of as many rules; got {cls.vjps!r}"
            )
        cls.operand_names = named or tuple("abcdefgh"[: len(cls.vjps)])
        cls.arity, cls.rules = len(cls.vjps), cls.vjps
        cls.differentiable = any(rule is not None for rule in cls.vjps)
        for name, rule in zip(cls.operand_names, cls.vjps):
            _check_rule(cls, name, rule)
    cls._call = staticmethod(cls.forward)
    if not _own(cls):
        cls._call = staticmethod(_checked_forward(cls))
        cls.rules = tuple(rule and _checked_rule(cls, name, rule) for name, rule in zip(cls.operand_names, cls.rules))
    _complete_reads(cls)
    if cls.domain and cls.arity is not None and len(cls.domain) != cls.arity:
        raise _wrong(cls, f"has {cls.arity} operands, but `domain` has {len(cls.domain)} entries")
    _check_native(cls)
    unknown = set(cls.options) - set(cls.defaults)
    if unknown:
        raise _wrong(cls, f"`options` names {sorted(unknown)}, but `forward` takes {sorted(cls.defaults) or 'no options'}")


def _own(cls: type[Primitive]) -> bool:
    """Whether the op is hotgrad's own. Its tests vouch for it, so that its calls need not be looked at."""
    return cls.__module__.startswith("hotgrad.")


def _flaw(value: Any, given: Sequence[Tensor]) -> str | None:
    """What makes a tensor or Variable none to go on with, if none of those `given` is like that."""
    tensor = value if isinstance(value, Tensor) else getattr(value, "_data", None)
    if not isinstance(tensor, Tensor):
        return None
    flaws: dict[str, Callable[[Tensor], bool]] = {
        f"layout {tensor.layout}; convert it with to_dense()": lambda t: t.layout is not torch.strided,
        "complex data; use its real and imaginary parts": Tensor.is_complex,
        "a tensor that requires a torch gradient; detach() it": lambda t: t.requires_grad,
        "a tensor on the device meta, which holds no values": lambda t: t.is_meta,
    }
    return next((what for what, has in flaws.items() if has(tensor) and not any(map(has, given))), None)


def _checked_forward(cls: type[Primitive]) -> Callable[..., Any]:
    """`forward`, which must leave its operands as they are and give a tensor. Raises RuleError, or DtypeError for complex data."""
    forward = cls.forward

    def call(*operands: Any, **options: Any) -> Any:
        tensors = [x for x in operands if isinstance(x, Tensor)]
        versions = [None if x.is_inference() else x._version for x in tensors]
        out = forward(*operands, **options)
        for x, version in zip(tensors, versions):
            if version is not None and x._version != version:
                place = next(i for i, operand in enumerate(operands) if operand is x)
                name = f"{cls.operand_names[0]}[{place}]" if cls.arity is None else cls.operand_names[place]
                raise RuleError(f"{cls.name}: forward wrote into its operand {name}; compute a new tensor")
        flaw = _flaw(out, tensors) if isinstance(out, Tensor) else type(out).__name__
        if flaw is not None:
            kind = DtypeError if flaw.startswith("complex") else RuleError
            raise kind(f"{cls.name}: forward returned {flaw}; it must return a plain tensor of real numbers")
        return out

    return call


def _checked_rule(cls: type[Primitive], operand: str, rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule whose result must be a tensor, or a number. Raises RuleError."""

    @wraps(rule, updated=())
    def checked(*args: Any, **options: Any) -> Any:
        result = rule(*args, **options)
        flaw = _flaw(result, [t for x in args[:2] if isinstance(t := getattr(x, "_data", x), Tensor)])
        if flaw is not None:
            raise RuleError(f"{cls.name}: the rule for {operand} returned {flaw}")
        return result

    return checked


def _check_native(cls: type[Primitive]) -> None:
    if not isinstance(cls.native, str):
        raise _wrong(cls, f"`native` must be a C expression, in which {{a}} stands for the operand a; got {cls.native!r:.60}")
    if re.search("[{}]", re.sub(r"{\w+}", "", cls.native)):
        raise _wrong(cls, f"`native` must have each name in a pair of braces, as {{a}}; got {cls.native!r:.60}")


def _check_rule(cls: type[Primitive], operand: str, rule: Callable[..., Any] | None) -> None:
    if rule is None:
        return
    if not callable(rule):
        raise _wrong(cls, f"the rule for {operand!r} is {rule!r}, not a function")
    options = dict.fromkeys(cls.defaults)
    try:
        inspect.signature(rule).bind(None, None, *cls.operand_names, **options)
    except TypeError:
        wanted = ", ".join(("g", "out", *cls.operand_names, *options))
        raise _wrong(cls, f"the rule for {operand!r} must take ({wanted}); it takes {inspect.signature(rule)}") from None
    except ValueError:  # a builtin that does not tell
        pass


def _complete_reads(cls: type[Primitive]) -> None:
    rules = len(cls.operand_names)
    reads = getattr(cls, "reads", None)
    if reads is None:
        cls.reads = (" ".join((*cls.operand_names, "out")),) * rules
        return
    if isinstance(reads, str):
        reads = (reads,) * rules
    if len(reads) != rules:
        raise _wrong(cls, f"has {rules} rules, so `reads` must have as many entries; got {reads!r}")
    for entry in reads:
        unknown = set(entry.split()) - {*cls.operand_names, "out"}
        if unknown:
            raise _wrong(cls, f"`reads` names {sorted(unknown)}; it may name {', '.join((*cls.operand_names, 'out'))}")
    cls.reads = tuple(reads)
