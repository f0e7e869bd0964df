"""The check of any function of Variables, of Modules, and of random programs."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.domains import Interval
from hotgrad.core.modes import no_grad
from hotgrad.core.variable import Parameter, Variable
from hotgrad.errors import DtypeError, OperandError
from hotgrad.ops import cat, reshape
from hotgrad.testing.check import explore, failure
from hotgrad.testing.examine import examine
from hotgrad.testing.programs import code_of, programs_with_inputs
from hotgrad.testing.report import Problem, Report, tensor_code
from hotgrad.testing.subject import Subject, pattern


def check_gradients(f: Callable[..., Any], *inputs: Any, order: int = 1, seed: int | None = None) -> Report:
    """Check the gradients of `f`, a function of Variables or a Module, at `inputs`; those of a Module's parameters too.

    Inputs are tensors (checked where floating) or Variables (checked if they require a gradient, else constants). `f` returns a
    Variable, or several in a tuple or list, of any shape; it must give the same result whenever it is called. Everything is
    computed in float64, a Module on a copy of itself. `order`: 2 for second derivatives as well. `seed` changes the cotangents.

    Raises GradientError, which says what is wrong and where, also where no gradient could be compared with differences.

    >>> check_gradients(lambda a, b: (a @ b).tanh().sum(), torch.ones(2, 3), torch.ones(3)).compared
    26
    """
    started = time.perf_counter()
    if not callable(f):
        raise OperandError(
            f"check_gradients takes a function of Variables, or a Module, and then its inputs; got {f!r:.60} as the function"
        )
    name = getattr(f, "__name__", type(f).__name__)
    if not callable(f):
        raise OperandError(f"check_gradients takes a function of Variables, or a Module, and its inputs; got {f!r:.60} as the function")
    report = Report(name, orders=order)
    values, checked, names = _inputs(inputs)
    held: list[Parameter] = []
    module: Any = f
    if hasattr(f, "named_parameters"):
        with no_grad():
            f(*(Variable(v.float() if v.dtype.is_floating_point else v) for v in values)) if _lazy(f) else None
        f = module = copy.deepcopy(module).to(torch.float64)
        for at, parameter in module.named_parameters():
            held.append(parameter)
            if parameter.requires_grad:
                checked.append(len(values))
            names.append(at)
            values.append(parameter.data.clone())
    if not checked:
        raise OperandError(f"{name}: nothing to check: no input is a floating tensor or a Variable that requires a gradient")
    subject = _Function(
        name,
        _flattened(f, name, len(values) - len(held)),
        tuple(values),
        tuple(checked),
        tuple(names),
        (Interval(),) * len(values),
        report,
        False,
    )
    subject.held = held
    first, again = subject.plain(values), subject.plain(values)
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise failure(
            [Problem("random", f"{name}: two calls with the same inputs give different results; call eval(), or fix its random numbers")],
            "",
        )
    for attempt in range(2):
        g = pattern(first.shape, 2 * (seed or 0) + attempt)
        if attempt and g.numel() > 2:
            g.reshape(-1)[::3] = 0.0
        problems = examine(subject, g, order)
        report.examples += 1
        if problems:
            made = [f"{n} = {tensor_code(v)}" for n, v in zip(names, values[: len(values) - len(held)]) if v.numel() <= 50]
            raise failure(problems, "\n".join(made), title="the inputs:")
    if not subject.compared and any(values[i].numel() for i in checked):
        raise failure([Problem("unresolved", f"{name}: none of the gradients could be compared: {_why_nothing(subject, first)}")], "")
    report.seconds = time.perf_counter() - started
    return report


def _why_nothing(subject: Subject, result: Tensor) -> str:
    """Why differences told nothing."""
    for what, value in [*((subject.names[i], subject.values[i]) for i in subject.checked), ("the result", result)]:
        bad = int((~value.isfinite()).sum())
        if bad:
            return f"{bad} of the {value.numel()} elements of {what} are NaN or infinite; give inputs where all is finite"
    return (
        f"no difference is resolved in float64; the results are of up to {float(result.abs().max()):.3g}. "
        "Give inputs where they vary by more than rounding, with all that is added up of about one size"
    )


def _inputs(inputs: Sequence[Any]) -> tuple[list[Tensor], list[int], list[str]]:
    """The tensors in float64, which of them are checked, and what they are called."""
    values, checked, names = [], [], []
    for i, x in enumerate(inputs):
        data = x.data if isinstance(x, Variable) else x
        if not isinstance(data, Tensor):
            raise OperandError(f"input {i} must be a tensor or a Variable; got {type(x).__name__}. Close over anything else in a lambda")
        if data.dtype.is_complex:
            raise DtypeError(f"input {i} is complex, which is not supported")
        floating = data.dtype.is_floating_point
        values.append(data.detach().double() if floating and data.dtype is not torch.float64 else data.detach())
        if floating and (not isinstance(x, Variable) or x.requires_grad):
            checked.append(i)
        names.append((x.name if isinstance(x, Variable) else None) or f"input {i}")
    return values, checked, names


def _lazy(f: Any) -> bool:
    """Whether some parameter has no size yet."""
    for _, parameter in f.named_parameters():
        try:
            parameter.data  # noqa: B018  reading is the test
        except Exception:
            return True
    return False


def _flattened(f: Callable[..., Any], name: str, arguments: int) -> Callable[[Sequence[Any]], Any]:
    """`f` with one result: all of its results in one row."""

    def call(values: Sequence[Any]) -> Any:
        out = f(*(v if isinstance(v, Variable) else Variable(v) for v in values[:arguments]))
        several = out if isinstance(out, (tuple, list)) else (out,)
        for item in several:
            if not isinstance(item, Variable):
                raise OperandError(f"{name} must return Variables; got {type(item).__name__}, which carries no gradient")
        return out if several is not out else cat([reshape(item, (-1,)) for item in several])

    return call


class _Function(Subject):
    """A function at a point; the last of `values` are those of the Parameters it holds, which stay where they are."""

    held: list[Parameter]

    def _place(self, values: Sequence[Any]) -> list[Any]:
        own = len(values) - len(self.held)
        for parameter, value in zip(self.held, values[own:]):
            if isinstance(value, Tensor):
                parameter.data = value
        return list(values[:own])

    def plain(self, values: Sequence[Any]) -> Tensor:
        """The result as a plain tensor."""
        return super().plain([*self._place(values), *self.held])

    def leaves(self, values: Sequence[Any], wanted: Sequence[int]) -> list[Any]:
        """The operands, those of `wanted` as Variables that require gradients, Parameters as themselves."""
        own = super().leaves(self._place(values), wanted)
        for parameter in self.held:
            parameter.grad = None
        return [*own, *self.held]


def check_programs(max_examples: int = 25, seed: int | None = None, shrink: bool = True) -> Report:
    """Check the engine on random programs: every gradient of each, and what its backward leaves behind.

    Raises GradientError with the shortest failing program found.
    """
    started = time.perf_counter()
    report = Report("programs", orders=1)

    def run(drawn: Any) -> None:
        program, inputs = drawn
        with no_grad():
            value = program(*inputs)
        if not value.isfinite().all() or (value.numel() and float(value.abs().max()) > 1e6):
            return
        every = tuple(range(len(inputs)))
        names = tuple(f"x{i}" for i in every)
        subject = Subject("program", lambda xs: program(*xs), inputs, every, names, (Interval(),) * len(inputs), report, False)
        problems = examine(subject, pattern(value.shape, 1), 1)
        if problems:
            size = sum(x.numel() for x in inputs)
            raise failure(problems, code_of(program, inputs, tensor_code), size, len(program.steps))

    report.examples = explore(programs_with_inputs(), run, max_examples, seed, shrink)
    report.seconds = time.perf_counter() - started
    return report
