"""Integrators and thermostats on harmonic wells, where every answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

from md import ensembles, summation, units
from md.stages import Stage, legs
from md.state import State, initial_state, kinetic_energy, maxwell_boltzmann_momenta

TEMPERATURE = 300.0
STIFFNESS = 3.0  # eV/Å²
MASS = 12.0  # amu; the period is 2π √(m/k) = 128 fs
PERIOD_FS = 2 * np.pi * np.sqrt(MASS / STIFFNESS) / units.FEMTOSECOND


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def wells(state):
    """Independent isotropic wells, each at the origin."""
    squared = jnp.sum(state.positions**2, axis=1)
    return state.replace(forces=-STIFFNESS * state.positions, site_energies=STIFFNESS * squared / 2)


def start(atoms, seed=0) -> State:
    key = jax.random.key(seed)
    masses, species = jnp.full(atoms, MASS), jnp.zeros(atoms, jnp.int32)
    momenta = maxwell_boltzmann_momenta(key, masses, species, TEMPERATURE)
    width = np.sqrt(units.BOLTZMANN * TEMPERATURE / STIFFNESS)
    positions = width * jax.random.normal(jax.random.key(seed + 1), (atoms, 3))
    state = initial_state(
        positions, momenta, species, masses, jnp.zeros((3, 3)), (False, False, False), key
    )
    return wells(state)


def parameters_of(name, atoms, timestep_fs):
    """The numbers that steer an ensemble, as a stage of a run has them."""
    words = {"time_constant_fs": 100.0} if name in ("nvt", "bussi") else {}
    if name == "langevin":
        words = {"friction_per_fs": 0.02}
    temperature = None if name == "nve" else TEMPERATURE
    stage = Stage(1, name, temperature, timestep_fs, **words)
    (leg,) = legs([stage], Atoms(f"C{atoms}", np.zeros((atoms, 3))))
    return leg.course(float).start


def run(state, name, timestep_fs, steps, every=1):
    """Advance; the state and, at every stride, the conserved, kinetic and potential energy."""

    def total(state, integrator):
        kinetic, exchanged = kinetic_energy(state), integrator.energy_exchanged(state)
        potential = summation.compensated_sum(state.site_energies)
        conserved = summation.add(summation.add(potential, kinetic), exchanged)
        return tuple(map(summation.rounded, (conserved, kinetic, potential)))

    @jax.jit
    def go(state, parameters):
        integrator = ensembles.integrator(name, "isotropic", parameters)

        def one(_, state):
            state = integrator.finish(wells(integrator.begin(state)))
            return state.replace(step=state.step + 1)

        def stride(state, _):
            state = jax.lax.fori_loop(0, every, one, state)
            return state, total(state, integrator)

        before = total(state, integrator)
        state, rest = jax.lax.scan(stride, state, length=steps // every)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, rest)

    parameters = parameters_of(name, len(state.species), timestep_fs)
    if state.thermostat is None:
        state = ensembles.integrator(name, "isotropic", parameters).init(state)
    state, energies = go(state, parameters)
    return state, *map(np.asarray, energies)


@pytest.mark.parametrize("name", ["nve", "nvt", "langevin"])
def test_conserved_quantity_is_of_second_order(name):
    state = start(50)
    errors = []
    for timestep, steps in ((4.0, 200), (2.0, 400)):
        _, conserved, kinetic, _ = run(state, name, timestep, steps, every=steps // 100)
        errors.append(np.abs(conserved - conserved[0]).max())
        assert errors[-1] < 0.05 * kinetic.max()
    # halving the step divides the error by four; noise differs between the two Langevin runs
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.5 if name == "langevin" else 0.1)


@pytest.mark.parametrize("name", ["nve", "nvt"])
def test_time_reversal(name):
    state = start(20)
    there, *_ = run(state, name, 2.0, 500)
    thermostat = there.thermostat
    if name == "nvt":
        thermostat = thermostat.replace(momenta=-thermostat.momenta)
    back, *_ = run(there.replace(momenta=-there.momenta, thermostat=thermostat), name, 2.0, 500)
    np.testing.assert_allclose(back.positions, state.positions, atol=1e-9)
    np.testing.assert_allclose(-back.momenta, state.momenta, atol=1e-9)


def test_velocity_verlet_has_the_right_period():
    name = "nve"
    state = start(5)
    steps = 1280
    after, *_ = run(state, name, PERIOD_FS / steps, steps)
    np.testing.assert_allclose(after.positions, state.positions, atol=1e-4)


@pytest.mark.physical
@pytest.mark.parametrize("timestep_fs", [1.0, 20.0])
def test_langevin_samples_the_canonical_ensemble(timestep_fs):
    """BAOAB samples the positions of a harmonic well exactly, even at a sixth of its period."""
    name = "langevin"
    state = start(500)
    state, *_ = run(state, name, timestep_fs, 400)
    _, _, kinetic, potential = run(state, name, timestep_fs, 4000, every=10)
    thermal = 1500 * units.BOLTZMANN * TEMPERATURE / 2
    # 400 samples of 1500 degrees of freedom, correlated over some tens of samples
    assert potential.mean() / thermal == pytest.approx(1, abs=0.01)
    if timestep_fs == 1.0:
        assert kinetic.mean() / thermal == pytest.approx(1, abs=0.01)
        # the kinetic energy of g degrees of freedom has a relative variance of 2/g
        assert kinetic.var() / kinetic.mean() ** 2 == pytest.approx(2 / 1500, rel=0.35)


@pytest.mark.physical
def test_nose_hoover_chain_samples_the_canonical_ensemble():
    name = "nvt"
    state = start(100)
    _, _, kinetic, _ = run(state, name, 2.0, 60_000, every=20)
    freedom = 3 * 100 - 3
    thermal = freedom * units.BOLTZMANN * TEMPERATURE / 2
    assert kinetic.mean() / thermal == pytest.approx(1, abs=0.01)
    assert kinetic.var() / kinetic.mean() ** 2 == pytest.approx(2 / freedom, rel=0.35)


def test_langevin_repeats_with_its_key_and_only_with_it():
    name = "langevin"
    state = start(5)
    first, *_ = run(state, name, 1.0, 20)
    again, *_ = run(state, name, 1.0, 20)
    other, *_ = run(state.replace(key=jax.random.key(9)), name, 1.0, 20)
    np.testing.assert_array_equal(first.positions, again.positions)
    assert not np.allclose(first.positions, other.positions)


def test_momenta_are_thermal_without_drift():
    atoms = 4000
    masses = jnp.asarray(np.random.default_rng(0).uniform(1, 100, atoms))
    species = jnp.zeros(atoms, jnp.int32).at[-1].set(-1)
    momenta = maxwell_boltzmann_momenta(jax.random.key(1), masses, species, TEMPERATURE)
    np.testing.assert_allclose(momenta.sum(axis=0), 0, atol=1e-9)
    assert np.all(momenta[-1] == 0)
    per_degree = np.sum(np.asarray(momenta) ** 2 / masses[:, None]) / (3 * (atoms - 1) - 3)
    assert per_degree / (units.BOLTZMANN * TEMPERATURE) == pytest.approx(1, abs=0.03)
    light, heavy = masses < 50, masses >= 50
    for part in (light, heavy):
        energy = np.mean(np.asarray(momenta[part]) ** 2 / masses[part][:, None])
        assert energy / (units.BOLTZMANN * TEMPERATURE) == pytest.approx(1, abs=0.08)


def test_padded_atoms_never_move():
    for name in ("nve", "langevin", "nvt", "bussi"):
        state = start(4)
        species = state.species.at[3].set(-1)
        state = state.replace(species=species, group=state.group.at[3].set(-1))
        state = state.replace(momenta=state.momenta.at[3].set(0))
        state = state.replace(
            positions=state.positions.at[3].set(0), forces=state.forces.at[3].set(0)
        )
        after, *_ = run(state, name, 1.0, 10)
        assert np.all(np.asarray(after.positions[3]) == 0)
