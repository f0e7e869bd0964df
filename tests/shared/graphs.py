"""What tests of graphs share: leaves, ops that are in no registry, and where and whether something is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch

import hotgrad as hg
from hotgrad import Variable


def leaf(data: Any, dtype: torch.dtype | None = None, name: str | None = None) -> Any:
    return Variable(torch.as_tensor(data, dtype=dtype).clone(), requires_grad=True, name=name)


def declare(forward: Callable[..., Any], *rules: Any, reads: Any = None, **fields: Any) -> Any:
    """An op that is in no registry."""
    fields |= {"forward": staticmethod(forward), "vjps": rules}
    if reads is not None:
        fields["reads"] = reads
    return type("Declared", (hg.Primitive,), fields, register=False)


def noted(value: Any, seen: list[Any], what: Any) -> Any:
    """`value`, after a note of `what`: for rules that tell when they run."""
    seen.append(what)
    return value


def names(tape: hg.Tape) -> list[str]:
    return [record.op.name for record in tape]


def recording() -> bool:
    return (leaf(1.0) * 2).requires_grad  # type: ignore[no-any-return]


def in_thread(f: Callable[[], Any]) -> Any:
    """What `f` returns or raises on a thread of its own."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(f())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]
