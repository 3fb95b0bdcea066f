"""The run loop: same physics as ASE, nothing lost on overflow, restarts, stops, files."""

from __future__ import annotations

import ase.io
import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as ReferenceLennardJones
from ase.md.verlet import VelocityVerlet

from md import LennardJones, SimulationError, simulate, units
from md.observables import LOG_COLUMNS

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 6.0
TABLE = [[3.0]]  # passed by nearly every test, so that they share one compiled program


@pytest.fixture(scope="module")
def potential() -> LennardJones:
    with jax.enable_x64(True):
        return LennardJones.create(("Ar",), EPSILON, SIGMA, CUTOFF)


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """16 atoms in a triclinic cell that is smaller than twice the cutoff, some far outside it."""
    atoms = bulk("Ar", "fcc", a=5.4) * (4, 2, 2)
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(0, 0.05, (16, 3))
    atoms.positions[3] += [3, -2, 1] @ atoms.cell.array
    momenta = rng.normal(0, 0.25, (16, 3))
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    return atoms


def run(potential, atoms, **options):
    settings = {
        "steps": 60,
        "timestep_fs": 4.0,
        "velocities": "keep",
        "dtype": "float64",
        "trajectory_every": 20,
        "shortest_distances": TABLE,
        "progress": False,
    }
    return simulate(potential, atoms, **settings | options)


def by_ase(atoms, steps, timestep_fs=4.0):
    atoms = atoms.copy()
    atoms.calc = ReferenceLennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
    dynamics = VelocityVerlet(atoms, timestep_fs * units.FEMTOSECOND)
    energies = [atoms.get_potential_energy()]
    for _ in range(steps):
        dynamics.run(1)
        energies.append(atoms.get_potential_energy())
    return atoms, np.asarray(energies)


@pytest.fixture(scope="module")
def reference(potential, crystal):
    return run(potential, crystal)


def test_same_trajectory_as_ase(reference, crystal):
    expected, energies = by_ase(crystal, 60)
    np.testing.assert_allclose(reference.atoms.positions, expected.positions, atol=1e-9)
    np.testing.assert_allclose(reference.atoms.get_momenta(), expected.get_momenta(), atol=1e-9)
    np.testing.assert_allclose(reference.atoms.get_stress(), expected.get_stress(), atol=1e-10)
    np.testing.assert_allclose(reference.log["potential_eV"], energies[::10], atol=1e-9)


def test_log_and_frames(reference, crystal):
    log = reference.log
    assert list(log) == list(LOG_COLUMNS)
    np.testing.assert_array_equal(log["step"], np.arange(0, 61, 10))
    np.testing.assert_allclose(log["time_fs"], 4.0 * log["step"])
    np.testing.assert_allclose(log["volume_A3"], crystal.get_volume(), rtol=1e-12)
    total = log["potential_eV"] + log["kinetic_eV"]
    np.testing.assert_allclose(log["conserved_eV"], total, rtol=1e-12)
    kelvin = 2 * log["kinetic_eV"] / (45 * units.BOLTZMANN)
    np.testing.assert_allclose(log["temperature_K"], kelvin, rtol=1e-12)
    assert [frame.info["step"] for frame in reference.frames] == [0, 20, 40, 60]
    last = reference.frames[-1]
    pressure = (
        2 * last.get_kinetic_energy() / (3 * last.get_volume()) - last.get_stress()[:3].mean()
    )
    assert log["pressure_GPa"][-1] == pytest.approx(pressure / units.GIGAPASCAL, rel=1e-9)


def test_energy_error_falls_as_the_square_of_the_time_step(potential, crystal):
    errors = []
    for timestep in (8.0, 4.0):
        log = run(potential, crystal, timestep_fs=timestep, steps=int(480 / timestep)).log
        errors.append(np.std(log["conserved_eV"]))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.4)


def test_time_reversal(potential, reference, crystal):
    turned = reference.atoms.copy()
    turned.set_momenta(-turned.get_momenta())
    back = run(potential, turned).atoms
    np.testing.assert_allclose(back.positions, crystal.positions, atol=1e-9)


def test_chunks_do_not_show(potential, reference, crystal):
    """Seven steps at a time, with strides that do not fit: the same numbers, but for rounding."""
    pieces = run(potential, crystal, chunk_steps=7)
    np.testing.assert_allclose(pieces.atoms.positions, reference.atoms.positions, atol=1e-12)
    np.testing.assert_allclose(
        pieces.log["conserved_eV"], reference.log["conserved_eV"], atol=1e-12
    )
    assert [frame.info["step"] for frame in pieces.frames] == [0, 20, 40, 60]


def test_restart_is_bit_identical(potential, crystal, tmp_path):
    options = {"ensemble": "langevin", "temperature_K": 60, "velocities": "draw", "seed": 4}
    whole = run(potential, crystal, output=tmp_path / "whole", **options)
    run(potential, crystal, output=tmp_path / "parts", steps=25, **options)
    with (tmp_path / "parts" / "log.csv").open("a") as file:
        file.write("30,120.0,half a line that a killed process left")
    parts = run(potential, crystal, output=tmp_path / "parts", restart=True, **options)
    np.testing.assert_array_equal(parts.atoms.positions, whole.atoms.positions)
    for name in ("log.csv", "trajectory.extxyz", "final.extxyz"):
        ours, theirs = ((tmp_path / d / name).read_bytes() for d in ("parts", "whole"))
        assert ours == theirs, name
    with pytest.raises(ValueError, match="other stages"):
        run(
            potential,
            crystal,
            output=tmp_path / "parts",
            restart=True,
            **options | {"timestep_fs": 2},
        )
    (tmp_path / "parts" / "checkpoint.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match="damaged"):
        run(potential, crystal, output=tmp_path / "parts", restart=True, **options)


def test_files(potential, crystal, tmp_path):
    options = {"ensemble": "nvt", "temperature_K": 40, "dtype": "float32", "velocities": "draw"}
    for _ in range(2):
        result = run(potential, crystal, output=tmp_path, **options)
    text = (tmp_path / "log.csv").read_text().splitlines()
    assert text[0] == ",".join([*LOG_COLUMNS, "target_temperature_K"]) and len(text) == 8
    frames = ase.io.read(tmp_path / "trajectory.extxyz", ":")
    assert [frame.info["step"] for frame in frames] == [0, 20, 40, 60]
    assert frames[-1].info["time_fs"] == 240
    final = ase.io.read(tmp_path / "final.extxyz")
    np.testing.assert_allclose(final.get_momenta(), result.atoms.get_momenta(), atol=1e-7)
    np.testing.assert_allclose(final.get_forces(), result.atoms.get_forces(), atol=1e-7)
    assert final.get_potential_energy() == pytest.approx(result.log["potential_eV"][-1], abs=1e-7)
    assert (tmp_path / "run.png").stat().st_size > 10_000
    # the first run's files were set aside, not overwritten; and the seed makes both runs equal
    for name in ("log.csv", "trajectory.extxyz", "final.extxyz"):
        assert (tmp_path / "previous-1" / name).read_bytes() == (tmp_path / name).read_bytes()


def droplets() -> Atoms:
    """Two clusters about to collide: neighbours more than double on the way."""
    cluster = np.array([[0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]])
    atoms = Atoms("Ar8", np.vstack([cluster, cluster + np.array([0.5, 0.4, 14.0])]))
    velocities = np.zeros((8, 3))
    velocities[:4, 2], velocities[4:, 2] = 0.15, -0.15
    atoms.set_velocities(velocities)
    return atoms


def test_overflow_is_mended_without_a_trace(potential):
    """Growing the list in mid-run gives the trajectory of a list that was ample from the start."""
    atoms = droplets()
    grown = run(potential, atoms, skin=0.3, shortest_distances=None)
    assert grown.growths > 0 and grown.neighbours.capacities.neighbours >= 6
    expected, _ = by_ase(atoms, 60)
    np.testing.assert_allclose(grown.atoms.positions, expected.positions, atol=1e-9)
    np.testing.assert_array_equal(grown.log["step"], np.arange(0, 61, 10))
    # a molecule has neither volume nor pressure
    assert np.all(np.isnan(grown.log["pressure_GPa"])) and np.all(np.isnan(grown.log["volume_A3"]))


def test_not_finite_stops_the_run(crystal, tmp_path):
    broken = LennardJones.create(("Ar",), float("nan"), SIGMA, CUTOFF)
    with pytest.raises(SimulationError, match=r"step 0: .* not finite.*atom 0 \(Ar\)"):
        run(broken, crystal, output=tmp_path)


def test_an_explosion_stops_the_run_and_keeps_the_last_good_state(potential, crystal, tmp_path):
    with pytest.raises(SimulationError, match=r"the temperature passed 2000 K.*Ar.*last_good"):
        run(
            potential, crystal, timestep_fs=400.0, chunk_steps=7,
            maximum_temperature_K=2000, output=tmp_path,
        )  # fmt: skip
    kept = ase.io.read(tmp_path / "last_good.extxyz")
    assert np.isfinite(kept.positions).all()
    log = (tmp_path / "log.csv").read_text()
    assert "nan" not in log and "inf" not in log


def test_warns_once_of_pairs_closer_than_ever_in_training(potential, crystal):
    with pytest.warns(UserWarning, match="closer than any such pair") as caught:
        run(potential, crystal, shortest_distances=[[3.9]], steps=40)
    assert sum("closer" in str(w.message) for w in caught) == 1


def test_nothing_recompiles_for_other_numbers(potential, reference, crystal):
    from md.chunk import compiled

    with jax.enable_x64(True):
        before = compiled()._cache_size()
    run(potential, crystal, timestep_fs=1.0, steps=33)
    with jax.enable_x64(True):
        assert compiled()._cache_size() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": -1}, "steps must be at least 0"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"dtype": "float16"}, "float32 or float64"),
        ({"velocities": "draw"}, "give temperature_K"),
        ({"restart": True}, "restart needs the output folder"),
        ({"shortest_distances": [[1.0, 2.0]]}, "table of 1 × 1"),
    ],
)
def test_impossible_requests_are_refused_in_words(potential, crystal, change, words):
    with pytest.raises(ValueError, match=words):
        run(potential, crystal, **change)


def test_unusable_structures_are_refused_in_words(potential, crystal):
    with pytest.raises(ValueError, match="no atoms"):
        run(potential, Atoms())
    with pytest.raises(ValueError, match="the potential knows Ar, not Xe"):
        run(potential, Atoms("ArXe", [[0, 0, 0], [4, 0, 0]]))
    with pytest.raises(ValueError, match="no volume"):
        run(potential, Atoms("Ar", [[0, 0, 0]], pbc=True))
    spoilt = crystal.copy()
    spoilt.positions[5, 1] = np.nan
    with pytest.raises(ValueError, match="position of atom 5 is not finite"):
        run(potential, spoilt)
