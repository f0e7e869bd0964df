"""hotgrad: a small autodiff engine on torch tensors, with a tape that is a program."""

from hotgrad import errors, ops
from hotgrad.errors import (
    AxisError,
    DeclarationError,
    DeviceError,
    DtypeError,
    HotgradError,
    NoLossError,
    OperandError,
    RuleError,
    ShapeError,
    TapeError,
)
from hotgrad.ops import *  # noqa: F403
from hotgrad.primitive import Booleans, Integers, Interval, Primitive, primitives, zero
from hotgrad.records import Record, Tape, enable_grad, no_grad, tape
from hotgrad.variable import Parameter, Variable, gradients

__version__ = "0.1.0"

__all__ = [
    "AxisError",
    "Booleans",
    "DeclarationError",
    "DeviceError",
    "DtypeError",
    "HotgradError",
    "Integers",
    "Interval",
    "NoLossError",
    "OperandError",
    "Parameter",
    "Primitive",
    "Record",
    "RuleError",
    "ShapeError",
    "Tape",
    "TapeError",
    "Variable",
    "enable_grad",
    "errors",
    "gradients",
    "no_grad",
    "ops",
    "primitives",
    "tape",
    "zero",
    *ops.__all__,
]
