"""Native: runs a program as compiled C, many steps in one call, without Python and without the GIL.

The C is made by `lowering` and `csource`, compiled once and kept by `compiler`. All memory is in a workspace of the Native, so
that several threads can each run one of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotgrad.engines import csource
from hotgrad.engines.compiler import CompilerError, compile_source, find_compiler
from hotgrad.engines.layout import NativeError
from hotgrad.engines.lowering import Lowering
from hotgrad.errors import OperandError, ShapeError
from hotgrad.program.instructions import Code, described

_ALIGNMENT = 64
_LIMIT = 600.0  # seconds for a file of many programs


class Native:
    """A compiled program. Raises NativeError, naming what has no native form, or where there is no working compiler.

    >>> code = Code()
    >>> native = Native(code)
    >>> native.many([], None, 1, torch.zeros(1, 0, dtype=torch.float64), [], [])
    """

    def __init__(self, code: Code, fuse: bool = True) -> None:
        self._setup(csource.lowered(code, fuse), "program")
        try:
            self.library = compile_source(self.source())
        except CompilerError as error:
            raise NativeError(str(error)) from error
        self._bind(self.library.functions)

    @classmethod
    def together(cls, codes: Sequence[Code], fuse: bool = True, options: Sequence[str] = ()) -> list[Native]:
        """Several programs compiled as one file, which takes less time than one after the other. `options`: for the compiler."""
        programs = [csource.lowered(code, fuse) for code in codes]
        names = [f"program{i}" for i in range(len(codes))]
        library = compile_source(csource.source(programs, names), options=options, limit=_LIMIT)
        made = []
        for low, name in zip(programs, names):
            native = cls.__new__(cls)
            native._setup(low, name)
            native.library = library
            native._bind(library.functions)
            made.append(native)
        return made

    @property
    def details(self) -> str:
        """The engine with what else decides about the bits of its results: compiler and CPU."""
        compiler = find_compiler()
        return "native" if compiler is None else f"native ({compiler.version}, target {compiler.target})"

    def source(self) -> str:
        """The C.

        >>> print(Native(Code()).source().splitlines()[3])
        #include <stddef.h>
        """
        return csource.source([self._low], [self._name])

    def many(
        self,
        sources: Sequence[Tensor],
        order: Tensor | None,
        steps: int,
        scalars: Tensor,
        draws: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Run `steps` times in one call.

        - `sources`: a tensor for each input. With `order` (int64), row b of run i of an input of B rows is
          `source[order[i * B + b]]`; with None the source is the input of every run.
        - `scalars`: float64, (steps, n), or (1, n) for the same in each run.
        - `draws`: float32, (steps, *shape) each.
        - `outputs`: written to; (steps, *shape) each, or (1, *shape) for the last run's alone.

        States are read at the start and written back at the end.
        """
        code = self.code
        if steps < 1:
            return
        held: list[Tensor] = []

        def pointers(tensors: Sequence[Tensor]) -> Any:
            held.extend(tensors)
            return (ctypes.c_void_p * max(len(tensors), 1))(*(t.data_ptr() for t in tensors))

        _same_number("sources", sources, code.inputs)
        _same_number("draws", draws, code.draws)
        _same_number("outputs", outputs, code.outputs)
        given = [_source(s, v, order, steps) for s, v in zip(sources, code.inputs)]
        if order is not None:
            _checked_order(order, steps, code, given)
        if tuple(scalars.shape) not in ((steps, len(code.scalars)), (1, len(code.scalars))) or scalars.dtype is not torch.float64:
            raise ShapeError(
                f"scalars must be float64 of shape ({steps} or 1, {len(code.scalars)}); got {scalars.dtype}{tuple(scalars.shape)}"
            )
        scalars = scalars.contiguous()
        for draw, tensor in zip(code.draws, draws):
            _require("a draw", tensor, torch.float32, ((steps, *draw.value.shape),))
        for value, tensor in zip(code.outputs, outputs):
            _require("an output", tensor, value.dtype, ((steps, *value.shape), (1, *value.shape)))
        apart = [0 if steps > 1 and t.shape[0] == 1 else v.numel() for v, t in zip(code.outputs, outputs)]
        tensors = [state.tensor.detach() for state in code.states]
        for state, tensor in zip(code.states, tensors):
            if tuple(tensor.shape) != state.value.shape or tensor.dtype is not state.value.dtype:
                raise ShapeError(
                    f"a state must be {described(state.value)}, as when it was captured; it is {tensor.dtype}{tuple(tensor.shape)}"
                )
        memory = [tensor.contiguous() for tensor in tensors]
        self._run(
            self._address,
            steps,
            pointers(given),
            None if order is None else order.data_ptr(),
            scalars.data_ptr(),
            scalars.shape[1] if scalars.shape[0] > 1 else 0,
            pointers([draw.contiguous() for draw in draws]),
            pointers(outputs),
            (ctypes.c_int64 * max(len(apart), 1))(*apart),
            pointers(memory),
        )
        for state, tensor, copy in zip(code.states, tensors, memory):
            if copy is not tensor and state.update is not None:
                tensor.copy_(copy)

    def _setup(self, low: Lowering, name: str) -> None:
        self._low, self._name, self.code = low, name, low.code

    def _bind(self, functions: ctypes.CDLL) -> None:
        size = functions[f"{self._name}_bytes"]
        size.restype, size.argtypes = ctypes.c_int64, []
        self._run = functions[f"{self._name}_run"]
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run.restype = None
        self._run.argtypes = [pointer, number, pointer, pointer, pointer, number, pointer, pointer, pointer, pointer]
        self.workspace = torch.zeros(size() + _ALIGNMENT, dtype=torch.uint8)
        start = self.workspace.data_ptr()
        self._address = start + -start % _ALIGNMENT
        constants = [tensor.detach().contiguous() for _, tensor in self._low.constants]
        load = functions[f"{self._name}_load"]
        load.restype, load.argtypes = None, [pointer, pointer]
        load(self._address, (ctypes.c_void_p * max(len(constants), 1))(*(t.data_ptr() for t in constants)))


def _same_number(what: str, given: Sequence[Tensor], wanted: Sequence[Any]) -> None:
    if len(given) != len(wanted):
        raise OperandError(f"{what}: got {len(given)} tensors, expected {len(wanted)}")


def _require(what: str, tensor: Tensor, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]]) -> None:
    if tensor.dtype is not dtype or tuple(tensor.shape) not in shapes or not tensor.is_contiguous():
        raise ShapeError(
            f"{what} must be a contiguous {dtype} tensor of shape {' or '.join(map(str, shapes))}; got {tensor.dtype}{tuple(tensor.shape)}"
        )


def _source(tensor: Tensor, value: Any, order: Tensor | None, steps: int) -> Tensor:
    shape = tuple(tensor.shape)
    fits = shape == value.shape if order is None or not value.shape else shape[1:] == value.shape[1:] and tensor.ndim == value.ndim
    if tensor.dtype is not value.dtype or not fits or not tensor.is_cpu:
        raise ShapeError(
            f"an input must be {described(value)}" + (", of any length" if order is not None else "") + f"; got {tensor.dtype}{shape}"
        )
    return tensor.detach().contiguous()


def _checked_order(order: Tensor, steps: int, code: Code, sources: Sequence[Tensor]) -> None:
    if order.dtype is not torch.int64 or not order.is_contiguous() or not order.is_cpu:
        raise ShapeError(f"the order must be a contiguous int64 tensor on the CPU; got {order.dtype} on {order.device}")
    for value, _tensor in zip(code.inputs, sources):
        if value.shape and order.numel() < steps * value.shape[0]:
            raise ShapeError(
                f"{steps} runs of {value.shape[0]} rows need {steps * value.shape[0]} places in the order; got {order.numel()}"
            )
    rows = min((t.shape[0] for v, t in zip(code.inputs, sources) if v.shape), default=0)
    if order.numel() and not (int(order.min()) >= 0 and int(order.max()) < rows):
        raise ShapeError(f"the order names rows outside of the {rows} that there are")
