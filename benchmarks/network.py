"""The network, the data and the weights that every contender starts from.

batch x 2 -> width -> width -> width -> 2, ReLU three times, then Tanh; mean squared error; plain gradient descent; float32.
The targets are not -1 and +1: hotgrad would take those for labels and count right answers too, which no peer does here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

RATE = 0.01


@dataclass(frozen=True)
class Problem:
    """One size of the network and its training set; `rows` is a multiple of `batch`."""

    batch: int
    width: int
    rows: int

    @property
    def name(self) -> str:
        """As the tables call it."""
        return f"{self.batch}x{self.width}"

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.rows // self.batch

    def parameters(self) -> tuple[list[Tensor], list[Tensor]]:
        """Weights (in, out) and biases, the same at each call, in memory of their own."""
        generator = torch.Generator().manual_seed(0)
        sizes = (2, self.width, self.width, self.width, 2)
        weights = [torch.randn(m, n, generator=generator) / m**0.5 for m, n in itertools.pairwise(sizes)]
        return weights, [torch.zeros(n) for n in sizes[1:]]

    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, (rows, 2) each."""
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(self.rows, 2, generator=generator)
        return x, torch.stack([(6 * x[:, 0]).sin() * x[:, 1], (5 * x[:, 1]).cos() - 0.5 * x[:, 0]], dim=1).clamp(-0.9, 0.9)


SIZES = (Problem(20, 25, 1000), Problem(100, 25, 1000), Problem(256, 128, 4096), Problem(1024, 512, 4096))
