"""What a run is made of, and the states that its stages start from."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from md import entry, neighbours, pair_search, replicas, structures, uncertainty
from md.bias import Bias
from md.domains import allocation, balance, crystal, placement, sharding
from md.domains.grid import Grid
from md.ensembles import Course, Parameters
from md.entry import Entry
from md.faults import Fault
from md.neighbours import NeighbourFunctions, NeighbourList
from md.observable import Observable
from md.program import Carry, Program, System
from md.replicated import Replicated, Structure, copies_of, unit_of
from md.species import species_indices
from md.stages import Leg
from md.state import State
from md.uncertainty import Uncertainty

_COPIED_ATOMS = 10**6  # of systems no larger than this a copy is of no weight


@dataclasses.dataclass(frozen=True)
class Assembly:
    """The settings of a run, checked and complete, and what follows from them.

    Attributes:
        system: what acts on the atoms.
        templates: the structure of each replica; one that repeats is on domains alone.
        legs: the stages, one after the other.
        neighbour_functions: of the list.
        observables: what is accumulated.
        replicas: how many run side by side; None for a run of one system.
        ladder_K: [R] temperatures of the replicas; None: those of the stages.
        exchange_every: steps between exchanges of replicas; 0 is never.
        block_size, deterministic: see :class:`md.program.Program`.
        trajectory: whether frames are kept.
        uncertainty, uncertain_frames: see :class:`md.program.Program`.
        seed: of velocities and noise.
        precision: float32 or float64.
        grid: of domains; None on one device without.
    """

    system: System
    templates: tuple[Structure, ...]
    legs: tuple[Leg, ...]
    neighbour_functions: NeighbourFunctions
    observables: tuple[Observable, ...]
    replicas: int | None
    ladder_K: np.ndarray | None
    exchange_every: int
    block_size: int | None
    deterministic: bool
    trajectory: bool
    uncertainty: Uncertainty | None
    uncertain_frames: int
    seed: int
    precision: str
    grid: Grid | None = None

    # -- what runs --------------------------------------------------------------------------------

    def course(self, leg: Leg) -> Course:
        course = leg.course(self.precision, self.replicas, self.ladder_K)
        return course if self.grid is None else self.grid.everywhere(course)

    def program(self, leg: Leg) -> Program:
        stage = leg.stage
        return Program(
            ensemble=stage.ensemble,
            cell=stage.cell,
            trajectory=self.trajectory and self.grid is None,
            block_size=self.block_size,
            deterministic=self.deterministic,
            driven=leg.partition.driven,
            deformed=stage.deformed,
            drift_every=stage.remove_drift_every,
            rotation_every=stage.remove_rotation_every,
            observables=self.observables if stage.observe else (),
            replicated=self.replicas is not None,
            exchange_every=self.exchange_every if stage.thermostatted else 0,
            uncertainty=self.uncertainty,
            uncertain_frames=self.uncertain_frames,
            grid=self.grid,
        )

    def system_of(self, leg: Leg) -> System:
        """What acts on the atoms in a stage."""
        if not leg.partition.forced:
            return self.system
        return self.system.replace(force=jnp.asarray(leg.partition.force, self.precision))

    def of_replicas(self) -> list[tuple[int, ...]]:
        """How each replica is picked from an array."""
        return [()] if self.replicas is None else [(r,) for r in range(self.replicas)]

    @cached_property
    def reference_energy(self) -> float:
        """eV, of all atoms: what the species' site energies do not hold."""
        potential, structure = self.system.potential, self.templates[0]
        species = species_indices(unit_of(structure).symbols, potential.species)
        of_unit = np.sum(np.asarray(potential.reference_energies, float)[species])
        return float(of_unit) * copies_of(structure)

    def leg_of(self, carry: Carry) -> Leg:
        """The stage that a state is in, or has just ended."""
        return next((leg for leg in self.legs if steps_done(carry) <= leg.last), self.legs[-1])

    def settings(self) -> dict[str, Any]:
        """What must not change between a run and its restart."""
        return {
            "stages": [
                {"ensemble": leg.stage.ensemble, "timestep_fs": leg.stage.timestep_fs}
                for leg in self.legs
            ],
            "atoms": _fingerprint(self.templates[0]),
            "pbc": self.templates[0].pbc.tolist(),
            "replicas": self.replicas,
            "uncertainty": self.uncertainty is not None,
        }

    # -- states -----------------------------------------------------------------------------------

    def fresh(self, *, template: bool = False) -> Carry:
        """The structures as they are given, one step before step 0.

        Args:
            template: if true, neighbours are not counted on domains: for what a checkpoint will
                take the place of.
        """
        if self.grid is not None:
            return self._spread(self.templates[0], template)
        states = []
        for r, atoms in enumerate(self.templates):
            assert isinstance(atoms, Atoms)
            state = self._state(atoms)
            if self.system.bias is not None:
                state = state.replace(bias=self.system.bias.init(state))
            if self.replicas is not None:
                rung = jnp.asarray(r, jnp.int32)
                state = state.replace(key=jax.random.fold_in(state.key, r), rung=rung)
            states.append(state)
        first = states[0]
        listed = self.neighbour_functions.allocate(
            first.positions, first.cell, first.species, fill=False
        )
        accumulators = tuple(
            observable.init(first, listed, self.system.potential.species)
            for observable in self.observables
        )
        watch = None if self.uncertainty is None else uncertainty.no_watch(self.precision)
        if self.replicas is None:
            return Carry(first, listed, accumulators, None, watch)
        exchanges = replicas.no_exchanges(self.replicas) if self.exchange_every else None
        copies = [(listed, accumulators, watch)] * self.replicas
        listed, accumulators, watch = replicas.stack(copies)
        return Carry(replicas.stack(states), listed, accumulators, exchanges, watch)

    def _state(self, atoms: Atoms) -> State:
        species = self.system.potential.species
        return structures.state_from_atoms(
            atoms, species, atoms.get_momenta(), self.seed, self.precision
        )

    def _spread(self, structure: Structure, template: bool) -> Carry:
        """A state in the domains of its atoms, with a list that is still to be built."""
        assert self.grid is not None
        grid, reach = self.grid, self.neighbour_functions.reach
        atoms, cell = unit_of(structure), structure.cell.array
        state = self._state(atoms)
        geometry = placement.cut(atoms.positions, cell, state.pbc, grid.counts, self.precision)
        if isinstance(structure, Replicated):
            state = state.replace(cell=jnp.asarray(cell, self.precision))
            along = crystal.places(structure, geometry)
            rows = allocation.rows_for(int(crystal.populations(along).max()), grid.domains)
            state = crystal.placed(state, structure, grid, geometry, along, rows)
        else:
            populations = placement.populations(atoms.positions, cell, geometry)
            rows = allocation.rows_for(int(populations.max()), grid.domains)
            state = placement.placed(state, atoms.positions, grid, geometry, rows)
        room = allocation.unmeasured if template else allocation.allocate
        listed = room(state, geometry, grid, reach)
        accumulators = tuple(
            sharding.laid_out(observable.init(state, listed, self.system.potential.species), grid)
            for observable in self.observables
        )
        watch = None if self.uncertainty is None else uncertainty.no_watch(self.precision)
        begun = np.asarray(False)
        return Carry(state, listed, accumulators, None, *grid.everywhere((watch, begun)))

    def enter(self, leg: Leg, before: Leg, carry: Carry) -> Carry:
        """Make a state ready for a stage: its groups, velocities and the integrator's variables.

        Whatever that does to the conserved energy counts as work from outside.
        """
        program, course = self.program(leg), self.course(leg)
        old_program, old_course = self.program(before), self.course(before)
        parted, fresh = leg.partition, steps_done(carry) < 0
        how = Entry(
            program,
            old_program,
            fresh=fresh,
            draw=leg.stage.velocities == "draw" or (leg.stage.velocities is None and fresh),
            held=parted.held,
            few=len(parted.thermal) < 128,
            rotation=leg.stage.remove_rotation_every > 0,
        )
        start, state = leg.stage.start_temperature_K, carry.state
        parameters = _parameters(program, course, state)
        old = _parameters(old_program, old_course, state)
        parts = None if parted.whole else (parted.group, parted.velocity.astype(self.precision))
        if self.grid is not None:
            parts = self.grid.everywhere(parts)
            return self._entered(how, carry, start, parameters, old, parts)
        if self.replicas is None:
            state = entry.on_one_device(how, state, start, parameters, old, parts)
            return carry._replace(state=state)
        entered = [
            entry.on_one_device(
                how,
                replicas.unstack(state, r),
                start if self.ladder_K is None else self.ladder_K[int(state.rung[r])],
                *replicas.unstack((parameters, old), r),
                parts,
            )
            for r in range(self.replicas)
        ]
        return carry._replace(state=replicas.stack(entered))

    def _entered(self, how: Entry, carry: Carry, *arguments: Any) -> Carry:
        """On domains: the state is written over, and a list still to be built makes room for it."""
        assert self.grid is not None
        listed = carry.neighbours
        if how.fresh:
            allocation.release(listed)
        state = entry.on_domains(how, carry.state, *arguments, listed.geometry)
        if how.fresh:
            place = listed.geometry, self.grid, listed.reach, listed.capacities
            listed = allocation.empty(state, *place)
        return carry._replace(state=state, neighbours=listed)

    def with_room_for_bias(self, state: State, steps: int) -> State:
        """A state whose bias can remember what so many steps will bring."""
        bias: Bias = self.system.bias
        if self.replicas is None:
            return state.replace(bias=bias.reserve(state.bias, steps))
        reserved = [
            bias.reserve(replicas.unstack(state.bias, r), steps) for r in range(self.replicas)
        ]
        return state.replace(bias=replicas.stack(reserved))

    def kept(self, carry: Carry) -> Carry | None:
        """What is left of a carry when a chunk has started from it; None: nothing.

        On domains a chunk writes over it; that of a small system is copied before.
        """
        if self.grid is None:
            return carry
        return _copied(carry) if len(self.templates[0]) <= _COPIED_ATOMS else None

    def grown(self, before: Carry, after: Carry) -> Carry:
        """Where to go on from with more room, after a chunk in which something overflowed.

        On domains that is where the chunk stopped, else where it started from.
        """
        if self.grid is not None:
            return self._with_larger_domains(after)
        lists, accumulators = before.neighbours, before.accumulators
        species = before.state.species
        capacities = lists.capacities
        for r in range(self.replicas or 1):
            # sizes are planned where they turned out too small, not where the chunk began
            state, new, measured = (
                (after.state, after.neighbours, after.accumulators)
                if self.replicas is None
                else replicas.unstack((after.state, after.neighbours, after.accumulators), r)
            )
            if int(new.faults):
                place = state.positions, state.cell, state.species
                capacities = neighbours.enlarged(new.replace(capacities=capacities), *place)
            accumulators = pair_search.grown(accumulators, measured, state)

        def rebuilt(lists: NeighbourList, species: Any) -> NeighbourList:
            return neighbours.resized(lists, species, capacities)

        # the chunk has written over the list that it started from
        lists = lists.replace(indices=None, shifts=None)
        lists = (rebuilt if self.replicas is None else jax.vmap(rebuilt))(lists, species)
        return before._replace(neighbours=lists, accumulators=accumulators)

    def _with_larger_domains(self, stopped: Carry) -> Carry:
        assert self.grid is not None
        listed = stopped.neighbours
        faults = Fault(int(listed.faults))
        sizes = allocation.enlarged(listed.capacities, faults, listed.required)
        allocation.release(listed)
        state = allocation.with_rows(stopped.state, self.grid, sizes.atoms)
        grown = allocation.empty(state, listed.geometry, self.grid, listed.reach, sizes)
        return stopped._replace(state=state, neighbours=grown)

    def balanced(self, carry: Carry) -> Carry:
        """The same state in domains whose loads are more equal, where that can be had."""
        assert self.grid is not None
        state, listed = balance.balanced(carry.state, carry.neighbours, self.grid)
        return carry._replace(state=state, neighbours=listed)


@jax.jit
def _copied(carry: Carry) -> Carry:
    return jax.tree.map(jnp.copy, carry)


@partial(jax.jit, static_argnames="program")
def _parameters(program: Program, course: Course, state: State) -> Parameters:
    return program.parameters(course, state)


def _fingerprint(structure: Structure) -> str:
    """Which elements there are, in which order; short for any number of atoms."""
    unit = unit_of(structure).numbers.astype(np.uint8).tobytes()
    digest, many = hashlib.sha256(), max(1, 2**20 // len(unit))
    copies = copies_of(structure)
    for start in range(0, copies, many):
        digest.update(unit * min(many, copies - start))
    return f"{len(structure)} atoms, {digest.hexdigest()[:16]}"


def steps_done(carry: Carry) -> int:
    """Steps done: −1 before the first forces."""
    return int(np.ravel(carry.state.step)[0])
