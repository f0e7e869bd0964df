"""Modules: what networks are built from. Layers, losses, and the base of one's own."""

from hotgrad.modules.layers import GELU, Dropout, Flatten, Linear, ReLU, Residual, Sigmoid, Softmax, Tanh
from hotgrad.modules.losses import L1, MSE, BCEWithLogits, CrossEntropy, Huber, Loss
from hotgrad.modules.module import Module
from hotgrad.modules.norms import BatchNorm1d, Conv2d, LayerNorm
from hotgrad.modules.parameters import INITIALIZERS, LazyParameter, fill, size_lazy

__all__ = [
    "GELU",
    "INITIALIZERS",
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
    "LazyParameter",
    "Linear",
    "Loss",
    "Module",
    "ReLU",
    "Residual",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "fill",
    "size_lazy",
]
