"""Every error hotgrad raises on purpose.

HotgradError
├── ShapeError        (ValueError)    shapes that do not fit together
├── AxisError         (IndexError)    an axis out of range or given twice
│   └── RangeError    (DataError)     an index or a label outside of its axis
├── DtypeError        (TypeError)     a dtype that cannot do what is asked
├── DeviceError       (ValueError)    tensors on different devices
├── OperandError      (TypeError)     an operand or option of a kind that ops do not take
├── NoMethodError     (AttributeError)  a method or attribute that Variables do not have
├── DeclarationError  (TypeError)     a Primitive that is declared wrongly
├── RuleError         (RuntimeError)  a gradient rule that breaks its promise
├── TapeError         (RuntimeError)  a graph that cannot be walked
├── CaptureError      (RuntimeError)  a function that cannot be captured, or whose capture no longer holds
├── EngineError       (RuntimeError)  a program that an engine cannot run
├── BusyError         (RuntimeError)  a model that another training has in hand
├── NestingError      (RecursionError)  modules nested deeper than Python can call
├── NoLossError       (ValueError)    training without a loss
├── SettingError      (ValueError)    a setting out of range, or a name that nothing has
├── DataError         (ValueError)    data that cannot be used: empty, not finite, masked, of other lengths
├── NonFiniteLossError (FloatingPointError)  a loss that became NaN or infinite while training
└── FileError         (ValueError)    a file that is broken, foreign, of another model, or cannot be written; an OSError, too

EngineWarning       (RuntimeWarning)  the engine that `engine="auto"` would have chosen cannot run a model

Each one is also the built-in exception that fits, so `except ValueError` works as people expect.
"""

from typing import Any


class HotgradError(Exception):
    """Base of all errors that hotgrad raises on purpose."""


class ShapeError(HotgradError, ValueError):
    """Shapes do not fit together."""


class AxisError(HotgradError, IndexError):
    """An axis is out of range or given twice, or an index lies outside of its axis."""


class DtypeError(HotgradError, TypeError):
    """A dtype cannot do what is asked of it."""


class DeviceError(HotgradError, ValueError):
    """Tensors that must share a device do not."""


class OperandError(HotgradError, TypeError):
    """An operand or an option is of a kind that ops do not take."""


class NoMethodError(HotgradError, AttributeError):
    """A method or attribute that Variables do not have."""


class DeclarationError(HotgradError, TypeError):
    """A Primitive is declared wrongly."""


class RuleError(HotgradError, RuntimeError):
    """A gradient rule returned what cannot be a gradient, or used what it did not declare."""


class TapeError(HotgradError, RuntimeError):
    """A graph cannot be walked: it is freed, was written to, or needs no gradient."""


class CaptureError(HotgradError, RuntimeError):
    """A function cannot be captured as a program, or what a program was captured from has changed."""


class EngineError(HotgradError, RuntimeError):
    """An engine cannot run a program: an op without a form for it, another device, no compiler."""


class BusyError(HotgradError, RuntimeError):
    """A model, or a part of it, is being trained, so that nobody else can use it now."""


class NestingError(HotgradError, RecursionError):
    """Modules are nested deeper than Python can call."""


class NoLossError(HotgradError, ValueError):
    """Training was asked for without a loss."""


class SettingError(HotgradError, ValueError):
    """A setting is out of range, or a name is not one of those known."""


class DataError(HotgradError, ValueError):
    """Data cannot be used: empty, not finite, masked or missing, or of lengths that differ."""


class RangeError(AxisError, DataError):
    """An index or a label lies outside of its axis, on whatever engine that was found."""


class NonFiniteLossError(HotgradError, FloatingPointError):
    """The loss became NaN or infinite while training; the model is back at the start of that epoch.

    `epoch` counts from 1, `batch` from 0; `history` holds the epochs before.
    """

    def __init__(self, message: str, epoch: int = 0, batch: int = 0, history: Any = None) -> None:
        super().__init__(message)
        self.epoch, self.batch, self.history = epoch, batch, history


class FileError(HotgradError, ValueError, OSError):
    """A file is truncated, not one of hotgrad's, belongs to another model or run, or cannot be written.

    In the last case `errno` is that of the OSError which is its cause.
    """


class EngineWarning(RuntimeWarning):
    """The engine that `engine="auto"` would have chosen cannot run a model; another one does."""
