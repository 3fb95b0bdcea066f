"""Relaxation of a structure to the nearest minimum of its energy or enthalpy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from md import minimise, names, structures, summation, units
from md.descent import METHODS
from md.faults import GROWABLE, Fault
from md.local_potential import LocalPotential, chosen_precision, with_precision
from md.minimise import Line, Minimisation, Problem
from md.neighbours import NeighbourFunctions, NeighbourList, neighbour_list
from md.output import Output
from md.run_files import FINAL, LAST_GOOD
from md.trajectory import TrajectorySettings

_COLUMNS = ("step", "energy_eV", "force_eV_per_A")
_PERIODIC_COLUMNS = ("stress_GPa", "pressure_GPa", "volume_A3")
_CHUNK = 50  # steps between two looks of the host
_GROWTHS = 20  # in a row, without a chunk that succeeds


class RelaxationError(ValueError):
    """A relaxation that could not go on; the message says where and why."""


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """What a relaxation leaves behind.

    Attributes:
        atoms: the relaxed structure with energy, forces and stress; otherwise as it was given.
        converged: whether forces and stress are within their tolerances.
        steps: how many were taken.
        log: columns of log.csv: step; energy (without p·V); largest force on an atom that may move;
            where all directions repeat, the largest component of σ + p that the cell can relax, the
            pressure, and the volume.
        frames: the trajectory, where there was no output folder.
        growths: how often buffers had to grow.
    """

    atoms: Atoms
    converged: bool
    steps: int
    log: dict[str, np.ndarray]
    frames: list[Atoms]
    growths: int


def relax(
    potential: LocalPotential,
    atoms: Atoms,
    *,
    method: str = "fire",
    cell: str | None = None,
    pressure_GPa: float | int = 0.0,
    force_tolerance: float | int = 0.01,
    stress_tolerance_GPa: float | int = 0.05,
    max_steps: int = 1000,
    skin: float | int = 0.5,
    dtype: str | None = None,
    output: str | os.PathLike[str] | None = None,
    trajectory_every: int = 0,
    block_size: int | None = None,
    progress: bool = True,
) -> Relaxation:
    """Move atoms, and the cell if asked to, to the nearest minimum.

    Args:
        potential: anything behind :class:`md.local_potential.LocalPotential`.
        atoms: the structure. Atoms held by ``FixAtoms`` stay where they are in the cell (when it
            changes, they move with it).
        method: ``"fire"``, which is robust, or ``"lbfgs"``, which is faster near a minimum.
        cell: what the cell may do: nothing (None), or ``"isotropic"``, ``"anisotropic"`` (lengths
            along x, y and z) or ``"full"``. The cell never rotates.
        pressure_GPa: to which the cell relaxes.
        force_tolerance: eV/Å, for the force on every atom that may move.
        stress_tolerance_GPa: for each component of the stress (plus the pressure) that may relax.
        max_steps: at most so many; the result then says that it has not converged.
        skin: Å by which the neighbour list exceeds the cutoff.
        dtype: float32 or float64; that of the potential unless given. In float32, forces are good
            to some 1e-4 eV/Å.
        output: folder for log.csv, final.extxyz and trajectory.extxyz. Files of an earlier run are
            moved into ``previous-1`` and so on.
        trajectory_every: steps between frames of the trajectory; 0: none.
        block_size: atoms evaluated at once; chosen from the list unless given.
        progress: whether to show a progress bar.

    Raises:
        ValueError: for arguments or structures that make no sense; one readable line.
        RelaxationError: if an energy or force is not finite.
    """
    precision = chosen_precision(dtype, potential)
    _check(atoms, method, cell)
    for name, value, least in (
        ("max_steps", max_steps, 0),
        ("trajectory_every", trajectory_every, 0),
        ("force_tolerance", force_tolerance, 0),
        ("stress_tolerance_GPa", stress_tolerance_GPa, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if pressure_GPa and cell is None:
        raise ValueError(
            "pressure_GPa needs a cell that may change: give cell, for instance 'full'"
        )
    with jax.enable_x64(True) if precision == "float64" else contextlib.nullcontext():
        run = _Run(
            potential=with_precision(potential, precision),
            problem=problem_of(
                atoms,
                potential.species,
                cell,
                precision,
                pressure=pressure_GPa * units.GIGAPASCAL,
                force_tolerance=force_tolerance,
                stress_tolerance=stress_tolerance_GPa * units.GIGAPASCAL,
            ),
            template=atoms,
            method=method,
            neighbour_functions=neighbour_list(
                atoms.pbc, potential.cutoff, float(skin), potential.pair_cutoffs
            ),
            chunk=trajectory_every or _CHUNK,
            trajectory=trajectory_every > 0,
            block_size=block_size,
        )
        columns = _COLUMNS + (_PERIODIC_COLUMNS if run.periodic else ())
        settings = TrajectorySettings("extxyz", forces=True) if run.trajectory else None
        with Output(output, columns, trajectory=settings) as files:
            return run.drive(max_steps, files, progress)


@dataclasses.dataclass(frozen=True)
class _Run:
    """A relaxation's settings, and the loop over chunks."""

    potential: Any
    problem: Problem
    template: Atoms
    method: str
    neighbour_functions: NeighbourFunctions
    chunk: int
    trajectory: bool
    block_size: int | None

    @property
    def periodic(self) -> bool:
        return bool(self.template.pbc.all())

    def drive(self, max_steps: int, files: Output, progress: bool) -> Relaxation:
        state = minimise.start(self.problem, self.method)
        listed = self.neighbour_functions.allocate(
            self.problem.origin, self.problem.cell, self.problem.species, fill=False
        )
        growths = failures = done = 0
        with _meter(max_steps, progress) as (meter, task):
            while done <= max_steps and not bool(state.converged):
                # the first chunk is one evaluation longer, so that frames fall on multiples
                ahead = self.chunk if done else self.chunk + 1
                count = jnp.int32(min(ahead, max_steps + 1 - done))
                new_state, new_list, lines, filled = minimise.run_chunk(
                    self.method, self.chunk + 1, self.block_size, self.problem, self.potential,
                    state, listed, count,
                )  # fmt: skip
                faults = Fault(int(new_list.faults))
                if faults & GROWABLE:  # the chunk is dropped: its list was incomplete
                    failures += 1
                    growths += 1
                    if failures > _GROWTHS:
                        raise RelaxationError(
                            f"neighbour list still too small after {failures} growths"
                        )
                    listed = self.grown(listed, new_list, new_state)
                    continue
                failures = 0
                if faults or int(new_state.faults):
                    self.stop(state, new_state, files)
                state, listed = new_state, new_list
                lines = jax.device_get(lines)
                rows = [
                    self.line(done + at, jax.tree.map(lambda x, at=at: x[at], lines))
                    for at in range(int(filled))
                ]
                done += int(filled)
                files.write(rows, [self.atoms_at(state)] if self.trajectory else [])
                meter.update(
                    task, completed=done - 1, status=f"force {rows[-1]['force_eV_per_A']:.4f} eV/Å"
                )
        final = self.atoms_at(state)
        files.write_structure(FINAL, final)
        return Relaxation(
            final, bool(state.converged), done - 1, files.log(), files.frames(), growths
        )

    def grown(
        self, before: NeighbourList, after: NeighbourList, state: Minimisation
    ) -> NeighbourList:
        """A list with more room for what overflowed in a chunk.

        It is planned for the place of the overflow: the cell may have become much smaller since
        the chunk began.
        """
        overflowed = before.replace(faults=after.faults, required=after.required)
        positions, cell = minimise.placed(self.problem, state.last)
        return self.neighbour_functions.grow(overflowed, positions, cell, self.problem.species)

    def stop(self, before: Minimisation, after: Minimisation, files: Output) -> None:
        """End a relaxation that cannot go on."""
        step = int(after.evaluations) - 1
        if int(before.evaluations):
            files.write_structure(LAST_GOOD, self.atoms_at(before))
        broken = ~np.isfinite(np.asarray(after.found.forces)).all(axis=1)
        broken |= ~np.isfinite(np.asarray(after.found.site_energies))
        if not broken.any():
            raise RelaxationError(
                f"step {step}: the stress is not finite, or an atom is over 127 cells away"
            )
        atom = int(np.argmax(broken))
        raise RelaxationError(
            f"step {step}: an energy or force is not finite, first at atom {atom} "
            f"({self.template.symbols[atom]}): atoms may be too close"
        )

    def line(self, step: int, line: Line) -> dict[str, float | int]:
        row = {
            "step": step,
            "energy_eV": summation.to_float(line.energy) + self.reference_energy,
            "force_eV_per_A": float(line.force),
        }
        if self.periodic:
            row["stress_GPa"] = float(line.stress) / units.GIGAPASCAL
            row["pressure_GPa"] = float(line.pressure) / units.GIGAPASCAL
            row["volume_A3"] = float(line.volume)
        return row

    @property
    def reference_energy(self) -> float:
        references = np.asarray(self.potential.reference_energies, float)
        return float(references[np.asarray(self.problem.species)].sum())

    def atoms_at(self, state: Minimisation) -> Atoms:
        """The structure of the last evaluation; displacements are added in float64."""
        displacement = jax.tree.map(lambda x: np.asarray(x, float), state.last)
        frame = np.eye(3) + displacement.strain / float(self.problem.length)
        atoms = self.template.copy()
        atoms.set_constraint()  # so that fixed atoms move with the cell
        atoms.set_positions((self.template.positions + displacement.atoms) @ frame)
        atoms.set_cell(self.template.cell.array @ frame)
        atoms.set_constraint(self.template.constraints)
        sites = np.asarray(state.found.site_energies, float)
        results = {
            "energy": float(sites.sum()) + self.reference_energy,
            "forces": np.asarray(state.found.forces, float),
        }
        if self.periodic:
            stress = np.asarray(state.found.virial, float) / atoms.get_volume()
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["step"] = int(state.evaluations) - 1
        return atoms


def _check(atoms: Atoms, method: str, cell: str | None) -> None:
    """Refuse what no relaxation can start from."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if cell is not None and cell not in names.COUPLINGS:
        raise ValueError(f"cell must be None or one of {', '.join(names.COUPLINGS)}, not {cell!r}")
    structures.validate(atoms)
    if cell is not None and not atoms.pbc.all():
        raise ValueError("cell: only that of a structure periodic in all directions can relax")
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(
                f"the constraint {type(constraint).__name__} is not supported, only FixAtoms: "
                "remove it"
            )


def problem_of(
    atoms: Atoms, species: tuple[str, ...], shape: str | None, precision: str, **numbers: Any
) -> Problem:
    """The problem in arrays; positions are wrapped in float64, to keep digits."""
    free = np.ones(len(atoms), bool)
    for constraint in atoms.constraints:
        free[constraint.index] = False
    wrapped = structures.state_from_atoms(atoms, species, atoms.get_momenta(), 0, precision)
    volume = atoms.get_volume() if atoms.pbc.all() else 1.0
    length = len(atoms) ** 0.5 * (volume / len(atoms)) ** (1 / 3)
    return Problem(
        origin=wrapped.positions,
        cell=wrapped.cell,
        species=wrapped.species,
        free=jnp.asarray(free),
        shape=shape,
        **{
            name: jnp.asarray(value, precision)
            for name, value in (numbers | {"length": length}).items()
        },
    )


@contextlib.contextmanager
def _meter(total: int, shown: bool) -> Any:
    """A progress bar and its task."""
    columns = (
        TextColumn("relaxation"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, disable=not shown) as meter:
        yield meter, meter.add_task("relaxation", total=total, status="compiling")
