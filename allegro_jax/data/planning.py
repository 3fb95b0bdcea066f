"""Which layouts a data set gets: few compilations, few empty slots (``layout.py``).

Candidates are tried on a sample of the frames, packed as a trainer packs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from allegro_jax.data.layout import Bucket, Group, Layout, in_blocks
from allegro_jax.data.ragged import Counts

# Slots are estimated from packings of so many frames, in all; few frames are packed so often at
# most, for one order of them may by chance do with fewer batches than others.
TRIED_FRAMES, TRIED_ORDERS = 1000, 8
# Of so many times the slots of the best layout so far, a layout is not tried on further orders.
HOPELESS = 1.03
# Compiling a group of rows takes seconds, whatever its size: as long as some 10⁵ slots of training
# on a processor core, which this many saved per epoch make up for in thirty epochs.
SLOTS_WORTH_A_GROUP = 3000


def plan_buckets(
    counts: Counts,
    batch_size: int,
    *,
    groups: int = 4,
    block_slots: int = 512,
    max_buckets: int = 4,
    good_enough: float = 0.06,
    worth: int = SLOTS_WORTH_A_GROUP,
    seed: int = 0,
) -> list[Bucket]:
    """Choose layouts for a data set: few compilations, little padding.

    Frames are split by their number of pairs into one bucket or more, as many (up to
    ``max_buckets``) as still save more than 5% of the slots each; and rows in as few groups (up to
    ``groups``) as leave at most ``good_enough`` of the slots empty. Every group of every bucket is
    compiled, and has to be worth it.

    Args:
        counts: the neighbours of the atoms of each frame.
        batch_size: frames per batch.
        groups: most groups of rows per layout.
        block_slots: slots (rows times width) that are evaluated at once.
        max_buckets: most layouts, hence most compilations.
        good_enough: share of empty slots that is not worth another group.
        worth: slots that another group must save in one pass over the frames.
        seed: of the random batches that capacities are tried on.
    """
    if not len(counts):
        return []
    counts = counts.descending()
    pairs = counts.totals() + counts.sizes
    ranked = np.argsort(pairs, kind="stable")
    best: list[_Plan] | None = None
    for number in range(1, max_buckets + 1):
        if number > 1 and len(ranked) < 4 * number * batch_size:
            break
        if best and counts.values.sum() > 0.95 * _slots(best):
            break  # nothing can save 5% any more
        plans = [
            _plan(
                np.sort(ranked[start:stop]),
                counts,
                batch_size,
                groups=groups,
                block_slots=block_slots,
                good_enough=good_enough,
                worth=worth,
                seed=seed,
            )
            for start, stop in _split(pairs[ranked], number)
        ]
        if best is None or _slots(best) - _slots(plans) >= max(
            0.05 * _slots(best), worth * (_groups(plans) - _groups(best))
        ):
            best = plans
    assert best is not None
    return [
        Bucket(plan.layout, plan.frames, plan.layout.demands(counts.take(plan.frames)))
        for plan in best
    ]


def _split(sizes: np.ndarray, number: int) -> list[tuple[int, int]]:
    """Cut sorted sizes in ``number`` ranges, minimising the sum of (largest size x members)."""
    edges = np.unique(np.linspace(0, len(sizes), min(len(sizes), 256) + 1).astype(int))
    cost = sizes[edges[1:] - 1].astype(float)  # the largest size if a range ends at edges[1:]
    parts = _cheapest_parts(np.diff(edges), cost[None, :], number)
    return [(int(edges[start]), int(edges[stop])) for start, stop in parts]


def _cheapest_parts(lengths: np.ndarray, cost: np.ndarray, number: int) -> list[tuple[int, int]]:
    """Cut cells in ``number`` ranges, minimising the sum of (length x cost).

    Args:
        lengths: of the cells: [cells].
        cost: per length, of a range from one cell to another: broadcasts to [first, last].
        number: of ranges; with more than there are cells, some are empty.

    Returns:
        (first cell, first cell of the next range) of each range, in order.
    """
    edges = np.cumsum([0, *lengths])
    price = (edges[None, 1:] - edges[:-1, None]) * cost.astype(float)
    price[np.tril_indices(len(lengths), -2)] = np.inf  # ends before it starts
    best = np.where(np.arange(len(edges)) == 0, 0.0, np.inf)  # of the first j cells
    back = []
    for _ in range(number):
        trial = best[:-1, None] + price
        back.append(trial.argmin(axis=0))
        best = np.concatenate([[np.inf], trial.min(axis=0)])
    parts, stop = [], len(lengths)
    for choice in reversed(back):
        start = int(choice[stop - 1])
        parts.append((start, stop))
        stop = start
    return parts[::-1]


class _Plan(NamedTuple):
    """A layout for some frames, and how many slots an epoch of them takes (an estimate)."""

    layout: Layout
    frames: np.ndarray
    slots: float


def _slots(plans: Sequence[_Plan]) -> float:
    return sum(plan.slots for plan in plans)


def _groups(plans: Sequence[_Plan]) -> int:
    return sum(len(plan.layout.groups) for plan in plans)


def _plan(
    members: np.ndarray,
    counts: Counts,
    batch_size: int,
    *,
    groups: int,
    block_slots: int,
    good_enough: float,
    worth: int,
    seed: int,
) -> _Plan:
    """The layout that packs the members with few slots per epoch, and few groups."""
    batch_size = min(batch_size, len(members))
    own = counts.take(members)
    alone = own.profile()
    sample = _sampled_profiles(own, batch_size, seed)
    pairs = own.values.sum()
    random = np.random.default_rng(seed + 1)
    tried = np.sort(random.permutation(len(members))[:TRIED_FRAMES])
    some = own.take(tried)
    best: _Plan | None = None
    for number in range(1, groups + 1):
        # so few slots would be worth these groups; then the fewest
        fewest = best.slots - worth * (number - len(best.layout.groups)) if best else np.inf
        for layout in _candidates(own, alone, sample, batch_size, number, block_slots):
            demands, share = layout.demands(some), len(members) / len(tried)
            if share * layout.least_slots(demands).sum() >= fewest:
                continue  # not even if all blocks were full
            bucket = Bucket(layout, tried, demands)
            slots = share * _mean_slots(
                bucket, np.random.default_rng(seed + 2), HOPELESS * fewest / share
            )
            if slots < fewest:
                fewest, best = slots, _Plan(layout, members, slots)
        assert best is not None
        if pairs >= (1 - good_enough) * best.slots:
            break
    assert best is not None
    return best


def _candidates(
    own: Counts,
    alone: np.ndarray,
    sample: np.ndarray,
    batch_size: int,
    groups: int,
    block_slots: int,
) -> Iterator[Layout]:
    """Layouts that hold each frame, and most batches.

    Args:
        own: the neighbours of all frames' atoms.
        alone: the most neighbours at each rank in a frame.
        sample: the neighbours at each rank in some batches; −1 beyond a batch.
        batch_size: most frames.
        groups: most groups of rows.
        block_slots: slots that are evaluated at once.
    """
    # frames alike: rows for most batches, each in the narrowest group by its rank
    for quantile in (0.5, 0.65, 0.75, 0.85, 1.0):
        envelope = np.quantile(sample, quantile, axis=0, method="higher")
        envelope[: len(alone)] = np.maximum(envelope[: len(alone)], alone)
        yield Layout(batch_size, _cut(envelope, groups, block_slots))
    # frames unlike each other: widths for all atoms, and rows of each for any batch; blocks that a
    # batch leaves empty cost nothing, and smaller blocks are left empty more often
    pooled = np.sort(sample[sample >= 0])[::-1]
    if not len(pooled):
        return
    widths = [group.width for group in _cut(pooled, groups, block_slots)]
    widths[0] = max(widths[0], int(alone.max(initial=1)))
    by_frame = np.diff([own.above(width) for width in [*widths[1:], -1]], axis=0, prepend=0)
    by_batch = np.diff([(sample > width).sum(1) for width in [*widths[1:], -1]], axis=0, prepend=0)
    rows = np.maximum(by_frame.max(axis=1), by_batch.max(axis=1))
    for slots in (block_slots, block_slots // 2):
        yield Layout(
            batch_size,
            tuple(
                in_blocks(int(number), width, max(slots, 1))
                for number, width in zip(rows, widths, strict=True)
                if number
            ),
        )


def _mean_slots(bucket: Bucket, random: np.random.Generator, most: float) -> float:
    """Slots that are evaluated for the frames of a bucket, over some orders of them.

    Fewer orders are tried where the mean is more than ``most``.
    """
    number = len(bucket.frames)
    orders = int(np.clip(TRIED_FRAMES // number, 1, TRIED_ORDERS))
    slots, tried = 0, 0
    while not tried or (tried < orders and slots <= most * tried):
        slots += bucket.slots(bucket.pack(random.permutation(number), random))
        tried += 1
    return slots / tried


def _sampled_profiles(own: Counts, batch_size: int, seed: int) -> np.ndarray:
    """Neighbour counts of random batches, descending: [samples, rows]; −1 beyond a batch."""
    random = np.random.default_rng(seed)
    batches: list[np.ndarray] = []
    while len(batches) < 200:
        order = random.permutation(len(own))[: 400 * batch_size]
        full = len(order) // batch_size * batch_size
        batches += list(order[:full].reshape(-1, batch_size))
    merged = [np.sort(own.take(batch).values)[::-1] for batch in batches]
    rows = max(*(len(batch) for batch in merged), int(own.sizes.max()), 1)
    return np.stack([np.pad(batch, (0, rows - len(batch)), constant_values=-1) for batch in merged])


def _cut(envelope: np.ndarray, groups: int, block_slots: int) -> tuple[Group, ...]:
    """Cut a descending envelope in groups with the fewest slots (dynamic programming)."""
    envelope = envelope[envelope >= 0]
    edges = np.unique(np.linspace(0, len(envelope), min(len(envelope), 256) + 1).astype(int))
    # no atom at all, or none with a neighbour: one slot keeps every shape valid
    widths = np.maximum(envelope[edges[:-1]], 1).astype(int) if len(envelope) else np.ones(1, int)
    if not len(envelope):
        return (Group(1, 1, 1),)
    parts = _cheapest_parts(np.diff(edges), widths[:, None], min(groups, len(widths)))
    return tuple(
        in_blocks(int(edges[stop] - edges[start]), int(widths[start]), block_slots)
        for start, stop in parts
    )
