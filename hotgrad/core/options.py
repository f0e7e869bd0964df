"""The options of a call of an op, given by position and by name."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from hotgrad.errors import OperandError

REQUIRED = inspect.Parameter.empty


class TakesOptions:
    """Base of Primitive: see there for the fields."""

    name: ClassVar[str]
    collects: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]]  # every option; REQUIRED where it has no default

    @classmethod
    def bind(cls, extra: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
        """All options by name, from those given by position and by name. Raises OperandError for wrong ones."""
        names = tuple(cls.defaults)
        if cls.collects and extra and (len(extra) > 1 or not isinstance(extra[0], (tuple, list))):
            extra = (extra,)
        if len(extra) > len(names):
            takes = f"{len(names)} options ({', '.join(names)})" if names else "no options"
            raise OperandError(f"{cls.name}: got {len(extra)} more arguments than its operands, but it takes {takes}")
        options = {**cls.defaults, **dict(zip(names, extra))}
        for name, value in given.items():
            if name not in options:
                known = f"it takes {', '.join(names)}" if names else "it takes none"
                raise OperandError(f"{cls.name}: unknown option {name!r}; {known}")
            if name in names[: len(extra)]:
                raise OperandError(f"{cls.name}: option {name!r} is given twice, by position and by name")
            options[name] = value
        missing = [name for name, value in options.items() if value is REQUIRED]
        if missing:
            raise OperandError(f"{cls.name}: missing option {missing[0]!r}")
        # a caller may go on to change a list, and the rules shall see what forward saw
        return {name: tuple(value) if type(value) is list else value for name, value in options.items()}
