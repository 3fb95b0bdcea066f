"""Batches are shared out evenly, and whatever comes fits its layout."""

from __future__ import annotations

import numpy as np
import pytest

from allegro_jax.data.layout import shuffled_batches
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.ragged import Counts
from allegro_jax.data.shards import plan_shards, share_out


@pytest.fixture(scope="module")
def frames():
    """Neighbour counts of molecules of three kinds, and of frames without neighbours or atoms."""
    random = np.random.default_rng(0)
    sizes = [*random.choice([6, 15, 40], size=120), 3, 0]
    counts = [random.integers(0, 4 + size // 2, size=size) for size in sizes[:-2]]
    return Counts.of([*counts, *(np.zeros(size, int) for size in sizes[-2:])])


@pytest.mark.parametrize(("batch_size", "number"), [(8, 4), (5, 4), (5, 2), (4, 1)])
def test_every_batch_fits_its_shards(frames, batch_size, number):
    (bucket,) = plan_buckets(frames, batch_size, groups=3, max_buckets=1)
    shards = plan_shards(bucket, number, block_slots=64)
    assert len(shards.layouts) <= 2
    used = []
    for epoch in range(3):
        for _, batch in shuffled_batches([bucket], 0, epoch):
            layout, parts = shards.share(batch)
            used.append(layout)
            assert len(parts) == number
            np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.sort(batch))
            for part in parts:
                assert len(part) <= layout.frames
                demand = layout.demands(frames.take(part)).sum(axis=0)
                assert (demand <= layout.capacity).all()
            evaluated = shards.slots([batch])
            assert frames.take(batch).values.sum() <= evaluated <= number * layout.slots
    # the small layout serves most batches, and is why there are two
    assert used.count(shards.layouts[0]) > len(used) / 2


def test_one_shard_is_the_batch(frames):
    (bucket,) = plan_buckets(frames, 4, max_buckets=1)
    shards = plan_shards(bucket, 1, block_slots=64)
    assert shards.layouts == (bucket.layout,)
    batch = bucket.frames[[5, 2]]
    layout, (part,) = shards.share(batch)
    assert layout is bucket.layout and part is batch


def test_sharing_out():
    parts = share_out(np.asarray([1, 9, 2, 5, 4, 4]), 3)
    assert [part.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    # fewer things than shards; and none
    assert sorted(map(len, share_out(np.asarray([3, 7]), 4))) == [0, 0, 1, 1]
    assert [len(part) for part in share_out(np.asarray([], int), 2)] == [0, 0]
