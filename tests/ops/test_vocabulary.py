"""What is composed of primitives: the same values and gradients on every engine. (Against torch it is compared on torch's own samples.)"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import Variable, ops

L, G = torch.tensor([[2, 0, 1, 2], [0, 0, 2, 1], [1, 2, 0, 0]]), torch.tensor([1, 0, 1])
FIRST, ROW = L[:, :1], L[:1]
MASK = torch.tensor([True, False, True, True])

# Of a and b (3, 4), p (3, 4) in (0, 1), s (3, 3), v (4,): one line for each, several results as a tuple.
CASES: dict[str, Callable[..., Any]] = {
    "celu": lambda a, b, p, s, v: hg.celu(a, 0.7), "elu": lambda a, b, p, s, v: hg.elu(a, 1.5),
    "gelu": lambda a, b, p, s, v: (hg.gelu(a), hg.gelu(a, "tanh")), "glu": lambda a, b, p, s, v: hg.glu(a), "hardshrink": lambda a, b, p, s, v: hg.hardshrink(a, 0.3),
    "hardsigmoid": lambda a, b, p, s, v: hg.hardsigmoid(a), "hardswish": lambda a, b, p, s, v: hg.hardswish(a), "hardtanh": lambda a, b, p, s, v: hg.hardtanh(a, -0.5, 0.7),
    "leaky_relu": lambda a, b, p, s, v: hg.leaky_relu(a, 0.1), "logit": lambda a, b, p, s, v: (hg.logit(p), hg.logit(p, 0.3)), "logsigmoid": lambda a, b, p, s, v: hg.logsigmoid(a),
    "mish": lambda a, b, p, s, v: hg.mish(a), "prelu": lambda a, b, p, s, v: hg.prelu(a, v), "relu6": lambda a, b, p, s, v: hg.relu6(a * 9), "selu": lambda a, b, p, s, v: hg.selu(a),
    "silu": lambda a, b, p, s, v: hg.silu(a), "softmin": lambda a, b, p, s, v: hg.softmin(a, 1), "softshrink": lambda a, b, p, s, v: hg.softshrink(a, 0.3),
    "softsign": lambda a, b, p, s, v: hg.softsign(a), "tanhshrink": lambda a, b, p, s, v: hg.tanhshrink(a), "threshold": lambda a, b, p, s, v: hg.threshold(a, 0.1, -2.0),
    "add": lambda a, b, p, s, v: a.add(b, alpha=2), "sub": lambda a, b, p, s, v: torch.sub(a, b, alpha=0.5), "div": lambda a, b, p, s, v: (a.div(p), torch.div(a, p, rounding_mode="floor") + a),
    "addcdiv": lambda a, b, p, s, v: a.addcdiv(b, p, value=0.5), "addcmul": lambda a, b, p, s, v: a.addcmul(b, v, value=2), "clip": lambda a, b, p, s, v: (a.clip(-0.5, None), a.clamp(-p, p)),
    "clamp": lambda a, b, p, s, v: torch.clamp(a, min=b), "clamp_min": lambda a, b, p, s, v: a.clamp_min(0.1), "clamp_max": lambda a, b, p, s, v: a.clamp_max(b),
    "deg2rad": lambda a, b, p, s, v: a.deg2rad(), "rad2deg": lambda a, b, p, s, v: a.rad2deg(), "fmax": lambda a, b, p, s, v: a.fmax(b), "fmin": lambda a, b, p, s, v: a.fmin(b),
    "frac": lambda a, b, p, s, v: (a * 3).frac(), "lerp": lambda a, b, p, s, v: a.lerp(b, p), "logaddexp2": lambda a, b, p, s, v: a.logaddexp2(b), "positive": lambda a, b, p, s, v: +a,
    "nan_to_num": lambda a, b, p, s, v: (a / (a > 0).to(a.dtype)).nan_to_num(1.0, 2.0, 3.0) * a, "rsub": lambda a, b, p, s, v: torch.rsub(a, 3.0), "sinc": lambda a, b, p, s, v: (a.sinc(), (a * 0.1).sinc()),
    "logical_and": lambda a, b, p, s, v: hg.where(torch.logical_and(a > 0, b > 0), a, b), "logical_or": lambda a, b, p, s, v: hg.where((a > 0) | (b > 0), a, b),
    "logical_not": lambda a, b, p, s, v: hg.where(~(a > 0), a, b), "logical_xor": lambda a, b, p, s, v: hg.where((a > 0) ^ (b > 0), a, b),
    "adjoint": lambda a, b, p, s, v: a.adjoint(), "atleast_1d": lambda a, b, p, s, v: hg.atleast_1d(a.sum()), "atleast_2d": lambda a, b, p, s, v: hg.atleast_2d(v),
    "atleast_3d": lambda a, b, p, s, v: hg.atleast_3d(a), "broadcast_tensors": lambda a, b, p, s, v: hg.broadcast_tensors(a, v), "broadcast_to": lambda a, b, p, s, v: v.broadcast_to((2, 4)),
    "chunk": lambda a, b, p, s, v: a.chunk(3, 1), "clone": lambda a, b, p, s, v: a.clone(), "column_stack": lambda a, b, p, s, v: hg.column_stack([a[:, 0], b]),
    "contiguous": lambda a, b, p, s, v: a.T.contiguous(), "diag": lambda a, b, p, s, v: (s.diag(1), v.diag(-1)), "diag_embed": lambda a, b, p, s, v: a.diag_embed(1),
    "diagonal": lambda a, b, p, s, v: (a.diagonal(1), a.diagonal(-1, 1, 0)), "dstack": lambda a, b, p, s, v: hg.dstack([a, b]), "expand_as": lambda a, b, p, s, v: v.expand_as(a),
    "fliplr": lambda a, b, p, s, v: a.fliplr(), "flipud": lambda a, b, p, s, v: a.flipud(), "hstack": lambda a, b, p, s, v: hg.hstack([a, b]), "meshgrid": lambda a, b, p, s, v: hg.meshgrid(v, a[:, 0], indexing="xy"),
    "movedim": lambda a, b, p, s, v: a.unsqueeze(0).movedim((0, 2), (2, 0)), "narrow": lambda a, b, p, s, v: a.narrow(1, 1, 2), "ravel": lambda a, b, p, s, v: a.ravel(),
    "repeat": lambda a, b, p, s, v: a.repeat(2, 1, 3), "repeat_interleave": lambda a, b, p, s, v: (a.repeat_interleave(2, 1), v.repeat_interleave(torch.tensor([1, 0, 2, 1]))),
    "reshape_as": lambda a, b, p, s, v: a.reshape_as(torch.zeros(2, 6)), "roll": lambda a, b, p, s, v: (a.roll(2), a.roll((1, -1), (0, 1))), "rot90": lambda a, b, p, s, v: (a.rot90(), a.rot90(3)),
    "select": lambda a, b, p, s, v: a.select(1, 2), "split": lambda a, b, p, s, v: (*a.split(3, 1), *a.split([1, 2])), "swapaxes": lambda a, b, p, s, v: a.swapaxes(0, 1), "t": lambda a, b, p, s, v: a.t(),
    "tensor_split": lambda a, b, p, s, v: a.tensor_split((1, 3), 1), "tile": lambda a, b, p, s, v: v.tile((2, 2)), "trace": lambda a, b, p, s, v: s.trace(), "tril": lambda a, b, p, s, v: (a.tril(), s.tril(-1)),
    "triu": lambda a, b, p, s, v: (a.triu(1), s.triu()), "unbind": lambda a, b, p, s, v: a.unbind(1), "unflatten": lambda a, b, p, s, v: a.unflatten(1, (2, -1)), "view": lambda a, b, p, s, v: a.view(2, -1),
    "view_as": lambda a, b, p, s, v: a.view_as(torch.zeros(6, 2)), "vstack": lambda a, b, p, s, v: hg.vstack([a, v]),
    "embedding": lambda a, b, p, s, v: hg.embedding(L, s, padding_idx=1), "gather": lambda a, b, p, s, v: a.gather(1, L), "getitem": lambda a, b, p, s, v: (a[G], a[:, G, None], a[G, G], a[..., 1:][G]),
    "index_add": lambda a, b, p, s, v: a.index_add(0, G, b, alpha=2), "index_copy": lambda a, b, p, s, v: a.index_copy(0, torch.tensor([2, 0]), b[:2]), "index_fill": lambda a, b, p, s, v: a.index_fill(0, G, 2.0),
    "index_select": lambda a, b, p, s, v: a.index_select(1, G), "masked_fill": lambda a, b, p, s, v: a.masked_fill(MASK, -3.0), "masked_select": lambda a, b, p, s, v: a.masked_select(MASK),
    "one_hot": lambda a, b, p, s, v: hg.one_hot(G, 4) * v, "scatter": lambda a, b, p, s, v: (a.scatter(1, FIRST, b), a.scatter(0, ROW, 5.0)), "scatter_add": lambda a, b, p, s, v: a.scatter_add(1, L, b),
    "take": lambda a, b, p, s, v: a.take(L), "take_along_dim": lambda a, b, p, s, v: a.take_along_dim(ROW, 0), "argmax": lambda a, b, p, s, v: a.gather(1, a.argmax(1, True)),
    "argmin": lambda a, b, p, s, v: a.take(a.argmin()), "max": lambda a, b, p, s, v: (a.max(), a.max(1).values, a.max(0, True)[0], a.max(b)), "min": lambda a, b, p, s, v: (a.min(), a.min(1).values, a.min(b)),
    "all": lambda a, b, p, s, v: hg.where((a > -1).all(1, True), a, b), "any": lambda a, b, p, s, v: hg.where((a > 1).any(0), a, b), "aminmax": lambda a, b, p, s, v: a.aminmax(dim=1),
    "count_nonzero": lambda a, b, p, s, v: a * hg.count_nonzero(a > 0, 1).reshape(-1, 1),
    "cov": lambda a, b, p, s, v: (a.cov(), a.cov(aweights=torch.tensor([1.0, 2.0, 0.5, 1.0]))), "cumprod": lambda a, b, p, s, v: a.cumprod(1), "cumsum": lambda a, b, p, s, v: a.cumsum(1),
    "cumulative_trapezoid": lambda a, b, p, s, v: torch.cumulative_trapezoid(a, v), "diff": lambda a, b, p, s, v: (a.diff(), a.diff(2, 0, prepend=b)), "dist": lambda a, b, p, s, v: a.dist(b, 3),
    "log_softmax": lambda a, b, p, s, v: a.log_softmax(0), "logcumsumexp": lambda a, b, p, s, v: a.logcumsumexp(1), "mean": lambda a, b, p, s, v: a.mean(1), "nanmean": lambda a, b, p, s, v: hg.where(a > 0, a, math.nan).nanmean(1),
    "nansum": lambda a, b, p, s, v: hg.where(a > 0, a, math.nan).nansum(1), "prod": lambda a, b, p, s, v: (a.prod((0, 1)), a.prod(1)), "softmax": lambda a, b, p, s, v: a.softmax(1),
    "std": lambda a, b, p, s, v: a.std(1, False), "std_mean": lambda a, b, p, s, v: torch.std_mean(a, 1), "sum": lambda a, b, p, s, v: a.sum(1), "trapezoid": lambda a, b, p, s, v: (torch.trapezoid(a), torch.trapezoid(a, dx=0.5, dim=0)),
    "var": lambda a, b, p, s, v: a.var(unbiased=False), "var_mean": lambda a, b, p, s, v: torch.var_mean(a, 1, correction=0),
    "addbmm": lambda a, b, p, s, v: s.addbmm(a.reshape(2, 3, 2), b.reshape(2, 2, 3), beta=0.5), "addmm": lambda a, b, p, s, v: v.addmm(s, a, alpha=2), "addmv": lambda a, b, p, s, v: s[0].addmv(a, v),
    "addr": lambda a, b, p, s, v: a.addr(s[0], v), "baddbmm": lambda a, b, p, s, v: s.baddbmm(a.reshape(2, 3, 2), b.reshape(2, 2, 3)), "bmm": lambda a, b, p, s, v: a.reshape(2, 3, 2).bmm(b.reshape(2, 2, 3)),
    "cdist": lambda a, b, p, s, v: hg.cdist(a, b[:2]), "cosine_similarity": lambda a, b, p, s, v: torch.cosine_similarity(a, v, dim=-1), "cross": lambda a, b, p, s, v: a.cross(b, 0), "dot": lambda a, b, p, s, v: v.dot(a[0]),
    "ger": lambda a, b, p, s, v: v.ger(s[0]), "inner": lambda a, b, p, s, v: a.inner(b), "kron": lambda a, b, p, s, v: a.kron(s), "mm": lambda a, b, p, s, v: s.mm(a), "mv": lambda a, b, p, s, v: a.mv(v),
    "outer": lambda a, b, p, s, v: v.outer(s[0]), "tensordot": lambda a, b, p, s, v: torch.tensordot(a, b, ([0], [0])), "vdot": lambda a, b, p, s, v: v.vdot(a[0]),
}  # fmt: skip
# Those with no native form, of which eager and replay alone are compared.
SORTED: dict[str, Callable[..., Any]] = {
    "argsort": lambda a, b, p, s, v: a.gather(1, a.argsort(1)), "sort": lambda a, b, p, s, v: a.sort(0, descending=True).values, "msort": lambda a, b, p, s, v: a.msort(), "topk": lambda a, b, p, s, v: a.topk(2, 0)[0],
    "kthvalue": lambda a, b, p, s, v: a.kthvalue(2, 1).values, "median": lambda a, b, p, s, v: (a.median(), a.median(1).values), "cummax": lambda a, b, p, s, v: a.cummax(1).values,
    "cummin": lambda a, b, p, s, v: a.cummin(0).values, "quantile": lambda a, b, p, s, v: a.quantile(torch.tensor([0.3, 0.5], dtype=torch.float64), 1), "nanquantile": lambda a, b, p, s, v: hg.where(a > -0.5, a, math.nan).nanquantile(0.4),
}  # fmt: skip
ELSEWHERE = {"allclose", "equal", "cat", "stack", "einsum", "flatten", "squeeze", "unsqueeze", "transpose"}  # test_composites


def test_every_function_has_a_line() -> None:
    composed = {name for module in ops._COMPOSED for name in module.__all__}  # type: ignore[attr-defined]
    assert composed - ELSEWHERE <= {*CASES, *SORTED}


def inputs() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    a, b, p, s, v = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (3, 4), (3, 4), (3, 3), (4,)))
    return [a, b, p.sigmoid(), s, v]


def all_of(cases: dict[str, Callable[..., Any]]) -> Callable[..., Any]:
    """One function that returns the values of all cases and the gradients of their weighted sums."""

    def run(*given: Any) -> Any:
        found = []
        leaves = [Variable(x, requires_grad=True) if not isinstance(x, Variable) else x for x in given]
        for case in cases.values():
            results = case(*leaves)
            results = results if isinstance(results, tuple) else (results,)
            found += results
            total = sum((r * torch.arange(1.0, r.numel() + 1, dtype=torch.float64).reshape(r.shape).cos()).sum() for r in results)
            found += [g for g in hg.gradients(total, leaves, allow_unused=True) if g is not None]
        return tuple(found)

    return run


@pytest.mark.parametrize(("cases", "engines"), [(CASES, ("replay", "native")), (SORTED, ("replay",))], ids=["composed", "sorted"])
def test_engines_agree(cases: dict[str, Callable[..., Any]], engines: tuple[str, ...]) -> None:
    run = all_of(cases)
    given = [Variable(x, requires_grad=True) for x in inputs()]
    expected = run(*given)
    program = hg.capture(run, *given)
    for engine in engines:
        for got, wanted in zip(program.to(engine)(*inputs()), expected, strict=True):
            torch.testing.assert_close(got, wanted.data if isinstance(wanted, Variable) else wanted, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_sorting_says_that_it_has_no_native_form() -> None:
    program = hg.capture(lambda a: a.sort(0).values, inputs()[0])
    with pytest.raises(hg.EngineError, match="ArgSort has no native form"):
        program.to("native")


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_indices_that_are_data(engine: str) -> None:
    """Each run of a program has others; one out of range is an error."""
    table, x, y = torch.randn(5, 4, 3), torch.tensor([[4, 0, -1], [1, 1, 2]]), torch.tensor([0, 3, 1])
    forms: list[Callable[..., Any]] = [
        lambda t, x, y: t[x], lambda t, x, y: t[x, y], lambda t, x, y: t[:, y], lambda t, x, y: t[1:4, y, 0], lambda t, x, y: t[y, :, y % 3],
        lambda t, x, y: t[..., y % 3, None], lambda t, x, y: t[0][x[0, 1]], lambda t, x, y: t[:, :, 1][y, torch.tensor([0, 1, 2])],
        lambda t, x, y: t[torch.arange(3), y], lambda t, x, y: t.index_select(1, y), lambda t, x, y: hg.one_hot(y, 4),
    ]  # fmt: skip
    for form in forms:
        program = hg.capture(form, table, x, y).to(engine)
        for other in (y, y.flip(0)):
            torch.testing.assert_close(program(table, x, other), form(table, x, other).to(program(table, x, other).dtype))
    for wrong in (4, -5, 1 << 40):
        with pytest.raises(hg.RangeError):
            hg.capture(lambda t, y: t[:, y], table, y).to(engine)(table, torch.tensor([0, wrong, 1]))
    with pytest.raises(hg.CaptureError, match=r"hg\.where"):
        hg.capture(lambda t, y: t[y > 0], torch.zeros(3), y)


def test_a_lookup_costs_what_it_takes() -> None:
    """Its gradient is added by rows, without a position for each element of the table."""
    table = Variable(torch.zeros(1000, 8), requires_grad=True)
    index = torch.tensor([3, 999, 3])
    table[index].sum().backward()
    assert table.grad[3].tolist() == [2.0] * 8 and table.grad.sum() == 24


def test_gather_in_the_old_order_still_works() -> None:
    a, index = Variable([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1], [0]])
    with pytest.warns(DeprecationWarning, match="torch's"):
        old = hg.gather(a, index, 1)
    assert old.tolist() == hg.gather(a, 1, index).tolist() == torch.gather(a, 1, index).tolist()


def test_composites_stay_short() -> None:
    """The growth of the package: the median is what a composite costs with its text and example."""
    lengths = sorted(len(inspect.getsource(getattr(m, name)).splitlines()) for m in ops._COMPOSED for name in m.__all__)  # type: ignore[attr-defined]
    assert lengths[len(lengths) // 2] <= 10


REFUSED: dict[str, tuple[Callable[[], Any], type[hg.HotgradError], str]] = {
    "a pool in the padding alone": (lambda: hg.functional.avg_pool1d(torch.ones(1, 1, 4), 2, padding=2), hg.ShapeError, "at most half of the kernel"),
    "a source with more slices than indices": (
        lambda: hg.index_copy(torch.ones(2, 3), 1, torch.tensor([0, 1]), torch.ones(2, 3)), hg.ShapeError, r"source of shape \(2, 2\)"
    ),
    "a source with narrow slices": (
        lambda: hg.index_add(torch.ones(2, 3), 0, torch.tensor([0, 1]), torch.ones(2, 1)), hg.ShapeError, r"source of shape \(2, 3\)"
    ),
    "an index of two axes": (
        lambda: hg.index_add(torch.ones(4), 0, torch.zeros(2, 2, dtype=torch.int64), torch.ones(4)), hg.ShapeError, "one axis at most"
    ),
    "an index out of range": (lambda: hg.Variable([1.0, 2.0])[torch.tensor([2])], hg.RangeError, "index 2"),
    "points that are missing": (lambda: hg.trapezoid(torch.arange(3.0), torch.arange(2.0)), hg.ShapeError, "a point for each of y's 3"),
    "fewer than no differences": (lambda: hg.diff(torch.ones(2, 3), n=-1), hg.OperandError, "0 or more"),
    "a division by zero": (lambda: hg.celu(torch.ones(2), 0.0), hg.OperandError, "must not be 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    call, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        call()
