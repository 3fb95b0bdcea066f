"""What users call: molecular dynamics of a structure under a potential."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from md import arguments, neighbours, relaxation
from md import bias as biases
from md.alarms import Limits
from md.assembly import Assembly
from md.domains.placement import grid_for
from md.driver import Driver, SimulationError
from md.groups import Group
from md.local_potential import LocalPotential, chosen_precision, with_precision
from md.memory_plan import MemoryPlan, planned
from md.observable import Observable, check_names
from md.observables import log_columns
from md.output import Output
from md.processes import Team
from md.program import System
from md.replicated import Structure, atoms_of, is_simple, unit_of
from md.schedule import Schedule
from md.simulation import Simulation, finished
from md.species import species_indices
from md.stages import Stage, legs
from md.trajectory import TrajectorySettings
from md.uncertainty import Uncertainty

__all__ = ["MemoryPlan", "Simulation", "SimulationError", "plan_memory", "simulate"]

_SKIN, _PAIR_SKIN = 0.5, 1.0  # Å
_MINIMISE_FORCE = 0.05  # eV/Å
_MINIMISE_STEPS = 500

Number = float | int


def simulate(
    potential: LocalPotential,
    atoms: Structure | Sequence[Atoms],
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
            its ``FixAtoms`` kept. With replicas, one for all or one for each. Of an
            :class:`md.Replicated` each domain makes its own atoms.
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
    asked = SimpleNamespace(**locals())
    prepared = _prepared(asked)
    assembly, course = prepared.assembly, prepared.assembly.legs
    columns = log_columns(
        course,
        biased=bias is not None,
        replicated=replicas is not None,
        watched=uncertainty is not None,
    )
    files = Output(
        output,
        columns,
        trajectory=prepared.trajectory if trajectory_every else None,
        uncertain=assembly.uncertain_frames > 0,
        replicas=replicas,
        restart=restart,
        writes=Team.of_all().leads,
    )
    if minimise and not restart:
        held = course[0].partition.group < 0
        reach = assembly.neighbour_functions.reach
        templates = tuple(
            _relaxed(
                potential, template, held, assembly.precision, reach.skin, block_size, progress
            )
            for template in assembly.templates
        )
        assembly = dataclasses.replace(assembly, templates=templates)
    with jax.enable_x64(assembly.precision == "float64"), files:
        driver = Driver(assembly, prepared.schedule, float(checkpoint_seconds), walltime_s)
        carry, growths = driver.drive(files, restart, progress)
        simulation = finished(assembly, files, carry, growths)
    Team.of_all().wait()  # whoever reads the files finds them complete
    return simulation


def plan_memory(
    potential: LocalPotential,
    atoms: Structure | Sequence[Atoms],
    stages: Stage | Sequence[Stage] | None = None,
    **words: Any,
) -> MemoryPlan:
    """How much memory a run would take, by what the compiler says of it; nothing is run.

    Atoms are laid out and their neighbours counted where the run would be, on its devices.

    Args:
        potential, atoms, stages, **words: as for :func:`simulate`.
    """
    bound = inspect.signature(simulate).bind(potential, atoms, stages, **words)
    bound.apply_defaults()
    prepared = _prepared(SimpleNamespace(**bound.arguments))
    with jax.enable_x64(prepared.assembly.precision == "float64"):
        return planned(prepared.assembly, prepared.schedule)


class _Prepared(NamedTuple):
    """What the words of :func:`simulate` amount to, checked."""

    assembly: Assembly
    schedule: Schedule
    trajectory: TrajectorySettings


def _prepared(asked: SimpleNamespace) -> _Prepared:
    potential, replicas, uncertainty = asked.potential, asked.replicas, asked.uncertainty
    precision = chosen_precision(asked.dtype, potential)
    skin = asked.skin
    if skin is None:
        skin = _PAIR_SKIN if getattr(potential, "pairwise", False) else _SKIN
    templates = arguments.templates_of(asked.atoms, replicas)
    species_indices(unit_of(templates[0]).symbols, potential.species)  # refuses those unknown
    if asked.domains is None or asked.minimise or not is_simple(templates[0]):
        templates = tuple(map(atoms_of, templates))
    stages = arguments.stages_of(asked.stages, asked.stage, asked.groups)
    course = legs(stages, templates[0], biased=asked.bias is not None)
    ladder_K = arguments.ladder_of(
        replicas, asked.replica_temperatures_K, asked.exchange_every, course
    )
    arguments.check_velocities(course, ladder_K)
    chunk_steps = asked.chunk_steps or arguments.default_chunk(potential, templates[0])
    if asked.domains is not None and asked.trajectory_every:
        chunk_steps = min(chunk_steps, asked.trajectory_every)  # frames are looked at between
    schedule = Schedule(asked.log_every, asked.trajectory_every, chunk_steps, asked.balance)
    if asked.walltime_s is not None and not asked.walltime_s > 0:
        raise ValueError(f"walltime_s must be positive, not {asked.walltime_s}")
    if uncertainty is not None:
        uncertainty.check(potential)
    grid, domains = None, asked.domains
    if domains is not None:
        if isinstance(domains, str) and domains != "auto":
            raise ValueError(f'domains must be three numbers or "auto", not {domains!r}')
        arguments.check_domains(replicas, asked.bias, asked.observables)
        reach = float(potential.cutoff) + float(skin)
        grid = grid_for(templates[0], None if domains == "auto" else domains, reach)
    arguments.check_balance(asked.balance, grid)
    check_names(asked.observables)
    arguments.check_lags(asked.observables, course)
    trajectory = asked.trajectory
    if isinstance(trajectory, str):
        trajectory = TrajectorySettings(trajectory, velocities=True, forces=True)
    trajectory.check(len(templates[0]))
    with jax.enable_x64(precision == "float64"):
        assembly = Assembly(
            system=System(
                potential=with_precision(potential, precision),
                bias=asked.bias and with_precision(biases.as_bias(asked.bias), precision),
                force=None,
                limits=Limits(
                    temperature=float(
                        asked.maximum_temperature_K
                        or arguments.too_hot(course, templates, ladder_K)
                    ),
                    displacement=float(potential.cutoff),
                ),
                shortest_distances=arguments.distance_table(
                    asked.shortest_distances, potential.species, precision
                ),
            ),
            templates=templates,
            legs=course,
            neighbour_functions=neighbours.neighbour_list(
                templates[0].pbc, potential.cutoff, float(skin), potential.pair_cutoffs
            ),
            observables=tuple(asked.observables),
            replicas=replicas,
            ladder_K=ladder_K,
            exchange_every=asked.exchange_every,
            block_size=asked.block_size,
            deterministic=asked.deterministic,
            trajectory=asked.trajectory_every > 0,
            uncertainty=uncertainty,
            uncertain_frames=0 if uncertainty is None else uncertainty.room(schedule.chunk),
            seed=asked.seed,
            precision=precision,
            grid=grid,
        )
    return _Prepared(assembly, schedule, trajectory)


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
