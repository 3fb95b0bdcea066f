"""A dense fluid of repulsive atoms: are two runs apart by what statistical mechanics says?

``physical_validation`` compares the distributions of energy or volume at two temperatures or
pressures, whose ratio is known whatever the system: P₁(V)/P₂(V) ∝ exp(−(P₁ − P₂) V/k_B T).
Source: M. R. Shirts, J. Chem. Theory Comput. 9, 909 (2013).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from md import cells, units
from md.barostats import martyna_tobias_klein, stochastic_cell_rescaling
from md.thermostats import bussi, langevin, nose_hoover_chain
from tests.md.small_loop import parameters, replicated, run_replicas, start

validation = pytest.importorskip("physical_validation", reason="physical_validation is absent")

pytestmark = [pytest.mark.physical, pytest.mark.slow]

ATOMS, REPLICAS, SAMPLES, EVERY = 32, 24, 40, 60
EPSILON, SIGMA, MASS = 0.0104, 3.4, 39.95  # argon
EDGE = 12.2  # Å; density 0.69 σ⁻³
TEMPERATURE, PRESSURE = 120.0, 0.2  # K, GPa


nightly = partial(pytest.param, marks=pytest.mark.nightly)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def repulsive(state):
    """Lennard-Jones atoms cut at the minimum (Weeks, Chandler and Andersen), nearest images."""

    def energy(positions, strain):
        deformed = jnp.eye(3) + strain
        cell = state.cell @ deformed
        f = cells.fractional(positions @ deformed, cell)
        f = f[:, None] - f[None, :]
        squared = jnp.sum(((f - jnp.round(f)) @ cell) ** 2, axis=-1) + 1e6 * jnp.eye(ATOMS)
        power = (SIGMA**2 / squared) ** 3
        pairs = jnp.where(power > 0.5, 4 * EPSILON * (power**2 - power) + EPSILON, 0)
        return jnp.sum(pairs) / 2

    value, (slope, virial) = jax.value_and_grad(energy, argnums=(0, 1))(
        state.positions, jnp.zeros((3, 3))
    )
    return state.replace(forces=-slope, virial=virial, site_energies=jnp.full(ATOMS, value / ATOMS))


def simulate(build, temperature_K, **numbers):
    """Samples of potential energy, kinetic energy and volume, from replicas of a lattice."""
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3), axis=-1).reshape(-1, 3)
    sites = grid[grid.sum(axis=1) % 2 == 0] * EDGE / 4  # face-centred cubic
    state = start(sites, np.full(ATOMS, MASS), EDGE * np.eye(3), temperature_K=temperature_K)
    # momenta at rest as a whole: only Langevin's bath would set that in motion
    states = replicated(state, REPLICAS, temperature_K)
    freedom = None if build is langevin else 3.0 * ATOMS - 3
    inputs = parameters(
        4.0, temperature_K, freedom=freedom, time_constant_fs=100.0, **numbers
    )  # fmt: skip
    _, seen = run_replicas(build, repulsive, states, inputs, SAMPLES, EVERY)
    return {name: values[:, 10:].ravel() for name, values in seen.items()}


def as_data(seen, temperature_K, pressure_GPa=None):
    unit = validation.data.UnitData(
        kb=units.BOLTZMANN,
        energy_str="eV",
        energy_conversion=96.48533212,
        length_str="A",
        length_conversion=0.1,
        volume_str="A^3",
        volume_conversion=1e-3,
        temperature_str="K",
        temperature_conversion=1.0,
        pressure_str="GPa",
        pressure_conversion=1e4,
        time_str="fs",
        time_conversion=1e-3,
    )
    if pressure_GPa is None:
        ensemble = validation.data.EnsembleData(
            "NVT", natoms=ATOMS, volume=EDGE**3, temperature=temperature_K
        )
    else:
        ensemble = validation.data.EnsembleData(
            "NPT", natoms=ATOMS, pressure=pressure_GPa, temperature=temperature_K
        )
    observables = validation.data.ObservableData(
        kinetic_energy=seen["kinetic"],
        potential_energy=seen["potential"],
        total_energy=seen["kinetic"] + seen["potential"],
        volume=seen["volume"],
    )
    return validation.data.SimulationData(units=unit, ensemble=ensemble, observables=observables)


def deviation(*data):
    """How many standard errors the fitted slope is from the exact one."""
    result = validation.ensemble.check(
        *data, data_is_uncorrelated=True, bootstrap_seed=1, bootstrap_repetitions=20, verbosity=0
    )
    return np.max(np.abs(result))


@pytest.mark.parametrize(
    "thermostat", [nightly(langevin), bussi, nightly(nose_hoover_chain)], ids=lambda f: f.__name__
)
def test_energies_at_two_temperatures(thermostat):
    data = [as_data(simulate(thermostat, t), t) for t in (TEMPERATURE, 1.12 * TEMPERATURE)]
    assert deviation(*data) < 3.5


@pytest.mark.parametrize(
    "barostat",
    [
        partial(stochastic_cell_rescaling, coupling="isotropic"),
        nightly(partial(martyna_tobias_klein, coupling="isotropic")),
    ],
    ids=lambda f: f.func.__name__,
)
def test_volumes_at_two_pressures(barostat):
    cell = {"pressure_time_fs": 300.0}
    if barostat.func is stochastic_cell_rescaling:
        cell["compressibility_per_GPa"] = 1.0
    data, pressures = [], (PRESSURE, 1.15 * PRESSURE)
    for pressure in pressures:
        seen = simulate(barostat, TEMPERATURE, pressure_GPa=pressure, **cell)
        assert seen["volume"].std() > 20
        thermal = (3 * ATOMS - 3) * units.BOLTZMANN * TEMPERATURE / 2
        assert seen["kinetic"].mean() == pytest.approx(thermal, rel=0.02)
        data.append(as_data(seen, TEMPERATURE, pressure))
    assert deviation(*data) < 3.5
