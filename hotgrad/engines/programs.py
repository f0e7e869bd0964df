"""Programs as users hold them: `capture` makes one out of a function, and calling it runs it on an engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.checks import one_of
from hotgrad.core.arrays import as_tensor
from hotgrad.core.scalars import numbers_of
from hotgrad.core.variable import Variable
from hotgrad.engines.engine import Engine
from hotgrad.engines.registry import ENGINES, EXACT
from hotgrad.errors import CaptureError, DeviceError, DtypeError, OperandError, ShapeError
from hotgrad.program import serialisation
from hotgrad.program.captured import Captured, captured
from hotgrad.program.tree import rebuilt


class Program:
    """What a function computes, as a flat list of primitives that runs without Python in between; made by `capture`.

    Calling it with tensors like the examples gives tensors in the structure that the function returned. Parameters that the
    function read are read anew at each call, and those that it changed, by an optimizer's step, are changed in place. `str` lists
    the instructions.

    >>> program = hg.capture(lambda x: (x * 2).tanh().sum(), torch.ones(3))
    >>> print(program)
    inputs: x0 float32(3,)
      %0 = Mul(x0, 2)                        float32(3,)
      %1 = Tanh(%0)                          float32(3,)
      %2 = Sum(%1, dim=None, keepdim=False)  float32()
    outputs: %2
    >>> program(torch.zeros(3))
    tensor(0.)
    """

    def __init__(self, found: Captured, engine: str = EXACT.name, fuse: bool = True, verified: bool = False) -> None:
        self._captured, self.code, self._verified = found, found.code, verified
        self._loaded = found.constants.changes
        self.engine, self.fuse = one_of("engine", engine, ENGINES), fuse
        self._runner: Engine | None = None
        self._kept: list[Tensor] | None = None
        # the engine's memory serves one run at a time; and where runs leave something behind, all Programs made of one capture share that
        lasting = found.hooks or any(state.update is not None for state in self.code.states)
        self._lock: Any = found.lock if lasting else threading.RLock()

    def to(self, engine: str, fuse: bool = True) -> Program:
        """The same program on another engine, such as "replay" or "native".

        Without `fuse` replay computes eager's results bit for bit, for inputs that lie in memory as the examples did: some kernels sum
        in the order of memory.

        Raises SettingError for an unknown engine, EngineError if the engine cannot run this program.
        """
        program = Program(self._captured, engine, fuse, self._verified)
        program._start()
        return program

    def _start(self) -> Engine:
        if self._runner is None:
            self._captured.constants.refresh()
            self._runner = ENGINES[self.engine](self.code, self.fuse)
            self._loaded = self._captured.constants.changes
        return self._runner

    def __call__(self, *inputs: Any) -> Any:
        """Run it. Inputs have the shapes and dtypes of the examples; the results are new tensors.

        Raises ShapeError, DtypeError or DeviceError for other inputs, CaptureError if something that the function depends on,
        such as a number in its closure or a module's mode, is no longer what it was while capturing. Tensors that it reads are read
        as they are at each call.
        """
        return rebuilt(self._captured.structure, self._run(inputs, None))

    def run(self, *inputs: Any) -> Any:
        """As calling it, but what it returns is the program's own memory, valid until the next run."""
        if self._kept is None:
            self._kept = self.code.empty_outputs()
        return rebuilt(self._captured.structure, self._run(inputs, self._kept))

    def _run(self, inputs: tuple[Any, ...], outputs: list[Tensor] | None) -> list[Tensor]:
        try:  # a `with` block may be left by Ctrl-C before it releases; and `surely` costs 3 us
            try:
                self._lock.acquire()
                return self._alone(inputs, outputs)
            finally:
                if self._lock._is_owned():
                    self._lock.release()
        finally:
            if self._lock._is_owned():
                self._lock.release()

    def _alone(self, inputs: tuple[Any, ...], outputs: list[Tensor] | None) -> list[Tensor]:
        tensors = self._checked(inputs)
        found = self._captured
        runner = self._ready()
        hooks = found.hooks
        if len(hooks) < 2:
            numbers = hooks[0].next() if hooks else []
            results = runner.run_once(tensors, outputs, scalars=numbers)
            for hook in hooks:
                hook.done()
            return results
        marks = [hook.mark() for hook in hooks]
        (numbers,) = numbers_of(hooks, 1)
        try:
            return runner.run_once(tensors, outputs, scalars=numbers)
        except BaseException:
            for hook, mark in zip(hooks, marks):
                hook.back(mark)
            raise

    def _ready(self) -> Engine:
        """The engine, with the program's constants as they are now. Raises CaptureError if it no longer stands for its function."""
        found = self._captured
        if self._verified:
            self.verify()
        else:
            how = found.stale()
            if how:
                raise CaptureError(f"the program no longer stands for its function: {how}. Capture it again")
        found.begin()
        runner = self._start()
        found.constants.refresh()
        if self._loaded != found.constants.changes:
            runner.reload()
            self._loaded = found.constants.changes
        return runner

    def each(self, inputs: Sequence[Tensor], count: int) -> list[Tensor]:
        """Run it `count` times in one call, for inputs captured with one row: run i gets row i of each. What the runs return is stacked.

        Raises CaptureError where calling it would.
        """
        found = self._captured
        with self._lock:
            runner = self._ready()
            order = torch.arange(count)
            draws = [torch.empty((count, *draw.value.shape)) for draw in self.code.draws]
            for i in range(count if draws else 0):
                for into, draw in zip(draws, self.code.draws):
                    draw.fill(into[i])
            outputs = [torch.empty((count, *v.shape), dtype=v.dtype, device=v.device) for v in self.code.outputs]
            rows = numbers_of(found.hooks, count)
            numbers = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(self.code.scalars))
            if count:
                runner.run(inputs, order, count, numbers, draws, outputs)
            return outputs

    def verify(self) -> None:
        """Trace the function again and compare. Nothing changes, and nothing is computed.

        Raises CaptureError if it is another program by now, or gives other numbers to the same one.

        >>> scale = [2.0]
        >>> program = hg.capture(lambda x: x * scale[0], torch.ones(3))
        >>> program.verify()
        """
        how = self._captured.verify()
        if how:
            raise CaptureError(f"the program no longer stands for its function: {how}. Capture it again")

    def _checked(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        wanted = self.code.inputs
        if len(inputs) != len(wanted):
            raise OperandError(f"the program takes {len(wanted)} inputs, as in the capture; got {len(inputs)}")
        tensors = []
        for i, (given, value) in enumerate(zip(inputs, wanted)):
            tensor = given._data if isinstance(given, Variable) else as_tensor(given)
            if tuple(tensor.shape) != value.shape:
                raise ShapeError(
                    f"input {i} has shape {tuple(tensor.shape)}; the program was captured for {value.shape}. Capture it for this shape too"
                )
            if tensor.dtype != value.dtype:
                raise DtypeError(
                    f"input {i} is {tensor.dtype}; the program was captured for {value.dtype}. Convert it with to({value.dtype})"
                )
            if tensor.device != value.device:
                raise DeviceError(
                    f"input {i} is on {tensor.device}; the program was captured on {value.device}. Move it with to({str(value.device)!r})"
                )
            tensors.append(tensor)
        return tensors

    @property
    def memory(self) -> tuple[int, int]:
        """Bytes: of all results, if each had memory of its own, and of what the engine needs for them.

        >>> hg.capture(lambda x: x.exp().tanh().exp().sum(), torch.ones(1000)).memory
        (12004, 4004)
        """
        return sum(i.out.nbytes() for i in self.code.instructions), self._start().memory

    @property
    def states(self) -> dict[str, Tensor]:
        """The tensors that outlive a call, by name: parameters, buffers and optimizer state; not copies."""
        found: dict[str, Tensor] = {}
        for state in self.code.states:
            name = state.value.name or f"w{len(found)}"
            while name in found:
                name += "'"
            found[name] = state.tensor
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the program to `path`: its instructions as text, and the tensors it reads, with their present values.

        Raises CaptureError for a program that holds an optimizer's step, whose rates and counts are computed outside of it.
        """
        if self._captured.hooks:
            raise CaptureError(
                "a program that holds an optimizer's step cannot be saved, since its rates are computed outside; save the model"
            )
        serialisation.save(path, self.code, self._captured.structure, self._captured.dtype)

    @classmethod
    def load(cls, path: str | os.PathLike[str], engine: str = EXACT.name, fuse: bool = True) -> Program:
        """The program that `save` wrote. Its states are tensors of its own; random numbers come from torch's global generator.

        Nothing in the file is executed. Raises FileError for a file that is broken or foreign, or needs an op that is not declared.
        """
        code, structure, dtype = serialisation.load(path)
        return cls(Captured(code, structure, dtype=dtype), engine, fuse)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Raises OperandError: a program belongs to the model and the process that it was captured in."""
        raise OperandError(
            "a Program cannot be pickled or copied: write it to a file with program.save(path), and hg.Program.load(path) gives one "
            "that stands alone; program.to(engine) gives another one for the same function"
        )

    def source(self) -> str:
        """What its engine runs, as text: Python for replay, C for native."""
        return self._start().source()

    def __str__(self) -> str:
        return str(self.code)

    def __repr__(self) -> str:
        return f"<Program of {len(self.code.instructions)} instructions on {self.engine}>"


def capture(f: Callable[..., Any], *examples: Any, verify: bool = False) -> Program:
    """The Program of `f` for arguments like `examples`: tensors, arrays, numbers, or Variables, which keep `requires_grad`.

    `f` is run twice on such arguments, on Variables that have no values to read, and every primitive it calls is noted, those of
    `backward`, `gradients` and an optimizer's `step` included. So a program can be a whole training step. Parameters, buffers,
    gradients and optimizer state stay as they were.

    Raises CaptureError where the result would not hold for other values: `f` reads values (`item`, `bool`, `float`, `data`,
    printing), calls torch on plain tensors, draws random numbers, asks for the time, or changes what it depends on. Also where it
    depends on something that cannot be watched, unless `verify`: then each call first traces it again, and compares (`Program.verify`).

    >>> w = hg.Parameter([1.0, 2.0])
    >>> optimizer = hg.optim.SGD([w], lr=0.1)
    >>> def step(x):
    ...     optimizer.zero_grad()
    ...     loss = ((w * x) ** 2).sum()
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss
    >>> program = hg.capture(step, torch.ones(2))
    >>> program(torch.ones(2)), w.data
    (tensor(5.), tensor([0.8000, 1.6000]))
    """
    if not callable(f):
        raise OperandError(f"capture takes a function and examples of its arguments; got {f!r:.60}")
    arrays = [example if isinstance(example, Variable) else as_tensor(example) for example in examples]
    return Program(captured(f, arrays, [f], watched=not verify), verified=verify)
