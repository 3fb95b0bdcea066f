"""Forces, stress and virials against finite differences, and every kind of structure."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from allegro_jax.neighbour_search import dense, neighbour_pairs
from allegro_jax.potential import AllegroPotential, SinglePoint
from md.evaluation import centre_virials, evaluate_vectors, neighbour_virials, pair_gradients


@pytest.fixture(scope="module")
def single_point(tiny_config, random_params):
    """One for all tests, with capacities ample enough to compile once."""
    with jax.enable_x64(True):
        evaluate = SinglePoint(
            AllegroPotential(random_params(tiny_config, np.float64), tiny_config)
        )
        evaluate.atoms_capacity, evaluate.slots_capacity = 12, 80
        yield evaluate


@pytest.fixture
def crystal():
    """A triclinic cell smaller than the cutoff: atoms see several images of each other."""
    atoms = Atoms("OHH", [[0, 0, 0.1], [1.1, 0.7, 0], [0.2, 1.4, 1.3]], pbc=True)
    atoms.cell = [[2.9, 0.1, 0.0], [0.7, 3.1, 0.2], [-0.3, 0.4, 2.7]]
    return atoms


@pytest.fixture
def structures(water, crystal):
    slab = crystal.copy()
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    return {"molecule": water, "crystal": crystal, "slab": slab}


def strained(atoms, strain):
    moved = atoms.copy()
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return moved


@pytest.mark.parametrize("kind", ["molecule", "crystal", "slab"])
def test_forces_are_the_gradient(single_point, structures, kind):
    atoms = structures[kind]
    forces = single_point(atoms)["forces"]
    step = 1e-4
    for atom, axis in ((0, 0), (1, 2), (2, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(single_point(moved)["energy"])
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(numeric, abs=2e-6)
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-11)


def test_stress_is_the_strain_derivative(single_point, crystal):
    stress = single_point(crystal)["stress"]
    step = 1e-5
    for component, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
        strain = np.zeros((3, 3))
        strain[i, j] += step / 2
        strain[j, i] += step / 2
        energies = [single_point(strained(crystal, s * strain))["energy"] for s in (1, -1)]
        numeric = (energies[0] - energies[1]) / (2 * step) / crystal.cell.volume
        assert stress[component] == pytest.approx(numeric, abs=1e-6)


def test_stress_by_strain_and_by_pair_gradients_agree(single_point, crystal):
    """Automatic differentiation through a strained cell against the sum of r ⊗ g."""
    with jax.enable_x64(True):
        potential = single_point.potential
        species = np.array([1, 0, 0], np.int32)
        pairs = neighbour_pairs(crystal.positions, crystal.cell.array, True, potential.cutoff)
        neighbours, vectors, mask = map(jnp.asarray, dense(pairs, 3, 80))
        params = jax.tree.map(jnp.asarray, potential.params)

        @jax.jit
        def by_strain(strain):
            return potential.site_energies(
                params, vectors @ (jnp.eye(3) + strain), mask, jnp.asarray(species),
                jnp.asarray(species)[neighbours],
            ).sum()  # fmt: skip

        virial = jax.grad(by_strain)(jnp.zeros((3, 3)))
    np.testing.assert_allclose(virial, virial.T, atol=1e-10)  # rotation costs nothing
    found = np.asarray(virial)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] / crystal.cell.volume
    np.testing.assert_allclose(single_point(crystal)["stress"], found, atol=1e-12)


def test_per_atom_virials(single_point, crystal):
    """Both forms sum to −V·σ; the centre form is minus the strain derivative of a site energy."""
    results = single_point(crystal, virials=True)
    total = results["virials"].sum(0)
    stress = results["stress"]
    voigt = total[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    np.testing.assert_allclose(voigt, -stress * crystal.cell.volume, atol=1e-10)

    with jax.enable_x64(True):
        potential = single_point.potential
        species = jnp.array([1, 0, 0])
        pairs = neighbour_pairs(crystal.positions, crystal.cell.array, True, potential.cutoff)
        neighbours, vectors, mask = map(jnp.asarray, dense(pairs, 3, 80))
        compiled = jax.jit(lambda p, v: pair_gradients(p, v, mask, species, species[neighbours]))
        _, gradients = compiled(potential, vectors)
        on_centres = np.asarray(centre_virials(vectors, gradients))
        on_neighbours = np.asarray(neighbour_virials(vectors, gradients, neighbours, mask))
        np.testing.assert_allclose(on_neighbours, results["virials"], atol=1e-10)
        step = 1e-5
        strain = np.zeros((3, 3))
        strain[0, 1] = step
        energies = [
            np.asarray(compiled(potential, vectors @ jnp.asarray(np.eye(3) + s * strain))[0])
            for s in (1, -1)
        ]
    numeric = -(energies[0] - energies[1]) / (2 * step)
    np.testing.assert_allclose(on_centres[:, 0, 1], numeric, atol=1e-6)
    np.testing.assert_allclose(on_centres.sum(0), on_neighbours.sum(0), atol=1e-10)


def test_block_size_changes_nothing(single_point, crystal):
    with jax.enable_x64(True):
        potential = single_point.potential
        atoms = crystal.repeat((1, 1, 3))
        species = jnp.asarray([1, 0, 0] * 3, jnp.int32)
        pairs = neighbour_pairs(atoms.positions, atoms.cell.array, True, potential.cutoff)
        neighbours, vectors, mask = map(jnp.asarray, dense(pairs, 9, 80))
        one, four = (
            jax.jit(
                lambda p, v, size=size: evaluate_vectors(
                    p, v, neighbours, mask, species, block_size=size
                )
            )(potential, vectors)
            for size in (9, 4)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), one, four)
    single = single_point(crystal)
    np.testing.assert_allclose(np.asarray(one.forces)[:3], single["forces"], atol=1e-10)


def test_absolute_energies_keep_their_digits(single_point, tiny_config, water):
    """−2041.84 eV per oxygen: the sum over atoms is exact to float64, whatever the model's type."""
    shifts = dict(zip(tiny_config.species, tiny_config.per_species("species_shifts"), strict=True))
    apart = Atoms("OH", [[0, 0, 0], [0, 0, 30.0]])
    assert single_point(apart)["energy"] == shifts["O"] + shifts["H"]
    results = single_point(water)
    assert results["energies"].sum() == pytest.approx(results["energy"], abs=1e-9)


def test_edge_cases(single_point):
    """Single atoms, atoms without neighbours, no atoms, and atoms outside the cell."""
    alone = single_point(Atoms("O"))
    assert (alone["forces"] == 0).all()
    assert "stress" not in alone
    nothing = single_point(Atoms())
    assert nothing["energy"] == 0
    assert nothing["forces"].shape == (0, 3)
    periodic = Atoms("O", cell=[9, 9, 9], pbc=True)
    np.testing.assert_array_equal(single_point(periodic)["stress"], 0)

    inside = bulk("O", "bcc", a=2.6, cubic=True)
    inside.rattle(0.1, seed=0)
    outside = inside.copy()
    outside.positions[0] += 5 * inside.cell[0] - 3 * inside.cell[2]
    np.testing.assert_allclose(
        single_point(outside)["forces"], single_point(inside)["forces"], atol=1e-10
    )


def test_one_compilation_until_capacities_grow(single_point, water, crystal):
    before = single_point.compilations
    single_point(water)
    single_point(crystal)
    assert single_point.compilations == before


def test_what_makes_no_sense_is_refused(single_point, water):
    with pytest.raises(ValueError, match="the potential knows H, O, not Si"):
        single_point(Atoms("OSi", [[0, 0, 0], [0, 0, 2.0]]))
    broken = water.copy()
    broken.positions[3, 1] = np.nan
    with pytest.raises(ValueError, match="atom 3 is not at a finite place"):
        single_point(broken)
    coincident = water.copy()
    coincident.positions[4] = coincident.positions[3]
    with pytest.raises(ValueError, match="atoms 3 and 4 are in one place"):
        single_point(coincident)
