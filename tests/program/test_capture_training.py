"""Captured training steps and modules: the same numbers, states and random draws as eager's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from capturing import EXACT, IMAGE, OPTIMIZERS, X, check_equal, check_everything, engines, everything, network, plain, randn, training

import hotgrad as hg
from hotgrad import nn

pytestmark = pytest.mark.usefixtures("native_in_full_runs")

QUICK = {"test_batchnorm"}


@engines
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_steps(name: str, engine: str) -> None:
    for fuse in (True, False):
        eager, model = network(), network()
        step, theirs = training(OPTIMIZERS[name], eager)
        f, ours = training(OPTIMIZERS[name], model)
        x, y = randn(7, 4, seed=5), randn(7, 2, seed=6)
        program = hg.capture(f, x, y).to(engine, fuse=fuse)
        exact = not fuse and engine in EXACT
        for i in range(6):
            if i == 4:
                theirs.lr = ours.lr = 0.01
            expected = plain(step(hg.Variable(x * i), hg.Variable(y)))
            check_equal(program(x * i, y), expected, exact)
            eager.zero_grad()
        if fuse and name not in ("sgd", "momentum", "nesterov", "groups"):
            continue  # where gradients near zero are scaled up, so is their rounding
        check_everything(everything(model, ours), everything(eager, theirs), exact)


@engines
def test_eager_steps_in_between(engine: str) -> None:
    """The state is one and the same."""
    eager, model = network(), network()
    step, theirs = training(OPTIMIZERS["adam"], eager)
    f, ours = training(OPTIMIZERS["adam"], model)
    x, y = randn(7, 4, seed=5), randn(7, 2, seed=6)
    f(hg.Variable(x), hg.Variable(y))
    step(hg.Variable(x), hg.Variable(y))
    program = hg.capture(f, x, y).to(engine, fuse=False)
    for i in range(6):
        expected = plain(step(hg.Variable(x), hg.Variable(y)))
        found = program(x, y) if i % 2 else plain(f(hg.Variable(x), hg.Variable(y)))
        check_equal(found, expected, engine in EXACT)
    eager.zero_grad()
    model.zero_grad()
    check_everything(everything(model, ours), everything(eager, theirs), engine in EXACT)


@engines
@pytest.mark.parametrize("used", [False, True])
def test_an_optimizer_that_is_reset(used: bool, engine: str) -> None:
    """To a state from before its first step, which holds nothing, and to one that does."""
    eager, model = network(), network()
    step, theirs = training(OPTIMIZERS["adam"], eager)
    f, ours = training(OPTIMIZERS["adam"], model)
    x, y = randn(7, 4, seed=5), randn(7, 2, seed=6)
    program = hg.capture(f, x, y).to(engine, fuse=False)
    runs = [(lambda: step(hg.Variable(x), hg.Variable(y)), theirs), (lambda: program(x, y), ours)]
    for run, optimizer in runs:
        if used:
            run()
        before = copy.deepcopy(optimizer.state_dict())
        run()
        run()
        optimizer.load_state_dict(before)
        run()
    eager.zero_grad()
    check_everything(everything(model, ours), everything(eager, theirs), engine in EXACT)


@engines
def test_dropout_draws_anew_from_the_generator(engine: str) -> None:
    layer = nn.Dropout(0.5)
    layer.generator = torch.Generator().manual_seed(3)
    program = hg.capture(lambda x: layer(x), torch.ones(50)).to(engine)
    expected = [nn.Dropout(0.5)]
    expected[0].generator = torch.Generator().manual_seed(3)
    masks = [program(torch.ones(50)) for _ in range(4)]
    assert all(torch.equal(mask, expected[0](hg.Variable(torch.ones(50))).data) for mask in masks)
    assert len({tuple(mask.tolist()) for mask in masks}) == 4
    layer.generator.manual_seed(3)
    assert torch.equal(program(torch.ones(50)), masks[0])
    torch.manual_seed(0)
    state = torch.get_rng_state()
    program(torch.ones(50))
    assert torch.equal(torch.get_rng_state(), state)


@engines
def test_dropout_of_the_global_generator(engine: str) -> None:
    layer = nn.Dropout(0.5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    program = hg.capture(lambda x: layer(x), torch.ones(50)).to(engine)
    assert torch.equal(torch.get_rng_state(), state), "capturing draws nothing"
    mask = program(torch.ones(50))
    torch.manual_seed(1)
    assert torch.equal(mask, layer(hg.Variable(torch.ones(50))).data)


@engines
def test_two_masks_of_one_call_differ(engine: str) -> None:
    layer = nn.Dropout(0.5)
    a, b = hg.capture(lambda x: (layer(x), layer(x)), torch.ones(50)).to(engine)(torch.ones(50))
    assert not torch.equal(a, b), "draws are not common parts"


@engines
def test_batchnorm(engine: str) -> None:
    ours, theirs = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    program = hg.capture(lambda x: ours(x), X).to(engine, fuse=False)
    assert torch.equal(ours.running_mean, torch.zeros(4)) and torch.equal(ours.running_var, torch.ones(4))
    for i in range(3):
        check_equal(program(X * i), theirs(hg.Variable(X * i)).data, engine in EXACT)
        check_everything(ours.state_dict(), theirs.state_dict(), engine in EXACT)
    ours.eval()
    theirs.eval()
    with pytest.raises(hg.CaptureError, match="Capture it again"):
        program(X)
    evaluating = hg.capture(lambda x: ours(x), X).to(engine, fuse=False)
    for _ in range(2):
        check_equal(evaluating(X), theirs(hg.Variable(X)).data, engine in EXACT)
        for layer in (ours, theirs):
            layer.running_var.mul_(2)
            layer.running_mean.add_(1)


MODULES: dict[str, tuple[Callable[[], Any], torch.Tensor]] = {
    "linear": (lambda: hg.Linear(4, 3), X),
    "sequential": (network, X),
    "layernorm": (lambda: nn.LayerNorm(4), X),
    "residual": (lambda: nn.Residual(hg.Sequential(hg.Linear(4, 4), nn.GELU())), X),
    "softmax": (lambda: nn.Softmax(), X),
    "conv": (lambda: nn.Conv2d(1, 3, 2, padding=1), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "sigmoid": (lambda: nn.Sigmoid(), X),
}


@engines
@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, mode: bool, engine: str) -> None:
    make, x = MODULES[name]
    results = []
    for run in (lambda m: hg.capture(m, x).to(engine, fuse=False), lambda m: lambda data: m(hg.Variable(data)).data):
        torch.manual_seed(0)
        module = make().train(mode)
        module.use_generator(torch.Generator().manual_seed(4))
        f = run(module)
        results.append([f(x), f(x * 2), f(x)])
    check_equal(results[0], results[1], engine in EXACT)
