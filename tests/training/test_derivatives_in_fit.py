"""Models and losses that take derivatives themselves: penalties on gradients, equations that a network is to solve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = torch.randn(32, 1, generator=torch.Generator().manual_seed(1))


def by_grad(model: Any, x: Any) -> Any:
    return hg.grad(lambda x: model(x).sum())(x)


def by_gradients(model: Any, x: Any) -> Any:
    v = hg.Variable(x, requires_grad=True)
    return hg.gradients(model(v).sum(), v, create_graph=True)[0]


@pytest.mark.parametrize("slope", (by_grad, by_gradients))
def test_a_penalty_in_the_loss(slope: Callable[..., Any]) -> None:
    found = []
    for engine in ("eager", "replay", "native"):
        model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 1), optimizer=hg.optim.SGD(lr=0.05))
        model.reset(0)

        def loss(output: Any, target: Any, model: Any = model) -> Any:
            return hg.functional.mse(output, target) + 0.1 * (slope(model, X) ** 2).mean()

        history = model.fit(X, Y, epochs=6, batch_size=32, loss=loss, engine=engine, seed=0, verbose=False, validation_data=(X, Y))
        assert history.engine == engine and all(p.grad is None or engine == "eager" for p in model.parameters())
        found.append(torch.tensor([[row["loss"], row["val_loss"]] for row in history]))
    assert found[0][-1, 0] < found[0][0, 0] and all(torch.allclose(found[0], other, rtol=1e-5) for other in found[1:])


class WithSlope(hg.Module):
    """A network of one number, and its derivative beside it."""

    def __init__(self, slope: Callable[..., Any]) -> None:
        self.net = hg.nn.Sequential(hg.Linear(1, 8), hg.Tanh(), hg.Linear(8, 1))
        self.slope = slope

    def forward(self, x: Any) -> Any:
        return hg.cat([self.net(x), self.slope(self.net, x)], 1)


def test_an_equation_is_learnt_and_predicted() -> None:
    x = torch.linspace(0, 1, 20)[:, None]
    y = torch.cat([x**2, 2 * x], 1)
    found = []
    for engine in ("eager", "replay", "native"):
        model = hg.Sequential(WithSlope(by_grad), loss="mse", optimizer=hg.optim.Adam(lr=0.02))
        model.reset(0)
        model.fit(x, y, epochs=150, engine=engine, seed=0, verbose=False)
        assert model.evaluate(x, y)["loss"] < 0.1
        predicted = model.predict(x)
        step = 1e-3
        slope = (model.predict(x + step)[:, 0] - model.predict(x - step)[:, 0]) / (2 * step)
        assert torch.allclose(predicted[:, 1], slope, atol=1e-2)
        found.append(predicted)
    assert all(torch.allclose(found[0], other, rtol=1e-3, atol=1e-4) for other in found[1:])
