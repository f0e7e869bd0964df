"""Training step by step, each recorded and walked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from hotgrad.core.variable import wrap
from hotgrad.training.evaluation import chosen
from hotgrad.training.runner import AtOnce, Epoch, minimise, objective, residuals_of, training_step

# Batches are gathered by the block: few large gathers cost less than many small ones.
BLOCK_BATCHES = 64
BLOCK_ELEMENTS = 2**20


class Eager(AtOnce):
    """Runs epochs step by step."""

    name = "eager"
    details = "eager"
    leaves_gradients = True
    predict = None

    def _epoch(self, order: Tensor, stop: Callable[[], bool]) -> Epoch | None:
        job, data, optimizer = self.job, self.job.data, self.model.optimizer
        made = residuals_of if optimizer.needs_residuals else objective if optimizer.needs_closure else training_step
        step = made(self.model, data.weights is not None)  # anew, as callbacks may set another loss
        losses: list[Tensor] = []
        right = 0
        for part in torch.split(order.to(data.x.device), job.batch_size * self._batches_per_block()):
            outputs = []
            for x, y, *weights in self._batches(part):
                if stop():
                    return None
                batch = (wrap(x, None), y, *weights)
                result = minimise(optimizer.step, partial(step, *batch), stop) if optimizer.needs_closure else step(*batch)
                if result is None:
                    return None
                value, output = result
                losses.append(value._data.double().square().sum() if optimizer.needs_residuals else value._data)
                if data.labels is not None:
                    outputs.append(output._data)
            if data.labels is not None:
                right += int((chosen(torch.cat(outputs), job.threshold) == data.labels.index_select(0, part)).sum())
            if not losses[-1].isfinite():
                break  # the rest of the epoch is lost
        return Epoch(torch.stack(losses).double().reshape(len(losses)), None if data.labels is None else right)

    def _batches_per_block(self) -> int:
        x = self.job.data.x
        return max(1, min(BLOCK_BATCHES, BLOCK_ELEMENTS // (self.job.batch_size * max(1, x[0].numel()))))

    def _batches(self, rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(torch.split(source.index_select(0, rows), self.job.batch_size) for source in self.job.data.sources()))
