"""Observables and biases inside runs: the same as from the frames, and energy accounted for."""

from __future__ import annotations

import ase.io
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.neighborlist import neighbor_list as reference_list
from ase.units import fs

from md import LennardJones, simulate
from md.analysis import analyse
from md.collective_variables import Distance
from md.coordination import CoordinationNumbers
from md.correlations import MeanSquaredDisplacement, VelocityAutocorrelation
from md.distributions import RadialDistribution
from md.metadynamics import Metadynamics
from md.observable import UserObservable
from md.restraints import Restraint

EVERY, STEPS = 5, 60


@pytest.fixture(scope="module")
def argon():
    return LennardJones.create(("Ar",), 0.0104, 3.4, 6.0)


@pytest.fixture(scope="module")
def crystal():
    return bulk("Ar", "fcc", a=5.3, cubic=True).repeat((2, 2, 2))


@pytest.fixture(scope="module")
def observed(argon, crystal):
    """A run of hot argon with a frame at each look; the RDF reaches beyond the potential."""
    return simulate(
        argon,
        crystal,
        steps=STEPS,
        temperature_K=200.0,
        timestep_fs=4.0,
        dtype="float64",
        trajectory_every=EVERY,
        observables=(
            RadialDistribution(8.0, 16, every=EVERY),
            MeanSquaredDisplacement(6, every=EVERY),
            VelocityAutocorrelation(6, every=EVERY),
            CoordinationNumbers({"Ar-Ar": 4.5}, every=EVERY),
            UserObservable(lambda s, _: jnp.sum(s.momenta**2), every=EVERY, name="motion"),
        ),
        progress=False,
    )


def test_tables_of_a_run_agree_with_its_frames(observed):
    frames, tables = observed.frames, observed.tables
    assert len(frames) == STEPS // EVERY + 1
    distances = [reference_list("d", frame, 8.0) for frame in frames]
    counts = [np.histogram(d, np.linspace(0, 8, 17))[0] for d in distances]
    expected = np.cumsum(np.mean(counts, axis=0)) / len(frames[0])
    np.testing.assert_allclose(tables["rdf"]["n_Ar_Ar"], expected, rtol=1e-6)

    path = np.asarray([frame.positions for frame in frames])
    path = path - path.mean(axis=1, keepdims=True)
    for lag in (1, 5):
        squared = np.mean(np.sum((path[lag:] - path[:-lag]) ** 2, axis=2))
        assert tables["msd"]["msd_Ar_A2"][lag] == pytest.approx(squared, rel=1e-6)
    assert tables["msd"]["time_fs"][1] == 20.0

    momenta = np.asarray([frame.get_momenta() for frame in frames])
    total = np.sum(momenta**2, axis=(1, 2))
    assert tables["motion"]["value_mean"][0] == pytest.approx(total.mean(), rel=1e-9)
    assert tables["motion"]["value_variance"][0] == pytest.approx(total.var(ddof=1), rel=1e-6)
    still = tables["vacf"]["vacf_Ar_A2_per_fs2"][0]
    from_momenta = total.mean() / len(frames[0]) / frames[0].get_masses()[0] ** 2
    assert still == pytest.approx(from_momenta * fs**2, rel=1e-4)


def test_tables_of_a_run_agree_with_an_analysis_of_its_frames(observed, tmp_path):
    """Two ways to the same sums: a ring of past states, and Fourier transforms of all."""
    ase.io.write(tmp_path / "run.traj", observed.frames)
    found = analyse(
        tmp_path / "run.traj", msd=True, vacf=True, blocks=1, msd_lag_fs=100, vacf_lag_fs=100,
        remove_drift=False,
    )  # fmt: skip
    for name, column in (("msd", "msd_Ar_A2"), ("vacf", "vacf_Ar_A2_per_fs2")):
        along = observed.tables[name][column]
        np.testing.assert_allclose(found.tables[name][column], along, rtol=1e-6, atol=1e-12)
    shares = observed.tables["coordination"]
    number = np.sum(shares["neighbours"] * shares["share_Ar_Ar"])
    within = [len(reference_list("d", frame, 4.5)) / len(frame) for frame in observed.frames]
    assert number == pytest.approx(np.mean(within), rel=1e-9)


def test_energy_that_hills_put_in_is_accounted_for(argon, crystal):
    """Under constant energy, with a restraint and hills: the conserved quantity stays."""
    hills = Metadynamics((Distance(0, 1),), (0.2,), 0.02, 5)
    run = simulate(
        argon,
        crystal,
        steps=100,
        temperature_K=30.0,
        timestep_fs=2.0,
        dtype="float64",
        trajectory_every=0,
        bias=[hills, Restraint(Distance(2, 3), 3.9, 0.5)],
        chunk_steps=40,
        progress=False,
    )
    assert len(run.tables["hills"]["height_eV"]) == 20
    drift = np.ptp(run.log["conserved_eV"])
    gained = np.ptp(run.log["potential_eV"] + run.log["kinetic_eV"])
    assert drift < 0.02 * gained and gained > 0.05
