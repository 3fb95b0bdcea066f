"""Faces of domains shift until loads are equal, and nothing else changes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from allegro_jax.cli import main
from md import LennardJones, simulate, structures
from md.domains import allocation, balance, loads, placement
from md.domains.grid import Grid
from md.domains.loads import Loads

SKIN, REACH = 0.6, 5.6
POTENTIAL = """
potential: lennard-jones
species: [Ar]
epsilon_eV: {Ar: 0.0104}
sigma_A: {Ar: 3.40}
cutoff_A: 5.0
"""


def slab():
    """A crystal in the lower third of a box: two of four domains along z are nearly empty."""
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (3, 3, 6)
    atoms.cell[2, 2] *= 3
    atoms.rattle(0.02, seed=1)
    return atoms


def run(domains, **settings):
    words = {
        "steps": 100,
        "ensemble": "nve",
        "temperature_K": 90,
        "timestep_fs": 4,
        "skin": SKIN,
        "dtype": "float64",
        "log_every": 20,
        "trajectory_every": 50,
        "progress": False,
    }
    with jax.enable_x64(True):
        potential = LennardJones.create(["Ar"], [[0.0104]], [[3.4]], 5.0)
    return simulate(potential, slab(), domains=domains, **words | settings)


@pytest.fixture(scope="module")
def alone():
    return run(None)


@pytest.fixture(scope="module")
def balanced():
    return run((1, 1, 4), balance=40)


def counted(simulation) -> Loads:
    """Atoms and ghosts of each domain along z where its list was built, by numpy alone."""
    listed, cell = simulation.neighbours, simulation.atoms.cell.array
    geometry = Grid.fetched(listed.geometry)
    fields = {
        "ids": simulation.state.ids,
        "images": simulation.state.images,
        "positions": listed.reference_positions,
    }
    places = placement.in_order(Grid.fetched(fields), cell, geometry)["positions"]
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    copies = (places % cell.diagonal() + (shifts @ cell)[:, None]).reshape(-1, 3)
    faces = np.concatenate([[0], np.cumsum(geometry.widths[2])]) * cell[2, 2]

    def within(z, margin):
        lower = np.array([0, 0, faces[z]]) - margin
        upper = np.array([cell[0, 0], cell[1, 1], faces[z + 1]]) + margin
        return np.count_nonzero(np.all((copies >= lower) & (copies < upper), axis=1))

    own = np.array([within(z, 0) for z in range(4)])
    return Loads(own, np.array([within(z, REACH) for z in range(4)]) - own)


def test_the_imbalance_of_a_slab_falls(balanced):
    place = slab().positions, slab().cell.array
    equal = placement.cut(*place, (True,) * 3, (1, 1, 4), "float64")
    assert loads.imbalance(placement.populations(*place, equal)) > 2.9
    assert balanced.imbalance < 1.1
    expected = counted(balanced)
    np.testing.assert_array_equal(balanced.loads.atoms, expected.atoms)
    np.testing.assert_array_equal(balanced.loads.ghosts, expected.ghosts)
    widths = np.asarray(balanced.neighbours.geometry.widths[2])
    assert widths.sum() == 1 and widths.min() * slab().cell[2, 2] > 1.09 * REACH
    assert balanced.neighbours.capacities.atoms < 120  # of 216: memory is given back


def test_the_trajectory_stays_the_same(balanced, alone):
    for column in ("temperature_K", "potential_eV", "conserved_eV", "pressure_GPa"):
        np.testing.assert_allclose(balanced.log[column], alone.log[column], rtol=0, atol=1e-9)
    np.testing.assert_allclose(balanced.atoms.positions, alone.atoms.positions, atol=1e-9)
    for ours, theirs in zip(balanced.frames, alone.frames, strict=True):
        np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-9)
        np.testing.assert_allclose(ours.get_forces(), theirs.get_forces(), atol=1e-9)
        np.testing.assert_allclose(ours.get_momenta(), theirs.get_momenta(), atol=1e-9)


def test_a_restart_goes_on_from_the_faces_there_are(balanced, tmp_path, capsys, monkeypatch):
    """By the command, first with shifting faces, then, cut off at a look, without."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lj.yaml").write_text(POTENTIAL)
    run((1, 1, 4), balance=40, output="out", steps=80)
    slab().write("slab.extxyz")
    command = "md lj.yaml slab.extxyz --output out --domains 1,1,4 --skin 0.6 --timestep 4"
    command += " --temperature 90 --dtype float64 --log-every 20 --trajectory-every 50 --restart"
    assert main([*command.split(), "--steps", "100", "--balance", "40", "--no-progress"]) == 0
    fullest = balanced.loads.atoms.max(), balanced.loads.ghosts.max()
    expected = "4 domains, imbalance {:.2f}: at most {} atoms and {} ghosts".format(
        balanced.imbalance, *fullest
    )
    assert expected in capsys.readouterr().out
    last = run((1, 1, 4), output="out", steps=100, restart=True)
    assert last.loads.atoms.tolist() == balanced.loads.atoms.tolist()
    np.testing.assert_array_equal(last.atoms.positions, balanced.atoms.positions)
    np.testing.assert_array_equal(last.atoms.get_momenta(), balanced.atoms.get_momenta())
    for ours, theirs in zip(
        last.neighbours.geometry.widths, balanced.neighbours.geometry.widths, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def cluster(pbc, seed=4):
    """Atoms that crowd in one corner of a skewed box, or in space."""
    random = np.random.default_rng(seed)
    cell = np.array([[40, 0, 0], [9, 41, 0], [-8, 7, 42]]) if pbc else np.eye(3) * 40
    scaled = random.random((900, 3)) ** 1.3
    scaled[:40] += random.integers(-2, 3, (40, 3)) if pbc else 0
    return Atoms("Ar900", scaled @ cell, cell=cell, pbc=pbc)


@pytest.mark.parametrize(
    ("pbc", "counts", "precision", "tolerance"),
    [
        (True, (3, 2, 1), "float32", 2e-5),
        pytest.param(False, (2, 2, 2), "float64", 1e-10, marks=pytest.mark.nightly),
    ],
)
def test_atoms_keep_all_they_have_in_any_box(pbc, counts, precision, tolerance):
    atoms = cluster(pbc)
    with jax.enable_x64(precision == "float64"):
        state = structures.state_from_atoms(atoms, ("Ar",), np.zeros((900, 3)), 0, precision)
        number = jnp.arange(900, dtype=precision)
        vectors = jnp.stack([number, -number, number**2], axis=1)
        state = state.replace(momenta=vectors, forces=2 * vectors, site_energies=3 * number)
        grid = placement.grid_for(atoms, counts, REACH)
        place = atoms.positions, atoms.cell.array
        geometry = placement.cut(*place, state.pbc, grid.counts, precision)
        before = placement.populations(*place, geometry)
        rows = allocation.rows_for(int(before.max()), grid.domains)
        spread = placement.placed(state, atoms.positions, grid, geometry, rows)
        after, moved = balance.shifted(spread, geometry, grid, REACH, (1, 1, 1))
        numbers = np.asarray(loads.populations(after, grid))
        names = ("positions", "images", "momenta", "forces", "site_energies", "ids", "masses")
        fields = Grid.fetched({name: getattr(after, name) for name in names})
    np.testing.assert_array_equal(numbers, placement.populations(*place, moved))
    assert numbers.sum() == 900
    assert loads.imbalance(before) > 1.3 and loads.imbalance(numbers) < 1.15
    found = placement.in_order(fields, atoms.cell.array, moved)
    np.testing.assert_array_equal(found["ids"], np.arange(900))
    np.testing.assert_allclose(found["positions"], atoms.positions, atol=tolerance)
    for name in ("momenta", "forces", "site_energies", "masses"):
        np.testing.assert_array_equal(found[name], np.asarray(getattr(state, name)), err_msg=name)
    for d, height in enumerate(1 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)):
        assert counts[d] == 1 or moved.widths[d].min() * (height if pbc else 1) > REACH


def test_balance_without_domains_is_refused():
    with pytest.raises(ValueError, match="balance shifts the faces of domains: give domains too"):
        run(None, balance=10)
    with pytest.raises(ValueError, match="balance must be at least 0, not -10"):
        run((1, 1, 4), balance=-10)
