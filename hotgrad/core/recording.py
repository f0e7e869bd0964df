"""How a call of an op is recorded: `Primitive.apply` for every kind of op, and the operators it provides.

Raw in, raw out: without a Variable among its operands, an op returns a plain tensor.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.checks import overlaps_itself
from hotgrad.core.arrays import is_numpy, number_in
from hotgrad.core.explain import describe, fail
from hotgrad.core.methods import WRITERS, Methods
from hotgrad.core.primitive import Booleans, Integers, Primitive, on_declare, primitives
from hotgrad.core.records import MODE, NO_SINK, Constant, Node, Record, Tracing, Unread, next_sequence, state, tensors_in
from hotgrad.core.variable import Parameter, Variable, as_tensor, wrap
from hotgrad.errors import DeclarationError, DeviceError, DtypeError, HotgradError, OperandError, ShapeError, TapeError

STRIDED = torch.strided


def _tensor(op: type[Primitive], value: Any) -> Tensor:
    """`value` as a tensor. Raises the HotgradError that names the op."""
    try:
        return as_tensor(value)
    except HotgradError as error:
        raise type(error)(f"{op.name}: {error}") from None


def _operand(op: type[Primitive], value: Any) -> Any:
    """An operand that is no Variable, as forward takes it. Raises OperandError or DtypeError."""
    if isinstance(value, Tensor):
        if value.requires_grad:
            raise OperandError(
                f"{op.name}: an operand of shape {tuple(value.shape)} requires a torch gradient; wrap it in a Variable, or detach() it"
            )
        return _tensor(op, value)
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, complex):
        raise DtypeError(f"{op.name}: complex numbers are not supported; got {value!r}")
    if is_numpy(value):
        return _tensor(op, value) if value.shape else _operand(op, number_in(value))
    if isinstance(value, Node):
        raise Unread(value)
    remedy = ". Make one tensor or Variable of it first, with hg.stack([v0, v1]) of Variables" if isinstance(value, (list, tuple)) else ""
    raise OperandError(
        f"{op.name}: operands are Variables, tensors, numpy arrays and numbers; got {type(value).__name__} ({value!r:.60}){remedy}"
    )


def as_operands(op: type[Primitive], values: Sequence[Any]) -> list[Any]:
    """The operands as forward takes them, given tensors and numbers: numbers become 0-d tensors unless the op takes numbers.

    Their dtype is the one that torch's promotion of Python numbers gives beside the other operands, or their own where `domain` asks
    for booleans or integers.
    """
    tensors = [value for value in values if isinstance(value, Tensor)]
    if not tensors:
        return [torch.as_tensor(value) for value in values]
    if op.numbers or len(tensors) == len(values):
        return list(values)

    def tensor(number: Any, domain: Any) -> Tensor:
        try:
            kinds = (torch.result_type(t, number) for t in tensors)
            dtype = None if isinstance(domain, (Booleans, Integers)) else functools.reduce(torch.promote_types, kinds)
            return torch.tensor(number, dtype=dtype, device=tensors[0].device)
        except (OverflowError, RuntimeError) as error:
            raise OperandError(f"{op.name}: the number {number} is too large beside {describe(tensors[0])} ({error})") from None

    domains: Sequence[Any] = op.domain if op.domain and op.arity is not None else [None] * len(values)
    return [value if isinstance(value, Tensor) else tensor(value, domain) for value, domain in zip(values, domains)]


def _record(op: type[Primitive], links: list[Any], values: list[Any], options: dict[str, Any] | None, out: Tensor) -> Record:
    """Make the record of a call, put it on the tape and return it. `_unary` and `_binary` do the same inline."""
    keep, keep_out = op.keeps(tuple([link is not None for link in links]))
    record = Record()
    operands: list[Any] = []
    guards: list[Any] = []
    for kept, value, link in zip(keep, values, links):
        if not isinstance(value, Tensor):
            operands.append(value)
        elif kept:
            operands.append(value)
            guards += (value, value._version)
        else:
            operands.append(Constant(value) if link is None else link)
    record.out = out if keep_out else None
    if keep_out:
        guards += (out, out._version)
    for value in tensors_in(options):
        guards += (value, value._version)
    record.op, record.parents, record.operands, record.options = op, tuple(links), tuple(operands), options
    record.guards = tuple(guards) or None
    record.shape, record.dtype, record.device, record.sink = out.shape, out.dtype, out.device, NO_SINK
    record.sequence = next_sequence()
    record.tape = state.tape
    return record


def _general(op: type[Primitive], operands: tuple[Any, ...], options: dict[str, Any] | None) -> Any:
    """Call `op` on operands of any kind. Raw in, raw out: without a Variable among them the result is a plain tensor."""
    trace = state.trace
    if trace is not None:
        return trace.apply(op, operands, options)
    values: list[Any] = []
    links: list[Any] = []
    raw, numbers = True, False
    recorded = False
    for operand in operands:
        link = None
        if isinstance(operand, Variable):
            raw = False
            link = operand._link
            operand = operand._data
            recorded = recorded or link is not None
        elif type(operand) is not Tensor or operand.requires_grad or operand.layout is not STRIDED:
            operand = _operand(op, operand)
            numbers = numbers or not isinstance(operand, Tensor)
        values.append(operand)
        links.append(link)
    try:
        if numbers:
            values = as_operands(op, values)
        out = op._call(*values) if options is None else op._call(*values, **options)
        if raw or op.plain:
            return out
        if recorded and state.recording and op.differentiable and out.dtype.is_floating_point:
            return wrap(out, _record(op, links, values, options, out))
        if out.is_complex():
            raise DtypeError("complex data is not supported. Use its real and imaginary parts")
    except Exception as error:
        fail(op, values, options, error)
    return wrap(out, None)


def _unary(op: type[Primitive]) -> Callable[..., Any]:
    """The call of an op of one operand; `options` are complete, None for an op without."""
    forward, usual = op._call, op.defaults
    (keep,), keep_out = op.keeps((True,))
    variable, parameter, new, record_ = Variable, Parameter, object.__new__, Record
    sequence, mode, no_sink = next_sequence, MODE.get, NO_SINK

    def apply(a: Any, options: Any = None) -> Any:
        kind = type(a)
        if kind is not variable and kind is not parameter:
            if kind is Tensor and options is None:  # what gradient rules do
                try:
                    raw = forward(a)
                except Exception as error:
                    fail(op, (a,), options, error)
                if not raw.requires_grad:
                    return raw
            return _general(op, (a,), options)
        x = a._data
        try:
            tape = mode().active
            data = forward(x) if options is None else forward(x, **options)
            out = new(variable)
            out._data = data
            out._leaf = no_sink
            link = a._link
            if link is None or tape is None or not (options is None or data.dtype.is_floating_point):
                out._link = None
                return out
            out._link = record = record_()
            record.op = op
            record.parents = (link,)
            record.options = options
            record.sink = no_sink
            if keep_out:
                record.out = data
                if keep:
                    record.operands = (x,)
                    record.guards = (x, x._version, data, data._version)
                else:
                    record.operands = (link,)
                    record.guards = (data, data._version)
            else:
                record.out = None
                if keep:
                    record.operands = (x,)
                    record.guards = (x, x._version)
                else:
                    record.operands = (link,)
                    record.guards = None
            if options is not None and options is not usual:
                record.guards = (*(record.guards or ()), *[i for x in tensors_in(options) for i in (x, x._version)]) or None
            record.shape = data.shape
            record.dtype = data.dtype
            record.device = data.device
        except Tracing:
            return _general(op, (a,), options)
        except Exception as error:
            fail(op, (x,), options, error)
        record.sequence = sequence()
        record.tape = tape
        return out

    return apply


def _binary(op: type[Primitive]) -> Callable[..., Any]:
    """The call of an op of two operands without options."""
    forward = op._call
    # what to keep when only a, only b, or both need a gradient
    plans = (None, *(op.keeps(needed) for needed in ((True, False), (False, True), (True, True))))
    variable, parameter, new, record_ = Variable, Parameter, object.__new__, Record
    sequence, mode, no_sink = next_sequence, MODE.get, NO_SINK
    int_, float_ = (int, float) if op.numbers else (None, None)

    def apply(a: Any, b: Any) -> Any:
        kind = type(a)
        if kind is not variable and kind is not parameter:
            if kind is Tensor and type(b) is Tensor:  # what gradient rules do
                try:
                    raw = forward(a, b)
                except Exception as error:
                    fail(op, (a, b), None, error)
                if not raw.requires_grad:
                    return raw
            return _general(op, (a, b), None)
        x = a._data
        link_a = a._link
        kind = type(b)
        if kind is variable or kind is parameter:
            y = b._data
            link_b = b._link
            number = False
        elif kind is int_ or kind is float_:
            y = b
            link_b = None
            number = True
        else:
            return _general(op, (a, b), None)
        try:
            tape = mode().active
            data = forward(x, y)
            out = new(variable)
            out._data = data
            out._leaf = no_sink
            if (link_a is None and link_b is None) or tape is None:
                out._link = None
                return out
            (keep_a, keep_b), keep_out = plans[(link_a is not None) + 2 * (link_b is not None)]  # type: ignore[misc]
            out._link = record = record_()
            record.op = op
            record.parents = (link_a, link_b)
            record.options = None
            record.sink = no_sink
            if keep_a:
                if number:
                    record.operands = (x, y)
                    record.guards = (x, x._version)
                elif keep_b:
                    record.operands = (x, y)
                    record.guards = (x, x._version, y, y._version)
                else:
                    record.operands = (x, link_b or Constant(y))
                    record.guards = (x, x._version)
            elif number:
                record.operands = (link_a, y)
                record.guards = None
            elif keep_b:
                record.operands = (link_a or Constant(x), y)
                record.guards = (y, y._version)
            else:
                record.operands = (link_a or Constant(x), link_b or Constant(y))
                record.guards = None
            if keep_out:
                record.out = data
                record.guards = (*(record.guards or ()), data, data._version)
            else:
                record.out = None
            record.shape = data.shape
            record.dtype = data.dtype
            record.device = data.device
        except Tracing:
            return _general(op, (a, b), None)
        except Exception as error:
            fail(op, (x, y), None, error)
        record.sequence = sequence()
        record.tape = tape
        return out

    return apply


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
        return _general(op, operands, options_of(extra, given))

    if arity != 1 or op.plain or not op.differentiable:
        return apply
    unary = _unary(op)

    def apply_unary(a: Any, *extra: Any, **given: Any) -> Any:
        return unary(a, options_of(extra, given) if extra or given else usual or options_of(extra, given))

    return apply_unary


def _give_apply(op: type[Primitive]) -> None:
    """Complete a declaration: its `apply`, and the operators it provides."""
    fast = {1: _unary, 2: _binary}.get(op.arity or 0) if not op.defaults and not op.plain and op.differentiable else None
    apply = (fast or _with_options)(op)
    apply.__name__, apply.__qualname__, apply.__doc__ = op.function, f"{op.name}.apply", op.__doc__
    op.apply = staticmethod(apply)
    if primitives().get(op.name) is op and "operators" in op.__dict__:
        _check_operators(op)
        for name in op.operators:
            _provide(op, name, apply)


def _check_operators(op: type[Primitive]) -> None:
    if isinstance(op.operators, str):
        raise DeclarationError(f"Primitive {op.name}: `operators` must be a tuple of names; got the string {op.operators!r}")
    for name in op.operators:
        earlier = _PROVIDERS.get(name, op.name)
        if earlier != op.name or (name not in _PROVIDERS and any(name in vars(c) for c in (Variable, Methods))):
            raise DeclarationError(f"Primitive {op.name}: the operator {name} is taken by {earlier if earlier != op.name else 'Variable'}")


def _provide(op: type[Primitive], name: str, apply: Callable[..., Any]) -> None:
    """Make `apply` the operator `name` of Variables; reflected for `__radd__` and its like."""
    _PROVIDERS[name] = op.name
    reflected = name.startswith("__r") and f"__{name[3:]}" in op.operators
    setattr(Methods, name, _reflect(apply) if reflected else _equality(apply) if name in ("__eq__", "__ne__") else apply)
    if name in _AUGMENTED:
        symbol, torch_name = _AUGMENTED[name]
        in_place = f"__i{name[2:]}"
        writer = WRITERS[torch_name] = WRITERS[in_place] = _writer(op, apply, symbol)
        setattr(Methods, in_place, writer)


_PROVIDERS: dict[str, str] = {}


def _reflect(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda b, a: apply(a, b)


def _equality(apply: Callable[..., Any]) -> Callable[..., Any]:
    """`v == None` and `v == "text"` are Python's to answer, as in torch."""

    def operator(a: Any, b: Any) -> Any:
        return NotImplemented if b is None or isinstance(b, (str, tuple, list, dict, type)) else apply(a, b)

    return operator


# ------------------------------------------------------------------------------------------------------ augmented assignment

# By operator: its symbol, and the name of torch's method that `tensor += variable` comes as.
_AUGMENTED = {
    "__add__": ("+", "add_"), "__sub__": ("-", "sub_"), "__mul__": ("*", "mul_"), "__truediv__": ("/", "div_"), "__pow__": ("**", "pow_"),
    "__matmul__": ("@", "matmul_"), "__floordiv__": ("//", "floor_divide_"), "__mod__": ("%", "remainder_"),
}  # fmt: skip

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FORWARDS: set[CodeType] = set()


def forward_pass(function: _Function) -> _Function:
    """Marks what runs models and losses: inside, `h += x` never writes into an `h` that an op computed.

    With recording on it could not, since `h` is no leaf; so a model computes the same when nothing is recorded, in `predict`.
    """
    _FORWARDS.add(function.__code__)
    return function


def _in_forward_pass() -> bool:
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code not in _FORWARDS:
        frame = frame.f_back
    return frame is not None


def _writer(op: type[Primitive], apply: Callable[..., Any], symbol: str) -> Callable[..., Any]:
    """`a += b`, for a Variable or tensor `a`: written into `a` if that is a leaf and the sum is not recorded, else a new value."""

    def write(a: Any, b: Any) -> Any:
        variable = isinstance(a, Variable)
        link = a._link if variable else None
        if type(link) is Record:
            return apply(a, b)
        if link is not None and state.recording:
            raise TapeError(
                f"a leaf that requires a gradient cannot be changed by {symbol}= while recording is on; do it inside hg.no_grad, "
                f"or give the result a name of its own: w = v {symbol} ..."
            )
        trace = state.trace
        out = apply(a if variable or trace is None else trace.constant(a), b)
        if isinstance(out, Variable) and out._link is not None:
            if variable:
                return out
            raise TapeError(
                f"{symbol}= cannot write a Variable that requires a gradient into a tensor: the graph would be lost; "
                f"compute a new value, as in t = t {symbol} v, or detach it"
            )
        if variable and a._leaf is NO_SINK and _in_forward_pass():
            return out
        _check_writable(op, a, out, symbol)
        if trace is not None:
            trace.write(a, out)
        else:
            target = a._data if variable else a
            try:
                if not target.is_contiguous() and overlaps_itself(target):
                    raise RuntimeError("several of its elements are one in memory")  # torch's own check knows the plain cases only
                target.copy_(out._data if isinstance(out, Variable) else out)
            except RuntimeError as error:
                raise OperandError(f"{op.name}: {symbol}= cannot write into this tensor ({error}); give it memory of its own") from error
        return a

    return write


def _check_writable(op: type[Primitive], a: Any, out: Any, symbol: str) -> None:
    """Raise unless the result fits where it is to be written, by torch's rules."""
    before, after = (describe(x._data if isinstance(x, Variable) else x) for x in (a, out))
    got = f"{op.name}: {symbol}= on {before} gives {after}"
    if out.shape != a.shape:
        raise ShapeError(f"{got}, which cannot be written in its place; give it a name of its own: w = v {symbol} ...")
    if not torch.can_cast(out.dtype, a.dtype):
        raise DtypeError(f"{got}, which cannot be written in its place; convert the left side first, with to({out.dtype})")
    if out.device != a.device:
        raise DeviceError(f"{got} on {out.device}, which cannot be written to {a.device}; move one of them with to(device)")


on_declare.append(_give_apply)
