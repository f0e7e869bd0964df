"""Optimizers and learning-rate schedules. What a file here publishes stands in its `__all__`; `fit` knows an optimizer by its name in small letters.

`lists`: arithmetic on lists of tensors, in which rules are written; `groups`: parameters with settings of their own; `optimizer`: the base;
`rules` (SGD, Adam, ...), `minimisers` with `lbfgs` and `levenberg`, `schedules`.
"""

from typing import TYPE_CHECKING

from hotgrad.optim import lbfgs, levenberg, rules, schedules
from hotgrad.optim.lbfgs import *  # noqa: F403
from hotgrad.optim.levenberg import *  # noqa: F403
from hotgrad.optim.optimizer import Optimizer as Optimizer
from hotgrad.optim.rules import *  # noqa: F403
from hotgrad.optim.schedules import *  # noqa: F403

if not TYPE_CHECKING:  # type checkers take what is published from the imports: they read only lists that are written out
    __all__ = ["Optimizer", *lbfgs.__all__, *levenberg.__all__, *rules.__all__, *schedules.__all__]
