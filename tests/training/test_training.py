"""Training: the numbers of `fit` against torch's, the order of rows, and weights of rows and classes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import blobs, net, noisy, problem, same, weights

import hotgrad as hg
from hotgrad import optim
from hotgrad.modules import Linear
from hotgrad.training import Sequential

# ------------------------------------------------------------------------------------------------ against torch.nn

OPTIMIZERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "sgd": (lambda: optim.SGD(lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        lambda: optim.SGD(lr=0.05, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
    "nesterov": (
        lambda: optim.SGD(lr=0.05, momentum=0.9, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    ),
    "adam": (lambda: optim.Adam(lr=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adamw": (lambda: optim.AdamW(lr=0.01), lambda p: torch.optim.AdamW(p, lr=0.01)),
    "rmsprop": (lambda: optim.RMSprop(lr=0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
}
LOSSES: dict[str, Callable[[], Any]] = {
    "mse": torch.nn.MSELoss, "l1": torch.nn.L1Loss, "huber": torch.nn.HuberLoss,
    "cross_entropy": torch.nn.CrossEntropyLoss, "bce_with_logits": torch.nn.BCEWithLogitsLoss,
}  # fmt: skip


def in_torch(model: Sequential) -> torch.nn.Sequential:
    dtype = model[0].weight.dtype
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 5, dtype=dtype), torch.nn.Tanh(), torch.nn.Linear(5, model[-1].weight.shape[1], dtype=dtype)
    )
    with torch.no_grad():
        for i in (0, 2):
            network[i].weight.copy_(model[i].weight.data.T)  # type: ignore[operator]
            network[i].bias.copy_(model[i].bias.data)  # type: ignore[operator]
    return network


def largest_difference(model: Sequential, network: torch.nn.Sequential) -> float:
    pairs = [(model[i].weight.data.T, network[i].weight) for i in (0, 2)] + [(model[i].bias.data, network[i].bias) for i in (0, 2)]
    return max(float((a - b.detach()).abs().max() / b.detach().abs().max()) for a, b in pairs)  # type: ignore[operator]


@pytest.mark.parametrize("rows", [40, 43])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_five_epochs_equal_a_loop_in_torch(optimizer: str, loss: str, rows: int) -> None:
    ours, theirs = OPTIMIZERS[optimizer]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        x, y = problem(loss, rows, dtype)
        model = net(loss, ours(), dtype=dtype)
        network = in_torch(model)
        history = model.fit(x, y, epochs=5, batch_size=10, seed=7, verbose=0)
        g = torch.Generator().manual_seed(7)
        updates, criterion = theirs(network.parameters()), LOSSES[loss]()
        for row in history:
            total = 0.0
            for part in torch.randperm(rows, generator=g).split(10):
                updates.zero_grad()
                value = criterion(network(x[part]), y[part])
                value.backward()
                updates.step()
                total += float(value.detach()) * len(part)
            assert row["loss"] == pytest.approx(total / rows, rel=10 * tolerance)
        assert largest_difference(model, network) < tolerance


def test_lbfgs_reaches_the_same_loss_as_torch() -> None:
    x, y = problem("mse", 40, torch.float64)
    model = net("mse", optim.LBFGS(lr=0.5), dtype=torch.float64)
    network = in_torch(model)
    model.fit(x, y, epochs=5, verbose=0)
    updates = torch.optim.LBFGS(network.parameters(), lr=0.5)

    def closure() -> Any:
        updates.zero_grad()
        value = torch.nn.functional.mse_loss(network(x), y)
        value.backward()
        return value

    for _ in range(5):
        updates.step(closure)
    assert model.evaluate(x, y)["loss"] == pytest.approx(float(closure().detach()), abs=1e-6)


def test_lbfgs_needs_full_batches() -> None:
    x, y = problem("mse", 40, torch.float32)
    with pytest.raises(hg.errors.SettingError, match="full batches"):
        net("mse", "lbfgs").fit(x, y, batch_size=10)


# ------------------------------------------------------------------------------------------------ order and randomness


@pytest.mark.parametrize("make", [noisy, lambda: noisy(optim.Adam(lr=0.01))])
def test_two_fits_equal_one(make: Callable[[], Sequential]) -> None:
    x, y = blobs(43)
    whole, parts = make(), make()
    history = whole.fit(x, y, epochs=5, batch_size=8, seed=3, verbose=0)
    first = parts.fit(x, y, epochs=2, batch_size=8, seed=3, verbose=0)
    torch.manual_seed(99)
    second = parts.fit(x, y, epochs=3, batch_size=8, verbose=0)
    assert same(weights(whole), weights(parts))
    assert [row["loss"] for row in history] == [row["loss"] for row in (*first, *second)]
    assert [row["epoch"] for row in (*first, *second)] == [1, 2, 3, 4, 5]


def test_seeds() -> None:
    x, y = blobs()
    torch.manual_seed(5)
    expected = int(torch.randint(2**63 - 1, ()))
    after_one_draw = torch.get_rng_state()
    model = net("cross_entropy")
    model.use_generator(None)
    torch.manual_seed(5)
    model.fit(x, y, batch_size=8, verbose=0)
    assert torch.equal(torch.get_rng_state(), after_one_draw)
    model.fit(x, y, batch_size=8, verbose=0)
    assert torch.equal(torch.get_rng_state(), after_one_draw)
    again = net("cross_entropy")
    again.fit(x, y, epochs=2, batch_size=8, seed=expected, verbose=0)
    assert same(weights(model), weights(again))
    other = net("cross_entropy")
    other.fit(x, y, epochs=2, batch_size=8, seed=expected + 1, verbose=0)
    assert not same(weights(model), weights(other))


def test_without_shuffling_rows_come_in_order() -> None:
    x, y = blobs(6)
    seen: list[torch.Tensor] = []

    def spy(v: Any) -> Any:
        seen.append(v.data.clone())
        return v

    Sequential(spy, Linear(3, 2), loss="cross_entropy", optimizer="sgd").fit(x, y, batch_size=4, shuffle=False, verbose=0)
    assert torch.equal(torch.cat(seen[-2:]), x)


def test_a_new_optimizer_starts_fresh_and_stays() -> None:
    x, y = blobs()
    model = net("cross_entropy", None)
    adam = optim.Adam(lr=0.01)
    model.fit(x, y, optimizer=adam, seed=0, verbose=0)
    assert model.optimizer is adam
    kept = copy.deepcopy(model)
    model.fit(x, y, verbose=0)
    kept.fit(x, y, optimizer=optim.Adam(lr=0.01), verbose=0)
    assert not same(weights(model), weights(kept))


def test_gradients_left_from_before_do_not_matter() -> None:
    x, y = blobs()
    model, clean = net("cross_entropy"), net("cross_entropy")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter.data)
    for each in (model, clean):
        each.fit(x, y, seed=0, verbose=0)
    assert same(weights(model), weights(clean))


# ------------------------------------------------------------------------------------------------ weights


def test_a_weight_of_two_is_the_row_twice() -> None:
    x, y = problem("mse", 10, torch.float64)
    doubled, listed = net("mse", dtype=torch.float64), net("mse", dtype=torch.float64)
    many = torch.ones(10, dtype=torch.float64)
    many[3], many[7] = 2, 0
    rows = [i for i in range(10) for _ in range(int(many[i]))]
    first = doubled.fit(x, y, epochs=4, sample_weight=many, verbose=0)
    second = listed.fit(x[rows], y[rows], epochs=4, verbose=0)
    assert first.column("loss") == pytest.approx(second.column("loss"), rel=1e-12)
    for name, value in weights(doubled).items():
        torch.testing.assert_close(value, weights(listed)[name], rtol=1e-12, atol=1e-12)


def test_class_weights() -> None:
    x, y = blobs(10, torch.float64)
    y[:] = (torch.arange(10) < 3).long()
    as_samples = torch.where(y == 1, 4.0, 0.5).double()
    results = []
    for weighting in ({"class_weight": {0: 0.5, 1: 4.0}}, {"class_weight": [0.5, 4.0]}, {"sample_weight": as_samples}):
        model = net("cross_entropy", dtype=torch.float64)
        model.fit(x, y, epochs=3, verbose=0, **weighting)  # type: ignore[arg-type]
        results.append(weights(model))
    balanced, explicit = net("cross_entropy", dtype=torch.float64), net("cross_entropy", dtype=torch.float64)
    balanced.fit(x, y, epochs=3, verbose=0, class_weight="balanced")
    explicit.fit(x, y, epochs=3, verbose=0, class_weight={0: 10 / 14, 1: 10 / 6})
    for a, b in ((results[0], results[1]), (results[0], results[2]), (weights(balanced), weights(explicit))):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-12, atol=1e-12)
