"""The engines, a row for each. Whoever lists, chooses or names engines asks here."""

from __future__ import annotations

from hotgrad.engines.engine import Engine
from hotgrad.engines.native.engine import Native
from hotgrad.engines.replay import Replay

_ALL: tuple[type[Engine], ...] = (
    Replay,
    Native,
)
ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in _ALL}
# Runs programs unless another engine is asked for, wherever another cannot, and where bits must be eager's.
EXACT: type[Engine] = next(engine for engine in _ALL if engine.exact)
