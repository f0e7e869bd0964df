"""What callbacks are, and what early stopping may watch: told before training begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fitting import ENGINES

import hotgrad as hg
from hotgrad.training.history import row_keys

X, LABELS = hg.data.disc(20, seed=0)
TARGETS = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))


def made(loss: str) -> hg.Sequential:
    return hg.Sequential(hg.Linear(2, 4), hg.Tanh(), hg.Linear(4, 2), loss=loss, optimizer="adam")


@pytest.mark.parametrize("callbacks", [hg.EarlyStopping, [hg.EarlyStopping], [hg.EarlyStopping("loss"), hg.EarlyStopping], [dict]])
def test_a_class_is_no_callback(callbacks: Any) -> None:
    model = made("cross_entropy")
    with pytest.raises(hg.OperandError, match=r"is a class: give (EarlyStopping|dict)\(\.\.\.\)"):
        model.fit(X, LABELS, verbose=0, callbacks=callbacks)
    assert not model.optimizer.groups and model.generator is None
    for other in ("loss", None, [None], 3):
        with pytest.raises(hg.OperandError, match=r"called as callback\(model, history\)"):
            model.fit(X, LABELS, verbose=0, callbacks=other)


@pytest.mark.parametrize("engine", ["eager", *ENGINES])
def test_what_may_be_watched(engine: str) -> None:
    cases: list[tuple[str, Any, Any]] = [
        ("cross_entropy", LABELS, None), ("cross_entropy", LABELS, (X, LABELS)), ("mse", TARGETS, None), ("mse", TARGETS, (X, TARGETS)),
    ]  # fmt: skip
    for loss, y, held_out in cases:
        model = made(loss)
        history = model.fit(X, y, epochs=2, seed=0, verbose=0, engine=engine, validation_data=held_out)
        known = row_keys(y is LABELS, held_out is not None, y is LABELS)
        assert list(history[0]) == known
        for monitor in known:
            assert model.fit(X, y, verbose=0, validation_data=held_out, engine=engine, callbacks=[hg.EarlyStopping(monitor)])
        for monitor, says in {
            "val_acc": "did you mean 'val_accuracy'" if "val_accuracy" in known else "give fit validation_data" if held_out is None else "only epoch, loss",
            "acc": "did you mean 'accuracy'" if y is LABELS else "only epoch, loss",
            "los": "did you mean 'loss'",
            "val_loss": "give fit validation_data" if held_out is None else "",
        }.items():  # fmt: skip
            if monitor in known:
                continue
            model = made(loss)
            random = torch.get_rng_state()
            with pytest.raises(hg.SettingError, match=f"watches '{monitor}'.*{says}"):
                model.fit(X, y, verbose=0, engine=engine, validation_data=held_out, callbacks=[hg.EarlyStopping(monitor)])
            assert not model.optimizer.groups and model.epochs_done == 0 and torch.equal(random, torch.get_rng_state())


def test_seeds_out_of_range(tmp_path: Any) -> None:
    model = made("cross_entropy")
    for seed in (2**64, -1, 1.5, True, "7"):
        for call in (
            lambda seed=seed: model.fit(X, LABELS, seed=seed, verbose=0),
            lambda seed=seed: model.reset(seed),
            lambda seed=seed: model.cross_validate(X, LABELS, 2, seed=seed),
            lambda seed=seed: hg.fit_many(lambda: made("cross_entropy"), X, LABELS, seeds=[0, seed]),
        ):
            with pytest.raises(hg.SettingError, match="seed"):
                call()
        assert not model.optimizer.groups and model.generator is None
    model.fit(X, LABELS, seed=2**64 - 1, verbose=0)
