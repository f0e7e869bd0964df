"""Everything that networks are built from, under one name: `hg.nn`."""

from hotgrad.core.variable import Parameter
from hotgrad.modules import (
    GELU,
    L1,
    MSE,
    BatchNorm1d,
    BCEWithLogits,
    Conv2d,
    CrossEntropy,
    Dropout,
    Flatten,
    Huber,
    LayerNorm,
    Linear,
    Loss,
    Module,
    ReLU,
    Residual,
    Sigmoid,
    Softmax,
    Tanh,
)
from hotgrad.training import Sequential

__all__ = [
    "GELU",
    "L1",
    "MSE",
    "BCEWithLogits",
    "BatchNorm1d",
    "Conv2d",
    "CrossEntropy",
    "Dropout",
    "Flatten",
    "Huber",
    "LayerNorm",
    "Linear",
    "Loss",
    "Module",
    "Parameter",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
