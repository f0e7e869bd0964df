"""The checker's power: planted mistakes must be found. If it goes blind, this fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hotgrad.testing import check_op, power
from hotgrad.testing.measure import engine_mutants
from hotgrad.testing.mutants import mutants


def test_there_are_enough_mistakes_of_enough_kinds() -> None:
    planted = list(mutants())
    kinds = {kind for kind, _ in planted} | {kind for kind, _, _ in engine_mutants()}
    assert len(kinds) >= 25
    assert len(planted) >= 120
    assert len({op.__mro__[1] for _, op in planted}) > 40, "mistakes must be spread over the ops"


def test_no_mistake_is_registered_or_left_in_the_engine() -> None:
    for _, op in mutants():
        assert op.name.count("_") >= 1
    for _, _, broken in engine_mutants():
        with broken():
            pass
    from hotgrad import ops

    assert check_op(ops.CLASSES["Mul"], max_examples=5).compared


def test_power(count: Callable[[int, int], int]) -> None:
    """97 % at 25 examples: a third of the mistakes; in the thorough run all, over five seeds, every class caught, no false alarm."""
    found = power(25, range(count(1, 5)), false_alarms=count(0, 1) == 1, thin=count(4, 1))
    assert len(found.planted) >= 25
    assert found.share >= 0.97, str(found)
    blind = [kind for kind, caught in found.caught.items() if not caught]
    assert len(blind) <= count(1, 0), str(found)  # of some classes a third is one mistake, and which one changes with the ops
    assert not found.false_alarms, str(found)


def test_power_with_more_examples(thorough: bool) -> None:
    if not thorough:
        pytest.skip("takes minutes; run with --thorough")
    found = power(100, range(5), false_alarms=False)
    assert found.share >= 0.99, str(found)


def test_failures_shrink(thorough: bool) -> None:
    if not thorough:
        pytest.skip("takes minutes; run with --thorough")
    found = power(25, shrink=True, false_alarms=False)
    assert found.small >= 0.9 * found.shrunk, str(found)
