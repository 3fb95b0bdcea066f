"""Pairs of a structure against ASE's, for any cell; and their dense layout."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from allegro_jax.neighbour_search import FEW_ATOMS, dense, neighbour_pairs


def pair_set(centre, neighbour, shifts):
    return {
        (int(i), int(j), *map(int, s)) for i, j, s in zip(centre, neighbour, shifts, strict=True)
    }


@given(
    seed=st.integers(0, 10**6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    num_atoms=st.integers(1, 12),
    size=st.sampled_from([1.5, 4.0, 9.0]),
)
def test_random_structures_against_ase(seed, pbc, num_atoms, size):
    """Triclinic, flat, small, large cells; atoms far outside; no vectors where not periodic."""
    rng = np.random.default_rng(seed)
    cell = size * (np.eye(3) + 0.3 * rng.normal(size=(3, 3)))
    if abs(np.linalg.det(cell)) < 0.2 * size**3:
        cell = size * np.eye(3)
    positions = rng.uniform(-2, 3, size=(num_atoms, 3)) @ cell
    for axis in range(3):
        if not pbc[axis] and rng.random() < 0.5:
            cell[axis] = 0
    cutoff = 2.5
    pairs = neighbour_pairs(positions, cell, pbc, cutoff)
    expected = neighbor_list("ijS", Atoms(positions=positions, cell=cell, pbc=pbc), cutoff)
    assert pair_set(*pairs[:3]) == pair_set(*expected)
    np.testing.assert_allclose(
        pairs.vectors,
        positions[pairs.neighbour] - positions[pairs.centre] + pairs.shifts @ cell,
        atol=1e-12,
    )
    assert (np.linalg.norm(pairs.vectors, axis=1) < cutoff).all()
    assert (np.diff(pairs.centre) >= 0).all()


@pytest.mark.parametrize("num_atoms", [FEW_ATOMS, FEW_ATOMS + 1])
def test_all_pairs_tried_and_searched(num_atoms):
    positions = np.random.default_rng(1).uniform(0, 9, size=(num_atoms, 3))
    pairs = neighbour_pairs(positions, None, False, 3.0)
    expected = neighbor_list("ijS", Atoms(positions=positions), 3.0)
    assert pair_set(*pairs[:3]) == pair_set(*expected)


def test_molecules_and_slabs():
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], [0, 0, 40.0]])
    assert len(neighbour_pairs(positions, None, False, 2.0).centre) == 2
    slab = neighbour_pairs(positions, np.diag([3.0, 3.0, 0.0]), (True, True, False), 3.5)
    assert np.abs(slab.shifts[:, 2]).max() == 0
    assert len(neighbour_pairs(np.zeros((0, 3)), None, False, 2.0).centre) == 0


def test_directed_pair_cutoffs_prune():
    positions = np.array([[0.0, 0, 0], [1.5, 0, 0]])
    pairs = neighbour_pairs(positions, None, False, 2.0, np.array([0, 1]), ((2.0, 1.0), (2.0, 2.0)))
    assert pair_set(*pairs[:3]) == {(1, 0, 0, 0, 0)}


def test_dense_rows():
    positions = np.random.default_rng(0).uniform(0, 4, size=(9, 3))
    pairs = neighbour_pairs(positions, None, False, 2.5)
    neighbours, vectors, mask = dense(pairs, 11)
    assert mask.sum() == len(pairs.centre)
    rows, slots = np.nonzero(mask)
    np.testing.assert_array_equal(rows, pairs.centre)
    np.testing.assert_array_equal(neighbours[rows, slots], pairs.neighbour)
    np.testing.assert_array_equal(vectors[rows, slots], pairs.vectors)
    assert (vectors[~mask] == 0).all()
    with pytest.raises(ValueError, match="more than the 1 slots"):
        dense(pairs, 11, 1)


@pytest.mark.parametrize(
    ("positions", "cell", "message"),
    [
        ([[0, 0, np.nan]], None, "atom 0 is not at a finite place"),
        ([[0, 0, 0]], np.zeros((3, 3)), "direction a is periodic"),
        ([[0, 0, 0]], np.array([[1.0, 0, 0], [2, 0, 0], [0, 0, 1]]), "linearly dependent"),
        ([[0, 0, 0]], np.full((3, 3), np.inf), "not finite"),
    ],
)
def test_impossible_structures(positions, cell, message):
    with pytest.raises(ValueError, match=message):
        neighbour_pairs(np.array(positions, float), cell, cell is not None, 2.0)
