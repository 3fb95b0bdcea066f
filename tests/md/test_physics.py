"""Physics of whole runs, against what is known exactly or computed in another way."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as ReferenceLennardJones
from scipy.optimize import brentq

from md import HarmonicLattice, LennardJones, Stage, simulate, units
from md.restraints import PositionRestraint

EPSILON, SIGMA = 0.0104, 3.4  # argon: eV, Å
QUIET = {"progress": False, "trajectory_every": 0}


def argon(cutoff: float) -> LennardJones:
    with jax.enable_x64(True):
        return LennardJones.create(("Ar",), EPSILON, SIGMA, cutoff)


# -- a harmonic lattice ---------------------------------------------------------------------------

COLD, HOT, COPIES = 150.0, 300.0, 4


FRICTION, TIMESTEP = 0.04, 5.0


def vibrating(**options):
    """Eight copies of 16 atoms joined by springs, in Langevin's bath and without drift."""
    springs = HarmonicLattice.crystal(("Fe",), "bcc", 2.9, 2.0, 0.25)
    return simulate(
        springs,
        bulk("Fe", "bcc", a=2.9, cubic=True) * 2,
        ensemble="langevin",
        timestep_fs=TIMESTEP,
        friction_per_fs=FRICTION,
        remove_drift_every=1,
        replicas=2 * COPIES,
        chunk_steps=1000,
        **QUIET,
        **options,
    )


@pytest.mark.physical
def test_heat_capacity_of_a_harmonic_lattice():
    """Dulong and Petit, without the three modes of the centre of mass: 3 (N − 1) k_B."""
    run = vibrating(
        steps=6000,
        temperature_K=HOT,
        replica_temperatures_K=[COLD] * COPIES + [HOT] * COPIES,
    )
    energies = np.asarray([r.log["potential_eV"] + r.log["kinetic_eV"] for r in run.replicas])
    energies = energies[:, 20:].reshape(2, -1)  # by temperature
    capacity = 3 * 15 * units.BOLTZMANN
    slope = (energies[1].mean() - energies[0].mean()) / (HOT - COLD)
    assert slope == pytest.approx(capacity, rel=0.03)
    np.testing.assert_allclose(energies.mean(axis=1), capacity * np.array([COLD, HOT]), rtol=0.015)
    # ⟨δE²⟩ = k_B T² C
    fluctuations = energies.var(axis=1) / (units.BOLTZMANN * np.array([COLD, HOT]) ** 2)
    np.testing.assert_allclose(fluctuations, capacity, rtol=0.12)


@pytest.mark.physical
def test_a_temperature_ramp_is_followed():
    """From 50 to 350 K within 5 ps: the bath leads, the crystal follows 1/γ behind."""
    run = vibrating(steps=1000, temperature_K=(50.0, 350.0))
    kelvin = np.mean([r.log["temperature_K"] for r in run.replicas], axis=0)
    target, time = run.log["target_temperature_K"], run.log["time_fs"]
    np.testing.assert_allclose(target, 50 + 300 * time / time[-1], rtol=1e-5)
    for part in np.array_split(np.arange(10, len(time)), 3):
        # the energy of an oscillator relaxes at the rate γ
        lagging = target[part].mean() - 300 / time[-1] / FRICTION
        assert kelvin[part].mean() == pytest.approx(lagging, rel=0.1)


# -- elastic response -----------------------------------------------------------------------------

CUTOFF = 16.78  # Å, between two shells of neighbours that no strain here leads across it


def lattice_stress(cell: np.ndarray) -> np.ndarray:
    """σ = 1/(2 V) Σ_b φ'(b) b ⊗ b / b, GPa, of the fcc crystal with this cubic cell deformed."""
    shifts = np.array(list(itertools.product(range(-6, 7), repeat=3)))
    places = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    bonds = (shifts[:, None] + places).reshape(-1, 3) @ cell
    length = np.linalg.norm(bonds, axis=1)
    bonds = bonds[(length > 0) & (length < CUTOFF)]
    length = np.linalg.norm(bonds, axis=1)
    slope = 24 * EPSILON * ((SIGMA / length) ** 6 - 2 * (SIGMA / length) ** 12) / length
    volume = np.linalg.det(cell) / 4
    return (bonds.T * slope / length) @ bonds / (2 * volume) / units.GIGAPASCAL


@pytest.mark.physical
def test_elastic_response_of_lennard_jones():
    """A cold crystal under strain: the stress of the lattice sum, and its elastic constants."""
    unstressed = brentq(lambda a: np.trace(lattice_stress(a * np.eye(3))), 5.0, 5.5)
    crystal = bulk("Ar", "fcc", a=unstressed, cubic=True)  # smaller than the cutoff
    components = {
        "xx": (0, 0),
        "yy": (1, 1),
        "zz": (2, 2),
        "yz": (1, 2),
        "xz": (0, 2),
        "xy": (0, 1),
    }
    slopes = {}
    for name, strain in (("stretch", [4e-3, 0, 0, 0, 0, 0]), ("shear", [0, 0, 0, 2e-3, 0, 0])):
        run = simulate(
            argon(CUTOFF), crystal, steps=40, timestep_fs=1.0, velocities="keep", dtype="float64",
            strain_rate_per_fs=np.asarray(strain) / 40, log_every=5, chunk_steps=40, **QUIET,
        )  # fmt: skip
        stress = {c: -run.log[f"pressure_{c}_GPa"] for c in components}
        for row in (0, 4, 8):
            xx, yy, zz, yz, xz, xy = np.asarray(strain) * row / 8
            deformed = np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            expected = lattice_stress(crystal.cell.array @ deformed)
            found = [stress[c][row] for c in components]
            np.testing.assert_allclose(
                found, [expected[at] for at in components.values()], atol=1e-9
            )
        amount = max(strain) * np.linspace(0, 1, 9)
        slopes[name] = {c: np.polyfit(amount, stress[c], 2)[1] for c in components}
    c11, c12, c44 = slopes["stretch"]["xx"], slopes["stretch"]["yy"], slopes["shear"]["yz"] / 2
    assert c12 == pytest.approx(slopes["stretch"]["zz"], rel=1e-6)
    assert c12 == pytest.approx(c44, rel=1e-3)  # Cauchy's relation of central forces
    # B = 4 A₁₂ (A₆ / A₁₂)^(5/2) ε/σ³, with the lattice sums A₁₂ = 12.132 and A₆ = 14.454:
    # N. W. Ashcroft and N. D. Mermin, Solid State Physics (1976), chapter 20
    bulk_modulus = 75.18 * EPSILON / SIGMA**3 / units.GIGAPASCAL
    assert (c11 + 2 * c12) / 3 == pytest.approx(bulk_modulus, rel=0.02)


# -- shrinking cells ------------------------------------------------------------------------------


def by_ase(atoms: Atoms, cutoff: float) -> Atoms:
    """Energy and forces of a structure, from a list and a potential that are not ours."""
    other = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    other.calc = ReferenceLennardJones(sigma=SIGMA, epsilon=EPSILON, rc=cutoff)
    return other


def compressed(skin: float, **words):
    """A cold triclinic crystal, whose third neighbours come within the cutoff on the way."""
    return simulate(
        argon(7.0), bulk("Ar", "fcc", a=6.2) * 3, steps=500, temperature_K=0.1, timestep_fs=2.0,
        dtype="float64", skin=skin, chunk_steps=500, log_every=50, **words, **QUIET,
    )  # fmt: skip


@pytest.mark.physical
@pytest.mark.parametrize("by", ["deformation", pytest.param("pressure", marks=pytest.mark.nightly)])
def test_no_edge_is_lost_in_a_cell_that_shrinks(by):
    """By a quarter and more within one chunk, and with hardly any skin."""
    words = {
        "deformation": {"strain_rate_per_fs": [-1e-4, -1.05e-4, -0.95e-4]},
        "pressure": {
            "ensemble": "npt",
            "pressure_GPa": (2.0, 1.0),
            "cell": "full",
            "pressure_time_constant_fs": 500,
        },
    }[by]
    tight = compressed(0.1, **words)
    assert tight.log["volume_A3"][-1] < 0.75 * tight.log["volume_A3"][0]
    assert tight.growths > 0
    expected = by_ase(tight.atoms, 7.0)
    energy = expected.get_potential_energy()
    assert tight.atoms.get_potential_energy() == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(tight.atoms.get_forces(), expected.get_forces(), atol=1e-9)
    np.testing.assert_allclose(tight.atoms.get_stress(), expected.get_stress(), atol=1e-9)
    if by == "deformation":
        ample = compressed(0.8, **words)  # holds the third neighbours from the start
        assert ample.growths == 0
        np.testing.assert_allclose(tight.atoms.positions, ample.atoms.positions, atol=1e-7)
        np.testing.assert_allclose(tight.log["conserved_eV"], ample.log["conserved_eV"], atol=1e-9)


# -- a learned potential --------------------------------------------------------------------------


@pytest.mark.physical
def test_allegro_conserves_energy_in_single_precision(tiny_model, water):
    """2,000 steps of NVE. The model is untrained, so springs keep the molecules together."""
    run = simulate(
        tiny_model.potential,
        water,
        steps=2000,
        temperature_K=300,
        timestep_fs=0.25,
        bias=PositionRestraint(2.0),
        log_every=1,
        **QUIET,
    )
    assert run.state.positions.dtype == np.float32
    total, time_ns = run.log["conserved_eV"], run.log["time_fs"] * 1e-6
    drift = 1000 * np.polyfit(time_ns, total, 1)[0] / len(water)
    moved = np.ptp(run.log["kinetic_eV"])
    assert np.std(total) < 1e-3 * moved
    assert abs(drift) < 5  # meV/atom/ns; the fit itself is uncertain by about 1


# -- a schedule -----------------------------------------------------------------------------------


@pytest.mark.physical
def test_melt_and_quench_in_one_schedule():
    """A crystal melts, and does not find its way back when it is cooled within picoseconds."""
    crystal = bulk("Ar", "fcc", a=5.5) * 4
    bath = {"ensemble": "langevin", "timestep_fs": 4.0, "friction_per_fs": 0.01}
    run = simulate(
        argon(6.0),
        crystal,
        [
            Stage(1000, temperature_K=(20, 500), **bath),
            Stage(1000, temperature_K=500, **bath),
            Stage(1000, temperature_K=(500, 20), **bath),
            Stage(500, temperature_K=20, **bath),
        ],
        dtype="float32",
        trajectory_every=500,
        progress=False,
    )
    log = run.log
    step, kelvin, target = (log[n] for n in ("step", "temperature_K", "target_temperature_K"))
    assert [log["target_temperature_K"][step == s][0] for s in (0, 500, 1000, 3500)] == [
        20, 260, 500, 20,
    ]  # fmt: skip
    np.testing.assert_allclose(log["time_fs"], 4.0 * step)
    assert kelvin[(step > 1200) & (step <= 2000)].mean() == pytest.approx(500, rel=0.05)
    cooling = (step > 2000) & (step <= 3000)
    assert kelvin[cooling].mean() == pytest.approx(target[cooling].mean(), rel=0.15)
    assert kelvin[step > 3250].mean() == pytest.approx(20, rel=0.25)
    frames = {frame.info["step"]: frame.positions for frame in run.frames}

    def moved(first: int, last: int) -> float:
        return float(np.sqrt(np.mean(np.sum((frames[last] - frames[first]) ** 2, axis=1))))

    assert moved(1000, 2000) > 2 and moved(3000, 3500) < 0.8
    # half an ε above the crystal, of which its vibrations at 20 K are another quarter
    assert log["potential_eV"][-1] > log["potential_eV"][0] + 0.75 * EPSILON * len(crystal)
