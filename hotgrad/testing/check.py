"""The checks people call: of a primitive, of all of them, and of any function of Variables."""

from __future__ import annotations

import dataclasses
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from torch import Tensor

from hotgrad.checks import nearest
from hotgrad.core.primitive import Primitive, primitives
from hotgrad.core.variable import Variable
from hotgrad.errors import HotgradError, OperandError
from hotgrad.testing import conventions, natives
from hotgrad.testing.examine import examine
from hotgrad.testing.report import GradientError, Problem, Report, option_code, tensor_code
from hotgrad.testing.strategies import domain_of, laid_out, operands
from hotgrad.testing.subject import Subject, same

_REFUSALS = (HotgradError, ValueError, RuntimeError, IndexError, TypeError, ZeroDivisionError)
_SEED = st.sampled_from([1.0, 0.0, -1.0, 0.0, *(k / 10 for k in range(-19, 20) if k)])  # of the cotangent
_LAYOUT = st.sampled_from([0, 0, 1, 1, 2, 4])


def check_op(
    op: type[Primitive] | str,
    order: int = 2,
    max_examples: int = 25,
    seed: int | None = None,
    *,
    oracle: Callable[..., Tensor] | None = None,
    native: bool = False,
    shrink: bool = True,
) -> Report:
    """Check the gradient rules of a primitive, given as the class or by name, on drawn operands, options and cotangents.

    `order`: 1, or 2 for first and second derivatives. `max_examples`: how many draws. `seed`: None draws the same examples every
    time. `oracle`: a torch function that takes the same operands and options; values and gradients must then agree with torch's.
    `native`: compare its native form with `forward` too, in float64 and float32, on what was drawn, special values, NaN and
    infinities (needs a C compiler). `shrink`: look for the smallest failing example (takes longer).

    Raises GradientError, which says what is wrong, for which operand and element, with the input as code to paste; OperandError for
    what is no primitive, or has no native form to check; EngineError without a C compiler.

    >>> class Cube(hg.Primitive, register=False):
    ...     '''The third power of each element.'''
    ...     forward = staticmethod(lambda a: a * a * a)
    ...     vjps = (lambda g, out, a: 3 * g * a,)
    >>> check_op(Cube)
    Traceback (most recent call last):
    ...
    hotgrad.testing.report.GradientError: Cube: the gradient of a is ...
    """
    started = time.perf_counter()
    op = resolved(op)
    if native:
        natives.require(op)
    report = Report(op.name, orders=order if op.differentiable else 0)
    run = _Run(op, order, report, oracle)
    problems = conventions.check(op)
    if problems:
        raise failure(problems, "")

    @st.composite
    def drawn(draw: Any) -> tuple[tuple[Tensor, ...], dict[str, Any], Tensor]:
        values, options = draw(operands(op))
        try:
            shape = op.forward(*values, **options).shape
        except _REFUSALS:
            report.refused += 1
            hypothesis.reject()
        n = shape.numel()
        seeds = draw(st.lists(_SEED, min_size=n, max_size=n))
        return values, options, laid_out(torch.tensor(seeds, dtype=torch.float64).reshape(shape), draw(_LAYOUT))

    report.examples = explore(drawn(), run, max_examples, seed, shrink)
    if report.refused > 8 * max(report.examples, 1):
        raise failure(
            [
                Problem(
                    "refused",
                    f"{op.name}: forward refused {report.refused} draws and took {report.examples}; make `domain`, `options` or `operands()` say what it takes",
                )
            ],
            "",
        )
    if native:
        problems = natives.compare(op, run.drawn, report)
        if problems:
            raise failure(problems, "")
    report.seconds = time.perf_counter() - started
    return report


def resolved(op: Any) -> type[Primitive]:
    """The primitive that is meant: the class itself, or its name in the registry. Raises OperandError."""
    known = primitives()
    if isinstance(op, str):
        if op not in known:
            raise OperandError(f"no primitive is named {op!r}{nearest(op, known) or '.'} There are {', '.join(known)}")
        return known[op]
    if isinstance(op, type) and issubclass(op, Primitive) and hasattr(op, "rules"):
        return op
    name = getattr(op, "__name__", type(op).__name__)
    same = [p for p in known.values() if name in (p.name, p.function) or isinstance(op, p) or op == p.apply]
    here = f"; for the op {same[0].name} give check_op({same[0].name!r})" if same else ""
    raise OperandError(
        f"check_op takes a Primitive class or its name; got {op!r:.80}{here}. "
        "The gradients of any function of Variables, or of a Module, are checked by check_gradients(f, *inputs)"
    )


class _Run:
    """One example of a primitive: called with what was drawn, it raises GradientError."""

    def __init__(self, op: type[Primitive], order: int, report: Report, oracle: Callable[..., Tensor] | None) -> None:
        self.op, self.order, self.report, self.oracle = op, order, report, oracle
        self.drawn: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = []

    def __call__(self, drawn: tuple[tuple[Tensor, ...], dict[str, Any], Tensor]) -> None:
        values, options, g = drawn
        self.drawn.append((values, options))
        problems = self.problems(values, options, g)
        if problems:
            raise failure(problems, self.code(values, options, g), sum(v.numel() for v in values))

    def problems(self, values: tuple[Tensor, ...], options: dict[str, Any], g: Tensor) -> list[Problem]:
        op = self.op
        names = op.operand_names if op.arity is not None else tuple(f"{op.operand_names[0]}[{i}]" for i in range(len(values)))
        ruled = [op.rules[i] is not None if op.arity is not None else True for i in range(len(values))]
        checked = tuple(i for i, v in enumerate(values) if ruled[i] and v.dtype.is_floating_point)
        domains = tuple(domain_of(op, i) for i in range(len(values)))
        subject = Subject(op.name, lambda xs: op.apply(*xs, **options), values, checked, names, domains, self.report)
        try:
            value = _value_problems(subject, op, options)
        except Exception as error:
            return [Problem("raised", f"{op.name}: the call raised {type(error).__name__}: {error}")]
        if value or not checked or op.plain or not op.differentiable:
            return value or (conventions.compare(self.oracle, subject, options, None) if self.oracle else [])
        if g.dtype != (out := op.forward(*values, **options)).dtype:
            if not out.dtype.is_floating_point:
                return []
            g = g.to(out.dtype)
        found = examine(subject, g, self.order)
        if found and "`reads`" not in found[0].text:
            found[0].diagnosis = _unread(subject, op, options, g) or found[0].diagnosis
        if not found and self.oracle:
            found = conventions.compare(self.oracle, subject, options, g)
        if not found and op.stable:
            found = conventions.probe_overflow(subject, g)
        return found

    def code(self, values: Sequence[Tensor], options: dict[str, Any], g: Tensor) -> str:
        op = self.op
        names = [f"x{i}" for i in range(len(values))] if op.arity is None else list(op.operand_names)
        lines = [
            f"{name} = hg.Variable({tensor_code(v)}, requires_grad=True)" if v.dtype.is_floating_point else f"{name} = {tensor_code(v)}"
            for name, v in zip(names, values)
        ]
        given = "".join(f", {name}={option_code(value)}" for name, value in options.items())
        lines.append(f"{op.name}.apply({', '.join(names)}{given}).backward({tensor_code(g)})")
        return "\n".join(lines)


def _unread(subject: Subject, op: type[Primitive], options: dict[str, Any], g: Tensor) -> str:
    """What to say if the gradients would be others, did the rules get all that they can read; else nothing."""
    everything = " ".join((*op.operand_names, "out"))
    if set(op.reads) == {everything}:
        return ""
    whole = types.new_class(op.__name__, (op,), {"register": False}, lambda body: body.update(reads=everything))
    found: list[Any] = []
    for one in (op, whole):
        call = lambda xs, one=one: one.apply(*xs, **options)  # noqa: E731
        try:
            found.append(dataclasses.replace(subject, call=call).pull(subject.values, g))
        except Exception:
            found.append(None)
    mine, others = found
    if others is None or (mine is not None and all(map(same, mine, others))):
        return ""
    return f"a rule reads what its entry in `reads`, now {', '.join(map(repr, op.reads))}, does not name"


def _value_problems(subject: Subject, op: type[Primitive], options: dict[str, Any]) -> list[Problem]:
    """The value must not depend on the layout in memory, and recording must not change it."""
    raw = op.forward(*subject.values, **options)
    packed = op.forward(*(v.clone(memory_format=torch.contiguous_format) for v in subject.values), **options)
    out = subject.call(subject.leaves(subject.values, subject.checked))
    data = out.data if isinstance(out, Variable) else out
    for what, other in (("recorded", data), ("on contiguous copies", packed)):
        if other.shape != raw.shape or other.dtype != raw.dtype or not torch.allclose(other, raw, rtol=1e-12, atol=1e-12, equal_nan=True):
            return [Problem("value", f"{op.name}: the result {what} is {other.tolist()}; on these tensors, plain, it is {raw.tolist()}")]
    return []


def explore(drawn: Any, run: Callable[[Any], None], max_examples: int, seed: int | None, shrink: bool) -> int:
    """Let hypothesis draw `max_examples` different examples, and shrink one that fails. Returns how many there were.

    In rounds of ten: from then on it would try variations of earlier examples, of which we have no use.
    """
    found: list[GradientError] = []
    seen: set[str] = set()

    def test(example: Any) -> None:
        if not found:
            key = repr(example)
            if key in seen or len(seen) >= max_examples:
                return
            seen.add(key)
        try:
            run(example)
        except GradientError as error:
            if found and error.kind != found[0].kind:
                return  # shrinking must not slip from one mistake to another
            found.append(error)
            raise

    settings = hypothesis.settings(
        max_examples=10,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    rounds = 0
    while len(seen) < max_examples and rounds < 2 + max_examples // 3:
        rounds += 1
        wrapped: Callable[[], None] = hypothesis.seed(rounds + 1_000_000 * (seed or 0))(settings(hypothesis.given(drawn)(test)))  # type: ignore[no-untyped-call]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, on degenerate draws
                wrapped()
        except GradientError as error:
            raise error.with_traceback(None) from None
        except Flaky:
            if found:
                raise found[-1] from None
            raise
        except Unsatisfiable:  # every draw was refused, which the caller reports
            break
    return len(seen)


def failure(
    problems: Sequence[Problem], code: str, elements: int = 0, calls: int = 1, title: str = "the smallest input found:"
) -> GradientError:
    """The error that tells all of `problems`, with the input as code under `title`."""
    lines: list[str] = []
    for problem in problems:
        lines.append(problem.text)
        if problem.diagnosis and not any(problem.diagnosis in line for line in lines[:-1]):
            lines.append(f"  likely: {problem.diagnosis}")
    if code:
        lines += [title, *(f"  {line}" for line in code.splitlines())]
    return GradientError("\n".join(lines), problems, elements, calls)


def check_all(
    names: Iterable[str] | None = None,
    order: int = 2,
    max_examples: int = 25,
    seed: int | None = None,
    *,
    oracle: bool = False,
    native: bool = False,
) -> list[Report]:
    """Check every registered primitive, or those named. `oracle`: compare with torch's functions too, where there is one.
    `native`: compare native forms with `forward` too, where there is one.

    Raises one GradientError for all that was found wrong, and OperandError for a name that nothing has.

    >>> [report.name for report in check_all(["Mul", "Exp"], max_examples=5)]
    ['Mul', 'Exp']
    """
    reports = list(each(names, order, max_examples, seed, oracle=oracle, native=native))
    problems = [problem for report in reports for problem in report.problems]
    if problems:
        raise GradientError("\n".join(report.message for report in reports if report.problems), problems)
    return reports


def each(
    names: Iterable[str] | None = None,
    order: int = 2,
    max_examples: int = 25,
    seed: int | None = None,
    *,
    oracle: bool = False,
    native: bool = False,
) -> Iterator[Report]:
    """The reports of `check_all`, one after the other; a failed one holds its problems."""
    for name, op in [(name, resolved(name)) for name in (primitives() if names is None else names)]:
        started = time.perf_counter()
        try:
            yield check_op(
                op, order, max_examples, seed, oracle=conventions.oracle_of(op) if oracle else None, native=native and bool(op.native)
            )
        except GradientError as error:
            seconds = time.perf_counter() - started
            yield Report(name, orders=order, seconds=seconds, problems=list(error.problems), message=str(error))
