"""Everything that networks are built from, under one name: `hg.nn`."""

from typing import TYPE_CHECKING

from hotgrad import modules
from hotgrad.core.variable import Parameter as Parameter
from hotgrad.modules import *  # noqa: F403
from hotgrad.training import Sequential as Sequential

if not TYPE_CHECKING:  # type checkers take what is published from the imports: they read only lists that are written out
    __all__ = ["Parameter", "Sequential", *modules.__all__]
