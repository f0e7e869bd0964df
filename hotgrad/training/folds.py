"""Splitting rows for cross-validation."""

from __future__ import annotations

import torch
from torch import Tensor

from hotgrad.errors import SettingError


def stratified(rows: int, n_splits: int, labels: Tensor | None, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    """`n_splits` pairs of (training rows, test rows); every row is tested once. Test sets differ by at most one row in size.

    With `labels` (rows,) each test set has each label in the same share, as nearly as whole rows allow. Raises SettingError
    for more splits than rows.

    >>> pairs = stratified(4, 2, torch.tensor([0, 0, 1, 1]), torch.Generator().manual_seed(0))
    >>> [sorted(torch.tensor([0, 0, 1, 1])[test].tolist()) for train, test in pairs]
    [[0, 1], [0, 1]]
    """
    if n_splits > rows:
        raise SettingError(f"n_splits is {n_splits}, but there are only {rows} rows")
    order = torch.randperm(rows, generator=generator)
    if labels is not None:
        order = order[labels.cpu()[order].argsort(stable=True)]
    # rows of one label follow each other, so dealing them out like cards gives every fold its share
    hands = torch.arange(rows) % n_splits
    return [(order[hands != k].sort().values, order[hands == k].sort().values) for k in range(n_splits)]
