"""What has been reached so far of all that a function depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hotgrad.core.variable import Variable
from hotgrad.optim import Optimizer
from hotgrad.program.kinds import PLAIN
from hotgrad.program.watched import MISSING, Items


class Reached:
    """Filled by the looks at objects and code (`look_at_objects`, `look_at_code`), in rounds until nothing new is reached; see `guards`."""

    def __init__(self) -> None:
        self.open: dict[str, str] = {}  # by path, why something cannot be watched
        self.seen: dict[int, Any] = {}  # by id: all that is reached
        self.names: dict[int, str] = {}  # of Variables and buffers, by id
        self.buffers: dict[int, Tensor] = {}
        self.variables: list[Variable] = []
        self.optimizers: list[Optimizer] = []
        self.trusted = True  # whether no code but hotgrad's, torch's and the standard library's is reached
        self.items: list[Items] = []
        self.found: list[tuple[str, Any]] = []  # to be looked at
        self.named: set[str] = set()  # after a dot, in all code that is reached
        self.lines: dict[str, str] = {}  # where code names a variable
        # modules that code has in hand, and classes of libraries: any of `named` may be theirs; with those that are watched already
        self.modules: dict[int, tuple[str, Any, set[str]]] = {}
        self.classes: dict[int, tuple[str, type, set[str]]] = {}
        self.own_modules: list[tuple[str, Any]] = []  # those modules that are the user's
        self.defined: list[tuple[str, Any]] = []  # functions and classes of the user's
        self.moved: set[str] = set()  # attributes of schedules that move by rules of their own

    def visit(self, path: str, thing: Any) -> None:
        """Look at `thing` next, with what it holds, before what comes after it."""
        if thing is not MISSING and id(thing) not in self.seen and type(thing) not in PLAIN:
            self.found.append((path, thing))

    def cannot(self, path: str, why: str) -> None:
        """What stands there cannot be watched."""
        self.open.setdefault(path, why)

    def watch(self, path: str, get: Callable[[], list[Any]], name: Callable[[int], str], put: Any = None) -> list[Any]:
        """Watch what `get` gives: see Items. What it gives now."""
        self.items.append(Items(path, get, name, put))
        return self.items[-1].then
