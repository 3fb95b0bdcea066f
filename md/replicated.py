"""A small structure repeated along its cell: billions of atoms that need not all be made."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.cell import Cell

from md.cells import Periodicity


@dataclasses.dataclass(frozen=True, eq=False)
class Replicated:
    """What ``unit.repeat(repeats)`` of ASE is, its atoms in the same order.

    Domains make their own atoms of it, each on its device (:mod:`md.domains.crystal`); everything
    else makes them all.

    Attributes:
        unit: the structure that is repeated.
        repeats: [3] how often, along each vector of its cell.

    Raises:
        ValueError: for repeats that make no sense.
    """

    unit: Atoms
    repeats: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats", tuple(int(n) for n in self.repeats))
        if len(self.repeats) != 3 or min(self.repeats) < 1:
            raise ValueError(f"repeats must be three numbers of at least 1, not {self.repeats}")
        for d, (repeat, vector) in enumerate(zip(self.repeats, self.unit.cell, strict=True)):
            if repeat > 1 and not np.any(vector):
                raise ValueError(f"the cell has no vector {'abc'[d]} to repeat the structure along")

    def __len__(self) -> int:
        return len(self.unit) * int(np.prod(self.repeats, dtype=np.int64))

    @property
    def pbc(self) -> np.ndarray:
        return self.unit.pbc

    @property
    def cell(self) -> Cell:
        return Cell(np.asarray(self.repeats)[:, None] * self.unit.cell.array)

    def atoms(self) -> Atoms:
        """All atoms."""
        return self.unit.repeat(self.repeats)


Structure = Atoms | Replicated


def unit_of(structure: Structure) -> Atoms:
    """The atoms that all others are copies of."""
    return structure.unit if isinstance(structure, Replicated) else structure


def atoms_of(structure: Structure) -> Atoms:
    """All atoms."""
    return structure.atoms() if isinstance(structure, Replicated) else structure


def some_of(structure: Structure, which: np.ndarray) -> Atoms:
    """Atoms of a structure: elements, masses, cell; not where they are."""
    unit = unit_of(structure)
    own = unit[which % len(unit)]
    found = Atoms(own.numbers, cell=structure.cell, pbc=structure.pbc)
    if unit.has("initial_masses") or unit.has("masses"):
        found.set_masses(own.get_masses())
    return found


def is_simple(structure: Structure) -> bool:
    """Whether it repeats only along directions that do, and holds no atom fast."""
    if not isinstance(structure, Replicated):
        return True
    along = all(n == 1 or p for n, p in zip(structure.repeats, structure.pbc, strict=True))
    return along and not structure.unit.constraints


def copies_of(structure: Structure) -> int:
    """How many copies of the unit there are."""
    return len(structure) // len(unit_of(structure))


def symbol_of(structure: Structure, atom: int) -> str:
    unit = unit_of(structure)
    return unit.symbols[atom % len(unit)]


def periodicity(structure: Structure) -> Periodicity:
    a, b, c = (bool(p) for p in structure.pbc)
    return a, b, c
