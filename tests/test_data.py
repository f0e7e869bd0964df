"""The disc problem, normalisation, one-hot targets and batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from hotgrad.data import batches, disc, normalize, one_hot
from hotgrad.errors import DataError, DtypeError, SettingError, ShapeError


def test_disc() -> None:
    x, labels = disc(20000, seed=1)
    assert (x.shape, labels.shape, x.dtype, labels.dtype) == ((20000, 2), (20000,), torch.float32, torch.int64)
    assert float(x.min()) >= 0
    assert float(x.max()) < 1
    inside = (x - 0.5).norm(dim=1) < 1 / math.sqrt(2 * math.pi)
    assert torch.equal(labels, inside.long())
    assert labels.double().mean() == pytest.approx(0.5, abs=0.015)  # the disc covers half of the square


def test_disc_seeds() -> None:
    state = torch.get_rng_state()
    assert torch.equal(disc(5, 3)[0], disc(5, 3)[0])
    assert not torch.equal(disc(5, 3)[0], disc(5, 4)[0])
    assert torch.equal(state, torch.get_rng_state()), "a seed leaves the global generator alone"
    torch.manual_seed(0)
    first = disc(5)[0]
    torch.manual_seed(0)
    assert torch.equal(first, disc(5)[0])
    assert len(disc(5, 2**64 - 1)[0]) == 5
    for seed in (2**64, -1, 1.5, True, "1"):
        with pytest.raises(SettingError, match="seed must be"):
            disc(5, seed)  # type: ignore[arg-type]
    for n in (0, -1, 2.5, True):
        with pytest.raises(SettingError, match="whole number"):
            disc(n)  # type: ignore[arg-type]


def test_normalize() -> None:
    train, test = torch.randn(50, 3) * 5 + 2, torch.randn(20, 3)
    a, b = normalize(train, test)
    assert torch.allclose(a.mean(0), torch.zeros(3), atol=1e-6)
    assert torch.allclose(a.std(0, correction=0), torch.ones(3), atol=1e-5)
    assert torch.allclose(b, (test - train.mean(0)) / train.std(0, correction=0))
    assert torch.equal(normalize(train), a)
    array = normalize(np.array([[1.0], [3.0]]))
    assert array.dtype is torch.float64
    assert array.tolist() == [[-1.0], [1.0]]
    assert normalize(torch.tensor([1.0, 3.0])).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("offset", [1e4, 1e8, -1.7e9, 1e12])
def test_normalize_what_is_small_beside_its_offset(offset: float) -> None:
    step = 2.0 ** math.floor(math.log2(abs(offset)) - 22)  # what float32 can still tell apart there
    exact = torch.tensor([[offset], [offset + 2 * step], [offset + 4 * step]], dtype=torch.float32)
    expected = (exact.double() - exact.double().mean()) / exact.double().std(correction=0)
    for dtype in (torch.float32, torch.float64):
        found, other = normalize(exact.to(dtype), exact[:1].to(dtype))
        assert found.dtype is other.dtype is dtype
        assert torch.allclose(found, expected.to(dtype), atol=1e-6)
        assert torch.equal(other, found[:1])


def test_normalize_small_floats() -> None:
    x = torch.tensor([[60000.0], [60032.0], [60064.0]], dtype=torch.float16)  # whose squares float16 does not hold
    assert normalize(x).flatten().tolist() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-3)


@pytest.mark.parametrize("value", [5.0, 0.1, 1e8, 0.0])
def test_normalize_a_column_that_does_not_vary(value: float) -> None:
    """Its rounding errors must not be blown up to something."""
    x = torch.full((7, 1), value)
    assert normalize(x).abs().max() < 1e-6 * max(1, value)
    assert normalize(x, x + 1)[1].sub(1).abs().max() < 1e-6 * max(1, value)
    assert normalize(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([torch.zeros(0, 2)], DataError, "no rows"),
        ([torch.zeros(2, 2, dtype=torch.int64)], DtypeError, "argument 0 is torch.int64"),
        ([torch.zeros(2, 2), torch.zeros(2, 3)], ShapeError, "argument 1"),
        ([torch.tensor(1.0)], ShapeError, "argument 0"),
    ],
)
def test_normalize_refuses(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        normalize(*arguments)


def test_one_hot() -> None:
    assert one_hot(torch.tensor([2, 0, 1])).tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert one_hot(np.array([1, 0], dtype=np.int8), 3).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert one_hot(torch.zeros(0, dtype=torch.int64), 2).shape == (0, 2)
    assert one_hot([0, 1]).dtype is torch.get_default_dtype()


@pytest.mark.parametrize(
    ("labels", "classes", "error", "message"),
    [
        ([0.0, 1.0], None, DtypeError, "integers"),
        ([True, False], None, DtypeError, "integers"),
        ([[0], [1]], None, ShapeError, r"\(n,\)"),
        ([0, -1], None, DataError, "-1 to 0"),
        ([0, 3], 3, DataError, "from 0 to 2; got 0 to 3"),
        (torch.zeros(0, dtype=torch.int64), None, DataError, "no labels"),
        ([0, 1], 0, SettingError, "classes"),
        ([0, 1], 2.5, SettingError, "classes"),
    ],
)
def test_one_hot_refuses(labels: Any, classes: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        one_hot(labels, classes)


def test_batches() -> None:
    x, y = torch.arange(10).reshape(5, 2), torch.arange(5)
    parts = list(batches(x, y, batch_size=2))
    assert [len(a) for a, b in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([a for a, b in parts]), x)
    assert len(list(batches(x, batch_size=50))) == 1


def test_shuffled_batches_keep_rows_together() -> None:
    x = torch.arange(100).float().unsqueeze(1)
    drawn = [
        torch.cat([a for a, b in batches(x, x * 2, batch_size=7, shuffle=True, generator=torch.Generator().manual_seed(seed))])
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(drawn[0].sort(0).values, x)
    for a, b in batches(x, x * 2, batch_size=7, shuffle=True):
        assert torch.equal(a * 2, b)


@pytest.mark.parametrize(
    ("tensors", "size", "error"),
    [
        ([torch.zeros(3), torch.zeros(4)], 2, DataError),
        ([torch.zeros(3)], 0, SettingError),
        ([torch.zeros(3)], 1.5, SettingError),
        ([], 2, DataError),
    ],
)
def test_batches_refuse_at_once(tensors: Any, size: Any, error: Any) -> None:
    with pytest.raises(error):
        batches(*tensors, batch_size=size)
