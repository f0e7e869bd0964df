"""Models as their users write them: each trains alike on every engine, fifty steps, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fitting import compare, state

import hotgrad as hg
from hotgrad import nn

GENERATOR = torch.Generator().manual_seed(5)


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


class Characters(nn.Module):
    """A look-up table, three characters of context, a hidden layer: the language model of Bengio and others (2003)."""

    def __init__(self) -> None:
        self.table = hg.Parameter(torch.randn(27, 4))
        self.hidden, self.out = hg.Linear(12, 16), hg.Linear(16, 27)

    def forward(self, x: Any) -> Any:
        return self.out(torch.tanh(self.hidden(self.table[x].view(x.shape[0], -1))))


class OwnLSTM(nn.Module):
    def __init__(self) -> None:
        self.gates, self.out = hg.Linear(3 + 5, 20), hg.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        h, c = torch.zeros(x.shape[0], 5, dtype=x.dtype), torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for step in range(x.shape[1]):
            i, f, g, o = self.gates(hg.cat([x[:, step], h], dim=1)).chunk(4, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return self.out(h)


class OwnGRU(nn.Module):
    def __init__(self) -> None:
        self.gates, self.new, self.out = hg.Linear(3 + 5, 10), hg.Linear(3 + 5, 5), hg.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for part in x.unbind(1):
            r, z = self.gates(torch.cat([part, h], dim=1)).sigmoid().split(5, dim=1)
            n = torch.tanh(self.new(torch.cat([part, r * h], dim=1)))
            h = torch.lerp(n, h, z)
        return self.out(h)


class Recurrent(nn.Module):
    def __init__(self, kind: Any) -> None:
        self.inner, self.out = kind(3, 5, num_layers=2), hg.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        outputs, _ = self.inner(x)
        return self.out(outputs[:, -1])


class Attention(nn.Module):
    """A block of a transformer by hand, causal."""

    def __init__(self) -> None:
        self.qkv, self.proj = hg.Linear(8, 24), hg.Linear(8, 8)
        self.norm, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down, self.out = hg.Linear(8, 16), hg.Linear(16, 8), hg.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        n, length, width = x.shape
        q, k, v = (part.view(n, length, 2, width // 2).transpose(1, 2) for part in self.qkv(self.norm(x)).split(width, dim=2))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(width // 2)
        mask = torch.tril(torch.ones(length, length)) == 0
        mixed = torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v
        x = x + self.proj(mixed.transpose(1, 2).contiguous().view(n, length, width))
        x = x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))
        return self.out(x.mean(dim=1))


class Variational(nn.Module):
    def __init__(self) -> None:
        self.encoder, self.decoder = hg.Linear(6, 4), hg.Linear(2, 6)

    def forward(self, x: Any) -> Any:
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * log_var) * hg.randn_like(mu)
        return torch.cat([self.decoder(z), mu, log_var], dim=1)


def evidence(output: Any, target: Any) -> Any:
    found, mu, log_var = output.split([6, 2, 2], dim=1)
    return ((found - target) ** 2).sum(1).mean() - 0.5 * (1 + log_var - mu**2 - log_var.exp()).sum(1).mean()


def lenet() -> hg.Sequential:
    return hg.Sequential(
        lambda x: x.reshape(-1, 1, 28, 28), nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), hg.Linear(400, 120), nn.ReLU(), hg.Linear(120, 84), nn.ReLU(), hg.Linear(84, 10),
    )  # fmt: skip


class UShaped(nn.Module):
    def __init__(self) -> None:
        self.down, self.inner, self.up = nn.Conv1d(1, 4, 3, padding="same"), nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(8, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        first = torch.relu(self.down(x.unsqueeze(1)))
        low = torch.relu(self.inner(hg.functional.avg_pool1d(first, 2)))
        back = low.repeat_interleave(2, dim=2)
        return self.up(torch.cat([first, back], dim=1)).squeeze(1)


class Physics(nn.Module):
    """u'' = -sin(x) with u(0) = 0: the second derivative inside the forward."""

    def __init__(self) -> None:
        self.a, self.b = hg.Linear(1, 8), hg.Linear(8, 1)

    def u(self, x: Any) -> Any:
        return self.b(torch.tanh(self.a(x)))

    def forward(self, x: Any) -> Any:
        slope = hg.grad(lambda x: self.u(x).sum())
        second = hg.grad(lambda x: slope(x).sum())(x)
        return torch.cat([second + torch.sin(x), self.u(0.0 * x)], dim=1)


class Critic(nn.Module):
    """Its output, and what its gradient is short of norm 1: a gradient penalty."""

    def __init__(self) -> None:
        self.a, self.b = hg.Linear(3, 8), hg.Linear(8, 1)

    def f(self, x: Any) -> Any:
        return self.b(torch.nn.functional.softplus(self.a(x)))

    def forward(self, x: Any) -> Any:
        slope = hg.grad(lambda x: self.f(x).sum())(x)
        return torch.cat([self.f(x), (slope.norm(2, dim=1, keepdim=True) - 1) ** 2], dim=1)


class Experts(nn.Module):
    def __init__(self, sparse: bool) -> None:
        self.sparse, self.gate = sparse, hg.Linear(4, 3)
        self.experts = [hg.Linear(4, 2), hg.Linear(4, 2), hg.Linear(4, 2)]

    def forward(self, x: Any) -> Any:
        logits = self.gate(x)
        if self.sparse:
            values, indices = logits.topk(2, dim=1)
            logits = torch.full_like(logits, float("-inf")).scatter(1, indices, values)
        outs = torch.stack([expert(x) for expert in self.experts], dim=2)
        return (outs * torch.softmax(logits, dim=1).unsqueeze(1)).sum(2)


class Flow(nn.Module):
    """A linear flow by a triangular matrix, and a mixture as its base: the negative log-likelihood of each row."""

    def __init__(self) -> None:
        self.weight, self.means = hg.Parameter(torch.eye(3) + 0.1), hg.Parameter(torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.5, -1.0]]))

    def forward(self, x: Any) -> Any:
        lower = torch.tril(self.weight)
        z = x @ lower.T
        each = -0.5 * ((z.unsqueeze(1) - self.means) ** 2).sum(-1) - math.log(2)
        return -(torch.logsumexp(each, dim=1, keepdim=True) + torch.diagonal(lower).abs().log().sum())


def square(output: Any, target: Any) -> Any:
    return ((output - target) ** 2).mean()


def total(output: Any, target: Any) -> Any:
    return output.mean()


def labels(n: int, classes: int) -> torch.Tensor:
    return torch.randint(classes, (n,), generator=GENERATOR)


X, SERIES = numbers(20, 4), numbers(20, 6, 3)
MODELS: dict[str, tuple[Callable[[], Any], torch.Tensor, torch.Tensor, Any, int]] = {
    "characters": (
        lambda: hg.Sequential(Characters()),
        torch.randint(27, (20, 3), generator=GENERATOR),
        labels(20, 27),
        "cross_entropy",
        50,
    ),
    "LSTM by hand": (lambda: hg.Sequential(OwnLSTM()), SERIES, numbers(20, 2), square, 50),
    "GRU by hand": (lambda: hg.Sequential(OwnGRU()), SERIES, numbers(20, 2), "mse", 50),
    "LSTM": (lambda: hg.Sequential(Recurrent(nn.LSTM)), SERIES, numbers(20, 2), "mse", 50),
    "GRU": (lambda: hg.Sequential(Recurrent(nn.GRU)), SERIES, numbers(20, 2), "mse", 50),
    "attention": (lambda: hg.Sequential(Attention()), numbers(20, 5, 8), numbers(20, 2), "mse", 50),
    "variational": (lambda: hg.Sequential(Variational()), numbers(20, 6), numbers(20, 6), evidence, 50),
    "LeNet-5": (lenet, numbers(10, 28 * 28), labels(10, 10), "cross_entropy", 6),
    "U-shaped": (lambda: hg.Sequential(UShaped()), numbers(20, 8), numbers(20, 8), "mse", 50),
    "physics": (lambda: hg.Sequential(Physics()), numbers(20, 1), torch.zeros(20, 2, dtype=torch.float64), "mse", 50),
    "gradient penalty": (lambda: hg.Sequential(Critic()), numbers(20, 3), numbers(20, 2), square, 50),
    "experts": (lambda: hg.Sequential(Experts(False)), X, numbers(20, 2), "mse", 50),
    "sparse experts": (lambda: hg.Sequential(Experts(True)), X, numbers(20, 2), "mse", 50),
    "flow": (lambda: hg.Sequential(Flow()), numbers(20, 3), torch.zeros(20, 1, dtype=torch.float64), total, 50),
}
EAGER: dict[str, Any] = {}


def trained(name: str, engine: str) -> Any:
    make, x, y, loss, steps = MODELS[name]
    torch.manual_seed(0)
    model = make().to(torch.float64)
    history = model.fit(
        x, y, loss=loss, optimizer=hg.optim.Adam(model.parameters(), lr=0.01), epochs=max(steps // 2, 1), batch_size=(len(x) + 1) // 2, seed=1,
        verbose=0, engine=engine,
    )  # fmt: skip
    return state(model), history.engine


@pytest.mark.parametrize("engine", ["replay", "native"])
@pytest.mark.parametrize("name", MODELS)
def test_models_train_alike(name: str, engine: str, thorough: bool) -> None:
    if engine == "native" and not thorough and name in ("GRU by hand", "LSTM", "GRU", "U-shaped", "gradient penalty", "experts"):
        pytest.skip("with --thorough")
    if name not in EAGER:
        EAGER[name] = trained(name, "eager")[0]
    if name == "sparse experts" and engine == "native":  # topk has no native form, and says so
        with pytest.raises(hg.EngineError, match="TopK"):
            trained(name, engine)
        return
    found, ran = trained(name, engine)
    assert ran == engine
    compare(found, EAGER[name], 1e-9)
