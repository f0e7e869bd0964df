"""One model or Program in the hands of several threads: what would go wrong is refused or waits, everything else is right."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from fitting import compare, state

import hotgrad as hg
from hotgrad import nn, optim
from hotgrad.training import side_by_side

X, LABELS = hg.data.disc(40, seed=0)


def made(*layers: Any, optimizer: Any = "adam") -> hg.Sequential:
    layers = layers or (hg.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), hg.Linear(4, 2))
    return hg.Sequential(*layers, loss="cross_entropy", optimizer=optimizer)


def meanwhile(model: hg.Sequential, call: Callable[[], Any], **settings: Any) -> Any:
    """What `call` gives in another thread in the middle of a training of `model`; that training ends as it would have without."""
    peer = copy.deepcopy(model)
    found: list[Any] = []

    def callback(trained: Any, history: Any) -> None:
        if trained is model and len(history) == 2:
            with ThreadPoolExecutor(1) as pool:
                found.append(pool.submit(call).exception())

    for each in (model, peer):
        history = each.fit(X, LABELS, epochs=4, batch_size=15, seed=0, verbose=0, callbacks=[callback], **settings)
        assert len(history) == 4
    compare(state(model), state(peer))
    return found[0]


@pytest.mark.parametrize("engine", ["eager", "replay"])
@pytest.mark.parametrize("method", ["fit", "predict", "classify", "score", "evaluate", "reset", "save", "load"])
def test_a_model_in_training_is_refused_to_other_threads(method: str, engine: str, tmp_path: Any) -> None:
    model = made()
    model.save(tmp_path / "model")
    arguments = {"predict": (X,), "classify": (X,), "reset": (0,), "save": (tmp_path / "model",), "load": (tmp_path / "model",)}
    error = meanwhile(model, lambda: getattr(model, method)(*arguments.get(method, (X, LABELS))), engine=engine)
    assert isinstance(error, hg.BusyError) and isinstance(error, RuntimeError)
    assert ("fit_many" if method == "fit" else "deepcopy") in str(error) and "this model is being trained" in str(error)
    model.fit(X, LABELS, verbose=0)  # afterwards it is free
    assert not side_by_side._held


def test_what_models_share() -> None:
    shared = hg.Linear(4, 4)
    drop, norm = nn.Dropout(0.5), nn.BatchNorm1d(2)

    class Own(hg.Module):
        def forward(self, x: Any) -> Any:
            return x * (2 if self.training else 1)

    own = Own()
    for part in ([hg.Linear(2, 4), shared], [drop], [norm], [own]):
        model, other = made(*part, hg.Linear(2)), made(*part, hg.Linear(2))
        for call in (lambda other=other: other.fit(X, LABELS, verbose=0), lambda other=other: other.predict(X)):
            assert "shares layers" in str(meanwhile(model, call)), part
    stateless = [hg.Tanh(), hg.Linear(2, 4).freeze(), nn.Flatten()]
    model, other = made(*stateless, hg.Linear(4, 2)), made(*stateless, hg.Linear(4, 2))
    assert meanwhile(model, lambda: other.fit(X, LABELS, verbose=0) and other.predict(X)) is None
    tied = made(hg.Linear(2, 4), hg.Linear(4, 2))
    twin = made(hg.Linear(2, 4), hg.Linear(4, 2))
    twin[0].weight = tied[0].weight
    assert "shares" in str(meanwhile(tied, lambda: twin.fit(X, LABELS, verbose=0)))


def test_shared_callbacks_are_refused() -> None:
    stop, other = hg.EarlyStopping("loss"), made()
    error: list[Any] = []

    def callback(model: Any, history: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            error.append(pool.submit(other.fit, X, LABELS, callbacks=[stop], verbose=0).exception())

    made().fit(X, LABELS, verbose=0, callbacks=[stop, callback])
    assert isinstance(error[0], hg.BusyError)


def test_callbacks_may_use_the_model_but_not_fit_it() -> None:
    model, other = made(), made()

    def use(model: Any, history: Any) -> None:
        assert model.predict(X).shape == (40, 2) and model.classify(X).shape == (40,)
        assert 0 <= model.score(X, LABELS) <= 1 and "loss" in model.evaluate(X, LABELS)
        other.fit(X, LABELS, seed=0, verbose=0)
        made(*model[:1], hg.Linear(4, 2)).fit(X, LABELS, verbose=0)  # with a layer of the model's

    assert len(model.fit(X, LABELS, epochs=3, seed=0, verbose=0, callbacks=[use])) == 3
    before = state(model)
    with pytest.raises(hg.BusyError, match="cannot call fit of it"):
        model.fit(X, LABELS, epochs=3, verbose=0, callbacks=[lambda model, history: model.fit(X, LABELS, verbose=0)])
    compare({n: v for n, v in state(model).items() if n != "generator"}, {n: v for n, v in before.items() if n != "generator"})
    with pytest.raises(hg.BusyError, match="cannot call fit of it"):
        made(lambda v: model.fit(X, LABELS, verbose=0) and v, *model) and model.fit(
            X, LABELS, loss=lambda o, t: model.fit(X, LABELS, verbose=0) and (o * o).mean(), verbose=0
        )
    model.fit(X, LABELS, verbose=0)


def test_a_callback_that_trains_another_model_with_shared_layers_takes_no_draws() -> None:
    drop = nn.Dropout(0.5)
    found = []
    for shared in (drop, nn.Dropout(0.5)):
        model, other = made(hg.Linear(2, 4), drop, hg.Linear(4, 2)), made(hg.Linear(2, 4), shared, hg.Linear(4, 2))
        model.reset(0)
        model.fit(
            X, LABELS, epochs=4, seed=0, verbose=0, callbacks=[lambda m, h, other=other: other.fit(X, LABELS, seed=5, verbose=0) and None]
        )
        found.append(state(model))
    compare(*found)


def test_predictions_of_many_threads_at_once() -> None:
    """In train mode before and after: none may see the mode that another one gives back, nor its numbers."""
    model = made(hg.Linear(2, 64), nn.Dropout(0.5), nn.BatchNorm1d(64), hg.Linear(64, 2))
    inputs = [X + i for i in range(4)]
    expected = [model.predict(x) for x in inputs]
    barrier = threading.Barrier(4)

    def work(i: int) -> bool:
        barrier.wait()
        return all(torch.equal(model.predict(inputs[i]), expected[i]) for _ in range(60))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
    assert all(module.training for module in model.modules())


def test_trainings_of_the_same_model_at_once() -> None:
    """Whatever the moment: one trains, the others are refused, and its results are those of a training alone."""
    model, peer = made(), made()
    peer.load_state_dict(model.state_dict())
    barrier = threading.Barrier(3)

    def work(i: int) -> Any:
        barrier.wait()
        try:
            return model.fit(X, LABELS, epochs=200, seed=0, verbose=0, engine="eager")
        except hg.BusyError:
            return None

    with ThreadPoolExecutor(3) as pool:
        found = [history for history in pool.map(work, range(3)) if history is not None]
    for history in found:
        assert len(history) == 200
        peer.fit(X, LABELS, epochs=200, seed=0, verbose=0, engine="eager")
    compare(state(model), state(peer))
    assert 1 <= len(found) <= 3


@pytest.mark.parametrize("engine", ["replay", "native"])
def test_a_training_program_of_many_threads(engine: str) -> None:
    """Its steps happen one after the other, counted and at their own rates."""
    weights = []
    for threads in (1, 4):
        w = hg.Parameter(torch.tensor([4.0, -3.0], dtype=torch.float64))
        optimizer = optim.Adam([w], lr=optim.StepLR(0.5, 7, 0.9, per="step"))

        def step(x: Any, w: Any = w, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = ((w * x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        captured = hg.capture(step, torch.ones(2, dtype=torch.float64))
        programs = [captured.to(engine), captured.to(engine)]
        barrier = threading.Barrier(threads)

        def work(i: int, programs: Any = programs, barrier: Any = barrier, steps: int = 200 // threads) -> None:
            barrier.wait()
            for _ in range(steps):
                programs[i % 2](torch.ones(2, dtype=torch.float64))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
        assert optimizer._slots()[0].count == 200
        weights.append(w.data)
    assert torch.equal(weights[0], weights[1])
