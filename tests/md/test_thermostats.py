"""Thermostats on wells and on free atoms, where every answer is known."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from md import summation, units
from md.state import kinetic_energies
from md.thermostats import (
    bussi,
    langevin,
    no_heat,
    nose_hoover_chain,
    rescale_velocities,
)
from tests.md.small_loop import energies, parameters, replicated, run, run_replicas, start

TEMPERATURE = 300.0
STIFFNESS = 3.0  # eV/Å²
MASS = 12.0  # amu; the period is 2π √(m/k) = 128 fs
PERIOD_FS = 2 * np.pi * np.sqrt(MASS / STIFFNESS) / units.FEMTOSECOND
THERMAL = units.BOLTZMANN * TEMPERATURE

ALL = [langevin, bussi, nose_hoover_chain]


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def wells(state):
    """Independent harmonic wells, each at the origin."""
    squared = jnp.sum(state.positions**2, axis=1)
    return state.replace(forces=-STIFFNESS * state.positions, site_energies=STIFFNESS * squared / 2)


def tangled_wells(state):
    """Wells joined by quartic springs: chaotic, so that no orbit keeps its energy or its plane."""

    def energy(positions):
        apart = jnp.sum((positions - jnp.roll(positions, 1, axis=0)) ** 2, axis=1)
        return STIFFNESS * (jnp.sum(positions**2) / 2 + jnp.sum(apart**2) / 0.4**2)

    return state.replace(forces=-jax.grad(energy)(state.positions))


def free(state):
    return state


def in_wells(masses, group=None, seed=0):
    width = np.sqrt(THERMAL / STIFFNESS)
    positions = width * np.random.default_rng(seed).normal(size=(len(masses), 3))
    return start(
        positions, masses, temperature_K=TEMPERATURE, group=group, remove_drift=False, seed=seed
    )


def bath(thermostat, timestep_fs, temperature_K=TEMPERATURE, *, freedom, time_constant_fs=100.0):
    freedom = None if thermostat is langevin else freedom
    return parameters(
        timestep_fs, temperature_K, freedom=freedom, time_constant_fs=time_constant_fs
    )


def by_group(state, integrator):
    """Energies, and those of each of three groups."""
    potential = [jnp.sum(jnp.where(state.group == g, state.site_energies, 0)) for g in range(3)]
    return energies(state, integrator) | {
        "kinetic": kinetic_energies(state, 3),
        "potential": jnp.stack(potential),
    }


# Two groups with baths of their own, one without, and four atoms that never move.
GROUP = np.repeat([0, 1, 2, -1], [20, 10, 10, 4])
SIZES = np.array([20, 10, 10])
BATHS = {
    "temperature_K": [300.0, 600.0, 450.0],
    "freedom": 3.0 * SIZES,
    "time_constant_fs": [100.0, 50.0, np.inf],
}


@pytest.fixture(scope="module", params=ALL, ids=lambda f: f.__name__)
def grouped(request):
    """A thermostat, and ``go(timestep_fs, samples' stride) -> (start, end, energies)``."""
    with jax.enable_x64(True):
        state = in_wells(np.where(np.arange(44) % 2, MASS, 5 * MASS), GROUP)
        state = state.replace(momenta=jnp.where(state.group[:, None] < 0, 0, state.momenta))

    def go(timestep_fs, every):
        numbers = bath(request.param, timestep_fs, **BATHS)
        return state, *run(request.param, wells, state, numbers, 100, every, by_group)

    return request.param, go


def test_conserved_quantity_is_of_second_order(grouped):
    thermostat, go = grouped
    errors = []
    for timestep, every in ((4.0, 2), (2.0, 4)):
        *_, seen = go(timestep, every)
        errors.append(np.abs(seen["conserved"] - seen["conserved"][0]).max())
        assert errors[-1] < 0.02 * seen["kinetic"].sum(axis=1).max()
    # halving the step divides the error by four; noise differs between runs with it
    tolerance = 0.1 if thermostat is nose_hoover_chain else 0.5
    assert errors[0] / errors[1] == pytest.approx(4, rel=tolerance)


def test_each_group_has_its_own_bath(grouped):
    _, go = grouped
    before, after, seen = go(4.0, 400)
    expected = units.BOLTZMANN * np.array(BATHS["temperature_K"]) * 3 * SIZES / 2
    # 100 samples of 30 or 60 degrees of freedom, a few of them correlated
    for part in ("kinetic", "potential"):
        np.testing.assert_allclose(seen[part].mean(axis=0)[:2], expected[:2], rtol=0.1)
    # independent wells exchange no energy: what has no bath keeps what it had
    total = seen["kinetic"][:, 2] + seen["potential"][:, 2]
    np.testing.assert_allclose(total, total[0], rtol=0.01)
    held = GROUP < 0
    np.testing.assert_array_equal(after.positions[held], before.positions[held])
    np.testing.assert_array_equal(after.momenta[held], 0)


@pytest.mark.parametrize("thermostat", ALL)
def test_nothing_happens_in_no_time(thermostat):
    state = in_wells(np.full(3, MASS), [0, 0, -1])
    integrator = thermostat(**bath(thermostat, 0.0, freedom=6.0))
    for momenta in (state.momenta, jnp.zeros((3, 3))):
        before = wells(integrator.init(state.replace(momenta=momenta)))
        after = integrator.finish(wells(integrator.begin(before)))
        jax.tree.map(np.testing.assert_array_equal, after.replace(key=0), before.replace(key=0))


@pytest.mark.parametrize("thermostat", ALL)
def test_single_precision_stays_single(thermostat):
    with jax.enable_x64(False):
        state = in_wells(np.full(3, MASS, np.float32))
        integrator = thermostat(**bath(thermostat, 1.0, freedom=6.0))
        state = integrator.init(state)
        after = integrator.finish(integrator.begin(state))
        before, after = ([x.dtype for x in jax.tree.leaves(s)] for s in (state, after))
        assert after == before
        assert jnp.float64 not in after


@pytest.mark.parametrize("thermostat", [langevin, bussi])
def test_noise_repeats_with_its_key_and_only_with_it(thermostat):
    state = in_wells(np.full(3, MASS))
    integrator = thermostat(**bath(thermostat, 1.0, freedom=9.0))
    first, again, other, later = (
        integrator.begin(integrator.init(state)).momenta
        for state in (
            state,
            state,
            state.replace(key=jax.random.key(9)),
            state.replace(step=jnp.int32(7)),
        )
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, later)


@pytest.mark.parametrize("freedom", [1.0, 2.0, 3.0, 7.5, 300.0])
def test_velocity_rescaling_is_exact_for_any_freedom_and_time(freedom):
    """√K obeys a Bessel process: K after a time is noncentral χ² around what is left of it."""
    state = in_wells(np.full(1, MASS))
    state = state.replace(momenta=jnp.array([[1.0, 0.0, 0.0]]), thermostat=no_heat(state))
    kinetic = 1 / (2 * MASS)
    numbers = bath(bussi, 1.0, freedom=freedom, time_constant_fs=80.0)
    rate = float(numbers["rate"][0])
    duration = 0.7 / rate

    def draw(step):
        after = rescale_velocities(
            state.replace(step=step), duration, numbers["temperature"], numbers["freedom"], rate
            * jnp.ones(1)
        )  # fmt: skip
        return after.momenta, summation.rounded(after.thermostat.taken)

    momenta, taken = (np.asarray(x) for x in jax.jit(jax.vmap(draw))(jnp.arange(4000)))
    after = np.sum(momenta**2, axis=(1, 2)) / (2 * MASS)
    np.testing.assert_allclose(taken, kinetic - after, atol=1e-12)
    left, width = np.exp(-0.7), (1 - np.exp(-0.7)) * THERMAL / 2
    expected = stats.ncx2(freedom, left * kinetic / width, scale=width)
    assert stats.kstest(after, expected.cdf).pvalue > 1e-3
    if freedom == 1:  # a momentum under friction and noise, signs included
        normal = stats.norm(np.sqrt(left), np.sqrt((1 - left) * MASS * THERMAL))
        assert stats.kstest(momenta[:, 0, 0], normal.cdf).pvalue > 1e-3


def test_free_particles_diffuse():
    """⟨r²⟩ = 6 D (t − (1 − e^(−γt))/γ) with D = k_B T/mγ, for each mass."""
    masses = np.repeat([MASS, 4 * MASS], 3000)
    state = start(
        np.zeros((6000, 3)), masses, temperature_K=TEMPERATURE, remove_drift=False, seed=3
    )
    state, _ = run(langevin, free, state, bath(langevin, 2.0, freedom=None), 1, 500)
    friction = 1 / (100.0 * units.FEMTOSECOND)
    time = 1000.0 * units.FEMTOSECOND
    squared = np.sum(np.asarray(state.positions) ** 2, axis=1).reshape(2, 3000).mean(axis=1)
    delayed = time - (1 - np.exp(-friction * time)) / friction
    expected = 6 * THERMAL / (np.array([MASS, 4 * MASS]) * friction) * delayed
    # the mean of 9000 squares has a standard error of 1.5 %
    np.testing.assert_allclose(squared, expected, rtol=0.05)


def test_langevin_samples_positions_exactly_with_long_steps():
    """BAOAB in a harmonic well, even at a sixth of its period."""
    state = in_wells(np.full(500, MASS), seed=5)
    numbers = bath(langevin, PERIOD_FS / 6, freedom=None, time_constant_fs=50.0)
    _, seen = run(langevin, wells, state, numbers, 400, 5)
    assert seen["potential"].mean() / (1500 * THERMAL / 2) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("thermostat", ALL)
def test_kinetic_energy_is_canonical(thermostat):
    """K of g degrees of freedom is gamma-distributed, and each species has its share."""
    masses = np.repeat([MASS, 5 * MASS], 5)
    states = replicated(in_wells(masses), 40, TEMPERATURE, remove_drift=False)
    # each replica its own positions: not thermal ones, the bath must get them there
    positions = 0.05 * jax.random.normal(jax.random.key(1), (40, 10, 3))
    states = states.replace(positions=positions)
    numbers = bath(thermostat, 2.0, freedom=30.0, time_constant_fs=40.0)

    def observe(state, integrator):
        return jnp.sum(state.momenta**2, axis=1) / (2 * state.masses)

    _, kinetic = run_replicas(
        thermostat, tangled_wells, states, numbers, 60, 150, observe
    )  # fmt: skip
    kinetic = kinetic[:, 20:]  # [replicas, samples, atoms]
    total = kinetic.sum(axis=2).ravel()
    assert stats.kstest(total, stats.gamma(15, scale=THERMAL).cdf).pvalue > 1e-3
    shares = kinetic.reshape(-1, 2, 5).sum(axis=2).mean(axis=0) / (7.5 * THERMAL)
    np.testing.assert_allclose(shares, 1, atol=0.06)


def test_nose_hoover_chain_is_time_reversible():
    state = in_wells(np.full(20, MASS))
    numbers = bath(nose_hoover_chain, 2.0, freedom=60.0)
    advance = partial(run, nose_hoover_chain, wells, numbers=numbers, samples=1, every=500)
    there, _ = advance(state)
    chains = there.thermostat.replace(momenta=-there.thermostat.momenta)
    back, _ = advance(there.replace(momenta=-there.momenta, thermostat=chains))
    np.testing.assert_allclose(back.positions, state.positions, atol=1e-9)
    np.testing.assert_allclose(-back.momenta, state.momenta, atol=1e-9)


def test_nose_hoover_chain_conserves_through_a_ramp():
    """Its energy counts the heat of a bath that warms up, and the chain's own."""
    errors = []
    for timestep, every in ((4.0, 1), (2.0, 2)):
        state, conserved = in_wells(np.full(20, MASS)), []
        for temperature in np.linspace(300, 900, 100):
            numbers = bath(nose_hoover_chain, timestep, temperature, freedom=60.0)
            state, seen = run(nose_hoover_chain, wells, state, numbers, 1, every)
            conserved.append(seen["conserved"][0])
        errors.append(np.ptp(conserved))
    assert seen["kinetic"][0] > 1.3 * 30 * THERMAL
    assert errors[0] < 0.02 * 30 * THERMAL
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
