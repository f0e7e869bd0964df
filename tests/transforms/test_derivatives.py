"""Derivatives of functions: what belongs to whose graph, structures, nesting, and what is refused."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg

Pair = namedtuple("Pair", "a b")


def cube(x: Any) -> Any:
    return (x**3).sum()


X = torch.tensor([1.0, 2.0])


def test_nested_derivatives_are_not_confused() -> None:
    assert hg.grad(lambda x: x * hg.grad(lambda y: x + y)(x))(2.0).item() == 1.0
    assert hg.grad(lambda x: x * hg.grad(lambda y: x * y)(3.0))(2.0).item() == 4.0
    _, (inner,) = hg.hvp(lambda x: x * hg.jvp(lambda y: x * y * y, (x,), (1.0,))[1], (2.0,), (1.0,))
    assert inner.item() == 24.0  # of 2 x x x, at 2


def test_derivatives_of_derivatives_of_what_is_linear_are_zero() -> None:
    linear = lambda x: (3 * x).sum()  # noqa: E731
    assert hg.hessian(linear)(X).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert hg.grad(lambda x: hg.grad(linear)(x).sum())(X).tolist() == [0.0, 0.0]
    assert hg.grad(lambda x: (hg.grad(linear)(x) * x).sum())(X).tolist() == [3.0, 3.0]
    assert hg.hvp(linear, (X,), (X,))[1][0].tolist() == [0.0, 0.0]
    assert hg.jacobian(hg.jacobian(hg.relu))(X).abs().max() == 0


@pytest.mark.parametrize("mode", (hg.no_grad, hg.enable_grad))
def test_results_belong_to_no_graph_without_variables_of_the_callers(mode: Any) -> None:
    with mode():
        (value, aux), gradient = hg.value_and_grad(lambda x: (cube(x), x * 2), has_aux=True)(X)
        results = [value, aux, gradient, hg.hessian(cube)(X), *hg.jvp(cube, (X,), (X,)), hg.hvp(cube, (X,), (X,))[1][0]]
        product, pullback = hg.vjp(cube, X)
        results += [product, *pullback(1.0)]
    assert not any(result.requires_grad for result in results)
    assert gradient.tolist() == [3.0, 12.0] and aux.tolist() == [2.0, 4.0]


def test_results_belong_to_the_callers_graph() -> None:
    w = hg.Parameter([1.0, 2.0])
    gradient = hg.grad(lambda x: (w * x * x).sum())(X)
    gradient.sum().backward()
    assert w.grad.tolist() == [2.0, 4.0]
    x = hg.Variable(X, requires_grad=True)
    value, slope = hg.value_and_grad(cube)(x * 2)
    (value + slope.sum()).backward()
    assert x.grad.tolist() == [3 * 8.0 + 24.0, 3 * 8 * 4.0 + 48.0]
    with hg.no_grad():
        assert not hg.grad(lambda x: (w * x * x).sum())(X).requires_grad


def test_a_gradient_penalty_trains() -> None:
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3, 8), hg.Tanh(), hg.Linear(8, 1))
    x = torch.randn(5, 3)
    penalty = (hg.grad(lambda x: model(x).sum())(x).square().sum(1).sqrt() - 1).square().mean()
    penalty.backward()
    v = hg.Variable(x, requires_grad=True)
    wanted = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    (g,) = hg.gradients(model(v).sum(), v, create_graph=True)
    (g.square().sum(1).sqrt() - 1).square().mean().backward()
    assert (
        all(torch.allclose(a, p.grad) for a, p in zip(wanted, [p for p in model.parameters() if p.grad is not None])) and len(wanted) == 3
    )


def test_nothing_of_the_callers_is_touched(tape: hg.Tape) -> None:
    w = hg.Parameter([1.0, 2.0])
    w.grad = torch.ones(2)
    h = w * 2
    before = str(tape)
    for call in (lambda: hg.grad(lambda x: (h * x).sum())(X), lambda: hg.hessian(cube)(X), lambda: hg.vjp(lambda x: h * x, X)[1](X)):
        call()
        assert str(tape) == before and w.grad.tolist() == [1.0, 1.0]
    (h * h).sum().backward()
    assert w.grad.tolist() == [9.0, 17.0]


def test_records_of_a_result_stand_on_the_callers_tape(tape: hg.Tape) -> None:
    w = hg.Parameter([1.0, 2.0])
    gradient = hg.grad(lambda x: (w * x * x).sum())(X)
    assert len(tape) > 0 and gradient.requires_grad
    del gradient
    assert len(tape) == 0


def test_structures() -> None:
    def f(p: Any, scale: float, *, shift: float) -> Any:
        return scale * ((p["pair"].a ** 2).sum() + (p["pair"].b * shift).sum() + p["list"][0] ** 3)

    p = OrderedDict(pair=Pair(X, hg.Variable([1.0])), list=[2.0, None])
    found = hg.grad(f)(p, 2.0, shift=5.0)
    assert isinstance(found, OrderedDict) and isinstance(found["pair"], Pair) and found["list"][1] is None
    assert found["pair"].a.tolist() == [4.0, 8.0] and found["pair"].b.tolist() == [10.0] and found["list"][0].item() == 24.0
    both = hg.grad(lambda x, y: (x * y).sum(), argnums=(1, 0))(X, 2 * X)
    assert isinstance(both, tuple) and both[0].tolist() == [1.0, 2.0] and both[1].tolist() == [2.0, 4.0]
    assert hg.grad(lambda x, y: (x * y).sum(), argnums=-1)(X, 2 * X).tolist() == [1.0, 2.0]
    _, product = hg.hvp(lambda x, y: (x * x * y).sum(), [X, X], [X, X])
    assert isinstance(product, list)
    jacobian = hg.jacobian(lambda x, y: {"a": x * y, "b": (x.sum(),)}, argnums=(0, 1))(X, X)
    assert [jacobian["a"][i].shape for i in (0, 1)] == [(2, 2), (2, 2)] and jacobian["b"][0][1].tolist() == [0.0, 0.0]


def test_a_pullback_may_be_called_again_and_differentiated() -> None:
    _, pullback = hg.vjp(lambda x: x**3, X)
    assert pullback(X)[0].tolist() == pullback(X)[0].tolist() == [3.0, 24.0]
    u = hg.Variable([1.0, 1.0], requires_grad=True)
    pullback(u)[0].sum().backward()
    assert u.grad.tolist() == [3.0, 12.0]
    second = hg.grad(lambda x: (hg.vjp(lambda y: y**3, x)[1](X)[0]).sum())(X)
    assert second.tolist() == [6.0, 24.0]
    assert pullback({"a": 1}["a"] * X)[0].shape == (2,)


@pytest.mark.parametrize("chunk", (None, 1, 2, 5))
@pytest.mark.parametrize("f", (lambda x: hg.cat([x, x * x, hg.exp(x), x, x, x, x]), lambda x: (x**3).sum().reshape(1)))
def test_chunks_and_sides_give_the_same(f: Callable[..., Any], chunk: int | None) -> None:
    """The first function has many results of few arguments, so that columns are cheaper, the other one."""
    x = X.double()
    wanted = torch.func.jacrev(lambda x: f(x) if x.numel() < 2 else torch_of(f)(x))(x)
    assert torch.allclose(hg.jacobian(f, chunk=chunk)(x).data, wanted)
    recorded = hg.jacobian(lambda x: hg.jacobian(f, chunk=chunk)(x).sum(1))(x)
    assert torch.allclose(recorded.data, torch.func.jacrev(lambda x: torch.func.jacrev(torch_of(f))(x).sum(1))(x))


def torch_of(f: Callable[..., Any]) -> Callable[..., Any]:
    if f(torch.ones(2)).numel() == 1:
        return lambda x: (x**3).sum().reshape(1)
    return lambda x: torch.cat([x, x * x, torch.exp(x), x, x, x, x])


def test_gauss_newton_products() -> None:
    x, v = X.double(), torch.tensor([0.3, -1.0], dtype=torch.float64)
    f = lambda x: hg.stack([x[0] * x[1], hg.exp(x[0]), x[1] ** 2])  # noqa: E731
    jacobian = hg.jacobian(f)(x).data
    value, (product,) = hg.ggnvp(f, (x,), (v,))
    assert torch.allclose(product.data, jacobian.T @ jacobian @ v) and torch.allclose(value.data, f(x))
    loss = lambda r: (r**4).sum() + r[0] * r[1]  # noqa: E731
    curvature = hg.hessian(loss)(f(x)).data
    assert torch.allclose(hg.ggnvp(f, (x,), (v,), loss)[1][0].data, jacobian.T @ curvature @ jacobian @ v)
    two = lambda p: {"a": p["w"] * 2, "b": p["w"].sum()}  # noqa: E731
    _, (product,) = hg.ggnvp(two, ({"w": x},), ({"w": v},), lambda r: (r["a"] ** 2).sum() + r["b"] ** 2)
    assert torch.allclose(product["w"].data, 8 * v + 2 * v.sum())


def test_integers_beside_are_handed_on_as_they_are() -> None:
    seen: list[Any] = []

    def f(x: Any, index: Any, name: Any, mask: Any) -> Any:
        seen.append((index, name, mask))
        return x[index].sum() if name == "rows" else cube(x)

    index, mask = torch.tensor([1, 1]), torch.tensor([True])
    assert hg.grad(f)(X, index, "rows", mask).tolist() == [0.0, 2.0]
    assert seen[0][0] is index and seen[0][2] is mask


NAMES = {"f": cube}


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: hg.grad(lambda x: x)(X), hg.ShapeError, "must return one element; got shape \\(2,\\)"),
        (lambda: hg.grad(lambda x: (x.sum(), x))(X), hg.ShapeError, "one element"),
        (lambda: hg.grad(lambda x: 3.0)(X), hg.TapeError, "returned the number 3.0"),
        (lambda: hg.grad(lambda x: torch.ones(()))(X), hg.TapeError, "plain tensor of shape \\(\\)"),
        (lambda: hg.grad(lambda x: None)(X), hg.OperandError, "returned None"),
        (lambda: hg.grad(lambda x: x.detach().sum())(X), hg.TapeError, "changes with argument 0 .* detached"),
        (lambda: hg.grad(lambda x, y: (x.data * y).sum(), 0)(X, X), hg.TapeError, "changes with argument 0"),
        (lambda: hg.grad(lambda x: hg.Variable(1.0))(X), hg.TapeError, "does not depend on argument 0"),
        (lambda: hg.grad(lambda x, y: hg.Variable(1.0), (0, 1))(X, X), hg.TapeError, "does not depend on argument 0 and argument 1"),
        (lambda: hg.grad(cube)(3), hg.DtypeError, "argument 0 holds int64"),
        (lambda: hg.grad(cube)(torch.arange(3)), hg.DtypeError, "int64 of shape \\(3,\\)"),
        (lambda: hg.grad(lambda p: p["a"])({"a": True}), hg.DtypeError, "bool"),
        (lambda: hg.grad(cube)("x"), hg.OperandError, "got str"),
        (lambda: hg.grad(cube, 1)(X), hg.RangeError, "argnums names argument 1, and 1 positional argument was given"),
        (lambda: hg.grad(cube, (0, -1))(X), hg.OperandError, "twice"),
        (lambda: hg.grad(cube, 0.5)(X), hg.OperandError, "argnums"),
        (lambda: hg.grad(cube)(), hg.RangeError, "0 positional arguments"),
        (lambda: hg.grad(torch.ones(2)), hg.OperandError, "grad takes a function"),
        (lambda: hg.grad(cube)(torch.ones(2, requires_grad=True)), hg.OperandError, "argument 0 requires a torch gradient"),
        (lambda: hg.grad(3)(X), hg.OperandError, "takes a function"),
        (lambda: hg.grad(cube, has_aux=True)(X), hg.OperandError, "pair \\(value, auxiliary\\)"),
        (lambda: hg.jvp(cube, X, X), hg.OperandError, "primals must be a tuple"),
        (lambda: hg.jvp(cube, (X,), (torch.ones(3),)), hg.ShapeError, "tangent at \\[0\\]"),
        (lambda: hg.jvp(cube, (X,), (X.double(),)), hg.DtypeError, "tangent"),
        (lambda: hg.jvp(cube, (X,), ({"a": X},)), hg.OperandError, "structure"),
        (lambda: hg.jvp(cube, (X,), (X, X)), hg.OperandError, "2 items against 1"),
        (lambda: hg.jvp(cube, (X,), ("a",)), hg.OperandError, "must be an array"),
        (lambda: hg.vjp(lambda x: x * 2, X)[1](torch.ones(3)), hg.ShapeError, "cotangent"),
        (lambda: hg.hvp(lambda x: x, (X,), (X,)), hg.ShapeError, "one element"),
        (lambda: hg.jacobian(cube, chunk=0), hg.SettingError, "chunk"),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], words: str, tape: hg.Tape) -> None:
    with pytest.raises(error, match=words) as caught:
        call()
    assert len(tape) == 0, "the tape is as before, though the error holds frames"
    assert caught.value is not None and hg.tape() is tape


def test_errors_of_the_function_come_out(tape: hg.Tape) -> None:
    def broken(x: Any) -> Any:
        (x * 2).exp()
        raise KeyError("mine")

    for call in (lambda: hg.grad(broken)(X), lambda: hg.jacobian(broken)(X), lambda: hg.hvp(broken, (X,), (X,)), lambda: hg.vjp(broken, X)):
        with pytest.raises(KeyError, match="mine"):
            call()
        assert len(tape) == 0 and hg.Variable(1.0, requires_grad=True).exp().requires_grad


def test_a_closure_that_changes_makes_a_captured_derivative_stale() -> None:
    scale = [2.0]
    program = hg.capture(hg.grad(lambda x: (x * x * scale[0]).sum()), X)
    assert program(X).tolist() == [4.0, 8.0]
    scale[0] = 3.0
    with pytest.raises(hg.CaptureError, match="scale"):
        program(X)


def test_dtypes_and_empty_arrays() -> None:
    assert hg.grad(cube)(X.double()).dtype is torch.float64
    assert hg.jacobian(lambda x: x * 2)(torch.ones(0)).shape == (0, 0)
    assert hg.jacobian(lambda x: x.sum())(torch.ones(0)).shape == (0,)
    assert hg.hessian(cube)(torch.ones(0)).shape == (0, 0)
    assert hg.jacobian(lambda x: x.reshape(2, 1))(X).shape == (2, 1, 2)


class WithDerivative(hg.Module):
    """Holds functions made of its own layer, and one as a method."""

    def __init__(self) -> None:
        self.layer = hg.Linear(2, 1)
        self.slope = hg.jacobian(self.layer)
        self.again = hg.remat(self.layer)
        self.each = hg.vmap(self.layer)

    @hg.remat
    def twice(self, x: Any) -> Any:
        return self.layer(x) * 2

    def forward(self, x: Any) -> Any:
        return self.twice(x)


def test_copies_have_the_derivatives_of_the_copied_layers() -> None:
    model, x = WithDerivative(), torch.ones(1, 2)
    with hg.no_grad():
        model.each(x)
    other = copy.deepcopy(model)
    other.layer.weight.data.fill_(3.0)
    other.layer.bias.data.zero_()
    assert other(x).tolist() == [[12.0]] and other.again(x).tolist() == [[6.0]] and other.slope(X).tolist() == [[3.0, 3.0]]
    with hg.no_grad():
        assert other.each(x).tolist() == [[6.0]]
    assert not torch.equal(model(x).data, other(x).data)
    assert [name for name, _ in model.named_parameters()] == ["layer.weight", "layer.bias"]


def test_a_module_under_remat_is_a_module() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(20, 2), torch.randn(20, 1)
    found = []
    for wrap in (lambda layer: layer, hg.remat):
        model = hg.Sequential(wrap(hg.Linear(2, 4)), hg.Tanh(), wrap(hg.Linear(4, 1)), loss="mse", optimizer="sgd")
        model.reset(0)
        assert len(list(model.parameters())) == 4
        model.fit(x, y, epochs=3, seed=0, verbose=False)
        found.append(torch.cat([p.data.reshape(-1) for p in model.parameters()]))
    assert torch.equal(*found)
