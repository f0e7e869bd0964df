"""The checkpoint of a `fit`: written as it goes, resumed from bit for bit, refused where it belongs to another run."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hotgrad.checks import whole_number
from hotgrad.core.explain import warn
from hotgrad.engines.registry import ENGINES
from hotgrad.errors import EngineWarning, FileError, OperandError
from hotgrad.files import NO_FILE, Mark, identity, plain, read, try_writing, write
from hotgrad.training.fingerprint import CODE, PYTHON, Fingerprint, Section, Subject
from hotgrad.training.history import History
from hotgrad.training.model import Model
from hotgrad.training.state import Snapshot, checked, parameters_of, restructured, structure

KIND = "checkpoint"
_MODULE = re.compile(r"\bhotgrad\.(?:[a-z_]+\.)+(?=\w)")
SECONDS = 1.0  # between two writings at epoch ends
_FIELDS = {
    "fingerprint": dict,
    "moved": dict,
    "python": str,
    "engine": str,
    "history": list,
    "state": dict,
    "callbacks": list,
    "stopped": bool,
}


class Checkpoint:
    """One checkpoint file and what it must belong to: a `subject`, and the data and settings that are `given`.

    Reading happens at once: an existing file that is broken, or whose fingerprint differs, raises FileError with the list of
    differences before anything has changed, and so does a path that cannot be written. An object may change itself while it is trained with, as one that counts its calls:
    it may look as when the training started, in a new process, or as when the file was last written, in the same one.
    Layers must be those that it had in the end, callbacks having changed some.
    """

    def __init__(self, path: str | os.PathLike[str], subject: Subject, given: Fingerprint) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise OperandError(f"checkpoint must be the path of a file; got {path!r:.60}")
        try_writing(path)
        self.path, self.subject = Path(path), subject
        self.fingerprint: Fingerprint = {**subject.found, **given}
        self.engine = ""
        self.stopped = False
        self._written = -SECONDS
        self._moved: dict[str, dict[str, str | None]] = {}
        self._structure: Section = {}  # of the model at the end of the last epoch
        self._stored: dict[str, Any] | None = None
        self._mark = NO_FILE
        if os.path.exists(path):
            found = identity(os.stat(self.path))
            self._stored = read(self.path, KIND, _FIELDS)
            self._mark = Mark(found, self._stored["digest"])
        if subject.unknown:
            warn(
                f"not compared with the checkpoint {self.path}, because nothing tells whether they are as they were: "
                + "; ".join(subject.unknown),
                RuntimeWarning,
            )
        if self._stored is None:
            return
        python = self._stored["python"]
        wrong = differences(self._stored["fingerprint"], self._stored["moved"], self.fingerprint, python == PYTHON)
        if wrong:
            raise FileError(
                f"the checkpoint {path} belongs to another run; remove it or give another path to start anew. Differences:\n  "
                + "\n  ".join(wrong)
                + "\nWhat a callback's state_dict names is its state, and is not compared."
                * any(line.startswith("callbacks: ") for line in wrong)
            )
        if python == PYTHON:
            self.fingerprint, self._moved = self._stored["fingerprint"], self._stored["moved"]
        else:
            warn(
                f"the checkpoint {path} was written by {python}, and this is {PYTHON}: whether functions still compute the same cannot "
                "be compared; everything else is as it was",
                RuntimeWarning,
            )

    def preferred(self, engine: str) -> str:
        """`engine`, or for "auto" the one that wrote the file."""
        stored = "" if self._stored is None else self._stored["engine"].split(" ")[0]
        return stored if engine == "auto" and stored in ("eager", *ENGINES) else engine

    def runs_on(self, engine: str) -> None:
        """Take note of the engine with its compiler and target; warns if it is not the one that wrote the file."""
        if self._stored is not None and self._stored["engine"] != engine:
            warn(
                f"the checkpoint {self.path} was written by the engine {self._stored['engine']}; training goes on with {engine}, so that "
                "results may differ in rounding from those of an uninterrupted run",
                EngineWarning,
            )
        self.engine = engine

    def resume(self, model: Model, history: History, callbacks: Sequence[Any]) -> None:
        """Bring everything to where the file stands, if there is one. Raises FileError, with nothing changed, if it does not fit, or
        if the state of a callback is nothing that a file can hold.
        """
        plain(states_of(callbacks), "the state of a callback")
        stored, self._structure = self._stored, structure(model)
        if stored is None:
            return
        changed = restructured(stored.get("structure", self._structure), self._structure)
        if changed:
            raise FileError(
                f"the checkpoint {self.path} does not fit these layers, since layers changed during that training: {'; '.join(changed)}. "
                "Build the model with the layers that it had in the end, then resume; or remove the file to start anew"
            )
        before = Snapshot(model)
        try:
            rows = _rows(stored["history"], stored["state"])
            Snapshot(checked(stored["state"])).restore(model)
            restore_states(callbacks, stored["callbacks"])
        except Exception as error:
            before.restore(model)
            raise FileError(f"the checkpoint {self.path} is broken: {error}") from error
        history[:] = rows
        self.stopped = stored["stopped"]
        self._stored = None

    def write(self, snapshot: Snapshot, history: History, states: list[Any], last: bool = True) -> None:
        """Replace the file, if any epoch has been completed. `last`: training ends here, and may go on in this process."""
        if not history:
            return
        if last:
            self._look()
        content = {"engine": self.engine, "state": snapshot.tree, "history": [dict(row) for row in history]}
        content |= {"fingerprint": self.fingerprint, "moved": self._moved, "python": PYTHON, "structure": self._structure}
        self._mark = write(self.path, KIND, {**content, "callbacks": states, "stopped": self.stopped}, over=self._mark)
        self._written = time.monotonic()

    def _look(self) -> None:
        """Take note of what the subject has moved to."""
        now = {**self.subject.look(), "parameters": parameters_of(self.subject.model)}
        self._moved = changes(self.fingerprint, {**self.fingerprint, **now})

    def epoch_done(self, snapshot: Snapshot, history: History, states: list[Any]) -> None:
        """Replace the file unless that was done within the last second."""
        found = structure(self.subject.model)
        if found != self._structure:
            self._structure = found
            self._look()
        if time.monotonic() - self._written >= SECONDS:
            self.write(snapshot, history, states, last=False)


def _rows(history: list[Any], state: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a History. Raises what fits unless they are epochs in a row, up to the one that the state is of."""
    for row in history:
        whole_number("an epoch of the history", row["epoch"])
        for name, value in row.items():
            if not isinstance(name, str) or not isinstance(value, (int, float, str)):
                raise ValueError(f"the history holds {name!r}: {value!r:.60}")
    numbers = [row["epoch"] for row in history]
    if not numbers or numbers != list(range(state["epochs"] - len(numbers) + 1, state["epochs"] + 1)):
        raise ValueError(f"the epochs of the history do not go up to the {state['epochs']!r} that are done")
    return [dict(row) for row in history]


def states_of(callbacks: Sequence[Any]) -> list[Any]:
    """The state of each callback, None for those without."""
    return [callback.state_dict() if hasattr(callback, "state_dict") else None for callback in callbacks]


def restore_states(callbacks: Sequence[Any], states: Sequence[Any]) -> None:
    """Give each callback the state it had."""
    for callback, state in zip(callbacks, states):
        if state is not None:
            callback.load_state_dict(state)


def changes(old: Fingerprint, new: Fingerprint) -> dict[str, dict[str, str | None]]:
    """The entries of `new` that are not those of `old`, None for one that is gone."""
    found: dict[str, dict[str, str | None]] = {}
    for section in {**old, **new}:
        a, b = old.get(section, {}), new.get(section, {})
        found[section] = {path: b.get(path) for path in {**a, **b} if a.get(path) != b.get(path)}
    return {section: entries for section, entries in found.items() if entries}


def differences(stored: Fingerprint, moved: dict[str, dict[str, str | None]], current: Fingerprint, code: bool = True) -> list[str]:
    """How `current` differs from both `stored`, what the training started with, and what it had `moved` to when the file was
    written, one line each. Bytecode counts unless `code` is False.

    >>> differences({"loss": {"": "function f", "k": "0.1"}}, {}, {"loss": {"": "function f", "k": "5.0"}})
    ['loss: k was 0.1, is 5.0']
    """
    lines = []
    for section in {**stored, **current}:
        old, new, later = (_placeless(entries.get(section, {})) for entries in (stored, current, moved))
        said: list[str] = []
        for path in {**old, **later, **new}:
            a, b = old.get(path), new.get(path)
            if b in (a, later.get(path, a)) or any(_inside(path, outer) for outer in said):
                continue
            if not code and all(text is None or text.startswith(CODE) for text in (a, b)):
                continue
            said.append(path)
            lines.append(f"{section}: {_change(path, a if path in old else later.get(path), b)}")
    return lines


def _placeless(entries: Mapping[str, str | None]) -> dict[str, str | None]:
    """The entries, with what is hotgrad's own by its name alone: the module in which it stands may be another one by now."""
    return {path: None if text is None else _MODULE.sub("hotgrad.", text) for path, text in entries.items()}


def _inside(path: str, outer: str) -> bool:
    """Whether `path` is a part of what stands at `outer`, which the entry of that tells already."""
    return bool(outer) and path.startswith(outer) and path[len(outer) :][:1] in (".", "[", " ")


def _change(path: str, old: str | None, new: str | None) -> str:
    if (old or new or "").startswith(CODE) and old is not None and new is not None:
        return f"the {path} is another" if " of " in path else f"its {path} is another"
    if not path:
        return f"{old} in the file, {new} now"
    if old is None:
        return f"{path} is new ({new})"
    return f"{path} was {old}, is {new}" if new is not None else f"{path} ({old}) is missing now"
