"""Training: `Sequential` with `fit` and its relatives, the History, callbacks, checkpoints."""

from hotgrad.training.callbacks import EarlyStopping
from hotgrad.training.history import History
from hotgrad.training.many import fit_many
from hotgrad.training.sequential import Sequential

__all__ = ["EarlyStopping", "History", "Sequential", "fit_many"]
