"""`hg.vmap`: the same as a loop over the elements, by one call of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.engines.native import compiler
from hotgrad.transforms import mapping

CASES: dict[str, tuple[Callable[..., Any], Any, tuple[Any, ...]]] = {
    "elementwise": (lambda x: hg.exp(x) * 2, 0, (torch.randn(5, 3),)),
    "numbers": (lambda x: x * x, 0, (torch.randn(5),)),
    "another axis": (lambda x: x.cumsum(0), 1, (torch.randn(3, 5),)),
    "from the end": (lambda x: x.sum(0), -1, (torch.randn(3, 2, 5),)),
    "two arguments": (lambda x, y: x @ y, (0, 1), (torch.randn(5, 3, 2), torch.randn(2, 5))),
    "one whole": (lambda w, x: hg.tanh(w @ x), (None, 0), (torch.randn(3, 4), torch.randn(5, 4))),
    "nested": (
        lambda p, x: p["w"][0] * x + p["b"],
        ({"w": (None,), "b": 0}, 0),
        ({"w": (torch.randn(3),), "b": torch.randn(5, 3)}, torch.randn(5, 3)),
    ),
    "one axis for a tree": (lambda p: p["a"] @ p["b"], 0, ({"a": torch.randn(5, 3), "b": torch.randn(5, 3)},)),
    "a gradient": (hg.grad(lambda x: (x**3).sum()), 0, (torch.randn(5, 3),)),
    "a Hessian": (hg.hessian(lambda x: (x**3).sum() * x[0]), 0, (torch.randn(5, 3),)),
    "products": (lambda x: hg.hvp(lambda x: (x**4).sum(), (x,), (x,))[1][0], 0, (torch.randn(5, 3),)),
    "integers": (lambda x, i: hg.gather(x, 0, i), 0, (torch.randn(5, 3), torch.randint(0, 3, (5, 2)))),
    "doubles": (lambda x: x.logsumexp(0), 0, (torch.randn(5, 3, dtype=torch.float64),)),
}


def loop(f: Callable[..., Any], dims: Any, args: tuple[Any, ...]) -> Any:
    def axes(arg: Any, dim: Any) -> Any:
        if isinstance(arg, dict):
            return {key: axes(value, dim[key] if isinstance(dim, dict) else dim) for key, value in arg.items()}
        if isinstance(arg, tuple):
            return tuple(axes(value, dim[i] if isinstance(dim, tuple) else dim) for i, value in enumerate(arg))
        return dim

    def element(arg: Any, dim: Any, i: int) -> Any:
        if isinstance(arg, dict):
            return {key: element(value, dim[key], i) for key, value in arg.items()}
        if isinstance(arg, tuple):
            return tuple(element(value, dim[j], i) for j, value in enumerate(arg))
        return hg.Variable(arg if dim is None else arg.select(dim, i))

    where = axes(args, dims if isinstance(dims, tuple) else (dims,) * len(args))
    return torch.stack([f(*element(args, where, i)).data for i in range(5)])


@pytest.mark.parametrize("name", CASES)
def test_as_a_loop(name: str) -> None:
    f, dims, args = CASES[name]
    found = hg.vmap(f, dims)(*args)
    assert torch.allclose(found.data, loop(f, dims, args), rtol=1e-5, atol=1e-6) and not found.requires_grad


def test_structures_and_caching(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = mapping.captured
    monkeypatch.setattr(mapping, "captured", lambda *args, **options: calls.append(1) or real(*args, **options))

    def f(x: Any) -> Any:
        return {"a": x * 2, "b": [x.sum()]}

    mapped = hg.vmap(f)
    for n in (4, 7, 1):
        x = torch.randn(n, 3)
        found = mapped(x)
        assert torch.equal(found["a"].data, x * 2) and torch.allclose(found["b"][0].data, x.sum(1))
    assert len(calls) == 1
    assert mapped(torch.zeros(0, 3))["a"].shape == (0, 3) and mapped(torch.zeros(0, 3))["b"][0].shape == (0,)
    mapped(torch.randn(2, 4))
    assert len(calls) == 2


SCALE = 2.0


def test_what_it_reads_is_followed() -> None:
    global SCALE
    offset = [1.0]
    mapped = hg.vmap(lambda w, x: w * x * SCALE + offset[0], in_dims=(None, 0))
    x = torch.ones(3)
    assert mapped(torch.tensor(1.0), x).tolist() == [3.0] * 3
    SCALE, offset[0] = 3.0, 0.0
    assert mapped(torch.tensor(1.0), x).tolist() == [3.0] * 3
    assert mapped(torch.tensor(10.0), x).tolist() == [30.0] * 3


def test_gradients_for_each_example() -> None:
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 2))
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 1, 0, 1, 0])
    parameters = dict(model.named_parameters())
    loss = lambda p, x, y: hg.functional.cross_entropy(hg.functional_call(model, p, x.reshape(1, -1)), y.reshape(1))  # noqa: E731
    with hg.no_grad():
        found = hg.vmap(hg.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(6):
        model.zero_grad()
        hg.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        assert all(torch.allclose(found[name].data[i], p.grad, atol=1e-6) for name, p in parameters.items())
    for p in parameters.values():
        p.data.mul_(2)
    with hg.no_grad():
        again = hg.vmap(lambda x: model(x.reshape(1, -1)).reshape(-1))(x)
    assert torch.allclose(again.data, model(x).data, atol=1e-6)


def test_it_is_not_recorded() -> None:
    x = hg.Variable(torch.ones(3), requires_grad=True)
    for call in (
        lambda: hg.vmap(hg.exp)(x),
        lambda: hg.vmap(hg.exp)(x * 2),
        lambda: hg.grad(lambda x: hg.vmap(hg.exp)(x).sum())(torch.ones(3)),
        lambda: hg.grad(lambda w: hg.vmap(lambda r: (r * w).sum())(torch.ones(2, 3)).sum() + w.sum())(torch.ones(3)),
        lambda: hg.vmap(lambda w, r: w * r, (None, 0))(x, torch.ones(2)).sum().backward(),
    ):
        with pytest.raises((hg.TapeError, hg.CaptureError), match=r"vmap\(grad\(f\)\)|computed outside"):
            call()
    with hg.no_grad():
        assert not hg.vmap(hg.exp)(x).requires_grad


def test_nested_and_in_programs() -> None:
    a, b = torch.randn(2, 4), torch.randn(3, 4)
    outer = hg.vmap(hg.vmap(lambda a, b: a @ b, (None, 0)), (0, None))
    assert torch.allclose(outer(a, b).data, a @ b.T, atol=1e-6)
    program = hg.capture(lambda x: hg.vmap(hg.grad(lambda r: (r**3).sum()))(x), torch.ones(3, 2))
    assert torch.allclose(program(torch.full((3, 2), 2.0)), torch.full((3, 2), 12.0))


def test_random_numbers_are_drawn_element_by_element() -> None:
    layer = hg.nn.Dropout(0.5)
    x = torch.ones(4, 6)
    torch.manual_seed(0)
    found = hg.vmap(lambda x: layer(layer(x)))(x)
    torch.manual_seed(0)
    assert torch.equal(found.data, torch.stack([layer(layer(hg.Variable(row))).data for row in x]))


def test_what_cannot_be_captured_runs_element_by_element() -> None:
    f = lambda x: x * float(x.sum())  # noqa: E731
    mapped = hg.vmap(f)
    x = torch.randn(4, 3)
    with pytest.warns(hg.EngineWarning, match="once per element") as caught:
        found = mapped(x)
    assert torch.allclose(found.data, torch.stack([f(row) for row in x])) and len(caught) == 1
    mapped(x)


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_compiler", lambda: None)
    with pytest.warns(hg.EngineWarning, match="runs on replay"):
        found = hg.vmap(lambda x: x * x + 0.125)(torch.tensor([1.0, 2.0]))
    assert found.tolist() == [1.125, 4.125]


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda: hg.vmap(lambda x, y: x + y)(torch.ones(2), torch.ones(3)), hg.ShapeError, "as many elements"),
        (lambda: hg.vmap(hg.exp, 2)(torch.ones(2, 2)), hg.AxisError, "2"),
        (lambda: hg.vmap(hg.exp, None)(torch.ones(2, 2)), hg.OperandError, "nothing to run over"),
        (lambda: hg.vmap(hg.exp, (0, 0))(torch.ones(2, 2)), hg.OperandError, "2 entries, and 1 arguments"),
        (lambda: hg.vmap(hg.exp, ({"a": 0},))(torch.ones(2, 2)), hg.OperandError, "structure of argument 0"),
        (lambda: hg.vmap(lambda x, n: x * n)(torch.ones(2), 3), hg.OperandError, "only arrays have elements"),
        (lambda: hg.vmap(hg.exp)(), hg.OperandError, "no argument"),
        (lambda: hg.vmap(3), hg.OperandError, "takes a function"),
        (lambda: hg.vmap(hg.exp)(torch.ones(())), hg.AxisError, "no elements"),
    ],
)
def test_bad_input(call: Callable[[], Any], error: type[Exception], words: str, tape: hg.Tape) -> None:
    with pytest.raises(error, match=words):
        call()
    assert len(tape) == 0


def test_other_things_beside_arrays() -> None:
    f = lambda x, name, n: x * n if name == "times" else x + n  # noqa: E731
    mapped = hg.vmap(f, (0, None, None))
    assert mapped(torch.ones(2), "times", 3.0).tolist() == [3.0, 3.0]
    assert mapped(torch.ones(2), "plus", 3.0).tolist() == [4.0, 4.0]
    assert mapped(torch.ones(2), "plus", 5.0).tolist() == [6.0, 6.0]
