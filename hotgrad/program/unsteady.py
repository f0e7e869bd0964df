"""Functions that give something else at each call, clocks and random numbers: noticed while a function is captured."""

from __future__ import annotations

import contextlib
import gc
import random
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from hotgrad.core.modes import surely

T = TypeVar("T")
# C functions whose results differ from call to call, by the module or the type that they belong to.
_VARYING = ("time", "random", "_random", "datetime", "uuid", "secrets", "numpy.random", "posix", "nt")
_CLOCKS_AND_DICE = frozenset(
    """time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time process_time_ns localtime gmtime strftime ctime
    now utcnow today random getrandbits rand randn uniform normal integers choice standard_normal permutation shuffle
    urandom""".split()
)


class _Collector:
    """Python's garbage collector, off for as long as any thread has paused it.

    A collection runs code of others on whichever thread it falls: callbacks that read the clock, finalizers.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._paused_by: list[object] = []
        self._enabled = False

    def pause(self, by: object) -> None:
        with self._lock:
            if not self._paused_by:
                self._enabled = gc.isenabled()
            self._paused_by.append(by)
            gc.disable()

    def resume(self, by: object) -> None:
        """Undo what `by` did. Doing it twice does nothing more."""
        with self._lock:
            self._paused_by = [other for other in self._paused_by if other is not by]
            if not self._paused_by and self._enabled:
                gc.enable()

    def unlock(self) -> None:
        """Release what Ctrl-C kept `with` from releasing."""
        with contextlib.suppress(RuntimeError):  # it is not this thread's
            while True:
                self._lock.release()


_COLLECTOR = _Collector()


class Unsteady:
    """Notices calls of functions whose results differ from call to call: clocks and random numbers.

    `called`: the name of the first one, "" without.
    """

    def __init__(self) -> None:
        self.called = ""
        self._paused = 0
        self._on = False  # and while code of hotgrad's own runs, off

    def pause(self) -> None:
        """Look away, while code of hotgrad's own runs: being looked at takes most of its time."""
        if self._on:
            self._paused += 1
            if self._paused == 1:
                sys.setprofile(None)

    def go_on(self) -> None:
        """Undo one `pause`."""
        if self._on:
            self._paused -= 1
            if not self._paused:
                sys.setprofile(self._look)

    def _look(self, frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or self.called:
            return
        owner = getattr(function, "__self__", None)
        cls = owner if isinstance(owner, type) else type(owner)
        module = getattr(function, "__module__", None) or (owner.__name__ if isinstance(owner, types.ModuleType) else cls.__module__)
        caller = frame.f_globals.get("__name__", "").split(".")[0]
        if module.startswith(_VARYING) and function.__name__ in _CLOCKS_AND_DICE and caller not in ("hotgrad", "torch"):
            self.called = f"called {module}.{function.__name__}()"

    def run(self, body: Callable[[], T]) -> T:
        """What `body()` gives, watched. Global random numbers that it drew can be drawn again, by eager execution."""
        python, numpy = random.getstate(), _numpy_state()
        ours = sys.getprofile() is None  # a profiler that the user runs is left alone

        def watched() -> T:
            _COLLECTOR.pause(self)
            if ours:
                self._on = True
                sys.setprofile(self._look)
            return body()

        def end() -> None:
            if ours:
                self._on = False
                sys.setprofile(None)
            _COLLECTOR.resume(self)

        try:
            return surely(watched, end, _COLLECTOR.unlock)
        finally:
            if numpy is not None and _comparable(_numpy_state()) != _comparable(numpy):
                self.called = self.called or "drew from numpy's global random numbers"
                sys.modules["numpy.random"].set_state(numpy)
            if random.getstate() != python:
                self.called = self.called or "drew from Python's global random numbers"
                random.setstate(python)


def _numpy_state() -> Any:
    """The state of numpy's global generator, whose functions no profiler sees."""
    numpy = sys.modules.get("numpy.random")
    return None if numpy is None else numpy.get_state()


def _comparable(state: Any) -> Any:
    """A state of numpy's generators as something that `!=` compares whole."""
    name, key, *rest = state
    return name, key.tobytes(), rest


def draws(forward: Callable[[], T]) -> tuple[T, bool]:
    """What `forward()` gives, and whether it draws torch's global random numbers. These are then as they were."""
    before = _torch_states()
    result = forward()
    after = _torch_states()
    if all(map(torch.equal, before, after)):
        return result, False
    for _ in range(3):  # was it another thread that drew?
        forward()
        again = _torch_states()
        if all(map(torch.equal, after, again)):
            return result, False
        after = again
    for generator, then in zip(_torch_generators(), before):
        generator.set_state(then)
    return result, True


def _torch_generators() -> list[torch.Generator]:
    return [torch.default_generator, *(torch.cuda.default_generators if torch.cuda.is_initialized() else ())]  # type: ignore[no-untyped-call]


def _torch_states() -> list[Tensor]:
    return [generator.get_state() for generator in _torch_generators()]
