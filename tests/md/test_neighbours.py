"""Neighbour lists against an independent one (ase.neighborlist), and their promises."""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list as reference_list
from scipy.spatial import cKDTree

from md import bins, neighbours
from md.bins import Capacities, Reach
from md.faults import GROWABLE, Fault
from md.neighbours import neighbour_list

ATOMS = 24
update = jax.jit(neighbours.update)


def edges(listed, positions, cell, cutoff):
    """The set of (i, j, S) within a cutoff (one, or one per pair); fails if an edge is double."""
    index, shifts = np.asarray(listed.indices), np.asarray(listed.shifts).astype(int)
    i, slot = np.nonzero(index < len(positions))
    j, shift = index[i, slot], shifts[i, slot]
    distance = np.linalg.norm(positions[j] - positions[i] + shift @ cell, axis=1)
    found = [(*map(int, edge[:2]), *map(int, edge[2])) for edge in zip(i, j, shift, strict=True)]
    assert len(set(found)) == len(found), "an edge occurs twice"
    limit = np.broadcast_to(cutoff, distance.shape) if np.ndim(cutoff) == 0 else cutoff[i, j]
    return {edge for edge, d, c in zip(found, distance, limit, strict=True) if d < c}


def reference(positions, cell, pbc, cutoff):
    atoms = Atoms(positions=positions, cell=cell, pbc=pbc)
    i, j, shift = reference_list("ijS", atoms, cutoff)
    return {(int(a), int(b), *map(int, s)) for a, b, s in zip(i, j, shift, strict=True)}


def random_structure(rng, pbc, atoms=ATOMS):
    """Positions far outside a triclinic, often flat or long, cell."""
    while True:
        cell = np.diag(rng.uniform(1.5, 9, 3)) + rng.normal(0, 1.5, (3, 3))
        if abs(np.linalg.det(cell)) * np.linalg.norm(np.linalg.inv(cell), axis=0).max() > 1.5:
            break
    positions = rng.uniform(-1.5, 2.5, (atoms, 3)) @ cell
    for d in range(3):
        if not pbc[d] and rng.random() < 0.5:
            cell[d] = 0  # as ASE has it
    return positions, cell


ONE_BIN = Capacities(2500, (1, 1, 1), (2, 2, 2), ATOMS)
MANY_BINS = Capacities(2500, (3, 4, 3), (4, 4, 3), 12)
ALL_PBC = list(product((False, True), repeat=3))


@pytest.mark.parametrize(
    ("grid", "pbc"),
    [(MANY_BINS, pbc) for pbc in ALL_PBC] + [(ONE_BIN, pbc) for pbc in ALL_PBC[1::2]],
    ids=str,
)
def test_no_edge_is_lost_silently(grid, pbc):
    """On random structures, a list of fixed sizes is complete, or says what was too small."""
    cutoff, complete, faulty = 3.0, 0, 0
    stencil = [s if p else int(b > 1) for s, p, b in zip(grid.stencil, pbc, grid.bins, strict=True)]
    grid = dataclasses.replace(grid, stencil=tuple(stencil))
    rng = np.random.default_rng([*map(int, pbc), *grid.bins])
    with jax.enable_x64(True):
        reach = Reach(pbc, cutoff, 0.4)
        species = jnp.zeros(ATOMS, jnp.int32)
        blank = neighbours._empty(jnp.zeros((ATOMS, 3)), jnp.eye(3), reach, grid)
        for _ in range(30):
            positions, cell = random_structure(rng, pbc)
            listed = update(blank, jnp.asarray(positions), jnp.asarray(cell), species)
            if int(listed.faults):
                assert Fault(int(listed.faults)) & GROWABLE
                faulty += 1
                continue
            complete += 1
            expected = reference(positions, cell, pbc, cutoff)
            assert edges(listed, positions, cell, cutoff) == expected
    assert complete >= 10, faulty


@pytest.mark.parametrize("case", range(6))
def test_allocate_chooses_sufficient_sizes(case):
    rng = np.random.default_rng(100 + case)
    pbc = tuple(map(bool, rng.integers(0, 2, 3))) if case else (True, True, True)
    atoms = int(rng.integers(2, 120))
    positions, cell = random_structure(rng, pbc, atoms)
    with jax.enable_x64(True):
        functions = neighbour_list(pbc, 3.0, 0.3)
        listed = functions.allocate(positions, cell, np.zeros(atoms, int))
        assert not bool(listed.did_overflow)
        assert edges(listed, positions, cell, 3.0) == reference(positions, cell, pbc, 3.0)


@pytest.mark.parametrize("pbc", [(True, True, True), (False, False, False)])
def test_big_system_in_float32(pbc):
    """The O(N) path: few candidates, right edges, rows in blocks."""
    rng, atoms, side = np.random.default_rng(5), 6000, 39.0
    positions = rng.uniform(-5, side - 5, (atoms, 3)).astype(np.float32)
    cell = (np.eye(3) * side).astype(np.float32)
    listed = neighbour_list(pbc, 3.5, 0.5).allocate(positions, cell, np.zeros(atoms, int))
    assert bins.candidates_per_atom(listed.capacities) < atoms / 4
    found = edges(listed, positions.astype(float), cell.astype(float), 3.5)
    expected = reference(positions.astype(float), cell.astype(float), pbc, 3.5)
    assert len(found ^ expected) <= 2  # pairs that rounding puts on either side of the cutoff


def test_pair_cutoffs_are_directed():
    rng = np.random.default_rng(7)
    positions, cell = random_structure(rng, (True, True, True), 20)
    species = rng.integers(0, 2, 20)
    table = np.array([[3.0, 1.5], [2.5, 2.0]])
    with jax.enable_x64(True):
        listed = neighbour_list(True, 3.0, 0.0, table).allocate(positions, cell, species)
    limits = table[species[:, None], species[None, :]]
    expected = {
        edge
        for edge in reference(positions, cell, True, 3.0)
        if np.linalg.norm(positions[edge[1]] - positions[edge[0]] + np.array(edge[2:]) @ cell)
        < limits[edge[0], edge[1]]
    }
    assert edges(listed, positions, cell, limits) == expected
    assert int(listed.mask.sum()) == len(expected)


def test_padded_atoms_are_nobodys_neighbours():
    rng = np.random.default_rng(8)
    positions = rng.uniform(0, 4, (12, 3)).astype(np.float32)
    species = np.array([0] * 8 + [-1] * 4)
    listed = neighbour_list(False, 3.0).allocate(positions, np.eye(3) * 4, species)
    index = np.asarray(listed.indices)
    assert np.all(index[8:] == 12)
    assert np.all((index < 8) | (index == 12))
    found = edges(listed, positions, np.eye(3), 3.0)
    assert found == reference(positions[:8], np.eye(3), False, 3.0)


@pytest.mark.parametrize("atoms", [0, 1])
def test_no_atoms_and_one_atom(atoms):
    functions = neighbour_list(False, 3.0)
    arguments = np.zeros((atoms, 3), np.float32), np.zeros((3, 3), np.float32), np.zeros(atoms, int)
    listed = functions.allocate(*arguments)
    listed = functions.update(listed, *map(jnp.asarray, arguments))
    assert listed.indices.shape[0] == atoms and int(listed.mask.sum()) == 0


def test_one_atom_sees_its_own_images():
    cell = np.array([[2.0, 0, 0], [0.5, 2.2, 0], [0.3, 0.2, 2.5]])
    with jax.enable_x64(True):
        listed = neighbour_list(True, 4.5).allocate(np.zeros((1, 3)), cell, np.zeros(1, int))
    expected = reference(np.zeros((1, 3)), cell, True, 4.5)
    assert len(expected) > 20 and edges(listed, np.zeros((1, 3)), cell, 4.5) == expected


def test_an_evaporated_atom_costs_nothing():
    """A far atom neither hides edges nor turns the search into one over all pairs."""
    rng = np.random.default_rng(9)
    positions = rng.uniform(0, 30, (3000, 3)).astype(np.float32)
    positions[0] = [3000.0, -2000.0, 1000.0]
    cell = np.zeros((3, 3), np.float32)
    listed = neighbour_list(False, 3.0, 0.5).allocate(positions, cell, np.zeros(3000, int))
    assert bins.candidates_per_atom(listed.capacities) < 1000
    found = {edge[:2] for edge in edges(listed, positions.astype(float), cell, 3.0)}
    pairs = cKDTree(positions.astype(float)).query_pairs(3.0)  # ASE bins all of empty space
    assert len(found ^ (pairs | {(j, i) for i, j in pairs})) <= 2
    assert int(listed.mask[0].sum()) == 0


def test_overflow_is_told_and_mended_by_growth_of_the_cause_alone():
    rng = np.random.default_rng(10)
    cell, species = jnp.eye(3) * 12, jnp.zeros(200, jnp.int32)
    spread = jnp.asarray(rng.uniform(0, 12, (200, 3)), jnp.float32)
    functions = neighbour_list(True, 2.5, 0.3)
    listed = functions.allocate(spread, cell, species)
    dense = 0.6 * spread
    overflowed = functions.update(listed, dense, cell, species)
    assert Fault.NEIGHBOUR_CAPACITY in Fault(int(overflowed.faults))
    # sticky: a later good structure does not hide that something was lost
    assert int(functions.update(overflowed, spread, cell, species).faults)
    for _ in range(3):
        if not bool(overflowed.did_overflow):
            break
        overflowed = functions.grow(overflowed, dense, cell, species)
    assert not bool(overflowed.did_overflow)
    assert overflowed.capacities.bins == listed.capacities.bins
    found = edges(overflowed, np.asarray(dense, float), np.eye(3) * 12, 2.5)
    assert len(found ^ reference(np.asarray(dense, float), np.eye(3) * 12, True, 2.5)) <= 2


def test_a_shrinking_cell_is_noticed_and_mended():
    rng = np.random.default_rng(11)
    cell, species = jnp.eye(3) * 9.001, jnp.zeros(100, jnp.int32)
    positions = jnp.asarray(rng.uniform(0, 9, (100, 3)), jnp.float32)
    functions = neighbour_list(True, 2.5, 0.3)
    listed = functions.allocate(positions, cell, species)
    smaller, moved = 0.9 * cell, 0.9 * positions
    assert bool(neighbours.needs_update(listed, moved, smaller))
    updated = functions.update(listed, moved, smaller, species)
    for _ in range(3):
        if not bool(updated.did_overflow):
            break
        updated = functions.grow(updated, moved, smaller, species)
    expected = reference(np.asarray(moved, float), np.asarray(smaller, float), True, 2.5)
    found = edges(updated, np.asarray(moved, float), np.asarray(smaller, float), 2.5)
    assert len(found ^ expected) <= 2


def test_needs_update_after_half_the_skin():
    positions = jnp.asarray(np.random.default_rng(12).uniform(0, 5, (30, 3)), jnp.float32)
    cell, species = jnp.eye(3) * 5, jnp.zeros(30, jnp.int32)
    listed = neighbour_list(True, 2.0, 0.4).allocate(positions, cell, species)
    due = partial(neighbours.needs_update, listed)
    assert not bool(due(positions, cell))
    assert not bool(due(positions.at[3, 1].add(0.19), cell))
    assert bool(due(positions.at[3, 1].add(0.21), cell))
    assert bool(due(positions.at[3, 1].set(jnp.nan), cell))


def test_unusable_input_is_refused_in_words():
    functions = neighbour_list((True, True, False), 3.0)
    positions = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="no volume"):
        functions.allocate(positions, np.zeros((3, 3), np.float32), np.zeros(2, int))
    positions[1, 2] = np.nan
    with pytest.raises(ValueError, match="atom 1 is not finite"):
        functions.allocate(positions, np.eye(3, dtype=np.float32), np.zeros(2, int))
    with pytest.raises(ValueError, match="over 127 cells"):
        far = np.array([[0, 0, 0], [200.5, 0, 0]], np.float32)
        functions.allocate(far, np.eye(3, dtype=np.float32), np.zeros(2, int))
    with pytest.raises(ValueError, match="cutoff"):
        neighbour_list(True, 0.0)
