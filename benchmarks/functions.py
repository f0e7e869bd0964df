"""The group `functions`: derivatives of functions and what searches with them. JAX needs to be installed beside hotgrad to be a contender."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hotgrad as hg
from measure import Group, interleaved, repeated

Works = dict[str, Callable[[], Any]]


def functions(quick: bool) -> dict[str, Any]:
    """Each case's contenders, compared with the first, whose numbers the others must have."""
    group = Group("derivatives of functions", ("hotgrad",), "hotgrad's")
    jax = importlib.util.find_spec("jax") is not None
    if not jax:
        group.missing["JAX jit"] = "not installed: jax"
    cases: dict[str, Works] = {
        "gradient penalty, 4-32-32-1, 64 rows": penalty(),
        "of 92,000 parameters": products(),
        "10 outputs": jacobian(),
    }
    for n in (20, 100):
        cases[f"Hessian of Rosenbrock, n = {n}"] = rosenbrock(n, jax)
    if importlib.util.find_spec("scipy"):
        cases["200 iterations of L-BFGS-B, 13-50-1, 506 rows"] = searching(jax)
    for case, works in cases.items():
        values = {name: np.asarray(work()) for name, work in works.items()}
        first = next(iter(values.values()))
        for name, value in values.items():
            if value.shape == first.shape and not np.allclose(value, first, rtol=1e-3):
                group.failed.append(f"{case}, {name}: gives {value}, in place of {first}")
        group.add(case, interleaved({name: repeated(work, 0.02) for name, work in works.items()}, 5 if quick else 21))
    return dataclasses.asdict(group)


def penalty() -> Works:
    """The gradient of a penalty on the gradient with respect to the input, eagerly."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) * 0.3 for shape in ((4, 32), (32,), (32, 32), (32,), (32, 1), (1,))]
    rows = torch.randn(64, 4, generator=generator)

    def network(p: Any, x: Any) -> Any:
        return ((x @ p[0] + p[1]).tanh() @ p[2] + p[3]).tanh() @ p[4] + p[5]

    def loss(out: Any, g: Any) -> Any:
        return (((g * g).sum(1) - 1) ** 2).mean() + out.mean()

    mine, theirs = [hg.Parameter(t.clone()) for t in start], [t.clone().requires_grad_() for t in start]

    def hotgrad() -> Tensor:
        for p in mine:
            p.grad = None
        x = hg.Variable(rows, requires_grad=True)
        out = network(mine, x)
        loss(out, hg.gradients(out.sum(), x, create_graph=True)[0]).backward()
        return mine[0].grad.sum()

    def autograd() -> Tensor:
        for p in theirs:
            p.grad = None
        x = rows.clone().requires_grad_()
        out = network(theirs, x)
        loss(out, torch.autograd.grad(out.sum(), x, create_graph=True)[0]).backward()
        return theirs[0].grad.sum()

    return {"torch.autograd": autograd, "hotgrad": hotgrad}


def products() -> Works:
    """A network's gradient, and its Hessian's product with a vector."""
    w = [torch.randn(a, b) * 0.05 for a, b in ((100, 300), (300, 200), (200, 10))]
    x, v = torch.randn(64, 100), [torch.randn_like(t) for t in w]

    def loss(w: Any) -> Any:
        return ((((x @ w[0]).tanh() @ w[1]).tanh() @ w[2]) ** 2).mean()

    return {
        "hotgrad gradient": lambda: [float(g.data.sum()) for g in hg.grad(loss)(w)],
        "hotgrad hvp": lambda: float(hg.hvp(loss, (w,), (v,))[0].data),
    }


def jacobian() -> Works:
    """A forward and a backward, and a Jacobian of ten outputs."""
    w = [torch.randn(a, b) * 0.05 for a, b in ((100, 300), (300, 200), (200, 10))]
    x, seed = torch.randn(100), torch.ones(10)

    def network(x: Any) -> Any:
        return ((x @ w[0]).tanh() @ w[1]).tanh() @ w[2]

    def once() -> Tensor:
        v = hg.Variable(x, requires_grad=True)
        network(v).backward(seed)
        return v.grad.sum()

    return {"hotgrad forward and backward": once, "hotgrad jacobian": lambda: hg.jacobian(network)(x).data.sum()}


def rosenbrock(n: int, jax: bool) -> Works:
    """A captured Hessian in float64, on native and replay, and JAX's."""

    def f(x: Any) -> Any:
        return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    at = torch.linspace(-1, 1, n, dtype=torch.float64)
    program = hg.capture(hg.hessian(f), at)
    native = program.to("native")
    works: Works = {"hotgrad native": lambda: native(at).sum(), "hotgrad replay": lambda: program(at).sum()}
    if jax:
        import jax as peer

        peer.config.update("jax_enable_x64", True)
        compiled, there = peer.jit(peer.hessian(f)), peer.numpy.asarray(at.numpy())
        works["JAX jit"] = lambda: compiled(there).block_until_ready().sum()
    return works


def searching(jax: bool) -> Works:
    """SciPy's L-BFGS-B on a network's loss in float64; and hotgrad's own L-BFGS in `fit`, of as many iterations."""
    from scipy import optimize

    shapes = ((13, 50), (50,), (50, 1), (1,))
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator, dtype=torch.float64) * 0.2 for shape in shapes]
    x = torch.randn(506, 13, generator=generator, dtype=torch.float64)
    y = torch.randn(506, 1, generator=generator, dtype=torch.float64) + x[:, :1]
    options = {"maxiter": 200, "maxfun": 10**6, "ftol": 0.0, "gtol": 0.0}

    def loss(p: Any) -> Any:
        return (((x @ p[0] + p[1]).tanh() @ p[2] + p[3] - y) ** 2).mean()

    def fit() -> list[float]:
        model = hg.Sequential(hg.Linear(13, 50), hg.Tanh(), hg.Linear(50, 1), loss="mse").to(torch.float64)
        for parameter, t in zip(model.parameters(), start):
            parameter.data.copy_(t)
        optimizer = hg.optim.LBFGS(
            line_search_fn="strong_wolfe", max_iter=200, max_eval=2000, history_size=10, tolerance_change=0, tolerance_grad=0
        )
        model.fit(x, y, epochs=1, optimizer=optimizer, engine="native", verbose=False)
        return model.evaluate(x, y)["loss"]

    works: Works = {
        "hotgrad minimize, native": lambda: [hg.minimize(loss, start, engine="native", options=options).fun],  # lists: ends differ
        "hotgrad fit with LBFGS": fit,
    }
    if jax:
        import jax as peer

        peer.config.update("jax_enable_x64", True)
        there = [peer.numpy.asarray(t.numpy()) for t in (x, y)]
        flat = np.concatenate([t.numpy().ravel() for t in start])

        def of_vector(z: Any) -> Any:
            a, b, c, d = z[:650].reshape(13, 50), z[650:700], z[700:750].reshape(50, 1), z[750:]
            return ((peer.numpy.tanh(there[0] @ a + b) @ c + d - there[1]) ** 2).mean()

        both = peer.jit(peer.value_and_grad(of_vector))

        def call(z: Any) -> tuple[float, Any]:
            value, gradient = both(z)
            return float(value), np.asarray(gradient)

        works["SciPy with JAX jit"] = lambda: [optimize.minimize(call, flat, jac=True, method="L-BFGS-B", options=options).fun, 0.0]
    return works
