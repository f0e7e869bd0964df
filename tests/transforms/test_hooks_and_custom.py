"""Hooks on gradients, functions with gradients of their own, and modules as functions of their parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own Hessian

# ---- hooks


def test_hooks_see_and_replace_gradients_in_order() -> None:
    x = hg.Variable([1.0, 2.0], requires_grad=True)
    seen: list[Any] = []
    y = x * x
    handles = [
        y.register_hook(lambda g: g * 2),
        y.register_hook(seen.append),
        x.register_hook(lambda g: g + 1),
        x.register_hook(seen.append),
    ]
    y.sum().backward(retain_graph=True)
    assert [t.tolist() for t in seen] == [[2.0, 2.0], [5.0, 9.0]] and x.grad.tolist() == [5.0, 9.0]
    y.sum().backward(retain_graph=True)
    assert x.grad.tolist() == [10.0, 18.0] and seen[1].tolist() == [5.0, 9.0], "what a hook kept does not change later"
    (g,) = hg.gradients(y.sum(), x, retain_graph=True)
    assert g.tolist() == [5.0, 9.0]
    for handle in handles[:3]:
        handle.remove()
        handle.remove()
    with handles[3]:
        x.zero_grad()
        y.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0] and len(seen) == 7


def test_each_hook_gets_the_whole_gradient_once() -> None:
    x = hg.Variable(3.0, requires_grad=True)
    seen: list[float] = []
    h = x * 2
    h.register_hook(lambda g: seen.append(g.item()))
    (h * h + h).backward()
    assert seen == [13.0] and x.grad.item() == 26.0


def test_with_create_graph_a_hook_gets_variables() -> None:
    x = hg.Variable(2.0, requires_grad=True)
    y = x**3
    y.register_hook(lambda g: g * x)
    (g,) = hg.gradients(y, x, create_graph=True)
    assert g.item() == 24.0 and hg.gradients(g, x)[0].item() == 36.0  # of 3 x x x


def test_retained_gradients_are_those_after_the_hooks() -> None:
    x = hg.Variable([1.0], requires_grad=True)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 5)
    y.sum().backward()
    assert y.grad.tolist() == [5.0] and x.grad.tolist() == [10.0]


def test_hooks_that_remove_themselves_and_copies_without() -> None:
    x = hg.Variable([1.0], requires_grad=True)
    calls: list[int] = []

    def once(g: Any) -> None:
        calls.append(1)
        handle.remove()

    handle = x.register_hook(once)
    for _ in range(2):
        (x * 1).sum().backward()
    other = copy.deepcopy(x)
    x.register_hook(lambda g: g * 0)
    (copy.deepcopy(x) * 1).sum().backward()
    (other * 1).sum().backward()
    assert calls == [1] and other.grad.tolist() == [3.0]


def _write(g: Any) -> None:
    (g if isinstance(g, torch.Tensor) else g.data).mul_(2)


@pytest.mark.parametrize(
    "hook, error, words",
    [
        (lambda g: torch.ones(3), hg.ShapeError, "hook"),
        (lambda g: g.to(torch.float64), hg.DtypeError, "hook"),
        (lambda g: 3.0, hg.OperandError, "returned 3.0"),
        (_write, RuntimeError, "wrote into the gradient|written-to tensor"),
    ],
)
@pytest.mark.parametrize("leaf", (False, True))
def test_bad_hooks(hook: Callable[..., Any], error: type[Exception], words: str, leaf: bool) -> None:
    x = hg.Variable([1.0, 2.0], requires_grad=True)
    y = x * 2
    (x if leaf else y).register_hook(hook)
    with pytest.raises(error, match=words):
        y.sum().backward()
    assert x.grad is None


def test_hooks_need_a_function_and_a_gradient() -> None:
    with pytest.raises(hg.TapeError, match="needs no gradient"):
        hg.Variable([1.0]).register_hook(print)
    with pytest.raises(hg.OperandError, match="takes a function"):
        hg.Parameter([1.0]).register_hook(3)


@pytest.mark.parametrize("engine", ("replay", "native"))
def test_hooks_in_programs(engine: str) -> None:
    w = hg.Parameter([1.0, 2.0])

    def step(x: Any) -> Any:
        w.zero_grad()
        h = w * x
        h.register_hook(lambda g: g.clip(-1, 1))
        (h * h).sum().backward()
        return w.grad

    handle = w.register_hook(lambda g: g * 10)
    program = hg.capture(step, torch.ones(2)).to(engine)
    assert program(torch.tensor([0.1, 3.0])).tolist() == pytest.approx([0.2, 30.0])
    handle.remove()
    with pytest.raises(hg.CaptureError, match="hooks"):
        program(torch.ones(2))
    assert hg.capture(step, torch.ones(2))(torch.ones(2)).tolist() == [1.0, 1.0]
    w.register_hook(lambda g: print(g))
    with pytest.raises(hg.CaptureError, match="printed"):
        hg.capture(step, torch.ones(2))


class Toggle:
    """Adds a hook after the second epoch, and removes it after the fourth."""

    def __init__(self, parameter: Any) -> None:
        self.parameter, self.handle = parameter, None

    def __call__(self, model: Any, history: Any) -> None:
        if len(history) == 2:
            self.handle = self.parameter.register_hook(lambda g: g * 0)
        if len(history) == 4:
            self.handle.remove()  # type: ignore[attr-defined]


def test_hooks_on_parameters_in_fit() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(32, 3), torch.randn(32, 1)
    found = []
    for engine in ("eager", "replay", "native", "auto"):
        model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 1), loss="mse", optimizer=hg.optim.SGD(lr=0.1))
        model.reset(0)
        weight = next(iter(model.parameters()))
        weight.register_hook(lambda g: g * 3)
        model.fit(
            x,
            y,
            epochs=200,
            batch_size=32,
            seed=0,
            engine=engine,
            verbose=False,
            callbacks=[Toggle(model[2].weight)],
        )
        found.append(torch.cat([p.data.reshape(-1) for p in model.parameters()]))
    assert all(torch.allclose(found[0], other, rtol=1e-3, atol=1e-5) for other in found[1:])


# ---- gradients of one's own


@hg.custom_gradient
def log1pexp(x: Any) -> Any:
    return x.relu() + hg.log1p(hg.exp(-abs(x))), lambda g: g * hg.sigmoid(x)


@hg.custom_gradient
def clipped_product(x: Any, y: Any) -> Any:
    return x * y, lambda g: (hg.clip(g * y, -1, 1), None)


def test_a_gradient_of_its_own_to_any_order() -> None:
    x = torch.tensor([-1000.0, -1.0, 0.5, 1000.0], dtype=torch.float64)
    value, gradient = hg.value_and_grad(lambda x: log1pexp(x).sum())(x)
    assert torch.allclose(value.data, torch.nn.functional.softplus(x).sum()) and torch.allclose(gradient.data, torch.sigmoid(x))
    s = torch.sigmoid(x)
    assert torch.allclose(hg.hessian(lambda x: log1pexp(x).sum())(x).data, torch.diag(s * (1 - s)))
    v = hg.Variable(x, requires_grad=True)
    log1pexp(v).sum().backward()
    assert torch.allclose(v.grad, s)
    assert not log1pexp(x).requires_grad


@pytest.mark.parametrize("engine", ("replay", "native"))
def test_captured_gradients_of_its_own(engine: str) -> None:
    x = torch.tensor([-2.0, 3.0], dtype=torch.float64)
    program = hg.capture(hg.hessian(lambda x: log1pexp(x * x).sum()), x).to(engine)
    assert torch.allclose(program(x * 2), torch.func.hessian(lambda x: torch.nn.functional.softplus(x * x).sum())(x * 2))


def test_none_is_zero_and_several_operands() -> None:
    x, y = (hg.Variable([0.5, 3.0], requires_grad=True) for _ in range(2))
    clipped_product(x, y).sum().backward()
    assert x.grad.tolist() == [0.5, 1.0] and y.grad.tolist() == [0.0, 0.0]
    x.zero_grad()
    clipped_product(x, 5.0).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0]


OUTSIDE = hg.Parameter([2.0, 2.0])


@pytest.mark.parametrize(
    "f, error, words",
    [
        (lambda x: x * 2, hg.OperandError, "pair \\(value, gradient\\)"),
        (lambda x: (3.0, lambda g: g), hg.OperandError, "value must be a Variable"),
        (lambda x: (x * OUTSIDE, lambda g: g), hg.TapeError, "requires a gradient and is no operand"),
        (lambda x: (x * 2, lambda g: (g, g)), hg.RuleError, "2 gradients for 1 operands"),
        (lambda x: (x * 2, lambda g: "g"), hg.RuleError, "returned str"),
        (lambda x: (x * 2, lambda g: torch.ones(3)), hg.RuleError, "shape"),
    ],
)
def test_bad_gradients_of_its_own(f: Callable[..., Any], error: type[Exception], words: str) -> None:
    x = hg.Variable([1.0, 2.0], requires_grad=True)
    with pytest.raises(error, match=words):
        hg.custom_gradient(f)(x).sum().backward()
    assert x.grad is None


# ---- modules


def test_functional_call() -> None:
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3, 4), hg.nn.BatchNorm1d(4), hg.Tanh(), hg.Linear(4, 1))
    x = torch.randn(6, 3)
    own = {name: p.data.clone() for name, p in model.named_parameters()}
    others = {name: torch.randn_like(t) for name, t in own.items()}
    found = hg.functional_call(model, others, x)
    moved = model[1].running_mean.clone()
    twin = copy.deepcopy(model)
    for name, p in twin.named_parameters():
        p.data.copy_(others[name])
    assert torch.allclose(found.data, twin(x).data)
    assert all(torch.equal(own[name], p.data) and p.requires_grad and p.is_leaf for name, p in model.named_parameters())
    assert moved.abs().sum() > 0
    part = hg.functional_call(model, {"0.weight": others["0.weight"]}, x)
    assert not torch.allclose(part.data, found.data)
    gradient = hg.grad(lambda p: hg.functional_call(model, p, x).square().sum())(dict(model.named_parameters()))
    model(x).square().sum().backward()
    assert all(torch.allclose(gradient[name].data, p.grad, atol=1e-5) for name, p in model.named_parameters())


def test_functional_call_in_programs_and_with_shared_parameters() -> None:
    class Tied(hg.Module):
        def __init__(self) -> None:
            self.a = hg.Linear(2, 2)
            self.b = self.a

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x).tanh())

    model, x = Tied(), torch.ones(1, 2)
    f = lambda w, x: hg.functional_call(model, {"a.weight": w, "a.bias": torch.zeros(2)}, x).sum()  # noqa: E731
    w = torch.eye(2)
    wanted = torch.func.grad(lambda w: (torch.tanh(x @ w) @ w).sum())(w)
    assert torch.allclose(hg.grad(f)(w, x).data, wanted)
    for engine in ("replay", "native"):
        program = hg.capture(hg.grad(f), torch.zeros(2, 2), x).to(engine)
        assert torch.allclose(program(w, x), wanted)


def test_functional_call_puts_everything_back() -> None:
    class Broken(hg.Module):
        def __init__(self) -> None:
            self.w = hg.Parameter([1.0, 2.0])

        def forward(self, x: Any) -> Any:
            self.w * x
            raise KeyError("mine")

    model = Broken()
    data = model.w.data
    with pytest.raises(KeyError, match="mine"):
        hg.functional_call(model, {"w": torch.zeros(2)}, 1.0)
    assert model.w.data is data and model.w.is_leaf and model.w.requires_grad
    for call, error, words in (
        (lambda: hg.functional_call(model, {"v": torch.zeros(2)}, 1.0), hg.OperandError, "no parameter 'v'; it has w"),
        (lambda: hg.functional_call(model, {"w": torch.zeros(3)}, 1.0), hg.ShapeError, "'w' has shape \\(2,\\); got \\(3,\\)"),
        (lambda: hg.functional_call(model, [torch.zeros(3)], 1.0), hg.OperandError, "takes a Module"),
    ):
        with pytest.raises(error, match=words):
            call()
