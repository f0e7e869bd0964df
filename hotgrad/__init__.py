"""hotgrad: a small autodiff engine on torch tensors, with a tape that is a program."""

from hotgrad import errors, ops
from hotgrad.errors import *  # noqa: F403
from hotgrad.ops import *  # noqa: F403
from hotgrad.primitive import Booleans, Integers, Interval, Primitive, primitives, zero
from hotgrad.recording import Parameter, Variable
from hotgrad.records import Record, Tape, enable_grad, no_grad, tape
from hotgrad.variable import gradients

__version__ = "0.1.0"
