"""What a Variable shows of its tensor: shape, values for Python and numpy, text; how it is copied; and torch's functions on it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hotgrad.core.arrays import as_tensor
from hotgrad.core.explain import check_like
from hotgrad.core.hooks import Handle, add_hook
from hotgrad.core.methods import WRITERS, Methods, counterpart
from hotgrad.core.modes import state
from hotgrad.core.primitive import Primitive
from hotgrad.core.records import NO_ACCUMULATORS, Accumulator, Record, Value
from hotgrad.errors import HotgradError, OperandError, ShapeError, TapeError

_TORCH_DEFAULTS = [("_stacklevel", 3), ("dtype", None), ("out", None), ("inplace", False), ("value", None)]  # which nobody asked for


class ArrayLike(Value, Methods):
    """Base of Variable: all of it but the walk."""

    __slots__ = ()

    __array_ufunc__ = None  # numpy arrays on the left leave the operation to us
    __hash__ = object.__hash__

    # ---- what it is

    def _assign_data(self, value: Any) -> None:
        if not self.is_leaf:
            raise TapeError("data can be assigned on leaves only; this Variable was computed by " + self._link.op.name)  # type: ignore[union-attr]
        value = as_tensor(value)
        check_like("data", value, self._data)
        self._data = value

    # attrgetter, here and for grad: reading these is part of every optimizer step
    data = property(
        operator.attrgetter("_data"),
        _assign_data,
        doc="""The tensor itself, not a copy. Writes through it are noticed by a later backward that needs the old values; writes
        through torch's own `Tensor.data` or through numpy memory are not.

        Assigning another tensor is allowed on a leaf, for equal shape, dtype and device; earlier records keep the old one.
        """,
    )

    @property
    def is_leaf(self) -> bool:
        """True unless an op on the tape computed it."""
        return not isinstance(self._link, Record)

    @property
    def previous_op(self) -> type[Primitive] | None:
        """The Primitive class that made it, None on leaves; a backward does not clear it."""
        return self._link.op if isinstance(self._link, Record) else None

    @property
    def name(self) -> str | None:
        """A name for tables, graphs and messages."""
        return self._accumulator.name

    @name.setter
    def name(self, value: str | None) -> None:
        self._own_accumulator().name = value

    def _own_accumulator(self) -> Accumulator:
        if self._accumulator in NO_ACCUMULATORS:
            self._accumulator = Accumulator(self._data)
            if isinstance(self._link, Record):
                self._link.accumulator = self._accumulator
        return self._accumulator

    def register_hook(self, hook: Callable[[Any], Any]) -> Handle:
        """Call `hook(gradient)` with the whole gradient of this Variable whenever a walk backwards, `backward` or `gradients`, has it.

        What it returns, of the same shape and dtype, goes on in its place; None changes nothing. The gradient is a tensor, or a Variable
        with `create_graph` and in a capture, and must not be written into. On a leaf it is that of one walk, before it is added to `grad`.
        Several hooks run in the order of their registration. Copies of a Variable have none. The Handle's `remove()` takes it away.

        Raises TapeError if this Variable needs no gradient.

        >>> x = hg.Variable([1.0, 2.0], requires_grad=True)
        >>> handle = x.register_hook(lambda g: g.clip(-1, 1))
        >>> (x * x).sum().backward()
        >>> x.grad
        tensor([1., 1.])
        >>> handle.remove()
        """
        if self._link is None:
            raise TapeError("register_hook() on a Variable that needs no gradient; make one of its inputs with requires_grad=True")
        return add_hook(self._own_accumulator(), hook)

    @property
    def shape(self) -> torch.Size:
        return self._data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self._data.dtype

    @property
    def device(self) -> torch.device:
        return self._data.device

    @property
    def ndim(self) -> int:
        return self._data.ndim

    def dim(self) -> int:
        return self._data.ndim

    def size(self, dim: int | None = None) -> Any:
        return self._data.size() if dim is None else self._data.size(dim)

    def numel(self) -> int:
        """The number of elements."""
        return self._data.numel()

    # ---- values for Python

    def _as_index(self) -> Tensor:
        return self.data  # type: ignore[no-any-return]

    def _values(self) -> Tensor:
        if state.trace is not None:
            state.trace.refuse("the values of a Variable were read while capturing; they may differ at each run")
        return self._data

    def item(self) -> Any:
        """The one element as a Python number. Raises ShapeError for more."""
        if self._values().numel() != 1:
            raise ShapeError(f"only one element converts to a Python number; got shape {tuple(self.shape)}. Reduce it first with sum()")
        return self._data.item()

    def tolist(self) -> Any:
        """The data as nested lists."""
        return self._values().tolist()

    def numpy(self) -> Any:
        """The data as a numpy array that shares its memory. Raises TapeError if a gradient is required."""
        if self._link is not None:
            message = "numpy() on a Variable that requires a gradient would lose the graph; use detach().numpy()"
            raise TapeError(f"{message}. To join Variables into one use hg.stack([v0, v1])")
        return self._values().resolve_neg().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        array = self.numpy()
        if copy is False and dtype is not None and array.dtype != dtype:
            raise ValueError(f"a copy is needed to convert {array.dtype} to {dtype}")
        return array.copy() if copy and dtype in (None, array.dtype) else array if dtype is None else array.astype(dtype, copy=bool(copy))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __len__(self) -> int:
        if not self.ndim:
            raise OperandError("a 0-d Variable has no length. To join Variables into one use hg.stack([v0, v1])")
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TapeError(
            "a Variable's elements cannot be assigned; use where(mask, value, v) or cat/stack, or write to v.data outside the graph"
        )

    def __repr__(self) -> str:
        name = f", name={self.name!r}" if self.name else ""
        origin = f", op={self.previous_op.name}" if self.previous_op else ", requires_grad=True" if self._link is not None else ""
        kind = type(self).__name__
        values = str(self._values()).removeprefix("tensor(").removesuffix(")").replace("\n       ", "\n " + " " * len(kind))  # aligned
        return f"{kind}({values}{origin}{name})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else str(self)

    def __reduce__(self) -> Any:
        self._refuse_to_copy("pickled")
        return _restore, (type(self), self._data, self._link is not None, self.name, self._accumulator.grad)

    def __copy__(self) -> Any:
        self._refuse_to_copy("copied")
        grad = None if (grad := self._accumulator.grad) is None else grad.clone()  # backwards of either add to it in place
        return _restore(type(self), self._data, self._link is not None, self.name, grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = self.__copy__()
        copied._data = self._data.clone()
        memo[id(self)] = copied
        return copied

    def _refuse_to_copy(self, done: str) -> None:
        if not self.is_leaf or isinstance(self._accumulator.grad, Value):
            raise TapeError(f"only leaf Variables can be {done}: a graph belongs to the tape it was recorded on. Use detach() first")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """torch functions on Variables dispatch to the op of the same name, or raise."""
        name = func.__name__
        if name in WRITERS and len(args) == 2 and not kwargs:
            return WRITERS[name](*args)
        if name in ("zeros_like", "ones_like", "full_like") and args and isinstance(args[0], Value):
            return func(args[0]._data, *args[1:], **(kwargs or {}))  # no values are asked for, and none recorded
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            # no TypeError: of `t += v` Python would make `t = t + v`
            raise TapeError(f"torch's {name!r} cannot write a Variable into a tensor; compute a new value, as in t = t + v")
        function = counterpart(func)
        options = {"dim" if k == "axis" else k: value for k, value in (kwargs or {}).items() if (k, value) not in _TORCH_DEFAULTS}
        try:
            return function(*args, **options)
        except TypeError as error:
            if isinstance(error, HotgradError):
                raise
            raise OperandError(f"torch's {name!r} on a Variable takes what hotgrad's {name!r} takes; {error}") from error


def _restore(cls: type[Any], data: Tensor, requires_grad: bool, name: str | None, grad: Tensor | None) -> Any:
    out = cls(data, requires_grad, name)
    out.grad = grad
    return out
