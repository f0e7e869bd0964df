"""Forty functions against `torch.func`: gradients, Jacobians, Hessians, products, to third order; eager, replayed and native."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from functions import FUNCTIONS, Function
from torch import Tensor

import hotgrad as hg
from hotgrad.transforms.trees import leaves, mapped

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own forward mode
SCALAR = {name: function for name, function in FUNCTIONS.items() if function.scalar}
QUICK = ("test_captured",)
NATIVE = ("Rosenbrock", "an MLP's loss in a dict", "x to the x", "vector to matrix")  # by default, as compiling takes its time


def mine(function: Function) -> Callable[..., Any]:
    return partial(function.f, hg)


def torchs(function: Function) -> Callable[..., Any]:
    return partial(function.f, torch)


def positive(function: Function) -> Any:
    n = len(function.args)
    return function.argnums % n if isinstance(function.argnums, int) else function.argnums


def plain(tree: Any) -> Any:
    return mapped(lambda leaf: leaf.data if isinstance(leaf, hg.Variable) else leaf, tree)


def assert_equal(found: Any, wanted: Any) -> None:
    found, wanted = leaves(plain(found)), leaves(wanted)
    assert len(found) == len(wanted)
    largest = max(float(w.abs().max()) for w in wanted if w.numel())
    for f, w in zip(found, wanted):
        assert f.shape == w.shape and f.dtype == w.dtype
        assert torch.allclose(f, w, rtol=1e-9, atol=1e-9 * max(largest, 1e-6))


def directions(args: Any) -> Any:
    return mapped(lambda t: torch.cos(torch.arange(t.numel(), dtype=t.dtype) + 1).reshape(t.shape), args)


@pytest.mark.parametrize("name", SCALAR)
def test_gradient_and_hessian(name: str) -> None:
    function = SCALAR[name]
    argnums = positive(function)
    found = hg.value_and_grad(mine(function), function.argnums)(*function.args)
    gradient, value = torch.func.grad_and_value(torchs(function), argnums)(*function.args)
    assert_equal(found, (value, gradient))
    assert_equal(hg.grad(mine(function), function.argnums)(*function.args), gradient)
    assert_equal(
        hg.hessian(mine(function), function.argnums)(*function.args), torch.func.hessian(torchs(function), argnums)(*function.args)
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobian_and_products(name: str) -> None:
    function = FUNCTIONS[name]
    argnums = positive(function)
    assert_equal(
        hg.jacobian(mine(function), function.argnums)(*function.args), torch.func.jacrev(torchs(function), argnums)(*function.args)
    )
    tangents = directions(function.args)
    assert_equal(hg.jvp(mine(function), function.args, tangents), torch.func.jvp(torchs(function), function.args, tangents))
    value, pullback = hg.vjp(mine(function), *function.args)
    torch_value, torch_pullback = torch.func.vjp(torchs(function), *function.args)
    cotangent = directions(torch_value)
    assert_equal((value, pullback(cotangent)), (torch_value, torch_pullback(cotangent)))


@pytest.mark.parametrize("name", SCALAR)
def test_hessian_vector_product(name: str) -> None:
    function = SCALAR[name]
    tangents = directions(function.args)
    gradient = lambda *args: torch.func.grad(torchs(function), tuple(range(len(args))))(*args)  # noqa: E731
    wanted = torch.func.jvp(gradient, function.args, tangents)[1]
    value, product = hg.hvp(mine(function), function.args, tangents)
    assert_equal(product, wanted)
    assert_equal(value, torchs(function)(*function.args))


@pytest.mark.parametrize(
    "name", [name for name in FUNCTIONS if isinstance(FUNCTIONS[name].args[0], Tensor) and FUNCTIONS[name].args[0].numel() < 7]
)
def test_third_order(name: str) -> None:
    function = FUNCTIONS[name]
    argnums = positive(function)
    if not isinstance(argnums, int):
        argnums = argnums[0]
    f, g = mine(function), torchs(function)
    jacobian = hg.jacobian(hg.jacobian(hg.jacobian(f, argnums), argnums), argnums)
    wanted = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(g, argnums), argnums), argnums)(*function.args)
    assert_equal(jacobian(*function.args), wanted)


@pytest.mark.parametrize("engine", ("replay", "native"))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_captured(name: str, engine: str, thorough: bool) -> None:
    if engine == "native" and not thorough and name not in NATIVE:
        pytest.skip("native: in the thorough run")
    function = FUNCTIONS[name]
    flat, tree = leaves(function.args), function.args

    def together(*arrays: Any) -> Any:
        rest = iter(arrays)
        args = mapped(lambda _: next(rest), tree)
        derivative = hg.hessian if function.scalar else hg.jacobian
        second = derivative(mine(function), function.argnums)(*args)
        return leaves((second, hg.jvp(mine(function), args, directions(tree))))

    program = hg.capture(together, *flat).to(engine)
    moved = [t * 1.1 + 0.01 for t in flat]
    rest = iter(moved)
    args = mapped(lambda _: next(rest), tree)
    argnums = positive(function)
    derivative = torch.func.hessian if function.scalar else torch.func.jacrev
    wanted = derivative(torchs(function), argnums)(*args), torch.func.jvp(torchs(function), args, directions(tree))
    assert_equal(program(*moved), wanted)
