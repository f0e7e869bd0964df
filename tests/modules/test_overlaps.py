"""Parameters and buffers that share memory: a step would change both, in an order that engines choose. They are refused."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fitting import compare, state

import hotgrad as hg
from hotgrad import optim
from hotgrad.checks import overlapping
from hotgrad.training.job import Data

BASE = torch.arange(12.0).reshape(3, 4)
PAIRS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "one tensor": (lambda t: t, lambda t: t, True),
    "a view of all": (lambda t: t, lambda t: t.view(-1), True),
    "transposed": (lambda t: t, lambda t: t.T, True),
    "a row of it": (lambda t: t, lambda t: t[1], True),
    "slices that meet": (lambda t: t[:2], lambda t: t[1:], True),
    "columns that meet": (lambda t: t[:, :2], lambda t: t[:, 1:], True),
    "slices side by side": (lambda t: t[:2], lambda t: t[2:], False),
    "columns side by side": (lambda t: t[:, :2], lambda t: t[:, 2:], False),
    "every second": (lambda t: t.view(-1)[::2], lambda t: t.view(-1)[1::2], False),
    "diagonal and row": (lambda t: t.diagonal(), lambda t: t[1, 2:], False),
    "a clone": (lambda t: t, lambda t: t.clone(), False),
    "nothing": (lambda t: t, lambda t: t[:0], False),
}


def combined(a: Any, b: Any) -> Any:
    return a.square().mean() + (b.square().mean() + (a.flatten()[:2] - b.flatten()[:2]).square().sum() if b.numel() else 0)


@pytest.mark.parametrize("name", PAIRS)
def test_two_parameters(name: str) -> None:
    first, second, refused = PAIRS[name]
    data = BASE.clone()
    a, b = hg.Parameter(first(data)), hg.Parameter(second(data))
    assert bool(overlapping([("a", a.data, True), ("b", b.data, False)])) == refused
    optimizer = optim.SGD(lr=0.1)
    if refused:
        with pytest.raises(hg.SettingError, match=r"parameter \d of shape .* overlaps parameter \d of shape .*one Parameter in both"):
            optimizer.bind([a, b])
        assert not optimizer.groups
        with pytest.raises(hg.SettingError, match="overlaps"):
            optim.LBFGS([{"params": [a, b]}])
        a.requires_grad = b.requires_grad = False  # then nothing writes to them
    optimizer.bind([a, b])


@pytest.mark.parametrize("engine", ["eager", "replay", "auto"])
@pytest.mark.parametrize("name", PAIRS)
def test_in_a_model(name: str, engine: str) -> None:
    first, second, refused = PAIRS[name]

    class Net(hg.Module):
        def __init__(self, buffer: bool) -> None:
            data = BASE.clone()
            self.a = hg.Parameter(first(data))
            if buffer:
                self.register_buffer("b", second(data))
            else:
                self.b = hg.Parameter(second(data))

        def forward(self, x: Any) -> Any:
            one = x.sum() * 0 + 1  # for a buffer is a plain tensor
            return x * combined(self.a * one, self.b * one)

    for buffer in (False, True):
        model = hg.Sequential(Net(buffer), loss="mse", optimizer="sgd")
        before = state(model) if model.optimizer.groups else None
        if refused:
            with pytest.raises(hg.SettingError, match=r"0\.(a|b) of shape .* overlaps 0\.(a|b) of shape"):
                model.fit([[1.0], [2.0]], [[0.0], [0.0]], seed=0, verbose=0, engine=engine)
            assert not model.optimizer.groups and model.generator is None and before is None
            model[0].freeze()
            continue
        model.fit([[1.0], [2.0]], [[0.0], [0.0]], epochs=3, seed=0, verbose=0, engine=engine)
        peer = hg.Sequential(Net(buffer), loss="mse", optimizer="sgd")
        peer.fit([[1.0], [2.0]], [[0.0], [0.0]], epochs=3, seed=0, verbose=0, engine="eager")
        compare(state(model), state(peer))


def test_expanded_parameters() -> None:
    with pytest.raises(hg.SettingError, match="overlaps itself"):
        optim.SGD([hg.Parameter(torch.zeros(1).expand(3))])


def test_other_dtypes_of_the_same_bytes() -> None:
    wide = torch.zeros(4, dtype=torch.float64)
    narrow = wide.view(torch.float32)
    assert overlapping([("a", wide[:2], True), ("b", narrow[3:5], True)])
    assert not overlapping([("a", wide[:2], True), ("b", narrow[4:5], True)])


def test_in_a_program() -> None:
    """Also what no optimizer knows of."""
    data = torch.ones(4)
    w, other = hg.Parameter(data), hg.Variable(data[1:3], requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    def step(x: Any) -> Any:
        optimizer.zero_grad()
        other.zero_grad()
        loss = (w * x).sum() * (other * other).sum()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.raises(hg.CaptureError, match="overlap in memory"):
        hg.capture(step, torch.ones(4))
    program = hg.capture(lambda x: (w * x).sum() * (other * other).sum(), torch.ones(4))  # reads them only
    assert program(torch.ones(4)) == 8


# ------------------------------------------------------------------------------------------- data that lie in the model


INSIDE: dict[str, Callable[[hg.Sequential, torch.Tensor, torch.Tensor], dict[str, Any]]] = {
    "x": lambda m, x, y: {"x": m[0].weight.data.T, "y": y},
    "x in numpy": lambda m, x, y: {"x": m[0].weight.data.numpy().T, "y": y},
    "x of the last rows": lambda m, x, y: {"x": m[0].weight.data.view(-1)[2:12].view(5, 2), "y": y[:5]},
    "y": lambda m, x, y: {"x": x, "y": m[0].weight.data.T, "loss": "mse"},
    "x and y": lambda m, x, y: {"x": m[0].weight.data.T, "y": m[0].weight.data.T, "loss": "mse"},
    "sample_weight": lambda m, x, y: {"x": x, "y": y, "sample_weight": m[0].bias.data},
    "validation x": lambda m, x, y: {"x": x, "y": y, "validation_data": (m[0].weight.data.T, y)},
    "validation y": lambda m, x, y: {"x": x, "y": x.clone(), "loss": "mse", "validation_data": (x, m[0].weight.data.T)},
    "a running mean": lambda m, x, y: {"x": m[1].running_mean.view(3, 2), "y": y[:3]},
}


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
@pytest.mark.parametrize("name", INSIDE)
def test_data_in_the_memory_of_the_model(name: str, engine: str) -> None:
    """Train as their values at the start do."""

    def trained(engine: str, copied: bool) -> tuple[dict[str, Any], Any]:
        model = hg.Sequential(hg.Linear(2, 6), hg.nn.BatchNorm1d(6), hg.Linear(6, 2), loss="cross_entropy", optimizer=optim.SGD(lr=0.05))
        model.reset(1)
        torch.nn.init.uniform_(model[0].bias.data, 0.1, 1.0, generator=torch.Generator().manual_seed(0))
        x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
        model[1].running_mean.copy_(x.flatten()[:6])
        given = INSIDE[name](model, x, torch.arange(6) % 2)
        given = copy.deepcopy(given) if copied else given
        history = model.fit(**given, epochs=4, batch_size=3, seed=0, verbose=0, engine=engine)
        return state(model), [{**row, "seconds": 0} for row in history]

    found, expected = trained(engine, False), trained(engine, True)
    assert found[1] == expected[1]
    compare(found[0], expected[0])
    if engine == "replay":
        assert found[1] == trained("eager", False)[1]


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
def test_data_in_the_memory_of_a_layer_that_comes(engine: str) -> None:
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2

    def trained(copied: bool) -> dict[str, Any]:
        model = hg.Sequential(hg.Linear(2, 6), hg.Linear(6, 2), loss="cross_entropy", optimizer=optim.SGD(lr=0.5))
        model.reset(1)
        given = x.clone()

        def grow(model: hg.Sequential, history: Any) -> None:
            if len(history) == 2:
                layer = hg.Linear(2, 2)
                layer.weight = hg.Parameter(given[:2].clone() if copied else given[:2])
                layer.bias.data.zero_()
                model.append(layer)

        model.fit(given, y, epochs=5, batch_size=3, seed=0, verbose=0, engine=engine, callbacks=[grow])
        return state(model)

    compare(trained(False), trained(True))


def test_data_apart_from_the_model_are_not_copied() -> None:
    whole, y = torch.zeros(12), torch.zeros(4, 2)
    model = hg.Sequential(hg.Linear(2, 2), loss="mse", optimizer="sgd")
    model[0].weight = hg.Parameter(whole[:4].view(2, 2))
    for first, copied in ((4, False), (3, True)):
        x = whole[first : first + 8].view(4, 2)
        data = Data(x, y)
        data.keep_apart(model)
        assert (data.x is not x) == copied
        assert data.y is y


# shape and strides of what overlaps itself, or does not, though it is not dense
STRIDES = {
    ((2, 2), (1, 1)): True, ((3, 2), (2, 2)): True, ((3,), (0,)): True, ((4, 3), (2, 3)): True, ((2, 2), (1, 2)): False,
    ((2, 3), (3, 2)): False, ((2, 2), (4, 1)): False, ((1, 3), (0, 2)): False, ((0, 2), (1, 1)): False,
}  # fmt: skip


@pytest.mark.parametrize("shape, strides", STRIDES)
@pytest.mark.parametrize("write", [lambda view, other: operator.iadd(hg.Variable(view), other), torch.Tensor.add_])
def test_augmented_assignment_to_what_overlaps_itself(shape: tuple[int, ...], strides: tuple[int, ...], write: Any) -> None:
    view = torch.arange(16.0).as_strided(shape, strides)
    before, other = view.clone(), torch.arange(float(view.numel())).reshape(shape)
    assert (overlapping([("a", view, True)]) is not None) == STRIDES[shape, strides]
    if STRIDES[shape, strides]:
        with pytest.raises(hg.OperandError, match="one in memory"):
            write(view, hg.Variable(other))
        assert torch.equal(view, before)
    else:
        write(view, hg.Variable(other))
        assert torch.equal(view, before + other)
