"""Replicas are runs side by side; exchange keeps detailed balance."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from md import LennardJones, simulate, units
from md.replicas import ladder


@pytest.fixture(scope="module")
def argon():
    with jax.enable_x64(True):
        return LennardJones.create(("Ar",), 0.0104, 3.4, 6.0)


@pytest.fixture(scope="module")
def crystal():
    return bulk("Ar", "fcc", a=5.4) * (2, 2, 2)


def run(potential, atoms, **options):
    settings = {"dtype": "float64", "trajectory_every": 0, "progress": False, "timestep_fs": 4.0}
    return simulate(potential, atoms, **settings | options)


def test_replicas_do_what_single_runs_do(argon, crystal):
    """One of them breaks up and needs its list rebuilt, and more room in it: the other does not."""
    still, moving = crystal.copy(), crystal.copy()
    rng = np.random.default_rng(0)
    for atoms, width in ((still, 0.01), (moving, 1.2)):
        momenta = rng.normal(0, width, (8, 3))
        atoms.set_momenta(momenta - momenta.mean(axis=0))
    options = {"steps": 100, "velocities": "keep"}
    both = run(argon, [still, moving], replicas=2, **options)
    for replica, atoms in zip(both.replicas, (still, moving), strict=True):
        alone = run(argon, atoms, **options)
        np.testing.assert_allclose(replica.atoms.positions, alone.atoms.positions, atol=1e-9)
        np.testing.assert_allclose(
            replica.log["conserved_eV"], alone.log["conserved_eV"], atol=1e-10
        )
    assert both.state.positions.shape == (2, 8, 3)


def test_exchange_samples_the_right_energies(argon):
    """Free pairs in a harmonic trap: the mean energy of each rung is that of its temperature."""
    atoms = Atoms("Ar", [[0.1, 0, 0]])
    temperatures = np.array([50.0, 100.0, 200.0])
    result = run(
        argon,
        atoms,
        steps=30_000,
        ensemble="langevin",
        temperature_K=100,
        friction_per_fs=0.02,
        replicas=3,
        replica_temperatures_K=temperatures,
        exchange_every=20,
        bias=lambda r, cell: 0.5 * jnp.sum(r**2),
        log_every=20,
    )
    rung, energy, target = (
        np.stack([replica.log[name] for replica in result.replicas])
        for name in ("rung", "bias_eV", "target_temperature_K")
    )
    np.testing.assert_array_equal(target, temperatures[rung.astype(int)])
    assert np.all(np.sort(rung, axis=0) == [[0], [1], [2]])
    for number, kelvin in enumerate(temperatures):
        expected = 1.5 * units.BOLTZMANN * kelvin
        assert energy[rung == number].mean() == pytest.approx(expected, rel=0.15)
    # for three degrees of freedom and a ratio of two, by quadrature over both energies
    assert result.acceptance == pytest.approx([0.584, 0.584], abs=0.05)
    assert len(set(rung[0])) == 3


def test_ladders():
    np.testing.assert_allclose(ladder((100, 400), 3), [100, 200, 400])
    np.testing.assert_allclose(ladder(300, 2), [300, 300])
    np.testing.assert_allclose(ladder([1, 2, 4, 5], 4), [1, 2, 4, 5])
    with pytest.raises(ValueError, match="or 3 numbers"):
        ladder([1, 2, 3, 4], 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replicas": 0}, "at least 1"),
        ({"exchange_every": 5}, "needs replica_temperatures_K"),
        ({"replica_temperatures_K": [1, 2]}, "needs replicas"),
        ({"replicas": 2, "replica_temperatures_K": 9, "exchange_every": 5}, "not nve"),
    ],
)
def test_impossible_requests_are_refused_in_words(argon, crystal, change, words):
    with pytest.raises(ValueError, match=words):
        run(argon, crystal, steps=1, velocities="keep", **change)
    with pytest.raises(ValueError, match="other elements"):
        run(argon, [Atoms("Ar"), Atoms("Ar2")], replicas=2, steps=1, temperature_K=1)
