"""What holds where ops are called: the tape, whether it records, and the capture going on; and the scopes that change it.

Each thread, and each asyncio task, has a Mode of its own. `no_grad`, `enable_grad` and `with Tape()` enter another one, which keeps
the one to go back to.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from hotgrad.core.explain import table
from hotgrad.core.records import Record
from hotgrad.core.trace import Trace
from hotgrad.errors import OperandError, TapeError

T = TypeVar("T")


class Tape:
    """The records of one thread, in order. `with Tape() as t:` records on a tape of its own.

    A record lives as long as a Variable or a later record can reach it, and no longer: reference counts see to that, without
    pruning. So a tape does not hold its records. Each names its tape, and the tape looks for them when it is asked, which
    takes milliseconds and costs recording nothing. `len`, iteration and `str` show live records: reachable, and not freed.

    >>> import hotgrad as hg
    >>> x = hg.Variable([1.0, 2.0], requires_grad=True)
    >>> with hg.Tape() as t:
    ...     y = (x * x).sum()
    >>> [record.op.name for record in t]
    ['Mul', 'Sum']
    """

    __slots__ = ()

    def __enter__(self) -> Tape:
        now = state.now
        _enter(Mode(self, now.recording, now.trace, now, self))
        return self

    def __exit__(self, *exc: object) -> None:
        _leave(self)

    def __len__(self) -> int:
        return len(self._records())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records())

    def __str__(self) -> str:
        return table(self._records())

    def _records(self) -> list[Record]:
        if state.trace is not None:
            state.trace.refuse("the tape was looked at while capturing, where it is not as in eager execution")
        # A record names its tape last, when it is complete.
        found = [o for o in gc.get_objects() if type(o) is Record and getattr(o, "tape", None) is self and o.parents is not None]
        return sorted(found, key=lambda record: record.sequence)


class Tracing(Exception):
    """Raised by `Mode.active` while a program is captured."""


class Mode:
    """What holds where ops are called: the tape, whether it records, and the capture going on (`trace`, see `program.trace`), or None.

    `active`: the tape to record on, or None. `outer`: the Mode to go back to; `by`: what was entered; `place`: by
    which block (that of an ExitStack is entered and left by different ones).
    """

    __slots__ = ("tape", "recording", "trace", "active", "outer", "by", "place")

    def __init__(self, tape: Tape, recording: bool, trace: Trace | None = None, outer: Mode | None = None, by: Any = None) -> None:
        self.tape, self.recording, self.trace, self.outer, self.by = tape, recording, trace, outer, by
        self.place = _place(sys._getframe(2))
        if type(self) is Mode:
            self.active: Tape | None = tape if recording else None
        if trace is not None:
            self.__class__ = TracingMode


def _place(frame: Any) -> tuple[int, Any]:
    return id(frame), frame.f_code


class TracingMode(Mode):
    """The Mode while a program is captured. Asking for `active` sends every call of an op to the trace, so ops need not ask for a trace."""

    __slots__ = ()

    @property
    def active(self) -> Any:  # type: ignore[override]
        raise Tracing


class _First(Mode):
    """Stands where no Mode was set yet: in a new thread, and in a task that was started there."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    @property
    def active(self) -> Any:  # type: ignore[override]
        return state.now.active


class _Base(threading.local):
    """The Mode that each thread starts in, on a tape of its own."""

    def __init__(self) -> None:
        self.mode = Mode(Tape(), True)


_BASE = _Base()
_FIRST = _First()
# A context variable, so that asyncio tasks have modes of their own. Ops read `MODE.get().active`.
MODE: contextvars.ContextVar[Mode] = contextvars.ContextVar("hotgrad mode", default=_FIRST)


class _State:
    """The Mode that holds now, and its fields."""

    __slots__ = ()

    @property
    def now(self) -> Mode:
        mode = MODE.get()
        if mode is _FIRST:
            mode = _BASE.mode
            MODE.set(mode)
        return mode

    @property
    def tape(self) -> Tape:
        return self.now.tape

    @property
    def recording(self) -> bool:
        return self.now.recording

    @property
    def trace(self) -> Trace | None:
        mode = MODE.get()
        return None if mode is _FIRST else mode.trace


state = _State()


def _enter(mode: Mode) -> None:
    """Let `mode` hold from here on. Ctrl-C before the block begins, which would not be left then, takes it back."""
    try:
        MODE.set(mode)
    except BaseException:
        MODE.set(mode.outer)  # type: ignore[arg-type]
        raise


def _leave(by: Any) -> None:
    """Go back to the Mode that held when `by` was entered, whatever was entered since and was not left."""
    frame, outer = sys._getframe(2), None
    try:
        outer = _outer(by, frame)
        MODE.set(outer)
    except KeyboardInterrupt:
        MODE.set(outer or _outer(by, frame))
        raise


def _outer(by: Any, frame: Any) -> Mode:
    place, found = _place(frame), None
    mode: Mode | None = state.now
    while mode is not None and (found is None or found.place != place):
        if mode.by is by and (found is None or mode.place == place):
            found = mode
        mode = mode.outer
    if found is None or found.outer is None:
        what = "a Tape scope" if isinstance(by, Tape) else repr(by)
        raise TapeError(
            f"{what} was left in another task or thread than it was entered in, or after what it was entered in; use a `with` block for each"
        )
    return found.outer


def surely(body: Callable[[], T], *undo: Callable[[], object]) -> T:
    """What `body()` gives; then the Mode is as before, and each `undo` has run to its end, even if Ctrl-C came in the middle of one.

    So each is run twice, and must not mind.
    """
    mode = state.now

    def back() -> None:
        MODE.set(mode)
        for step in undo:
            step()

    try:
        try:
            return body()
        finally:
            back()
    finally:
        back()


def tape() -> Tape:
    """This thread's current tape, or that of the asyncio task.

    >>> import hotgrad as hg
    >>> isinstance(hg.tape(), hg.Tape)
    True
    """
    return state.tape


class RecordingMode:
    """Switches recording on or off for a block, a function or a generator, in this thread and task. See `no_grad`, `enable_grad`."""

    def __init__(self, recording: bool) -> None:
        self._recording = recording

    def __enter__(self) -> None:
        now = state.now
        _enter(Mode(now.tape, self._recording, now.trace, now, self))

    def __exit__(self, *exc: object) -> None:
        _leave(self)

    def __call__(self, function: Callable[..., Any] | None = None) -> Any:
        if function is None:
            return self
        if inspect.isasyncgenfunction(function):
            raise OperandError(
                f"{self!r} cannot decorate the asynchronous generator {function.__name__}: its consumer would run in its mode; "
                "use `with` around the parts that do not yield"
            )
        asynchronous, stepwise = inspect.iscoroutinefunction(function), inspect.isgeneratorfunction(function)
        wrapper = self._coroutine if asynchronous else self._generator if stepwise else self._plain
        return functools.wraps(function)(wrapper(function))

    def run(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What the function gives, called in this mode. Unlike a `with` block it cannot be left half by Ctrl-C."""

        def body() -> T:
            now = state.now
            MODE.set(Mode(now.tape, self._recording, now.trace, now, self))
            return function(*args, **kwargs)

        return surely(body)

    def _plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(function, *args, **kwargs)

        return call

    def _coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return call

    def _generator(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The mode holds while the generator's own code runs, never in its consumer's between two items."""

        def call(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            resume, value = generator.send, None
            try:
                while True:
                    try:
                        item = self.run(resume, value)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        resume, value = generator.send, (yield item)
                    except GeneratorExit:
                        raise
                    except BaseException as error:
                        resume, value = generator.throw, error
            finally:
                self.run(generator.close)

        return call

    def __repr__(self) -> str:
        return "enable_grad" if self._recording else "no_grad"


no_grad = RecordingMode(False)
"""Nothing is recorded inside: a context manager and a decorator, with or without parentheses.

>>> import hotgrad as hg
>>> x = hg.Variable(1.0, requires_grad=True)
>>> with hg.no_grad():
...     (x * 2).requires_grad
False
"""

enable_grad = RecordingMode(True)
"""Recording is on inside, whatever holds outside; used like `no_grad`."""
