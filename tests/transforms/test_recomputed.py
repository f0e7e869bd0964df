"""`hg.remat`: the same to the last bit in less memory, random numbers and running statistics included, also in captured programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg


def grads(f: Callable[..., Any], x: torch.Tensor, parameters: list[Any]) -> list[torch.Tensor]:
    v = hg.Variable(x, requires_grad=True)
    for p in parameters:
        p.grad = None
    torch.manual_seed(3)
    f(v).sum().backward()
    return [v.grad, *(p.grad for p in parameters)]


def bits(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))


torch.manual_seed(0)
WS = [hg.Parameter(torch.randn(6, 6)) for _ in range(4)]
DROPOUT = hg.nn.Dropout(0.5)
OWN = hg.nn.Dropout(0.5)
OWN.generator = torch.Generator().manual_seed(1)
CASES: dict[str, Callable[..., Any]] = {
    "two layers": lambda x: (x @ WS[0]).tanh() @ WS[1],
    "nested": lambda x: hg.remat(lambda y: (y @ WS[1]).tanh() * y.exp())((x @ WS[0]).sigmoid()) @ WS[2],
    "dropout": lambda x: (DROPOUT(x @ WS[0])).tanh(),
    "dropout with a generator of its own": lambda x: (OWN(x @ WS[0]) @ WS[1]).tanh(),
    "numbers of torch's": lambda x: (x @ WS[0] * torch.rand(5, 6)).exp(),
    "indices and masks": lambda x: hg.where(x.data > 0, x[:, [1, 1, 0, 2, 3, 5]], x.exp()) @ WS[3],
    "a reduction": lambda x: hg.logsumexp(x @ WS[0], 1),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_the_last_bit(name: str) -> None:
    f, x = CASES[name], torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    states = []
    found = []
    for g in (f, hg.remat(f)):
        OWN.generator.manual_seed(1)  # type: ignore[union-attr]
        found.append([t for t in grads(g, x, WS) if t is not None])
        states.append((torch.rand(1).item(), torch.rand(1, generator=OWN.generator).item()))
    assert bits(*found) and states[0] == states[1], "the generators go on as without"


def test_several_results_and_arguments_in_structures() -> None:
    def f(p: dict[str, Any], *, scale: Any) -> dict[str, Any]:
        h = (p["x"] @ p["w"]).tanh()
        return {"a": h * scale, "b": [h.sum(), p["x"]]}

    x, w, scale = torch.randn(3, 6), torch.randn(6, 6), torch.tensor(2.0)

    def run(g: Callable[..., Any]) -> list[torch.Tensor]:
        given = [hg.Variable(t, requires_grad=True) for t in (x, w, scale)]
        found = g({"x": given[0], "w": given[1]}, scale=given[2])
        (found["a"].sum() + 3 * found["b"][0] + found["b"][1].exp().sum()).backward()
        return [v.grad for v in given]

    assert bits(run(f), run(hg.remat(f)))


def test_batch_norm_moves_once() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 6)
    layers = [hg.nn.BatchNorm1d(6) for _ in range(2)]
    for layer, g in zip(layers, (lambda f: f, hg.remat)):
        v = hg.Variable(x, requires_grad=True)
        g(lambda x, layer=layer: layer(x).tanh())(v).square().sum().backward()
    assert torch.equal(layers[0].running_mean, layers[1].running_mean) and torch.equal(layers[0].running_var, layers[1].running_var)
    assert torch.equal(layers[0].weight.grad, layers[1].weight.grad)


def test_higher_orders() -> None:
    f = lambda x: (x * x).tanh().sum()  # noqa: E731
    x = torch.tensor([0.3, 0.4], dtype=torch.float64)
    assert torch.equal(hg.hessian(hg.remat(f))(x).data, hg.hessian(f)(x).data)
    assert torch.equal(hg.jacobian(hg.hessian(hg.remat(f)))(x).data, hg.jacobian(hg.hessian(f))(x).data)
    assert torch.equal(
        hg.hessian(lambda x: hg.remat(lambda y: (hg.grad(f)(y) ** 2).sum())(x))(x).data,
        hg.hessian(lambda y: (hg.grad(f)(y) ** 2).sum())(x).data,
    )


def test_the_graph_may_be_walked_again() -> None:
    x = hg.Variable([0.5, 0.7], requires_grad=True)
    y = hg.remat(lambda x: (x.exp() * 2).tanh().sum())(x)
    y.backward(retain_graph=True)
    first = x.grad.clone()
    y.backward()
    assert torch.equal(x.grad, 2 * first)
    with pytest.raises(hg.TapeError):
        y.backward()


def kept(tape: hg.Tape) -> int:
    return sum(t.numel() * t.element_size() for t in {t.data_ptr(): t for record in tape for t in record.saved()}.values())


def test_memory(tape: hg.Tape) -> None:
    """What the graph keeps alive: with it the input of each block, without it three results of each besides."""
    x = hg.Variable(torch.randn(100, 6), requires_grad=True)

    def chain(wrap: Callable[..., Any]) -> Any:
        h = x
        for w in WS:
            h = wrap(lambda h, w=w: ((h @ w).tanh() * 2).sigmoid().exp())(h)
        return h.sum()

    plain = chain(lambda f: f)
    without = kept(tape)
    del plain
    again = chain(hg.remat)
    assert kept(tape) <= 4 * 6 * 6 * 4 + 2400 < without / 5
    again.backward()
    assert len(tape) == 0


def test_nothing_is_recorded_in_no_grad(tape: hg.Tape) -> None:
    with hg.no_grad():
        assert not hg.remat(lambda x: x.exp())(hg.Variable([1.0], requires_grad=True)).requires_grad
    assert hg.remat(lambda x: x.exp())(torch.ones(2)) is not None and len(tape) == 0


def test_a_write_to_an_argument_or_a_parameter_is_noticed() -> None:
    w = hg.Parameter([1.0, 2.0])
    b = hg.Parameter([1.0, 2.0])
    x = hg.Variable([1.0, 1.0], requires_grad=True)
    f = hg.remat(lambda x: (x * w + b).tanh().sum())
    for target, words in ((x, "argument of shape \\(2,\\) was written to"), (w, "something else|written to"), (b, "something else")):
        y = f(x)
        target.data.add_(1.0)
        with pytest.raises(hg.TapeError, match=words):
            y.backward()


def test_what_depends_on_a_counter_is_noticed() -> None:
    count = [0.0]

    def f(x: Any) -> Any:
        count[0] += 1
        return (x * count[0]).exp().sum()

    with pytest.raises(hg.TapeError, match="computed something else"):
        hg.remat(f)(hg.Variable([1.0], requires_grad=True)).backward()
    with pytest.raises(hg.OperandError, match="takes a function"):
        hg.remat(3)  # type: ignore[type-var]


@pytest.mark.parametrize("engine", ("replay", "native"))
def test_captured(engine: str) -> None:
    """Computed twice in the program too, in less memory on replay, with the same random numbers."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))

    def step(wrap: Callable[..., Any], random: bool) -> Callable[..., Any]:
        def run(x: Any) -> Any:
            h = x
            for w in WS:
                w.zero_grad()
            for _ in range(3):
                for w in WS:
                    h = wrap(lambda h, w=w: ((DROPOUT(h) if random else h) @ w).tanh().sin().tanh())(h)
            loss = h.sum()
            loss.backward()
            return [loss, *(w.grad for w in WS)]

        return run

    programs = [hg.capture(step(wrap, False), x).to(engine) for wrap in (lambda f: f, hg.remat)]
    tanhs = [sum(i.op is hg.ops.Tanh for i in program.code.instructions) for program in programs]
    assert tanhs == [24, 48]
    assert programs[1].memory[1] < 0.9 * programs[0].memory[1]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*(program(x) for program in programs)))
    found = []
    for wrap in (lambda f: f, hg.remat):
        program = hg.capture(step(wrap, True), x).to(engine)
        torch.manual_seed(5)
        found.append(program(x))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found))


def test_fit_on_every_engine() -> None:
    class Net(hg.Module):
        def __init__(self, wrap: Callable[..., Any]) -> None:
            generator = torch.Generator().manual_seed(0)
            self.layers = hg.nn.Sequential(hg.Linear(6, 8), hg.nn.BatchNorm1d(8), hg.Tanh(), hg.nn.Dropout(0.3))
            self.out = hg.Linear(8, 1)
            self.layers.generator = generator
            self.block = wrap(lambda x: self.layers(x))

        def forward(self, x: Any) -> Any:
            return self.out(self.block(x))

    x, y = torch.randn(40, 6), torch.randn(40, 1)
    found = []
    for engine in ("eager", "replay", "native"):
        for wrap in (lambda f: f, hg.remat):
            torch.manual_seed(0)
            model = hg.Sequential(Net(wrap), loss="mse", optimizer=hg.optim.SGD(lr=0.05))
            model.reset(0)
            model.fit(x, y, epochs=5, batch_size=8, seed=1, engine=engine, verbose=False)
            found.append(torch.cat([p.data.reshape(-1) for p in model.parameters()]))
    assert all(torch.allclose(found[0], other, rtol=1e-3, atol=1e-5) for other in found[1:])
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3])
