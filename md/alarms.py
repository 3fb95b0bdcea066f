"""What stops a run: states that are not finite, too hot or torn apart; and pairs that are close."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

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


def check(limits: Limits, state: State, parameters: Parameters) -> Int[Array, ""]:
    """Faults of a state; of one replica."""
    speed, finite = _speed(state), _finite(state)
    kinetic = totals.total(jnp.where(mobile(state), state.masses * speed**2 / 2, 0), state.axes)
    hottest = limits.temperature * units.BOLTZMANN * jnp.sum(parameters.freedom) / 2
    # both extremes in one message to other devices
    extremes = jnp.stack(
        [jnp.max(1.0 - finite), jnp.max(jnp.where(jnp.isfinite(speed), speed, 0), initial=0)]
    )
    lost, fastest = totals.largest_of_devices(extremes, state.axes)
    good = (lost == 0) & jnp.all(jnp.isfinite(state.cell)) & jnp.isfinite(state.bias_energy)
    return jnp.where(
        good,
        jnp.where(kinetic > hottest, jnp.int32(Fault.TOO_HOT), jnp.int32(0))
        | jnp.where(
            fastest * parameters.timestep > limits.displacement,
            jnp.int32(Fault.TOO_FAST),
            jnp.int32(0),
        ),
        jnp.int32(Fault.NOT_FINITE),
    )


def blamed(faults: Int[Array, ""], state: State) -> Int[Array, ""]:
    """The atom that is not finite, or else the fastest; of one replica."""
    blame = jnp.where(faults == Fault.NOT_FINITE, 1.0 - _finite(state), _speed(state))
    return totals.of_the_largest(blame, state.ids, state.axes)


def _finite(state: State) -> Bool[Array, " atoms"]:
    """Of padded rows too."""
    finite = jnp.isfinite(state.site_energies)
    for vectors in (state.positions, state.momenta, state.forces):
        finite &= jnp.all(jnp.isfinite(vectors), axis=1)
    return finite | ~real_atoms(state.species)


def _speed(state: State) -> Float[Array, " atoms"]:
    speed = jnp.sqrt(jnp.sum(state.momenta**2, axis=1)) / state.masses
    return jnp.where(mobile(state), speed, 0)


def first_alarm(
    faults: Int[Array, "*replicas"], steps: Int[Array, "*replicas"], atoms: Int[Array, "*replicas"]
) -> Alarm:
    """The alarm of the first replica that raises one, from what is known of each."""
    faults, steps, atoms = (jnp.atleast_1d(x) for x in (faults, steps, atoms))
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
