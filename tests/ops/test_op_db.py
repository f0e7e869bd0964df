"""torch's own samples of its own functions: what dispatches gives torch's values, gradients and second derivatives, or stands in a list.

By default a share of the functions on a few samples; with --thorough all on all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import hotgrad as hg
from hotgrad import Variable
from hotgrad.core.methods import FUNCTIONS

# What dispatches and differs in some samples, and in what.
DIFFERENT = {
    "atleast_1d": "several tensors at once are not taken",
    "atleast_2d": "several tensors at once are not taken",
    "atleast_3d": "several tensors at once are not taken",
    "cov": "rounds otherwise where the weights less the correction are nearly 0",
    "linalg.eigh": "of matrices that are not symmetric the symmetric part counts, not one half",
    "linalg.eigvalsh": "of matrices that are not symmetric the symmetric part counts, not one half",
    "linalg.lstsq": "gives the solution alone",
    "linalg.norm.subgradients_at_zero": "torch's second derivative is NaN where ours is 0",
    "linalg.pinv.hermitian": "there is no option hermitian",
    "linalg.qr": "has a gradient for as many rows as columns or more",
    "linalg.svd": "has no full matrices but of square ones",
    "nanquantile": "q is no Variable",
    "nn.functional.avg_pool1d": "takes no ceil_mode",
    "nn.functional.avg_pool2d": "takes no ceil_mode",
    "nn.functional.batch_norm": "torch's second derivative fails where the running statistics moved",
    "nn.functional.conv1d": "wants a batch",
    "nn.functional.conv2d": "wants a batch",
    "nn.functional.max_pool1d": "takes no ceil_mode and tells no positions",
    "nn.functional.max_pool2d": "takes no ceil_mode and tells no positions",
    "nn.functional.nll_loss": "takes no weight, and labels of one axis",
    "nn.functional.pad.circular": "pads with constants alone",
    "nn.functional.pad.reflect": "pads with constants alone",
    "nn.functional.pad.replicate": "pads with constants alone",
    "nn.functional.pad.replicate_negative": "pads with constants alone",
    "nn.functional.unfold": "another function of the same name",
    "norm.nuc": "is linalg.matrix_norm's",
    "qr": "has a gradient for as many rows as columns or more",
    "quantile": "q is no Variable",
    "tensor_split": "the positions are no tensor",
}


@cache
def entries() -> dict[str, Any]:
    """The functions by name that torch differentiates in float64 and that a Variable's dispatch may take."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    found = {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in op_db if torch.float64 in op.dtypes and op.supports_autograd}
    return {name: op for name, op in found.items() if dispatches(name, op)}


def dispatches(name: str, op: Any) -> bool:
    function = getattr(op.op, "__name__", "")
    return function in FUNCTIONS and not name.startswith(("_refs", "masked."))


def flat(value: Any, kind: Any) -> list[Any]:
    """All of a kind in nested sequences."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [x for item in value for x in flat(item, kind)] if isinstance(value, (tuple, list)) else []


def ours(value: Any) -> Any:
    """Variables in place of the tensors that require a gradient."""
    if isinstance(value, Tensor):
        return Variable(value.detach().clone(), requires_grad=True) if value.requires_grad else value
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(map(ours, value))
    return value


def usable(sample: Any) -> bool:
    tensors = flat((sample.input, sample.args, sample.kwargs), Tensor)
    return not any(t.is_complex() or t.layout is not torch.strided for t in tensors)


def data_of(value: Any, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if value is None else value.data if isinstance(value, Variable) else value.detach()


def compare(op: Any, sample: Any) -> None:
    """Value, gradient and second derivative of one sample. torch's own refusals are no samples."""
    given = (sample.input, *sample.args)
    try:
        theirs = op.op(*given, **sample.kwargs)
    except Exception:
        return
    arguments, options = ours(given), {name: ours(value) for name, value in sample.kwargs.items()}
    result = op.op(*arguments, **options)
    right, got = flat(theirs, Tensor), flat(result, (Tensor, Variable))
    assert len(right) == len(got), "another number of results"
    for r, g in zip(right, got):
        torch.testing.assert_close(data_of(g, r), r.detach(), rtol=1e-7, atol=1e-9, equal_nan=True)
    leaves = [t for t in flat((given, sample.kwargs), Tensor) if t.requires_grad]
    variables = flat((arguments, options), Variable)
    pairs = [(r, g) for r, g in zip(right, got) if r.requires_grad]
    if not pairs:
        return
    weights = [torch.randn_like(r.detach()) for r, _ in pairs]
    total = sum((r * w).sum() for (r, _), w in zip(pairs, weights))
    total_here = sum(((g * w).sum() for (_, g), w in zip(pairs, weights)), Variable(0.0, requires_grad=True))
    first = torch.autograd.grad(total, leaves, create_graph=op.supports_gradgrad, allow_unused=True)
    first_here = hg.gradients(total_here, variables, create_graph=True, allow_unused=True)
    for r, g, leaf in zip(first, first_here, leaves):
        torch.testing.assert_close(data_of(g, leaf), data_of(r, leaf), rtol=1e-6, atol=1e-8, equal_nan=True)
    again = [(r, g) for r, g in zip(first, first_here) if r is not None and r.requires_grad]
    if not op.supports_gradgrad or not again:
        return
    weights = [torch.randn_like(r.detach()) for r, _ in again]
    second = torch.autograd.grad(sum((r * w).sum() for (r, _), w in zip(again, weights)), leaves, allow_unused=True)
    here = sum(((g * w).sum() for (_, g), w in zip(again, weights) if isinstance(g, Variable)), Variable(0.0, requires_grad=True))
    for r, g, leaf in zip(second, hg.gradients(here, variables, allow_unused=True), leaves):
        torch.testing.assert_close(data_of(g, leaf), data_of(r, leaf), rtol=1e-5, atol=1e-7, equal_nan=True)


def samples(op: Any) -> Iterator[Any]:
    torch.manual_seed(0)
    return filter(usable, op.sample_inputs("cpu", torch.float64, requires_grad=True))


def agrees(op: Any, most: int) -> str:
    """ "" or what is wrong with the first sample that differs."""
    for number, sample in enumerate(samples(op)):
        if number == most:
            break
        try:
            compare(op, sample)
        except Exception as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


@pytest.mark.filterwarnings("ignore")
def test_torchs_samples(count: Callable[[int, int], int], capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(entries())
    tried = names[:: count(8, 1)]
    wrong = {name: what for name in tried if name not in DIFFERENT and (what := agrees(entries()[name], count(5, 10**6)))}
    assert not wrong, wrong
    with capsys.disabled():
        passed = len(names) - len(DIFFERENT.keys() & set(names))
        print(
            f"\n{len(names)} entries of torch's op_db dispatch; {len(DIFFERENT.keys() & set(names))} differ in some sample; tried {len(tried)}"
        )
    assert passed >= 180


@pytest.mark.filterwarnings("ignore")
def test_what_differs_still_does(count: Callable[[int, int], int]) -> None:
    """Entries that are mended leave the list."""
    if count(0, 1):
        assert {name for name in DIFFERENT if not agrees(entries()[name], 10**6)} == set()
    assert set(DIFFERENT) <= set(entries())
