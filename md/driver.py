"""The one loop: compiled chunks, faults mended by growth, output."""

from __future__ import annotations

import dataclasses
import signal
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from md import neighbours, observables, pair_search, replicas, structures, summation
from md.alarms import Closest
from md.bias import Bias
from md.chunk import Carry, Program, Report, System, run_chunk
from md.ensembles import Course
from md.faults import GROWABLE, Fault
from md.interruption import Interruption
from md.neighbours import NeighbourFunctions, NeighbourList
from md.observable import Observable
from md.output import LAST_GOOD, Output
from md.progress import ProgressMeter
from md.schedule import Plan, Schedule
from md.stages import Leg
from md.state import State, maxwell_boltzmann_momenta, without_rotation

_GROWTHS = 20  # in a row, without a chunk that succeeds


class SimulationError(ValueError):
    """A run stopped because it could not go on; the message says where, why, and what was kept."""


@dataclasses.dataclass(frozen=True)
class Driver:
    """A run's settings, and the loop over its chunks.

    Attributes:
        system: what acts on the atoms.
        templates: the structure of each replica.
        legs: the stages, one after the other.
        schedule: when the host looks, and writes.
        neighbour_functions: of the list.
        observables: what is accumulated.
        replicas: how many run side by side; None for a run of one system.
        ladder_K: [R] temperatures of the replicas; None: those of the stages.
        exchange_every: steps between exchanges of replicas; 0 is never.
        block_size, deterministic: see :class:`md.chunk.Program`.
        trajectory: whether frames are kept.
        checkpoint_seconds: between checkpoints.
        walltime_s: after which to stop, or None.
        seed: of velocities and noise.
        precision: float32 or float64.
    """

    system: System
    templates: tuple[Atoms, ...]
    legs: tuple[Leg, ...]
    schedule: Schedule
    neighbour_functions: NeighbourFunctions
    observables: tuple[Observable, ...]
    replicas: int | None
    ladder_K: np.ndarray | None
    exchange_every: int
    block_size: int | None
    deterministic: bool
    trajectory: bool
    checkpoint_seconds: float
    walltime_s: float | None
    seed: int
    precision: str

    # -- the loop ---------------------------------------------------------------------------------

    def drive(self, files: Output, restart: bool, progress: bool) -> tuple[Carry, int]:
        """From the start or a checkpoint to the last step, or until it is time to stop.

        Returns:
            What the run ends with, and how often buffers had to grow.
        """
        carry, entered = self.resume(files) if restart else (self.fresh(), None)
        growths = 0
        total, done = self.legs[-1].last, max(_step(carry), 0)
        atoms = len(self.templates[0])
        with (
            Interruption(self.walltime_s) as interruption,
            ProgressMeter(total, done, atoms, progress, self.replicas) as meter,
        ):
            try:
                for number, leg in enumerate(self.legs):
                    if number + 1 < len(self.legs) and _step(carry) >= leg.last:
                        continue
                    if entered is None or number > entered:
                        carry = self.enter(leg, self.legs[entered or 0], carry)
                        entered = number
                    carry, grown = self.run_leg(leg, entered, carry, files, meter, interruption)
                    growths += grown
                    if interruption.stopping:
                        break
            finally:
                # also when something fails: what is done is kept
                if _step(carry) >= 0 and entered is not None:
                    self.save(files, carry, entered)
        if interruption.signal is not None:
            files.close()
            signal.raise_signal(interruption.signal)
        return carry, growths

    def run_leg(
        self,
        leg: Leg,
        number: int,
        carry: Carry,
        files: Output,
        meter: ProgressMeter,
        interruption: Interruption,
    ) -> tuple[Carry, int]:
        """One stage, from wherever it stands; the number of growths comes along."""
        growths = failures = 0
        warned = False
        saved = time.monotonic()
        course = self.course(leg)
        while _step(carry) < leg.last:
            fresh = _step(carry) < 0
            plan = self.schedule.first() if fresh else self.schedule.plan(_step(carry), leg.last)
            new, report = self.run(leg, course.standing_still() if fresh else course, carry, plan)
            faults = _faults(new)
            if faults & GROWABLE:
                # the chunk is dropped: a list was incomplete
                failures += 1
                growths += 1
                if failures > _GROWTHS:
                    raise SimulationError(f"lists still too small after {failures} growths")
                carry = self.grown(carry, new)
                continue
            failures = 0
            if faults or int(report.alarm.faults):
                self.stop(leg, carry, report, files)
            carry = new
            self.write(leg, plan, report, files)
            warned = warned or self.warn_if_too_close(report.closest)
            meter.update(_step(carry), leg.time_fs(_step(carry)), files.last_line())
            if interruption.due():
                break
            if time.monotonic() - saved > self.checkpoint_seconds:
                self.save(files, carry, number)
                saved = time.monotonic()
        return carry, growths

    def run(self, leg: Leg, course: Course, carry: Carry, plan: Plan) -> tuple[Carry, Report]:
        """One compiled chunk.

        A fresh state takes one step of zero length: the same code gives it its first forces.
        """
        program = self.program(leg)
        system = self.system.replace(force=self.added_force(leg))
        if system.bias is not None:
            carry = carry._replace(state=self.with_room_for_bias(carry.state, plan))
        kept = carry.accumulators
        if not program.observables:
            carry = carry._replace(accumulators=())
        new, report = run_chunk(program, system, course, carry, plan.counts)
        return new if program.observables else new._replace(accumulators=kept), report

    # -- what there is to run ---------------------------------------------------------------------

    def course(self, leg: Leg) -> Course:
        return leg.course(self.precision, self.replicas, self.ladder_K)

    def program(self, leg: Leg) -> Program:
        stage = leg.stage
        return Program(
            ensemble=stage.ensemble,
            cell=stage.cell,
            trajectory=self.trajectory,
            block_size=self.block_size,
            deterministic=self.deterministic,
            driven=leg.partition.driven,
            deformed=stage.deformed,
            drift_every=stage.remove_drift_every,
            rotation_every=stage.remove_rotation_every,
            observables=self.observables if stage.observe else (),
            replicated=self.replicas is not None,
            exchange_every=self.exchange_every if stage.thermostatted else 0,
        )

    def added_force(self, leg: Leg) -> Any:
        return jnp.asarray(leg.partition.force, self.precision) if leg.partition.forced else None

    def with_room_for_bias(self, state: State, plan: Plan) -> State:
        bias: Bias = self.system.bias
        steps = int(plan.counts.sum())
        if self.replicas is None:
            return state.replace(bias=bias.reserve(state.bias, steps))
        reserved = [
            bias.reserve(replicas.unstack(state.bias, r), steps) for r in range(self.replicas)
        ]
        return state.replace(bias=replicas.stack(reserved))

    def fresh(self) -> Carry:
        """The structures as they are given, one step before step 0."""
        states = []
        for r, atoms in enumerate(self.templates):
            state = structures.state_from_atoms(
                atoms, self.system.potential.species, atoms.get_momenta(), self.seed, self.precision
            )
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
        if self.replicas is None:
            return Carry(first, listed, accumulators, None)
        exchanges = replicas.no_exchanges(self.replicas) if self.exchange_every else None
        copies = [(listed, accumulators)] * self.replicas
        return Carry(replicas.stack(states), *replicas.stack(copies), exchanges)

    def enter(self, leg: Leg, before: Leg, carry: Carry) -> Carry:
        """Make a state ready for a stage: its groups, velocities and the integrator's variables.

        Whatever that does to the conserved energy counts as work from outside.
        """
        program, course = self.program(leg), self.course(leg)
        old_program, old_course = self.program(before), self.course(before)
        parted = leg.partition
        group = jnp.asarray(parted.group)
        velocity = jnp.asarray(parted.velocity, self.precision)
        fresh = _step(carry) < 0
        draw = leg.stage.velocities == "draw" or (leg.stage.velocities is None and fresh)
        start = leg.stage.start_temperature_K

        def enter_one(state: State, temperature: Any, parameters: Any, old: Any) -> State:
            conserved = None
            if not fresh:
                exchanged = old_program.integrator(old).energy_exchanged
                conserved = observables.conserved_energy(state, exchanged)
            momenta = state.momenta
            if draw:
                # a key of its own, apart from those that the noise of each step is drawn from
                number = state.step + 1
                key = jax.random.fold_in(jax.random.fold_in(state.key, number), 1)
                momenta = maxwell_boltzmann_momenta(
                    key, state.masses, state.species, temperature, remove_drift=not parted.held
                )
            momenta = jnp.where((group < 0)[:, None], state.masses[:, None] * velocity, momenta)
            state = state.replace(momenta=momenta, group=group)
            if draw and leg.stage.remove_rotation_every:
                state = without_rotation(state)
            integrator = program.integrator(parameters)
            state = integrator.init(state)
            if conserved is not None:
                now = observables.conserved_energy(state, integrator.energy_exchanged)
                change = summation.add(now, summation.negative(conserved))
                state = state.replace(work=summation.add(state.work, change))
            return state

        state = carry.state
        arguments = (program.parameters(course, state), old_program.parameters(old_course, state))
        if self.replicas is None:
            return carry._replace(state=enter_one(state, start, *arguments))
        entered = [
            enter_one(
                replicas.unstack(state, r),
                start if self.ladder_K is None else self.ladder_K[int(state.rung[r])],
                *replicas.unstack(arguments, r),
            )
            for r in range(self.replicas)
        ]
        return carry._replace(state=replicas.stack(entered))

    # -- growth -----------------------------------------------------------------------------------

    def grown(self, before: Carry, after: Carry) -> Carry:
        """What a chunk started from, with more room for whatever overflowed in it."""
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
        if capacities != lists.capacities:

            def resized(lists: NeighbourList, species: Any) -> NeighbourList:
                return neighbours.resized(lists, species, capacities)

            lists = (resized if self.replicas is None else jax.vmap(resized))(lists, species)
        return before._replace(neighbours=lists, accumulators=accumulators)

    # -- files ------------------------------------------------------------------------------------

    @property
    def reference_energy(self) -> float:
        potential = self.system.potential
        species = structures.species_indices(self.templates[0], potential.species)
        return float(np.sum(np.asarray(potential.reference_energies, float)[species]))

    def write(self, leg: Leg, plan: Plan, report: Report, files: Output) -> None:
        """Append a chunk's lines and frames."""
        samples, frames = jax.device_get((report.samples, report.frames))
        for replica, at in enumerate(self.of_replicas()):
            lines = [
                observables.log_line(
                    jax.tree.map(lambda x, i=(*line, *at): x[i], samples),
                    leg,
                    files.columns,
                    reference_energy=self.reference_energy,
                    periodic=bool(self.templates[0].pbc.all()),
                )
                for line in plan.logged
            ]
            kept = [
                self.atoms_from(jax.tree.map(lambda x, i=(f, *at): x[i], frames), leg, replica)
                for f in plan.framed
            ]
            files.write(lines, kept, replica)

    def of_replicas(self) -> list[tuple[int, ...]]:
        """How each replica is picked from an array."""
        return [()] if self.replicas is None else [(r,) for r in range(self.replicas)]

    def atoms_from(self, frame: Any, leg: Leg, replica: int) -> Atoms:
        return structures.atoms_from_frame(
            frame,
            self.templates[replica],
            time_fs=leg.time_fs(int(frame.sample.step)),
            reference_energy=self.reference_energy,
        )

    def final_atoms(self, leg: Leg, carry: Carry) -> list[Atoms]:
        """The structures as they are now."""
        program, state = self.program(leg), carry.state
        parameters = program.parameters(self.course(leg), state)

        @program.per_replica
        def look(parameters: Any, state: State) -> Any:
            exchanged = program.integrator(parameters).energy_exchanged
            sample = observables.sample(state, parameters, exchanged)
            return structures.frame_of(state, sample)

        frame = jax.device_get(look(parameters, state))
        return [
            self.atoms_from(jax.tree.map(lambda x, at=at: x[at], frame), leg, replica)
            for replica, at in enumerate(self.of_replicas())
        ]

    def leg_of(self, carry: Carry) -> Leg:
        """The stage that a state is in, or has just ended."""
        return next((leg for leg in self.legs if _step(carry) <= leg.last), self.legs[-1])

    def settings(self) -> dict[str, Any]:
        """What must not change between a run and its restart."""
        return {
            "stages": [
                {"ensemble": leg.stage.ensemble, "timestep_fs": leg.stage.timestep_fs}
                for leg in self.legs
            ],
            "numbers": self.templates[0].numbers.tolist(),
            "pbc": self.templates[0].pbc.tolist(),
            "replicas": self.replicas,
        }

    def save(self, files: Output, carry: Carry, entered: int) -> None:
        files.save(carry, {"settings": self.settings(), "stage": entered})

    def resume(self, files: Output) -> tuple[Carry, int]:
        """What a checkpoint holds, and the number of the stage it is in."""
        facts = files.facts()
        ours, theirs = self.settings(), facts["settings"]
        for name, value in ours.items():
            # stages may be added to those that were begun
            same = theirs[name] == value
            if name == "stages":
                begun = facts["stage"] + 1
                same = theirs[name][:begun] == value[:begun]
            if not same:
                raise ValueError(
                    f"{files.folder}: the checkpoint was written with other {name}: "
                    f"{theirs[name]}, not {value}; restart with the same"
                )
        stage = int(facts["stage"])
        template = self.enter(self.legs[stage], self.legs[stage], self.fresh())
        # hills of metadynamics grow on the way
        return files.restore(template, template.state.species, (".state.bias",)), stage

    # -- what may go wrong ------------------------------------------------------------------------

    def warn_if_too_close(self, closest: Closest | None) -> bool:
        if closest is None:
            return False
        ratio = np.asarray(closest.ratio)
        at = np.unravel_index(np.argmin(ratio), ratio.shape)
        if not ratio[at] < 1:
            return False
        a, b = (int(i) for i in np.asarray(closest.pair)[at])
        symbols = self.templates[0].get_chemical_symbols()
        warnings.warn(
            f"step {int(closest.step[at])}: atoms {a} ({symbols[a]}) and {b} ({symbols[b]}) are "
            f"{float(closest.distance[at]):.3f} Å apart, closer than any such pair the potential "
            "was trained on: it extrapolates",
            stacklevel=5,
        )
        return True

    def stop(self, leg: Leg, carry: Carry, report: Report, files: Output) -> None:
        """End a run that cannot go on: keep what was good, and say what happened."""
        alarm = jax.device_get(report.alarm)
        fault = Fault(int(alarm.faults)) or Fault.SHIFT_RANGE
        replica = int(alarm.replica)
        good = _step(carry) >= 0
        if good:
            for r, atoms in enumerate(self.final_atoms(leg, carry)):
                files.write_structure(LAST_GOOD, atoms, None if self.replicas is None else r)
        limits = self.system.limits
        what = {
            Fault.NOT_FINITE: "a position, force or energy is not finite",
            Fault.TOO_HOT: f"the temperature passed {float(limits.temperature):.0f} K",
            Fault.TOO_FAST: f"an atom moved by over {float(limits.displacement):.1f} Å in one step",
            Fault.SHIFT_RANGE: "an atom is over 127 cells away",
        }[min(fault)]
        atom = int(alarm.atom)
        where = f"atom {atom} ({self.templates[0].get_chemical_symbols()[atom]})"
        if self.replicas is not None:
            where = f"replica {replica}, {where}"
        kept = "nothing was good before it"
        if good:
            path = files.path(LAST_GOOD, None if self.replicas is None else replica)
            kept = f"the last good state, of step {_step(carry)}, is " + (
                f"in {path}" if path else "lost: give an output folder to keep it"
            )
        raise SimulationError(f"step {int(alarm.step)}: {what}, first at {where}; {kept}")


def _step(carry: Carry) -> int:
    """Steps done: −1 before the first forces."""
    return int(np.ravel(carry.state.step)[0])


def _faults(carry: Carry) -> Fault:
    """Faults of all lists of all replicas."""
    faults = jax.device_get((carry.neighbours.faults, pair_search.faults(carry.accumulators)))
    return Fault(int(np.bitwise_or.reduce(np.concatenate([np.ravel(f) for f in faults]))))
