"""From ase.Atoms to a state, and from frames of a run back to ase.Atoms."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Array, Float, Int

from md import observables, summation
from md.cells import Periodicity
from md.species import species_indices
from md.state import State, initial_state

BY_ATOM = ("positions", "images", "momenta", "forces", "ids")
"""Fields of a frame whose rows are atoms."""


class Frame(NamedTuple):
    """One frame of a trajectory: arrays as in :class:`md.state.State`, and the observables."""

    positions: Float[Array, "*frames atoms 3"]
    images: Int[Array, "*frames atoms 3"]
    momenta: Float[Array, "*frames atoms 3"]
    forces: Float[Array, "*frames atoms 3"]
    ids: Int[Array, "*frames atoms"]
    cell: Float[Array, "*frames 3 3"]
    sample: observables.Sample
    geometry: Any = None  # of the domains that rows and positions belong to


def frame_of(state: State, sample: observables.Sample, neighbours: Any = None) -> Frame:
    """A frame of a state.

    Args:
        neighbours: its list, which knows the domains if there are any.
    """
    atoms = state.positions, state.images, state.momenta, state.forces, state.ids
    return Frame(*atoms, state.cell, sample, getattr(neighbours, "geometry", None))


def validate(atoms: Atoms) -> None:
    """Refuse structures that no simulation can start from, in one readable line."""
    if len(atoms) == 0:
        raise ValueError("the structure holds no atoms")
    for name, values in (("position", atoms.positions), ("momentum", atoms.get_momenta())):
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(f"the {name} of atom {int(np.argmin(finite))} is not finite")
    if not (atoms.get_masses() > 0).all():
        raise ValueError(f"the mass of atom {int(np.argmin(atoms.get_masses()))} is not positive")
    rank = np.linalg.matrix_rank(atoms.cell.array[atoms.pbc], tol=1e-6) if atoms.pbc.any() else 0
    if rank < atoms.pbc.sum():
        raise ValueError(
            "the cell has no volume along its periodic directions: mend the cell or its pbc"
        )


_initial_state = jax.jit(initial_state, static_argnames="pbc")


def state_from_atoms(
    atoms: Atoms, species: tuple[str, ...], momenta: Any, seed: int, dtype: Any
) -> State:
    """A state at step −1 (:func:`md.state.initial_state`); positions are wrapped in float64."""
    a, b, c = (bool(p) for p in atoms.pbc)
    pbc: Periodicity = (a, b, c)
    frame = atoms.cell.complete().array
    images = np.floor(np.linalg.solve(frame.T, atoms.positions.T).T)
    images = np.where(atoms.pbc, images, 0).astype(np.int32)
    positions = atoms.positions - images @ atoms.cell.array
    state = _initial_state(
        positions=jnp.asarray(positions, dtype),
        momenta=jnp.asarray(momenta, dtype),
        species=jnp.asarray(species_indices(atoms.symbols, species)),
        masses=jnp.asarray(atoms.get_masses(), dtype),
        cell=jnp.asarray(atoms.cell.array, dtype),
        pbc=pbc,
        key=jax.random.key(seed),
    )
    return state.replace(images=state.images + images)


def atoms_from_frame(
    frame: Any, template: Atoms, *, time_fs: float, reference_energy: float
) -> Atoms:
    """A frame (numpy) as ase.Atoms on its continuous path, with energy, forces, stress and momenta.

    The step and the time in fs are in ``atoms.info``. Stress, in eV/Å³ and ASE's sign, is that of
    the potential alone, and present where all directions repeat.
    """
    cell = np.asarray(frame.cell, float)
    atoms = Atoms(
        numbers=template.numbers,
        positions=np.asarray(frame.positions, float) + np.asarray(frame.images) @ cell,
        cell=cell,
        pbc=template.pbc,
        momenta=np.asarray(frame.momenta, float),
    )
    if template.has("initial_masses") or template.has("masses"):
        atoms.set_masses(template.get_masses())
    results = {
        "energy": summation.to_float(frame.sample.potential) + reference_energy,
        "forces": np.asarray(frame.forces, float),
    }
    if template.pbc.all():
        stress = np.asarray(frame.sample.virial, float) / float(frame.sample.volume)
        results["stress"] = full_3x3_to_voigt_6_stress(stress)
    atoms.calc = SinglePointCalculator(atoms, **results)
    step = int(frame.sample.step)
    atoms.info.update(step=step, time_fs=time_fs)
    return atoms
