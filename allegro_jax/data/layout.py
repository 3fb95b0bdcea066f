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
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from allegro_jax.data.ragged import Counts, starts

# Slots are estimated from packings of so many frames, in all; few frames are packed so often at
# most, for one order of them may by chance do with fewer batches than others.
TRIED_FRAMES, TRIED_ORDERS = 1000, 8
# Compiling a group of rows takes seconds, whatever its size: as long as some 10⁵ slots of training
# on a processor core, which this many saved per epoch make up for in thirty epochs.
SLOTS_WORTH_A_GROUP = 3000
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

    def evaluated_slots(
        self, demands: Int[np.ndarray, "batches groups"]
    ) -> Int[np.ndarray, " batches"]:
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

    def slots(self, frames: Int[np.ndarray, " batch"]) -> int:
        """Slots that are evaluated for a batch: those of the blocks that hold an atom."""
        return int(self.evaluated_slots([frames])[0])

    def evaluated_slots(
        self, batches: Sequence[Int[np.ndarray, " _"]]
    ) -> Int[np.ndarray, " batches"]:
        """The same for each of some batches."""
        places = np.searchsorted(self.frames, np.concatenate(batches))
        first = starts(np.asarray([len(batch) for batch in batches]))
        return self.layout.evaluated_slots(np.add.reduceat(self.demands[places], first, axis=0))

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

    def slots(self, frames: Int[np.ndarray, " batch"]) -> int:
        """Slots that are evaluated for a batch."""


def padding_waste(
    buckets: Sequence[Packing],
    counts: Counts,
    batches: Sequence[tuple[int, Int[np.ndarray, " _"]]],
) -> float:
    """The share of evaluated slots that hold no neighbour, over given batches."""
    slots = sum(buckets[place].slots(frames) for place, frames in batches)
    if not slots:
        return 0.0
    pairs = counts.totals()[np.concatenate([frames for _, frames in batches])].sum()
    return 1 - float(pairs) / slots


# -- choosing --------------------------------------------------------------------------------------


def _split(sizes: np.ndarray, number: int) -> list[tuple[int, int]]:
    """Cut sorted sizes in ``number`` ranges, minimising the sum of (largest size x members)."""
    edges = np.unique(np.linspace(0, len(sizes), min(len(sizes), 256) + 1).astype(int))
    cost = sizes[edges[1:] - 1].astype(float)  # the largest size if a range ends at edges[1:]
    starts, stops = edges[:-1], edges[1:]
    # best[j]: cheapest partition of the first j cells
    best = np.where(np.arange(len(edges)) == 0, 0.0, np.inf)
    back = []
    for _ in range(number):
        trial = best[:-1, None] + (stops[None, :] - starts[:, None]) * cost[None, :]
        trial[np.arange(len(starts))[:, None] > np.arange(len(stops))[None, :]] = np.inf
        back.append(trial.argmin(axis=0))
        best = np.concatenate([[np.inf], trial.min(axis=0)])
    ranges, stop = [], len(edges) - 1
    for choice in reversed(back):
        start = int(choice[stop - 1])
        ranges.append((int(edges[start]), int(edges[stop])))
        stop = start
    return ranges[::-1]


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
            bucket = Bucket(layout, tried, layout.demands(some))
            slots = _mean_slots(bucket, np.random.default_rng(seed + 2))
            slots *= len(members) / len(tried)
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


def _mean_slots(bucket: Bucket, random: np.random.Generator) -> float:
    """Slots that are evaluated for the frames of a bucket, over some orders of them."""
    number = len(bucket.frames)
    orders = int(np.clip(TRIED_FRAMES // number, 1, TRIED_ORDERS))
    packed = [bucket.pack(random.permutation(number), random) for _ in range(orders)]
    return sum(float(bucket.evaluated_slots(batches).sum()) for batches in packed) / orders


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
    edges = np.unique(np.linspace(0, len(envelope), min(len(envelope), 512) + 1).astype(int))
    # no atom at all, or none with a neighbour: one slot keeps every shape valid
    widths = np.maximum(envelope[edges[:-1]], 1).astype(int) if len(envelope) else np.ones(1, int)
    if not len(envelope):
        return (Group(1, 1, 1),)
    starts, stops = edges[:-1], edges[1:]
    best = np.where(np.arange(len(edges)) == 0, 0.0, np.inf)
    back = []
    for _ in range(min(groups, len(starts))):
        trial = best[:-1, None] + (stops[None, :] - starts[:, None]) * widths[:, None]
        trial[np.arange(len(starts))[:, None] > np.arange(len(stops))[None, :]] = np.inf
        back.append(trial.argmin(axis=0))
        best = np.concatenate([[np.inf], trial.min(axis=0)])
    chosen, stop = [], len(edges) - 1
    for choice in reversed(back):
        start = int(choice[stop - 1])
        rows, width = int(edges[stop] - edges[start]), int(widths[start])
        chosen.append(in_blocks(rows, width, block_slots))
        stop = start
    return tuple(chosen[::-1])


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
