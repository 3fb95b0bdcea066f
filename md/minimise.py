"""Minimisation of atoms and cell in compiled steps.

What is minimised is the enthalpy H = E + pV over displacements u of the atoms and a strain η of the
cell, both counted from the start: with F = 1 + η,

    r = (r₀ + u) F        cell = cell₀ F

    −∂H/∂u = f Fᵀ         −∂H/∂η = −F⁻ᵀ (W + pV), made symmetric

where f are the forces and W = dE/dε is the virial. η is symmetric: the cell does not rotate.
The strain enters as a length, L η: atoms bound by springs k at distances l have elastic constants
of the order of k/l, and L = √N l makes the cell as stiff as the atoms. The ways downhill are in
:mod:`md.descent`.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import cells, descent, summation
from md.descent import METHODS, Displacement, Enthalpy
from md.evaluation import Evaluation, evaluate
from md.faults import Fault
from md.neighbours import NeighbourList, needs_update, update
from md.strains import projected
from md.summation import TwoFloat

_LONGEST_MOVE = 0.2  # Å, of an atom in one step
_LARGEST_STRAIN = 0.02  # of the cell in one step


@struct.dataclass
class Problem:
    """What to minimise.

    Attributes:
        origin: [N, 3] positions at the start, Å.
        cell: [3, 3] at the start, Å.
        species: [N] indices; −1 for padding.
        free: [N] which atoms may move in the frame of the cell.
        length: L, Å.
        pressure: eV/Å³.
        force_tolerance: eV/Å, for each atom.
        stress_tolerance: eV/Å³, for each component of the stress that may relax.
        shape: static; one of :data:`md.names.COUPLINGS`, or None for a fixed cell.
    """

    origin: Float[Array, "atoms 3"]
    cell: Float[Array, "3 3"]
    species: Int[Array, " atoms"]
    free: Bool[Array, " atoms"]
    length: Float[Array, ""]
    pressure: Float[Array, ""]
    force_tolerance: Float[Array, ""]
    stress_tolerance: Float[Array, ""]
    shape: str | None = struct.field(pytree_node=False)


class Line(NamedTuple):
    """What is logged of a step.

    Attributes:
        energy: of the sites, eV.
        force: the largest on a free atom, eV/Å.
        stress: the largest component of σ + p that should vanish, eV/Å³; 0 for a fixed cell.
        pressure: −tr W/3V, eV/Å³.
        volume: Å³.
    """

    energy: TwoFloat
    force: Float[Array, "*steps"]
    stress: Float[Array, "*steps"]
    pressure: Float[Array, "*steps"]
    volume: Float[Array, "*steps"]


@struct.dataclass
class Minimisation:
    """How far a minimisation has come.

    Attributes:
        evaluations: how many there were: one more than steps.
        next: where the next evaluation is due.
        memory: of the method.
        last: where the last evaluation was, and what it found.
        found: see ``last``.
        converged: whether it was within the tolerances.
        faults: bits of :class:`md.faults.Fault`, besides those of the list.
    """

    evaluations: Int[Array, ""]
    next: Displacement
    memory: Any
    last: Displacement
    found: Evaluation
    converged: Bool[Array, ""]
    faults: Int[Array, ""]


# -- the loop -------------------------------------------------------------------------------------


def start(problem: Problem, method: str) -> Minimisation:
    """A minimisation before its first evaluation."""
    zero = Displacement(jnp.zeros_like(problem.origin), jnp.zeros_like(problem.cell))
    sites = jnp.zeros_like(problem.origin[:, 0])
    return Minimisation(
        evaluations=jnp.int32(0),
        next=zero,
        memory=METHODS[method].init(zero),
        last=zero,
        found=Evaluation(sites, jnp.zeros_like(problem.origin), jnp.zeros_like(problem.cell)),
        converged=jnp.asarray(False),
        faults=jnp.int32(0),
    )


@partial(jax.jit, static_argnames=("method", "length", "block_size"))
def run_chunk(
    method: str,
    length: int,
    block_size: int | None,
    problem: Problem,
    potential: Any,
    state: Minimisation,
    neighbours: NeighbourList,
    count: Int[Array, ""],
) -> tuple[Minimisation, NeighbourList, Line, Int[Array, ""]]:
    """Evaluate and step until converged, ``count`` times at most, or until something goes wrong.

    Args:
        method: ``"fire"`` or ``"lbfgs"``.
        length: room for lines; at least ``count``.
        block_size: see :func:`md.evaluation.evaluate`.

    Returns:
        The minimisation; the list, whose faults void the chunk; lines, of which the last returned
        number of evaluations is filled.
    """

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        done, state, neighbours, _ = carry
        sound = (state.faults == 0) & (neighbours.faults == 0)
        return (done < count) & ~state.converged & sound

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        done, state, neighbours, lines = carry
        here = state.next
        positions, cell = placed(problem, here)
        neighbours = jax.lax.cond(
            needs_update(neighbours, positions, cell),
            lambda old: update(old, positions, cell, problem.species),
            lambda old: old,
            neighbours,
        )
        found = evaluate(
            potential, positions, cell, problem.species, neighbours, block_size=block_size
        )
        line = describe(problem, cell, found)
        forces = downhill(problem, here, cell, found)
        values = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((forces, line))]
        finite = jnp.all(jnp.stack(values))
        memory, following = METHODS[method].step(
            state.memory, here, forces, enthalpy(problem, found, cell), partial(limited, problem)
        )
        state = Minimisation(
            evaluations=state.evaluations + 1,
            next=following,
            memory=memory,
            last=here,
            found=found,
            converged=(line.force <= problem.force_tolerance)
            & (line.stress <= problem.stress_tolerance),
            faults=jnp.where(finite, 0, jnp.int32(Fault.NOT_FINITE)),
        )
        lines = jax.tree.map(lambda rows, row: rows.at[done].set(row), lines, line)
        return done + 1, state, neighbours, lines

    none = jnp.zeros(length, problem.origin.dtype)
    lines = Line(TwoFloat(none, none), none, none, none, none)
    done, state, neighbours, lines = jax.lax.while_loop(
        unfinished, advance, (jnp.int32(0), state, neighbours, lines)
    )
    return state, neighbours, lines, done


def placed(
    problem: Problem, displacement: Displacement
) -> tuple[Float[Array, "atoms 3"], Float[Array, "3 3"]]:
    """Positions and cell."""
    frame = deformation(problem, displacement)
    positions = cells.lattice_vector(problem.origin + displacement.atoms, frame)
    return positions, cells.lattice_vector(problem.cell, frame)


def deformation(problem: Problem, displacement: Displacement) -> Float[Array, "3 3"]:
    """F = 1 + η."""
    return jnp.eye(3, dtype=problem.cell.dtype) + displacement.strain / problem.length


def downhill(
    problem: Problem, displacement: Displacement, cell: Float[Array, "3 3"], found: Evaluation
) -> Displacement:
    """−∂H/∂u and −∂H/∂(L η) of what may move."""
    frame = deformation(problem, displacement)
    pull = jnp.where(problem.free[:, None], cells.lattice_vector(found.forces, frame.T), 0)
    work = found.virial + problem.pressure * cells.volume(cell) * jnp.eye(3, dtype=cell.dtype)
    gradient = cells.lattice_vector(cells.reciprocal(frame), work)  # reciprocal: F⁻ᵀ
    return Displacement(pull, -relaxing(problem.shape, gradient) / problem.length)


def relaxing(shape: str | None, matrix: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """The part of a stress or strain along which the cell may change."""
    return jnp.zeros_like(matrix) if shape is None else projected(matrix, shape)


def describe(problem: Problem, cell: Float[Array, "3 3"], found: Evaluation) -> Line:
    """The line of a step."""
    squared = jnp.sum(found.forces**2, axis=1)
    volume = cells.volume(cell)
    inverse = 1 / jnp.where(volume > 0, volume, jnp.inf)
    pressure = -jnp.trace(found.virial) * inverse / 3
    excess = found.virial * inverse + problem.pressure * jnp.eye(3, dtype=cell.dtype)
    return Line(
        energy=summation.compensated_sum(found.site_energies),
        force=jnp.sqrt(jnp.max(jnp.where(problem.free, squared, 0), initial=0)),
        stress=jnp.max(jnp.abs(relaxing(problem.shape, excess))),
        pressure=pressure,
        volume=volume,
    )


def enthalpy(problem: Problem, found: Evaluation, cell: Float[Array, "3 3"]) -> Enthalpy:
    """H = E + pV of a fixed or a moving cell."""
    work = problem.pressure * cells.volume(cell)
    sites = found.site_energies
    rounding = 8 * jnp.finfo(sites.dtype).eps * (jnp.sum(jnp.abs(sites)) + jnp.abs(work))
    return Enthalpy(summation.add(summation.compensated_sum(sites), work), rounding)


def limited(problem: Problem, move: Displacement, fraction: Any = 1.0) -> Displacement:
    """A step no longer than a fraction of what one step may be."""
    longest = jnp.sqrt(jnp.max(jnp.sum(move.atoms**2, axis=1), initial=0)) / _LONGEST_MOVE
    largest = jnp.max(jnp.abs(move.strain)) / (problem.length * _LARGEST_STRAIN)
    return descent.scaled(fraction / jnp.maximum(jnp.maximum(longest, largest), fraction), move)
