"""Predictions by program: never an error, another result or a call too many where the model itself works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import hotgrad as hg
from hotgrad.modules import Linear, Module, Tanh
from hotgrad.training import Sequential, captured

X = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))


class Config:
    """Raises what it likes for names that it lacks, as many config classes do."""

    def __init__(self, error: type[BaseException]) -> None:
        self.__dict__.update(values={"k": 2.0}, error=error)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise self.error(name) from None


class Hostile(Config):
    def __eq__(self, other: object) -> bool:
        raise self.error("compared")

    def __bool__(self) -> bool:
        raise self.error("asked")

    def __len__(self) -> int:
        raise self.error("counted")

    __hash__ = None  # type: ignore[assignment]


class Own(Exception):
    pass


class Layer(Module):
    """A module that counts the calls in eval mode, and on what they were."""

    def __init__(self, config: Any = None) -> None:
        self.config, self.evals, self.seen = config, 0, list[Any]()

    def forward(self, x: Any) -> Any:
        if not self.training:
            self.evals += 1
            self.seen.append(x.data.clone())
        return x * (self.config.k if self.config is not None else 2.0)

    @property
    def broken(self) -> Any:
        raise ZeroDivisionError


def with_config(layer: Any, config: Any) -> Any:
    layer.config = config
    return layer


ERRORS: list[type[Exception]] = [KeyError, AttributeError, ZeroDivisionError, Own, OSError, StopIteration, RecursionError]
MODELS: dict[str, Callable[[Any], Any]] = {
    "a closure": lambda config: lambda v: v * config.k,
    "a module": lambda config: Layer(config),
    "a setting of a layer of hotgrad's": lambda config: with_config(Tanh(), config),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("kind", MODELS)
def test_objects_that_do_not_like_to_be_looked_at(kind: str, error: type[Exception]) -> None:
    for config in (Config(error), Hostile(error)):
        model = Sequential(Linear(2, 3), MODELS[kind](config), loss="mse")
        first = model.predict(X)
        for _ in range(7):
            assert torch.equal(model.predict(X), first)
        assert model.score(X, first) == 1


def test_changes_that_raise_when_they_are_compared() -> None:
    model = Sequential(with_config(Linear(2, 3), 1.0))
    for config in (1.0, Hostile(Own), 2.0):
        model[0].config = config
        for _ in range(6):
            assert torch.equal(model.predict(X), model[0](hg.Variable(X)).data)


def test_own_layers_are_called_once_for_each_prediction() -> None:
    layer = Layer()
    model = Sequential(Linear(2, 3), layer)
    for _ in range(9):
        model.predict(X)
    assert layer.evals == len(layer.seen) == 9
    assert all(torch.equal(seen, layer.seen[0]) for seen in layer.seen)


@pytest.mark.parametrize("engine", ["eager", "replay", "auto"])
def test_and_once_for_each_validation(engine: str) -> None:
    def evals(epochs: int) -> int:
        layer = Layer()
        model = Sequential(Linear(2, 3), layer, loss="mse", optimizer="sgd")
        model.reset(0)
        model.fit(X, X @ torch.ones(2, 3), epochs, 1, validation_data=(X, X @ torch.ones(2, 3)), engine=engine, verbose=0)
        return layer.evals

    assert evals(40) - evals(32) == 8


def test_hotgrads_own_layers_run_by_program() -> None:
    model = Sequential(Linear(2, 3), hg.tanh, Sequential(Tanh()), torch.relu)
    for _ in range(5):
        model.predict(X)
    assert isinstance(next(iter(model._setup.predictor._found.values())), tuple)  # type: ignore[union-attr]


def test_what_fails_in_the_program_is_shown_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise OSError

    from hotgrad.engines.replay import Replay

    model = Sequential(Linear(2, 3), Tanh())
    first = model.predict(X)
    monkeypatch.setattr(Replay, "run", fails)
    for _ in range(5):
        assert torch.equal(model.predict(X), first)


def test_ctrl_c_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:

    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(captured, "captured", interrupted)
    model = Sequential(Linear(2, 3), Tanh())
    for _ in range(3):
        model.predict(X)
    with pytest.raises(KeyboardInterrupt):
        model.predict(X)
