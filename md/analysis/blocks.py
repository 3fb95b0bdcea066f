"""Errors of averages along a trajectory, from blocks of time that count as independent.

H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91, 461 (1989). A block must be longer than what it
averages takes to forget itself; then the means of B blocks scatter around the true one, and the
standard error of their mean is their standard deviation / √B.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from md.figures import ERROR
from md.observable import Table


def windows(frames: int, blocks: int) -> list[slice]:
    """All frames, then blocks of equal length (the last frames may be in none).

    One block would tell nothing: there are none where there would be less than two.
    """
    whole = slice(0, frames)
    number = min(blocks, frames)
    if number < 2:
        return [whole]
    size = frames // number
    return [whole, *(slice(b * size, (b + 1) * size) for b in range(number))]


def standard_error(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Of the mean over the first axis; not a number for less than two values."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def with_errors(whole: Table, parts: Sequence[Table], axes: Sequence[str]) -> Table:
    """A table of all frames, with a column of standard errors beside each.

    Args:
        whole: the table.
        parts: the same of each block; columns may be absent or shorter.
        axes: columns that have no error.
    """
    table: Table = {}
    for name, values in whole.items():
        table[name] = values
        if name not in axes:
            padded = np.full((len(parts), len(values)), np.nan)
            for row, part in zip(padded, parts, strict=True):
                own = part.get(name, np.empty(0))[: len(values)]
                row[: len(own)] = own
            table[name + ERROR] = standard_error(padded)
    return table
