"""What stands for values while a function is captured: Variables, and gradients from before, that refuse to tell what they hold."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

from hotgrad.core.modes import state
from hotgrad.core.records import MADE
from hotgrad.core.variable import Variable
from hotgrad.errors import CaptureError
from hotgrad.program.instructions import Value
from hotgrad.program.torch_calls import where


class Traced(Variable):
    """A Variable while a program is captured: it has a shape, a dtype and a place in the program, but no values to read.

    `plain`: whether eager execution has a plain tensor in its place.
    """

    __slots__ = ("value", "plain")

    value: Value
    plain: bool

    def _text(self, spec: str = "") -> str:
        """For messages, so that an error that names it comes out. A function that formats it and ends well is refused then."""
        try:
            told = f"{str(self._data.dtype).removeprefix('torch.')}{tuple(self._data.shape)}"
        except CaptureError:
            return "<a Variable of a capture that is over>"
        if state.trace is not None:
            state.trace.remember(f"a value was printed or formatted while capturing{where()}; print what the program returns")
        return f"<a Variable {told}, whose values differ at each run>"

    __str__ = __repr__ = __format__ = _text

    def _unreadable(self, *args: Any, **kwargs: Any) -> NoReturn:
        message = f"a value was read while capturing{where()}: it differs at each run of the program. Branch with hg.where, "
        message += "print what the program returns, or leave this out of what is captured"
        if state.trace is None:
            raise CaptureError(message)
        state.trace.refuse(message)

    def _as_index(self) -> NoReturn:
        message = (
            f"indexing by a Variable, as in a[x]{where()}, is not possible while capturing: how many elements a mask chooses differs at "
        )
        message += "each run. Choose by hg.where(x, a, 0), which keeps the shape"
        raise CaptureError(message) if state.trace is None else state.trace.remember(message)

    data = property(_unreadable, _unreadable)
    item = tolist = numpy = __array__ = __float__ = __int__ = __bool__ = __index__ = _unreadable
    __copy__ = __deepcopy__ = __reduce__ = _unreadable

    # asked of the Value, which costs less than asking a tensor while torch functions are looked at
    @property
    def shape(self) -> torch.Size:
        if state.trace is None:
            self._data  # noqa: B018 - which says that the capture is over
        return torch.Size(self.value.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def device(self) -> torch.device:
        return self.value.device

    @property
    def ndim(self) -> int:
        return len(self.value.shape)

    def dim(self) -> int:
        return len(self.value.shape)

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        return self.value.numel()

    def detach(self) -> Variable:
        out: Traced = (state.trace or self._unreadable()).new(self._data, self.value)
        out._accumulator = MADE
        return out

    @property
    def _version(self) -> int:
        """1 once something was written to its memory, 0 before: what records guard against."""
        trace = state.trace
        return int(trace is not None and trace.overwritten(self))

    def __getattr__(self, name: str) -> Any:
        # its slots are emptied when the capture ends
        if name in ("_data", "_link", "_accumulator"):
            raise CaptureError("this Variable was made while capturing a program, which is over; return it from the captured function")
        raise _NoAttribute(f"a Variable has no attribute {name!r}; while capturing, what was a tensor may be a Variable{where()}")


def address(tensor: Tensor) -> int:
    """Where the memory that it is a view of begins."""
    return tensor.untyped_storage().data_ptr()


class _NoAttribute(CaptureError, AttributeError):
    """For `hasattr`, which must not see a CaptureError alone."""


class Earlier:
    """Stands for the gradient of a leaf from before the capture, which each run of the function would see another one of."""

    def __getattr__(self, name: str) -> NoReturn:
        if state.trace is None:
            raise _NoAttribute("this gradient stood for one while capturing a program, which is over")
        state.trace.refuse(f"a gradient from before the capture was used{where()}; call zero_grad() in the captured function first")

    def _refuse(self, *others: Any) -> NoReturn:
        self.__getattr__("value")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = __matmul__ = __getitem__ = _refuse
    __bool__ = __float__ = __len__ = __iter__ = _refuse


EARLIER: Any = Earlier()
