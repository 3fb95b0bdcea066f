"""Batches in shards: the frames of each batch shared out to devices, in one layout for all shards.

Which frames make a batch does not depend on the number of devices; only where they are evaluated
does. All shards of a batch have the same static shapes. A shard offers groups of the widths of its
bucket's layout, with fewer rows. A *tight* layout fits most batches when their frames are shared
out evenly; the few that it does not fit take a *safe* one, which fits whatever comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from allegro_jax.data.layout import Bucket, Group, Layout, in_blocks

# A second layout, hence a second compilation, must save this share of the slots.
WORTH_COMPILING = 0.05


@dataclasses.dataclass(frozen=True, eq=False)
class Shards:
    """How the batches of a bucket are shared out.

    Attributes:
        bucket: where the batches come from.
        number: shards per batch.
        layouts: of a shard, the smallest first; the last one fits every batch.
    """

    bucket: Bucket
    number: int
    layouts: tuple[Layout, ...]

    def share(
        self, frames: Int[np.ndarray, " batch"]
    ) -> tuple[Layout, list[Int[np.ndarray, " _"]]]:
        """The layout of a batch's shards, and the frames of each; there may be none."""
        if self.number == 1:
            return self.layouts[0], [frames]
        demands = self.bucket.demands[np.searchsorted(self.bucket.frames, frames)]
        parts = share_out(self.bucket.layout.least_slots(demands), self.number)
        needed = _largest([demands[part] for part in parts])
        layout = next(
            (layout for layout in self.layouts if (needed <= layout.capacity).all()),
            self.layouts[-1],
        )
        return layout, [frames[part] for part in parts]

    def slots(self, batches: Sequence[Int[np.ndarray, " _"]]) -> int:
        """Slots that are evaluated for batches, in all shards."""
        if self.number == 1:
            return self.bucket.slots(batches)
        return sum(
            int(layout.evaluated_slots(self.bucket.demand(parts)).sum())
            for layout, parts in map(self.share, batches)
        )


def plan_shards(bucket: Bucket, number: int, *, block_slots: int, seed: int = 0) -> Shards:
    """Choose layouts for the shards of a bucket's batches.

    Args:
        bucket: frames, and the layout of a whole batch.
        number: shards per batch.
        block_slots: slots that are evaluated at once.
        seed: of the random batches that capacities are tried on.
    """
    whole = bucket.layout
    if number == 1:
        return Shards(bucket, 1, (whole,))
    frames = -(-whole.frames // number)
    largest = bucket.demands.max(axis=0)
    safe = _layout(whole, frames, np.minimum(frames * largest, whole.capacity), block_slots)

    random = np.random.default_rng(seed)
    members = random.permutation(len(bucket.frames))[:1000]
    batches = [
        bucket.demands[np.searchsorted(bucket.frames, batch)]
        for batch in bucket.pack(members, random)
    ]
    needed = np.stack(
        [
            _largest([batch[part] for part in share_out(whole.least_slots(batch), number)])
            for batch in batches
        ]
    )
    best, least = (safe,), (1 - WORTH_COMPILING) * safe.slots
    for quantile in (0.5, 0.7, 0.85, 0.95, 1.0):
        capacity = np.quantile(needed, quantile, axis=0, method="higher")
        tight = _layout(whole, frames, capacity, block_slots)
        fits = (needed <= tight.capacity).all(axis=1).mean()
        slots = fits * tight.slots + (1 - fits) * safe.slots
        if slots < least:
            best, least = (tight, safe), slots
    return Shards(bucket, number, best)


def share_out(sizes: Int[np.ndarray, " n"], shards: int) -> list[Int[np.ndarray, " _"]]:
    """Share n things out evenly: the largest first, each to the least loaded shard with room.

    No shard gets more than ⌈n / shards⌉.

    Returns:
        The places of the things of each shard, ascending.
    """
    most = -(-len(sizes) // shards)
    parts: list[list[int]] = [[] for _ in range(shards)]
    load = np.zeros(shards)
    for place in np.argsort(-sizes, kind="stable"):
        shard = int(load.argmin())
        parts[shard].append(int(place))
        load[shard] += sizes[place] if len(parts[shard]) < most else np.inf
    return [np.sort(np.asarray(part, np.int64)) for part in parts]


def _largest(parts: list[np.ndarray]) -> np.ndarray:
    """The largest demand of a shard on each group: [groups]."""
    return np.max([part.sum(axis=0) for part in parts], axis=0)


def _layout(whole: Layout, frames: int, capacity: np.ndarray, block_slots: int) -> Layout:
    """Groups of the widths of ``whole``, as many rows as make up a capacity."""
    groups: list[Group] = []
    offered = 0
    for group, wanted in zip(whole.groups, capacity, strict=True):
        # rows left over in the last block of a wide group serve the narrower ones
        rows = max(int(wanted) - offered, 1)
        groups.append(in_blocks(rows, group.width, block_slots))
        offered += groups[-1].total_rows
    return Layout(frames, tuple(groups))
