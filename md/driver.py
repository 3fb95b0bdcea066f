"""The one loop: compiled chunks, faults mended by growth, output."""

from __future__ import annotations

import dataclasses
import signal
import time
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from md import observables, pair_search, uncertainty
from md.alarms import Closest
from md.assembly import Assembly, steps_done
from md.chunk import run_chunk
from md.domains import restart
from md.domains.grid import Grid
from md.ensembles import Course
from md.faults import GROWABLE, Fault
from md.frames import atoms_of, parts_of, structures_of, uncertain_atoms
from md.interruption import Interruption
from md.output import Output
from md.processes import Team
from md.program import Carry, Report
from md.progress import ProgressMeter
from md.replicated import symbol_of
from md.run_files import LAST_GOOD
from md.schedule import Plan, Schedule
from md.stages import Leg
from md.uncertainty import Passed

_GROWTHS = 20  # in a row, without a chunk that succeeds


class SimulationError(ValueError):
    """A run stopped because it could not go on; the message says where, why, and what was kept."""


class Progress(NamedTuple):
    """A chunk, as far as it came.

    Attributes:
        carry: where to go on.
        report, plan: what it found, and which of that is to be written; ``None`` where the chunk
            has to be repeated.
        grown: whether buffers had to grow.
    """

    carry: Carry
    report: Report | None
    plan: Plan
    grown: bool


@dataclasses.dataclass(frozen=True)
class Driver:
    """The loop over the chunks of a run.

    Attributes:
        assembly: what the run is made of.
        schedule: when the host looks, and writes.
        checkpoint_seconds: between checkpoints.
        walltime_s: after which to stop, or None.
    """

    assembly: Assembly
    schedule: Schedule
    checkpoint_seconds: float
    walltime_s: float | None

    def drive(self, files: Output, resume: bool, progress: bool) -> tuple[Carry, int]:
        """From the start or a checkpoint to the last step, or until it is time to stop.

        Returns:
            What the run ends with, and how often buffers had to grow.
        """
        run = self.assembly
        carry, entered = self.resume(files) if resume else (run.fresh(), None)
        growths, in_a_row, warned, doubted, written = 0, 0, False, False, True
        saved = -np.inf  # a first checkpoint as soon as there is something to go on from
        total, atoms = run.legs[-1].last, len(run.templates[0])
        team = Team.of_all()
        shown = progress and team.leads
        with (
            Interruption(self.walltime_s) as interruption,
            ProgressMeter(total, max(steps_done(carry), 0), atoms, shown, run.replicas) as meter,
        ):
            try:
                for number, leg in enumerate(run.legs):
                    if interruption.stopping or self.stopped(carry):
                        break
                    if steps_done(carry) >= leg.last and leg is not run.legs[-1]:
                        continue
                    if entered is None or number > entered:
                        carry = run.enter(leg, run.legs[entered or 0], carry)
                        entered = number
                    course = run.course(leg)
                    while (steps_done(carry) < leg.last or _amid_a_step(carry)) and not (
                        interruption.stopping or self.stopped(carry)
                    ):
                        if self.schedule.balances(steps_done(carry)) and not _amid_a_step(carry):
                            carry = run.balanced(carry)
                        done = self.advance(leg, course, carry, files)
                        if done.report is not None:
                            written = False
                            self.write(leg, done, files)
                            passed = self.flag(leg, done.report, files)
                            warned = warned or self.warn_if_too_close(done.report.closest)
                            doubted = doubted or self.warn_if_uncertain(passed)
                        carry, written = done.carry, True
                        if done.grown:
                            growths, in_a_row = growths + 1, in_a_row + 1
                            if in_a_row > _GROWTHS:
                                raise SimulationError(
                                    f"lists are still too small after {_GROWTHS} growths in a row"
                                )
                            continue
                        in_a_row = 0
                        step = steps_done(carry)
                        late = time.monotonic() - saved > self.checkpoint_seconds
                        interruption.look()
                        interruption.stopping, late = team.any_of(interruption.stopping, late)
                        meter.update(step, leg.time_fs(step), files.last_line())
                        if late:
                            self.save(files, carry, entered)
                            saved = time.monotonic()
            except BaseException as error:
                # what is done is kept, if its output is; of several processes, only if all are here
                together = team.number == 1 or isinstance(error, SimulationError)
                if written and together:
                    self.save(files, carry, entered)
                raise
            self.save(files, carry, entered)
        if interruption.signal is not None:
            files.close()
            signal.raise_signal(interruption.signal)
        return carry, growths

    def advance(self, leg: Leg, course: Course, carry: Carry, files: Output) -> Progress:
        """One chunk of a stage, or as much of it as fits into the buffers.

        A fresh state takes one step of zero length: the same code gives it its first forces.
        """
        run = self.assembly
        program, system = run.program(leg), run.system_of(leg)
        step = steps_done(carry)
        if step < 0:
            plan, course = self.schedule.first(), course.standing_still()
        else:
            plan = self.schedule.plan(step, leg.last)
        if system.bias is not None:
            state = run.with_room_for_bias(carry.state, int(plan.counts.sum()))
            carry = carry._replace(state=state)
        # a stage that is not observed leaves the accumulators as they are
        start = carry if program.observables else carry._replace(accumulators=())
        good = run.kept(carry)
        new, report = run_chunk(program, system, course, start, plan.counts)
        if not program.observables:
            new = new._replace(accumulators=carry.accumulators)
        faults = _faults(new)
        raised = int(report.alarm.faults) and not faults & GROWABLE
        if raised or faults & ~GROWABLE:
            self.stop(leg, good, report, files, faults & ~GROWABLE)
        if not faults:
            return Progress(new, report, plan.until(steps_done(new)), False)
        grown = run.grown(carry, new)
        if run.grid is None:  # the chunk is dropped: a list was incomplete
            return Progress(grown, None, plan, True)
        return Progress(grown, report, plan.until(steps_done(new)), True)

    def write(self, leg: Leg, done: Progress, files: Output) -> None:
        """Append a chunk's lines and frames."""
        plan, report = done.plan, done.report
        assert report is not None
        samples, frames, watched = Grid.fetched((report.samples, report.frames, report.watched))
        for replica, at in enumerate(self.assembly.of_replicas()):
            lines = [
                observables.log_line(
                    jax.tree.map(lambda x, i=(*line, *at): x[i], samples),
                    leg,
                    files.columns,
                    reference_energy=self.assembly.reference_energy,
                    periodic=bool(self.assembly.templates[0].pbc.all()),
                    watched=jax.tree.map(lambda x, i=(*line, *at): x[i], watched),
                )
                for line in plan.logged
            ]
            kept = [
                atoms_of(
                    self.assembly, jax.tree.map(lambda x, i=(f, *at): x[i], frames), leg, replica
                )
                for f in (plan.framed if frames is not None else ())
            ]
            files.write(lines, kept, replica)
        if frames is None and plan.framed:  # on domains there is none but the state itself
            files.write_parts(parts_of(self.assembly, leg, done.carry, files.wanted))

    def flag(self, leg: Leg, report: Report, files: Output) -> Passed | None:
        """Append a chunk's uncertain frames; tells of the first of them."""
        if report.uncertain is None or not np.any(report.uncertain.count):
            return None
        counts, frames = Grid.fetched(report.uncertain)
        passed = []
        for replica, at in enumerate(self.assembly.of_replicas()):
            kept = [
                uncertain_atoms(
                    self.assembly, jax.tree.map(lambda x, i=(*at, k): x[i], frames), leg, replica
                )
                for k in range(int(counts[at]))
            ]
            files.flag(kept, replica)
            for atoms in kept[:1]:
                about = (atoms.info[key] for key in ("max_forces_std_atom", "max_forces_std"))
                passed.append(Passed(atoms.info["step"], replica, *about))
        return min(passed)

    def stopped(self, carry: Carry) -> bool:
        """Whether the spread of a committee has ended the run."""
        return uncertainty.stopped(self.assembly.uncertainty, carry.watch) is not None

    def save(self, files: Output, carry: Carry, entered: int | None) -> None:
        """Write a checkpoint, if there is something to go on from."""
        if entered is None or carry.state.positions.is_deleted():  # an error amid a chunk
            return
        if steps_done(carry) < 0 or _amid_a_step(carry):
            return
        if files.folder is None:
            return
        about = {"settings": self.assembly.settings(), "stage": entered}
        if self.assembly.grid is None:
            files.save(carry, about)
            return
        packed = restart.packed(carry)
        files.save(packed.tree, about | {"domains": packed.about}, packed.rows)

    def resume(self, files: Output) -> tuple[Carry, int]:
        """What a checkpoint holds, and the number of the stage it is in."""
        facts = files.facts()
        ours, theirs = self.assembly.settings(), facts["settings"]
        for name, value in ours.items():
            # stages may be added to those that were begun
            same = theirs.get(name, False) == value  # older ones know nothing of uncertainty
            if name == "stages":
                begun = facts["stage"] + 1
                same = theirs[name][:begun] == value[:begun]
            if not same:
                raise ValueError(
                    f"{files.folder}: the checkpoint was written with other {name}: "
                    f"{theirs.get(name, False)}, not {value}; restart with the same"
                )
        stage = int(facts["stage"])
        leg = self.assembly.legs[stage]
        template = self.assembly.enter(leg, leg, self.assembly.fresh(template=True))
        if self.assembly.grid is not None:
            packed = restart.packed(template)
            rows = files.rows(packed.axes)
            tree = files.restore(packed.tree, None, ("",))
            grid = self.assembly.grid
            carry = restart.unpacked(tree, rows, facts["domains"], template, grid)
        else:  # hills of metadynamics grow on the way
            carry = files.restore(template, template.state.species, (".state.bias",))
        if carry.watch is not None:  # a run that was stopped by its uncertainty goes on from there
            watch = carry.watch._replace(passed=jnp.zeros_like(carry.watch.passed))
            carry = carry._replace(watch=watch)
        return carry, stage

    def warn_if_too_close(self, closest: Closest | None) -> bool:
        if closest is None:
            return False
        ratio = np.asarray(closest.ratio)
        at = np.unravel_index(np.argmin(ratio), ratio.shape)
        if not ratio[at] < 1:
            return False
        a, b = (int(i) for i in np.asarray(closest.pair)[at])
        one, other = (symbol_of(self.assembly.templates[0], atom) for atom in (a, b))
        warnings.warn(
            f"step {int(closest.step[at])}: atoms {a} ({one}) and {b} ({other}) are "
            f"{float(closest.distance[at]):.3f} Å apart, closer than any such pair the potential "
            "was trained on: it extrapolates",
            stacklevel=5,
        )
        return True

    def warn_if_uncertain(self, passed: Passed | None) -> bool:
        settings = self.assembly.uncertainty
        if passed is None or settings is None:
            return False
        where = self.name_of(passed.atom, passed.replica)
        what = "the run ends here" if settings.stops else "such frames are kept"
        warnings.warn(
            f"step {passed.step}: the committee's forces on {where} have a standard deviation of "
            f"{passed.forces_std:.4g} eV/Å, above {settings.threshold:g}: {what}",
            stacklevel=5,
        )
        return True

    def name_of(self, atom: int, replica: int) -> str:
        where = f"atom {atom} ({symbol_of(self.assembly.templates[0], atom)})"
        return where if self.assembly.replicas is None else f"replica {replica}, {where}"

    def stop(
        self, leg: Leg, good: Carry | None, report: Report, files: Output, faults: Fault
    ) -> None:
        """End a run that cannot go on: keep what was good, and say what happened.

        Args:
            good: where the chunk began, if that is still known.
        """
        alarm = jax.device_get(report.alarm)
        raised = Fault(int(alarm.faults))
        fault = raised or faults
        replica = int(alarm.replica)
        if good is not None and steps_done(good) >= 0:
            for r, parts in enumerate(structures_of(self.assembly, leg, good)):
                place = None if self.assembly.replicas is None else r
                files.write_structure(LAST_GOOD, parts(), place)
        limits = self.assembly.system.limits
        what = {
            Fault.NOT_FINITE: "a position, force or energy is not finite",
            Fault.TOO_HOT: f"the temperature passed {float(limits.temperature):.0f} K",
            Fault.TOO_FAST: f"an atom moved by over {float(limits.displacement):.1f} Å in one step",
            Fault.SHIFT_RANGE: "an atom is over 127 cells away",
            Fault.DOMAIN_SHRUNK: "the cell shrank until its domains were thinner than the range of "
            "the neighbour list (go on with fewer domains)",
            Fault.LEFT_BEHIND: "an atom passed a whole domain between two rebuilds of the lists",
        }[min(fault)]
        first = f", first at {self.name_of(int(alarm.atom), replica)}" if raised else ""
        kept = "nothing was good before it"
        if good is None:
            kept = "go back to the last checkpoint"
        elif steps_done(good) >= 0:
            path = files.path(LAST_GOOD, None if self.assembly.replicas is None else replica)
            kept = f"the last good state, of step {steps_done(good)}, is " + (
                f"in {path}" if path else "lost: give an output folder to keep it"
            )
        raise SimulationError(f"step {int(alarm.step)}: {what}{first}; {kept}")


def _amid_a_step(carry: Carry) -> bool:
    return carry.begun is not None and bool(carry.begun)


def _faults(carry: Carry) -> Fault:
    """Faults of all lists of all replicas."""
    faults = jax.device_get((carry.neighbours.faults, pair_search.faults(carry.accumulators)))
    return Fault(int(np.bitwise_or.reduce(np.concatenate([np.ravel(f) for f in faults]))))
