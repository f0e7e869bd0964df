"""What a declared op gets: `apply`, and the operators of Variables that it provides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from hotgrad.core.in_place import AUGMENTED, writer
from hotgrad.core.methods import WRITERS, Methods
from hotgrad.core.primitive import Primitive, on_declare, primitives
from hotgrad.core.recording import call
from hotgrad.core.shortcuts import binary, unary
from hotgrad.core.variable import Variable
from hotgrad.errors import DeclarationError, OperandError


def _with_options(op: type[Primitive]) -> Callable[..., Any]:
    """The call of an op with options, or of three or more or any number of operands."""
    arity, bind = op.arity, op.bind
    usual = None if inspect.Parameter.empty in op.defaults.values() else op.defaults

    def options_of(extra: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any] | None:
        if extra or given or usual is None:
            return bind(extra, given)
        return usual or None

    def apply(*operands: Any, **given: Any) -> Any:
        extra: tuple[Any, ...] = ()
        if arity is not None and len(operands) != arity:
            if len(operands) < arity:
                wanted = ", ".join(op.operand_names)
                raise OperandError(f"{op.name}: takes {arity} operand{'s' if arity > 1 else ''} ({wanted}); got {len(operands)}")
            operands, extra = operands[:arity], operands[arity:]
        return call(op, operands, options_of(extra, given))

    if arity != 1 or op.plain or not op.differentiable:
        return apply
    fast = unary(op)

    def apply_unary(a: Any, *extra: Any, **given: Any) -> Any:
        return fast(a, options_of(extra, given) if extra or given else usual or options_of(extra, given))

    return apply_unary


def _give_apply(op: type[Primitive]) -> None:
    """Complete a declaration: its `apply`, and the operators it provides."""
    fast = {1: unary, 2: binary}.get(op.arity or 0) if not op.defaults and not op.plain and op.differentiable else None
    apply = (fast or _with_options)(op)
    apply.__name__, apply.__qualname__, apply.__doc__ = op.function, f"{op.name}.apply", _documented(op)
    op.apply = staticmethod(apply)
    if primitives().get(op.name) is op and "operators" in op.__dict__:
        _check_operators(op)
        for name in op.operators:
            _provide(op, name, apply)


def _documented(op: type[Primitive]) -> str | None:
    """The op's text, with what its kinks say before the example."""
    text = op.__doc__
    if not text or not op.kinks:
        return text
    what, example, rest = text.partition("\n    >>>")
    return f"{what.rstrip()}\n\n    The gradient: {'; '.join(op.kinks)}.\n{example}{rest}"


def _check_operators(op: type[Primitive]) -> None:
    if isinstance(op.operators, str):
        raise DeclarationError(f"Primitive {op.name}: `operators` must be a tuple of names; got the string {op.operators!r}")
    for name in op.operators:
        earlier = _PROVIDERS.get(name, op.name)
        if earlier != op.name or (name not in _PROVIDERS and any(name in vars(c) for c in Variable.__mro__[:-1])):
            raise DeclarationError(f"Primitive {op.name}: the operator {name} is taken by {earlier if earlier != op.name else 'Variable'}")


def _provide(op: type[Primitive], name: str, apply: Callable[..., Any]) -> None:
    """Make `apply` the operator `name` of Variables; reflected for `__radd__` and its like."""
    _PROVIDERS[name] = op.name
    reflected = name.startswith("__r") and f"__{name[3:]}" in op.operators
    setattr(Methods, name, _reflect(apply) if reflected else _equality(apply) if name in ("__eq__", "__ne__") else apply)
    if name in AUGMENTED:
        symbol, torch_name = AUGMENTED[name]
        in_place = f"__i{name[2:]}"
        write = WRITERS[torch_name] = WRITERS[in_place] = writer(op, apply, symbol)
        setattr(Methods, in_place, write)


_PROVIDERS: dict[str, str] = {}


def _reflect(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda b, a: apply(a, b)


def _equality(apply: Callable[..., Any]) -> Callable[..., Any]:
    """`v == None` and `v == "text"` are Python's to answer, as in torch."""

    def operator(a: Any, b: Any) -> Any:
        return NotImplemented if b is None or isinstance(b, (str, tuple, list, dict, type)) else apply(a, b)

    return operator


on_declare.append(_give_apply)
