"""The ops: a class per primitive (`hg.ops.Mul`), and per public op a function (`hg.mul`) that is also a method (`v.mul`).

Primitives: `arithmetic` (of two operands, comparisons, where), `pointwise` and `elementary` (of one), `rounding`, `reductions`, `products`,
`shaping`, `indexing`; and what is composed of them: `composites`, `rearranging`, `selection`, `ordering` (with the searches for positions),
`statistics`, `activations`, `formulas`, `matrices`. `axes` reads what `dim` says. A new op is a class or a function in one of these files,
and the stubs made anew.
"""

from torch import Tensor

from hotgrad.core import declarations, operators  # noqa: F401  gives every op declared from here on its `apply`
from hotgrad.core.methods import ALIASES, FUNCTIONS, Methods, published
from hotgrad.core.primitive import primitives
from hotgrad.ops import (
    activations,
    composites,
    convolutions,  # noqa: F401
    decompositions,  # noqa: F401
    elementary,  # noqa: F401  importing declares the ops
    formulas,
    indexing,  # noqa: F401
    matrices,
    ordering,
    pointwise,  # noqa: F401
    rearranging,
    selection,
    statistics,
)
from hotgrad.ops.arithmetic import Where

CLASSES = dict(primitives())
_PRIMITIVE = {op.function: op.apply for op in CLASSES.values() if op.function}
PUBLIC = dict(_PRIMITIVE)
_COMPOSED = (composites, rearranging, selection, ordering, statistics, activations, formulas, matrices)
PUBLIC |= {name: published(getattr(module, name)) for module in _COMPOSED for name in module.__all__}
PUBLIC |= {"clamp": PUBLIC["clip"], "swapaxes": PUBLIC["transpose"]}  # which people write as often

FUNCTIONS.update(PUBLIC)
FUNCTIONS.update({alias: PUBLIC[name] for alias, name in ALIASES.items()})
FUNCTIONS["constant_pad_nd"] = lambda a, pad, value=0.0: PUBLIC["pad"](a, pad, value=value)
for _name, _function in PUBLIC.items():
    if (hasattr(Tensor, _name) or _name in _PRIMITIVE) and _name not in ("where", "cat", "stack", "einsum"):
        setattr(Methods, _name, _function)
for _alias, _name in ALIASES.items():
    if hasattr(Tensor, _alias):
        setattr(Methods, _alias, PUBLIC[_name])
Methods.where = lambda self, condition, other: Where.apply(condition, self, other)  # type: ignore[attr-defined]
Methods.to = composites.to  # type: ignore[attr-defined]
for _name, _dtype in composites.DTYPES.items():
    FUNCTIONS[_name] = composites.conversion(_name, _dtype)
    setattr(Methods, _name, FUNCTIONS[_name])
Methods.__getitem__ = selection.getitem  # type: ignore[attr-defined]
Methods.__pos__ = formulas.positive  # type: ignore[attr-defined]
Methods.T = property(composites.reversed_axes)  # type: ignore[attr-defined]
Methods.mT = property(composites.matrix_transpose)  # type: ignore[attr-defined]

globals().update(CLASSES)
globals().update(PUBLIC)
__all__ = list(PUBLIC)
