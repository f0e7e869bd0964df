"""Learning-rate schedules against torch's, and how an optimizer drives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.errors import SettingError
from hotgrad.optim import SGD, CosineLR, PlateauLR, Schedule, StepLR, WarmupLR

T = torch.optim.lr_scheduler
SCHEDULES: list[tuple[Any, Any]] = [
    (lambda: StepLR(0.1, 3, 0.5), lambda o: T.StepLR(o, 3, 0.5)),
    (lambda: CosineLR(0.1, 12, 0.01), lambda o: T.CosineAnnealingLR(o, 12, 0.01)),
    (lambda: WarmupLR(0.1, 4, 0.25), lambda o: T.LinearLR(o, 0.25, total_iters=4)),
    (lambda: WarmupLR(0.1), lambda o: T.LinearLR(o)),
    (lambda: PlateauLR(0.1, 0.5, 2, 0.01, 1, 0.02), lambda o: T.ReduceLROnPlateau(o, "min", 0.5, 2, 0.01, "rel", 1, 0.02, eps=0)),
]


@pytest.mark.parametrize(("make", "reference"), SCHEDULES, ids=["step", "cosine", "warmup", "warmup default", "plateau"])
def test_schedules_equal_torch(make: Any, reference: Any) -> None:
    losses = [3.0, 2.0, 2.5, 1.995, 1.99, 1.985, 1.7, 1.8, 1.9, 1.8, 1.8, 1.8, 1.8]
    w, q = hg.Parameter([1.0]), torch.nn.Parameter(torch.ones(1))
    optimizer, their_optimizer = SGD([w], lr=make()), torch.optim.SGD([q], lr=0.1)
    theirs = reference(their_optimizer)
    for loss in losses[:12]:
        assert optimizer.lr == pytest.approx(their_optimizer.param_groups[0]["lr"], rel=1e-12)
        w.grad, q.grad = torch.ones(1), torch.ones(1)
        optimizer.step()
        their_optimizer.step()
        assert w.item() == pytest.approx(q.item(), rel=1e-6)
        optimizer.epoch_end(loss)
        theirs.step(loss) if isinstance(theirs, T.ReduceLROnPlateau) else theirs.step()


def test_warmup_goes_on_with_another_schedule_and_cosine_stays_down() -> None:
    schedule = WarmupLR(CosineLR(1.0, 4, 0.2), 2, 0.5)
    assert [round(schedule.at(n), 6) for n in range(9)] == [0.5, 0.75, 1.0, 0.882843, 0.6, 0.317157, 0.2, 0.2, 0.2]


def test_no_schedule_raises_the_rate_to_its_minimum() -> None:
    plateau = PlateauLR(0.01, patience=0, minimum=0.1)
    for _ in range(4):
        plateau.epoch_end(1.0)
        assert plateau.lr == 0.01
    falling = PlateauLR(0.4, factor=0.5, patience=0, minimum=0.15)
    rates = []
    for _ in range(5):
        falling.epoch_end(1.0)
        rates.append(falling.lr)
    assert rates == [0.4, 0.2, 0.15, 0.15, 0.15]
    with pytest.raises(SettingError, match=r"minimum must be a finite number of at least 0 and at most 0\.1; got 0\.2"):
        CosineLR(0.1, 10, 0.2)
    with pytest.raises(SettingError, match="start_factor"):
        WarmupLR(0.1, 10, 1.5)


def test_schedule_per_step() -> None:
    w = hg.Parameter([0.0])
    optimizer = SGD([w], lr=StepLR(1.0, 2, 0.5, per="step"))
    for _ in range(4):
        w.grad = torch.ones(1)
        optimizer.step()
        optimizer.epoch_end(1.0)
    assert w.item() == -(1 + 1 + 0.5 + 0.5)


def test_one_schedule_for_two_groups_counts_once() -> None:
    schedule = StepLR(1.0, 1, 0.5)
    optimizer = SGD([{"params": [hg.Parameter([0.0])]}, {"params": [hg.Parameter([0.0])]}], lr=schedule)
    optimizer.epoch_end()
    assert schedule.lr == 0.5


def test_lr_can_be_set() -> None:
    optimizer = SGD([hg.Parameter([0.0])], lr=0.5)
    optimizer.lr = 0.25
    assert optimizer.lr == 0.25
    optimizer.lr = StepLR(0.1, 1)
    optimizer.epoch_end()
    assert optimizer.lr == pytest.approx(0.01)
    assert optimizer.fresh().lr == 0.1
    assert repr(optimizer.fresh()) == repr(optimizer), "a repr tells settings, not where it stands"


def test_a_schedule_that_does_nothing() -> None:
    schedule = Schedule(0.3)
    schedule.epoch_end()
    assert schedule.lr == 0.3


def test_own_schedule() -> None:
    class Halving(Schedule):
        def at(self, count: int) -> float:
            return self.base * 0.5**count

    optimizer = SGD([hg.Parameter([0.0])], lr=Halving(1.0))
    optimizer.epoch_end()
    assert optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StepLR(-0.1, 3), "lr must be"),
        (lambda: StepLR(0.1, 0), "step_size"),
        (lambda: StepLR(0.1, 2.5), "step_size"),
        (lambda: CosineLR(0.1, True), "epochs"),
        (lambda: CosineLR(0.1, 3, -1), "minimum"),
        (lambda: CosineLR(0.1, 3, per="batch"), "per must be"),
        (lambda: WarmupLR(PlateauLR(0.1)), "no PlateauLR"),
        (lambda: WarmupLR(StepLR(0.1, 3, per="step")), "counts the same"),
        (lambda: PlateauLR(0.1, 1.0), "factor"),
        (lambda: PlateauLR(0.1, patience=-1), "patience"),
        (lambda: PlateauLR(0.1).epoch_end(), "needs the loss"),
    ],
)
def test_bad_schedules(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()
