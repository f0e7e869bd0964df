"""The further rules, options and schedules against torch's, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg

T = torch.optim
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Adagrad": (lambda p: hg.optim.Adagrad(p, lr=0.1), lambda p: T.Adagrad(p, lr=0.1)),
    "Adagrad with all": (
        lambda p: hg.optim.Adagrad(p, 0.1, 0.05, 0.01, 0.3, maximize=True),
        lambda p: T.Adagrad(p, 0.1, 0.05, 0.01, 0.3, maximize=True),
    ),
    "NAdam": (lambda p: hg.optim.NAdam(p), lambda p: T.NAdam(p)),
    "NAdam with all": (
        lambda p: hg.optim.NAdam(p, 0.1, (0.8, 0.99), 1e-6, 0.01, 0.1, maximize=True),
        lambda p: T.NAdam(p, 0.1, (0.8, 0.99), 1e-6, 0.01, 0.1, maximize=True),
    ),
    "amsgrad": (lambda p: hg.optim.Adam(p, 0.1, amsgrad=True), lambda p: T.Adam(p, 0.1, amsgrad=True)),
    "AdamW": (lambda p: hg.optim.AdamW(p, 0.1, amsgrad=True, maximize=True), lambda p: T.AdamW(p, 0.1, amsgrad=True, maximize=True)),
    "dampening": (lambda p: hg.optim.SGD(p, 0.1, 0.9, dampening=0.3), lambda p: T.SGD(p, 0.1, 0.9, dampening=0.3)),
    "maximize": (
        lambda p: hg.optim.SGD(p, 0.1, 0.9, weight_decay=0.1, maximize=True),
        lambda p: T.SGD(p, 0.1, 0.9, weight_decay=0.1, maximize=True),
    ),
    "RMSprop": (lambda p: hg.optim.RMSprop(p, maximize=True), lambda p: T.RMSprop(p, maximize=True)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_rules_are_torchs(name: str) -> None:
    start = torch.linspace(-1, 2, 6, dtype=torch.float64)
    ours, theirs = hg.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    here, there = PAIRS[name][0]([ours]), PAIRS[name][1]([theirs])
    for step in range(12):
        for parameter, optimizer in ((ours, here), (theirs, there)):
            optimizer.zero_grad()
            ((parameter - 0.1 * step).cos() * (1 + step % 3)).sum().backward()  # so that largest means matter
            optimizer.step()
        torch.testing.assert_close(
            ours.data, theirs.detach(), rtol=1e-6 if "NAdam" in name else 1e-8, atol=1e-10
        )  # torch multiplies NAdam's momenta in float32


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("engine", ["replay", "native"])
def test_rules_are_the_same_on_every_engine(name: str, engine: str, thorough: bool) -> None:
    if engine == "native" and not thorough and not name.endswith("all"):
        pytest.skip("with --thorough")
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randn(24, 1, dtype=torch.float64)
    found = []
    for each in ("eager", engine):
        model = hg.Sequential(hg.Linear(3, 4), hg.Tanh(), hg.Linear(4, 1)).to(torch.float64)
        model.reset(0)
        model.fit(x, y, loss="mse", optimizer=PAIRS[name][0](model.parameters()), epochs=4, batch_size=8, seed=1, verbose=0, engine=each)
        found.append([p.data.clone() for p in model.parameters()])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def rates(make: Callable[[Any], Any], count: int) -> list[float]:
    optimizer = T.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, found = make(optimizer), []
    for _ in range(count):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return found


S = T.lr_scheduler
SCHEDULES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "exponential": (hg.optim.ExponentialLR(0.1, 0.9), lambda o: S.ExponentialLR(o, 0.9)),
    "multi-step": (hg.optim.MultiStepLR(0.1, (7, 3), 0.5), lambda o: S.MultiStepLR(o, [3, 7], 0.5)),
    "one cycle": (hg.optim.OneCycleLR(0.1, 12), lambda o: S.OneCycleLR(o, 0.1, total_steps=12)),
    "one cycle otherwise": (hg.optim.OneCycleLR(0.1, 12, 0.6, 5.0, 50.0), lambda o: S.OneCycleLR(o, 0.1, 12, pct_start=0.6, div_factor=5.0, final_div_factor=50.0)),
    "sequential": (
        hg.optim.SequentialLR([hg.optim.MultiStepLR(0.1, (2,), 0.5), hg.optim.ExponentialLR(0.1, 0.9)], [4]),
        lambda o: S.SequentialLR(o, [S.MultiStepLR(o, [2], 0.5), S.ExponentialLR(o, 0.9)], [4]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore")
def test_schedules_are_torchs(name: str) -> None:
    ours, theirs = SCHEDULES[name]
    assert [ours.at(n) for n in range(11)] == pytest.approx(rates(theirs, 11), rel=1e-9)
    again = ours.fresh()
    again.load_state_dict(ours.state_dict())
    assert repr(again) == repr(ours)


def test_what_is_refused() -> None:
    w = [hg.Parameter([1.0])]
    for call in (
        lambda: hg.optim.SGD(w, momentum=0.9, nesterov=True, dampening=0.1), lambda: hg.optim.Adagrad(w, lr_decay=-1.0),
        lambda: hg.optim.NAdam(w, betas=(1.0, 0.9)), lambda: hg.optim.OneCycleLR(0.1, 1), lambda: hg.optim.ExponentialLR(0.1, 0.0),
        lambda: hg.optim.SequentialLR([hg.optim.StepLR(0.1, 3)], [2]), lambda: hg.optim.MultiStepLR(0.1, (1.5,)),  # type: ignore[arg-type]
        lambda: hg.optim.SequentialLR([hg.optim.StepLR(0.1, 3), hg.optim.PlateauLR(0.1)], [2]),
    ):  # fmt: skip
        with pytest.raises(hg.SettingError):
            call()


def test_a_state_from_before_a_setting_came_loads() -> None:
    """It stays as it is here; an unknown one is refused."""
    optimizer = hg.optim.SGD([hg.Parameter([1.0])], momentum=0.9)
    state = optimizer.state_dict()
    del state["groups"][0]["settings"]["dampening"], state["groups"][0]["settings"]["maximize"]
    state["groups"][0]["settings"]["momentum"] = 0.5
    optimizer.load_state_dict(state)
    assert "dampening=0.0" in repr(optimizer.state_dict()).replace("'dampening': ", "dampening=")
    assert optimizer.state_dict()["groups"][0]["settings"]["momentum"] == 0.5
    state["groups"][0]["settings"]["spin"] = 1.0
    with pytest.raises(hg.FileError, match="spin"):
        optimizer.load_state_dict(state)
