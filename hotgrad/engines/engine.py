"""What every engine can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class Engine(ABC):
    """A program that is ready to run.

    Engines also have `details`, a text for checkpoints that names all that decides about the bits of results; `after`, the bytes that
    results take; and `together(codes, fuse, limit)`, which makes several programs ready, or raises EngineError after so many seconds.
    """

    @abstractmethod
    def many(
        self,
        sources: Sequence[Tensor],
        order: Tensor | None,
        steps: int,
        scalars: Tensor,
        draws: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Run `steps` times in a row; states are left in their own memory.

        - `sources`: a tensor for each input. With `order` (int64), row b of run i of an input of B rows is
          `source[order[i * B + b]]`; with None the source is the input of every run.
        - `scalars`: float64, (steps, n), or (1, n) for the same in each run.
        - `draws`: float32, (steps, *shape) each.
        - `outputs`: written to; (steps, *shape) each, or (1, *shape) for the last run's alone.
        """

    @abstractmethod
    def source(self) -> str:
        """What runs, as text."""
