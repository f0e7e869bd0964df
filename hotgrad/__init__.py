"""hotgrad: a small autodiff engine on torch tensors.

Elementary ops record themselves on a tape; walking it backwards gives gradients, of any order. On it: a gradient checker
(`hotgrad.testing`), networks (`hg.nn`), optimizers (`hg.optim`) and `Sequential.fit`.

To read the code, begin with the heart in `hotgrad/core/`: `primitive`, `records`, `walk`, `variable`, `recording`; then `hotgrad/ops/`.
"""

from hotgrad import data, drawing, errors, functional, linalg, nn, ops, optim, torch_functions, transforms  # noqa: F401
from hotgrad.core.domains import Booleans, Integers, Interval
from hotgrad.core.modes import Tape, enable_grad, no_grad, tape
from hotgrad.core.primitive import Primitive, primitives, zero
from hotgrad.core.records import Record
from hotgrad.core.variable import Variable, gradients
from hotgrad.drawing import *  # noqa: F403
from hotgrad.engines import Program, capture
from hotgrad.errors import (
    AxisError,
    BusyError,
    CaptureError,
    DataError,
    DeclarationError,
    DeviceError,
    DtypeError,
    EngineError,
    EngineWarning,
    FileError,
    HotgradError,
    NestingError,
    NoLossError,
    NoMethodError,
    NonFiniteLossError,
    OperandError,
    RangeError,
    RuleError,
    SettingError,
    ShapeError,
    TapeError,
)
from hotgrad.minimise import curve_fit, least_squares, minimize
from hotgrad.nn import MSE, CrossEntropy, Linear, Module, Parameter, ReLU, Sequential, Tanh
from hotgrad.ops import *  # noqa: F403
from hotgrad.show import graph_repr, to_dot, to_mermaid
from hotgrad.training import EarlyStopping, History, fit_many
from hotgrad.transforms import *  # noqa: F403

__version__ = "0.1.0"

__all__ = [
    "MSE",
    "AxisError",
    "BusyError",
    "Booleans",
    "CaptureError",
    "CrossEntropy",
    "DataError",
    "DeclarationError",
    "DeviceError",
    "DtypeError",
    "EarlyStopping",
    "EngineError",
    "EngineWarning",
    "FileError",
    "History",
    "HotgradError",
    "Integers",
    "Interval",
    "Linear",
    "Module",
    "NestingError",
    "NoLossError",
    "NoMethodError",
    "NonFiniteLossError",
    "OperandError",
    "Parameter",
    "Primitive",
    "Program",
    "ReLU",
    "Record",
    "RangeError",
    "RuleError",
    "Sequential",
    "SettingError",
    "ShapeError",
    "Tanh",
    "Tape",
    "TapeError",
    "Variable",
    "capture",
    "curve_fit",
    "data",
    "enable_grad",
    "errors",
    "fit_many",
    "functional",
    "gradients",
    "graph_repr",
    "least_squares",
    "linalg",
    "minimize",
    "nn",
    "no_grad",
    "ops",
    "optim",
    "primitives",
    "tape",
    "to_dot",
    "to_mermaid",
    "zero",
    *drawing.__all__,
    *ops.__all__,
    *transforms.__all__,
]
