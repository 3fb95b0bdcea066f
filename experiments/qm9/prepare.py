"""QM9 as extended XYZ: 40,000 molecules to train, 2,000 to validate, 3,894 to test.

The split is the one suggested with the data: molecules in the order of their numbers, permuted with
seed 0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

DATA = Path(__file__).resolve().parent / "data"


def main() -> None:
    if (DATA / "atomrefs.xyz").is_file():  # the last that is written
        return
    data = np.load(DATA / "qm9.npz")
    sizes = data["n_atoms"].astype(np.int64)
    ends = np.cumsum(sizes)[:-1]
    numbers = np.split(data["Z"], ends)
    positions = np.split(data["pos_1e5A"].astype(float) / 1e5, ends)
    order = np.argsort(data["qm9_id"])[np.random.default_rng(0).permutation(len(sizes))]
    parts = np.split(order, [40_000, 42_000])
    for name, part in zip(("train", "valid", "test"), parts, strict=True):
        images = []
        for molecule in part:
            atoms = Atoms(numbers[molecule], positions[molecule])
            energy = float(data["U0_eV"][molecule])
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
            images.append(atoms)
        write(DATA / f"{name}.xyz", images, format="extxyz")
    write_references(json.loads((DATA / "atomrefs.json").read_text())["Z->E"]["U0"])


def write_references(energies: dict[str, float]) -> None:
    """Single-atom frames with the reference energies of QM9, by atomic number."""
    atoms = []
    for number, energy in energies.items():
        atom = Atoms([int(number)])
        atom.calc = SinglePointCalculator(atom, energy=float(energy))
        atoms.append(atom)
    write(DATA / "atomrefs.xyz", atoms, format="extxyz")


if __name__ == "__main__":
    main()
