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

from hotgrad.core.explain import out_of_range
from hotgrad.core.primitive import Primitive
from hotgrad.engines.costs import Cost, Rates, products
from hotgrad.engines.engine import LIMIT, Engine
from hotgrad.engines.native import csource
from hotgrad.engines.native.compiler import CompilerError, Library, compile_source, find_compiler, is_cached
from hotgrad.engines.native.layout import NativeError
from hotgrad.engines.native.lowering import Lowering
from hotgrad.engines.native.user_forms import Form, forms_of
from hotgrad.errors import OperandError, ShapeError
from hotgrad.program.instructions import Code, Value, described

_ALIGNMENT = 64
LONG = 4000  # lines; a file of more is compiled in half the time, to code that is at most a twentieth slower
_LESS = ("-O2", "-ftree-vectorize")
# Compiling is counted half, since its result is kept for the next time; eager would still take longer in all from the number of steps on
# where native is chosen.
_RATES = Rates(0.0, 0.0255, 0.22, once=3000.0, once_instruction=200.0, trial_steps=4.0, compiling=147_000.0, compiling_instruction=600.0)
_COMPILING = (0.3, 0.0012)  # seconds: of a file, and of an instruction in it
# Of more multiplications than this a matrix product is faster in torch's kernels; of four times as many a convolution.
_LARGE = 2**24


class Native(Engine):
    """A compiled program, to be used by one thread at a time.

    Raises NativeError, naming what has no native form, or where there is no working compiler.

    >>> code = Code()
    >>> native = Native(code)
    >>> native.run([], None, 1, torch.zeros(1, 0, dtype=torch.float64), [], [])
    """

    name = "native"
    exact = False
    library: Library

    def __init__(self, code: Code, fuse: bool = True) -> None:
        self._setup(csource.lowered(code, fuse), "program0")
        self._load([self])

    @classmethod
    def prepare(cls, codes: Sequence[Code], fuse: bool = True, limit: float = LIMIT, options: Sequence[str] = ()) -> list[Native]:
        """Several programs compiled as one file, which takes less time than one after the other; `limit`: the seconds that it may take.

        `options`: for the compiler.
        """
        made = [cls._lowered(code, fuse, number) for number, code in enumerate(codes)]
        cls._load(made, limit, options)
        return made

    @classmethod
    def _lowered(cls, code: Code, fuse: bool, number: int) -> Native:
        native = cls.__new__(cls)
        native._setup(csource.lowered(code, fuse), f"program{number}")
        return native

    @classmethod
    def _load(cls, natives: Sequence[Native], limit: float = LIMIT, options: Sequence[str] = ()) -> None:
        """Compile, and compare the native forms of users' ops with what they stand for."""
        forms, tried = cls._with_forms(natives)
        every = [*natives, *tried]
        library = _compiled(_text(every), options, limit)
        for native in every:
            native.library = library
            native._bind(library.functions)
        for form, native in zip(forms, tried):
            form.check(native)

    @classmethod
    def _with_forms(cls, natives: Sequence[Native]) -> tuple[list[Form], list[Native]]:
        """The native forms of users' ops in these programs, and the programs that try them."""
        forms = forms_of(native.code for native in natives)
        return forms, [cls._lowered(form.code, True, len(natives) + number) for number, form in enumerate(forms)]

    @classmethod
    def at_hand(cls, codes: Sequence[Code], fuse: bool = True) -> list[Native] | None:
        """The programs, if their library is in the cache."""
        try:
            made = [cls._lowered(code, fuse, number) for number, code in enumerate(codes)]
            text = _text([*made, *cls._with_forms(made)[1]])
            if not is_cached(text, _less(text)):
                return None
            cls._load(made)
        except NativeError:
            return None
        return made

    @property
    def memory(self) -> int:
        """The bytes of the workspace."""
        return self.workspace.numel()

    @classmethod
    def seconds(cls, codes: Sequence[Code]) -> float:
        """How long the C compiler will take for these programs in one file.

        >>> Native.seconds([Code()])
        0.3
        """
        fixed, each = _COMPILING
        return fixed + each * sum(len(code.instructions) for code in codes)

    @classmethod
    def cost(cls, code: Code, cpu: bool) -> Cost | None:
        """None on other devices than the CPU, and where torch's kernels are faster."""
        large = any(products(i) > (1 if i.op.name == "MatMul" else 4) * _LARGE for i in code.instructions)
        return _RATES.cost(code) if cpu and not large else None

    @property
    def identity(self) -> str:
        """The file of the compiled program."""
        return str(self.library.path)

    @property
    def details(self) -> str:
        """The engine with what else decides about the bits of its results: compiler and CPU."""
        compiler = find_compiler()
        return self.name if compiler is None else f"{self.name} ({compiler.version}, target {compiler.target})"

    def source(self) -> str:
        """The C.

        >>> print(Native(Code()).source().splitlines()[3])
        #include <stddef.h>
        """
        return csource.source([self._low], [self._name])

    def run(
        self,
        sources: Sequence[Tensor],
        order: Tensor | None,
        steps: int,
        scalars: Tensor,
        draws: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Run `steps` times in one call into C; see Engine. States are read at the start and written back at the end.

        Raises OperandError or ShapeError for tensors that do not fit, RangeError for an index out of range, with all states as before.
        """
        code = self.code
        if steps < 1:
            return
        for what, tensors, wanted in (("sources", sources, code.inputs), ("draws", draws, code.draws), ("outputs", outputs, code.outputs)):
            if len(tensors) != len(wanted):
                raise OperandError(f"{what}: got {len(tensors)} tensors, expected {len(wanted)}")
        given = [_source(tensor, value, order is not None) for tensor, value in zip(sources, code.inputs)]
        if order is not None:
            _check_order(order, steps, code.inputs, given)
        if scalars.dtype is not torch.float64 or scalars.shape not in ((steps, len(code.scalars)), (1, len(code.scalars))):
            raise ShapeError(
                f"scalars must be float64 of shape ({steps} or 1, {len(code.scalars)}); got {scalars.dtype}{tuple(scalars.shape)}"
            )
        scalars = scalars.contiguous()
        for draw, tensor in zip(code.draws, draws):
            _require("a draw", tensor, torch.float32, ((steps, *draw.value.shape),))
        for i, (value, tensor) in enumerate(zip(code.outputs, outputs)):
            _require("an output", tensor, value.dtype, ((steps, *value.shape), (1, *value.shape)))
            self._apart[i] = value.numel() if tensor.shape[0] == steps else 0
        states = [state.tensor for state in code.states]
        memory = [_state(tensor, state.value) for tensor, state in zip(states, code.states)]
        if self._negated:
            memory = [_dense(tensor) for tensor in memory]
        for array, tensors in ((self._sources, given), (self._draws, draws), (self._outputs, outputs), (self._states, memory)):
            for i, tensor in enumerate(tensors):
                array[i] = tensor.data_ptr()
        self._run(
            self._address,
            steps,
            self._sources,
            None if order is None else order.data_ptr(),
            scalars.data_ptr(),
            scalars.shape[1] if scalars.shape[0] > 1 else 0,
            self._draws,
            self._outputs,
            self._apart,
            self._states,
        )
        if self._wrong is not None and self._wrong[0]:
            op, axis, size = self._low.checked[self._wrong[0] - 1]
            raise out_of_range(op, self._wrong[1], axis, size)
        for i in self._updated:
            if memory[i] is not states[i]:
                with torch.no_grad():
                    states[i].copy_(memory[i])
        # a backward that needs the old values is to notice
        torch._C._increment_version([states[i] for i in self._updated])

    def _setup(self, low: Lowering, name: str) -> None:
        code = low.program
        self._low, self._name, self.code = low, name, code
        self._sources, self._draws, self._outputs, self._states = (
            (ctypes.c_void_p * max(len(values), 1))() for values in (code.inputs, code.draws, code.outputs, code.states)
        )
        self._negated = any(state.tensor.is_neg() for state in code.states)  # asked once: it costs as much as all else per state
        self._updated = [i for i, state in enumerate(code.states) if state.update is not None]
        self._apart = (ctypes.c_int64 * max(len(code.outputs), 1))()

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
        self._wrong = (ctypes.c_int64 * 2).from_address(self._address) if self._low.checked else None
        self._load_constants = functions[f"{self._name}_load"]
        self._load_constants.restype, self._load_constants.argtypes = None, [pointer, pointer]
        self.reload()

    def reload(self) -> None:
        constants = [_dense(tensor.detach()) for _, tensor in self._low.constants]
        self._load_constants(self._address, (ctypes.c_void_p * max(len(constants), 1))(*(t.data_ptr() for t in constants)))


def native_form(op: type[Primitive], operands: Sequence[Any], options: dict[str, Any]) -> tuple[Form, Native]:
    """A call of an op on these tensors and numbers, and it compiled. Raises NativeError where it has no native form, or does not compile.

    >>> form, engine = native_form(hg.ops.Mul, [torch.tensor([1.0, 2.0]), 3.0], {})
    >>> form.run(engine)
    tensor([3., 6.])
    """
    form = Form.of(op, operands, op.bind((), options))
    native = Native._lowered(form.code, True, 0)
    native._bind(_compiled(native.source()).functions)
    return form, native


def _text(natives: Sequence[Native]) -> str:
    return csource.source([native._low for native in natives], [native._name for native in natives])


def _less(text: str) -> tuple[str, ...]:
    return _LESS if text.count("\n") > LONG else ()


def _compiled(text: str, options: Sequence[str] = (), limit: float = LIMIT) -> Library:
    try:
        return compile_source(text, options=[*_less(text), *options], limit=limit)
    except CompilerError as error:
        raise NativeError(str(error)) from error


def _require(what: str, tensor: Tensor, dtype: torch.dtype, shapes: Sequence[tuple[int, ...]]) -> None:
    if tensor.dtype is not dtype or tensor.shape not in shapes or not tensor.is_contiguous() or not tensor.is_cpu:
        wanted = " or ".join(map(str, shapes))
        raise ShapeError(
            f"{what} must be a contiguous {dtype} tensor of shape {wanted} on the CPU; got {tensor.dtype}{tuple(tensor.shape)}"
        )


def _source(tensor: Tensor, value: Value, ordered: bool) -> Tensor:
    shape = tensor.shape
    fits = shape[1:] == value.shape[1:] and len(shape) == len(value.shape) if ordered and value.shape else shape == value.shape
    if not fits or tensor.dtype is not value.dtype or not tensor.is_cpu:
        wanted = f"{described(value)}, of any length," if ordered else described(value)
        raise ShapeError(f"an input must be {wanted} on the CPU; got {tensor.dtype}{tuple(shape)} on {tensor.device}")
    return _dense(tensor) if tensor.is_neg() else tensor.contiguous()


def _state(tensor: Tensor, value: Value) -> Tensor:
    if tensor.shape != value.shape or tensor.dtype is not value.dtype or not tensor.is_cpu:
        raise ShapeError(
            f"a state must be {described(value)} on the CPU, as when it was captured; "
            f"it is {tensor.dtype}{tuple(tensor.shape)} on {tensor.device}"
        )
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _dense(tensor: Tensor) -> Tensor:
    """The tensor as C reads it: row after row, and with its signs, which torch may keep in a bit beside the memory."""
    return tensor.resolve_neg().contiguous()


def _check_order(order: Tensor, steps: int, inputs: Sequence[Value], sources: Sequence[Tensor]) -> None:
    """That all rows that it names exist: C does not look."""
    if order.dtype is not torch.int64 or not order.is_contiguous() or not order.is_cpu:
        raise ShapeError(f"the order must be a contiguous int64 tensor on the CPU; got {order.dtype} on {order.device}")
    sized = [(value.shape[0], tensor.shape[0]) for value, tensor in zip(inputs, sources) if value.shape]
    needed, rows = steps * max((batch for batch, _ in sized), default=0), min((length for _, length in sized), default=0)
    if order.numel() < needed:
        raise ShapeError(f"{steps} runs need {needed} places in the order; got {order.numel()}")
    if needed:
        low, high = torch.aminmax(order)
        if int(low) < 0 or int(high) >= rows:
            raise ShapeError(f"the order must name rows from 0 to {rows - 1}, as many as there are; got {int(low)} to {int(high)}")
