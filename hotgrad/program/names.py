"""What code names: the globals, modules and attributes that its bytecode loads, functions inside it included."""

from __future__ import annotations

import dis
import types
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any


@dataclass(frozen=True)
class Names:
    """What a code object names.

    - `variables`: the globals and builtins that it loads, stores or deletes.
    - `chains`: per global or variable of an outer function the attributes that are loaded from it at once, as ("a", "b") for
      `cfg.a.b`; `()` where it is used in another way.
    - `attributes`: every name after a dot, and every string that could be one, as for `getattr`.
    - `imported`: modules that it imports, each with the level of a relative import.
    - `lines`: per variable and attribute where it is named first.
    """

    variables: frozenset[str]
    chains: dict[str, frozenset[tuple[str, ...]]] = field(hash=False)
    attributes: frozenset[str]
    imported: frozenset[tuple[str, int]]
    lines: dict[str, int] = field(hash=False)


@lru_cache(maxsize=4096)
def names_of(code: types.CodeType) -> Names:
    """The names of a code object.

    >>> found = names_of((lambda: step.mean(cfg.model.lr)).__code__)
    >>> sorted(found.variables), sorted(found.attributes), found.chains["cfg"]
    (['cfg', 'step'], ['lr', 'mean', 'model'], frozenset({('model', 'lr')}))
    """
    variables: set[str] = set()
    attributes: set[str] = set()
    imported: set[tuple[str, int]] = set()
    chains: dict[str, set[tuple[str, ...]]] = {}
    head: str | None = None
    chain: list[str] = []
    level = 0
    lines: dict[str, int] = {}
    line = code.co_firstlineno

    def end() -> None:
        if head is not None:
            chains.setdefault(head, set()).add(tuple(chain))

    for instruction in dis.get_instructions(code):
        name, kind = instruction.argval, instruction.opname
        starts = instruction.starts_line
        line = (line if starts is None else starts) if type(starts) is not bool else getattr(instruction, "line_number", None) or line
        if isinstance(name, str):
            lines.setdefault(name, line)
        if kind in ("CACHE", "EXTENDED_ARG", "PUSH_NULL"):
            continue
        if "ATTR" in kind or kind == "LOAD_METHOD":
            attributes.add(name)
            if head is not None and kind in ("LOAD_ATTR", "LOAD_METHOD"):
                chain.append(name)
                continue
        end()
        head, chain = None, []
        if kind == "IMPORT_NAME":
            imported.add((name, level))
        elif kind == "IMPORT_FROM":
            attributes.add(name)
        elif kind in ("LOAD_CONST", "LOAD_SMALL_INT"):
            level = name if type(name) is int else level  # the level stands before the names of an import
        elif "GLOBAL" in kind or kind.endswith("_NAME"):
            variables.add(name)
        if kind in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"):
            head = name
    end()
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = names_of(constant)
            variables |= inner.variables
            attributes |= inner.attributes
            imported |= inner.imported
            lines.update({name: at for name, at in inner.lines.items() if name not in lines})
            for name, found in inner.chains.items():
                chains.setdefault(name, set()).update(found)
        else:
            attributes |= set(_strings(constant))
    return Names(frozenset(variables), {k: frozenset(v) for k, v in chains.items()}, frozenset(attributes), frozenset(imported), lines)


def _strings(constant: Any) -> list[str]:
    """The strings in a constant that could name an attribute."""
    if isinstance(constant, (tuple, frozenset)):
        return [string for part in constant for string in _strings(part)]
    return [constant] if isinstance(constant, str) and constant.isidentifier() else []
