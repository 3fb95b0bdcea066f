"""Groups and deformation in runs: what is held stays, what is pushed goes, energy is accounted."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from md import Group, LennardJones, Stage, simulate, units


@pytest.fixture(scope="module")
def argon():
    with jax.enable_x64(True):
        return LennardJones.create(("Ar", "Kr"), (0.0104, 0.0140), (3.4, 3.65), 6.0)


@pytest.fixture(scope="module")
def crystal():
    atoms = bulk("Ar", "fcc", a=5.4, cubic=True) * (2, 2, 2)
    atoms.symbols[16:] = "Kr"
    return atoms


def run(potential, atoms, *stages, **options):
    settings = {"dtype": "float64", "trajectory_every": 50, "progress": False}
    return simulate(potential, atoms, *stages, **settings | options)


def test_fixed_driven_pushed_and_free_atoms(argon, crystal):
    """The work of the driven atoms closes the balance of energy, under constant energy."""
    atoms = crystal.copy()
    atoms.set_constraint(FixAtoms([0]))
    groups = (
        Group([1, 2], velocity_A_per_fs=(0, 0, 5e-4)),
        Group([9], force_eV_per_A=(0.01, 0, 0), name="pushed"),
    )
    result = run(
        argon, atoms, steps=400, temperature_K=30, timestep_fs=2.0, groups=groups
    )  # fmt: skip
    start, end = result.frames[0], result.frames[-1]
    np.testing.assert_array_equal(end.positions[0], start.positions[0])
    moved = end.positions[[1, 2]] - start.positions[[1, 2]]
    np.testing.assert_allclose(moved, [[0, 0, 0.4]] * 2, atol=1e-12)
    energy = result.log["potential_eV"] + result.log["kinetic_eV"] + result.log["bias_eV"]
    assert np.ptp(result.log["conserved_eV"]) < 0.02 * np.ptp(energy)
    assert result.log["bias_eV"][-1] != 0
    # 29 atoms move freely, and one has a group and thus a temperature of its own
    kelvin = 2 * result.log["kinetic_eV"] / (3 * 29 * units.BOLTZMANN)
    np.testing.assert_allclose(result.log["temperature_K"], kelvin, rtol=1e-12)
    assert np.all(result.log["temperature_pushed_K"] > 0)


def test_an_added_force_accelerates_the_whole(argon):
    atoms = Atoms("Ar2", [[0, 0, 0], [3.9, 0, 0]])
    force = np.array([0.001, 0.002, 0.0])
    group = Group("Ar", force_eV_per_A=force)
    result = run(
        argon, atoms, steps=100, velocities="keep", timestep_fs=2.0, groups=(group,)
    )  # fmt: skip
    time = 200 * units.FEMTOSECOND
    np.testing.assert_allclose(result.atoms.get_momenta().sum(axis=0), 2 * force * time, rtol=1e-9)
    assert np.ptp(result.log["conserved_eV"]) < 1e-6


def test_each_group_has_the_temperature_of_its_bath(argon, crystal):
    groups = (Group("Kr", name="krypton", temperature_K=20, friction_per_fs=0.05),)
    result = run(
        argon, crystal, steps=3000, ensemble="langevin", temperature_K=60, timestep_fs=4.0,
        friction_per_fs=0.05, groups=groups, trajectory_every=0,
    )  # fmt: skip
    late = result.log["step"] > 500
    # two baths, joined by the crystal: each pulls its own atoms towards its own temperature
    cold, mean = (result.log[f"temperature{n}_K"][late].mean() for n in ("_krypton", ""))
    assert 18 < cold < 33 and 38 < 2 * mean - cold < 62


def test_atoms_that_no_thermostat_touches(argon, crystal):
    """Without a bath of their own, and far from the others, atoms keep their energy."""
    atoms = Atoms("ArAr", [[0, 0, 0], [50.0, 0, 0]])
    atoms.set_velocities([[0.01, 0, 0], [0.01, 0, 0]])
    result = run(
        argon, atoms, steps=50, ensemble="langevin", temperature_K=300, timestep_fs=2.0,
        velocities="keep", groups=(Group([1], thermostat=False),),
    )  # fmt: skip
    momenta = result.atoms.get_momenta()
    np.testing.assert_allclose(momenta[1], atoms.get_momenta()[1], rtol=1e-12)
    assert not np.allclose(momenta[0], atoms.get_momenta()[0], rtol=1e-3)


def test_deformation_follows_the_strain_rate(argon, crystal):
    rate = np.array([[1e-5, 2e-5, 0], [0, 0, 0], [0, 0, -1e-5]])
    result = run(
        argon, crystal, steps=500, temperature_K=10, timestep_fs=4.0, strain_rate_per_fs=rate
    )  # fmt: skip
    expected = crystal.cell.array @ (np.eye(3) + rate * 2000)
    np.testing.assert_allclose(result.atoms.cell.array, expected, atol=1e-9)
    # the work done on the cell is what the energy rose by
    energy = result.log["potential_eV"] + result.log["kinetic_eV"]
    assert np.ptp(result.log["conserved_eV"]) < 0.01 * np.ptp(energy)


def test_the_conserved_energy_has_no_steps_between_stages(argon, crystal):
    stages = [
        Stage(100, "langevin", 30, timestep_fs=2.0),
        Stage(100, "nvt", (30, 60), timestep_fs=2.0),
        Stage(100, "nve", 60, timestep_fs=2.0, velocities="draw"),
        Stage(100, "npt", (60, 40), timestep_fs=2.0, pressure_GPa=0.01, cell="anisotropic"),
    ]
    result = run(argon, crystal, stages)
    log = result.log
    assert np.ptp(log["conserved_eV"]) < 0.002 < np.ptp(log["kinetic_eV"])
    np.testing.assert_allclose(log["time_fs"], 2.0 * log["step"])
    assert np.isnan(log["target_temperature_K"][25]) and log["target_temperature_K"][15] == 45
    np.testing.assert_allclose(log["target_pressure_GPa"][-1], 0.01)


def test_rotation_is_removed(argon):
    rng = np.random.default_rng(0)
    atoms = Atoms("Ar5", rng.normal(0, 3, (5, 3)) + [[4 * i, 0, 0] for i in range(5)])
    result = run(
        argon, atoms, steps=20, ensemble="langevin", temperature_K=20, timestep_fs=2.0,
        remove_rotation_every=5, remove_drift_every=5,
    )  # fmt: skip
    assert np.ptp(result.log["conserved_eV"]) < 0.02 * np.ptp(result.log["kinetic_eV"])
    for frame in (result.frames[0], result.atoms):
        np.testing.assert_allclose(frame.get_angular_momentum(), 0, atol=1e-8)
        np.testing.assert_allclose(frame.get_momenta().sum(axis=0), 0, atol=1e-10)
