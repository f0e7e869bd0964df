"""What every engine must do. A new one is a file with a subclass of Engine, and its row in `registry`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hotgrad.engines.costs import Cost
from hotgrad.program.instructions import Code

LIMIT = 600.0  # seconds that making a program ready may take


class Engine(ABC):
    """A program that is ready to run, by one thread at a time.

    - `name`: by which it is chosen.
    - `exact`: whether results equal eager's bit for bit without `fuse`. Training runs such an engine without, and every other one with
      it, once a step of it has been compared with that of an exact one.
    - `code`: the program.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    code: Code

    @abstractmethod
    def __init__(self, code: Code, fuse: bool = True) -> None:
        """Make `code` ready; `fuse`: kernels may be joined where that changes rounding. Raises EngineError if the engine cannot run it."""

    @classmethod
    def prepare(cls, codes: Sequence[Code], fuse: bool = True, limit: float = LIMIT) -> Sequence[Engine]:
        """Several programs made ready, for engines that save time so. Raises EngineError also after so many seconds."""
        return [cls(code, fuse) for code in codes]

    @classmethod
    @abstractmethod
    def seconds(cls, codes: Sequence[Code]) -> float:
        """About how long `prepare` takes for these programs; 0 for what takes no time worth a thought."""

    @classmethod
    def at_hand(cls, codes: Sequence[Code], fuse: bool = True) -> Sequence[Engine] | None:
        """What `prepare` makes of these programs, if nothing need be compiled, or it was before; else None."""
        return cls.prepare(codes, fuse)

    @classmethod
    @abstractmethod
    def cost(cls, code: Code, cpu: bool) -> Cost | None:
        """What a training step of this program costs on a CPU or elsewhere; None where the engine cannot run it, or is never best."""

    @abstractmethod
    def run(
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

    def run_once(
        self,
        sources: Sequence[Tensor],
        outputs: Sequence[Tensor] | None = None,
        *,
        order: Tensor | None = None,
        scalars: Iterable[float] = (),
        draws: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Run a single time; what it returns is `outputs`, (1, *shape) each, without their first axis: by default new tensors.

        `draws`: of the values' shapes; by default drawn from the program's generators.
        """
        outputs = self.code.empty_outputs() if outputs is None else outputs
        drawn = self.code.drawn() if draws is None else draws
        numbers = torch.tensor([[*scalars]], dtype=torch.float64)
        self.run(sources, order, 1, numbers, [draw[None] for draw in drawn], outputs)
        return [output[0] for output in outputs]

    def reload(self) -> None:  # noqa: B027 - most engines read constants where they lie
        """Read the program's constants again, whose contents have changed."""

    @property
    def details(self) -> str:
        """For checkpoints: the name, and after a space whatever else decides about the bits of results."""
        return self.name

    @property
    def identity(self) -> str:
        """What is the same for programs that are known to run alike."""
        return self.source()

    @property
    @abstractmethod
    def memory(self) -> int:
        """The bytes that results take."""

    @abstractmethod
    def source(self) -> str:
        """What runs, as text."""
