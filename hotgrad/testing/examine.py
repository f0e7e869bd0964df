"""The check of one function at one point: everything that is looked at for one drawn example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hotgrad.ops import add, mul
from hotgrad.primitive import Domain, Interval
from hotgrad.records import no_grad
from hotgrad.testing.numeric import Direction, Slopes, persists, slopes
from hotgrad.testing.report import Problem, Report, diagnose
from hotgrad.variable import Parameter, Variable, gradients

_MOST_COORDINATES = 14


@dataclass
class Subject:
    """A function of tensors at a point. `call` takes Variables, tensors or numbers; `checked` are the operands of `values` whose
    gradients are asked for.
    """

    name: str
    call: Callable[[Sequence[Any]], Any]
    values: tuple[Tensor, ...]
    checked: tuple[int, ...]
    names: tuple[str, ...]
    domains: tuple[Domain, ...]
    report: Report
    is_op: bool = True  # a function may not take constants, numbers or other dtypes in place of its operands

    def plain(self, values: Sequence[Any]) -> Tensor:
        """The result as a plain tensor."""
        with no_grad():
            out = self.call(values)
        data: Tensor = out.data if isinstance(out, Variable) else out
        return data

    def leaves(self, values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
        """The operands, those of `wanted` as Variables that require gradients."""
        return [Variable(v, requires_grad=True) if i in wanted else v for i, v in enumerate(values)]

    def pull(self, values: Sequence[Any], g: Tensor, wanted: Sequence[int] | None = None) -> list[Tensor]:
        """The gradients of the operands `wanted` for the cotangent `g`; zeros where nothing arrives."""
        wanted = self.checked if wanted is None else wanted
        leaves = self.leaves(values, wanted)
        return collect(self.call(leaves), [leaves[i] for i in wanted], g)


def collect(out: Any, leaves: Sequence[Variable], g: Tensor) -> list[Tensor]:
    """The gradients of `leaves` by a backward from `out`; zeros where nothing arrives."""
    out.backward(g)
    return [torch.zeros_like(leaf.data) if leaf.grad is None else leaf.grad for leaf in leaves]


class Failed(Exception):
    """Ends the examination of a point: what comes after would only repeat it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = list(problems)


def near(a: Tensor, b: Tensor, tolerance: float, magnitude: float = 0.0) -> bool:
    """Whether `a` and `b` agree to `tolerance` relative to the largest magnitude in sight, where both are finite."""
    both = a.isfinite() & b.isfinite()
    if not bool(both.any()):
        return True
    a, b = a[both].double(), b[both].double()
    return bool((a - b).abs().max() <= tolerance * max(float(a.abs().max()), float(b.abs().max()), magnitude))


def same(a: Tensor, b: Tensor) -> bool:
    """Whether `a` and `b` are equal element by element, NaN being equal to NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def pattern(shape: Sequence[int], seed: int) -> Tensor:
    """Numbers between 0.3 and 1.7 of either sign that nothing is likely to be symmetric in; the same every time."""
    k = torch.arange(math.prod(shape), dtype=torch.float64) + 17.0 * seed
    return ((1.0 + 0.7 * torch.sin(k * 2.399 + 0.5)) * torch.where(torch.sin(k * 1.113 + seed) > -0.2, 1.0, -1.0)).reshape(tuple(shape))


def examine(subject: Subject, g: Tensor, order: int) -> list[Problem]:
    """Everything wrong that shows at this point with the cotangent `g`."""
    try:
        claimed = _first_backward(subject, g)
        known = _compare_first(subject, claimed, g)
        _algebra(subject, claimed, g, known.size)
        _contexts(subject, claimed, g, known.size)
        _poison(subject, known, g)
        if subject.is_op:
            if len(subject.values) > 1:
                _constants(subject, claimed, g, known.size)
                _repeated(subject, g, known.size)
            _narrow(subject, g, known)
        if order > 1:
            _second_order(subject, claimed, g, known)
    except Failed as failed:
        return failed.problems
    except Exception as error:
        return [Problem("raised", f"{subject.name}: differentiating raised {type(error).__name__}: {error}")]
    return []


# ------------------------------------------------------------------------------------------------------------ first order


def _first_backward(subject: Subject, g: Tensor) -> list[Tensor]:
    """The gradients, after the checks of what a backward leaves behind: shapes, dtypes, memory, and everything else as it was."""
    values = subject.values
    leaves = subject.leaves(values, subject.checked)
    before = [(v, v._version, v.clone()) for v in (*values, g)]
    out = subject.call(leaves)
    out.backward(g, retain_graph=True)
    problems = []
    for name, (value, version, copy) in zip((*subject.names, "the cotangent"), before):
        if value._version != version or not same(value, copy):
            value.copy_(copy) if not _overlapping(value) else None
            problems.append(Problem("mutated", f"{subject.name}: the forward or a rule wrote into {name}", "a rule must never write into what it is given; use g * k, not g.mul_(k)"))
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
            problems.append(Problem("shape", f"{subject.name}: the gradient of {name} is {leaf.grad.dtype} {tuple(leaf.grad.shape)}; it must be {leaf.dtype} {tuple(leaf.shape)}"))
        grads.append(leaf.grad)
    held = [(name, v) for name, v in zip(subject.names, values)] + [("the cotangent", g), ("the result", out.data)]
    for i, grad in zip(subject.checked, grads):
        shared = [name for name, v in held if _share_memory(grad, v)]
        if shared or _overlapping(grad):
            problems.append(Problem("alias", f"{subject.name}: the gradient of {subject.names[i]} shares memory with {shared[0] if shared else 'itself'}", "`fresh = True` promises new memory that is shared with nothing; drop it, or return a copy"))
        held.append((f"the gradient of {subject.names[i]}", grad))
    if problems:
        raise Failed(problems)
    first = [grad.clone() for grad in grads]
    out.backward(g)
    for i, once in zip(subject.checked, first):
        now = leaves[i].grad
        if now is not None and not (near(now, 2 * once, 1e-13) and same(now.isfinite(), once.isfinite())):
            problems.append(Problem("accumulate", f"{subject.name}: two backwards must give twice the gradient of {subject.names[i]}; got {now.tolist()} after {once.tolist()}"))
    if any(v._version != version for v, version, _ in before):
        problems.append(Problem("mutated", f"{subject.name}: the second backward wrote into an operand or the cotangent"))
    if problems:
        raise Failed(problems)
    return first


def _overlapping(t: Tensor) -> bool:
    return bool(t.numel()) and any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride()))


def _share_memory(a: Tensor, b: Tensor) -> bool:
    return bool(a.numel() and b.numel() and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr())


@dataclass
class Known:
    """What differences told: the slopes of single coordinates, (operand, flat index) by row, and whether anything is kinked."""

    coordinates: list[tuple[int, int]]
    slopes: Slopes
    kinked: bool
    size: float  # the largest sum of the absolute terms of a gradient element


def coordinates_of(values: Sequence[Any], checked: Sequence[int], most: int = _MOST_COORDINATES) -> list[tuple[int, int]]:
    """(operand, flat index) of every element, thinned evenly if there are more than `most`."""
    every = [(i, k) for i in checked for k in range(values[i].numel())]
    return every if len(every) <= most else [every[(j * len(every)) // most] for j in range(most)]


def direction_of(values: Sequence[Any], parts: dict[int, Tensor]) -> list[Tensor | None]:
    return [parts.get(i) for i in range(len(values))]


def unit(value: Tensor, index: int) -> Tensor:
    out = torch.zeros(value.numel(), dtype=value.dtype)
    out[index] = 1.0
    return out.reshape(value.shape)


def reach_of(values: Sequence[Any], direction: Direction, domains: Sequence[Domain]) -> tuple[float, float]:
    """How far one may go forwards and backwards along `direction` without leaving the domains."""
    up = down = math.inf
    for value, d, domain in zip(values, direction, domains):
        if d is None or not isinstance(domain, Interval) or (math.isinf(domain.low) and math.isinf(domain.high)):
            continue
        moving = d != 0
        x, v = value[moving], d[moving]
        if not x.numel():
            continue
        above, below = (domain.high - x) / v.abs(), (x - domain.low) / v.abs()
        up = min(up, float(torch.where(v > 0, above, below).min()))
        down = min(down, float(torch.where(v > 0, below, above).min()))
    return max(up, 0.0), max(down, 0.0)


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
    wrong = _disagreements(subject.report, flat, values, directions, reach, found, g.reshape(-1).double(), dict(zip(subject.checked, claimed)))
    n = len(places)
    if wrong:
        raise Failed(_gradient_problems(subject, claimed, g, found, places, wrong, directions, reach))
    known = Slopes(*(part[:n] for part in found))
    terms = torch.maximum(known.low.abs(), known.high.abs()).nan_to_num(0, 0, 0).sum(1) * max([2.0, *g.abs().reshape(-1).tolist()])
    return Known(places, known, bool((found.kinked & found.resolved).any()), max(2 * float(g.abs().max()), float(terms.max())) if terms.numel() and g.numel() else 0.0)


def _disagreements(
    report: Report, f: Any, values: Any, directions: Any, reach: Any, found: Slopes, g: Tensor, claimed: dict[int, Tensor], terms: float = 0.0, second: bool = False, zeros: bool = False
) -> list[tuple[int, float, float, float, float]]:  # fmt: skip
    """(row, claimed, low, high, tolerance) of each direction along which the gradient and the slopes disagree."""
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
        slack = 1e-13 * max(1.0, terms, sum(float((claimed[i] * d).abs().sum()) for i, d in enumerate(direction) if d is not None and i in claimed))
        if math.isfinite(off) and off <= tol + slack:
            if lo == hi:
                report.worst = max(report.worst, off / max(1.0, abs(lo)))
            continue
        if persists(f, values, direction, reach[row], g, got, terms, slack):
            wrong.append((row, got, lo, hi, tol))
    return wrong


def _gradient_problems(subject: Subject, claimed: Any, g: Tensor, found: Slopes, places: Any, wrong: Any, directions: Any, reach: Any) -> list[Problem]:
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
            where = f"{subject.names[i]}{list(_unravel(k, shape))}" if shape else subject.names[i]
            text = f"{subject.name}: the gradient of {where} is {got:.12g}; differences give {numeric} (within {tol:.2g})"
            diagnosis = _diagnosis_for(subject, i, claimed, middle, sums, places) if not kinked else "wrong at a kink or tie only"
        else:
            moved = [subject.names[i] for i, d in enumerate(directions[row]) if d is not None]
            text = f"{subject.name}: moving all of {' and '.join(moved)} at once, the gradient says {got:.12g}; differences give {numeric} (within {tol:.2g})"
            diagnosis = "single coordinates look right, so a kink or tie is shared out wrongly" if not any(r < len(places) for r, *_ in wrong) else ""
        if not any(p.text.split(" is ")[0] == text.split(" is ")[0] for p in problems):
            problems.append(Problem("kink" if kinked else "gradient", text, diagnosis))
    return problems[:4]


def _unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    found = []
    for size in reversed(shape):
        found.append(index % size)
        index //= size
    return tuple(reversed(found))


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


# ---------------------------------------------------------------------------------------------- identities of the pullback


def _algebra(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
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
            raise Failed([Problem("zero", f"{subject.name}: a cotangent of zeros gives a gradient of {name} that is not zero: {zero[k].tolist()}", "the rule adds something that does not depend on its cotangent")])
        if not near(twice[k][finite], -2 * one[finite], 1e-13, size) or not bool(twice[k][finite].isfinite().all()):
            raise Failed([Problem("linear", f"{subject.name}: -2 times the cotangent must give -2 times the gradient of {name}; got {twice[k].tolist()} after {one.tolist()}", "the rule is not linear in its cotangent `g`")])
        if not near(both[k][finite], (one + second[k])[finite], 1e-12, size):
            raise Failed([Problem("linear", f"{subject.name}: the sum of two cotangents must give the sum of the gradients of {name}", "the rule is not linear in its cotangent `g`, or it wrote into something it was given")])


def _agree(subject: Subject, what: str, got: Sequence[Tensor], wanted: Sequence[Tensor], operands: Sequence[int], size: float, kind: str = "context") -> None:
    for i, a, b in zip(operands, got, wanted):
        if a.shape != b.shape or not near(a, b, 1e-12, size) or not same(a.isfinite(), b.isfinite()):
            raise Failed([Problem(kind, f"{subject.name}: {what}, the gradient of {subject.names[i]} must be {b.tolist()}; got {a.tolist()}", "right when alone, wrong in this graph")])


def _contexts(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
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
    _agree(subject, "over two calls and two backwards", [torch.zeros_like(w.data) if w.grad is None else w.grad for w in wanted], [4 * c for c in claimed], checked, size)
    if g._version != version:
        raise Failed([Problem("mutated", f"{subject.name}: a rule wrote into the cotangent of a shared graph", "a rule must never write into what it is given")])


def _constants(subject: Subject, claimed: list[Tensor], g: Tensor, size: float) -> None:
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


def _repeated(subject: Subject, g: Tensor, size: float) -> None:
    """The same Variable as two operands gets the sum of their gradients."""
    checked, values = subject.checked, subject.values
    pairs = [(i, j) for i in checked for j in checked if i < j and values[i].shape == values[j].shape]
    for i, j in pairs[:2]:
        for x in (values[i], values[j]):
            twice = list(values)
            twice[i] = twice[j] = x
            low, high = zip(*((d.low, d.high) if isinstance(d, Interval) else (-math.inf, math.inf) for d in (subject.domains[i], subject.domains[j])))
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
            _agree(subject, f"with one Variable as both {subject.names[i]} and {subject.names[j]}", [got], [apart[0] + apart[1]], [i], size, "repeated")
            break


# --------------------------------------------------------------------------------------------- NaN, infinity and precision


def _poison(subject: Subject, known: Known, g: Tensor) -> None:
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
                raise Failed([Problem("hidden", f"{subject.name}: {bad} in the cotangent does not reach the gradient of {subject.names[i]}{list(_unravel(k, subject.values[i].shape))}, whose slope is {float(low[row]):.6g}", "the rule hides NaN or infinity, or ignores its cotangent there")])


def _narrow(subject: Subject, g: Tensor, known: Known) -> None:
    """In float32, and with one operand in float32, each gradient has its own operand's dtype, and about the right value."""
    for which in ([subject.checked] if len(subject.checked) < 2 else [subject.checked, subject.checked[:1]]):
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
                raise Failed([Problem("float32", f"{subject.name}: in float32 the gradient of {subject.names[i]} is {grad.tolist()}; in float64, at the same point, {exact[k].tolist()}", "wrong in float32 only")])


# ----------------------------------------------------------------------------------------------------------- second order


def _second_order(subject: Subject, claimed: list[Tensor], g: Tensor, known: Known) -> None:
    """The gradients as functions of operands and cotangent, checked by the same means."""
    checked = subject.checked
    if not sum(c.numel() for c in claimed):
        return
    leaves = [*subject.leaves(subject.values, checked), Variable(g, requires_grad=True)]
    wanted = [leaves[i] for i in (*checked, -1)]
    first = gradients(subject.call(leaves[:-1]), wanted[:-1], leaves[-1], create_graph=True, allow_unused=True)
    for i, one, plain in zip(checked, first, claimed):
        if one is None or tuple(one.shape) != tuple(plain.shape) or not near(one.data, plain, 1e-12, known.size) or not same(one.data.isfinite(), plain.isfinite()):
            raise Failed([Problem("context", f"{subject.name}: with create_graph the gradient of {subject.names[i]} must be {plain.tolist()}; got {one}", "the rule treats Variables otherwise than tensors")])
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
    wrong = _disagreements(subject.report, flat, values, directions, reach, slopes_, weight, dict(zip((*checked, len(values) - 1), second)), known.size, True, bool((g == 0).any()))
    if wrong:
        row, got, low, _, tolerance = wrong[0]
        coarse = abs(got - low) < 1e-5 * abs(low)
        names = (*subject.names, "the cotangent")
        moved = " and ".join(names[i] for i, d in enumerate(directions[row]) if d is not None)
        raise Failed([Problem("second order", f"{subject.name}: along {moved}, the gradient's own derivative is {got:.12g}; differences of gradients give {low:.12g} (within {tolerance:.2g})", "right to some digits only: somewhere it is computed in float32" if coarse else "second order only: the first order is right, so the rule computes with plain numbers what should be recorded (detach, .data, item)")])
