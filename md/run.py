"""The one loop: compiled chunks, faults mended by growth, output."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from md import ensembles, figures, neighbours, observables, structures
from md.chunk import Closest, Program, Report, run_chunk
from md.ensembles import Ensemble
from md.faults import GROWABLE, Fault
from md.local_potential import LocalPotential
from md.neighbours import NeighbourFunctions, NeighbourList
from md.observables import LOG_COLUMNS
from md.output import FIGURE, FINAL, LAST_GOOD, Output
from md.progress import ProgressMeter
from md.schedule import Plan, Schedule
from md.state import State, maxwell_boltzmann_momenta
from md.trajectory import TrajectorySettings

Number = float | int

_GROWTHS = 20  # in a row, without a chunk that succeeds
_CHECKPOINT_SECONDS = 60.0


class SimulationError(ValueError):
    """A run stopped because it could not go on; the message says where, why, and what was kept."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What a run leaves behind.

    Attributes:
        atoms: the final structure on its continuous path, with momenta, energy, forces and stress.
        log: columns of log.csv as arrays; volume and pressure are NaN unless all directions repeat.
        frames: the trajectory, where the run had no output folder; otherwise it is in the folder.
        state, neighbours: the last state, for whoever wants to go on in compiled code.
        growths: how often buffers had to grow.
    """

    atoms: Atoms
    log: dict[str, np.ndarray]
    frames: list[Atoms]
    state: State
    neighbours: NeighbourList
    growths: int


def simulate(
    potential: LocalPotential,
    atoms: Atoms,
    *,
    steps: int,
    ensemble: str = "nve",
    temperature_K: Number | None = None,
    timestep_fs: Number = 0.5,
    friction_per_fs: Number | None = None,
    time_constant_fs: Number | None = None,
    velocities: str = "draw",
    seed: int = 0,
    dtype: str | None = None,
    output: str | os.PathLike[str] | None = None,
    log_every: int = 10,
    trajectory_every: int = 100,
    restart: bool = False,
    skin: Number = 0.5,
    chunk_steps: int | None = None,
    block_size: int | None = None,
    maximum_temperature_K: Number | None = None,
    shortest_distances: Any = None,
    progress: bool = True,
) -> Simulation:
    """Run molecular dynamics of a structure under a potential.

    Everything between two looks of the host is one compiled program. The same arguments on the
    same machine give the same trajectory, on a CPU bit for bit.

    Args:
        potential: Allegro, Lennard-Jones, or anything else behind
            :class:`md.local_potential.LocalPotential`.
        atoms: the structure: any cell, any mix of periodic directions. Its masses are used.
        steps: number of time steps (with ``restart``: of the whole run, those done included).
        ensemble: ``"nve"``, ``"langevin"`` (BAOAB) or ``"nvt"`` (Nosé-Hoover chain).
        temperature_K: of the bath, and of the velocities drawn at the start.
        timestep_fs: fs.
        friction_per_fs: langevin only; 0.01 unless given.
        time_constant_fs: nvt only; 100 time steps unless given.
        velocities: ``"draw"`` from the Maxwell-Boltzmann distribution (without drift), or
            ``"keep"`` those of ``atoms``.
        seed: of velocities and noise.
        dtype: precision of the run; that of the potential's weights unless given.
        output: folder for log.csv, trajectory.extxyz, final.extxyz, checkpoint.npz and run.png.
            Files of an earlier run are moved into ``previous-1`` and so on. Without a folder,
            frames stay in memory.
        log_every, trajectory_every: steps between lines of the log and between frames (0: no
            frames). Step 0 is the first of both.
        restart: go on from ``output``'s checkpoint, bit-identical to a run that never stopped (on
            a CPU).
        skin: Å by which the neighbour list exceeds the cutoff.
        chunk_steps: steps between two looks of the host; chosen from the number of atoms unless
            given.
        block_size: atoms evaluated at once; chosen from the list unless given.
        maximum_temperature_K: hotter than this counts as exploded; ten times the larger of the
            temperature and 1000 K unless given.
        shortest_distances: [T, T] Å; warns once when a pair comes closer than this (looked at
            with each line of the log), typically the shortest distances of the training data. 0
            where unknown.
        progress: whether to show a progress bar.

    Raises:
        ValueError: for arguments or structures that make no sense; one readable line.
        SimulationError: when the run explodes. What was written stays, with the last good state.
    """
    precision = jnp.dtype(dtype or _precision_of(potential)).name
    if precision not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {precision}")
    structures.validate(atoms)
    chosen = ensembles.choose(
        ensemble, temperature_K, friction_per_fs, time_constant_fs, float(timestep_fs), len(atoms)
    )
    _check_strides(steps, log_every, trajectory_every, chunk_steps)
    if restart and output is None:
        raise ValueError("restart needs the output folder of the run to go on with")
    if velocities not in ("draw", "keep"):
        raise ValueError(f'velocities must be "draw" or "keep", not {velocities!r}')
    if velocities == "draw" and temperature_K is None:
        raise ValueError('give temperature_K to draw velocities, or velocities="keep"')
    start_temperature = atoms.get_temperature() if temperature_K is None else temperature_K
    if maximum_temperature_K is None:
        maximum_temperature_K = 10 * max(start_temperature, 1000.0)
    with jax.enable_x64(precision == "float64"):
        run = _Run(
            potential=_cast(potential, precision),
            template=atoms,
            ensemble=chosen,
            timestep_fs=float(timestep_fs),
            schedule=Schedule(
                log_every, trajectory_every, chunk_steps or _default_chunk(len(atoms))
            ),
            program=Program(
                chosen.name, chosen.freedom(len(atoms)), trajectory_every > 0, block_size
            ),
            neighbour_functions=neighbours.neighbour_list(
                atoms.pbc, potential.cutoff, float(skin), potential.pair_cutoffs
            ),
            maximum_temperature_K=float(maximum_temperature_K),
            shortest_distances=_table(shortest_distances, potential.species, precision),
            precision=precision,
        )
        state = run.initial_state(velocities, temperature_K, seed)
        trajectory = TrajectorySettings(velocities=True, forces=True) if trajectory_every else None
        with Output(output, LOG_COLUMNS, trajectory=trajectory, restart=restart) as files:
            return run.drive(state, steps, files, restart, progress)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run's settings, and the loop over chunks."""

    potential: Any
    template: Atoms
    ensemble: Ensemble
    timestep_fs: float
    schedule: Schedule
    program: Program
    neighbour_functions: NeighbourFunctions
    maximum_temperature_K: float
    shortest_distances: Any
    precision: str

    def initial_state(self, velocities: str, temperature_K: Number | None, seed: int) -> State:
        state = structures.state_from_atoms(
            self.template, self.potential.species, self.template.get_momenta(), seed, self.precision
        )
        if velocities == "draw" and temperature_K is not None:
            # a key of its own, apart from those that the noise of each step is drawn from
            key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 1)
            momenta = maxwell_boltzmann_momenta(key, state.masses, state.species, temperature_K)
            state = state.replace(momenta=momenta)
        parameters = self.ensemble.parameters(self.timestep_fs)
        return ensembles.integrator(self.ensemble.name, parameters).init(state)

    def drive(
        self, state: State, steps: int, files: Output, restart: bool, progress: bool
    ) -> Simulation:
        """From a state at step −1, or from a checkpoint, to the last step."""
        listed = self.neighbour_functions.allocate(
            state.positions, state.cell, state.species, fill=False
        )
        closest_warned = False
        if restart:
            written = files.facts()["settings"]
            if written != self.settings():
                raise ValueError(
                    f"the checkpoint in {files.folder} was written with other settings: {written}"
                )
            state, listed = files.restore((state, listed), state.species)
        growths = failures = 0
        saved = time.monotonic()
        atoms = len(self.template)
        with ProgressMeter(
            steps, max(int(state.step), 0), self.timestep_fs, atoms, progress
        ) as meter:
            try:
                while int(state.step) < steps:
                    fresh = int(state.step) < 0
                    plan = (
                        self.schedule.first()
                        if fresh
                        else self.schedule.plan(int(state.step), steps)
                    )
                    new_state, new_list, report = self.run(state, listed, plan, fresh)
                    faults = Fault(int(new_list.faults))
                    if faults & GROWABLE:
                        # the chunk is dropped: its list was incomplete
                        failures += 1
                        growths += 1
                        if failures > _GROWTHS:
                            raise SimulationError(
                                f"neighbour list still too small after {failures} growths"
                            )
                        listed = self.grown(listed, new_list, state)
                        continue
                    failures = 0
                    if faults or int(report.alarm.faults):
                        self.stop(state, plan, report, files)
                    state, listed = new_state, new_list
                    self.write(plan, report, files)
                    closest_warned = closest_warned or self.warn_if_too_close(report.closest)
                    if (last := files.last_line()) is not None:
                        meter.update(int(state.step), last["temperature_K"], last["conserved_eV"])
                    if time.monotonic() - saved > _CHECKPOINT_SECONDS:
                        self.save(files, state, listed)
                        saved = time.monotonic()
            finally:
                # also when interrupted: what is done is kept
                if int(state.step) >= 0:
                    self.save(files, state, listed)
        final = self.final_atoms(state)
        files.write_structure(FINAL, final)
        log = files.log()
        if files.folder is not None and len(log["step"]) > 1:
            figures.draw(
                log,
                files.folder / FIGURE,
                atoms=atoms,
                temperature_K=self.ensemble.temperature_K,
            )
        return Simulation(final, log, files.frames(), state, listed, growths)

    def run(
        self, state: State, listed: NeighbourList, plan: Plan, fresh: bool
    ) -> tuple[State, NeighbourList, Report]:
        """One compiled chunk.

        A fresh state takes one step of zero length: the same code gives it its first forces.
        """
        parameters = self.ensemble.parameters(0.0 if fresh else self.timestep_fs)
        return run_chunk(
            self.program,
            self.potential,
            parameters,
            self.maximum_temperature_K,
            self.shortest_distances,
            state,
            listed,
            plan.counts,
        )

    def grown(self, before: NeighbourList, after: NeighbourList, state: State) -> NeighbourList:
        """The list that a chunk started from, with more room for what overflowed in it."""
        overflowed = before.replace(faults=after.faults, required=after.required)
        return self.neighbour_functions.grow(
            overflowed, before.reference_positions, before.reference_cell, state.species
        )

    def log_line(self, sample: Any) -> dict[str, float | int]:
        return observables.log_line(
            sample,
            timestep_fs=self.timestep_fs,
            freedom=self.program.freedom,
            reference_energy=self.reference_energy,
            periodic=bool(self.template.pbc.all()),
        )

    @property
    def reference_energy(self) -> float:
        species = structures.species_indices(self.template, self.potential.species)
        return float(np.sum(np.asarray(self.potential.reference_energies, float)[species]))

    def write(self, plan: Plan, report: Report, files: Output) -> None:
        """Append a chunk's lines and frames."""
        samples, frames = jax.device_get((report.samples, report.frames))
        files.write(
            [self.log_line(jax.tree.map(lambda x, at=at: x[at], samples)) for at in plan.logged],
            [self.atoms_from(jax.tree.map(lambda x, f=f: x[f], frames)) for f in plan.framed],
        )

    def atoms_from(self, frame: Any) -> Atoms:
        return structures.atoms_from_frame(
            frame,
            self.template,
            timestep_fs=self.timestep_fs,
            reference_energy=self.reference_energy,
        )

    def final_atoms(self, state: State) -> Atoms:
        parameters = self.ensemble.parameters(self.timestep_fs)
        integrator = ensembles.integrator(self.ensemble.name, parameters)
        sample = observables.sample(state, integrator.energy_exchanged)
        return self.atoms_from(jax.device_get(structures.frame_of(state, sample)))

    def settings(self) -> dict[str, Any]:
        """What must not change between a run and its restart."""
        return {
            "ensemble": self.ensemble.name,
            "timestep_fs": self.timestep_fs,
            "numbers": self.template.numbers.tolist(),
            "pbc": self.template.pbc.tolist(),
        }

    def save(self, files: Output, state: State, listed: NeighbourList) -> None:
        files.save((state, listed), {"settings": self.settings()})

    def warn_if_too_close(self, closest: Closest | None) -> bool:
        if closest is None:
            return False
        ratio = np.asarray(closest.ratio)
        at = np.unravel_index(np.argmin(ratio), ratio.shape)
        if not ratio[at] < 1:
            return False
        a, b = (int(i) for i in np.asarray(closest.pair)[at])
        symbols = self.template.get_chemical_symbols()
        warnings.warn(
            f"step {int(closest.step[at])}: atoms {a} ({symbols[a]}) and {b} ({symbols[b]}) are "
            f"{float(closest.distance[at]):.3f} Å apart, closer than any such pair the potential "
            "was trained on: it extrapolates",
            stacklevel=4,
        )
        return True

    def stop(self, state: State, plan: Plan, report: Report, files: Output) -> None:
        """End a run that cannot go on: keep what was good, and say what happened."""
        alarm = jax.device_get(report.alarm)
        failed, atom = int(alarm.step), int(alarm.atom)
        fault = Fault(int(alarm.faults)) or Fault.SHIFT_RANGE
        if int(state.step) >= 0:
            files.write_structure(LAST_GOOD, self.final_atoms(state))
        what = {
            Fault.NOT_FINITE: "a position, force or energy is not finite",
            Fault.TOO_HOT: f"the temperature passed {self.maximum_temperature_K:.0f} K",
            Fault.SHIFT_RANGE: "an atom is over 127 cells away",
        }[fault]
        where = f"atom {atom} ({self.template.get_chemical_symbols()[atom]})"
        kept = "nothing was good before it"
        if int(state.step) >= 0:
            path = files.path(LAST_GOOD)
            kept = f"the last good state, of step {int(state.step)}, is " + (
                f"in {path}" if path else "lost: give an output folder to keep it"
            )
        raise SimulationError(f"step {failed}: {what}, first at {where}; {kept}")


def _default_chunk(atoms: int) -> int:
    """Steps per chunk: about as much work for any size, but never dependent on the machine."""
    return int(np.clip(20_000 // atoms, 20, 2000))


def _check_strides(
    steps: int, log_every: int, trajectory_every: int, chunk_steps: int | None
) -> None:
    for name, value, least in (
        ("steps", steps, 0),
        ("log_every", log_every, 1),
        ("trajectory_every", trajectory_every, 0),
        ("chunk_steps", 1 if chunk_steps is None else chunk_steps, 1),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def _precision_of(potential: LocalPotential) -> Any:
    floats = [x for x in jax.tree.leaves(potential) if jnp.issubdtype(x.dtype, jnp.floating)]
    return floats[0].dtype if floats else jnp.float32


def _cast(potential: Any, precision: str) -> Any:
    def cast(x: Any) -> Any:
        return jnp.asarray(x, precision) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, potential)


def _table(shortest_distances: Any, species: tuple[str, ...], precision: str) -> Any:
    if shortest_distances is None:
        return None
    table = np.nan_to_num(np.asarray(shortest_distances, float), nan=0.0)
    if table.shape != (len(species),) * 2:
        raise ValueError(
            f"shortest_distances must be a table of {len(species)} × {len(species)} species"
        )
    return jnp.asarray(table, precision)
