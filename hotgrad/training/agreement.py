"""Whether the native engine computes what torch's kernels do: one step on both, compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.engines import ENGINES
from hotgrad.errors import EngineError
from hotgrad.program.captured import Captured

AGREEMENT = 1e-3  # how far a result may be off, relative to its largest entry
_AGREED: set[str] = set()  # the programs that did agree, in this process, by their file


def check_agreement(program: Captured, native: Any, batch: Sequence[Tensor]) -> None:
    """Raise EngineError unless one step on this batch gives the same natively as on replay but for rounding. Nothing changes.

    How much rounding matters shows in what fusing changes: rules that divide by the size of a gradient, such as Adam's, blow up
    the rounding of gradients near 0.
    """
    file = f"{native.library.path} {len(batch[0])}"
    if file in _AGREED:
        return
    replay = ENGINES["replay"]
    exact, fused, ours = (_step(program, engine, batch) for engine in (replay(program.code, fuse=False), replay(program.code), native))
    for expected, rounded, got in zip(exact, fused, ours):
        if not expected.is_floating_point() or not expected.numel():
            continue
        scale = float(expected.nan_to_num(0, 0, 0).abs().max())
        rounding = float((expected - rounded).nan_to_num(0, 0, 0).abs().max())
        allowed = 100 * rounding + AGREEMENT * scale + torch.finfo(expected.dtype).eps
        if not torch.allclose(expected, got, rtol=0, atol=allowed, equal_nan=True):
            off = float((expected - got).abs().max())
            raise EngineError(f"the native engine's first step differs from replay's by {off:.3g} in values of up to {scale:.3g}")
    _AGREED.add(file)


def _step(program: Captured, engine: Any, batch: Sequence[Tensor]) -> list[Tensor]:
    """The outputs and new states of one step, after which the states are as before."""
    code = program.code
    states = [state.tensor for state in code.states]
    before = [tensor.clone() for tensor in states]
    numbers = torch.tensor([[number for hook in program.hooks for number in hook.next()]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.rand((1, *draw.value.shape), generator=generator, dtype=draw.value.dtype) for draw in code.draws]
    outputs = [torch.empty((1, *value.shape), dtype=value.dtype) for value in code.outputs]
    try:
        engine.many(batch, None, 1, numbers, draws, outputs)
        return [*outputs, *(tensor.clone() for tensor in states)]
    finally:
        for tensor, old in zip(states, before):
            tensor.copy_(old)
