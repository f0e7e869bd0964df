"""Training: `Sequential` with `fit` and its relatives, the History, callbacks, checkpoints.

In reading order:

- `model`: a module with a loss and an optimizer; `history`; `job`: what `fit` is asked to do, checked; `inputs`: data as tensors;
- `runner`: the contract of what runs epochs, and the step; `eager` and `captured`: the two that there are; `engine_choice`;
  `agreement`: an engine's step compared with an exact one's before it trains;
- `loop`: epochs, callbacks, and how a training ends; `callbacks`; `evaluation`;
- `state`: what a model and its optimizer hold, and copies; `checkpoint` and `fingerprint`: files, and to which run they belong;
- `side_by_side`: trainings on threads, what each of them claims, folds; `sequential`, with `fit_many`.
"""

from hotgrad.training.callbacks import EarlyStopping
from hotgrad.training.history import History
from hotgrad.training.sequential import Sequential, fit_many

__all__ = ["EarlyStopping", "History", "Sequential", "fit_many"]
