"""Mean squared displacements and velocity correlations against exact motion and brute force."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from md import units
from md.correlations import (
    MeanSquaredDisplacement,
    VelocityAutocorrelation,
    diffusion_coefficient,
    spectrum,
)
from md.state import wrapped
from md.structures import state_from_atoms

SIDE = 7.0
LI = np.array([True] * 3 + [False] * 4)


@pytest.fixture(scope="module")
def state():
    rng = np.random.default_rng(0)
    cell = np.array([[SIDE, 0, 0], [1.0, SIDE, 0], [0, -2.0, SIDE]])
    atoms = Atoms("Li3O4", positions=rng.uniform(0, SIDE, (7, 3)), cell=cell, pbc=True)
    with jax.enable_x64(True):
        return state_from_atoms(atoms, ("F", "Li", "O"), np.zeros((7, 3)), 0, "float64")


def observe(observable, state, paths, velocities=None, steps=None, images=0, dtype="float64"):
    """The table after looking at atoms that go along given continuous paths [times, N, 3]."""
    with jax.enable_x64(dtype == "float64"):
        state = jax.tree.map(
            lambda x: jnp.asarray(x, dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, state
        )
        paths = jnp.asarray(paths, dtype)
        velocities = jnp.zeros_like(paths) if velocities is None else jnp.asarray(velocities, dtype)
        if steps is None:
            steps = np.arange(len(paths)) * observable.every
        accumulators = observable.init(state, None, ("F", "Li", "O"))

        @jax.jit
        def run(accumulators, inputs):
            def look(accumulators, inputs):
                path, velocity, step = inputs
                now = state.replace(
                    positions=path,
                    images=jnp.full_like(state.images, images),
                    momenta=state.masses[:, None] * velocity,
                    step=step,
                )
                return observable.update(accumulators, wrapped(now), None), None

            return jax.lax.scan(look, accumulators, inputs)[0]

        inputs = (paths, velocities, jnp.asarray(steps, jnp.int32))
        return observable.result(run(accumulators, inputs), 2.0)


def random_walk(times, step, seed=1):
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(0, step, (times, 7, 3)), axis=0)


def test_displacement_over_all_origins_against_brute_force(state):
    """More looks than lags, so that the ring goes round; atoms leave the cell many times."""
    path = random_walk(300, 1.5)
    mass = np.asarray(state.masses)[:, None]
    for remove_drift in (True, False):
        table = observe(
            MeanSquaredDisplacement(40, every=5, remove_drift=remove_drift), state, path
        )
        seen = path - np.sum(path * mass, axis=1, keepdims=True) / mass.sum() * remove_drift
        squared = [
            np.mean(np.sum((seen[lag:] - seen[: len(seen) - lag]) ** 2, axis=2), axis=0)
            for lag in range(40)
        ]
        np.testing.assert_allclose(table["time_fs"], np.arange(40) * 10.0)
        np.testing.assert_allclose(table["msd_Li_A2"], np.mean(squared, 1, where=LI), rtol=1e-9)
        np.testing.assert_allclose(table["msd_O_A2"], np.mean(squared, 1, where=~LI), rtol=1e-9)
        assert "msd_F_A2" not in table


def test_chosen_atoms_far_from_home_in_single_precision(state):
    """70,000 Å away, where a float32 resolves 8 mÅ, displacements keep their digits."""
    velocity = np.random.default_rng(2).normal(0, 1, (7, 3))
    path = np.arange(50)[:, None, None] * 0.01 * velocity
    observable = MeanSquaredDisplacement(10, every=1, atoms=(0, 1), remove_drift=False)
    table = observe(observable, state, path, images=10_000, dtype="float32")
    expected = np.mean(np.sum(velocity[:2] ** 2, axis=1)) * (0.01 * np.arange(10)) ** 2
    np.testing.assert_allclose(table["msd_Li_A2"], expected, rtol=1e-3, atol=1e-9)


def test_diffusion_of_a_random_walk(state):
    """⟨r²⟩ = 3 σ² n, so D = σ²/2 per step of 2 fs, within four standard errors."""
    looks, sigma = 4000, 0.2
    observable = MeanSquaredDisplacement(6, every=1, remove_drift=False)
    table = observe(observable, state, random_walk(looks, sigma, seed=3))
    for symbol, atoms in (("Li", 3), ("O", 4)):
        found = diffusion_coefficient(table, symbol, start_fs=2)
        # over lags up to 5, neighbouring origins overlap: about a fifth of them count
        error = np.sqrt(2 / (3 * atoms * looks / 5))
        assert found == pytest.approx(sigma**2 / 2 / 2, rel=4 * error)
    with pytest.raises(ValueError, match="no column msd_F_A2"):
        diffusion_coefficient(table, "F", start_fs=0)


def test_a_rest_makes_no_pairs(state):
    """After a stage without observables, times across the gap do not count."""
    path = np.arange(30)[:, None, None] * np.ones((7, 3)) * 0.1
    path[15:] += 3  # moved on meanwhile
    steps = np.arange(30) + 100 * (np.arange(30) >= 15)
    observable = MeanSquaredDisplacement(5, every=1, remove_drift=False)
    table = observe(observable, state, path, steps=steps)
    np.testing.assert_allclose(table["msd_O_A2"], 0.03 * np.arange(5) ** 2, atol=1e-12)


def test_lags_that_were_never_reached_are_unknown(state):
    table = observe(MeanSquaredDisplacement(40, every=5), state, random_walk(3, 1.0))
    assert np.isfinite(table["msd_Li_A2"][:3]).all()
    assert np.isnan(table["msd_Li_A2"][3:]).all()


def test_spectrum_of_oscillators(state):
    """Li at 10 and O at 25 THz: cosines of known amplitude, and lines where they belong."""
    looks, lags, every = 3000, 200, 4
    rng = np.random.default_rng(4)
    time_fs = np.arange(looks) * every * 2.0
    frequency = np.where(LI, 10.0, 25.0)[None, :, None]
    phase = rng.uniform(0, 2 * np.pi, (7, 3))
    amplitude = np.where(LI, 0.3, 0.2)[None, :, None]
    velocity = amplitude * np.cos(2e-3 * np.pi * frequency * time_fs[:, None, None] + phase)
    observable = VelocityAutocorrelation(lags, every)
    table = observe(observable, state, np.zeros((looks, 7, 3)), velocity)
    for symbol, line, height in (("Li", 10.0, 0.3), ("O", 25.0, 0.2)):
        expected = 1.5 * height**2 * np.cos(2e-3 * np.pi * line * table["time_fs"])
        found = table[f"vacf_{symbol}_A2_per_fs2"] / units.FEMTOSECOND**2
        np.testing.assert_allclose(found, expected, atol=0.02 * height**2)
        density, axis = table[f"vdos_{symbol}_per_THz"], table["frequency_THz"]
        resolution = 1000 / table["time_fs"][-1]
        assert axis[np.argmax(density)] == pytest.approx(line, abs=resolution / 2)
        assert np.trapezoid(density, axis) == pytest.approx(1, rel=1e-6)
        near = np.abs(axis - line) < 2 * resolution
        assert np.trapezoid(density[near], axis[near]) > 0.98
    assert axis[-1] == pytest.approx(1000 / (2 * every * 2.0))
    total, axis = table["vdos_total_per_THz"], table["frequency_THz"]
    mass = np.asarray(state.masses)
    energy = mass * np.where(LI, 0.3, 0.2) ** 2
    below = axis < 17
    share = np.trapezoid(total[below], axis[below])
    assert share == pytest.approx(energy[LI].sum() / energy.sum(), abs=0.01)


def test_spectrum_of_a_decay_is_a_lorentzian():
    """C = e^(−t/τ) has D(f) = 4τ / (1 + (2πfτ)²)."""
    tau, lag = 50.0, 0.5
    time = np.arange(4000) * lag
    axis = np.linspace(0, 1 / (2 * lag), len(time))  # 1/fs
    density = spectrum(np.exp(-time / tau), lag, "none")
    expected = 4 * tau / (1 + (2 * np.pi * axis * tau) ** 2) / 1000
    np.testing.assert_allclose(density[axis < 0.02], expected[axis < 0.02], rtol=2e-3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MeanSquaredDisplacement(1), "lags must be at least 2"),
        (lambda: VelocityAutocorrelation(window="welch"), 'must be "hann" or "none"'),
    ],
)
def test_settings_without_a_meaning_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_atoms_that_are_not_there_are_refused(state):
    for atoms, message in (((7,), "indices from 0 to 6"), ((1, 1), "named twice")):
        with jax.enable_x64(True), pytest.raises(ValueError, match=message):
            MeanSquaredDisplacement(atoms=atoms).init(state, None, ("F", "Li", "O"))
