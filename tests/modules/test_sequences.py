"""Layers for sequences against torch's with the same weights: values and all gradients, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn as tnn

import hotgrad as hg
from hotgrad import interop, nn


def flat(value: Any) -> list[Any]:
    return [x for item in value for x in flat(item)] if isinstance(value, tuple) else [value]


LAYERS: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
    "RNN": (lambda: nn.RNN(3, 4, 2), ((2, 5, 3),)),
    "RNN from a state": (lambda: nn.RNN(3, 4, nonlinearity="relu"), ((2, 5, 3), (1, 2, 4))),
    "GRU": (lambda: nn.GRU(3, 4, 2), ((2, 5, 3), (2, 2, 4))),
    "GRU without bias": (lambda: nn.GRU(3, 4, bias=False), ((2, 1, 3),)),
    "LSTM": (lambda: nn.LSTM(3, 4, 2), ((2, 5, 3),)),
    "attention": (lambda: nn.MultiheadAttention(4, 2), ((2, 5, 4), (2, 3, 4), (2, 3, 4))),
    "attention without bias": (lambda: nn.MultiheadAttention(4, 1, bias=False), ((2, 5, 4), (2, 5, 4), (2, 5, 4))),
}


@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_torchs(name: str) -> None:
    make, shapes = LAYERS[name]
    layer = make().to(torch.float64)
    theirs = interop.to_torch(layer)
    assert repr(interop.from_torch(theirs)) == repr(layer)
    given = [torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)]
    ours, right = [hg.Variable(x, requires_grad=True) for x in given], [x.clone().requires_grad_() for x in given]
    outs, expected = flat(layer(*ours)), flat(theirs(*right))
    assert len(outs) == len(expected)
    weights = [torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) for x in expected]
    sum((out * w).sum() for out, w in zip(outs, weights)).backward()  # type: ignore[union-attr]
    sum((out * w).sum() for out, w in zip(expected, weights)).backward()  # type: ignore[union-attr]
    for out, wanted in zip(outs, expected):
        torch.testing.assert_close(out.data, wanted.detach(), rtol=1e-10, atol=1e-12)
    for mine, other in zip(ours, right):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
    grads = {key: value.grad for key, value in theirs.named_parameters()}
    for key, parameter in layer.named_parameters():
        wanted_grad = grads[key].mT if key.endswith("out_proj.weight") else grads[key]
        torch.testing.assert_close(parameter.grad, wanted_grad, rtol=1e-9, atol=1e-12)


def test_masks_of_attention_are_torchs() -> None:
    layer = nn.MultiheadAttention(4, 2).to(torch.float64)
    theirs = interop.to_torch(layer)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    mask = torch.triu(torch.ones(5, 5), 1).bool()
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5])
    for masks in ({"attn_mask": mask}, {"key_padding_mask": padding}, {"attn_mask": mask, "key_padding_mask": padding}):
        out, weights = layer(x, **masks)
        expected, expected_weights = theirs(x, x, x, **masks)
        torch.testing.assert_close(out.data, expected.detach())
        torch.testing.assert_close(weights.data, expected_weights.detach())
    assert layer(x, need_weights=False)[1] is None


def test_embedding() -> None:
    layer = nn.Embedding(10, 3, padding_idx=2).to(torch.float64)
    theirs = interop.to_torch(layer)
    x = torch.tensor([[1, 2, 2], [9, 1, 0]])
    out, wanted = layer(x), theirs(x)
    assert torch.equal(out.data, wanted) and layer.weight.data[2].tolist() == [0.0] * 3
    (out**2).sum().backward()
    (wanted**2).sum().backward()
    assert torch.equal(layer.weight.grad, theirs.weight.grad)
    assert repr(interop.from_torch(theirs)) == repr(layer) == "Embedding(10, 3, padding_idx=2)"
    model = hg.Sequential(nn.Embedding(10, 3), nn.Flatten(), hg.Linear(6, 2), loss="cross_entropy", optimizer="adam")
    x, y = torch.randint(10, (40, 2)), torch.randint(2, (40,))
    for engine in ("eager", "replay", "native"):
        assert model.fit(x, y, epochs=2, batch_size=10, verbose=0, engine=engine).engine == engine


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
@pytest.mark.parametrize("wrong", [10, -1])
def test_an_index_out_of_range_is_an_error_on_every_engine(engine: str, wrong: int) -> None:
    model = hg.Sequential(nn.Embedding(10, 3), nn.Flatten(), hg.Linear(6, 2), loss="mse", optimizer="sgd")
    x, y = torch.randint(10, (40, 2)), torch.randn(40, 2)
    model.fit(x, y, epochs=1, batch_size=10, verbose=0, engine=engine)
    before = [p.data.clone() for p in model.parameters()]
    x[37, 1] = wrong
    with pytest.raises(hg.RangeError):
        model.fit(x, y, epochs=1, batch_size=10, verbose=0, engine=engine)
    assert all(torch.equal(p.data, b) for p, b in zip(model.parameters(), before))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: nn.GRU(3, 4)(torch.zeros(2, 5, 4)), hg.ShapeError),
        (lambda: nn.GRU(3, 4)(torch.zeros(2, 3)), hg.ShapeError),
        (lambda: nn.GRU(3, 4)(torch.zeros(2, 5, 3), torch.zeros(2, 2, 4)), hg.ShapeError),
        (lambda: nn.LSTM(3, 4, batch_first=False), hg.SettingError),
        (lambda: nn.RNN(3, 4, nonlinearity="sin"), hg.SettingError),
        (lambda: nn.RNN(0, 4), hg.SettingError),
        (lambda: nn.MultiheadAttention(5, 2), hg.SettingError),
        (lambda: nn.MultiheadAttention(4, 2)(torch.zeros(2, 3, 5)), hg.ShapeError),
        (lambda: nn.Embedding(3, 2)(torch.tensor([0.5])), hg.OperandError),
        (lambda: nn.Embedding(3, 2)(torch.tensor([3])), hg.RangeError),
        (lambda: nn.Embedding(3, 2, padding_idx=3), hg.SettingError),
        (lambda: nn.Lambda(3), hg.OperandError),
        (lambda: nn.GroupNorm(2, 3), hg.SettingError),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), hg.SettingError),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), hg.SettingError),
        (lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same")(torch.zeros(1, 1, 4, 4)), hg.SettingError),
        (lambda: nn.MaxPool2d(2, padding=2)(torch.zeros(1, 1, 4, 4)), hg.ShapeError),
    ],
)
def test_what_is_refused(call: Any, error: Any) -> None:
    with pytest.raises(error):
        call()


CONVOLUTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (3, 4, 9)),
    "1d same": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (3, 2, 7)),
    "2d": (lambda: nn.Conv2d(4, 4, (3, 2), stride=(1, 2), padding=(2, 0), groups=4), (2, 4, 5, 6)),
    "2d same": (lambda: nn.Conv2d(1, 3, (2, 3), padding="same", dilation=(1, 2)), (2, 1, 5, 6)),
    "2d valid": (lambda: nn.Conv2d(1, 3, 2, padding="valid", bias=False), (2, 1, 5, 6)),
    "max": (lambda: nn.MaxPool2d((3, 2), stride=(1, 2), padding=1, dilation=(1, 2)), (2, 3, 6, 7)),
    "max 1d": (lambda: nn.MaxPool1d(3, 2, 1), (2, 3, 8)),
    "mean": (lambda: nn.AvgPool2d((3, 2), stride=1, padding=1, count_include_pad=False), (2, 3, 6, 7)),
    "mean 1d": (lambda: nn.AvgPool1d(3, 2, 1), (2, 3, 8)),
    "norm": (lambda: nn.BatchNorm1d(3), (4, 3, 5)),
    "norm 2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 2)),
    "groups": (lambda: nn.GroupNorm(2, 4), (3, 4, 5, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_images_and_signals_are_torchs(name: str) -> None:
    make, shape = CONVOLUTIONS[name]
    layer = make().to(torch.float64)
    theirs: tnn.Module = interop.to_torch(layer)
    assert repr(interop.from_torch(theirs)) == repr(layer)
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).relu()  # with ties
    ours, right = hg.Variable(x, requires_grad=True), x.clone().requires_grad_()
    for train in (True, False):
        layer.train(train)
        theirs.train(train)
        out, expected = layer(ours), theirs(right)
        torch.testing.assert_close(out.data, expected.detach(), rtol=1e-10, atol=1e-12)
        w = torch.randn(expected.shape, dtype=torch.float64)
        (out * w).sum().backward()
        (expected * w).sum().backward()
        torch.testing.assert_close(ours.grad, right.grad, rtol=1e-9, atol=1e-12)
    program = hg.capture(lambda v: layer(v), x)
    for engine in ("replay", "native"):
        torch.testing.assert_close(program.to(engine)(x), expected.detach(), rtol=1e-10, atol=1e-12)
