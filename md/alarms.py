"""What stops a run: states that are not finite, too hot or torn apart; and pairs that are close."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from md import cells, totals, units
from md.domains.lists import DomainList
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
    finite = ~real | jnp.isfinite(state.site_energies)
    for vectors in (state.positions, state.momenta, state.forces):
        finite &= ~real | jnp.all(jnp.isfinite(vectors), axis=1)
    speed = jnp.sqrt(jnp.sum(state.momenta**2, axis=1)) / state.masses
    speed = jnp.where(mobile(state), speed, 0)
    kinetic = totals.total(jnp.where(mobile(state), state.masses * speed**2 / 2, 0), state.axes)
    hottest = limits.temperature * units.BOLTZMANN * jnp.sum(parameters.freedom) / 2
    all_finite = totals.every(finite, state.axes)
    faults = jnp.where(
        ~all_finite | ~jnp.all(jnp.isfinite(state.cell)) | ~jnp.isfinite(state.bias_energy),
        jnp.int32(Fault.NOT_FINITE),
        jnp.where(kinetic > hottest, jnp.int32(Fault.TOO_HOT), jnp.int32(0))
        | jnp.where(
            totals.largest(speed, state.axes) * parameters.timestep > limits.displacement,
            jnp.int32(Fault.TOO_FAST),
            jnp.int32(0),
        ),
    )
    blame = jnp.where(all_finite, speed, 1.0 - finite)
    return faults, state.step, totals.of_the_largest(blame, state.ids, state.axes)


def first_alarm(checked: tuple[Array, Array, Array]) -> Alarm:
    """The alarm of the first replica that raises one, from what :func:`check` says of each."""
    faults, steps, atoms = (jnp.atleast_1d(x) for x in checked)
    replica = jnp.argmax(faults != 0).astype(jnp.int32)
    return Alarm(faults[replica], steps[replica], atoms[replica], replica)


def closest_pair(
    shortest_distances: Float[Array, "T T"],
    positions: Float[Array, "atoms 3"],
    species: Int[Array, " atoms"],
    ids: Int[Array, " atoms"],
    state: State,
    neighbours: NeighbourList | DomainList,
) -> Closest:
    """The listed pair that is closest in proportion to its shortest allowed distance.

    Args:
        positions, species, ids: of all atoms that the list refers to, ghosts included.
    """
    n = positions.shape[0]

    def closest_to(row: Array) -> tuple[Array, Array, Array]:
        index = jnp.minimum(neighbours.indices[row], n - 1)
        if neighbours.shifts is None:
            vectors = cells.difference(positions[index], positions[row])
        else:
            shifts = neighbours.shifts[row]
            vectors = cells.displacement(positions[index], positions[row], shifts, state.cell)
        squared = jnp.where(neighbours.indices[row] < n, jnp.sum(vectors**2, axis=-1), jnp.inf)
        allowed = shortest_distances[species[row], species[index]]
        ratio = jnp.sqrt(squared) / allowed
        slot = jnp.argmin(ratio)
        return ratio[slot], jnp.sqrt(squared[slot]), index[slot]

    rows = jnp.arange(neighbours.indices.shape[0])
    ratio, distance, index = jax.lax.map(closest_to, rows, batch_size=min(len(rows), 1024))
    row = jnp.argmin(ratio)
    pair = jnp.stack([ids[row], ids[index[row]]])
    found = totals.of_the_smallest(ratio[row], (distance[row], pair), state.axes)
    return Closest(*found, state.step)
