"""Captured functions and their gradients: the same numbers as eager's, for expressions of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from capturing import EXACT, IMAGE, KERNEL, POSITIVE, ROWS, M, X, check, check_equal, engines, leaf, plain, randn

import hotgrad as hg
from hotgrad.testing.programs import programs_with_inputs

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_second_order"}
Count = Callable[[int, int], int]


def grad(f: Callable[..., Any]) -> Callable[..., Any]:
    """The value of `f`, and its gradients by its arguments."""

    def both(*xs: Any) -> Any:
        y = f(*xs)
        return y, hg.gradients(hg.sum(y), xs)

    return both


# ------------------------------------------------------------------------------------------------ values


VALUES: dict[str, tuple[Any, ...]] = {
    "product": (lambda x, m: x @ m + 1, X, M),
    "arithmetic": (lambda x, y: (x - y) / (1 + y * y) - 2 / (x * x + 3) + x**2 - (-y) ** 3 + 2**x, X, POSITIVE),
    "reflected": (lambda x: 1 - x + 2 / (x * x + 1) + 3 * x, X),
    "functions": (lambda x: x.tanh() + x.sigmoid() * x.exp() - x.sin() + x.cos().abs() + x.erf() + x.softplus() + x.relu(), X),
    "of positives": (lambda x: x.log() + x.sqrt() - x.log1p() + x.reciprocal() + x**0.5 + x**-1.5, POSITIVE),
    "broadcasting": (lambda x, b, c: x * b + c, X, randn(4), randn(3, 1)),
    "0-d": (lambda x: x * 2 + x.sin(), torch.tensor(0.5)),
    "empty": (lambda x: (x * 2, x.sum(), x.sum(1)), torch.zeros(3, 0)),
    "one element": (lambda x: x.mean(), torch.ones(1)),
    "reductions": (lambda x: (x.sum(), x.mean(0), x.sum((0, 1), keepdim=True), x.amax(1), x.amin(0), x.prod(), x.var(), x.std(1)), X),
    "norms": (lambda x: (hg.norm(x), hg.logsumexp(x, 1), hg.softmax(x, 0), hg.log_softmax(x, 1), x.cumsum(0)), X),
    "shapes": (lambda x: (x.reshape(2, 6), x.T, x.flatten(), x.unsqueeze(1).squeeze(1), x.permute(1, 0), x.expand((2, 3, 4))), X),
    "slices": (lambda x: (x[0], x[:, 1], x[..., -1], x[1:, ::2], x[None], x[[0, 2]], x[ROWS]), X),
    "rows": (lambda x: sum(row * i for i, row in enumerate(x)), X),
    "cat and stack": (lambda x, y: (hg.cat([x, y, x], 1), hg.stack([x, y]), hg.pad(x, (1, 2))), X, POSITIVE),
    "einsum": (lambda x, m: hg.einsum("ij,jk->ki", x, m), X, M),
    "comparison": (lambda x: (hg.where(x > 0, x, x * 2), x > 0, (x >= 0.5) * x, x.sign()), X),
    "clip": (lambda x: (x.clip(-0.5, 0.5), x.clip(None, 0.1), x.maximum(0.2), x.minimum(x.T.T * 2)), X),
    "convolution": (lambda x, k: hg.functional.conv2d(x, k), IMAGE, KERNEL),
    "integers": (lambda i: (i * 2 + 1, i.sum(), i > 1), torch.arange(5)),
    "labels as input": (lambda x, y: hg.functional.cross_entropy(x, y), X, torch.tensor([0, 3, 1])),
    "bools": (lambda m, x: hg.where(m, x, 0.0), torch.tensor([True, False, True]), randn(3)),
    "dtypes": (lambda x: (x.to(torch.float64) * 2, x.to(torch.float64).to(torch.float32) + x), X),
    "float64": (lambda x: x.exp() / x.sum(), X.double()),
    "bfloat16": (lambda x: x * 2 + x.exp(), X.bfloat16()),
    "int with float": (lambda i, x: i * x + i, torch.arange(4), randn(4)),
    "the input itself": (lambda x: x, X),
    "the input twice": (lambda x: (x, x), X),
    "a result twice": (lambda x: [(y := x * 2), y, {"y": y}], X),
    "a view of the input": (lambda x: x.T, X),
    "a view of a result": (lambda x: ((x * 2).T, (x * 2)[0]), X),
    "a constant": (lambda x: (x, hg.Variable([1.0, 2.0])), X),
    "constants alone": (lambda x: (x, hg.Variable([1.0, 2.0]) * 3 + 1), X),
    "common parts": (lambda x: (x * 2).tanh() + (x * 2).tanh() * (x * 2), X),
    "parts for nothing": (lambda x: ((x @ x.T).exp().log() * 0, x * 2)[1], X),
    "the same operand twice": (lambda x: x * x + x - x + x / x + (x @ x.T).sum() + x.maximum(x), X),
    "bias on the left": (lambda x, m, b: b + x @ m, X, M, randn(5)),
    "bias of a column": (lambda x, m, b: x @ m + b, X, M, randn(3, 1)),
    "a product that is used twice": (lambda x, m, b: ((p := x @ m) + b, p), X, M, randn(5)),
    "vectors": (lambda x, v: (x @ v, v @ x.T, v @ v), X, randn(4)),
    "batches of products": (lambda a, b: a @ b, randn(2, 3, 4), randn(4, 2)),
    "nothing in": (lambda: hg.Variable([1.0]) * 2,),
    "special values": (lambda x: (1 / x, x.log(), x.relu(), x.tanh(), x * 0, x.maximum(0.0), x.amax()), torch.tensor([0.0, -0.0, 1e38, float("inf"), float("nan"), -1.0])),
    "structures": (lambda x: {"a": [x * 2, (x * 3, None)], "b": {"c": x}, 3: (), "d": None}, X),
}  # fmt: skip


@engines
@pytest.mark.parametrize("name", VALUES)
def test_values(name: str, engine: str) -> None:
    f, *examples = VALUES[name]
    check(f, *examples, engine=engine)


GRADIENTS: dict[str, tuple[Any, ...]] = {
    "product": (lambda x, m: (x @ m).tanh(), leaf(3, 4), leaf(4, 5)),
    "broadcasting": (lambda x, b, c: x * b / (2 + c * c), leaf(3, 4), leaf(4), leaf(3, 1)),
    "x * x": (lambda x: x * x - x, leaf(3, 4)),
    "reductions": (lambda x: x.amax(1) + x.mean(1) * x.var(1) + x.prod(), leaf(3, 4)),
    "softmax": (lambda x: hg.log_softmax(x, 1)[:, 1] + hg.logsumexp(x, 0).sum(), leaf(3, 4)),
    "where": (lambda x, y: hg.where(x > y, x * 2, y * 3) + x.maximum(y) + x.clip(-0.5, 0.5), leaf(3, 4), leaf(3, 4, seed=1)),
    "indices": (lambda x: x[ROWS] * 2 + x[:, 1:2], leaf(3, 4)),
    "convolution": (lambda x, k: hg.functional.conv2d(x, k).relu(), hg.Variable(IMAGE, requires_grad=True), hg.Variable(KERNEL, requires_grad=True)),
    "detached": (lambda x: x * x.detach() + (x * 2).detach() * x, leaf(3, 4)),
    "no_grad inside": (lambda x: x * _untracked(x), leaf(3, 4)),
    "cumsum and sort of": (lambda x: x.cumsum(0) * x.abs().sqrt(), leaf(3, 4)),
    "einsum": (lambda x, m: hg.einsum("ij,jk->k", x, m), leaf(3, 4), leaf(4, 5)),
}  # fmt: skip


def _untracked(x: Any) -> Any:
    with hg.no_grad():
        return x.exp()


@engines
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str, engine: str) -> None:
    f, *examples = GRADIENTS[name]
    check(grad(f), *examples, engine=engine)


@engines
def test_second_order(engine: str) -> None:
    def second(x: Any, v: Any) -> Any:
        y = (x.tanh() * x.exp()).sum() + (x @ x.T).sin().sum()
        (g,) = hg.gradients(y, (x,), create_graph=True)
        (h,) = hg.gradients((g * v).sum(), (x,), create_graph=True)
        (third,) = hg.gradients(h.sum(), (x,))
        return y, g, h, third

    check(second, leaf(3, 4), randn(3, 4, seed=1), engine=engine)


@engines
def test_backward_and_grad(engine: str) -> None:
    def f(x: Any) -> Any:
        y = (x * x).tanh()
        y.retain_grad()
        y.sum().backward()
        return x.grad, y.grad

    def twice(x: Any) -> Any:
        (x * x).sum().backward()
        (x * 3).sum().backward()
        return x.grad

    def seeded(x: Any, g: Any) -> Any:
        y = x.tanh()
        y.backward(g)
        return x.grad

    def graph(x: Any) -> Any:
        (x**3).sum().backward(create_graph=True)
        return hg.gradients(x.grad.sum(), (x,))

    for g, *examples in ((f, leaf(3)), (twice, leaf(3)), (seeded, leaf(3), randn(3, seed=1)), (graph, leaf(3))):
        check(g, *examples, engine=engine)


@engines
def test_parameters_are_read_anew(engine: str) -> None:
    w, b = hg.Parameter(randn(4, 2)), hg.Parameter(torch.zeros(2))

    def f(x: Any) -> Any:
        w.grad = b.grad = None
        loss = ((x @ w + b).tanh() ** 2).sum()
        loss.backward()
        return loss, w.grad, b.grad

    program = hg.capture(f, X).to(engine, fuse=False)
    for _ in range(3):
        w.data.add_(0.25)
        b.data[0] += 1.0
        w.data.copy_(w.data * 0.9)
        found = program(X)
        assert w.grad is None, "a program leaves no gradient"
        check_equal(found, plain(f(hg.Variable(X))), engine in EXACT)
        w.grad = b.grad = None


@engines
def test_shared_and_frozen_parameters(engine: str) -> None:
    layer, still = hg.Linear(4, 4), hg.Linear(4, 2)
    still.freeze()

    def f(x: Any) -> Any:
        layer.zero_grad()
        loss = still(layer(layer(x).tanh())).sum()
        loss.backward()
        return loss, layer.weight.grad, layer.bias.grad

    check(f, X, engine=engine)


@engines
def test_what_returns_parameters_and_constants(engine: str) -> None:
    w, t = hg.Parameter([1.0, 2.0]), torch.tensor([3.0, 4.0])
    program = hg.capture(lambda x: (w, t, x, w * 1), torch.zeros(2)).to(engine)
    first = program(torch.ones(2))
    w.data.add_(1)
    second = program(torch.full((2,), 5.0))
    check_equal(first, (torch.tensor([1.0, 2.0]), t, torch.ones(2), torch.tensor([1.0, 2.0])), True)
    check_equal(second, (torch.tensor([2.0, 3.0]), t, torch.full((2,), 5.0), torch.tensor([2.0, 3.0])), True)
    for result in second:
        result.zero_()
    assert w.data.tolist() == [2.0, 3.0]
    assert t.tolist() == [3.0, 4.0]


@engines
@pytest.mark.parametrize("size", [4, 10_000])
@pytest.mark.parametrize("write", [lambda t, n: t.add_(1), lambda t, n: np.add(n, 1, out=n)])
def test_a_written_constant_is_read_anew(write: Any, size: int, engine: str) -> None:
    """Whether torch sees the write or not; and what was folded from it is folded again."""
    t, x = torch.arange(size, dtype=torch.float32) / size, torch.ones(size)
    n = t.numpy()
    program = hg.capture(lambda x: x * t + hg.ops.Mul.apply(hg.Variable(t), 3.0) + t, x).to(engine)
    for _ in range(3):
        check_equal(program(x), x * t + t * 3.0 + t, False)
        check_equal(program.run(x), x * t + t * 3.0 + t, False)
        write(t, n)


# ------------------------------------------------------------------------------------------------ random expressions


@engines
@pytest.mark.parametrize("fuse", [False, True])
def test_random_expressions(fuse: bool, engine: str, count: Count) -> None:
    """10,000 in the thorough run, half of them with fusing; fewer natively, as each is compiled: see test_native for many at once."""
    compared = 0
    examples = count(150, 5_000) if engine == "replay" else count(5, 50)

    @hypothesis.settings(max_examples=examples, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(programs_with_inputs())
    def run(case: Any) -> None:
        nonlocal compared
        expression, inputs = case

        def f(*xs: Any) -> Any:
            y = expression(*xs)
            return y, hg.gradients(hg.sum(y), xs, allow_unused=True)

        program = hg.capture(f, *(hg.Variable(x, requires_grad=True) for x in inputs)).to(engine, fuse=fuse)
        for scale in (1.0, -0.6):
            given = [(x * scale).detach() for x in inputs]
            expected = plain(f(*(hg.Variable(x.clone(), requires_grad=True) for x in given)))
            check_equal(program(*given), expected, not fuse and engine in EXACT)
        compared += 1

    run()
    assert compared >= 0.9 * examples
