"""Trainings side by side: what each of them claims, threads, and the rows of folds."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.modes import enable_grad
from hotgrad.core.variable import Parameter
from hotgrad.engines.native.compiler import given_up
from hotgrad.errors import BusyError, SettingError
from hotgrad.modules import Dropout, Module

F = TypeVar("F", bound=Callable[..., Any])


class _Use:
    """A training or a prediction that goes on."""

    def __init__(self, model: Module, trains: bool) -> None:
        self.model, self.trains, self.thread = model, trains, threading.get_ident()
        self.things: list[Any] = []  # what it has claimed, kept alive so that no id is used twice
        self.modules: list[Module] | None = None  # of a prediction's model
        self.itself = weakref.ref(self)


# By id: who has it. Weakly, so that nothing stays claimed whatever interrupts a training.
_held: dict[int, weakref.ref[_Use]] = {}
_changed = threading.Condition()


def _claim(use: _Use, things: Iterable[Any], watched: Iterable[Any] = ()) -> None:
    """Take all these things for `use`, once no other thread has them, nor those that are watched. Raises BusyError if one trains them."""
    wanted = {id(thing): thing for thing in things}
    ids = {*wanted, *map(id, watched)}
    with _changed:
        while True:
            others = [other for other in map(_holder, ids & _held.keys()) if other is not None and other.thread != use.thread]
            for other in others:
                if other.trains:
                    raise BusyError(_conflict(use, other))
            if not others:
                break
            _changed.wait(0.1)
        for key, thing in wanted.items():
            if _holder(key) is None:  # else this thread has it, which trains a model and does something with it in a callback
                use.things.append(thing)
                _held[key] = use.itself


def _holder(key: int) -> _Use | None:
    held = _held.get(key)
    return None if held is None else held()


def _conflict(use: _Use, other: _Use) -> str:
    shared = "this model shares layers, Parameters, optimizer or callbacks with one that is"
    what = "this model is" if use.model is other.model else shared
    remedy = "fit_many trains copies side by side" if use.trains else "use it after that, in a callback, or copy.deepcopy it before"
    return f"{what} being trained by another thread; {remedy}"


def _release(use: _Use) -> None:
    with _changed:
        for thing in use.things:
            if _held.get(id(thing)) is use.itself:
                del _held[id(thing)]
        use.things.clear()
        _changed.notify_all()


def _steady(module: Module) -> bool:
    """Whether it computes the same in train and eval mode, for certain, and keeps nothing: then it may serve several at once."""
    return type(module).__module__.startswith("hotgrad.") and not module._buffers and not isinstance(module, Dropout)


def _trained(model: Module) -> Iterable[Any]:
    """What a training of the model changes."""
    yield model
    for module in model.modules():
        own = [value for value in vars(module).values() if isinstance(value, Parameter) and value.requires_grad]
        if own or not _steady(module):
            yield module
    yield from (parameter for parameter in model.parameters() if parameter.requires_grad)


def claim_more(model: Module, things: Iterable[Any] | None = None) -> None:
    """Also `things`, or what a model that is being trained has got meanwhile. Raises BusyError."""
    use = _holder(id(model))
    if use is not None and use.model is model:
        _claim(use, _trained(model) if things is None else things)


def modules_of(model: Module) -> list[Module]:
    """All modules in it, looked for once for each prediction."""
    use = _holder(id(model))
    return list(model.modules()) if use is None or use.model is not model or use.modules is None else use.modules


def training(method: F) -> F:
    """For a method that trains a model: it has it alone, and records, whatever holds outside. Raises BusyError while another training does."""

    @functools.wraps(method)
    def alone(model: Any, *args: Any, **kwargs: Any) -> Any:
        use = _Use(model, True)
        held = _holder(id(model))
        if held is not None and held.trains and held.thread == use.thread and held.model is model:
            raise BusyError("this model is being trained, and its callbacks, layers and loss cannot call fit of it; give fit more epochs")
        try:
            _claim(use, _trained(model))
            return enable_grad.run(method, model, *args, **kwargs)
        finally:
            _release(use)

    return alone  # type: ignore[return-value]


def using(method: F) -> F:
    """For a method that runs a model or takes its state as a whole: it waits for others, and raises BusyError while another thread trains."""

    @functools.wraps(method)
    def in_turn(model: Any, *args: Any, **kwargs: Any) -> Any:
        use = _Use(model, False)
        use.modules = modules = list(model.modules())
        try:
            _claim(use, (model, *(module for module in modules if not _steady(module))), modules)
            return method(model, *args, **kwargs)
        finally:
            _release(use)

    return in_turn  # type: ignore[return-value]


T = TypeVar("T")

# Set in threads that train side by side: the event that ends their trainings.
stopping: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("stopping", default=None)
# Whether a `fit` is a part of something larger, which a training that was cut off would falsify.
part: contextvars.ContextVar[bool] = contextvars.ContextVar("part", default=False)


def cores() -> int:
    """How many threads this process may run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def part_of_more() -> Iterator[None]:
    """What is built on `fit` trains inside: there Ctrl-C makes `fit` raise KeyboardInterrupt in place of returning what it has."""
    token = part.set(True)
    try:
        yield
    finally:
        part.reset(token)


def side_by_side(tasks: Sequence[Callable[[], T]], jobs: int, names: Sequence[str] = ()) -> list[T]:
    """The results of the tasks, in order, run on so many threads. The first exception comes out, and stops the others.

    Ctrl-C makes trainings in the tasks end between two steps, and raises a KeyboardInterrupt with the `names` of the tasks that were
    not finished.

    >>> side_by_side([lambda: 1, lambda: 2], jobs=2)
    [1, 2]
    """
    results: dict[int, T] = {}

    def run(place: int, stop: threading.Event | None) -> None:
        if stop is not None:
            stopping.set(stop)
            given_up.set(stop.is_set)
        with part_of_more():
            results[place] = tasks[place]()

    try:
        if jobs == 1 or len(tasks) < 2:
            for place in range(len(tasks)):
                run(place, None)
        else:
            _on_threads(run, len(tasks), min(jobs, len(tasks)))
    except KeyboardInterrupt:
        left = [names[place] if names else f"task {place}" for place in range(len(tasks)) if place not in results]
        raise KeyboardInterrupt(f"not finished: {', '.join(left) or 'none'}") from None
    return [results[place] for place in range(len(tasks))]


def _on_threads(run: Callable[[int, threading.Event], None], tasks: int, jobs: int) -> None:
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(contextvars.copy_context().run, run, place, stop) for place in range(tasks)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in (*done, *futures):  # the first raises what it raised, before the others are waited for
                future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


def stratified(rows: int, n_splits: int, labels: Tensor | None, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """`n_splits` pairs of (training rows, test rows); every row is tested once. Test sets differ by at most one row in size.

    With `labels` (rows,) each test set has each label in the same share, as nearly as whole rows allow. Raises SettingError
    for more splits than rows.

    >>> pairs = stratified(4, 2, torch.tensor([0, 0, 1, 1]), torch.Generator().manual_seed(0))
    >>> [sorted(torch.tensor([0, 0, 1, 1])[test].tolist()) for train, test in pairs]
    [[0, 1], [0, 1]]
    """
    if n_splits > rows:
        raise SettingError(f"n_splits is {n_splits}, but there are only {rows} rows")
    order = torch.randperm(rows, generator=generator)
    if labels is not None:
        order = order[labels.cpu()[order].argsort(stable=True)]
    # rows of one label follow each other, so dealing them out like cards gives every fold its share
    folds = torch.arange(rows) % n_splits
    return [(order[folds != k].sort().values, order[folds == k].sort().values) for k in range(n_splits)]
