"""The compiled part of a run: a chunk of steps, of which the host only reads the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from md import cells, ensembles, observables, summation, units
from md.ensembles import Parameters
from md.evaluation import evaluate
from md.faults import Fault
from md.neighbours import NeighbourList, needs_update, update
from md.observables import Sample
from md.state import State, kinetic_energy, real_atoms, wrapped
from md.structures import Frame, frame_of


@dataclasses.dataclass(frozen=True)
class Program:
    """What a compiled chunk depends on besides the shapes of its arguments.

    Attributes:
        ensemble: name, see :mod:`md.ensembles`.
        freedom: kinetic degrees of freedom.
        trajectory: whether frames are kept.
        block_size: atoms evaluated at once; None lets :mod:`md.evaluation` choose.
    """

    ensemble: str
    freedom: int
    trajectory: bool
    block_size: int | None


class Alarm(NamedTuple):
    """The first thing that went wrong: bits of :class:`md.faults.Fault`, the step, and an atom."""

    faults: Int[Array, ""]
    step: Int[Array, ""]
    atom: Int[Array, ""]


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


class Report(NamedTuple):
    """What a chunk hands to the host besides the new state and list.

    Attributes:
        alarm: what went wrong; ``faults`` of the list are told by the list itself.
        samples: observables after each segment, leading axes [frames, segments].
        frames: after each row of segments, leading axis [frames]; None without a trajectory.
        closest: closest pair at each sample; None without a table of shortest distances.
    """

    alarm: Alarm
    samples: Sample
    frames: Frame | None
    closest: Closest | None


Interactions = Callable[[State, NeighbourList], tuple[State, NeighbourList]]


def interactions(potential: Any, block_size: int | None) -> Interactions:
    """Forces of a potential, with the neighbour list rebuilt first wherever that is due."""

    def rebuild(state: State, neighbours: NeighbourList) -> tuple[State, NeighbourList]:
        state = wrapped(state)
        return state, update(neighbours, state.positions, state.cell, state.species)

    def compute(state: State, neighbours: NeighbourList) -> tuple[State, NeighbourList]:
        state, neighbours = jax.lax.cond(
            needs_update(neighbours, state.positions, state.cell),
            rebuild,
            lambda *unchanged: unchanged,
            state,
            neighbours,
        )
        result = evaluate(
            potential, state.positions, state.cell, state.species, neighbours, block_size=block_size
        )
        state = state.replace(
            forces=result.forces, site_energies=result.site_energies, virial=result.virial
        )
        return state, neighbours

    return compute


@partial(jax.jit, static_argnames="program")
def run_chunk(
    program: Program,
    potential: Any,
    parameters: Parameters,
    maximum_temperature: Float[Array, ""] | float,
    shortest_distances: Float[Array, "T T"] | None,
    state: State,
    neighbours: NeighbourList,
    counts: Int[Array, "frames segments"],
) -> tuple[State, NeighbourList, Report]:
    """Advance a state by Σ counts steps, or until something goes wrong.

    Args:
        program: static choices.
        potential: a :class:`md.local_potential.LocalPotential`.
        parameters: of the integrator.
        maximum_temperature: K; above it the run counts as exploded.
        shortest_distances: [T, T] Å; pairs below it are reported.
        state, neighbours: where to start.
        counts: steps of each segment (:mod:`md.schedule`).
    """
    integrator = ensembles.integrator(program.ensemble, parameters)
    forces = interactions(potential, program.block_size)
    hottest = maximum_temperature * units.BOLTZMANN * program.freedom / 2  # kinetic energy, eV

    def advance(carry):
        done, state, neighbours, alarm = carry
        state, neighbours = forces(integrator.begin(state), neighbours)
        state = integrator.finish(state)
        state = state.replace(step=state.step + 1)
        return done + 1, state, neighbours, check(state, alarm, hottest)

    def segment(carry, count):
        def unfinished(inner):
            done, _, neighbours, alarm = inner
            return (done < count) & (alarm.faults == 0) & (neighbours.faults == 0)

        _, *carry = jax.lax.while_loop(unfinished, advance, (jnp.int32(0), *carry))
        state, neighbours, _ = carry
        sample = observables.sample(state, integrator.energy_exchanged)
        closest = None
        if shortest_distances is not None:
            closest = closest_pair(state, neighbours, shortest_distances)
        return tuple(carry), (sample, closest)

    def row(carry, counts):
        carry, (samples, closest) = jax.lax.scan(segment, carry, counts)
        frame = None
        if program.trajectory:
            frame = frame_of(carry[0], jax.tree.map(lambda x: x[-1], samples))
        return carry, (samples, frame, closest)

    nothing = jnp.int32(0)
    carry = (state, neighbours, Alarm(nothing, nothing, nothing))
    (state, neighbours, alarm), (samples, frames, closest) = jax.lax.scan(row, carry, counts)
    return state, neighbours, Report(alarm, samples, frames, closest)


def check(state: State, alarm: Alarm, hottest: Float[Array, ""] | float) -> Alarm:
    """Raise the alarm if a state is not finite or too hot, naming the atom."""
    moving = real_atoms(state.species)
    values = jnp.concatenate(
        [state.positions, state.momenta, state.forces, state.site_energies[:, None]], axis=1
    )
    finite = jnp.all(jnp.isfinite(values), axis=1) | ~moving
    kinetic = summation.rounded(kinetic_energy(state))
    hot = kinetic > hottest
    faults = jnp.where(
        jnp.all(finite),
        jnp.where(hot, jnp.int32(Fault.TOO_HOT), jnp.int32(0)),
        jnp.int32(Fault.NOT_FINITE),
    )
    speed = jnp.where(moving, jnp.sum(state.momenta**2, axis=1) / state.masses, 0)
    atom = jnp.where(jnp.all(finite), jnp.argmax(speed), jnp.argmin(finite)).astype(jnp.int32)
    return Alarm(faults, state.step, atom)


def closest_pair(
    state: State, neighbours: NeighbourList, shortest_distances: Float[Array, "T T"]
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
