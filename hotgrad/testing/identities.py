"""What must hold of every pullback, whatever it computes: what a backward leaves behind, linearity, the same gradients wherever in a
graph the call stands, NaN and infinity that come through, dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Interval
from hotgrad.core.variable import Parameter, Variable, gradients
from hotgrad.ops import add, mul
from hotgrad.testing.report import Problem
from hotgrad.testing.subject import Failed, Known, Subject, collect, near, overlapping, pattern, same, share_memory, unravel


def first_backward(subject: Subject, g: Tensor) -> list[Tensor]:
    """The gradients, after the checks of what a backward leaves behind: shapes, dtypes, memory, and everything else as it was."""
    values = subject.values
    leaves = subject.leaves(values, subject.checked)
    before = [(v, v._version, v.clone()) for v in (*values, g)]
    out = subject.call(leaves)
    out.backward(g, retain_graph=True)
    problems = []
    for name, (value, version, copy) in zip((*subject.names, "the cotangent"), before):
        if value._version != version or not same(value, copy):
            value.copy_(copy) if not overlapping(value) else None
            problems.append(
                Problem(
                    "mutated",
                    f"{subject.name}: the forward or a rule wrote into {name}",
                    "a rule must never write into what it is given; use g * k, not g.mul_(k)",
                )
            )
    if problems:
        raise Failed(problems)
    grads = []
    for i in subject.checked:
        leaf, name = leaves[i], subject.names[i]
        if leaf.grad is None and not subject.is_op:  # the function may not use it; differences will tell
            grads.append(torch.zeros_like(leaf.data))
            continue
        if leaf.grad is None:
            raise Failed([Problem("missing", f"{subject.name}: no gradient arrived at {name}")])
        if leaf.grad.shape != leaf.shape or leaf.grad.dtype != leaf.dtype:
            problems.append(
                Problem(
                    "shape",
                    f"{subject.name}: the gradient of {name} is {leaf.grad.dtype} {tuple(leaf.grad.shape)}; it must be {leaf.dtype} {tuple(leaf.shape)}",
                )
            )
        grads.append(leaf.grad)
    held = [(name, v) for name, v in zip(subject.names, values)] + [("the cotangent", g), ("the result", out.data)]
    for i, grad in zip(subject.checked, grads):
        shared = [name for name, v in held if share_memory(grad, v)]
        if shared or overlapping(grad):
            problems.append(
                Problem(
                    "alias",
                    f"{subject.name}: the gradient of {subject.names[i]} shares memory with {shared[0] if shared else 'itself'}",
                    "`fresh = True` promises new memory that is shared with nothing; drop it, or return a copy",
                )
            )
        held.append((f"the gradient of {subject.names[i]}", grad))
    if problems:
        raise Failed(problems)
    first = [grad.clone() for grad in grads]
    out.backward(g)
    for i, once in zip(subject.checked, first):
        now = leaves[i].grad
        if now is not None and not (near(now, 2 * once, 1e-13) and same(now.isfinite(), once.isfinite())):
            problems.append(
                Problem(
                    "accumulate",
                    f"{subject.name}: two backwards must give twice the gradient of {subject.names[i]}; got {now.tolist()} after {once.tolist()}",
                )
            )
    if any(v._version != version for v, version, _ in before):
        problems.append(Problem("mutated", f"{subject.name}: the second backward wrote into an operand or the cotangent"))
    if problems:
        raise Failed(problems)
    return first


def algebra(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
    """A pullback is linear in its cotangent, whatever the function; that of zero is zero."""
    leaves = subject.leaves(subject.values, subject.checked)
    wanted = [leaves[i] for i in subject.checked]
    out = subject.call(leaves)
    other = pattern(g.shape, 3).to(g.dtype)

    def pull(cotangent: Tensor) -> list[Tensor]:
        found = gradients(out, wanted, cotangent, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(x.data) if v is None else v.data for x, v in zip(wanted, found)]

    zero, twice, second, both = pull(torch.zeros_like(g)), pull(-2 * g), pull(other), pull(g + other)
    for k, i in enumerate(subject.checked):
        one, name = claimed[k], subject.names[i]
        finite = one.isfinite() & second[k].isfinite()
        if bool((zero[k][finite] != 0).any()):
            raise Failed(
                [
                    Problem(
                        "zero",
                        f"{subject.name}: a cotangent of zeros gives a gradient of {name} that is not zero: {zero[k].tolist()}",
                        "the rule adds something that does not depend on its cotangent",
                    )
                ]
            )
        if not near(twice[k][finite], -2 * one[finite], 1e-13, size) or not bool(twice[k][finite].isfinite().all()):
            raise Failed(
                [
                    Problem(
                        "linear",
                        f"{subject.name}: -2 times the cotangent must give -2 times the gradient of {name}; got {twice[k].tolist()} after {one.tolist()}",
                        "the rule is not linear in its cotangent `g`",
                    )
                ]
            )
        if not near(both[k][finite], (one + second[k])[finite], 1e-12, size):
            raise Failed(
                [
                    Problem(
                        "linear",
                        f"{subject.name}: the sum of two cotangents must give the sum of the gradients of {name}",
                        "the rule is not linear in its cotangent `g`, or it wrote into something it was given",
                    )
                ]
            )


def _agree(
    subject: Subject,
    what: str,
    got: Sequence[Tensor],
    wanted: Sequence[Tensor],
    operands: Sequence[int],
    size: float,
    kind: str = "context",
) -> None:
    for i, a, b in zip(operands, got, wanted):
        if a.shape != b.shape or not near(a, b, 1e-12, size) or not same(a.isfinite(), b.isfinite()):
            raise Failed(
                [
                    Problem(
                        kind,
                        f"{subject.name}: {what}, the gradient of {subject.names[i]} must be {b.tolist()}; got {a.tolist()}",
                        "right when alone, wrong in this graph",
                    )
                ]
            )


def contexts(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
    """The same gradients must come out wherever in a graph the call stands, and whichever operands need them."""
    checked, values, call = subject.checked, subject.values, subject.call

    # a diamond: through intermediates and directly, the result used three times
    leaves = subject.leaves(values, checked)
    inner = [add(x, 0.0) if i in checked and not isinstance(x, Parameter) else x for i, x in enumerate(leaves)]
    y, z = call(inner), call(leaves)
    got = collect(add(add(y, mul(y, 2.0)), z), [leaves[i] for i in checked], g)
    _agree(subject, "used four times in a graph with diamonds", got, [4 * c for c in claimed], checked, size)

    # a pair of calls whose results are joined by an op that hands both the same cotangent, twice into the same leaves
    leaves = subject.leaves(values, checked)
    wanted = [leaves[i] for i in checked]
    sums = add(call(leaves), call(leaves))
    version = g._version
    sums.backward(g, retain_graph=True)
    sums.backward(g)
    _agree(
        subject,
        "over two calls and two backwards",
        [torch.zeros_like(w.data) if w.grad is None else w.grad for w in wanted],
        [4 * c for c in claimed],
        checked,
        size,
    )
    if g._version != version:
        raise Failed(
            [
                Problem(
                    "mutated",
                    f"{subject.name}: a rule wrote into the cotangent of a shared graph",
                    "a rule must never write into what it is given",
                )
            ]
        )


def constants(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
    """Each operand alone as a Variable that needs a gradient; the others are constants."""
    values = subject.values
    for k, i in enumerate(subject.checked):
        for others in ("Variables", "tensors"):
            leaf = Variable(values[i], requires_grad=True)
            operands: list[Any] = [leaf if j == i else Variable(v) if others == "Variables" else v for j, v in enumerate(values)]
            (got,) = collect(subject.call(operands), [leaf], g)
            _agree(subject, f"with {subject.names[i]} alone requiring it, the others being {others},", [got], [claimed[k]], [i], size)
            if any(isinstance(x, Variable) and x is not leaf and x.grad is not None for x in operands):
                raise Failed([Problem("constant", f"{subject.name}: a constant operand got a gradient")])
        if len(values) == 2 and values[1 - i].numel() and values[1 - i].dtype.is_floating_point:
            _beside_number(subject, i, values[1 - i].reshape(-1)[0].item(), size)


def _beside_number(subject: Subject, i: int, number: Any, size: float) -> None:
    """A Python number as the other operand gives what a 0-d tensor of that value gives."""

    def beside(other: Any) -> Tensor:
        leaf = Variable(subject.values[i], requires_grad=True)
        out = subject.call((leaf, other) if i == 0 else (other, leaf))
        (found,) = collect(out, [leaf], pattern(out.shape, 4).to(out.dtype))
        return found

    constant = torch.tensor(number, dtype=subject.values[1 - i].dtype)
    try:
        subject.plain((subject.values[i], number) if i == 0 else (number, subject.values[i]))
        subject.plain((subject.values[i], constant) if i == 0 else (constant, subject.values[i]))
    except (TypeError, ValueError, RuntimeError, IndexError):  # not every op takes numbers
        return
    _agree(subject, f"with the number {number} for {subject.names[1 - i]}", [beside(number)], [beside(constant)], [i], size)


def repeated(subject: Subject, g: Tensor, size: float) -> None:
    """The same Variable as two operands gets the sum of their gradients."""
    checked, values = subject.checked, subject.values
    pairs = [(i, j) for i in checked for j in checked if i < j and values[i].shape == values[j].shape]
    for i, j in pairs[:2]:
        for x in (values[i], values[j]):
            twice = list(values)
            twice[i] = twice[j] = x
            low, high = zip(
                *((d.low, d.high) if isinstance(d, Interval) else (-math.inf, math.inf) for d in (subject.domains[i], subject.domains[j]))
            )
            if bool(((x < max(low)) | (x > min(high))).any()):
                continue
            try:
                out = subject.plain(twice)
            except (TypeError, ValueError, RuntimeError, IndexError):
                continue
            if tuple(out.shape) != tuple(g.shape):
                continue
            apart = subject.pull(twice, g, (i, j))
            leaf = Variable(x, requires_grad=True)
            operands: list[Any] = list(twice)
            operands[i] = operands[j] = leaf
            (got,) = collect(subject.call(operands), [leaf], g)
            _agree(
                subject,
                f"with one Variable as both {subject.names[i]} and {subject.names[j]}",
                [got],
                [apart[0] + apart[1]],
                [i],
                size,
                "repeated",
            )
            break


def poison(subject: Subject, known: Known, g: Tensor) -> None:
    """NaN and infinity in the cotangent must reach every gradient element whose slope there is not zero."""
    if not known.coordinates or not g.numel():
        return
    column = int(torch.argmax(known.slopes.low.abs().nan_to_num(0, 0, 0).sum(0)))
    low, high = known.slopes.low[:, column], known.slopes.high[:, column]
    sure = known.slopes.resolved[:, column] & (low * high > 0) & (low.abs() > 100 * known.slopes.error[:, column] + 1e-6)
    for bad in (math.nan, math.inf):
        seed = torch.ones(g.shape, dtype=g.dtype)
        seed.reshape(-1)[column] = bad
        found = dict(zip(subject.checked, subject.pull(subject.values, seed)))
        for row, (i, k) in enumerate(known.coordinates):
            if bool(sure[row]) and bool(found[i].reshape(-1)[k].isfinite()):
                raise Failed(
                    [
                        Problem(
                            "hidden",
                            f"{subject.name}: {bad} in the cotangent does not reach the gradient of {subject.names[i]}{list(unravel(k, subject.values[i].shape))}, whose slope is {float(low[row]):.6g}",
                            "the rule hides NaN or infinity, or ignores its cotangent there",
                        )
                    ]
                )


def narrow(subject: Subject, g: Tensor, known: Known) -> None:
    """In float32, and with one operand in float32, each gradient has its own operand's dtype, and about the right value."""
    for which in [subject.checked] if len(subject.checked) < 2 else [subject.checked, subject.checked[:1]]:
        # float32 for all that has a floating dtype, or for the first operand only
        every = which is subject.checked
        values = [v.float() if v.dtype.is_floating_point and (every or i in which) else v for i, v in enumerate(subject.values)]
        try:
            out = subject.plain(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if not out.dtype.is_floating_point or tuple(out.shape) != tuple(g.shape):
            continue
        seed = g.to(torch.float32).to(out.dtype)
        leaves = subject.leaves(values, subject.checked)
        subject.call(leaves).backward(seed)
        wide = [v.double() if v.dtype.is_floating_point else v for v in values]
        exact = subject.pull(wide, seed.to(g.dtype)) if subject.plain(wide).dtype == g.dtype else []
        for k, i in enumerate(subject.checked):
            grad = leaves[i].grad
            if grad is not None and grad.dtype != values[i].dtype:
                raise Failed([Problem("dtype", f"{subject.name}: the gradient of {subject.names[i]}, {values[i].dtype}, is {grad.dtype}")])
            if grad is None or not exact or known.kinked or not bool(exact[k].isfinite().all()) or not grad.numel():
                continue
            if float(exact[k].abs().max()) < 1e30 and bool(grad.isfinite().all()) and not near(grad, exact[k], 1e-3, 1e-2 * known.size):
                raise Failed(
                    [
                        Problem(
                            "float32",
                            f"{subject.name}: in float32 the gradient of {subject.names[i]} is {grad.tolist()}; in float64, at the same point, {exact[k].tolist()}",
                            "wrong in float32 only",
                        )
                    ]
                )
