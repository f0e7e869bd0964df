"""Derivatives of functions, and functions made from functions: `grad` and its kin, `remat`, `custom_gradient`, `functional_call`, `vmap`."""

from hotgrad.transforms.custom import custom_gradient, functional_call
from hotgrad.transforms.derivatives import ggnvp, grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from hotgrad.transforms.mapping import vmap
from hotgrad.transforms.recomputed import remat

__all__ = [
    "custom_gradient", "functional_call", "ggnvp", "grad", "hessian", "hvp", "jacobian", "jvp", "remat", "value_and_grad", "vjp", "vmap",
]  # fmt: skip
