"""What users call: molecular dynamics of a structure under a potential."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from md import arguments, figures, neighbours, relaxation
from md import bias as biases
from md import replicas as replicas_of
from md import uncertainty as uncertainties
from md.alarms import Limits
from md.assembly import Assembly, steps_done
from md.domains import loads as domain_loads
from md.domains.lists import DomainList
from md.domains.loads import Loads
from md.domains.placement import grid_for
from md.driver import Driver, SimulationError
from md.groups import Group
from md.local_potential import LocalPotential, chosen_precision, with_precision
from md.neighbours import NeighbourList
from md.observable import Observable, check_names
from md.observables import log_columns
from md.output import FIGURE, FINAL, Output
from md.processes import Team
from md.program import Carry, System
from md.schedule import Schedule
from md.species import species_indices
from md.stages import Stage, legs
from md.state import State
from md.trajectory import TrajectorySettings
from md.uncertainty import Passed, Uncertainty

__all__ = ["Simulation", "SimulationError", "simulate"]

_SKIN, _PAIR_SKIN = 0.5, 1.0  # Å
_MINIMISE_FORCE = 0.05  # eV/Å
_MINIMISE_STEPS = 500

Number = float | int
Table = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What a run leaves behind.

    Attributes:
        atoms: the final structure on its continuous path, with momenta, energy, forces and stress.
        log: columns of log.csv as arrays; volume and pressure are NaN unless all directions repeat.
        frames: the trajectory, where the run had no output folder; otherwise it is in the folder.
        tables: results of observables and of the bias, by name.
        complete: whether all steps were done; not when the wall time or uncertainty ended it.
        state, neighbours: the last state, for whoever wants to go on in compiled code. With
            replicas both have a leading axis.
        growths: how often buffers had to grow.
        replicas: one simulation for each replica; empty without. What is above is then the first.
        stopped: where and when uncertainty ended the run; None if it did not.
        uncertain: the frames at which a committee was uncertain, where the run had no output
            folder; otherwise they are in the folder.
        flagged: how many of those there are, since the run began.
        loads: how many atoms and ghosts each domain has at the end; None without domains.
        acceptance: [R − 1] share of exchanges between neighbouring temperatures that took place;
            None without exchange.
    """

    atoms: Atoms
    log: Table
    frames: list[Atoms]
    tables: dict[str, Table]
    complete: bool
    state: State
    neighbours: NeighbourList | DomainList
    growths: int
    replicas: tuple[Simulation, ...] = ()
    acceptance: np.ndarray | None = None
    stopped: Passed | None = None
    uncertain: list[Atoms] = dataclasses.field(default_factory=list)
    flagged: int = 0
    loads: Loads | None = None

    @property
    def imbalance(self) -> float | None:
        """Atoms of the fullest domain, over the mean of all; None without domains."""
        return None if self.loads is None else self.loads.imbalance


def simulate(
    potential: LocalPotential,
    atoms: Atoms | Sequence[Atoms],
    stages: Stage | Sequence[Stage] | None = None,
    *,
    groups: Sequence[Group] = (),
    bias: Any = None,
    minimise: bool = False,
    observables: Sequence[Observable] = (),
    uncertainty: Uncertainty | None = None,
    replicas: int | None = None,
    replica_temperatures_K: Any = None,
    exchange_every: int = 0,
    seed: int = 0,
    dtype: str | None = None,
    output: str | os.PathLike[str] | None = None,
    log_every: int = 10,
    trajectory_every: int = 100,
    trajectory: TrajectorySettings | str = "extxyz",
    restart: bool = False,
    checkpoint_seconds: Number = 60,
    walltime_s: Number | None = None,
    skin: Number | None = None,
    chunk_steps: int | None = None,
    block_size: int | None = None,
    deterministic: bool = False,
    domains: Sequence[int] | str | None = None,
    balance: int = 0,
    maximum_temperature_K: Number | None = None,
    shortest_distances: Any = None,
    progress: bool = True,
    **stage: Any,
) -> Simulation:
    """Run molecular dynamics of a structure under a potential.

    Everything between two looks of the host is one compiled program. The same arguments on the
    same machine give the same trajectory, on a CPU bit for bit.

    Args:
        potential: Allegro, Lennard-Jones, or anything else behind
            :class:`md.local_potential.LocalPotential`.
        atoms: the structure: any cell, any mix of periodic directions. Its masses are used, and
            its ``FixAtoms`` kept. With replicas, one for all or one for each.
        stages: what to do, see :class:`md.stages.Stage`. The words of a single stage may be given
            directly instead: ``simulate(potential, atoms, steps=1000, ensemble="nve")``.
        groups: atoms that are treated apart, in stages that name no groups of their own.
        bias: extra energy, a function ``(positions, cell) -> eV`` or see :mod:`md.bias`.
        minimise: relax the atoms first (:func:`md.relax`, without the bias), to 0.05 eV/Å or for
            500 steps.
        observables: what to accumulate along the run (:mod:`md.observable`).
        uncertainty: how the spread of a committee is watched, and what it leads to.
        replicas: number of copies that run side by side, each with its own noise.
        replica_temperatures_K: one for each replica, or the lowest and the highest of a geometric
            series; those of the stages unless given.
        exchange_every: steps between exchanges of neighbouring temperatures; 0 is never.
        seed: of velocities and noise.
        dtype: precision of the run; that of the potential's weights unless given.
        output: folder for log.csv, the trajectory, final.extxyz, checkpoint.npz, tables and
            figures (:mod:`md.output`). Without a folder, frames stay in memory.
        log_every, trajectory_every: steps between lines of the log and between frames (0: no
            frames). Step 0 is the first of both.
        trajectory: the format of frames, ``"extxyz"``, ``"h5md"`` or ``"traj"``, with velocities
            and forces; or settings that say what to keep of them.
        restart: go on from ``output``'s checkpoint, bit-identical to a run that never stopped (on
            a CPU).
        checkpoint_seconds: between checkpoints. One is also written at the end and when SIGINT or
            SIGTERM stop the run.
        walltime_s: seconds after which the run stops in order, to be continued by ``restart``.
        skin: Å by which the neighbour list exceeds the cutoff; 0.5 unless given, and 1 for pair
            potentials, for which building the list costs as much as several steps.
        chunk_steps: steps between two looks of the host; chosen from the number of atoms unless
            given.
        block_size: atoms evaluated at once; chosen from the list unless given.
        deterministic: the same trajectory bit for bit on accelerators too, somewhat slower.
        domains: spread the atoms over a grid of domains (:mod:`md.domains`), one on each device:
            three numbers, along the cell's axes, or ``"auto"`` for all devices. None: one device,
            without domains.
        balance: steps between looks at how equal the loads of domains are; where they are not,
            faces between domains shift along each axis. 0: faces stay.
        maximum_temperature_K: hotter than this counts as exploded; ten times the largest of all
            temperatures and 1000 K unless given.
        shortest_distances: [T, T] Å; warns once when a pair comes closer than this (looked at
            with each line of the log), typically the shortest distances of the training data. 0
            where unknown.
        progress: whether to show a progress bar.
        **stage: words of :class:`md.stages.Stage`.

    Raises:
        ValueError: for arguments or structures that make no sense; one readable line.
        SimulationError: when the run explodes. What was written stays, with the last good state.
    """
    precision = chosen_precision(dtype, potential)
    if skin is None:
        skin = _PAIR_SKIN if getattr(potential, "pairwise", False) else _SKIN
    templates = arguments.templates_of(atoms, replicas)
    species_indices(templates[0].symbols, potential.species)  # refuses what it does not know
    course = legs(arguments.stages_of(stages, stage, groups), templates[0], biased=bias is not None)
    ladder_K = arguments.ladder_of(replicas, replica_temperatures_K, exchange_every, course)
    arguments.check_velocities(course, ladder_K)
    chunk_steps = chunk_steps or arguments.default_chunk(potential, templates[0])
    schedule = Schedule(log_every, trajectory_every, chunk_steps, balance)
    if walltime_s is not None and not walltime_s > 0:
        raise ValueError(f"walltime_s must be positive, not {walltime_s}")
    if uncertainty is not None:
        uncertainty.check(potential)
    grid = None
    if domains is not None:
        if isinstance(domains, str) and domains != "auto":
            raise ValueError(f'domains must be three numbers or "auto", not {domains!r}')
        arguments.check_domains(course, replicas, bias, observables, uncertainty)
        reach = float(potential.cutoff) + float(skin)
        grid = grid_for(templates[0], None if domains == "auto" else domains, reach)
    arguments.check_balance(balance, grid)
    check_names(observables)
    arguments.check_lags(observables, course)
    settings = trajectory
    if isinstance(settings, str):
        settings = TrajectorySettings(settings, velocities=True, forces=True)
    settings.check(len(templates[0]))
    columns = log_columns(
        course,
        biased=bias is not None,
        replicated=replicas is not None,
        watched=uncertainty is not None,
    )
    room = 0 if uncertainty is None else uncertainty.room(schedule.chunk)
    files = Output(
        output,
        columns,
        trajectory=settings if trajectory_every else None,
        uncertain=room > 0,
        replicas=replicas,
        restart=restart,
        writes=Team.of_all().leads,
    )
    if minimise and not restart:
        held = course[0].partition.group < 0
        templates = tuple(
            _relaxed(potential, template, held, precision, float(skin), block_size, progress)
            for template in templates
        )
    functions = neighbours.neighbour_list(
        templates[0].pbc, potential.cutoff, float(skin), potential.pair_cutoffs
    )
    with jax.enable_x64(precision == "float64"), files:
        assembly = Assembly(
            system=System(
                potential=with_precision(potential, precision),
                bias=None if bias is None else with_precision(biases.as_bias(bias), precision),
                force=None,
                limits=Limits(
                    temperature=float(
                        maximum_temperature_K or arguments.too_hot(course, templates, ladder_K)
                    ),
                    displacement=float(potential.cutoff),
                ),
                shortest_distances=arguments.distance_table(
                    shortest_distances, potential.species, precision
                ),
            ),
            templates=templates,
            legs=course,
            neighbour_functions=functions,
            observables=tuple(observables),
            replicas=replicas,
            ladder_K=ladder_K,
            exchange_every=exchange_every,
            block_size=block_size,
            deterministic=deterministic,
            trajectory=trajectory_every > 0,
            uncertainty=uncertainty,
            uncertain_frames=room,
            seed=seed,
            precision=precision,
            grid=grid,
        )
        driver = Driver(assembly, schedule, float(checkpoint_seconds), walltime_s)
        carry, growths = driver.drive(files, restart, progress)
        finished = _finish(assembly, files, carry, growths)
    Team.of_all().wait()  # whoever reads the files finds them complete
    return finished


def _finish(assembly: Assembly, files: Output, carry: Carry, growths: int) -> Simulation:
    """Write what is written at the end, and gather what a run leaves behind."""
    leg = assembly.leg_of(carry)
    observed = [one.stage.timestep_fs for one in assembly.legs if one.stage.observe]
    timestep_fs = observed[-1] if observed else leg.stage.timestep_fs
    complete = steps_done(carry) >= assembly.legs[-1].last
    several = assembly.replicas is not None
    stopped = uncertainties.stopped(assembly.uncertainty, carry.watch)
    loads = None
    if assembly.grid is not None:
        loads = domain_loads.measured(carry.state, carry.neighbours, assembly.grid)
    simulations = []
    for number, final in enumerate(assembly.final_atoms(leg, carry)):
        place = number if several else None
        own = replicas_of.unstack(carry, number) if several else carry
        tables = {
            observable.name: observable.result(accumulator, timestep_fs)
            for observable, accumulator in zip(assembly.observables, own.accumulators, strict=True)
        }
        if assembly.system.bias is not None:
            tables |= assembly.system.bias.results(own.state.bias)
        files.write_structure(FINAL, final, place)
        for name, table in tables.items():
            files.write_table(name, table, place)
        log, path = files.log(number), files.path(FIGURE, place)
        if path is not None and len(log["step"]) > 1:
            figures.draw(log, path, atoms=len(final), tables=tables)
        simulations.append(
            Simulation(
                final,
                log,
                files.frames(number),
                tables,
                complete,
                own.state,
                own.neighbours,
                growths,
                stopped=stopped,
                uncertain=files.uncertain(number),
                flagged=0 if own.watch is None else int(own.watch.frames),
                loads=loads,
            )
        )
    if not several:
        return simulations[0]
    acceptance = None
    if carry.exchanges is not None:
        tried = np.asarray(carry.exchanges.attempted)
        acceptance = np.asarray(carry.exchanges.accepted) / np.maximum(tried, 1)
    return dataclasses.replace(
        simulations[0],
        replicas=tuple(simulations),
        acceptance=acceptance,
        state=carry.state,
        neighbours=carry.neighbours,
    )


def _relaxed(
    potential: LocalPotential,
    atoms: Atoms,
    held: np.ndarray,
    precision: str,
    skin: float,
    block_size: int | None,
    progress: bool,
) -> Atoms:
    """A structure whose atoms, but for those held, have come near a minimum."""
    free = atoms.copy()
    free.set_constraint(FixAtoms(mask=held) if held.any() else None)
    relaxed = relaxation.relax(
        potential,
        free,
        force_tolerance=_MINIMISE_FORCE,
        max_steps=_MINIMISE_STEPS,
        skin=skin,
        dtype=precision,
        block_size=block_size,
        progress=progress,
    ).atoms
    result = atoms.copy()
    result.positions = relaxed.positions
    return result
