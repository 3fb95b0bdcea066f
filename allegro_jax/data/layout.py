"""Static shapes for batches: rows sorted by neighbour count, in groups of equal width.

Compiled code needs fixed shapes, but atoms differ in their number of neighbours. Padding every atom
of a batch to the largest number wastes a third of all slots in a molecule. Here the atoms (rows) of
a batch are sorted by neighbour count, descending, and cut into a few groups of ``rows`` rows and
``width`` slots each. A batch *fits* a layout if, for every group g, the atoms that need more slots
than the groups after g offer number no more than the rows of the groups up to g. That test compares
small vectors (:meth:`Layout.demands`), so shuffled frames are packed by swapping a few of them
between batches until all fit, capacities stay close to the mean, and no shape ever has to grow.

Rows are evaluated in blocks, and a block without an atom is skipped. So where frames are unlike
each other, one layout with room for the largest serves the small ones too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from allegro_jax.data.ragged import Counts

# From so many batches over capacity on, swaps are made in many batches at once.
MANY_BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Group:
    """``blocks`` blocks of ``rows`` rows with ``width`` slots each."""

    blocks: int
    rows: int
    width: int

    @property
    def total_rows(self) -> int:
        return self.blocks * self.rows


@dataclasses.dataclass(frozen=True)
class Layout:
    """The static shapes of a batch of at most ``frames`` frames."""

    frames: int
    groups: tuple[Group, ...]

    @property
    def rows(self) -> int:
        return sum(group.total_rows for group in self.groups)

    @property
    def slots(self) -> int:
        return sum(group.total_rows * group.width for group in self.groups)

    @property
    def capacity(self) -> Int[np.ndarray, " groups"]:
        """Rows of group g and of all wider ones."""
        return np.cumsum([group.total_rows for group in self.groups])

    def demands(self, counts: Counts) -> Int[np.ndarray, "frames groups"]:
        """For each frame, how many atoms need group g or a wider one.

        A batch fits if its sum is within ``capacity``. An atom too wide for every group makes the
        demand of its frame infinite in effect.
        """
        widths = [*(group.width for group in self.groups[1:]), -1]
        demands = np.stack([counts.above(width) for width in widths], axis=1)
        demands[counts.above(self.groups[0].width) > 0] = np.iinfo(np.int64).max // 2
        return demands

    def least_slots(self, demands: Int[np.ndarray, "n groups"]) -> Int[np.ndarray, " n"]:
        """Slots of the rows that frames or batches of given demands fill, were all blocks full."""
        return np.diff(demands, axis=1, prepend=0) @ [group.width for group in self.groups]

    def evaluated_slots(self, demands: Int[np.ndarray, "n groups"]) -> Int[np.ndarray, " n"]:
        """Slots of the blocks that hold an atom, for batches of given demands that fit.

        An atom sits in the narrowest group that is wide enough, or a wider one if that is full.
        """
        own = np.diff(demands, axis=1, prepend=0)  # atoms that group g is the narrowest for
        slots, waiting = np.zeros(len(demands), np.int64), np.zeros(len(demands), np.int64)
        for group, atoms in zip(self.groups[::-1], own.T[::-1], strict=True):
            taken = np.minimum(waiting + atoms, group.total_rows)
            waiting += atoms - taken
            slots += -(-taken // group.rows) * group.rows * group.width
        return slots


@dataclasses.dataclass(frozen=True, eq=False)
class Bucket:
    """Frames of similar size, and the layout that their batches share (one compilation)."""

    layout: Layout
    frames: Int[np.ndarray, " members"]
    demands: Int[np.ndarray, "members groups"]

    def demand(self, batches: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, "batches groups"]:
        """The demands of batches, or of parts of them: sums over their frames."""
        members = np.searchsorted(self.frames, np.concatenate(batches))
        sums = np.cumsum(np.pad(self.demands[members], ((1, 0), (0, 0))), axis=0)
        return np.diff(sums[np.cumsum([0, *map(len, batches)])], axis=0)

    def slots(self, batches: Sequence[Int[np.ndarray, " _"]]) -> int:
        """Slots that are evaluated for batches, in all: those of the blocks that hold an atom."""
        return int(self.layout.evaluated_slots(self.demand(batches)).sum())

    def pack(
        self, order: Int[np.ndarray, " _"], random: np.random.Generator
    ) -> list[Int[np.ndarray, " _"]]:
        """Batches (frame numbers) from members taken in ``order``; each is in exactly one."""
        most = self.layout.frames
        table = np.full((-(-len(order) // most), most), -1)  # members by batch; −1: nobody
        table.ravel()[: len(order)] = order
        demands = np.concatenate([self.demands, np.zeros_like(self.demands[:1])])
        left_over = _balance(table, demands, self.layout.capacity, random)
        batches = [row[row >= 0] for row in table] + self._first_fit(left_over)
        return [self.frames[batch] for batch in batches if len(batch)]

    def _first_fit(self, members: list[int]) -> list[np.ndarray]:
        capacity, most = self.layout.capacity, self.layout.frames
        batches: list[tuple[np.ndarray, list[int]]] = []
        for member in members:
            for used, batch in batches:
                if len(batch) < most and (used + self.demands[member] <= capacity).all():
                    used += self.demands[member]
                    batch.append(member)
                    break
            else:
                batches.append((self.demands[member].copy(), [member]))
        return [np.asarray(batch) for _, batch in batches]


def shuffled_batches(
    buckets: Sequence[Bucket], seed: int, epoch: int, *, shuffle: bool = True
) -> list[tuple[int, Int[np.ndarray, " _"]]]:
    """(bucket, frame numbers) of every batch of an epoch: a function of seed and epoch alone."""
    random = np.random.default_rng([seed, epoch])
    batches: list[tuple[int, np.ndarray]] = []
    for place, bucket in enumerate(buckets):
        members = np.arange(len(bucket.frames))
        order = random.permutation(members) if shuffle else members
        batches += [(place, batch) for batch in bucket.pack(order, random)]
    if shuffle:
        batches = [batches[place] for place in random.permutation(len(batches))]
    return batches


@runtime_checkable
class Packing(Protocol):
    """A bucket, or its shards."""

    def slots(self, batches: Sequence[Int[np.ndarray, " _"]]) -> int:
        """Slots that are evaluated for batches, in all."""


def padding_waste(
    buckets: Sequence[Packing],
    counts: Counts,
    batches: Sequence[tuple[int, Int[np.ndarray, " _"]]],
) -> float:
    """The share of evaluated slots that hold no neighbour, over given batches."""
    if not batches:
        return 0.0
    by_bucket: dict[int, list[np.ndarray]] = {}
    for place, frames in batches:
        by_bucket.setdefault(place, []).append(frames)
    slots = sum(buckets[place].slots(chosen) for place, chosen in by_bucket.items())
    pairs = counts.totals()[np.concatenate([frames for _, frames in batches])].sum()
    return 1 - float(pairs) / slots


def in_blocks(rows: int, width: int, block_slots: int) -> Group:
    """Cut rows in equal blocks of about ``block_slots`` slots, with the fewest rows left over."""
    ideal = rows * width / block_slots
    choices = range(max(1, int(0.7 * ideal)), max(1, int(1.4 * ideal)) + 1)
    blocks = min(choices, key=lambda blocks: (-(-rows // blocks) * blocks, abs(blocks - ideal)))
    return Group(blocks, -(-rows // blocks), width)


def _balance(
    table: np.ndarray, demands: np.ndarray, capacity: np.ndarray, random: np.random.Generator
) -> list[int]:
    """Swap members between batches until all fit; members that cannot be placed are taken out.

    Args:
        table: [batches, frames] members, −1 for nobody; changed in place.
        demands: [members + 1, groups]; the last row (of nobody) is zero.
        capacity: [groups].
        random: for the candidates of swaps.

    Returns:
        The members taken out.
    """
    _swap_everywhere(table, demands, capacity, random)
    used = demands[table].sum(axis=1)

    def excess(used: np.ndarray) -> Any:
        return _excess(used, capacity)

    batches, most = table.shape
    taken_out: list[int] = []
    for batch in np.flatnonzero(excess(used) > 0):
        failures = 0
        for _ in range(4 * most):
            before = excess(used[batch])
            if before == 0 or failures == 2:
                break
            other = random.integers(batches, size=256)
            place = random.integers(most, size=256)
            # change[m, c]: what `batch` gains by swapping its member m for the candidate c
            change = demands[table[other, place]][None] - demands[table[batch]][:, None]
            after = excess(used[batch] + change) + excess(used[other][None] - change)
            gain = before + excess(used[other])[None] - after
            gain[:, other == batch] = 0
            mine, candidate = np.unravel_index(gain.argmax(), gain.shape)
            if gain[mine, candidate] <= 0:
                failures += 1
                continue
            theirs = other[candidate], place[candidate]
            used[batch] += change[mine, candidate]
            used[theirs[0]] -= change[mine, candidate]
            table[batch, mine], table[theirs] = table[theirs], table[batch, mine]
    for batch in np.flatnonzero(excess(used) > 0):
        for place in np.argsort(-demands[table[batch]].sum(axis=1)):
            if excess(used[batch]) == 0:
                break
            taken_out.append(int(table[batch, place]))
            used[batch] -= demands[table[batch, place]]
            table[batch, place] = -1
    return [member for member in taken_out if member >= 0]


def _swap_everywhere(
    table: np.ndarray, demands: np.ndarray, capacity: np.ndarray, random: np.random.Generator
) -> None:
    """Swap members in all batches over capacity at once, each with a batch that has room.

    For large sets, where a loop over batches would take minutes; it ends when few are left.
    """
    most = table.shape[1]
    used = demands[table].sum(axis=1)
    pairs = max(1, (1 << 22) // (most * most * len(capacity)))  # of batches, at once
    for _ in range(64):
        over = _excess(used, capacity)
        order = random.permutation(len(table))
        full, roomy = order[over[order] > 0], order[over[order] == 0]
        number = min(len(full), len(roomy))
        if len(full) < MANY_BATCHES or not number:
            return
        for start in range(0, number, pairs):
            stop = min(start + pairs, number)
            one, other = full[start:stop], roomy[start:stop]
            # change[p, m, n]: what `one` gains by swapping its member m for n of `other`
            change = demands[table[other]][:, None] - demands[table[one]][:, :, None]
            after = _excess(used[one][:, None, None] + change, capacity)
            after += _excess(used[other][:, None, None] - change, capacity)
            choice = after.reshape(len(one), -1).argmin(axis=1)
            mine, theirs = np.unravel_index(choice, (most, most))
            pair = np.arange(len(one))
            good = after[pair, mine, theirs] < over[one]
            one, other, mine, theirs = one[good], other[good], mine[good], theirs[good]
            moved = change[pair[good], mine, theirs]
            used[one] += moved
            used[other] -= moved
            table[one, mine], table[other, theirs] = table[other, theirs], table[one, mine]


def _excess(used: np.ndarray, capacity: np.ndarray) -> Any:
    """By how much batches are over capacity; over the last axis."""
    return (np.maximum(used - capacity, 0) / capacity).sum(axis=-1)
