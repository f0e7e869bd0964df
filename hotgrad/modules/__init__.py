"""Modules: what networks are built from. Layers, losses, and the base of one's own.

What a file here publishes stands in its `__all__`; it is then in `hg.nn`, converted to torch.nn's class of the same name, and
a loss is known to `fit` by the name of its function. A new file has its two lines here.

`parameters`: what is known of them before the first rows come; `module`: the base; `layers`, `activations`, `norms`, `convolution`,
`sequences`, `losses`; `init` writes first values.
"""

from typing import TYPE_CHECKING

from hotgrad.modules import activations, convolution, init, layers, losses, norms, sequences
from hotgrad.modules.activations import *  # noqa: F403
from hotgrad.modules.convolution import *  # noqa: F403
from hotgrad.modules.layers import *  # noqa: F403
from hotgrad.modules.losses import *  # noqa: F403
from hotgrad.modules.module import Module as Module
from hotgrad.modules.norms import *  # noqa: F403
from hotgrad.modules.sequences import *  # noqa: F403

if not TYPE_CHECKING:  # type checkers take what is published from the imports: they read only lists that are written out
    __all__ = ["Module", "init", *(name for file in (activations, convolution, layers, losses, norms, sequences) for name in file.__all__)]
