"""What tests of `capture` share: the engines, comparisons with eager, and inputs, models and training steps to capture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import nn, optim

ENGINES = ["replay", "native"]
EXACT = {"replay"}  # those that without fusing give eager's bits

engines = pytest.mark.parametrize("engine", ENGINES)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(result: Any) -> Any:
    """What a function gave, with tensors for Variables, cloned."""
    if isinstance(result, (tuple, list)):
        return type(result)(plain(item) for item in result)
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    return result if result is None else (result.data if isinstance(result, hg.Variable) else result).clone()


def check_equal(a: Any, b: Any, exact: bool, where: str = "result") -> None:
    """Structures are the same, and numbers too, to the bit or to rounding."""
    assert type(a) is type(b), f"{where}: {a!r} in place of {b!r}"
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for i, (x, y) in enumerate(zip(a, b)):
            check_equal(x, y, exact, f"{where}[{i}]")
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            check_equal(a[key], b[key], exact, f"{where}[{key!r}]")
    elif a is not None:
        assert type(a) is torch.Tensor
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{where}: {a} in place of {b}"
        if exact:
            same = (a == b) | ((a != a) & (b != b))
            assert bool(same.all()), f"{where}: {a} in place of {b}"
        else:
            scale = float(b.double().abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
            assert torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-5 * scale + 1e-9, equal_nan=True), (
                f"{where}: {a} in place of {b}"
            )


def as_given(x: Any) -> Any:
    return hg.Variable(x.data.clone(), requires_grad=x.requires_grad) if isinstance(x, hg.Variable) else hg.Variable(x.clone())


def check(f: Callable[..., Any], *examples: Any, engine: str = "replay", others: int = 2) -> None:
    """The program of `f` gives eager's results on the examples and on other values, with fusing and without."""
    changed = []
    for k in range(others + 1):
        changed.append([_other(x, k) for x in examples])
    expected = [plain(f(*map(as_given, given))) for given in changed]
    program = hg.capture(f, *map(as_given, examples))
    for fuse in (True, False):
        try:
            running = program.to(engine, fuse=fuse)
        except hg.EngineError as error:
            assert engine == "native"
            pytest.skip(str(error))
        for given, result in zip(changed, expected):
            check_equal(running(*given), result, exact=not fuse and engine in EXACT)
            check_equal(plain(running.run(*given)), result, exact=not fuse and engine in EXACT)


def _other(x: Any, k: int) -> Any:
    data = x.data if isinstance(x, hg.Variable) else x
    if k and data.is_floating_point():
        data = data * (1 - 0.7 * k) + 0.1
    return hg.Variable(data.clone(), requires_grad=x.requires_grad) if isinstance(x, hg.Variable) else data.clone()


def leaf(*shape: int, seed: int = 0) -> hg.Variable:
    return hg.Variable(randn(*shape, seed=seed), requires_grad=True)


X, M, POSITIVE = randn(3, 4), randn(4, 5, seed=1), randn(3, 4, seed=2).abs() + 0.5
ROWS = torch.tensor([2, 2, 0])
IMAGE, KERNEL = randn(2, 1, 5, 5), randn(3, 1, 2, 2, seed=3)

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p, lr=0.1),
    "adamw": lambda p: optim.AdamW(p, lr=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "clipped": lambda p: optim.Adam(p, lr=0.1, clip_norm=0.1),
    "schedule": lambda p: optim.Adam(p, lr=optim.CosineLR(0.1, 5, per="step")),
    "groups": lambda p: optim.SGD([{"params": p[:1], "lr": 0.2}, {"params": p[1:], "momentum": 0.5}], lr=0.05),
}


def training(make: Callable[[Any], Any], model: Any) -> tuple[Callable[..., Any], Any]:
    optimizer = make(list(model.parameters()))

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    return step, optimizer


def network(seed: int = 0) -> hg.Sequential:
    model = hg.Sequential(hg.Linear(4, 6, bias=False), nn.BatchNorm1d(6), hg.ReLU(), nn.Dropout(0.3), hg.Linear(6, 2))
    model.reset(seed)
    return model


def everything(model: Any, optimizer: Any = None) -> Any:
    """Copies of all that a step changes."""
    states = {} if optimizer is None else optimizer.state_dict()
    generator = model.generator.get_state() if model.generator is not None else torch.get_rng_state()
    return copy.deepcopy(
        ({name: t.clone() for name, t in model.state_dict().items()}, states, generator, [p.grad for p in model.parameters()])
    )


def check_everything(a: Any, b: Any, exact: bool = True) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            check_everything(a[key], b[key], exact)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            check_everything(x, y, exact)
    elif isinstance(a, torch.Tensor):
        check_equal(a, b, exact)
    else:
        assert a == b
