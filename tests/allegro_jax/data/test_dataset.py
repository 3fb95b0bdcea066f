"""Parts of data sets, joined data sets, and frames made of them again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from allegro_jax.data import dataset
from allegro_jax.data.batches import assemble
from allegro_jax.data.dataset import ELEMENTS, DataSet, build_dataset, join
from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.ragged import Counts
from allegro_jax.data.statistics import fit_reference_energies, statistics

SPECIES, CUTOFF = ("H", "C", "O", "Cu"), 3.0


def structures(number: int) -> list[Frame]:
    """Molecules, crystals and single atoms; labels here and there."""
    random = np.random.default_rng(0)
    kinds = [
        molecule("CH3OH"),
        bulk("Cu", "fcc", a=3.6, cubic=True),
        Atoms("O"),
        molecule("C6H6"),
        Atoms("Cu", cell=[2.2, 2.3, 2.4], pbc=True),
    ]
    frames = []
    for place in range(number):
        atoms = kinds[place % len(kinds)]
        size = len(atoms)
        frames.append(
            Frame(
                numbers=atoms.numbers.astype(np.int64),
                positions=atoms.positions + 0.05 * random.normal(size=(size, 3)),
                cell=np.array(atoms.cell),
                pbc=np.array(atoms.pbc),
                energy=-10.0 * place if place % 3 else None,
                forces=random.normal(size=(size, 3)) if place % 4 else None,
                stress=random.normal(size=(3, 3)) if atoms.pbc.all() else None,
                source="one.xyz" if place < number // 2 else "two.xyz",
                index=place,
            )
        )
    return frames


def assert_same(one: DataSet, other: DataSet) -> None:
    for field in dataclasses.fields(DataSet):
        expected, found = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_array_equal(expected, found, err_msg=field.name)
        assert getattr(expected, "dtype", None) == getattr(found, "dtype", None), field.name


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return structures(20)


@pytest.fixture(scope="module")
def whole(frames) -> DataSet:
    return build_dataset(frames, SPECIES, CUTOFF)


def test_joined_parts_are_the_whole(frames, whole):
    parts = [build_dataset(frames[i : i + 3], SPECIES, CUTOFF) for i in range(0, 20, 3)]
    assert_same(join(parts), whole)


def test_a_selection_is_the_data_set_of_its_frames(frames, whole):
    chosen = np.array([7, 2, 13, 13, 0])
    part = whole.select(chosen)
    assert part.vectors is whole.vectors
    expected = build_dataset([frames[place] for place in chosen], SPECIES, CUTOFF)
    expected = dataclasses.replace(expected, sources=whole.sources, source=part.source)
    assert_same(part.copy(), expected)
    for name in ("frame_of_atom", "composition", "is_isolated_atom", "occurring"):
        np.testing.assert_array_equal(getattr(part, name), getattr(expected, name))
    np.testing.assert_array_equal(part.counts.values, expected.neighbour_counts)
    assert statistics(part) == statistics(expected)

    (bucket,) = plan_buckets(part.counts, 5)
    batches = [assemble(d, np.arange(5), bucket.layout, np.zeros(5)) for d in (part, expected)]
    for group, other in zip(*(batch.batch.groups for batch in batches), strict=True):
        np.testing.assert_array_equal(group.vectors, other.vectors)
        np.testing.assert_array_equal(group.neighbours, other.neighbours)
    np.testing.assert_array_equal(batches[0].batch.forces, batches[1].batch.forces)


def test_frames_again(frames, whole):
    for place, frame in enumerate(frames):
        again = whole.frame(place)
        for field in dataclasses.fields(Frame):
            expected, found = getattr(frame, field.name), getattr(again, field.name)
            if field.name == "forces" and expected is not None:
                expected = expected.astype(np.float32)
            np.testing.assert_array_equal(expected, found, err_msg=field.name)


def test_other_orders_of_species(frames, whole):
    everything = build_dataset(frames, ELEMENTS, CUTOFF)
    assert everything.occurring == whole.occurring == SPECIES
    assert_same(everything.of_species(SPECIES), whole)
    assert whole.of_species(SPECIES) is whole
    with pytest.raises(DataError, match=r"one\.xyz, frame 1: species: .* not Cu"):
        everything.of_species(("H", "C", "O"))


def test_blocks_change_nothing(whole, monkeypatch):
    found, energies = statistics(whole), fit_reference_energies(whole)
    monkeypatch.setattr(dataset, "BLOCK_PAIRS", 40)
    blocks = list(whole.blocks())
    assert len(blocks) > 4
    assert_same(join(blocks), whole)
    again = statistics(whole)
    assert again.force_rms == pytest.approx(found.force_rms, rel=1e-12)
    assert dataclasses.replace(again, force_rms=found.force_rms) == found
    np.testing.assert_allclose(fit_reference_energies(whole), energies, rtol=1e-9)


def test_counts():
    rows = [[3, 1, 2], [], [5], [0, 4, 4], [2, 9]]
    counts = Counts.of([np.asarray(row, int) for row in rows])
    assert counts.totals().tolist() == [6, 0, 5, 8, 11]
    assert counts.above(2).tolist() == [1, 0, 1, 2, 1]
    ranked = counts.descending()
    assert ranked.values.tolist() == [3, 2, 1, 5, 4, 4, 0, 9, 2]
    assert ranked.profile().tolist() == [9, 4, 1]
    assert counts.take(np.array([4, 0])).values.tolist() == [2, 9, 3, 1, 2]
