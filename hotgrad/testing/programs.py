"""Random differentiable programs: graphs that nobody thought of, which shrink to the shortest that fails and print as code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

from hotgrad.core.methods import FUNCTIONS
from hotgrad.testing.strategies import Shape, laid_out

_UNARY: list[tuple[str, dict[str, Any]]] = [
    ("neg", {}), ("square", {}), ("sin", {}), ("tanh", {}), ("sigmoid", {}), ("softplus", {}), ("relu", {}), ("abs", {}), ("sum", {}), ("mean", {"dim": 0}),
    ("sum", {"dim": -1, "keepdim": True}), ("logsumexp", {"dim": 0}), ("softmax", {"dim": -1}), ("cumsum", {"dim": 0}), ("amax", {"dim": -1}),
    ("reshape", {"shape": (-1,)}), ("unsqueeze", {"dim": 0}), ("transpose", {"dim0": 0, "dim1": -1}), ("flip", {"dims": (0,)}),
]  # fmt: skip
_BINARY = ["add", "mul", "sub", "maximum", "matmul"]


@dataclass(frozen=True)
class Composition:
    """A function of tensors or Variables: `steps` are (name of the function, places of its operands, options), the places counting
    the inputs and then the steps; the last value is the result. `str` gives Python source.
    """

    inputs: tuple[Shape, ...]
    steps: tuple[tuple[str, tuple[int, ...], tuple[tuple[str, Any], ...]], ...]

    def __call__(self, *inputs: Any) -> Any:
        values = list(inputs)
        for name, places, options in self.steps:
            values.append(FUNCTIONS[name](*(values[i] for i in places), **dict(options)))
        return values[-1]

    def __str__(self) -> str:
        names = [f"x{i}" for i in range(len(self.inputs))] + [f"v{i}" for i in range(len(self.steps))]
        lines = [f"def program({', '.join(names[: len(self.inputs)])}):"]
        for i, (name, places, options) in enumerate(self.steps):
            given = [names[k] for k in places] + [f"{key}={value!r}" for key, value in options]
            lines.append(f"    v{i} = hg.{name}({', '.join(given)})")
        return "\n".join([*lines, f"    return {names[-1]}"])


@st.composite
def programs(draw: Any, max_steps: int = 6) -> Composition:
    """Programs of one to `max_steps` steps on one to three inputs; every step is defined for the values it gets.

    >>> from hypothesis import find
    >>> print(find(programs(), lambda program: len(program.steps) == 2 and program.steps[1][1] == (1, 1)))
    def program(x0):
        v0 = hg.neg(x0)
        v1 = hg.add(v0, v0)
        return v1
    """
    shapes = draw(st.lists(st.sampled_from([(), (2,), (2, 2), (1,), (2, 3), (3,), (0,)]), min_size=1, max_size=3))
    known: list[Shape] = list(shapes)
    steps: list[Any] = []
    for _ in range(draw(st.integers(1, max_steps))):
        # later values first, so that most programs are deep
        places = tuple(len(known) - 1 - draw(st.integers(0, len(known) - 1)) for _ in range(draw(st.integers(1, 2))))
        choices = _UNARY if len(places) == 1 else [(name, {}) for name in _BINARY]
        name, options = draw(st.sampled_from(choices))
        try:
            shape = tuple(FUNCTIONS[name](*(torch.zeros(known[i]) for i in places), **options).shape)
        except (ValueError, RuntimeError, IndexError, TypeError):
            continue
        if shape and max(shape) > 9:
            continue
        known.append(shape)
        steps.append((name, places, tuple(options.items())))
    if not steps:
        steps.append(("neg", (len(known) - 1,), ()))
    return Composition(tuple(shapes), tuple(steps))


@st.composite
def programs_with_inputs(draw: Any) -> tuple[Composition, tuple[Tensor, ...]]:
    """A program and a float64 tensor for each of its inputs."""
    program = draw(programs())
    grid = st.sampled_from([1.0, *(k / 10 for k in range(-17, 18) if k not in (0, 10))])
    inputs = []
    for shape in program.inputs:
        n = torch.Size(shape).numel()
        values = draw(st.lists(grid, min_size=n, max_size=n))
        inputs.append(laid_out(torch.tensor(values, dtype=torch.float64).reshape(shape), draw(st.sampled_from([0, 0, 1, 2, 4]))))
    return program, tuple(inputs)


def code_of(program: Composition, inputs: Sequence[Tensor], describe: Any) -> str:
    """Source that runs `program` on `inputs` and walks back."""
    names = [f"x{i}" for i in range(len(inputs))]
    made = [f"{name} = hg.Variable({describe(x)}, requires_grad=True)" for name, x in zip(names, inputs)]
    return "\n".join([str(program), *made, f"hg.sum(program({', '.join(names)})).backward()"])
