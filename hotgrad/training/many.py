"""Several trainings of one kind: `fit_many`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hotgrad.checks import seed_number, shown, whole_number
from hotgrad.errors import OperandError, SettingError
from hotgrad.modules import Module
from hotgrad.training.history import History
from hotgrad.training.sequential import Sequential
from hotgrad.training.side_by_side import cores, side_by_side

_MANY = 10**6  # trainings, more of which nobody means


def fit_many(
    make_model: Callable[[], Sequential], x: Any, y: Any = None, epochs: int = 1, batch_size: int | None = None, *,
    seeds: int | Iterable[int], jobs: int | None = None, **settings: Any,
) -> list[tuple[Sequential, History]]:  # fmt: skip
    """Train one model per seed on the same data: what `make_model` returns, reset and fitted with that seed, and its History.

    `seeds`: several whole numbers, or k for 0 to k - 1. `jobs`: threads, by default as many as there are cores; the results do not
    depend on it. All models are made in order before any training starts. `settings` are those of `fit`; `verbose` is 0 unless given.
    A training on the eager or replay engine holds Python's lock, so that only the native engine gains from threads.

    Ctrl-C raises KeyboardInterrupt, with the seeds whose training is not finished. Raises what `fit` raises, and SettingError for settings that several trainings cannot share.

    >>> x, labels = hg.data.disc(100, seed=0)
    >>> def make_model():
    ...     return Sequential(hg.Linear(2, 8), hg.ReLU(), hg.Linear(8, 2), loss="cross_entropy", optimizer="adam")
    >>> results = fit_many(make_model, x, labels, epochs=2, batch_size=20, seeds=3)
    >>> [len(history) for model, history in results]
    [2, 2, 2]
    """
    numbers = _numbers(seeds)
    if not callable(make_model) or isinstance(make_model, Module):
        raise OperandError(f"make_model is a function that returns a new model at each call; got {shown(make_model)}")
    jobs = cores() if jobs is None else whole_number("jobs", jobs)
    for name in ("seed", "checkpoint", "optimizer", "callbacks"):
        if name in settings and (name == "seed" or settings[name]):
            raise SettingError(f"fit_many takes no {name}, which each training needs of its own; let make_model bring it, or call fit")
    settings.setdefault("verbose", 0)
    models: list[Sequential] = []
    for seed in numbers:
        model = make_model()
        if not isinstance(model, Sequential):
            raise OperandError(f"make_model must return a Sequential; got {model!r:.60}")
        if any(model is other for other in models):
            raise OperandError("make_model returned the same model twice; it must make a new one at each call")
        model.reset(seed)
        models.append(model)

    def task(model: Sequential, seed: int) -> Callable[[], History]:
        return lambda: model.fit(x, y, epochs, batch_size, seed=seed, **settings)

    histories = side_by_side([task(model, seed) for model, seed in zip(models, numbers)], jobs, [f"seed {seed}" for seed in numbers])
    return list(zip(models, histories))


def _numbers(seeds: Any) -> list[int]:
    """The seeds that are meant by several, or by their number. Raises SettingError for anything else."""
    try:
        several = list(seeds)
    except TypeError:  # one number
        count = whole_number("seeds", seeds, most=2**128 - 1)  # told below of too many
        if count > _MANY:
            raise SettingError(
                f"seeds={shown(seeds)} asks for so many models; give [{shown(seeds)}] for a single one with this seed"
            ) from None
        return list(range(count))
    return [seed_number("seeds", seed) for seed in several]
