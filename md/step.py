"""One time step of a run, as one device sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from md import bias, cells, observables, pair_search, replicas, summation, totals, uncertainty
from md.domains import lists, migration
from md.domains.lists import DomainList
from md.ensembles import Course, Parameters
from md.evaluation import evaluate
from md.neighbours import NeighbourList, needs_update, update
from md.observables import Sample
from md.program import Carry, Program, System
from md.state import (
    State,
    kinetic_energy,
    mobile,
    real_atoms,
    without_drift,
    without_rotation,
    wrapped,
)
from md.structures import Frame, frame_of
from md.uncertainty import Watch


def rebuilt_if_due(
    program: Program, state: State, neighbours: NeighbourList | DomainList
) -> tuple[State, NeighbourList | DomainList]:
    """A list that is complete at the state's positions; one decision for all replicas."""
    if program.grid is not None:
        due = lists.needs_rebuild(neighbours, state)
        # one after the other: neither needs memory while the other does
        moved = _once(
            due, lambda old: lists.arranged(neighbours, old.state), migration.unmoved(state)
        )
        return moved.state, _once(due, lambda old: lists.filled(old, moved), neighbours)

    @program.per_replica
    def rebuild(state: State, neighbours: NeighbourList) -> tuple[State, NeighbourList]:
        state = wrapped(state)
        return state, update(neighbours, state.positions, state.cell, state.species)

    due = program.per_replica(needs_update)(neighbours, state.positions, state.cell)

    return _once(jnp.any(due), lambda old: rebuild(*old), (state, neighbours))


def with_forces(
    program: Program,
    system: System,
    with_virial: bool | Bool[Array, ""],
    state: State,
    neighbours: NeighbourList | DomainList,
) -> State:
    """A state with the forces, energies and virial of its positions; of one replica."""
    how = {
        "block_size": program.block_size,
        "deterministic": program.deterministic,
        "with_virial": with_virial,
    }
    if program.grid is not None:
        result = lists.evaluate(system.potential, state, neighbours, **how)
    else:
        place = state.positions, state.cell, state.species
        result = evaluate(system.potential, *place, neighbours, **how)
    forces, virial = result.forces, result.virial
    energy = jnp.zeros_like(state.bias_energy)
    if system.bias is not None:
        extra = bias.forces(system.bias, state.bias, state)
        energy, forces, virial = energy + extra[0], forces + extra[1], virial + extra[2]
    if system.force is not None:
        # E = −Σ F·r: neither periodic nor a property of the cell, so it has no virial
        added = system.force[jnp.maximum(state.group.astype(jnp.int32), 0)]
        added = jnp.where(mobile(state)[:, None], added, 0)
        along = jnp.sum(added * (bias.path(state) + _origin(state, neighbours)), axis=1)
        energy = energy - summation.rounded(totals.compensated(along, state.axes))
        forces = forces + added
    return state.replace(
        forces=forces, site_energies=result.site_energies, virial=virial, bias_energy=energy
    )


def _origin(state: State, neighbours: NeighbourList | DomainList) -> Float[Array, " 3"] | float:
    """What positions are relative to, Å."""
    on_domain = isinstance(neighbours, DomainList)
    return neighbours.geometry.origin(state.cell) if on_domain else 0.0


def strain_of_step(
    program: Program, parameters: Parameters, elapsed: Float[Array, ""], state: State
) -> Float[Array, "3 3"]:
    """F − 1 of one step's deformation at an engineering rate.

    F = (1 + rate·t)⁻¹ (1 + rate·(t + Δt)); r → r F, and momenta stay.

    Args:
        elapsed: t, the time since the stage began.
    """
    if not program.deformed:
        return jnp.zeros_like(state.cell)
    before = jnp.eye(3, dtype=state.cell.dtype) + elapsed * parameters.deformation
    return cells.lattice_vector(
        cells.reciprocal(before).T, parameters.timestep * parameters.deformation
    )


def strained(state: State, strain: Float[Array, "3 3"]) -> State:
    """The cell, and the atoms with it, after r → r (1 + strain)."""
    return state.replace(
        positions=state.positions + cells.lattice_vector(state.positions, strain),
        cell=state.cell + cells.lattice_vector(state.cell, strain),
    )


def advance(
    program: Program, system: System, course: Course, carry: Carry, sampled: Bool[Array, ""]
) -> Carry:
    """One time step.

    Args:
        sampled: whether the new state is looked at. The virial of others is NaN, unless the
            dynamics needs it.
    """
    state, neighbours, accumulators, exchanges, watch, begun = carry
    parameters = program.parameters(course, state)

    def strain_of(parameters: Parameters, state: State) -> Array:
        elapsed = (state.step - course.first).astype(state.cell.dtype) * parameters.timestep
        return strain_of_step(program, parameters, elapsed, state)

    def begin(parameters: Parameters, state: State, strain: Array) -> State:
        state = program.integrator(parameters).begin(state)
        return strained(state, strain) if program.deformed else state

    def finish(parameters: Parameters, before: State, state: State, strain: Array) -> State:
        state = with_work(program, parameters, before, state, strain)
        return program.integrator(parameters).finish(state)

    strain = program.per_replica(strain_of)(parameters, state)
    remaining = parameters, strain
    if begun is not None:  # already
        remaining = _standing_still(begun, *remaining)
    state = program.per_replica(begin)(remaining[0], state, remaining[1])
    state, neighbours = rebuilt_if_due(program, state, neighbours)
    before = state  # with forces and virial still of the positions before
    with_virial = program.needs_virial or sampled
    state = program.per_replica(partial(with_forces, program, system, with_virial))(
        state, neighbours
    )
    complete = jnp.asarray(True)
    if begun is not None:
        # without all neighbours the step is left half done, to be gone on with when there is room
        begun = any_fault(carry._replace(neighbours=neighbours))
        complete = ~begun
        state = state.replace(virial=jnp.where(begun, before.virial, state.virial))
        if program.driven:
            state = state.replace(forces=jnp.where(begun, before.forces, state.forces))
        parameters, strain = _standing_still(begun, parameters, strain)
    state = program.per_replica(finish)(parameters, before, state, strain)
    state = state.replace(step=state.step + complete)

    step = jnp.ravel(state.step)[0]
    every = partial(_every, step, complete)
    state = every(program.drift_every, program.per_replica(_accounted(_at_rest)), state)
    still = partial(without_rotation, origin=_origin(state, neighbours))
    state = every(program.rotation_every, program.per_replica(_accounted(still)), state)
    if system.bias is not None:
        state = program.per_replica(partial(_with_bias_updated, system.bias))(state)
    if exchanges is not None:
        odd = step // program.exchange_every % 2
        state, exchanges = every(
            program.exchange_every,
            lambda pair: replicas.exchange(pair[0], course.at(step), pair[1], odd),
            (state, exchanges),
        )
    accumulators = tuple(
        every(
            observable.every,
            lambda inner, observable=observable: program.per_replica(observable.update)(
                inner, state, neighbours
            ),
            accumulator,
        )
        for observable, accumulator in zip(program.observables, accumulators, strict=True)
    )
    if program.uncertainty is not None:
        due = complete & (step % program.uncertainty.every == 0)
        watch = _once(
            due, lambda old: _looked(program, system, course, old, state, neighbours), watch
        )
    return Carry(state, neighbours, accumulators, exchanges, watch, begun)


def _looked(
    program: Program,
    system: System,
    course: Course,
    watch: Watch,
    state: State,
    neighbours: NeighbourList | DomainList,
) -> Watch:
    """A committee's spread at a state of each replica."""

    @program.per_replica
    def look(
        parameters: Parameters, watch: Watch, state: State, listed: NeighbourList | DomainList
    ) -> Watch:
        return uncertainty.look(
            program.uncertainty,
            system.potential,
            partial(observed_frame, program, parameters, listed),
            watch,
            state,
            listed,
            block_size=program.block_size,
            deterministic=program.deterministic,
        )

    return look(program.parameters(course, state), watch, state, neighbours)


def observed_frame(
    program: Program,
    parameters: Parameters,
    neighbours: NeighbourList | DomainList,
    state: State,
) -> Frame:
    return frame_of(state, observed(program, parameters, state), neighbours)


def observed(program: Program, parameters: Parameters, state: State) -> Sample:
    exchanged = program.integrator(parameters).energy_exchanged
    return observables.sample(state, parameters, exchanged)


def with_work(
    program: Program, parameters: Parameters, before: State, state: State, strain: Array
) -> State:
    """Count the work that driven atoms and the deformation of the cell did in a step.

    −∫ F·v dt over driven atoms and ∫ dE/dε : dε, both by the trapezoidal rule.
    """
    work = state.work
    if program.driven:
        driven = (real_atoms(state.species) & ~mobile(state))[:, None]
        velocity = state.momenta / state.masses[:, None]
        power = jnp.where(driven, (before.forces + state.forces) * velocity, 0)
        power = jnp.sum(totals.total(power, state.axes))
        work = summation.add(work, -parameters.timestep / 2 * power)
    if program.deformed:
        work = summation.add(work, jnp.sum((before.virial + state.virial) * strain) / 2)
    return state.replace(work=work)


def _at_rest(state: State) -> State:
    momenta = without_drift(state.momenta, state.masses, state.species, state.axes)
    return state.replace(momenta=momenta)


def _accounted(change: Callable[[State], State]) -> Callable[[State], State]:
    """A change of momenta whose effect on the kinetic energy counts as work from outside."""

    def changed(state: State) -> State:
        after = change(state)
        gained = summation.add(kinetic_energy(after), summation.negative(kinetic_energy(state)))
        return after.replace(work=summation.add(state.work, gained))

    return changed


def _with_bias_updated(bias: Any, state: State) -> State:
    """What a bias adds to the energy as it learns is work from outside."""
    variables, added = bias.update(state.bias, state)
    return state.replace(
        bias=variables,
        bias_energy=state.bias_energy + added,
        work=summation.add(state.work, added),
    )


def _standing_still(
    condition: Bool[Array, ""], parameters: Parameters, strain: Array
) -> tuple[Parameters, Array]:
    """A time step of zero on a condition; :mod:`md.integrators` then change nothing."""
    timestep = jnp.where(condition, 0, parameters.timestep)
    return parameters.replace(timestep=timestep), jnp.where(condition, 0, strain)


def _every(
    step: Array, complete: Array, stride: int, function: Callable[[Any], Any], value: Any
) -> Any:
    """function(value) after complete steps that are multiples of a stride, else value as it is."""
    if stride == 0:
        return value
    return jax.lax.cond(complete & (step % stride == 0), function, lambda same: same, value)


def _once(due: Array, function: Callable[[Any], Any], value: Any) -> Any:
    """function(value) if it is due, else the value as it is.

    A loop of one turn or none rather than a cond, which would copy large values at every step.
    """

    def turn(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return jnp.asarray(False), function(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], turn, (due, value))[1]


def any_fault(carry: Carry) -> Array:
    """Whether any list did not fit."""
    return jnp.any(carry.neighbours.faults != 0) | jnp.any(
        pair_search.faults(carry.accumulators) != 0
    )
