"""What happens around epochs: History, output, callbacks, errors and Ctrl-C, and what holds when one of them ends the training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_models import X, Y, blobs, net, noisy, problem, same, weights

import hotgrad as hg
from hotgrad import optim
from hotgrad.modules import Module
from hotgrad.training import EarlyStopping, History, Sequential

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


# ------------------------------------------------------------------------------------------ recording, and what is frozen


@pytest.mark.parametrize("engine", ["eager", "replay", "native", "auto"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_fit_trains_inside_no_grad(optimizer: str, engine: str) -> None:
    x, y = blobs()
    plain, quiet = net("cross_entropy", optimizer), net("cross_entropy", optimizer)
    modes = []
    expected = plain.fit(x, y, epochs=3, seed=0, verbose=0, engine=engine)
    with hg.no_grad():
        history = quiet.fit(x, y, epochs=3, seed=0, verbose=0, engine=engine, callbacks=[lambda m, h: modes.append(m[0].weight.sum())])
        assert not quiet[0].weight.sum().requires_grad, "the mode is restored"
    assert all(mode.requires_grad for mode in modes)
    assert history.column("loss") == expected.column("loss")
    assert same(weights(plain), weights(quiet))


def test_what_is_built_on_fit_trains_inside_no_grad() -> None:
    x, y = blobs()
    expected = net("cross_entropy").cross_validate(x, y, epochs=2, seed=0)
    many = hg.fit_many(lambda: net("cross_entropy"), x, y, epochs=2, seeds=2, jobs=2)
    with hg.no_grad():
        assert net("cross_entropy").cross_validate(x, y, epochs=2, seed=0) == expected
        again = hg.fit_many(lambda: net("cross_entropy"), x, y, epochs=2, seeds=2, jobs=2)
    assert [history.column("loss") for _, history in many] == [history.column("loss") for _, history in again]


@pytest.mark.parametrize("engine", ["eager", "replay", "native", "auto"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_callback_that_freezes_all(optimizer: str, engine: str) -> None:
    x, y = blobs()

    def freezing(model: Sequential, history: History) -> bool:
        if len(history) == 2:
            model.freeze()
        return ends and len(history) == 2

    ends, model = False, net("cross_entropy", optimizer)
    with pytest.raises(hg.SettingError, match="nothing to train: of the model's 4 Parameters none requires a gradient"):
        model.fit(x, y, epochs=4, seed=0, verbose=0, engine=engine, callbacks=[freezing])
    assert model.epochs_done == 2
    ends, model = True, net("cross_entropy", optimizer)
    assert len(model.fit(x, y, epochs=4, seed=0, verbose=0, engine=engine, callbacks=[freezing])) == 2, "at the end it may"
