"""Modules: what networks are built from. Layers, losses, and the base of one's own.

What a file here publishes stands in its `__all__`; it is then in `hg.nn`, converted to torch.nn's class of the same name, and
a loss is known to `fit` by the name of its function. A new file has its two lines here.

`parameters`: what is known of them before the first rows come; `module`: the base; `layers`, `norms`, `losses`.
"""

from typing import TYPE_CHECKING

from hotgrad.modules import layers, losses, norms
from hotgrad.modules.layers import *  # noqa: F403
from hotgrad.modules.losses import *  # noqa: F403
from hotgrad.modules.module import Module as Module
from hotgrad.modules.norms import *  # noqa: F403

if not TYPE_CHECKING:  # type checkers take what is published from the imports: they read only lists that are written out
    __all__ = ["Module", *layers.__all__, *losses.__all__, *norms.__all__]
