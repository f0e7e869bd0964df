"""The check of one function at one point: everything that is looked at for one drawn example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Interval
from hotgrad.core.variable import Variable, gradients
from hotgrad.testing.identities import algebra, constants, contexts, first_backward, narrow, poison, repeated
from hotgrad.testing.numeric import Slopes, persists, slopes
from hotgrad.testing.report import Problem, Report, diagnose
from hotgrad.testing.subject import Failed, Known, Subject, coordinates_of, direction_of, near, pattern, reach_of, same, unit, unravel


def examine(subject: Subject, g: Tensor, order: int) -> list[Problem]:
    """Everything wrong that shows at this point with the cotangent `g`."""
    try:
        claimed = first_backward(subject, g)
        known = _compare_first(subject, claimed, g)
        algebra(subject, claimed, g, known.size)
        contexts(subject, claimed, g, known.size)
        poison(subject, known, g)
        if subject.is_op:
            if len(subject.values) > 1:
                constants(subject, claimed, g, known.size)
                repeated(subject, g, known.size)
            narrow(subject, g, known)
        if order > 1:
            _second_order(subject, claimed, g, known)
    except Failed as failed:
        return failed.problems
    except Exception as error:
        return [Problem("raised", f"{subject.name}: differentiating raised {type(error).__name__}: {error}")]
    return []


def _compare_first(subject: Subject, claimed: list[Tensor], g: Tensor) -> Known:
    """The gradients against slopes along every coordinate, along ones, and along directions that mix everything."""
    values = [v.clone(memory_format=torch.contiguous_format) if v.dtype.is_floating_point else v for v in subject.values]
    places = coordinates_of(values, subject.checked)
    directions = [direction_of(values, {i: unit(values[i], k)}) for i, k in places]
    several = [i for i in subject.checked if values[i].numel()]
    if sum(values[i].numel() for i in several) > 1:
        directions.append(direction_of(values, {i: torch.ones_like(values[i]) for i in several}))
        directions.append(direction_of(values, {i: pattern(values[i].shape, i).to(values[i].dtype) for i in several}))
        if len(several) > 1:
            directions += [direction_of(values, {i: torch.ones_like(values[i])}) for i in several if values[i].numel() > 1]
    if not directions:
        return Known([], Slopes(*(torch.zeros(0, g.numel(), dtype=torch.float64),) * 3), False, 0.0)
    reach = [reach_of(values, d, subject.domains) for d in directions]

    def flat(moved: Sequence[Any]) -> Tensor:
        return subject.plain(moved).reshape(-1)

    found = slopes(flat, values, directions, reach)
    before = subject.report.compared
    wrong = _disagreements(
        subject.report, flat, values, directions, reach, found, g.reshape(-1).double(), dict(zip(subject.checked, claimed))
    )
    subject.compared += subject.report.compared - before
    n = len(places)
    if wrong:
        raise Failed(_gradient_problems(subject, claimed, g, found, places, wrong, directions, reach))
    known = Slopes(*(part[:n] for part in found))
    terms = torch.maximum(known.low.abs(), known.high.abs()).nan_to_num(0, 0, 0).sum(1) * max([2.0, *g.abs().reshape(-1).tolist()])
    return Known(
        places,
        known,
        bool((found.kinked & found.resolved).any()),
        max(2 * float(g.abs().max()), float(terms.max())) if terms.numel() and g.numel() else 0.0,
    )


def _disagreements(
    report: Report,
    f: Any,
    values: Any,
    directions: Any,
    reach: Any,
    found: Slopes,
    g: Tensor,
    claimed: dict[int, Tensor],
    terms: float = 0.0,
    second: bool = False,
    zeros: bool = False,
) -> list[tuple[int, float, float, float, float]]:
    """(row, claimed, low, high, tolerance) of each direction along which the gradient and the slopes disagree.

    `terms`: how large the terms are that a gradient element adds up. `second`: kinks are left out. `zeros`: some of the cotangent
    is 0, so NaN may come from 0 * inf.
    """
    low, high, tolerance, resolved = found.weighted(g)
    wrong = []
    for row, direction in enumerate(directions):
        if not bool(resolved[row]) or (second and bool((found.kinked[row] & (g != 0)).any())):
            report.unresolved += 1
            continue
        got = sum(float((claimed[i][d != 0] * d[d != 0]).sum()) for i, d in enumerate(direction) if d is not None and i in claimed)
        if not math.isfinite(got) and (zeros or not bool(found.resolved[row].all())):
            continue  # 0 * inf, where the slope of an output that the cotangent leaves out is infinite
        report.compared += 1
        lo, hi, tol = float(low[row]), float(high[row]), float(tolerance[row])
        off = max(lo - got, got - hi, 0.0)
        slack = (1e-11 if second else 1e-13) * max(
            1.0, terms, sum(float((claimed[i] * d).abs().sum()) for i, d in enumerate(direction) if d is not None and i in claimed)
        )
        if math.isfinite(off) and off <= tol + slack:
            if lo == hi:
                report.worst = max(report.worst, off / max(1.0, abs(lo)))
            continue
        if persists(f, values, direction, reach[row], g, got, terms, slack):
            wrong.append((row, got, lo, hi, tol))
    return wrong


def _gradient_problems(
    subject: Subject, claimed: Any, g: Tensor, found: Slopes, places: Any, wrong: Any, directions: Any, reach: Any
) -> list[Problem]:
    weights = g.reshape(-1).double()
    low, high, _, _ = found.weighted(weights)
    middle = (low + high) / 2
    sums = ((found.low + found.high) / 2).sum(1)
    problems: list[Problem] = []
    for row, got, lo, hi, tol in wrong:
        kinked = lo != hi
        numeric = f"a slope between {lo:.10g} and {hi:.10g}" if kinked else f"{lo:.12g}"
        if row < len(places):
            i, k = places[row]
            shape = tuple(subject.values[i].shape)
            where = f"{subject.names[i]}{list(unravel(k, shape))}" if shape else subject.names[i]
            text = f"{subject.name}: the gradient of {where} is {got:.12g}; differences give {numeric} (within {tol:.2g})"
            diagnosis = _diagnosis_for(subject, i, claimed, middle, sums, places) if not kinked else "wrong at a kink or tie only"
        else:
            moved = [subject.names[i] for i, d in enumerate(directions[row]) if d is not None]
            text = f"{subject.name}: moving all of {' and '.join(moved)} at once, the gradient says {got:.12g}; differences give {numeric} (within {tol:.2g})"
            diagnosis = (
                "single coordinates look right, so a kink or tie is shared out wrongly"
                if not any(r < len(places) for r, *_ in wrong)
                else ""
            )
        if not any(p.text.split(" is ")[0] == text.split(" is ")[0] for p in problems):
            problems.append(Problem("kink" if kinked else "gradient", text, diagnosis))
    return problems[:4]


def _diagnosis_for(subject: Subject, operand: int, claimed: Any, middle: Tensor, sums: Tensor, places: Any) -> str:
    """Compare whole gradients, where all coordinates were taken."""
    wanted, plain = {}, {}
    for i in subject.checked:
        rows = [row for row, (j, _) in enumerate(places) if j == i]
        if len(rows) != subject.values[i].numel():
            return ""
        shape = subject.values[i].shape
        wanted[i], plain[i] = middle[rows].reshape(shape), sums[rows].reshape(shape)
    sizes = [n for v in subject.values for n in (*v.shape, v.numel())]
    others = [w for i, w in wanted.items() if i != operand]
    return diagnose(claimed[subject.checked.index(operand)], wanted[operand], others, plain[operand], sizes)


def _second_order(subject: Subject, claimed: list[Tensor], g: Tensor, known: Known) -> None:
    """The gradients as functions of operands and cotangent, checked by the same means."""
    checked = subject.checked
    if not sum(c.numel() for c in claimed):
        return
    leaves = [*subject.leaves(subject.values, checked), Variable(g, requires_grad=True)]
    wanted = [leaves[i] for i in (*checked, -1)]
    first = gradients(subject.call(leaves[:-1]), wanted[:-1], leaves[-1], create_graph=True, allow_unused=True)
    for i, one, plain in zip(checked, first, claimed):
        if (
            one is None
            or tuple(one.shape) != tuple(plain.shape)
            or not near(one.data, plain, 1e-12, known.size)
            or not same(one.data.isfinite(), plain.isfinite())
        ):
            raise Failed(
                [
                    Problem(
                        "context",
                        f"{subject.name}: with create_graph the gradient of {subject.names[i]} must be {plain.tolist()}; got {one}",
                        "the rule treats Variables otherwise than tensors",
                    )
                ]
            )
    if known.kinked or not g.numel() or not all(bool(c.isfinite().all()) for c in claimed):
        return
    weights = [pattern(c.shape, 5 + k).to(c.dtype) for k, c in enumerate(claimed)]
    roots = [(one, w) for one, w in zip(first, weights) if one is not None and one.requires_grad]
    if roots:
        found = gradients([one for one, _ in roots], wanted, [w for _, w in roots], allow_unused=True)
        second = [torch.zeros_like(x.data) if v is None else v.data for x, v in zip(wanted, found)]
    else:
        second = [torch.zeros_like(x.data) for x in wanted]

    values = [*(v.clone(memory_format=torch.contiguous_format) if v.dtype.is_floating_point else v for v in subject.values), g.clone()]
    moving = [i for i in (*checked, len(values) - 1) if values[i].numel()]
    places = coordinates_of(values, [i for i in moving if i in checked], 3)
    directions = [direction_of(values, {i: pattern(values[i].shape, 7 + i).to(values[i].dtype) for i in moving if i in checked})]
    directions.append(direction_of(values, {moving[-1]: pattern(g.shape, 11).to(g.dtype)}))
    directions += [direction_of(values, {i: unit(values[i], k)}) for i, k in places]
    domains = (*subject.domains, Interval())
    reach = [reach_of(values, d, domains) for d in directions]

    def flat(moved: Sequence[Any]) -> Tensor:
        return torch.cat([x.reshape(-1) for x in subject.pull(moved[:-1], moved[-1])])

    slopes_ = slopes(flat, values, directions, reach, terms=known.size)
    weight = torch.cat([w.reshape(-1) for w in weights]).double()
    wrong = _disagreements(
        subject.report,
        flat,
        values,
        directions,
        reach,
        slopes_,
        weight,
        dict(zip((*checked, len(values) - 1), second)),
        known.size,
        True,
        bool((g == 0).any()),
    )
    if wrong:
        row, got, low, _, tolerance = wrong[0]
        coarse = abs(got - low) < 1e-5 * abs(low)
        names = (*subject.names, "the cotangent")
        moved = " and ".join(names[i] for i, d in enumerate(directions[row]) if d is not None)
        raise Failed(
            [
                Problem(
                    "second order",
                    f"{subject.name}: along {moved}, the gradient's own derivative is {got:.12g}; differences of gradients give {low:.12g} (within {tolerance:.2g})",
                    "right to some digits only: somewhere it is computed in float32"
                    if coarse
                    else "second order only: the first order is right, so the rule computes with plain numbers what should be recorded (detach, .data, item)",
                )
            ]
        )
