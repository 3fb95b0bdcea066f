"""The compiled part of a run: a chunk of steps, of which the host only reads the report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from md import uncertainty
from md.alarms import Closest, blamed, check, closest_pair, first_alarm
from md.domains import lists, sharding
from md.domains.lists import DomainList
from md.ensembles import Course, Parameters
from md.neighbours import NeighbourList
from md.program import Carry, Program, Report, System
from md.state import State
from md.step import advance, any_fault, observed, observed_frame
from md.structures import frame_of
from md.uncertainty import Watch

_OVERWRITTEN = ("indices", "shifts")  # of a list, by the next one


def run_chunk(
    program: Program,
    system: System,
    course: Course,
    carry: Carry,
    counts: Int[np.ndarray, "frames segments"],
) -> tuple[Carry, Report]:
    """Advance a state by Σ counts steps, or until something goes wrong.

    The new list is written over the old one: of ``carry.neighbours``, ``indices`` and ``shifts``
    must not be used any more, for there is no room for two lists of millions of atoms. On domains
    nothing of ``carry`` may be: there is no room for two states either.

    Args:
        program: static choices.
        system: what acts on the atoms.
        course: parameters of the integrator at each step.
        carry: where to start.
        counts: steps of each segment (:mod:`md.schedule`).
    """
    return compiled()(program, system, course, *_parted(program, carry), counts)


def lowered(
    program: Program,
    system: System,
    course: Course,
    carry: Carry,
    counts: Int[np.ndarray, "frames segments"],
) -> jax.stages.Lowered:
    """What :func:`run_chunk` would run, ready to be compiled; shapes will do for ``carry``."""
    return compiled().lower(program, system, course, *_parted(program, carry), counts)


def compiled() -> Callable[..., tuple[Carry, Report]]:
    """The function that JAX compiles, once for each :class:`md.program.Program` and its shapes."""
    return _compiled(jax.default_backend())


def _parted(program: Program, carry: Carry) -> tuple[Carry | None, Any]:
    """What stays as it is, and what is written over."""
    if program.grid is not None:
        return None, carry
    room = {name: getattr(carry.neighbours, name) for name in _OVERWRITTEN}
    room = {name: array for name, array in room.items() if array is not None}
    return carry._replace(neighbours=carry.neighbours.replace(**dict.fromkeys(room))), room


@cache
def _compiled(backend: str) -> Callable[..., tuple[Carry, Report]]:
    # XLA's other schedulers for CPUs need half as much memory again
    options = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    return jax.jit(
        _run_chunk,
        static_argnames="program",
        donate_argnames="room",
        compiler_options=options if backend == "cpu" else None,
    )


def _run_chunk(
    program: Program,
    system: System,
    course: Course,
    rest: Carry | None,
    room: Any,
    counts: Int[Array, "frames segments"],
) -> tuple[Carry, Report]:
    carry = room if rest is None else rest._replace(neighbours=rest.neighbours.replace(**room))
    arguments = system, course, carry, counts
    if program.grid is None:
        return _steps(program, *arguments)
    everywhere, spread = sharding.ON_ALL, sharding.of_carry(carry)
    run = program.grid.sharded(
        partial(_steps, program),
        (everywhere, everywhere, spread, everywhere),
        (spread, sharding.of_report(program.uncertain_frames > 0)),
    )
    return run(*arguments)


def _steps(
    program: Program,
    system: System,
    course: Course,
    carry: Carry,
    counts: Int[Array, "frames segments"],
) -> tuple[Carry, Report]:
    """The chunk as one device sees it."""
    if carry.watch is not None:
        carry = carry._replace(watch=_opened(program, course, carry))

    def step(count, inner):
        done, carry, _ = inner
        carry = advance(program, system, course, carry, done + 1 == count)
        parameters = program.parameters(course, carry.state)
        faults = program.per_replica(partial(check, system.limits))(carry.state, parameters)
        return done + 1, carry, faults

    def segment(outer, count):
        def unfinished(inner):
            done, carry, faults = inner
            good = jnp.all(faults == 0) & ~any_fault(carry)
            return (done < count) & good & ~_stopped(program, carry)

        _, carry, faults = jax.lax.while_loop(
            unfinished, partial(step, count), (jnp.int32(0), *outer)
        )

        parameters = program.parameters(course, carry.state)
        sample = program.per_replica(partial(observed, program))(parameters, carry.state)
        closest = None
        if system.shortest_distances is not None:
            find = partial(_closest, program, system.shortest_distances)
            closest = program.per_replica(find)(carry.state, carry.neighbours)
        watched = None if carry.watch is None else carry.watch._replace(kept=None)
        return (carry, faults), (sample, closest, watched)

    def row(outer, counts):
        outer, (samples, closest, watched) = jax.lax.scan(segment, outer, counts)
        frame = None
        if program.trajectory:
            last = jax.tree.map(lambda x: x[-1], samples)
            frame = frame_of(outer[0].state, last, outer[0].neighbours)
        return outer, (samples, frame, closest, watched)

    (carry, faults), (samples, frames, closest, watched) = jax.lax.scan(
        row, (carry, jnp.zeros_like(carry.state.step)), counts
    )
    atoms = program.per_replica(blamed)(faults, carry.state)
    alarm = first_alarm(faults, carry.state.step, atoms)
    uncertain = None
    if carry.watch is not None:
        uncertain = carry.watch.kept
        carry = carry._replace(watch=carry.watch._replace(kept=None))
    return carry, Report(alarm, samples, frames, closest, watched, uncertain)


def _closest(
    program: Program, table: Array, state: State, neighbours: NeighbourList | DomainList
) -> Closest:
    place = state.positions, state.species, state.ids
    if program.grid is not None:
        place = lists.with_ghosts(state, neighbours)
    return closest_pair(table, *place, state, neighbours)


def _opened(program: Program, course: Course, carry: Carry) -> Watch:
    @program.per_replica
    def open_one(
        parameters: Parameters, watch: Watch, state: State, listed: NeighbourList | DomainList
    ) -> Watch:
        frame = partial(observed_frame, program, parameters, listed)
        return uncertainty.opened(watch, frame, state, program.uncertain_frames)

    parameters = program.parameters(course, carry.state)
    return open_one(parameters, carry.watch, carry.state, carry.neighbours)


def _stopped(program: Program, carry: Carry) -> Bool[Array, ""]:
    """Whether a committee's spread ends the run, that of any replica."""
    if program.uncertainty is None or not program.uncertainty.stops:
        return jnp.asarray(False)
    return jnp.any(carry.watch.passed)
