"""Groups of atoms that a run treats apart: fixed, driven, pushed, or with a bath of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from md import units
from md.replicated import Structure, atoms_of, unit_of

Number = float | int
Value = Number | Sequence[Number]
"""A number, or where a linear ramp starts and ends."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Some atoms, and what is special about them.

    Attributes:
        atoms: which: indices; a chemical symbol; or a range such as ``"0:100"`` (as Python slices).
        name: of its columns in the log.
        fixed: the atoms do not move.
        velocity_A_per_fs: [3] the atoms move at this velocity, whatever the forces on them.
        force_eV_per_A: [3] added to the force on each atom.
        thermostat: if false, the thermostat leaves these atoms alone.
        temperature_K: of a bath of their own; that of the stage unless given. A pair ramps.
        friction_per_fs, time_constant_fs: of that bath; those of the stage unless given.
    """

    atoms: Any
    name: str = ""
    fixed: bool = False
    velocity_A_per_fs: Any = None
    force_eV_per_A: Any = None
    thermostat: bool = True
    temperature_K: Value | None = None
    friction_per_fs: Number | None = None
    time_constant_fs: Number | None = None

    def __post_init__(self) -> None:
        bath = (self.temperature_K, self.friction_per_fs, self.time_constant_fs)
        own_bath = not self.thermostat or any(value is not None for value in bath)
        if self.fixed and self.velocity_A_per_fs is not None:
            raise ValueError(f"{self}: fixed atoms have no velocity_A_per_fs: give one of the two")
        if self.held and (own_bath or self.force_eV_per_A is not None):
            raise ValueError(
                f"{self}: atoms that are fixed or driven feel neither a thermostat nor an added "
                "force: leave those out"
            )
        if not self.thermostat and any(value is not None for value in bath):
            raise ValueError(f"{self}: thermostat=False, yet a bath is described: leave one out")
        for field in ("velocity_A_per_fs", "force_eV_per_A"):
            value = getattr(self, field)
            if value is not None and (np.shape(value) != (3,) or not np.isfinite(value).all()):
                raise ValueError(f"{self}: {field} must be three numbers, not {value!r}")

    def __str__(self) -> str:
        return f"group {self.name!r}" if self.name else f"the group of atoms {self.atoms!r}"

    @cached_property
    def held(self) -> bool:
        """Whether the atoms' momenta never change."""
        return self.fixed or self.velocity_A_per_fs is not None

    def indices(self, atoms: Atoms) -> np.ndarray:
        """Indices of the atoms of this group, in order.

        Raises:
            ValueError: if there are none, or an index is out of range.
        """
        chosen = _indices(self.atoms, atoms, str(self))
        if len(chosen) == 0:
            raise ValueError(f"{self} holds no atom of the structure")
        return chosen


def _indices(selection: Any, atoms: Atoms, owner: str) -> np.ndarray:
    everything = np.arange(len(atoms))
    if isinstance(selection, str):
        if ":" in selection:
            try:
                parts = [int(part) if part.strip() else None for part in selection.split(":")]
                return everything[slice(*parts)]
            except (ValueError, TypeError) as error:
                raise ValueError(f'{owner}: write a range as "first:end"') from error
        return everything[np.asarray(atoms.get_chemical_symbols()) == selection]
    array = np.asarray(selection)
    if array.dtype == bool:
        if array.shape != (len(atoms),):
            raise ValueError(f"{owner}: a mask needs one value for each of {len(atoms)} atoms")
        return everything[array]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{owner}: give indices, a chemical symbol or a range")
    outside = array[(array < -len(atoms)) | (array >= len(atoms))]
    if outside.size:
        raise ValueError(f"{owner}: there is no atom {outside[0]} among {len(atoms)}")
    return np.unique(everything[array])


@dataclasses.dataclass(frozen=True)
class Partition:
    """The atoms of a structure, divided among groups.

    Attributes:
        thermal: for each thermostat group, the :class:`Group` it comes from; None for all atoms
            that no group with a bath of its own holds.
        group: [N] thermostat group of each atom, −1 where momenta never change.
        velocity: [N, 3] of atoms that are fixed or driven, engine's units; 0 elsewhere.
        force: [G, 3] eV/Å, added to the forces on the atoms of each thermostat group.
    """

    thermal: tuple[Group | None, ...]
    group: np.ndarray
    velocity: np.ndarray
    force: np.ndarray

    @cached_property
    def whole(self) -> bool:
        """Whether nothing sets any atom apart."""
        return not (self.group.any() or self.driven or self.forced)

    @cached_property
    def held(self) -> bool:
        """Whether the momenta of some atoms never change."""
        return bool((self.group < 0).any())

    @cached_property
    def driven(self) -> bool:
        return bool(self.velocity.any())

    @cached_property
    def forced(self) -> bool:
        return bool(self.force.any())

    def counts(self) -> np.ndarray:
        """[G] atoms in each thermostat group."""
        return np.bincount(self.group[self.group >= 0], minlength=len(self.thermal))


def partition(structure: Structure, groups: Sequence[Group]) -> Partition:
    """Divide a structure among groups; ASE's ``FixAtoms`` count as a fixed group.

    Raises:
        ValueError: for overlapping groups, or constraints of another kind.
    """
    n = len(structure)
    if not groups and not unit_of(structure).constraints:
        nothing = np.broadcast_to(0.0, (n, 3))  # takes no memory
        return Partition((None,), np.broadcast_to(np.int32(0), n), nothing, np.zeros((1, 3)))
    atoms = atoms_of(structure)
    fixed = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(
                f"the structure has a constraint {type(constraint).__name__}, which is not "
                "supported (FixAtoms is): remove it"
            )
        fixed.append(Group(constraint.get_indices(), name="FixAtoms", fixed=True))
    velocity, forces = np.zeros((n, 3)), [np.zeros(3)]
    group, owner = np.zeros(n, np.int32), np.full(n, -1)
    thermal: list[Group | None] = [None]
    together = [*fixed, *groups]
    for number, one in enumerate(together):
        chosen = one.indices(atoms)
        taken = chosen[owner[chosen] >= 0]
        if taken.size:
            other = together[owner[taken[0]]]
            raise ValueError(f"atom {taken[0]} is in {other} and in {one}: groups must not overlap")
        owner[chosen] = number
        if one.held:
            group[chosen] = -1
            if one.velocity_A_per_fs is not None:
                velocity[chosen] = np.asarray(one.velocity_A_per_fs) / units.FEMTOSECOND
        else:
            thermal.append(one)
            pushed = one.force_eV_per_A is not None
            forces.append(np.asarray(one.force_eV_per_A if pushed else np.zeros(3), float))
            group[chosen] = len(thermal) - 1
    if not (group >= 0).any():
        raise ValueError("every atom is fixed or driven: nothing is left to move")
    if not (group == 0).any():  # named groups hold everything
        del thermal[0], forces[0]
        group = np.where(group > 0, group - 1, group)
    return Partition(tuple(thermal), group, velocity, np.stack(forces))
