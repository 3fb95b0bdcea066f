"""What stops a run: states that are not finite, too hot or torn apart; and pairs that are close."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from md import cells, units
from md.ensembles import Parameters
from md.faults import Fault
from md.neighbours import NeighbourList
from md.state import State, mobile, real_atoms


@struct.dataclass
class Limits:
    """Beyond which a run counts as exploded.

    Attributes:
        temperature: K.
        displacement: Å that an atom may move in one step.
    """

    temperature: Any
    displacement: Any


class Alarm(NamedTuple):
    """The first thing that went wrong: bits of :class:`md.faults.Fault`, the step, an atom, and
    the replica."""

    faults: Int[Array, "*replicas"]
    step: Int[Array, "*replicas"]
    atom: Int[Array, "*replicas"]
    replica: Int[Array, ""]


class Closest(NamedTuple):
    """The pair that came closest in proportion to its allowed distance (at the sampled steps).

    Attributes:
        ratio: distance / shortest allowed distance; infinite if none was seen.
        distance: Å.
        pair: [2] indices of the atoms.
        step: step number.
    """

    ratio: Float[Array, "*samples"]
    distance: Float[Array, "*samples"]
    pair: Int[Array, "*samples 2"]
    step: Int[Array, "*samples"]


def no_alarm() -> Alarm:
    nothing = jnp.int32(0)
    return Alarm(nothing, nothing, nothing, nothing)


def check(
    limits: Limits, state: State, parameters: Parameters
) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
    """Faults of a state, its step, and the atom to blame; of one replica."""
    real = real_atoms(state.species)
    values = jnp.concatenate(
        [state.positions, state.momenta, state.forces, state.site_energies[:, None]], axis=1
    )
    finite = jnp.all(jnp.isfinite(values), axis=1) | ~real
    speed = jnp.sqrt(jnp.sum(state.momenta**2, axis=1)) / state.masses
    speed = jnp.where(mobile(state), speed, 0)
    kinetic = jnp.sum(jnp.where(mobile(state), state.masses * speed**2 / 2, 0))
    hottest = limits.temperature * units.BOLTZMANN * jnp.sum(parameters.freedom) / 2
    faults = jnp.where(
        ~jnp.all(finite) | ~jnp.all(jnp.isfinite(state.cell)) | ~jnp.isfinite(state.bias_energy),
        jnp.int32(Fault.NOT_FINITE),
        jnp.where(kinetic > hottest, jnp.int32(Fault.TOO_HOT), jnp.int32(0))
        | jnp.where(
            jnp.max(speed) * parameters.timestep > limits.displacement,
            jnp.int32(Fault.TOO_FAST),
            jnp.int32(0),
        ),
    )
    atom = jnp.where(jnp.all(finite), jnp.argmax(speed), jnp.argmin(finite)).astype(jnp.int32)
    return faults, state.step, atom


def first_alarm(checked: tuple[Array, Array, Array]) -> Alarm:
    """The alarm of the first replica that raises one, from what :func:`check` says of each."""
    faults, steps, atoms = (jnp.atleast_1d(x) for x in checked)
    replica = jnp.argmax(faults != 0).astype(jnp.int32)
    return Alarm(faults[replica], steps[replica], atoms[replica], replica)


def closest_pair(
    shortest_distances: Float[Array, "T T"], state: State, neighbours: NeighbourList
) -> Closest:
    """The listed pair that is closest in proportion to its shortest allowed distance."""
    n = state.positions.shape[0]

    def closest_to(row):
        index = jnp.minimum(neighbours.indices[row], n - 1)
        vectors = cells.displacement(
            state.positions[index], state.positions[row], neighbours.shifts[row], state.cell
        )
        squared = jnp.where(neighbours.indices[row] < n, jnp.sum(vectors**2, axis=-1), jnp.inf)
        allowed = shortest_distances[state.species[row], state.species[index]]
        ratio = jnp.sqrt(squared) / allowed
        slot = jnp.argmin(ratio)
        return ratio[slot], jnp.sqrt(squared[slot]), index[slot]

    ratio, distance, index = jax.lax.map(closest_to, jnp.arange(n), batch_size=min(n, 1024))
    row = jnp.argmin(ratio)
    pair = jnp.stack([row.astype(jnp.int32), index[row]])
    return Closest(ratio[row], distance[row], pair, state.step)
