"""Runs on domains are runs on one device: every ensemble, its files, its checkpoints."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from md import LennardJones, simulate

POTENTIAL = LennardJones.create(["Ar"], [[0.0104]], [[3.4]], 6.0)


def crystal():
    return bulk("Ar", "fcc", 5.5, cubic=True) * (4, 4, 4)


def run(domains, steps=100, **settings):
    words = {
        "ensemble": "langevin",
        "temperature_K": 120,
        "timestep_fs": 4,
        "skin": 0.8,
        "dtype": "float64",
        "log_every": 20,
        "trajectory_every": 50,
        "progress": False,
    }
    atoms = settings.pop("atoms", None) or crystal()
    return simulate(POTENTIAL, atoms, steps=steps, domains=domains, **words | settings)


@pytest.fixture(scope="module")
def one():
    return run(None)


@pytest.fixture(scope="module")
def eight():
    return run((2, 2, 2))


def assert_same(ours, theirs, tolerance=1e-9):
    for column in ("temperature_K", "potential_eV", "conserved_eV", "pressure_GPa", "volume_A3"):
        np.testing.assert_allclose(ours.log[column], theirs.log[column], rtol=0, atol=tolerance)
    np.testing.assert_allclose(ours.atoms.positions, theirs.atoms.positions, atol=tolerance)
    np.testing.assert_allclose(ours.atoms.get_momenta(), theirs.atoms.get_momenta(), atol=tolerance)


def assert_same_run(ours, theirs):
    assert_same(ours, theirs)
    for frame, other in zip(ours.frames, theirs.frames, strict=True):
        np.testing.assert_allclose(frame.positions, other.positions, atol=1e-9)
        np.testing.assert_allclose(frame.get_forces(), other.get_forces(), atol=1e-9)


def test_a_trajectory_does_not_depend_on_the_domains(one, eight):
    """Noise belongs to atoms, not to rows: until rounding separates them they are the same."""
    assert_same_run(eight, one)


@pytest.mark.nightly  # test_observed.py has npt, with all that it observes
@pytest.mark.parametrize(
    ("counts", "settings"),
    [
        ((3, 2, 1), {"ensemble": "npt", "pressure_GPa": 0.1}),
        ((1, 1, 3), {"ensemble": "nvt"}),
        ((2, 1, 1), {"ensemble": "bussi", "strain_rate_per_fs": (1e-5, 0, 0)}),
        ("auto", {"ensemble": "mtk", "pressure_GPa": 0.1, "cell": "full"}),
    ],
)
def test_no_ensemble_depends_on_the_domains(counts, settings):
    assert_same_run(run(counts, **settings), run(None, **settings))


def test_thousands_of_migrations_lose_neither_atom_nor_energy():
    """2,000 steps of a hot gas in single precision."""
    atoms = bulk("Ar", "sc", 4.4, cubic=True) * (7, 7, 7)
    atoms.rattle(0.3, seed=2)  # a gas from the start: buffers that fit, which need not grow
    settings = {
        "ensemble": "nve",
        "temperature_K": 2000,
        "dtype": "float32",
        "steps": 2000,
        "trajectory_every": 20,
        "timestep_fs": 4,
        "atoms": atoms,
    }
    one, eight = run(None, **settings), run((2, 2, 2), **settings)
    drifts = []
    for found in (one, eight):
        conserved = found.log["conserved_eV"]
        assert len(found.atoms) == len(atoms)
        drifts.append(np.abs(conserved - conserved[0]).max())
        assert drifts[-1] < 2e-3 * np.mean(found.log["kinetic_eV"])
    assert drifts[1] < 2 * drifts[0] + 1e-3
    # how often an atom was in another half of the box than 20 steps before, along some axis
    half = atoms.cell.lengths() / 2
    halves = np.stack([np.floor(frame.positions / half) for frame in eight.frames])
    assert np.count_nonzero(np.diff(halves, axis=0)) > 2000
    np.testing.assert_allclose(
        np.mean(one.log["temperature_K"]), np.mean(eight.log["temperature_K"]), rtol=0.02
    )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A folder that eight devices left at step 55."""
    folder = tmp_path_factory.mktemp("interrupted")
    run((2, 2, 2), steps=55, output=folder)
    return folder


def test_a_restart_on_the_same_domains_is_exact(interrupted, eight, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "same")
    rest = run((2, 2, 2), output=folder, restart=True)
    np.testing.assert_array_equal(rest.atoms.positions, eight.atoms.positions)
    np.testing.assert_array_equal(rest.atoms.get_momenta(), eight.atoms.get_momenta())


def test_a_run_goes_on_with_other_domains(interrupted, one, tmp_path):
    """From eight devices to three to one, and to none."""
    folder = shutil.copytree(interrupted, tmp_path / "other")
    for domains, steps in (((3, 1, 1), 80), ((1, 1, 1), 100)):
        last = run(domains, steps=steps, output=folder, restart=True)
    np.testing.assert_allclose(last.atoms.positions, one.atoms.positions, atol=1e-9)
    frames = read(folder / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 50, 100]
    np.testing.assert_allclose(frames[2].positions, one.frames[2].positions, atol=1e-6)


def test_buffers_grow_where_a_box_becomes_crowded():
    """All atoms gather at one end: domains overflow, grow, and go on."""
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (3, 3, 3)
    atoms.cell[0, 0] *= 3
    atoms.positions[:, 0] += 1.0
    settings = {"atoms": atoms, "ensemble": "nve", "temperature_K": 400, "steps": 150}
    one, several = run(None, **settings), run((4, 1, 1), **settings)
    assert_same(several, one, 1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replicas": 2}, "replicas"),
        ({"bias": lambda positions, cell: positions.sum()}, "a bias"),
    ],
)
def test_what_domains_cannot_do_is_refused(settings, message):
    with pytest.raises(ValueError, match=f"domains do not go with {message}"):
        run((2, 1, 1), **settings)
