"""Training: the numbers of `fit` against torch's, its order of events, and what holds when it is interrupted."""

from __future__ import annotations

import copy
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad import optim
from hotgrad.data import disc
from hotgrad.modules import BatchNorm1d, Dropout, Linear, Module, ReLU, Sigmoid, Tanh
from hotgrad.training import EarlyStopping, History, Sequential
from hotgrad.training.folds import stratified
from hotgrad.training.metrics import labels_of, r2

Count = Callable[[int, int], int]


def net(loss: Any = "mse", optimizer: Any = "sgd", outputs: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> Sequential:
    model = Sequential(Linear(3, 5), Tanh(), Linear(5, outputs), loss=loss, optimizer=optimizer)
    model.to(dtype)
    model.reset(seed)
    return model


def noisy(optimizer: Any = None) -> Sequential:
    """A model that draws while it trains and has buffers."""
    model = Sequential(
        Linear(3, 6),
        BatchNorm1d(6),
        ReLU(),
        Dropout(0.3),
        Linear(6, 2),
        loss="cross_entropy",
        optimizer=optimizer or optim.SGD(lr=0.1, momentum=0.9),
    )
    model.reset(0)
    return model


def blobs(rows: int = 40, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    labels = torch.arange(rows) % 2
    return torch.randn(rows, 3, generator=g, dtype=dtype) + labels[:, None], labels


def weights(model: Sequential) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


def problem(loss: str, rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = blobs(rows, dtype)
    if loss == "cross_entropy":
        return x, labels
    one_hot = torch.nn.functional.one_hot(labels).to(dtype)
    return x, one_hot if loss == "bce_with_logits" else 2 * one_hot - 1


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


# ------------------------------------------------------------------------------------------------ History and verbose


def test_history() -> None:
    x, y = blobs()
    model = net("cross_entropy")
    history = model.fit(x, y, epochs=2, batch_size=8, validation_data=(x, y), verbose=0)
    assert isinstance(history, History)
    assert history.engine == "eager"
    assert list(history[0]) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "lr", "seconds"]
    assert all(type(value) is float for row in history for name, value in row.items() if name != "epoch")
    measured = model.evaluate(x, y)
    assert measured == {"loss": history[-1]["val_loss"], "accuracy": history[-1]["val_accuracy"]}
    assert measured["accuracy"] == model.score(x, y)
    assert "2 epochs" in repr(history)
    with pytest.raises(hg.errors.SettingError, match="val_loss"):
        history.column("val_los")


def test_the_epoch_loss_weighs_rows_not_batches() -> None:
    x, y = problem("mse", 43, torch.float64)
    model = net("mse", optim.SGD(lr=0.0), dtype=torch.float64)
    history = model.fit(x, y, batch_size=40, verbose=0)
    assert history[0]["loss"] == pytest.approx(model.evaluate(x, y)["loss"], rel=1e-12)


def test_regression_has_no_accuracy() -> None:
    x, _ = blobs()
    history = net("mse", outputs=1).fit(x, x.sum(1, keepdim=True), verbose=0)
    assert "accuracy" not in history[0]


def test_plot() -> None:
    pytest.importorskip("matplotlib")
    x, y = blobs()
    history = net("cross_entropy").fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
    figure = history.plot()
    assert [axis.get_ylabel() for axis in figure.axes] == ["loss", "accuracy"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 2]
    assert history.plot(figure.axes[0]) is figure


@pytest.mark.parametrize(("verbose", "lines"), [(0, 0), (False, 0), (True, 20), (1, 20), (5, 4), (7, 3), ("auto", 10)])
def test_verbose(verbose: Any, lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = blobs()
    net("cross_entropy").fit(x, y, epochs=20, verbose=verbose)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines
    if lines:
        assert printed[-1].startswith("epoch 20/20  loss ")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    x, y = blobs()
    net("cross_entropy").fit(x, y, epochs=3)
    out, err = capsys.readouterr()
    assert "3/3" in err
    assert "loss=" in err
    assert not out


# ------------------------------------------------------------------------------------------------ callbacks


def test_callbacks() -> None:
    x, y = blobs()
    model = net("cross_entropy")
    seen: list[tuple[int, bool]] = []

    def callback(given: Any, history: History) -> bool:
        assert given is model
        seen.append((len(history), model[0].weight.grad is not None))
        return len(history) == 3

    callback.needs_gradients = True  # type: ignore[attr-defined]
    assert len(model.fit(x, y, epochs=9, verbose=0, callbacks=[callback])) == 3
    assert seen == [(1, True), (2, True), (3, True)]


def test_early_stopping_restores_the_best_epoch() -> None:
    x, y = blobs()
    held_out = (x[:10], 1 - y[:10])  # the better the training, the worse these
    model, one = net("cross_entropy", optim.SGD(lr=0.5, momentum=0.9)), net("cross_entropy", optim.SGD(lr=0.5, momentum=0.9))
    stop = EarlyStopping(patience=3)
    history = model.fit(x, y, epochs=50, validation_data=held_out, seed=0, verbose=0, callbacks=[stop])
    values = history.column("val_loss")
    assert stop.best_epoch == values.index(min(values)) + 1
    assert len(history) == stop.best_epoch + 3 < 50
    one.fit(x, y, epochs=stop.best_epoch, seed=0, verbose=0)
    assert same(weights(model), weights(one))
    model.fit(x, y, verbose=0)
    one.fit(x, y, verbose=0)
    assert same(weights(model), weights(one)), "optimizer and generator return, too"
    again = net("cross_entropy", optim.SGD(lr=0.5, momentum=0.9))
    assert len(again.fit(x, y, epochs=50, validation_data=held_out, seed=0, verbose=0, callbacks=[stop])) == len(history)


def test_early_stopping_without_restoring_and_at_the_end() -> None:
    x, y = blobs()
    model = net("cross_entropy", optim.SGD(lr=0.5))
    stop = EarlyStopping("accuracy", patience=100, restore_best=False)
    model.fit(x, y, epochs=3, verbose=0, callbacks=[stop])
    assert model.epochs_done == 3
    assert stop.best_epoch


def test_early_stopping_takes_nan_for_no_improvement() -> None:
    stop = EarlyStopping("loss", patience=2, restore_best=False)
    values = [float("nan"), 1.0, float("nan"), 0.5, float("nan"), 0.6]
    history = History()
    answers = []
    for epoch, value in enumerate(values, 1):
        history.append({"epoch": epoch, "loss": value})
        answers.append(stop(None, history))
    assert answers == [False, False, False, False, False, True]
    assert (stop.best, stop.best_epoch) == (0.5, 4)


@pytest.mark.parametrize("monitor", ["val_loss", "los"])
def test_early_stopping_on_what_is_not_measured(monitor: str) -> None:
    x, y = blobs()
    with pytest.raises(hg.errors.SettingError, match=monitor):
        net("cross_entropy").fit(x, y, verbose=0, callbacks=[EarlyStopping(monitor)])
    with pytest.raises(hg.errors.SettingError):
        EarlyStopping(patience=-1)
    with pytest.raises(hg.errors.SettingError):
        EarlyStopping(min_delta=-1)


def test_schedules_move_at_epoch_ends() -> None:
    x, y = blobs()
    history = net("cross_entropy", optim.SGD(lr=optim.StepLR(0.8, 2, 0.5))).fit(x, y, epochs=5, batch_size=8, verbose=0)
    assert history.column("lr") == [0.8, 0.8, 0.4, 0.4, 0.2]


# ------------------------------------------------------------------------------------------------ what goes wrong


class Saboteur(Module):
    """Runs `deed` in the n-th training pass."""

    def __init__(self, at: int, deed: Callable[[], Any]) -> None:
        super().__init__()
        self.passes, self.at, self.deed = 0, at, deed

    def forward(self, x: Any) -> Any:
        if self.training:
            self.passes += 1
            if self.passes == self.at:
                return self.deed() or x
        return x


def sabotaged(at: int, deed: Callable[[], Any]) -> tuple[Sequential, Sequential]:
    """A model that meets `deed` in its pass number `at`, and the same one without."""
    model, peer = noisy(), noisy()
    model.append(Saboteur(at, deed))
    return model, peer


X, Y = blobs(40)


def fail() -> None:
    raise KeyError("a user's own")


@pytest.mark.parametrize("at", [1, 7, 12])
def test_an_exception_returns_to_the_epochs_start(at: int) -> None:
    model, peer = sabotaged(at, fail)
    with pytest.raises(KeyError, match="a user's own"):
        model.fit(X, Y, epochs=5, batch_size=8, seed=2, verbose=0)
    done = (at - 1) // 5
    assert model.epochs_done == done
    peer.fit(X, Y, epochs=done or 1, batch_size=8, seed=2, verbose=0)
    if not done:
        peer = noisy()
        peer.generator.manual_seed(2)  # type: ignore[union-attr]
        peer.optimizer.bind(list(peer.parameters()))
    for each in (model, peer):
        each.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert same(weights(model), weights(peer))


def test_a_loss_that_is_not_finite() -> None:
    x, y = problem("mse", 40, torch.float32)
    model = net("mse", optim.SGD(lr=1e-3))
    peer = net("mse", optim.SGD(lr=1e-3))

    def explode(given: Any, history: History) -> None:
        if len(history) == 2:
            given.optimizer.lr = 1e30

    with pytest.raises(hg.errors.NonFiniteLossError, match=r"epoch 3, batch \d.*learning rate") as caught:
        model.fit(x, y, epochs=9, batch_size=8, seed=1, verbose=0, callbacks=[explode])
    error = caught.value
    assert isinstance(error, ArithmeticError)
    assert error.epoch == 3
    assert 1 <= error.batch < 5
    assert len(error.history) == 2
    peer.fit(x, y, epochs=2, batch_size=8, seed=1, verbose=0)
    assert same(weights(model), weights(peer))
    assert torch.equal(model.generator.get_state(), peer.generator.get_state())  # type: ignore[union-attr]


def test_a_last_step_that_overflows_is_noticed() -> None:
    x, y = problem("mse", 8, torch.float32)
    model = net("mse", optim.SGD(lr=1e38))
    before = weights(model)
    with pytest.raises(hg.errors.NonFiniteLossError, match=r"a parameter became .* epoch 1"):
        model.fit(x, 1e10 * y, verbose=0)
    assert same(weights(model), before)


@pytest.mark.parametrize("at", [1, 8, 10])
def test_ctrl_c_ends_between_steps(at: int) -> None:
    model, peer = sabotaged(at, lambda: signal.raise_signal(signal.SIGINT))
    history = model.fit(X, Y, epochs=5, batch_size=8, seed=2, verbose=0)
    done = at // 5
    assert len(history) == model.epochs_done == done
    assert model[-1].passes == at, "no step after it"
    if done:
        peer.fit(X, Y, epochs=done, batch_size=8, seed=2, verbose=0)
        assert same(weights(model), {**weights(peer)})
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_twice_raises() -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model, _ = sabotaged(7, twice)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=5, batch_size=8, seed=2, verbose=0)
    assert model.epochs_done == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_programs_own_handler_stays() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        model, _ = sabotaged(2, lambda: signal.raise_signal(signal.SIGINT))
        assert len(model.fit(X, Y, epochs=2, batch_size=8, verbose=0)) == 2
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]


def test_fit_in_another_thread() -> None:
    models = [noisy() for _ in range(3)]
    threads = [threading.Thread(target=lambda m=m: m.fit(X, Y, epochs=3, batch_size=8, seed=0, verbose=0)) for m in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = noisy()
    alone.fit(X, Y, epochs=3, batch_size=8, seed=0, verbose=0)
    assert all(same(weights(alone), weights(model)) for model in models)


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


# ------------------------------------------------------------------------------------------------ using a model


def test_nothing_is_recorded_and_modes_stay() -> None:
    model = noisy()
    model.fit(X, Y, epochs=1, batch_size=8, validation_data=(X, Y), verbose=0)
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with hg.Tape() as tape:
        model.predict(X)
        model.score(X, Y)
        model.evaluate(X, Y)
        model.classify(X)
        assert len(tape) == 0
    assert [module.training for module in model.modules()] == modes
    model.fit(X, Y, batch_size=8, verbose=0)
    assert [module.training for module in model.modules()] == modes
    before = weights(model)
    assert torch.equal(model.predict(X), model.predict(X)), "no dropout"
    assert same(weights(model), before), "no statistics"
    assert type(model.predict(X)) is torch.Tensor


@pytest.mark.parametrize("batch_size", [1, 7, 39, 40, 1000])
def test_batch_size_changes_no_result(batch_size: int) -> None:
    model = noisy()
    torch.testing.assert_close(model.predict(X, batch_size), model.predict(X))
    assert model.score(X, Y, batch_size) == model.score(X, Y)
    assert model.evaluate(X, Y, batch_size) == pytest.approx(model.evaluate(X, Y), rel=1e-6)


def test_what_targets_mean() -> None:
    labels = torch.tensor([0, 1, 1])
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0]])
    column = torch.tensor([[0.0], [1.0], [1.0]])
    for y, columns in ((labels, 2), (signs, 2), ((signs + 1) / 2, 2), (column, 1), (2 * column - 1, 1), (column[:, 0], 1), (labels, 1)):
        found = labels_of(y, columns)
        assert found is not None
        assert found.tolist() == [0, 1, 1]
    for y, columns in (
        (torch.tensor([[0.5], [1.0]]), 1), (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), 2), (torch.tensor([0.0, 1.0]), 2),
        (torch.tensor([[0.2, 0.8], [0.0, 1.0]]), 2), (torch.zeros(2, 2, 2), 2), (torch.tensor([3, 4]), 1), (torch.tensor([-1, 1]), 2),
        (torch.tensor([[2.0], [1.0]]), 1),
    ):  # fmt: skip
        assert labels_of(y, columns) is None


def test_r2() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 3, generator=g), torch.randn(9, 3, generator=g)
    assert r2(a, b) == pytest.approx(sklearn.r2_score(b.double().numpy(), a.double().numpy()))
    b[:, 1] = 2
    assert r2(a, b) == pytest.approx(sklearn.r2_score(b.double().numpy(), a.double().numpy()))
    with pytest.raises(hg.ShapeError):
        r2(a, b[:, 0])


def test_classify() -> None:
    one = Sequential(Linear(3, 1))
    with_sigmoid = Sequential(one[0], Sigmoid())
    assert torch.equal(one.classify(X), (one.predict(X)[:, 0] > 0).long())
    assert torch.equal(one.classify(X), with_sigmoid.classify(X))
    assert torch.equal(noisy().classify(X), noisy().predict(X).argmax(1))
    assert torch.equal(Sequential(one[0], Sequential(Sigmoid())).classify(X), one.classify(X))


def test_scores_of_labels_and_one_hot_agree() -> None:
    model = net("mse")
    signs = 2 * torch.nn.functional.one_hot(Y).float() - 1
    assert model.score(X, Y) == model.score(X, signs) == float((model.classify(X) == Y).double().mean())


# ------------------------------------------------------------------------------------------------ fresh starts


def test_reset() -> None:
    model = noisy()
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    model.reset(0)
    fresh = noisy()
    assert same(weights(model), weights(fresh))
    assert model.epochs_done == 0
    for each in (model, fresh):
        each.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    assert same(weights(model), weights(fresh))


def test_cross_validate() -> None:
    model = noisy()
    model.fit(X, Y, batch_size=8, verbose=0)
    before = weights(model)
    scores = model.cross_validate(X, Y, n_splits=5, seed=1, epochs=4, batch_size=8)
    assert scores.keys() == {"train_score", "test_score"}
    assert [len(values) for values in scores.values()] == [5, 5]
    assert all(0 <= value <= 1 for values in scores.values() for value in values)
    assert same(weights(model), before)
    assert model.cross_validate(X, Y, n_splits=5, seed=1, epochs=4, batch_size=8) == scores
    with pytest.raises(hg.errors.SettingError, match="checkpoint"):
        model.cross_validate(X, Y, checkpoint="x")
    with pytest.raises(hg.errors.SettingError, match="class_weight"):
        model.cross_validate(X, Y, sample_weight=torch.ones(40))
    regression = net("mse", outputs=1).cross_validate(X, X.sum(1, keepdim=True), n_splits=2, optimizer=optim.SGD(lr=0.1), epochs=20)
    assert min(regression["test_score"]) > 0
    for n_splits in (1, 41, 2.0):
        with pytest.raises(hg.errors.SettingError):
            model.cross_validate(X, Y, n_splits=n_splits)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [20, 23])
def test_folds_are_stratified(rows: int) -> None:
    labels = (torch.arange(rows) % 5 == 0).long()
    pairs = stratified(rows, 4, labels, torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([test for _, test in pairs]).sort().values, torch.arange(rows))
    for train, test in pairs:
        assert not set(train.tolist()) & set(test.tolist())
        assert len(train) + len(test) == rows
        assert abs(float(labels[test].sum()) - float(labels.sum()) / 4) <= 1
        assert abs(len(test) - rows / 4) < 1


# ------------------------------------------------------------------------------------------------ Sequential itself


def test_layers_by_position_name_and_slice() -> None:
    model = Sequential({"first": Linear(3, 5), "squash": Tanh(), "last": Linear(5, 2)})
    assert list(model.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert model["first"] is model[0] is model.first
    assert model[-1] is model.last
    front = model[:2]
    assert isinstance(front, Sequential)
    assert front.first is model.first
    assert front(X).shape == (40, 5)
    assert len(model.append(hg.relu)) == 4
    model["last"] = Linear(5, 7)
    assert model(X).shape == (40, 7)
    assert [type(layer).__name__ for layer in model][:3] == ["Linear", "Tanh", "Linear"]
    for bad in (
        lambda: model["nothing"],
        lambda: model.append(3),
        lambda: model.append(ReLU(), "a.b"),
        lambda: model.append(ReLU(), "fit"),
    ):
        with pytest.raises(hg.HotgradError):
            bad()


def test_list_form() -> None:
    model = Sequential([Linear(3, 2)], "mse", "sgd")
    assert (model.loss, model.optimizer) != (None, None)
    for arguments in (([Linear(3, 2)], "mse", "sgd", 1), (Linear, ReLU())):
        with pytest.raises(hg.OperandError):
            Sequential(*arguments)


def test_copies_are_independent() -> None:
    model = noisy()
    model.fit(X, Y, batch_size=8, seed=0, verbose=0)
    twin = copy.deepcopy(model)
    before = weights(model)
    twin.fit(X, Y, batch_size=8, verbose=0)
    assert same(weights(model), before)
    model.fit(X, Y, batch_size=8, verbose=0)
    assert same(weights(model), weights(twin))


def test_a_network_with_a_shared_layer_half_of_it_frozen() -> None:
    class Net(Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.shared, self.leave = Linear(2, 8), Linear(8, 8), Linear(8, 2)

        def forward(self, x: Any) -> Any:
            h = self.enter(x).relu()
            h = h + self.shared(h).relu()
            h = h + self.shared(h).relu()
            return self.leave(h)

    x, labels = disc(200, seed=0)
    inner = Net()
    inner.enter.freeze()
    model = Sequential(inner, loss="cross_entropy", optimizer=optim.Adam(lr=0.01, weight_decay=0.1))
    before = weights(model)
    history = model.fit(x, labels, epochs=30, batch_size=20, seed=0, verbose=0)
    assert history[-1]["loss"] < history[0]["loss"]
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {"0.shared.weight", "0.shared.bias", "0.leave.weight", "0.leave.bias"}


def test_lazy_layers_are_sized_by_fit() -> None:
    a = Sequential(Linear(6), ReLU(), Linear(2), loss="cross_entropy", optimizer="adam")
    b = Sequential(Linear(6), ReLU(), Linear(2), loss="cross_entropy", optimizer="adam")
    for each in (a, b):
        each.fit(X, Y, epochs=2, batch_size=8, seed=4, verbose=0)
    assert same(weights(a), weights(b))
