"""What a check found: problems, the error that carries them, a diagnosis, and the input as code to paste."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hotgrad.errors import HotgradError


class GradientError(HotgradError, AssertionError):
    """What a check found wrong; `problems` lists it piece by piece, `kind` says what the first is about; `elements` and `calls`
    how large the smallest failing input and program are.
    """

    def __init__(self, message: str, problems: Sequence[Problem] = (), elements: int = 0, calls: int = 1) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.elements, self.calls = elements, calls

    @property
    def kind(self) -> str:
        return self.problems[0].kind if self.problems else ""


@dataclass
class Problem:
    """One thing that is wrong. `kind` is a short name such as "gradient", `text` the sentence for people."""

    kind: str
    text: str
    diagnosis: str = ""


@dataclass
class Report:
    """What a check did when it found nothing wrong."""

    name: str
    examples: int = 0
    refused: int = 0
    compared: int = 0  # slopes compared
    unresolved: int = 0  # slopes that no difference could tell
    worst: float = 0.0  # largest disagreement with a resolved slope, relative to it or to 1
    orders: int = 1
    native: int = 0  # calls whose native results were compared
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    message: str = ""  # of the GradientError, where there are problems


# ---------------------------------------------------------------------------------------------------------------- as code


def number(x: Any) -> str:
    """A number as Python source."""
    if isinstance(x, float) and not math.isfinite(x):
        return "torch.nan" if math.isnan(x) else "torch.inf" if x > 0 else "-torch.inf"
    return repr(x)


def _nested(x: Any) -> str:
    return "[" + ", ".join(map(_nested, x)) + "]" if isinstance(x, list) else number(x)


def tensor_code(t: Tensor) -> str:
    """A tensor, its layout in memory included, as Python source."""
    kind = (
        f", dtype={t.dtype}"
        if t.dtype is not torch.get_default_dtype() and (not t.numel() or t.dtype not in (torch.bool, torch.int64))
        else ""
    )
    if not t.numel():
        return f"torch.zeros({tuple(t.shape)}{kind})"
    if t.is_contiguous() and t.storage_offset() == 0:
        return f"torch.tensor({_nested(t.tolist())}{kind})"
    if t.ndim and t.stride(0) == 0 and t[:1].is_contiguous():
        return f"torch.tensor({_nested(t[:1].tolist())}{kind}).expand{tuple(t.shape)}"
    if t.ndim > 1 and t.mT.is_contiguous() and t.storage_offset() == 0:
        return f"torch.tensor({_nested(t.mT.tolist())}{kind}).mT"
    whole = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
    return f"torch.tensor({_nested(whole.tolist())}{kind}).as_strided({tuple(t.shape)}, {t.stride()}, {t.storage_offset()})"


def option_code(value: Any) -> str:
    if isinstance(value, Tensor):
        return tensor_code(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(map(option_code, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, float):
        return number(value)
    return "..." if value is Ellipsis else repr(value)


# -------------------------------------------------------------------------------------------------------------- diagnosis


def _like(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance * 1e-3))


def diagnose(claimed: Tensor, wanted: Tensor, others: Sequence[Tensor], ignoring: Tensor | None, counts: Sequence[int]) -> str:
    """What kind of mistake makes `claimed` of `wanted`, in words; "" if none fits.

    `others`: the right gradients of the other operands. `ignoring`: the right gradient for a cotangent of ones.
    `counts`: sizes by which a rule may have divided or multiplied.
    """
    if not claimed.numel() or not bool(wanted.isfinite().all()):
        return ""
    if not bool(claimed.isfinite().all()):
        return "the rule gives NaN or infinity where the gradient is finite: it divides by zero, or multiplies 0 by infinity where it should select"
    if not bool(claimed.any()):
        return "the rule gives zero: the operand's contribution is lost"
    if _like(claimed, -wanted):
        return "the sign is wrong"
    if _like(claimed, wanted, 1e-6):
        return "right to about 7 digits only: somewhere it is computed in float32, or an approximation is used"
    for other in others:
        if _like(claimed, other):
            return "this is the other operand's gradient: the rules are swapped"
    if ignoring is not None and _like(claimed, ignoring) and not _like(ignoring, wanted):
        return "this is the gradient for a cotangent of ones: the rule ignores its cotangent `g`"
    if claimed.ndim > 1 and claimed.shape[-1] == claimed.shape[-2] and _like(claimed, wanted.mT):
        return "transposed"
    factor = _factor(claimed, wanted)
    if factor is not None:
        for n in sorted({n for n in counts if n > 1}):
            for name, value in ((f"1/{n}", 1 / n), (f"{n}", n), (f"{n - 1}/{n}", (n - 1) / n), (f"{n}/{n - 1}", n / (n - 1))):
                if abs(factor - value) < 1e-6 * value and value != 1:
                    return (
                        f"a constant factor of {name}: divided by the wrong count, or a broadcast (or a reduction) is not undone by a sum"
                    )
        return f"a constant factor of {factor:.6g}"
    wrong = (claimed - wanted).abs() > 1e-6 * (1 + wanted.abs())
    if (
        wanted.numel() > 1
        and bool(_like(claimed.sum(), wanted.sum()))
        and _like(claimed.flatten().sort().values, wanted.flatten().sort().values)
    ):
        return "the right numbers in wrong places: permuted, flipped or shifted"
    if claimed.numel() > 2 and int(wrong.sum()) == 1:
        return "one element only is wrong"
    return ""


def _factor(claimed: Tensor, wanted: Tensor) -> float | None:
    """k if `claimed` is k times `wanted`."""
    norm = float((wanted * wanted).sum())
    if not norm:
        return None
    k = float((claimed * wanted).sum()) / norm
    return k if _like(claimed, k * wanted, 1e-7) and abs(k - 1) > 1e-7 else None
