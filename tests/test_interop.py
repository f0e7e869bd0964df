"""Networks to torch.nn and back: the same function, the same state, the same things shared and frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn as tnn

import hotgrad as hg
from hotgrad import interop, nn
from hotgrad.errors import OperandError, ShapeError, TapeError


def network() -> hg.Sequential:
    """Every kind of layer, one of them twice, some of it frozen."""
    shared = hg.Linear(8, 8)
    return hg.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1), hg.ReLU(), nn.Flatten(), hg.Linear(8, 8), nn.LayerNorm(8), hg.Tanh(), shared,
        nn.BatchNorm1d(8), nn.GELU(), shared, nn.Residual(hg.Sequential(hg.Linear(8, 8).freeze(), nn.Sigmoid())),
        nn.Residual(hg.Linear(8, 4), hg.Linear(8, 4, bias=False)), nn.Dropout(0.3), nn.Softmax(1),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype: torch.dtype) -> None:
    model = network().to(dtype)
    x = torch.randn(5, 1, 4, 4, dtype=dtype)
    model(x)  # moves the running statistics
    model.eval()
    theirs = interop.to_torch(model)
    back = interop.from_torch(theirs)
    expected = theirs(x)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    assert torch.allclose(model(x).data, expected, atol=tolerance)
    assert torch.allclose(back(x).data, expected, atol=tolerance)
    assert not theirs.training
    assert not any(module.training for module in back.modules())
    assert theirs[6] is theirs[9]
    assert back[6] is back[9]  # type: ignore[index]
    assert repr(back) == repr(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in theirs.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, p in back.named_parameters() if not p.requires_grad}
    for name, value in model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name])


def test_copies_share_nothing() -> None:
    model = hg.Sequential(hg.Linear(2, 2), nn.BatchNorm1d(2))
    theirs = interop.to_torch(model)
    back = interop.from_torch(theirs)
    for p in theirs.parameters():
        p.data.fill_(7.0)
    theirs[1].running_mean.fill_(7.0)
    assert not any((value == 7).any() for value in (*model.state_dict().values(), *back.state_dict().values()))


def test_conversion_leaves_the_global_generator_alone() -> None:
    theirs = tnn.Sequential(tnn.Linear(3, 2), tnn.Conv2d(1, 1, 2))
    state = torch.get_rng_state()
    back = interop.from_torch(theirs)
    assert torch.equal(state, torch.get_rng_state())
    back.reset_parameters(torch.Generator().manual_seed(0))
    assert back[0].weight.data.any()  # type: ignore[index]
    assert repr(back[0]) == "Linear(3, 2)"  # type: ignore[index]


def test_tied_weights_stay_tied() -> None:
    a, b = hg.Linear(3, 3), hg.Linear(3, 3)
    b.weight = a.weight
    theirs = interop.to_torch(hg.Sequential(a, b))
    assert theirs[0].weight is theirs[1].weight
    back = interop.from_torch(theirs)
    assert back[0].weight is back[1].weight  # type: ignore[index]


def test_training_goes_on_the_same() -> None:
    model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 2)).to(torch.float64)
    theirs = interop.to_torch(model)
    ours, reference = hg.optim.Adam(model.parameters(), lr=0.05), torch.optim.Adam(theirs.parameters(), lr=0.05)
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0, 1, 0])
    for _ in range(10):
        ours.zero_grad()
        reference.zero_grad()
        hg.CrossEntropy()(model(x), y).backward()
        tnn.functional.cross_entropy(theirs(x), y).backward()
        ours.step()
        reference.step()
    state = interop.to_torch_state(model)
    assert all(torch.allclose(state[name], value, rtol=1e-10) for name, value in theirs.state_dict().items())


class Own(hg.Module):
    def __init__(self) -> None:
        self.lin = hg.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.scale = hg.Parameter(torch.ones(2, 3))

    def forward(self, x: Any) -> Any:
        return self.norm(self.lin(x)) @ self.scale


class Theirs(tnn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = tnn.Linear(3, 2)
        self.norm = tnn.BatchNorm1d(2)
        self.scale = tnn.Parameter(torch.randn(2, 3))

    def forward(self, x: Any) -> Any:
        return self.norm(self.lin(x)) @ self.scale


def test_weights_of_own_classes() -> None:
    ours, theirs = Own().eval(), Theirs().eval()
    interop.from_torch_state(ours, theirs.state_dict())
    x = torch.randn(4, 3)
    assert torch.allclose(ours(x).data, theirs(x), atol=1e-6)
    other = Theirs().eval()
    other.load_state_dict(interop.to_torch_state(ours), strict=False)  # all but num_batches_tracked
    assert torch.allclose(other(x), theirs(x), atol=1e-6)
    with pytest.raises(ShapeError, match=r"(?s)missing: norm.*weight is \(2, 3\), expected \(3, 2\)"):
        interop.from_torch_state(ours, {"lin.weight": torch.zeros(3, 2), "lin.bias": torch.zeros(2)})


def test_lazy_layers() -> None:
    lazy = hg.Linear(2)
    with pytest.raises(TapeError, match="not sized"):
        interop.to_torch(lazy)
    interop.from_torch_state(lazy, tnn.Linear(3, 2).state_dict())
    assert lazy.in_features == 3


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda: interop.to_torch(Own()), "got Own.*to_torch_state"),
        (lambda: interop.to_torch(hg.Sequential(hg.Linear(1, 1), torch.tanh)), "got builtin_function"),
        (lambda: interop.from_torch(tnn.Sequential(tnn.Bilinear(1, 1, 1))), "got Bilinear"),
        (lambda: interop.from_torch(tnn.LSTM(1, 1, batch_first=True, bidirectional=True)), "bidirectional"),
        (lambda: interop.from_torch(tnn.Embedding(2, 2, max_norm=1.0)), "max_norm"),
        (lambda: interop.from_torch(tnn.Conv2d(2, 2, 1, padding_mode="circular")), "padding_mode"),
        (lambda: interop.from_torch(tnn.BatchNorm1d(2, track_running_stats=False)), "track_running_stats"),
        (lambda: interop.from_torch(tnn.BatchNorm1d(2, momentum=None)), "momentum=None"),
        (lambda: interop.from_torch(tnn.Softmax()), "dim=None"),
    ],
)
def test_what_cannot_be_converted(convert: Any, message: str) -> None:
    with pytest.raises(OperandError, match=message):
        convert()
