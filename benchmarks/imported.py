"""Times imports, and imports nothing heavy itself."""

from __future__ import annotations

import importlib
import time


def seconds(*modules: str) -> float:
    """Seconds that the last import takes, after the others."""
    for name in modules[:-1]:
        importlib.import_module(name)
    started = time.perf_counter()
    importlib.import_module(modules[-1])
    return time.perf_counter() - started
