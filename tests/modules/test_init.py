"""First values under torch's names: the same spread as torch's, repeated by a generator, refused where they mean nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.nn import init

NAMES: dict[str, tuple[Any, ...]] = {
    "uniform_": (-1.0, 2.0), "normal_": (1.0, 0.5), "trunc_normal_": (0.0, 1.0, -1.0, 0.5), "xavier_uniform_": (1.5,), "xavier_normal_": (0.7,),
    "kaiming_uniform_": (0.2, "fan_out", "leaky_relu"), "kaiming_normal_": (0.0, "fan_in", "relu"), "orthogonal_": (2.0,),
    "constant_": (3.0,), "zeros_": (), "ones_": (), "eye_": (),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_spread_is_torchs(name: str) -> None:
    assert set(NAMES) | {"calculate_gain"} == set(init.__all__)
    ours, theirs = hg.Parameter(torch.zeros(300, 200)), torch.zeros(200, 300)  # (in, out) and (out, in)
    ours.grad = torch.ones(300, 200)
    assert getattr(init, name)(ours, *NAMES[name]) is ours and ours.grad is None
    getattr(torch.nn.init, name)(theirs, *NAMES[name])
    assert ours.data.mean().item() == pytest.approx(theirs.mean().item(), abs=0.01)
    assert ours.data.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert ours.data.abs().max().item() == pytest.approx(theirs.abs().max().item(), rel=0.25)


def test_a_generator_repeats_them() -> None:
    drawn = [init.xavier_uniform_(hg.Parameter(torch.zeros(3, 2)), generator=torch.Generator().manual_seed(1)).tolist() for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_gains_are_torchs() -> None:
    for name in ("linear", "sigmoid", "conv1d", "conv2d", "tanh", "relu", "selu", "leaky_relu"):
        assert init.calculate_gain(name) == torch.nn.init.calculate_gain(name)  # type: ignore[arg-type]
    assert init.calculate_gain("leaky_relu", 0.3) == torch.nn.init.calculate_gain("leaky_relu", 0.3)


def test_what_is_refused() -> None:
    v = hg.Parameter(torch.zeros(3))
    for call in (
        lambda: init.uniform_(v, 2.0, 1.0), lambda: init.normal_(v, 0.0, -1.0), lambda: init.trunc_normal_(v, a=1.0, b=1.0), lambda: init.eye_(v),
        lambda: init.xavier_normal_(v), lambda: init.orthogonal_(v), lambda: init.calculate_gain("sin"),
        lambda: init.kaiming_normal_(hg.Parameter(torch.zeros(2, 2)), mode="fan"),
    ):  # fmt: skip
        with pytest.raises(hg.HotgradError):
            call()
    assert v.tolist() == [0.0] * 3
