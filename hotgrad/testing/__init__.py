"""Property-based checks of gradient rules, ops and whole functions, and the measure of what they catch. Needs hypothesis.

from hotgrad.testing import check_op

@pytest.mark.parametrize("op", hg.primitives().values())
def test_gradients(op):
    check_op(op)
"""

try:
    import hypothesis  # noqa: F401
except ImportError:
    raise ImportError("hotgrad.testing draws its examples with hypothesis, which is not installed; pip install hypothesis") from None

from hotgrad.testing.check import check_all, check_op
from hotgrad.testing.functions import check_gradients, check_programs
from hotgrad.testing.measure import Power, power
from hotgrad.testing.programs import Composition, programs
from hotgrad.testing.report import GradientError, Problem, Report
from hotgrad.testing.strategies import broadcastable_shapes, operands, shapes, tensors, variables

__all__ = [
    "Composition",
    "GradientError",
    "Power",
    "Problem",
    "Report",
    "broadcastable_shapes",
    "check_all",
    "check_gradients",
    "check_op",
    "check_programs",
    "operands",
    "power",
    "programs",
    "shapes",
    "tensors",
    "variables",
]
