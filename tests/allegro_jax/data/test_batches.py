"""Batches hold exactly the neighbourhoods and labels of their frames."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from allegro_jax.data.batches import assemble, prefetch
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.sources import frame_from_atoms
from allegro_jax.neighbour_search import neighbour_pairs


@pytest.fixture(scope="module")
def frames():
    random = np.random.default_rng(0)
    structures = [
        molecule("CH3OH"),
        bulk("Cu", "fcc", a=3.6, cubic=True),
        Atoms("O", cell=[9, 9, 9], pbc=True),  # without neighbours
        molecule("C6H6"),
        Atoms("Cu", cell=[2.2, 2.3, 2.4], pbc=True),  # smaller than the cutoff
    ]
    for number, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=number)
        if number != 1:
            atoms.info["energy"] = -10.0 * number
        if number != 3:
            atoms.arrays["forces"] = random.normal(size=(len(atoms), 3))
    return [frame_from_atoms(atoms) for atoms in structures]


SPECIES, CUTOFF = ("H", "C", "O", "Cu"), 3.0


def _species_by_block(batch):
    """Every group of rows, and the species of its rows: [blocks, rows]."""
    start = 0
    for group in batch.groups:
        blocks, rows = group.counts.shape
        yield group, batch.species[start : start + blocks * rows].reshape(blocks, rows)
        start += blocks * rows


@pytest.mark.parametrize("groups", [1, 3])
def test_slots_hold_the_neighbours(frames, groups):
    data = build_dataset(frames, SPECIES, CUTOFF, dtype=np.float64)
    counts = data.counts
    (bucket,) = plan_buckets(counts, 5, groups=groups, block_slots=20, good_enough=0.0, worth=0)
    assert len(bucket.layout.groups) == groups
    assembled = assemble(data, np.arange(5), bucket.layout, np.full(5, 0.5))
    batch = assembled.batch

    # the atom and frame in every row
    atom_of = np.full(bucket.layout.rows, -1)
    atom_of[assembled.rows] = assembled.atoms
    assert sorted(atom_of[atom_of >= 0]) == list(range(len(data.atom_species)))
    np.testing.assert_array_equal(batch.species >= 0, atom_of >= 0)
    np.testing.assert_array_equal(batch.species[assembled.rows], data.atom_species[assembled.atoms])
    found, row = set(), 0
    for group in batch.groups:
        for block, place in itertools.product(*map(range, group.counts.shape)):
            number = group.counts[block, place]
            assert not group.vectors[block, place, number:].any()
            for slot in range(number):
                neighbour = atom_of[group.neighbours[block, place, slot]]
                vector = tuple(np.round(group.vectors[block, place, slot], 9))
                found.add((int(atom_of[row]), int(neighbour), vector))
            row += 1
    assert bucket.slots([np.arange(5)]) == sum(
        group.neighbours[block].size
        for group, species in _species_by_block(batch)
        for block in np.flatnonzero((species >= 0).any(axis=1))
    )
    expected = set()
    for number, frame in enumerate(frames):
        pairs = neighbour_pairs(frame.positions, frame.cell, frame.pbc, CUTOFF)
        first = data.atom_start[number]
        for i, j, vector in zip(pairs.centre, pairs.neighbour, pairs.vectors, strict=True):
            expected.add((int(first + i), int(first + j), tuple(np.round(vector, 9))))
    assert found == expected

    np.testing.assert_array_equal(batch.energies, [-0.5, 0, -20.5, -30.5, -40.5])
    np.testing.assert_array_equal(batch.energy_weight, [1, 0, 1, 1, 1])
    np.testing.assert_array_equal(batch.atoms, [len(frame) for frame in frames])
    in_rows = batch.force_weight[assembled.rows] > 0
    np.testing.assert_array_equal(in_rows, data.frame_of_atom[assembled.atoms] != 3)
    np.testing.assert_array_equal(batch.forces[assembled.rows], data.forces[assembled.atoms])


def test_prefetch_keeps_order_and_raises():
    assert list(prefetch(lambda x: x * x, range(20))) == [x * x for x in range(20)]

    def fail(x):
        if x == 3:
            raise ValueError("three")
        return x

    with pytest.raises(ValueError, match="three"):
        list(prefetch(fail, range(10)))
    # left early, the thread ends
    squares = prefetch(lambda x: x, itertools.count())
    assert next(squares) == 0
    squares.close()
