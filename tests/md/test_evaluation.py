"""Energies, forces and virials of Lennard-Jones against ASE's; blocks and totals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones as ReferenceLennardJones

from md.evaluation import default_block_size, evaluate, total_energy
from md.neighbours import neighbour_list
from md.pair_potentials import LennardJones


@pytest.fixture
def crystal():
    """Eight atoms in a skewed cell, smaller than twice the cutoff."""
    atoms = bulk("Ar", cubic=True, a=5.0).repeat((1, 1, 2))
    atoms.set_cell(atoms.cell.array @ [[1, 0.1, 0], [0, 1, 0.05], [0.1, 0, 1]], scale_atoms=True)
    atoms.rattle(0.2, seed=0)
    return atoms


def results(atoms, block_size=None):
    potential = LennardJones.create(("Ar",), 0.0104, 3.4, 6.0)
    positions, cell = jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array)
    species = jnp.zeros(len(atoms), jnp.int32)
    pairs = neighbour_list((True, True, True), 6.0, 0.3).allocate(positions, cell, species)
    return evaluate(potential, positions, cell, species, pairs, block_size=block_size)


def test_against_ase(crystal):
    crystal.calc = ReferenceLennardJones(sigma=3.4, epsilon=0.0104, rc=6.0)
    with jax.enable_x64(True):
        found = results(crystal)
    assert np.asarray(found.site_energies).sum() == pytest.approx(crystal.get_potential_energy())
    np.testing.assert_allclose(found.site_energies, crystal.get_potential_energies(), atol=1e-12)
    np.testing.assert_allclose(found.forces, crystal.get_forces(), atol=1e-12)
    stress = np.asarray(found.virial) / crystal.get_volume()
    np.testing.assert_allclose(stress, crystal.get_stress(voigt=False), atol=1e-12)


def test_blocks_change_only_rounding(crystal):
    with jax.enable_x64(True):
        whole, parts = results(crystal, 8), results(crystal, 3)  # the last block is padded
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, parts)


def test_the_block_fits_the_system_and_the_potential():
    class Costly:
        bytes_per_slot = 2**20

    assert default_block_size(1000, 60, Costly()) < default_block_size(1000, 60)
    assert default_block_size(5, 60) == 5
    assert default_block_size(1000, 10**9) == 1


def test_total_energy_is_a_float64_sum():
    """A float32 sum of −2041.84 eV per atom would lose 0.1 meV on each."""
    sites = np.full(1001, 0.125, np.float32)
    species = np.concatenate([np.zeros(1000, int), [-1]])
    assert total_energy(sites, species, (-2041.8396277,)) == pytest.approx(
        1000 * (0.125 - 2041.8396277), rel=1e-14
    )
