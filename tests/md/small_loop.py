"""The shortest loop around an integrator, for tests that need neither lists nor files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import cells, summation, units
from md.state import State, initial_state, kinetic_energy, maxwell_boltzmann_momenta


def start(
    positions,
    masses,
    cell=None,
    *,
    temperature_K: float,
    group=None,
    remove_drift=True,
    seed=0,
) -> State:
    """A state with thermal momenta, periodic if there is a cell."""
    key = jax.random.key(seed)
    masses = jnp.asarray(masses)
    species = jnp.zeros(len(masses), jnp.int32)
    momenta = maxwell_boltzmann_momenta(
        jax.random.fold_in(key, 99), masses, species, temperature_K, remove_drift=remove_drift
    )
    pbc = (cell is not None,) * 3
    cell = jnp.zeros((3, 3), masses.dtype) if cell is None else jnp.asarray(cell)
    state = initial_state(jnp.asarray(positions), momenta, species, masses, cell, pbc, key)
    return state if group is None else state.replace(group=jnp.asarray(group, jnp.int32))


def parameters(
    timestep_fs: float,
    temperature_K: Any,
    *,
    freedom: Any = None,
    time_constant_fs: Any,
    pressure_GPa: Any = None,
    pressure_time_fs: float | None = None,
    compressibility_per_GPa: float | None = None,
) -> dict[str, Any]:
    """Arguments of an integrator from the units of users; a time constant of inf leaves alone."""
    temperature = jnp.atleast_1d(jnp.asarray(temperature_K, float))
    every_group = jnp.ones_like(temperature)
    numbers = {
        "timestep": jnp.asarray(timestep_fs * units.FEMTOSECOND),
        "temperature": temperature,
        "rate": every_group / (jnp.asarray(time_constant_fs) * units.FEMTOSECOND),
    }
    if freedom is not None:
        numbers["freedom"] = every_group * jnp.asarray(freedom)
    if pressure_GPa is not None:
        numbers["pressure"] = jnp.ones(3) * jnp.asarray(pressure_GPa) * units.GIGAPASCAL
        numbers["pressure_rate"] = jnp.asarray(1 / (pressure_time_fs * units.FEMTOSECOND))
    if compressibility_per_GPa is not None:
        numbers["compressibility"] = jnp.asarray(compressibility_per_GPa / units.GIGAPASCAL)
    return numbers


def energies(state: State, integrator: Any) -> dict[str, Any]:
    """Conserved quantity, energies and volume of a state."""
    kinetic = kinetic_energy(state)
    potential = summation.compensated_sum(state.site_energies)
    total = summation.add(summation.add(potential, kinetic), integrator.energy_exchanged(state))
    return {
        "conserved": summation.rounded(total),
        "kinetic": summation.rounded(kinetic),
        "potential": summation.rounded(potential),
        "volume": cells.volume(state.cell),
    }


def run(
    build: Callable[..., Any],
    interactions: Callable[[State], State],
    state: State,
    numbers: dict[str, Any],
    samples: int,
    every: int = 1,
    observe: Callable[[State, Any], Any] = energies,
) -> tuple[State, Any]:
    """Advance by samples · every steps; the state and what was observed, [samples, ...] each.

    A state without variables of the integrator gets them, and its forces, first.
    """
    if state.thermostat is None:
        state = _prepare(build, interactions, numbers, state)
    state, seen = _run(build, interactions, observe, samples, numbers, state, every)
    return state, jax.tree.map(np.asarray, seen)


def run_replicas(
    build, interactions, states, numbers, samples, every=1, observe=energies
) -> tuple[State, Any]:
    """The same for states with a leading axis; what was observed is [replicas, samples, ...]."""
    if states.thermostat is None:
        states = jax.vmap(partial(_prepare, build, interactions, numbers))(states)
    one = partial(_run, build, interactions, observe, samples, numbers, every=every)
    states, seen = jax.jit(jax.vmap(one))(states)
    return states, jax.tree.map(np.asarray, seen)


def replicated(state: State, number: int, temperature_K: float, *, remove_drift=True) -> State:
    """Copies of a state with random keys and thermal momenta of their own."""

    def copy(seed):
        key = jax.random.key(seed)
        momenta = maxwell_boltzmann_momenta(
            jax.random.fold_in(key, 99),
            state.masses,
            state.species,
            temperature_K,
            remove_drift=remove_drift,
        )
        return state.replace(key=key, momenta=momenta)

    return jax.vmap(copy)(jnp.arange(number))


def _prepare(build, interactions, numbers, state):
    return build(**numbers).init(interactions(state))


@partial(jax.jit, static_argnames=("build", "interactions", "observe", "samples"))
def _run(build, interactions, observe, samples, numbers, state, every):
    integrator = build(**numbers)

    def step(_, state):
        state = integrator.finish(interactions(integrator.begin(state)))
        return state.replace(step=state.step + 1)

    def stride(state, _):
        state = jax.lax.fori_loop(0, every, step, state)
        return state, observe(state, integrator)

    return jax.lax.scan(stride, state, length=samples)
