"""Random numbers in a forward: whence they come, that a seed repeats them, and that every engine has the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fitting import compare, state

import hotgrad as hg
from hotgrad import nn

X = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Forms(nn.Module):
    """Each kind of number once."""

    def forward(self, x: Any) -> Any:
        x = x + 0.1 * hg.randn_like(x) + 0.1 * hg.rand_like(x) + 0.1 * hg.randn(3, dtype=x.dtype)
        return x * hg.bernoulli(x.sigmoid()) + 0.1 * hg.rand(1, 3, dtype=x.dtype)


def fitted(engine: str, seed: int | None = 3, **settings: Any) -> hg.Sequential:
    torch.manual_seed(0)
    model = hg.Sequential(hg.Linear(3, 3), Forms(), nn.GaussianNoise(0.2), nn.Dropout(0.2), hg.Linear(3, 3)).to(torch.float64)
    model.fit(X, X, loss="mse", optimizer="adam", epochs=4, batch_size=8, seed=seed, verbose=0, engine=engine, **settings)
    return model


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_every_engine_draws_the_same(engine: str) -> None:
    compare(state(fitted(engine)), state(fitted("eager")), 1e-9)


@pytest.mark.parametrize("engine", ["eager", "replay", "native"])
def test_validation_and_predict_have_numbers_of_their_own(engine: str) -> None:
    plain = fitted(engine)
    validated = fitted(engine, validation_data=(X, X))
    compare(state(validated), state(plain), 0.0)
    before = plain.generator.get_state()  # type: ignore[union-attr]
    assert torch.equal(plain.predict(X), plain.predict(X))
    assert plain.evaluate(X, X) == plain.evaluate(X, X)
    assert torch.equal(plain.generator.get_state(), before)  # type: ignore[union-attr]
    assert not torch.equal(plain.train()(X).data, plain(X).data)


def test_a_seed_repeats_them_and_another_does_not() -> None:
    first, again, other = (state(fitted("eager", seed)) for seed in (3, 3, 4))
    compare(first, again, 0.0)
    with pytest.raises(AssertionError):
        compare(first, other, 1e-3)


def test_outside_of_fit_they_come_from_torchs_generator_or_the_one_given() -> None:
    torch.manual_seed(5)
    first = hg.randn(4)
    torch.manual_seed(5)
    assert torch.equal(hg.randn(4), first)
    given = [hg.rand(4, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*given) and torch.equal(given[0], torch.rand(4, generator=torch.Generator().manual_seed(5)))


def test_their_distributions() -> None:
    torch.manual_seed(0)
    normal, even = hg.randn(200_000, dtype=torch.float64), hg.rand(200_000)
    assert normal.mean().item() == pytest.approx(0, abs=0.01) and normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal**4).mean().item() == pytest.approx(3, abs=0.1) and normal.isfinite().all()
    assert even.min() >= 0 and even.max() < 1 and even.mean().item() == pytest.approx(0.5, abs=0.01)
    p = torch.tensor([0.0, 0.25, 1.0]).expand(100_000, 3)
    assert hg.bernoulli(p).mean(0).tolist() == pytest.approx([0.0, 0.25, 1.0], abs=0.01)


def test_each_run_of_a_program_draws_anew() -> None:
    program = hg.capture(lambda x: x + hg.randn_like(x), torch.zeros(4))
    for engine in ("replay", "native"):
        found = program.to(engine)
        assert not torch.equal(found(torch.zeros(4)), found(torch.zeros(4)))


@pytest.mark.parametrize("name", ["randn", "rand", "randn_like", "rand_like", "bernoulli"])
def test_torchs_own_name_ours(name: str) -> None:
    call = getattr(torch, name)
    given = (3,) if name in ("randn", "rand") else None
    with pytest.raises(hg.HotgradError, match=rf"hg\.{name}"):
        hg.capture(lambda x: x + call(*given) if given else x + call(x), torch.zeros(3))


def test_what_is_refused() -> None:
    for call in (
        lambda: hg.randn(2, dtype=torch.int64), lambda: hg.rand("2"), lambda: hg.bernoulli(torch.tensor([1])), lambda: nn.GaussianNoise(-1.0),
    ):  # fmt: skip
        with pytest.raises(hg.HotgradError):
            call()


def test_what_is_no_probability() -> None:
    for wrong in (1.5, -0.1, float("nan")):
        with pytest.raises(hg.RangeError, match="from 0 to 1"):
            hg.bernoulli(torch.tensor([0.5, wrong]))
        # a captured program has no values to look at yet
        drawn = hg.capture(lambda p: hg.bernoulli(p), torch.tensor([0.5, 0.5]))(torch.tensor([1.0, wrong]))
        assert drawn[0] == 1 and drawn[1].isnan()
    for name in ("rand", "randn"):
        with pytest.raises(hg.ShapeError, match=rf"{name}: sizes must be 0 or more; got \(-1,\)"):
            getattr(hg, name)(-1)


def test_a_batch_of_ignored_rows_is_named() -> None:
    model = hg.Sequential(hg.Linear(2, 3), loss=hg.nn.CrossEntropy(ignore_index=-100), optimizer="sgd")
    with pytest.raises(hg.NonFiniteLossError, match="targets are all -100"):
        model.fit(torch.randn(4, 2), torch.tensor([-100, -100, 1, 0]), batch_size=2, shuffle=False, engine="eager", verbose=0)
