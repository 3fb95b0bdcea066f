"""Labelled structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import ase
import numpy as np
from jaxtyping import Bool, Float, Int

from md.species import species_indices


class DataError(ValueError):
    """A file or frame that cannot be used; the message says which, why, and how to mend it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """One structure and its labels. Everything is float64 and in eV and Å; labels may be absent.

    Attributes:
        numbers: atomic numbers.
        positions: Å.
        cell: rows are the lattice vectors, Å; zero where there is none.
        pbc: which lattice directions are periodic.
        energy: eV, of the whole frame.
        forces: eV/Å.
        stress: eV/Å³ in ASE's sign, (1/V) dE/dε; used where ``has_volume``.
        weight: what the frame's errors count in the loss.
        source, index: the file, and the frame's place in it counted from 0.
    """

    numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, " 3"]
    energy: float | None = None
    forces: Float[np.ndarray, "atoms 3"] | None = None
    stress: Float[np.ndarray, "3 3"] | None = None
    weight: float = 1.0
    source: str = ""
    index: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(ase.data.chemical_symbols[number] for number in self.numbers)

    @property
    def volume(self) -> float:
        """Å³; 0 without a full set of lattice vectors."""
        return abs(float(np.linalg.det(self.cell)))

    @property
    def has_volume(self) -> bool:
        """Whether a stress is defined: periodic in all directions, with a volume."""
        return bool(self.pbc.all()) and self.volume > 0

    @property
    def where(self) -> str:
        """For messages: the file and the frame."""
        return f"{self.source or 'structure'}, frame {self.index}"

    @property
    def is_isolated_atom(self) -> bool:
        return len(self) == 1 and not self.pbc.any()

    def to_atoms(self) -> ase.Atoms:
        return ase.Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)


def isolated_atom_energies(frames: Iterable[Frame]) -> dict[str, float]:
    """Energies (eV) of the single-atom frames, by chemical symbol; the first of each counts."""
    energies: dict[str, float] = {}
    for frame in frames:
        if frame.is_isolated_atom and frame.energy is not None:
            energies.setdefault(frame.symbols[0], frame.energy)
    return energies


def species_of(frame: Frame, species: Sequence[str]) -> np.ndarray:
    """Species index of each atom of a frame.

    Raises:
        DataError: a species that the model does not know.
    """
    mend = "; remove the frame or train a model with it"
    return species_indices(frame.symbols, species, frame.where, mend, DataError)
