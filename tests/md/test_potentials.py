"""Potentials against formulas written out in NumPy, finite differences and analytic lattices."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from md import ZBL, HarmonicLattice, LennardJones, LocalPotential, Morse, Sum, units
from md.evaluation import evaluate
from md.neighbours import neighbour_list

SPECIES = ("Ar", "Kr")
EPSILON, SIGMA = np.array([0.0104, 0.0140]), np.array([3.40, 3.65])


def lennard_jones() -> LennardJones:
    return LennardJones.create(SPECIES, EPSILON, SIGMA, 6.0)


def morse() -> Morse:
    distance = [[3.4, 3.6], [3.6, 3.9]]
    return Morse.create(SPECIES, [[0.1, 0.2], [0.2, 0.3]], 1.5, distance, 5.0)


def zbl() -> ZBL:
    return ZBL.create(SPECIES, 2.5, 4.5)


def springs() -> HarmonicLattice:
    return HarmonicLattice.crystal(SPECIES, "fcc", 5.3, 2.0, 0.3)


POTENTIALS = {
    "lennard-jones": lennard_jones,
    "morse": morse,
    "zbl": zbl,
    "harmonic lattice": springs,
    "sum": lambda: Sum.create(lennard_jones(), morse(), zbl()),
}


@pytest.fixture(scope="module")
def mixture():
    """A crystal of 32 atoms of two species, shaken, in a slightly skewed cell."""
    atoms = bulk("Ar", cubic=True, a=5.3).repeat(2)
    atoms.symbols[::3] = "Kr"
    atoms.set_cell(atoms.cell.array @ [[1, 0.02, 0], [0, 1, 0.01], [0.01, 0, 1]], scale_atoms=True)
    atoms.rattle(0.08, seed=1)
    return atoms


def indices(atoms):
    return jnp.asarray([SPECIES.index(symbol) for symbol in atoms.symbols])


@pytest.fixture(scope="module")
def pairs(mixture):
    """One list for all potentials, with room for small displacements."""
    with jax.enable_x64(True):
        return neighbour_list(True, 6.0, 0.3).allocate(
            jnp.asarray(mixture.positions), jnp.asarray(mixture.cell.array), indices(mixture)
        )


def results(potential, atoms, pairs):
    positions, cell = jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array)
    return compiled(potential, positions, cell, indices(atoms), pairs)


compiled = jax.jit(evaluate)


def dimer(potential, distances, pair=(0, 1)):
    """The energy of two atoms, eV, at each distance."""
    count = len(distances)
    sites = jax.jit(type(potential).site_energies)(
        potential,
        potential.params,
        jnp.asarray(distances)[:, None, None] * jnp.array([0.6, 0.0, 0.8]),
        jnp.ones((count, 1), bool),
        jnp.full(count, pair[0]),
        jnp.full((count, 1), pair[1]),
    )
    return 2 * np.asarray(sites)


@pytest.mark.parametrize("name", POTENTIALS)
def test_forces_and_virial_are_derivatives(mixture, pairs, name):
    """Central differences of the energy along one random displacement and one strain."""
    rng = np.random.default_rng(0)
    step, direction = 1e-4, rng.normal(size=(len(mixture), 3))
    strain = rng.normal(size=(3, 3))
    with jax.enable_x64(True):
        potential = POTENTIALS[name]()
        found = results(potential, mixture, pairs)

        def energy(scale, strained):
            moved = mixture.copy()
            if strained:
                moved.set_cell(moved.cell.array @ (np.eye(3) + scale * strain), scale_atoms=True)
            else:
                moved.positions += scale * direction
            return float(jnp.sum(results(potential, moved, pairs).site_energies))

        slope = (energy(step, False) - energy(-step, False)) / (2 * step)
        strained = (energy(step / 10, True) - energy(-step / 10, True)) / (step / 5)
    assert -np.sum(np.asarray(found.forces) * direction) == pytest.approx(slope, rel=1e-5, abs=1e-7)
    assert np.sum(np.asarray(found.virial) * strain) == pytest.approx(strained, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_seam_is_kept(mixture, name):
    """Padding has no energy, skins add nothing, values and gradients stay finite."""
    potential = POTENTIALS[name]()
    assert isinstance(potential, LocalPotential)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 6, 3)) * 3
    vectors[0, 0] = 0
    vectors[1, :3] *= potential.cutoff / np.linalg.norm(vectors[1, :3], axis=-1)[:, None] + 0.01
    mask = rng.random((4, 6)) < 0.7
    mask[0, 0] = False
    mask[1, :3] = True
    species = jnp.array([0, 1, -1, 1])
    others = jnp.asarray(rng.integers(0, 2, (4, 6)))

    @jax.jit
    def total(vectors, mask):
        found = potential.site_energies(potential.params, vectors, mask, species, others)
        return jnp.sum(found), found

    given = jnp.asarray(vectors, jnp.float32)
    (_, sites), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(
        given, jnp.asarray(mask)
    )
    assert np.isfinite(sites).all() and np.isfinite(gradients).all()
    assert sites[2] == 0 and not gradients[2].any()
    assert not gradients[~mask].any() and not gradients[1, :3].any()
    mask[1, :3] = False
    assert float(total(given, jnp.asarray(mask))[1][1]) == pytest.approx(float(sites[1]), rel=1e-6)


@pytest.mark.parametrize("name", POTENTIALS)
def test_pairs_may_be_seen_from_one_side(mixture, pairs, name):
    """Forces from both ends of each pair are those that the general sum gives."""
    with jax.enable_x64(True):
        potential = POTENTIALS[name]()
        assert potential.pairwise
        kind = type(potential)
        general = type(kind.__name__, (kind,), {"pairwise": False})
        fields = {f.name: getattr(potential, f.name) for f in dataclasses.fields(potential)}
        jax.tree_util.register_dataclass(
            general, ["params"], [field for field in fields if field != "params"]
        )
        short, long = results(potential, mixture, pairs), results(general(**fields), mixture, pairs)
    np.testing.assert_allclose(short.forces, long.forces, atol=1e-13)


def test_mixture_by_the_formula():
    r, cutoff = np.array([3.0, 3.7, 5.9, 6.1]), 6.0
    epsilon, sigma = np.sqrt(EPSILON.prod()), SIGMA.mean()

    def u(r):
        return 4 * epsilon * ((sigma / r) ** 12 - (sigma / r) ** 6)

    with jax.enable_x64(True):
        found = dimer(lennard_jones(), r)
        table = LennardJones.create(SPECIES, [[0.01, 0.02], [0.02, 0.03]], 3.0, cutoff)
        (well,) = dimer(table, [3.0 * 2 ** (1 / 6)])
    np.testing.assert_allclose(found, np.where(r < cutoff, u(r) - u(cutoff), 0), rtol=1e-12)
    assert well + 4 * 0.02 * (0.5**12 - 0.5**6) == pytest.approx(-0.02)


def test_morse_well():
    """Depth, distance and curvature 2Da² of the well."""
    with jax.enable_x64(True):
        potential = morse()
        h = 1e-4
        below, bottom, above = dimer(potential, 3.6 + h * np.array([-1, 0, 1]))
        end = float(dimer(potential, [5 - 1e-9])[0])
    decay = np.exp(-1.5 * (5.0 - 3.6))
    assert end == pytest.approx(0, abs=1e-9)
    assert bottom == pytest.approx(-0.2 - 0.2 * decay * (decay - 2), rel=1e-12)
    assert (below - 2 * bottom + above) / h**2 == pytest.approx(2 * 0.2 * 1.5**2, rel=1e-4)


def test_zbl_ends_smoothly():
    """Energy, force and curvature vanish at the cutoff; nothing jumps where switching starts."""
    with jax.enable_x64(True):
        potential = zbl()
        near = dimer(potential, 4.5 - np.array([0.002, 0.001, 1e-9]))
        inner = dimer(potential, 2.5 + np.array([-1e-7, 1e-7]))
    assert np.abs(near).max() < 1e-6 and near[0] / near[1] == pytest.approx(8, rel=0.02)  # cubic
    assert inner[0] == pytest.approx(inner[1], rel=1e-5)
    with pytest.raises(ValueError, match="inner"):
        ZBL.create(SPECIES, 5.0, 4.0)


def test_sums_add_and_keep_each_cutoff(mixture, pairs):
    with jax.enable_x64(True):
        parts = (lennard_jones(), zbl())
        both, first, second = (results(p, mixture, pairs) for p in (Sum.create(*parts), *parts))
    total = jax.tree.map(lambda a, b: np.asarray(a + b), first, second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), both, total)


def test_sums_of_directed_cutoffs_and_references():
    @dataclasses.dataclass(frozen=True)
    class Pruned:
        params: float | None = 0.0
        species: tuple[str, ...] = SPECIES
        cutoff: float = 7.0
        pair_cutoffs: tuple[tuple[float, ...], ...] | None = ((7.0, 2.0), (9.0, 6.5))
        reference_energies: tuple[float, ...] = (-1.0, -2.0)

        def site_energies(self, params, vectors, mask, centre_species, neighbour_species):
            return jnp.full(len(vectors), params)

    total = Sum.create(Pruned(), lennard_jones(), Pruned())  # type: ignore
    assert total.cutoff == 7.0
    assert total.pair_cutoffs == ((7.0, 6.0), (7.0, 6.5))
    assert total.reference_energies == (-2.0, -4.0)
    assert not total.pairwise
    with pytest.raises(ValueError, match="same species"):
        Sum.create(lennard_jones(), ZBL.create(("Kr", "Ar"), 1.0, 2.0))


def test_a_learned_potential_takes_a_repulsion(tiny_model, water):
    """A sum with weights of a network: what each gives alone, and it compiles."""
    learned = tiny_model.potential
    nuclei = ZBL.create(learned.species, 0.5, 3.0)
    total = Sum.create(learned, nuclei)
    assert total.reference_energies == learned.reference_energies and not total.pairwise
    positions, cell = jnp.asarray(water.positions, jnp.float32), jnp.eye(3)
    species = jnp.asarray([learned.species.index(symbol) for symbol in water.symbols])
    pairs = neighbour_list(False, total.cutoff).allocate(positions, cell, species)
    both, first, second = (
        compiled(p, positions, cell, species, pairs).forces for p in (total, learned, nuclei)
    )
    np.testing.assert_allclose(both, first + second, atol=2e-5 * np.abs(both).max())


@pytest.mark.parametrize(("structure", "bonds"), [("sc", 6), ("bcc", 8), ("fcc", 12)])
def test_lattices_have_their_bonds(structure, bonds):
    lattice = HarmonicLattice.crystal(("Cu",), structure, 3.6, 1.0)
    vectors = np.asarray(lattice.params["bonds"])
    assert vectors.shape == (bonds, 3)
    nearest = {"sc": 1, "bcc": 3**0.5 / 2, "fcc": 0.5**0.5}[structure]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 3.6 * nearest, rtol=1e-6)


@pytest.fixture(scope="module")
def copper():
    with jax.enable_x64(True):
        return HarmonicLattice.crystal(("Cu",), "fcc", 3.6, 2.0, 0.25)


def of_copper(lattice, atoms):
    """Forces and virial on a crystal of 96 atoms."""
    positions, cell = jnp.asarray(atoms.positions), jnp.asarray(atoms.cell.array)
    species = jnp.zeros(len(atoms), jnp.int32)
    pairs = neighbour_list(True, lattice.cutoff).allocate(positions, cell, species)
    return compiled(lattice, positions, cell, species, pairs)


def test_frozen_phonons_have_the_analytic_frequencies(copper):
    """Forces of a plane wave u = e cos(q·R) are −m D(q) u, with any amplitude."""
    atoms = bulk("Cu", cubic=True, a=3.6).repeat((2, 3, 4))
    q = 2 * np.pi * np.linalg.solve(atoms.cell.array, [1, -1, 2])
    polarisation = np.array([0.3, -0.1, 0.2])
    wave = polarisation * np.cos(atoms.positions @ q)[:, None]
    moved = atoms.copy()
    moved.positions += wave
    with jax.enable_x64(True):
        found = of_copper(copper, moved)
    matrix = copper.dynamical_matrix(q[None], mass=1.0)[0]
    np.testing.assert_allclose(found.forces, -wave @ matrix, atol=1e-12)


def test_sound_of_the_lattice_is_that_of_its_elastic_constants():
    """Central springs k on an fcc crystal: C11 = 2k/a, C12 = C44 = k/a; ρω² = C q²."""
    lattice, mass, q = HarmonicLattice.crystal(("Cu",), "fcc", 3.6, 2.0), 63.546, 1e-3
    matrix = lattice.dynamical_matrix(np.array([[q, 0, 0], [q, q, 0]]), mass)
    density = 4 * mass / 3.6**3
    along_100, along_110 = density * np.linalg.eigvalsh(matrix) / q**2
    one = 2.0 / 3.6
    np.testing.assert_allclose(along_100, [one, one, 2 * one], rtol=1e-5)
    # [110]: C11 − C12, 2 C44, C11 + C12 + 2 C44
    np.testing.assert_allclose(along_110, [one, 2 * one, 5 * one], rtol=1e-5)


def test_strained_lattice_has_the_stress_of_its_elastic_constants():
    atoms = bulk("Cu", cubic=True, a=3.6).repeat((2, 3, 4))
    with jax.enable_x64(True):
        lattice = HarmonicLattice.crystal(("Cu",), "fcc", 3.6, 2.0)
        strain = 1e-6 * np.array([[1.0, 0.2, 0], [0.2, -0.5, 0.1], [0, 0.1, 0.3]])
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        virial = np.asarray(of_copper(lattice, atoms).virial)
    one = 2.0 / 3.6
    expected = one * (np.trace(strain) * np.eye(3) + 2 * strain)
    expected[np.diag_indices(3)] -= one * np.diag(strain)  # C11 − C12 = k/a, not 2 C44
    np.testing.assert_allclose(virial / (24 * 3.6**3), expected, atol=1e-11)


def test_frequencies_are_in_the_engines_units(copper):
    """A zone-boundary longitudinal mode of argon-like springs is of the order of terahertz."""
    edge = np.array([[2 * np.pi / 3.6, 0, 0]])
    omega = np.sqrt(np.linalg.eigvalsh(copper.dynamical_matrix(edge, 63.546))[0, -1])
    assert omega == pytest.approx(np.sqrt(8 * (2.0 + 0.25) / 63.546))
    assert 0.5 < 1000 * omega * units.FEMTOSECOND / (2 * np.pi) < 20
