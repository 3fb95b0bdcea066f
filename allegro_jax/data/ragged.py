"""Ragged tables: rows of different lengths, one after another in one flat array."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int


def starts(lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Where ranges of given lengths begin that follow one another."""
    return np.cumsum(lengths, dtype=np.int64) - lengths


def ranges(first: Int[np.ndarray, " n"], lengths: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """The integers of all ranges [first, first + length), one after another."""
    total = int(lengths.sum())
    return np.arange(total) + np.repeat(first - starts(lengths), lengths)


@dataclasses.dataclass(frozen=True, eq=False)
class Counts:
    """How many neighbours the atoms of many frames have.

    Attributes:
        values: of the atoms of all frames, one after another.
        sizes: atoms per frame.
    """

    values: Int[np.ndarray, " atoms"]
    sizes: Int[np.ndarray, " frames"]

    @classmethod
    def of(cls, rows: Sequence[Int[np.ndarray, " _"]]) -> Counts:
        """From one array per frame."""
        sizes = np.asarray([len(row) for row in rows], np.int64)
        return cls(np.concatenate([*rows, np.zeros(0, np.int64)]), sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, frames: Int[np.ndarray, " n"]) -> Counts:
        """Those of some frames."""
        sizes = self.sizes[frames]
        return Counts(self.values[ranges(starts(self.sizes)[frames], sizes)], sizes)

    def totals(self) -> Int[np.ndarray, " frames"]:
        """Pairs per frame."""
        return self._sums(self.values)

    def above(self, width: int) -> Int[np.ndarray, " frames"]:
        """Atoms per frame with more than ``width`` neighbours."""
        return self._sums(self.values > width)

    def descending(self) -> Counts:
        """With the atoms of each frame sorted by their number of neighbours."""
        values = np.empty_like(self.values)
        for places in self._matrices():
            values[places] = np.sort(self.values[places], axis=1)[:, ::-1]
        return Counts(values, self.sizes)

    def profile(self) -> Int[np.ndarray, " largest"]:
        """The largest count at each rank over the frames (of :meth:`descending`)."""
        largest = np.full(int(self.sizes.max(initial=0)), -1)
        for places in self._matrices():
            ranked = self.values[places].max(axis=0)
            largest[: len(ranked)] = np.maximum(largest[: len(ranked)], ranked)
        return largest

    def _matrices(self) -> Iterator[Int[np.ndarray, "some size"]]:
        """Places of the atoms of all frames of one size, a frame per row; for every size."""
        first = starts(self.sizes)
        for size in np.unique(self.sizes):
            yield first[self.sizes == size][:, None] + np.arange(size)

    def _sums(self, values: np.ndarray) -> np.ndarray:
        running = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        ends = np.cumsum(self.sizes)
        return running[ends] - running[ends - self.sizes]
