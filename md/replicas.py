"""Replicas: copies of a system side by side along a leading axis, and the exchange among them.

Every leaf of the state and of the neighbour list has a leading axis [R]. What is per replica runs
under ``jax.vmap``; decisions that choose a branch (whether to rebuild lists) are one scalar for
all, because ``lax.cond`` under ``vmap`` would run both branches at every step.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import cells, summation, units
from md.ensembles import Parameters
from md.observables import potential_energy
from md.state import State, mobile

_PURPOSE = 13  # of the random numbers, see md.thermostats


class Exchanges(NamedTuple):
    """How often neighbouring temperatures of the ladder tried to exchange replicas, and did.

    Attributes:
        attempted, accepted: [R − 1].
    """

    attempted: Int[Array, " pairs"]
    accepted: Int[Array, " pairs"]


def no_exchanges(replicas: int) -> Exchanges:
    zero = jnp.zeros(replicas - 1, jnp.int32)
    return Exchanges(zero, zero)


def stack(states: list[Any]) -> Any:
    """Pytrees of the same kind, with a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def unstack(tree: Any, replica: int) -> Any:
    """One replica."""
    return jax.tree.map(lambda leaf: leaf[replica], tree)


def on_ladder(parameters: Parameters, rung: Int[Array, " replicas"]) -> Parameters:
    """Parameters in the order of the replicas, from those in the order of the ladder."""
    return parameters.replace(temperature=parameters.temperature[rung])


def exchange(
    state: State, parameters: Parameters, exchanges: Exchanges, odd: Int[Array, ""]
) -> tuple[State, Exchanges]:
    r"""Let neighbouring temperatures swap their replicas, by the rule of Metropolis.

    P = min(1, exp[(β_i − β_j)(H_i − H_j)]),  H = U + P V

    The replicas stay where they are and swap temperatures; momenta are scaled by √(T_new / T_old),
    which cancels the kinetic energy from the rule.
    Source: Y. Sugita and Y. Okamoto, Chem. Phys. Lett. 314, 141 (1999).

    Args:
        state: of R replicas.
        parameters: in the order of the ladder, leading axis [R]; constant volume has pressure 0.
        odd: whether pairs start at the second temperature.
    """
    count = state.rung.shape[0]
    temperature = parameters.temperature[:, 0]
    key = jax.random.fold_in(jax.random.fold_in(state.key[0], state.step[0]), _PURPOSE)
    draws = jax.random.uniform(key, (count,), temperature.dtype)
    at_rung = jnp.argsort(state.rung)  # the replica on each rung
    energy = jax.vmap(_enthalpy)(state, parameters)[at_rung]
    lower = jnp.arange(count - 1)
    beta = 1 / (units.BOLTZMANN * temperature)
    gain = (beta[lower] - beta[lower + 1]) * (energy[lower] - energy[lower + 1])
    tried = lower % 2 == odd
    swapped = tried & (jnp.log(draws[lower]) < gain)
    # rung i takes the replica of rung i + 1 where they swap, and the other way round
    up = jnp.concatenate([swapped, jnp.zeros(1, bool)])
    down = jnp.concatenate([jnp.zeros(1, bool), swapped])
    partner = jnp.arange(count) + up - down
    rung = jnp.zeros_like(state.rung).at[at_rung].set(partner.astype(state.rung.dtype))
    scale = jnp.sqrt(temperature[rung] / temperature[state.rung])
    momenta = jnp.where(
        jax.vmap(mobile)(state)[..., None], scale[:, None, None] * state.momenta, state.momenta
    )
    # the swap changes the kinetic energy: work from outside, for the conserved energy
    change = jnp.sum(jnp.sum(momenta**2 - state.momenta**2, axis=-1) / (2 * state.masses), axis=-1)
    work = jax.vmap(summation.add)(state.work, change)
    counted = Exchanges(
        exchanges.attempted + tried.astype(jnp.int32),
        exchanges.accepted + swapped.astype(jnp.int32),
    )
    return state.replace(momenta=momenta, rung=rung, work=work), counted


def _enthalpy(state: State, parameters: Parameters) -> Float[Array, ""]:
    volume = jnp.where(jnp.any(parameters.pressure != 0), cells.volume(state.cell), 0)
    internal = summation.rounded(potential_energy(state)) + state.bias_energy
    return internal + jnp.mean(parameters.pressure) * volume


def ladder(temperature_K: Any, replicas: int) -> np.ndarray:
    """[R] temperatures: those given, or R copies of one, or from a pair in a geometric series."""
    array = np.asarray(temperature_K, float)
    if array.ndim == 0:
        return np.full(replicas, float(array))
    if array.shape == (2,) and replicas > 2:
        return np.geomspace(array[0], array[1], replicas)
    if array.shape != (replicas,):
        raise ValueError(
            f"replica_temperatures_K: give one number, a pair, or {replicas} numbers, "
            f"not {temperature_K!r}"
        )
    return array
