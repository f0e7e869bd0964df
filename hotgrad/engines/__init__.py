"""Engines: what runs a captured program. Replay on torch kernels, and native code.

In reading order: `engine`, what every engine must do; `costs`, how long it takes; `calls` and `replay`, programs as calls of torch kernels,
and how these are made fast; `native`, a package, programs compiled from C; `registry`, the row for each engine; `programs`, what users hold.
"""

from hotgrad.engines.programs import Program, capture
from hotgrad.engines.registry import ENGINES

__all__ = ["ENGINES", "Program", "capture"]
