"""Layouts: little padding, every frame in one batch, always within capacity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.layout import padding_waste, shuffled_batches
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.ragged import Counts
from allegro_jax.data.sources import read_frames
from allegro_jax.data.statistics import find_species


def molecules(number: int = 200) -> Counts:
    """Neighbour counts like those of a flexible molecule of 27 atoms."""
    random = np.random.default_rng(0)
    base = 12 + 12 * np.linspace(0, 1, 27) ** 1.5
    return Counts.of([np.rint(base + random.normal(0, 1.2, 27)).astype(int) for _ in range(number)])


def breathing(number: int) -> Counts:
    """Like molecules, but those of some frames are denser throughout."""
    random = np.random.default_rng(0)
    base = 12 + 12 * np.linspace(0, 1, 27) ** 1.5
    spread = [random.normal(0, 0.8) + random.normal(0, 0.6, 27) for _ in range(number)]
    return Counts.of([np.rint(base + each).astype(int) for each in spread])


def liquid(number: int = 60) -> Counts:
    random = np.random.default_rng(1)
    return Counts.of(
        [random.poisson(88, 192) - random.binomial(20, 0.5, 192) for _ in range(number)]
    )


def solids(number: int = 120) -> Counts:
    """Very different sizes and densities."""
    random = np.random.default_rng(2)
    sizes = np.rint(np.exp(random.normal(3, 0.9, number))).astype(int).clip(1, 150)
    return Counts.of([random.poisson(random.uniform(15, 60), size) for size in sizes])


def waste(counts, batch_size, epochs=4, **options) -> list[float]:
    buckets = plan_buckets(counts, batch_size, **options)
    return [
        padding_waste(buckets, counts, shuffled_batches(buckets, 3, epoch))
        for epoch in range(epochs)
    ]


def test_waste_is_bounded():
    assert np.mean(waste(molecules(), 5)) <= 0.11
    assert np.mean(waste(liquid(), 5)) <= 0.11
    assert np.mean(waste(liquid(), 1)) <= 0.11
    # one width for all, as a naive layout would have it, is much worse
    assert np.mean(waste(molecules(), 5, groups=1)) > 0.25
    assert np.mean(waste(solids(), 5)) < 0.75 * np.mean(waste(solids(), 5, groups=1, max_buckets=1))


def test_frames_unlike_each_other_need_few_layouts():
    """Room for the largest costs the smallest nothing: blocks without an atom are skipped."""
    counts = solids()
    for batch_size in (1, 4):
        buckets = plan_buckets(counts, batch_size)
        assert len(buckets) <= 2
        batches = shuffled_batches(buckets, 0, 0)
        assert padding_waste(buckets, counts, batches) < 0.35
        held = sum(buckets[place].layout.slots for place, _ in batches)
        assert counts.values.sum() < 0.5 * held


def test_groups_are_worth_their_compilation():
    """Few frames get few groups; more of the same frames get more, where that saves enough."""
    one, few, many = (plan_buckets(molecules(number), 1) for number in (2, 60, 200))
    groups = [sum(len(bucket.layout.groups) for bucket in each) for each in (one, few, many)]
    assert groups == [1, 2, 3]

    counts = breathing(100)
    pairs = counts.values.sum()
    found, least = plan_buckets(counts, 1), plan_buckets(counts, 1, worth=0)
    groups = [sum(len(bucket.layout.groups) for bucket in each) for each in (found, least)]
    assert groups == [3, 12]
    slots = [
        pairs / (1 - padding_waste(each, counts, shuffled_batches(each, 0, 0)))
        for each in (found, least)
    ]
    assert slots[1] < 0.95 * slots[0] and slots[0] - slots[1] < (12 - 3) * 3000


@pytest.mark.parametrize(
    ("file", "cutoff"), [("3bpa/train_300K.xyz", 5.0), ("water_pbe0ts/water_test.xyz", 5.0)]
)
def test_waste_on_real_data(shared, file, cutoff):
    frames = read_frames(shared / "data" / file)[:150]
    data = build_dataset(frames, find_species(frames), cutoff)
    counts = data.counts
    assert np.mean(waste(counts, 5)) <= 0.11


@pytest.mark.parametrize("counts", [molecules(33), liquid(7), solids(50)])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_frame_is_in_one_batch_that_fits(counts, batch_size):
    buckets = plan_buckets(counts, batch_size, worth=0)
    for epoch in range(3):
        batches = shuffled_batches(buckets, 0, epoch)
        assert sorted(np.concatenate([frames for _, frames in batches])) == list(range(len(counts)))
        for place, frames in batches:
            layout = buckets[place].layout
            demand = layout.demands(counts.take(frames)).sum(axis=0)
            assert (demand <= layout.capacity).all()
            assert len(frames) <= layout.frames
        # few batches are not full
        assert len(batches) <= sum(-(-len(b.frames) // b.layout.frames) for b in buckets) * 1.2 + 1


def test_order_depends_on_seed_and_epoch_alone():
    buckets = plan_buckets(molecules(30), 4)

    def order(seed, epoch):
        return [frames.tolist() for _, frames in shuffled_batches(buckets, seed, epoch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


@settings(max_examples=15)
@given(
    counts=st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=1, max_size=12),
    batch_size=st.integers(1, 5),
    groups=st.integers(1, 5),
)
def test_any_data_can_be_laid_out(counts, batch_size, groups):
    counts = Counts.of([np.asarray(count, int) for count in counts])
    buckets = plan_buckets(counts, batch_size, groups=groups, worth=0)
    batches = shuffled_batches(buckets, 0, 0)
    assert sorted(np.concatenate([frames for _, frames in batches])) == list(range(len(counts)))
    for place, frames in batches:
        layout = buckets[place].layout
        demand = layout.demands(counts.take(frames)).sum(axis=0)
        assert (demand <= layout.capacity).all()
