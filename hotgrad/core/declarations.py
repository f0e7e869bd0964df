"""The checks of a declaration, and what follows from it: names of operands and options, rules, what is kept.

A mistake is told when the class is made: DeclarationError.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import nearest
from hotgrad.core.options import TakesOptions
from hotgrad.core.primitive import KERNELS, Primitive, on_declare, wrong
from hotgrad.errors import DtypeError, RuleError

_DERIVED = {"apply", "operand_names", "arity", "defaults", "rules", "differentiable"}
_FIELDS = [
    name for name in (*Primitive.__annotations__, *TakesOptions.__annotations__) if not name.startswith("_") and name not in _DERIVED
]


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
        raise wrong(cls, "declares no `forward`")
    has_vjps, has_vjp = hasattr(cls, "vjps"), hasattr(cls, "vjp")
    if has_vjps == has_vjp:
        raise wrong(
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
            raise wrong(cls, "gives one `vjp` for any number of operands, so `forward` must take `*operands` and no other operand")
        cls.operand_names, cls.arity, cls.rules, cls.differentiable = tuple(starred), None, (), True
        if "vjp" in vars(cls) and "vjp_of" not in vars(cls):
            cls.vjp_of = None  # what the base declares says the same as its own `vjp`
    else:
        if starred:
            raise wrong(cls, "`forward` takes any number of operands; give one `vjp(index, g, out, *operands, **options)`")
        if not isinstance(cls.vjps, tuple) or len(cls.vjps) != (len(named) or len(cls.vjps)):
            raise wrong(
                cls, f"has {len(named)} operands ({', '.join(named)}), so `vjps` must be a tuple of as many rules; got {cls.vjps!r}"
            )
        cls.operand_names = named or tuple("abcdefgh"[: len(cls.vjps)])
        cls.arity, cls.rules = len(cls.vjps), cls.vjps
        cls.differentiable = any(rule is not None for rule in cls.vjps)
        for name, rule in zip(cls.operand_names, cls.vjps):
            _check_rule(cls, name, rule)
    if cls.__module__.startswith("hotgrad."):  # our tests vouch for our own, so that their calls need not be looked at
        cls._call, cls._watched = staticmethod(cls.forward), staticmethod(_as_it_is)
    else:
        cls._call = staticmethod(_checked_forward(cls))
        cls._watched = staticmethod(partial(_checked_rule, cls, cls.operand_names[0]))
        cls.rules = tuple(rule and _checked_rule(cls, name, rule) for name, rule in zip(cls.operand_names, cls.rules))
    _complete_reads(cls)
    if cls.domain and cls.arity is not None and len(cls.domain) != cls.arity:
        raise wrong(cls, f"has {cls.arity} operands, but `domain` has {len(cls.domain)} entries")
    _check_native(cls)
    cls._told_numbers = cls.numbers and cls.into is not None and "numbers" in inspect.signature(cls.into).parameters
    _check_names(cls)
    unknown = set(cls.options) - set(cls.defaults)
    if unknown:
        raise wrong(cls, f"`options` names {sorted(unknown)}, but `forward` takes {sorted(cls.defaults) or 'no options'}")


def _as_it_is(rule: Callable[..., Any]) -> Callable[..., Any]:
    return rule


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


def _check_names(cls: type[Primitive]) -> None:
    """Attributes that are called nearly like a field are slips of the pen."""
    for name in vars(cls):
        if not name.startswith("_") and name not in _FIELDS and (meant := nearest(name, _FIELDS, 0.8)):
            raise wrong(cls, f"{name!r} is no field of a declaration{meant} Begin the name of a helper with an underscore")


def _check_native(cls: type[Primitive]) -> None:
    native = cls.native
    expression = isinstance(native, str) and native not in ("", *KERNELS)
    if "elementwise" not in vars(cls):
        cls.elementwise = expression and cls.into is None
    if not isinstance(native, str) and not callable(native):
        raise wrong(
            cls, f"`native` must be a C expression, in which {{a}} stands for the operand a, or a function of operands; got {native!r:.60}"
        )
    if not isinstance(native, str) or not expression:
        return
    if re.search("[{}]", re.sub(r"{\w+}", "", native)):
        raise wrong(cls, f"`native` must have each name in a pair of braces, as {{a}}; got {native!r:.60}")
    known = [*(cls.operand_names if cls.arity is not None else ()), *cls.defaults]
    for name in re.findall(r"{(\w+)}", native):
        if name not in known:
            raise wrong(cls, f"`native` names {{{name}}}; it may name {', '.join(known)}{nearest(name, known)}")
    if re.fullmatch(r"[a-z_]+", native):
        raise wrong(cls, f"`native` is {native!r}, which is no kernel of the native engine: {', '.join(KERNELS)}{nearest(native, KERNELS)}")


def _check_rule(cls: type[Primitive], operand: str, rule: Callable[..., Any] | None) -> None:
    if rule is None:
        return
    if not callable(rule):
        raise wrong(cls, f"the rule for {operand!r} is {rule!r}, not a function")
    options = dict.fromkeys(cls.defaults)
    try:
        inspect.signature(rule).bind(None, None, *cls.operand_names, **options)
    except TypeError:
        wanted = ", ".join(("g", "out", *cls.operand_names, *options))
        raise wrong(cls, f"the rule for {operand!r} must take ({wanted}); it takes {inspect.signature(rule)}") from None
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
        raise wrong(cls, f"has {rules} rules, so `reads` must have as many entries; got {reads!r}")
    for entry in reads:
        unknown = set(entry.split()) - {*cls.operand_names, "out"}
        if unknown:
            raise wrong(cls, f"`reads` names {sorted(unknown)}; it may name {', '.join((*cls.operand_names, 'out'))}")
    cls.reads = tuple(reads)


on_declare.append(_complete)
