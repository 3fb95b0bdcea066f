"""Frames of any size, a part of their atoms at a time.

A run on domains may have more atoms than a host can hold as :class:`ase.Atoms`. What it writes are
parts: consecutive atoms, each a small ``Atoms`` with the cell, the energies and the ``info`` of the
whole.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the atoms of a frame.

    Attributes:
        atoms: them, with momenta; ``step`` and ``time_fs`` in ``info``; a calculator with their
            forces, and with energy and stress of the whole.
        first: the place of the first of them in the frame.
        total: how many atoms the frame has.
        kinetic_eV: kinetic energy of the whole, where it is known.
    """

    atoms: Atoms
    first: int
    total: int
    kinetic_eV: float = math.nan

    @property
    def begins(self) -> bool:
        return self.first == 0

    @property
    def ends(self) -> bool:
        return self.first + len(self.atoms) == self.total


def whole(atoms: Atoms) -> list[Part]:
    """A frame that is its only part."""
    return [Part(atoms, 0, len(atoms))]


def joined(parts: Iterable[Part]) -> Atoms:
    """The frame as a whole."""
    pieces = [part.atoms for part in parts]
    first = pieces[0]
    if len(pieces) == 1:
        return first
    found = Atoms(cell=first.cell, pbc=first.pbc)
    for name in first.arrays:
        found.arrays[name] = np.concatenate([piece.arrays[name] for piece in pieces])
    found.info = dict(first.info)
    results = dict(first.calc.results)
    if "forces" in results:
        results["forces"] = np.concatenate([piece.calc.results["forces"] for piece in pieces])
    found.calc = SinglePointCalculator(found, **results)
    return found
