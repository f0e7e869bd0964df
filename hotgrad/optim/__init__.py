"""Optimizers and learning-rate schedules."""

from hotgrad.optim.lbfgs import LBFGS
from hotgrad.optim.optimizer import Optimizer
from hotgrad.optim.rules import SGD, Adam, AdamW, RMSprop
from hotgrad.optim.schedules import CosineLR, PlateauLR, Schedule, StepLR, WarmupLR

__all__ = ["LBFGS", "SGD", "Adam", "AdamW", "CosineLR", "Optimizer", "PlateauLR", "RMSprop", "Schedule", "StepLR", "WarmupLR"]
