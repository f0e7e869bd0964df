"""The ops: a class per primitive (`hg.ops.Mul`), and per public op a function (`hg.mul`) that is also a method (`v.mul`).

`arithmetic` (of two operands, comparisons, where), `pointwise` (of one), `reductions`, `products`, `shaping`, `indexing`; `composites` are
written in these, and `axes` reads what `dim` says. A new op is a class in one of these files, and the stubs made anew.
"""

from hotgrad.core import declarations, operators  # noqa: F401  gives every op declared from here on its `apply`
from hotgrad.core.methods import FUNCTIONS, Methods
from hotgrad.core.primitive import primitives
from hotgrad.ops import composites, indexing, pointwise  # noqa: F401  importing declares the ops
from hotgrad.ops.arithmetic import Where

CLASSES = dict(primitives())
PUBLIC = {op.function: op.apply for op in CLASSES.values() if op.function}
PUBLIC |= {f.__name__: f for f in (getattr(composites, name) for name in composites.__all__)}

# torch's second names for the same functions, for `torch.clamp(v, 0, 1)`; hotgrad itself has one name for each
_ALIASES = {
    "absolute": "abs", "clamp": "clip", "concat": "cat", "concatenate": "cat", "divide": "div", "multiply": "mul", "negative": "neg",
    "subtract": "sub", "true_divide": "div", "swapaxes": "transpose", "constant_pad_nd": "pad",
}  # fmt: skip

FUNCTIONS.update(PUBLIC)
FUNCTIONS.update({alias: PUBLIC[name] for alias, name in _ALIASES.items()})
for _name, _function in PUBLIC.items():
    if _name not in ("cat", "stack", "einsum", "where"):
        setattr(Methods, _name, _function)
Methods.where = lambda self, condition, other: Where.apply(condition, self, other)  # type: ignore[attr-defined]
Methods.to = composites.to  # type: ignore[attr-defined]
Methods.T = property(composites.reversed_axes)  # type: ignore[attr-defined]
Methods.mT = property(composites.matrix_transpose)  # type: ignore[attr-defined]

globals().update(CLASSES)
globals().update(PUBLIC)
__all__ = list(PUBLIC)
