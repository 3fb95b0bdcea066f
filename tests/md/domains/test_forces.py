"""Energies, forces and virials of domains are those of one device, for any grid and box."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from flax import struct
from jax.sharding import PartitionSpec

from md import neighbours, structures
from md.bins import Reach
from md.domains import allocation, lists, migration, placement, sharding
from md.domains.grid import AXES
from md.evaluation import Evaluation, evaluate
from md.faults import Fault

CUTOFF, SKIN = 3.0, 0.4


@struct.dataclass
class Crowd:
    """A site energy of many bodies: forces are not sums over pairs, and need the way back."""

    params: Any
    species = ("Ar", "Ne")
    cutoff = CUTOFF
    pair_cutoffs = ((3.0, 2.5), (2.8, 3.0))
    reference_energies = (0.0, 0.0)

    def site_energies(self, params, vectors, mask, centre_species, neighbour_species):
        reach = jnp.asarray(self.pair_cutoffs, vectors.dtype)
        reach = reach[jnp.maximum(centre_species, 0)[:, None], neighbour_species]
        squared = jnp.where(mask, jnp.sum(vectors**2, axis=-1), 1)
        weight = jnp.where(mask, jnp.maximum(1 - squared / reach**2, 0) ** 3, 0)
        weight *= 1 + neighbour_species
        density = jnp.sum(weight, axis=1)
        dipole = jnp.sum(weight[..., None] * vectors, axis=1)
        energies = params * (jnp.sin(density) + 0.1 * jnp.sum(dipole**2, axis=-1))
        return jnp.where(centre_species >= 0, energies, 0)


CELLS = {
    "random": (np.diag([30.0, 29.0, 31.0]), True, 900),
    "skewed": ([[30, 0, 0], [9, 29, 0], [-8, 7, 30]], True, 900),
    "slab": (np.diag([30.0, 29.0, 80.0]), (True, True, False), 500),
    "near-empty": (np.diag([30.0, 30.0, 30.0]), True, 3),
    "isolated": (np.zeros((3, 3)), False, 400),
    "vacuum": (np.diag([30.0, 30.0, 90.0]), True, 400),
}
GRIDS = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (4, 2, 1), (4, 1, 2), (2, 4, 1), (1, 4, 2), (2, 1, 4),
         (1, 2, 4), (2, 2, 2)]  # fmt: skip


def structure(kind: str, seed: int) -> Atoms:
    cell, pbc, number = CELLS[kind]
    random = np.random.default_rng(seed)
    box = np.diag([30.0, 30.0, 30.0]) if kind == "isolated" else np.asarray(cell, float)
    scaled = random.uniform(-0.3, 1.3, (number, 3))
    if kind == "vacuum":
        scaled[:, 2] = random.uniform(0.3, 0.5, number)
    elif kind in ("slab", "isolated"):
        scaled = random.uniform(0, 1, (number, 3))
    # some atoms exactly on faces
    scaled[: number // 50] = np.round(scaled[: number // 50] * 8) / 8
    symbols = np.where(random.random(number) < 0.5, "Ar", "Ne")
    return Atoms(list(symbols), scaled @ box, cell=cell, pbc=pbc)


def on_domains(potential, state, atoms, counts, skin=SKIN):
    """What domains make of a state: forces and energies in order, the virial, the list."""
    reach = Reach(state.pbc, CUTOFF, skin, potential.pair_cutoffs)
    grid = placement.grid_for(atoms, counts, reach.range)
    place = atoms.positions, atoms.cell.array
    geometry = placement.cut(*place, state.pbc, grid.counts, state.positions.dtype)
    rows = allocation.rows_for(int(placement.populations(*place, geometry).max()), grid.domains)
    spread = placement.placed(state, atoms.positions, grid, geometry, rows)
    listed = allocation.allocate(spread, geometry, grid, reach)

    def look(state, listed):
        moved = lists.arranged(listed, state)
        listed = lists.filled(listed, moved)
        return moved.state, listed, lists.evaluate(potential, moved.state, listed)

    specs = sharding.of_state(spread), sharding.of_list(listed)
    by_atom, on_all = PartitionSpec(AXES), PartitionSpec()
    found = Evaluation(by_atom, by_atom, on_all)
    state, listed, found = jax.jit(grid.sharded(look, specs, (*specs, found)))(spread, listed)
    assert int(listed.faults) == 0
    fields = {
        "ids": state.ids,
        "positions": state.positions,
        "images": state.images,
        "energies": found.site_energies,
        "forces": found.forces,
    }
    return placement.in_order(fields, atoms.cell.array, geometry), found.virial, listed


def compare(kind, counts, precision, tolerance, skin=SKIN):
    atoms = structure(kind, 3)
    with jax.enable_x64(precision == "float64"):
        potential = Crowd(jnp.asarray(1.0, precision))
        make = partial(structures.state_from_atoms, atoms, potential.species)
        state = make(np.zeros((len(atoms), 3)), 0, precision)
        reach = Reach(state.pbc, CUTOFF, skin, potential.pair_cutoffs)
        place = state.positions, state.cell, state.species
        expected = evaluate(potential, *place, neighbours.allocate(*place, reach=reach))
        found, virial, _ = on_domains(potential, state, atoms, counts, skin)
        assert list(found["ids"]) == list(range(len(atoms)))
        np.testing.assert_allclose(found["positions"], atoms.positions, atol=1e-5)
        scale = max(1.0, float(np.abs(expected.forces).max()))
        for name, ours, theirs in (
            ("energies", found["energies"], expected.site_energies),
            ("forces", found["forces"], expected.forces),
            ("virial", virial / len(atoms), expected.virial / len(atoms)),
        ):
            np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0, err_msg=name)


@pytest.mark.parametrize(("kind", "counts"), zip([*CELLS, *CELLS], GRIDS, strict=False))
def test_domains_agree_with_one_device(kind, counts):
    compare(kind, counts, "float64", 1e-10)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["random", "skewed", "slab", "near-empty"])
@pytest.mark.parametrize("counts", GRIDS)
def test_every_grid_of_every_box(kind, counts):
    compare(kind, counts, "float64", 1e-10)


@pytest.mark.parametrize("kind", ["skewed"])
def test_in_single_precision(kind):
    compare(kind, (2, 2, 2), "float32", 1e-5)


def test_a_box_thinner_than_the_cutoff_sees_its_own_images():
    """One domain along an axis: ghosts of ghosts, as many turns as the cutoff spans."""
    random = np.random.default_rng(0)
    cell = np.array([[2.0, 0, 0], [0.7, 2.5, 0], [0, 0.4, 20.0]])
    atoms = Atoms(["Ar"] * 20, random.uniform(0, 1, (20, 3)) @ cell, cell=cell, pbc=True)
    with jax.enable_x64(True):
        potential = Crowd(jnp.asarray(1.0, "float64"))
        state = structures.state_from_atoms(
            atoms, potential.species, np.zeros((20, 3)), 0, "float64"
        )
        reach = Reach(state.pbc, CUTOFF, SKIN, potential.pair_cutoffs)
        place = state.positions, state.cell, state.species
        expected = evaluate(potential, *place, neighbours.allocate(*place, reach=reach))
        found, _, listed = on_domains(potential, state, atoms, (1, 1, 4))
        assert listed.capacities.turns == (2, 2, 1)
        np.testing.assert_allclose(found["forces"], expected.forces, atol=1e-10)


def test_single_precision_gains_digits_far_from_the_corner():
    """Positions are relative to domains, not to a corner 1,000 Å away."""
    random = np.random.default_rng(5)
    atoms = Atoms(["Ne"] * 60, random.uniform(0, 9, (60, 3)), pbc=True)
    atoms.cell = np.diag([1200.0, 30.0, 30.0])
    atoms.positions[:, 0] += 1050 - 4.5  # across the face between the last two domains

    def forces(precision, counts=None):
        with jax.enable_x64(precision == "float64"):
            potential = Crowd(jnp.asarray(1.0, precision))
            state = structures.state_from_atoms(
                atoms, potential.species, np.zeros((60, 3)), 0, precision
            )
            if counts is not None:
                return on_domains(potential, state, atoms, counts)[0]["forces"]
            reach = Reach(state.pbc, CUTOFF, SKIN, potential.pair_cutoffs)
            place = state.positions, state.cell, state.species
            listed = neighbours.allocate(*place, reach=reach)
            return np.asarray(evaluate(potential, *place, listed).forces)

    exact = forces("float64")
    alone, spread = (
        np.abs(found - exact).max() for found in (forces("float32"), forces("float32", (8, 1, 1)))
    )
    assert spread < alone / 3


@pytest.mark.parametrize(("room", "spare"), [(8, 0), (64, 0), (8, 100)])
def test_where_there_is_no_room_no_atom_is_lost(room, spare):
    """A third of all atoms leaves its domain at once."""
    atoms = structure("random", 3)
    state = structures.state_from_atoms(
        atoms, ("Ar", "Ne"), np.zeros((len(atoms), 3)), 0, "float32"
    )
    grid = placement.grid_for(atoms, (4, 2, 1), 1.0)
    geometry = placement.cut(
        atoms.positions, atoms.cell.array, state.pbc, grid.counts, state.positions.dtype
    )
    populations = placement.populations(atoms.positions, atoms.cell.array, geometry)
    rows = int(populations.max()) + spare
    spread = placement.placed(state, atoms.positions, grid, geometry, rows)
    geometry = jax.tree.map(jnp.asarray, geometry)
    # all towards one domain, by half of one
    width = float(geometry.widths[0][0]) * atoms.cell.array[0]
    target = np.repeat(np.where(np.arange(8) // 2 < 1, 0.0, -0.5), rows)[:, None] * width
    spread = spread.replace(positions=spread.positions + grid.spread(target.astype("float32")))

    def move(state):
        moved = migration.migrated(state, geometry, (room,) * 3)
        order = jnp.argsort(moved.state.species < 0, stable=True)
        return migration.reordered(moved.state, order), moved.faults

    specs = sharding.of_state(spread)
    moved = grid.sharded(move, (specs,), (specs, PartitionSpec()))
    state, faults = jax.jit(moved)(spread)
    ids = np.asarray(state.ids)
    np.testing.assert_array_equal(np.sort(ids[ids >= 0]), np.arange(len(atoms)))
    expected = Fault.MIGRANT_CAPACITY * (room == 8) | Fault.ATOM_CAPACITY * (spare == 0)
    assert Fault(int(faults)) & expected == expected
