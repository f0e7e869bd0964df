"""Every error hotgrad raises on purpose.

HotgradError
├── ShapeError        (ValueError)    shapes that do not fit together
├── AxisError         (IndexError)    an axis out of range, given twice, or an index outside
├── DtypeError        (TypeError)     a dtype that cannot do what is asked
├── DeviceError       (ValueError)    tensors on different devices
├── OperandError      (TypeError)     an operand or option of a kind that ops do not take
├── DeclarationError  (TypeError)     a Primitive that is declared wrongly
├── RuleError         (RuntimeError)  a gradient rule that breaks its promise
├── TapeError         (RuntimeError)  a graph that cannot be walked
└── NoLossError       (ValueError)    training without a loss

Each one is also the built-in exception that fits, so `except ValueError` works as people expect.
"""


class HotgradError(Exception):
    """Base of all errors that hotgrad raises on purpose."""


class ShapeError(HotgradError, ValueError):
    """Shapes do not fit together."""


class AxisError(HotgradError, IndexError):
    """An axis is out of range or given twice, or an index lies outside its axis."""


class DtypeError(HotgradError, TypeError):
    """A dtype cannot do what is asked of it."""


class DeviceError(HotgradError, ValueError):
    """Tensors that must share a device do not."""


class OperandError(HotgradError, TypeError):
    """An operand or an option is of a kind that ops do not take."""


class DeclarationError(HotgradError, TypeError):
    """A Primitive is declared wrongly."""


class RuleError(HotgradError, RuntimeError):
    """A gradient rule returned what cannot be a gradient, or used what it did not declare."""


class TapeError(HotgradError, RuntimeError):
    """A graph cannot be walked: it is freed, was written to, or needs no gradient."""


class NoLossError(HotgradError, ValueError):
    """Training was asked for without a loss."""
