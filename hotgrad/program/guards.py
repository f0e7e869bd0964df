"""What a captured function depended on besides its arguments, and whether that is still so.

A program holds the numbers, branches and objects that stood in closures, globals, attributes and classes while it was captured.
A Watch remembers them and tells when one has changed. What it reaches and cannot watch it lists in `open`. Reading values out of
arrays is refused while capturing, so the contents of tensors need no watching here; constants are compared by `constants`.
"""

from __future__ import annotations

import decimal
import re
import weakref
from collections.abc import Sequence
from operator import is_
from typing import Any

from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.program.kinds import foreign, skipped, strings_of, top, whole
from hotgrad.program.look_at_code import BY_NAME, TOLD, look_at_all_of, look_at_names_in, look_at_what_is_told
from hotgrad.program.look_at_objects import LOOKS, look_at_decimals, look_at_numpy, look_at_object
from hotgrad.program.reached import Reached

_LIMIT = 10_000  # objects that a function may depend on


class Watch(Reached):
    """Everything that `roots` reach: closure cells, globals that their code names, attributes, classes, items of containers.

    hotgrad, torch, numpy and the standard library's pure functions are taken as they are. `open`: by path, why something cannot be
    watched. Raises CaptureError for what no program can stand for, such as an iterator that each call would move on.

    >>> scale = [2.0]
    >>> watch = Watch([lambda x: x * scale[0]])
    >>> scale[0] = 3.0
    >>> watch.changed()
    "'scale[0]' was 2.0 and is 3.0"
    """

    def __init__(self, roots: Sequence[Any]) -> None:
        super().__init__()
        self.roots = roots
        for root in roots:
            self.visit("", root)
        self._look_around()

    def changed(self) -> str:
        """What is no longer as it was, in words; "" if all is."""
        path = ""
        try:
            for items in self.items:
                path = items.path
                now, then = items.get(), items.then
                if len(now) != len(then) or not all(map(is_, now, then)):
                    how = items.changed()
                    if how:
                        return how
        except Exception as error:  # of what a user's object does when it is asked
            return f"{path!r} cannot be looked at any more ({type(error).__name__}: {error})"
        return ""

    def changes(self) -> str:
        """As `changed`, but up to five of all that is no longer as it was."""
        try:
            found = [how for items in self.items for how in items.changes()]
        except Exception:  # as above
            return self.changed()
        return ", ".join(found[:5])

    def renewed(self) -> Watch:
        """What watches the same for further changes: itself, where only numbers and texts have changed."""
        try:
            settled = [items.settled() for items in self.items]
        except Exception:  # as above
            settled = [False]
        return self if all(settled) else Watch(self.roots)

    def restore(self) -> None:
        """Bring back what stood there, as far as it stands in Python's own containers and attributes."""
        for items in self.items:
            items.restore()

    def all_variables(self) -> list[Variable]:
        """Those that are reached, and those that an optimizer which is reached has."""
        return [*self.variables, *(parameter for optimizer in self.optimizers for parameter in optimizer.parameters)]

    def first_open(self) -> str:
        """What cannot be watched, in words; "" if all can."""
        for path, why in self.open.items():
            head = re.split(r"[.\[:(]", path)[0]
            return f"{path!r}{self.lines.get(head, '')}, {why}"
        return ""

    # ---- looking around

    def _look_around(self) -> None:
        ahead: list[tuple[str, Any]] = []  # a stack rather than recursion: nesting may be deep
        while True:
            while self.found or ahead:
                ahead += reversed(self.found)
                self.found.clear()
                path, thing = ahead.pop()
                if id(thing) in self.seen:
                    continue
                if len(self.seen) > _LIMIT:
                    self.cannot(path, f"an object more than the {_LIMIT:,} that are watched")
                    return
                self._look(path, thing)
            for path, module, done in list(self.modules.values()):
                look_at_names_in(self, path, module, vars(module), done)
            for path, cls, done in list(self.classes.values()):
                look_at_names_in(self, path, cls, vars(cls), done)
            if self.own_modules and self.named & BY_NAME:
                for path, module in self.own_modules:
                    look_at_all_of(self, path, module)
                self.own_modules.clear()
            if not self.found:
                break
        if self.named & TOLD:
            for path, thing in self.defined:
                look_at_what_is_told(self, path, thing)
        moved = sorted(self.moved & self.named)
        if moved:
            raise CaptureError(f"the function reads {moved[0]!r} of a schedule, which may differ from step to step; read its lr or count")

    def _look(self, path: str, thing: Any) -> None:
        self.seen[id(thing)] = thing
        kind = type(thing)
        if not foreign(kind.__module__):
            self.trusted = False
        if kind is decimal.Decimal or thing is decimal.Decimal:
            look_at_decimals(self)
        if skipped(thing):
            return
        for cls, look in LOOKS:
            if issubclass(kind, cls):
                look(self, path, thing)
                return
        module = top(kind.__module__)
        if module == "numpy" and look_at_numpy(self, path, thing):
            return
        if issubclass(kind, weakref.ReferenceType) or kind in weakref.ProxyTypes:
            self.cannot(path, "a weak reference, cannot be watched: to do so would keep alive what it refers to")
            return
        if hasattr(kind, "__next__") and not whole(thing):
            raise CaptureError(f"the function uses {path!r}, a {kind.__name__}, which each call moves on; make what it gives an argument")
        if whole(thing):
            look_at_object(self, path, thing)
        elif strings_of(thing):
            self.named.update(string for string in strings_of(thing) if isinstance(string, str))
        elif not (module in ("torch", "numpy") and callable(thing)):
            self.cannot(path, f"a {kind.__module__}.{kind.__qualname__}, cannot be watched")
