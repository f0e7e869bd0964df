"""Engines: what runs a captured program. Replay on torch kernels, and native code."""

from hotgrad.engines.programs import ENGINES, Program, capture

__all__ = ["ENGINES", "Program", "capture"]
