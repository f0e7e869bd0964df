"""Wrong rules to test the checker with: for each class of mistakes, ops of ours with that mistake planted.

Most are made mechanically: a class says how a right rule turns wrong and to which ops that applies, and takes every op, or evenly
spread ones, without looking at what the checker finds. `formulas` holds the mistakes people make when deriving a rule.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hotgrad.core.primitive import Primitive, zero
from hotgrad.core.variable import Variable
from hotgrad.ops import CLASSES
from hotgrad.testing.formulas import FORMULAS

Op = type[Primitive]
Rule = Callable[..., Any]


class Mutant(NamedTuple):
    """A wrong op, and the class of mistakes it stands for."""

    kind: str
    op: Op


def variant(base: Op, name: str, operand: int | None, change: Callable[[Rule], Rule], **fields: Any) -> Op:
    """`base` with the rule of `operand` (None: all) changed. It reads everything, and promises nothing about memory."""
    body: dict[str, Any] = {"reads": (" ".join((*base.operand_names, "out")),) * len(base.operand_names), "fresh": False}
    if base.arity is None:
        body["vjp"] = staticmethod(_wrapped(change(base.vjp), base.vjp))
    else:
        body["vjps"] = tuple(
            rule if rule is None or operand not in (None, i) else _wrapped(change(rule), rule) for i, rule in enumerate(base.vjps)
        )
    body |= {"__doc__": f"{base.name}, wrong: {name}.", **fields}
    return types.new_class(f"{base.name}_{name}", (base,), {"register": False}, lambda namespace: namespace.update(body))


def _wrapped(wrong: Rule, right: Rule) -> Rule:
    return functools.update_wrapper(lambda *args, **options: wrong(*args, **options), right)


# --------------------------------------------------------------------------------------- how right rules turn wrong
# Each takes the right rule and gives the wrong one. `_parts` splits what a rule is called with.


def _after(change: Callable[[Any, Any, Any], Any]) -> Callable[[Rule], Rule]:
    """A mistake in the result: change(result, cotangent, own operand)."""

    def mistake(rule: Rule) -> Rule:
        def wrong(*args: Any, **options: Any) -> Any:
            result, (g, operand) = rule(*args, **options), _parts(args)
            return result if isinstance(result, (int, float)) else change(result, g, operand)

        return wrong

    return mistake


def _before(change: Callable[[Any], Any]) -> Callable[[Rule], Rule]:
    """A mistake in what the rule makes of its cotangent."""

    def mistake(rule: Rule) -> Rule:
        def wrong(*args: Any, **options: Any) -> Any:
            at = int(isinstance(args[0], int))
            return rule(*args[:at], change(args[at]), *args[at + 1 :], **options)

        return wrong

    return mistake


def _parts(args: tuple[Any, ...]) -> tuple[Any, Any]:
    """The cotangent, and the operand whose gradient is asked for where that is known, else the first."""
    if isinstance(args[0], int):
        return args[1], args[3 + args[0]]
    return args[0], args[2]


def _plain(x: Any) -> Any:
    return x.data if isinstance(x, Variable) else x


def _writes_cotangent(rule: Rule) -> Rule:
    def wrong(*args: Any, **options: Any) -> Any:
        result = rule(*args, **options)
        result = result * 1.0 if isinstance(result, (Tensor, Variable)) else result
        _plain(_parts(args)[0]).mul_(1.5)
        return result

    return wrong


def _writes_operand(rule: Rule) -> Rule:
    def wrong(*args: Any, **options: Any) -> Any:
        result = rule(*args, **options)
        result = result * 1.0 if isinstance(result, (Tensor, Variable)) else result
        operand = _plain(_parts(args)[1])
        if isinstance(operand, Tensor) and not any(n > 1 and s == 0 for n, s in zip(operand.shape, operand.stride())):
            operand.add_(0.25)
        return result

    return wrong


def _forgets_operands(rule: Rule) -> Rule:
    """Computes with plain numbers where the graph of the gradient is wanted."""

    def wrong(*args: Any, **options: Any) -> Any:
        at = int(isinstance(args[0], int))
        rest = [x.detach() if isinstance(x, Variable) else x for x in args[at + 1 :]]
        return rule(*args[: at + 1], *rest, **options)

    return wrong


def _remembers(rule: Rule) -> Rule:
    """Keeps its first answer for a shape, as an op instance that keeps its inputs does."""
    kept: dict[Any, Any] = {}

    def wrong(*args: Any, **options: Any) -> Any:
        result = rule(*args, **options)
        if not isinstance(result, Tensor):
            return result
        return kept.setdefault((tuple(result.shape), result.dtype, args[0] if isinstance(args[0], int) else 0), result.clone()).clone()

    return wrong


def _packed(rule: Rule) -> Rule:
    """Takes the memory of its cotangent to be contiguous."""

    def wrong(*args: Any, **options: Any) -> Any:
        at = int(isinstance(args[0], int))
        g = args[at]
        if isinstance(g, Tensor) and not g.is_contiguous() and g.numel():
            size = torch.empty(g.shape).stride()
            g = torch.as_strided(g, g.shape, size, g.storage_offset()).nan_to_num(0.5)
        return rule(*args[:at], g, *args[at + 1 :], **options)

    return wrong


def _packed_operand(rule: Rule) -> Rule:
    """Takes the memory of its operands to be contiguous."""

    def pack(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.is_contiguous() or not x.numel() or not x.dtype.is_floating_point:
            return x
        if x.untyped_storage().nbytes() < (x.storage_offset() + x.numel()) * x.element_size():
            return x * 0.5
        return torch.as_strided(x, x.shape, torch.empty(x.shape).stride(), x.storage_offset()).nan_to_num(0.5)

    def wrong(*args: Any, **options: Any) -> Any:
        at = int(isinstance(args[0], int)) + 2
        return rule(*args[:at], *map(pack, args[at:]), **options)

    return wrong


def _where(mask: Any, a: Any, b: Any) -> Any:
    return CLASSES["Where"].apply(_plain(mask), a, b)


def _mean_not_sum(r: Any, g: Any, x: Any) -> Any:
    return r * (x.numel() / r.numel()) if r.numel() and x.numel() < r.numel() else r


def _not_summed(r: Any, g: Any, x: Any) -> Any:
    """Takes one of the copies instead of adding them up."""
    lead = r.ndim - len(x.shape)
    index = (0,) * lead + tuple(slice(0, 1) if n == 1 else slice(None) for n in x.shape)
    return r if tuple(r.shape) == tuple(x.shape) or not r.numel() else r[index]


def _square(r: Any, g: Any, x: Any) -> Any:
    return r.mT if r.ndim > 1 and r.shape[-1] == r.shape[-2] else r


def _data(x: Any) -> Any:
    return _plain(x) if isinstance(_plain(x), Tensor) else None


def _where_operand(test: Callable[[Tensor], Tensor], change: Callable[[Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """Wrong for operands that pass the test, where operand and result have one shape."""

    def apply(r: Any, g: Any, x: Any) -> Any:
        data = _data(x)
        return r if data is None or tuple(data.shape) != tuple(r.shape) else _where(test(data), change(r), r)

    return apply


def _if_shape(test: Callable[[Any], bool]) -> Callable[[Any, Any, Any], Any]:
    return lambda r, g, x: r * 2.0 if test(tuple(x.shape)) else r


def _last_lost(r: Any, g: Any, x: Any) -> Any:
    if r.numel() < 2:
        return r
    mask = (torch.arange(r.numel()) < r.numel() - 1).reshape(tuple(r.shape))
    return _where(mask, r, 0.0)


def _fails_on_nothing(r: Any, g: Any, x: Any) -> Any:
    if not r.numel():
        raise ValueError("no elements")
    return r


# class: (mistake, to which ops it applies, how many ops)
_ELEMENTWISE = "Mul Div Pow Sub Maximum Minimum Where TanhGrad SigmoidGrad".split()
_CURVED = "Mul Div Pow MatMul Einsum Exp Log Log1p Sqrt Square Reciprocal Sin Tan Tanh Sigmoid Erf Softplus Var Std Prod LogSumExp Softmax LogSoftmax Norm".split()
_POINTWISE = "Exp Expm1 Sin Cos Tanh Sigmoid Erf Softplus Square Reciprocal ReLU Abs Clip Neg Norm Var Prod Softmax Cumsum Flip".split()
_VIEWS = "Add Sub Reshape Permute Expand Cast Cat Stack PutItem Fold Sum".split()

_MISTAKES: dict[str, tuple[Callable[[Rule], Rule], Callable[[Op], bool], int]] = {
    "sign": (_after(lambda r, g, x: -r), lambda op: True, 6),
    "factor 2": (_after(lambda r, g, x: r * 2.0), lambda op: True, 6),
    "factor 1.001": (_after(lambda r, g, x: r * 1.001), lambda op: True, 6),
    "lost": (_after(lambda r, g, x: 0.0), lambda op: True, 5),
    "cotangent ignored": (_before(lambda g: g * 0.0 + 1.0), lambda op: True, 6),
    "cotangent made positive": (_before(abs), lambda op: True, 4),
    "cotangent squared": (_before(lambda g: g * g), lambda op: True, 4),
    "gradient clipped": (_after(lambda r, g, x: r.clip(-1.0, 1.0)), lambda op: True, 4),
    "constant added": (_after(lambda r, g, x: r + 1e-3), lambda op: True, 5),
    "computed in float32": (_after(lambda r, g, x: r.to(torch.float32)), lambda op: True, 6),
    "writes into the cotangent": (_writes_cotangent, lambda op: True, 5),
    "writes into an operand": (_writes_operand, lambda op: op.rules[:1] != (None,), 5),
    "remembers": (_remembers, lambda op: True, 5),
    "second order lost": (_forgets_operands, lambda op: op.name in _CURVED, 8),
    "second order lost with the cotangent": (_before(lambda g: g.detach()), lambda op: True, 4),
    "NaN hidden": (_after(lambda r, g, x: _where(_plain(r) != _plain(r), 0.0, r)), lambda op: True, 5),
    "infinity hidden": (_before(lambda g: g.clip(-1e9, 1e9)), lambda op: True, 4),
    "broadcast averaged": (_after(_mean_not_sum), lambda op: op.name in _ELEMENTWISE or op.name == "Expand", 6),
    "broadcast not summed": (_after(_not_summed), lambda op: op.name in _ELEMENTWISE or op.name == "Expand", 6),
    "transposed when square": (_after(_square), lambda op: op.name != "Cat", 6),
    "wrong for size 1": (_after(_if_shape(lambda s: 1 in s)), lambda op: True, 5),
    "wrong for 0-d": (_after(_if_shape(lambda s: not s)), lambda op: op.name in (*_ELEMENTWISE, *_POINTWISE) and op.name not in ("Softmax", "Var"), 5),
    "wrong from three axes on": (_after(_if_shape(lambda s: len(s) > 2)), lambda op: op.name not in ("PutItem", "Gather", "ScatterAdd", "AddMM"), 5),
    "fails on empty": (_after(_fails_on_nothing), lambda op: op.name not in ("Amax", "Amin", "Prod", "Gather", "ScatterAdd"), 5),
    "wrong for negative numbers": (_after(_where_operand(lambda x: x < 0, lambda r: r * 0.5)), lambda op: op.name in _POINTWISE, 5),
    "wrong for large numbers": (_after(_where_operand(lambda x: x.abs() > 3, lambda r: r * 0.5)), lambda op: op.name in ("Exp", "Expm1", "Sin", "Cos", "Square", "Log", "Sqrt", "Mul"), 4),
    "wrong at exactly 0": (_after(_where_operand(lambda x: x == 0, lambda r: r * 0.5 + 0.25)), lambda op: op.name in _POINTWISE, 5),
    "elements shifted": (_after(lambda r, g, x: _plain(r).roll(1) if isinstance(r, Tensor) else r), lambda op: True, 5),
    "last element lost": (_after(_last_lost), lambda op: True, 5),
    "strides of the cotangent ignored": (_packed, lambda op: True, 5),
    "strides of an operand ignored": (_packed_operand, lambda op: op.name in "Mul Div Exp Sin Square MatMul Var Prod Log Tanh Abs".split() and op.reads[0].split()[0] != "out", 4),
    "wrong in float32": (_after(lambda r, g, x: r * 1.25 if r.dtype == torch.float32 else r), lambda op: op.name != "Cast", 4),
    "wrong beside numbers": (lambda rule: lambda *a, **o: rule(*a, **o) * (0.5 if any(type(x) in (int, float) for x in a[2:]) else 1.0), lambda op: op.name in "Mul Div Sub Pow Maximum".split(), 4),
}  # fmt: skip


def _targets(applies: Callable[[Op], bool], count: int, offset: int) -> list[tuple[Op, int | None]]:
    """`count` ops, and the operand whose rule to spoil, evenly spread over all those to which a mistake applies."""
    found: list[tuple[Op, int | None]] = []
    for op in CLASSES.values():
        if op.plain or not op.differentiable or not applies(op):
            continue
        if op.arity is None:
            found.append((op, None))
        else:
            found += [(op, i) for i, rule in enumerate(op.rules) if rule is not None and rule is not zero]
    step = max(len(found) / count, 1.0)
    return [found[int(offset + k * step) % len(found)] for k in range(min(count, len(found)))]


def mutants() -> Iterator[Mutant]:
    """All wrong ops, each with the class of its mistake."""
    for number, (kind, (mistake, applies, count)) in enumerate(_MISTAKES.items()):
        for op, operand in _targets(applies, count, 5 * number):
            name = kind.replace(" ", "_").replace(".", "_")
            second = operand is not None and operand > 0
            yield Mutant(kind, variant(op, name, operand, _on_second(mistake) if second else mistake))
    for name in _VIEWS:
        op = CLASSES[name]
        yield Mutant("memory shared", variant(op, "shares_memory", None, lambda rule: rule, fresh=True))
    for name in ("Mul", "Div", "Pow", "MatMul", "Sub", "Maximum", "TanhGrad", "SigmoidGrad"):
        op = CLASSES[name]
        a, b = op.vjps
        yield Mutant("rules swapped", variant(op, "swapped", None, lambda rule: rule, vjps=(b, a)))
    for name in ("Mul", "Exp", "Log", "MatMul", "Softmax", "Amax"):
        yield Mutant("reads too little", variant(CLASSES[name], "reads_nothing", None, lambda rule: rule, reads=""))
    for kind, name, fields in FORMULAS:
        yield Mutant(kind, variant(CLASSES[name], kind.replace(" ", "_"), None, lambda rule: rule, **fields))


def _on_second(mistake: Callable[[Rule], Rule]) -> Callable[[Rule], Rule]:
    """The same mistake in the rule of the second operand: it sees that operand first, the right rule all in order."""

    def swapped(rule: Rule) -> Rule:
        def right(g: Any, out: Any, own: Any, other: Any, *rest: Any, **options: Any) -> Any:
            return rule(g, out, other, own, *rest, **options)

        spoiled = mistake(right)
        return lambda g, out, a, b, *rest, **options: spoiled(g, out, b, a, *rest, **options)

    return swapped
