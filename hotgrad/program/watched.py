"""The items of one container, as they were and as they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from operator import is_
from typing import Any

from hotgrad.program.differences import same
from hotgrad.program.kinds import PLAIN

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()


class Contents(bytes):
    """What stood in memory that the function reads; `change`: what a change of it is, in words."""

    change = ""


class Written(Contents):
    change = "has other contents"


class Drawn:
    """The `state` of a generator of random numbers."""

    __slots__ = ("state", "flat")
    change = "was drawn from, or seeded"

    def __init__(self, state: Any) -> None:
        self.state = state
        self.flat = _flat(state) if isinstance(state, dict) else state


class Items:
    """What `get` gives: the items of a container, `then` and now. `name`: that of one; `put`: what brings back those of then."""

    __slots__ = ("path", "get", "then", "name", "put")

    def __init__(
        self, path: str, get: Callable[[], list[Any]], name: Callable[[int], str], put: Callable[[list[Any]], None] | None
    ) -> None:
        self.path, self.get, self.name, self.put = path, get, name, put
        self.then = get()

    def changed(self) -> str:
        """How they differ, in words, the first that does; "" if they do not."""
        return next(self.changes(), "")

    def changes(self) -> Iterator[str]:
        """How each that differs does, in words."""
        now, then = self.get(), self.then
        if len(now) != len(then):
            yield f"{self.path or 'it'!r} had {len(then)} items and has {len(now)}"
        elif not all(map(is_, now, then)):
            for i, (a, b) in enumerate(zip(then, now)):
                if a is not b and not equal(a, b):
                    if isinstance(a, (Contents, Drawn)):
                        yield f"{self.name(i)!r} {a.change}"
                    else:
                        told = f"was {a!r:.60} and is {b!r:.60}" if type(a) in PLAIN else "is another object"
                        yield f"{self.name(i)!r} {told}"

    def settled(self) -> bool:
        """Take what is there now for granted, if only numbers, texts and the like differ; whether that is so."""
        now, then = self.get(), self.then
        if len(now) != len(then):
            return False
        for i, (a, b) in enumerate(zip(then, now)):
            if a is not b:
                if not equal(a, b) and not (type(a) in _SETTLED and type(b) in _SETTLED):
                    return False
                then[i] = b
        return True

    def restore(self) -> None:
        """Bring back what was there."""
        if self.put is not None and self.changed():
            self.put(self.then)


_SETTLED = PLAIN | {Written, Drawn}


def equal(a: Any, b: Any) -> bool:
    """Whether two items are the same for every code that reads them; of objects, only one is the same as itself."""
    if type(a) is not type(b):
        return False
    if type(a) is tuple:
        return len(a) == len(b) and all(x is y or equal(x, y) for x, y in zip(a, b))
    if isinstance(a, Contents):
        return bool(a == b)
    if isinstance(a, Drawn):
        return bool(a.flat == b.flat)
    return type(a) in PLAIN and same(a, b)


def cell_content(cell: Any) -> Any:
    """What stands in a variable of an outer function."""
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return MISSING


def generator_of(thing: Any) -> tuple[Callable[[], Drawn], Callable[[list[Drawn]], None]] | None:
    """How the state of a generator of random numbers is read and written; None for what is none."""
    kind = type(thing)
    if isinstance(thing, random.Random):
        return lambda: Drawn(thing.getstate()), lambda then: thing.setstate(then[0].state)
    if hasattr(kind, "random_raw") or hasattr(kind, "bit_generator"):
        source = thing if hasattr(kind, "random_raw") else thing.bit_generator
        return lambda: Drawn(source.state), lambda then: setattr(source, "state", then[0].state)
    if hasattr(kind, "get_state") and hasattr(kind, "set_state"):
        return lambda: Drawn(thing.get_state(legacy=False)), lambda then: thing.set_state(then[0].state)
    return None


def _flat(state: Any) -> tuple[Any, ...]:
    """A state of numpy's as something that `==` compares whole."""
    found: list[Any] = []
    for key, value in state.items():
        found += (key, _flat(value) if isinstance(value, dict) else value.tobytes() if hasattr(value, "tobytes") else value)
    return tuple(found)
