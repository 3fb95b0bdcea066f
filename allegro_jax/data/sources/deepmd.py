"""Systems of DeePMD-kit: a folder with type.raw, and the arrays of its frames in set.*."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources.arrays import records
from allegro_jax.data.units import ASE_UNITS

# file -> what the array is; the virial is V times the pressure tensor, −V·stress, in eV
_ARRAYS = {
    "coord": "positions",
    "box": "cell",
    "energy": "energy",
    "force": "forces",
    "virial": "virial",
}


def is_system(path: Path) -> bool:
    """Whether a folder is a system of DeePMD-kit."""
    return (path / "type.raw").is_file()


def read(path: Path) -> Iterator[Record]:
    """Frames of all sets, in the order of their names; of the text files without sets.

    Raises:
        DataError: a file is missing, or a type is no chemical element.
    """
    types = np.loadtxt(path / "type.raw", dtype=int, ndmin=1)
    elements = _elements(path)
    if types.max(initial=0) >= len(elements):
        raise DataError(f"type_map.raw: {len(elements)} names for types up to {types.max()}")
    periodic = not (path / "nopbc").exists()
    folders = sorted(path.glob("set.*")) or [path]
    for folder in folders:
        arrays = _load(folder)
        for needed in ("positions", "cell") if periodic else ("positions",):
            if needed not in arrays:
                file = {meant: name for name, meant in _ARRAYS.items()}[needed]
                hint = "; without periodic boundaries, put a file nopbc beside type.raw"
                raise DataError(f"{folder.name}: no {file}.npy{hint if needed == 'cell' else ''}")
        if not periodic:
            arrays.pop("cell", None)
        arrays["numbers"] = elements[types]
        if (mixed := folder / "real_atom_types.npy").is_file():
            chosen = np.load(mixed)  # −1: no atom
            arrays["numbers"] = np.where(chosen >= 0, elements[chosen], 0)
        yield from records(arrays, ASE_UNITS, periodic=periodic)


def _load(folder: Path) -> dict[str, np.ndarray]:
    if files := sorted(folder.glob("*.npy")):
        loaded = {file.stem: np.load(file, mmap_mode="r") for file in files}
    else:
        loaded = {
            name: np.loadtxt(folder / f"{name}.raw", ndmin=2)
            for name in _ARRAYS
            if (folder / f"{name}.raw").is_file()
        }
    return {_ARRAYS.get(name, name): array for name, array in loaded.items()}


def _elements(path: Path) -> np.ndarray:
    """Atomic number of each type."""
    file = path / "type_map.raw"
    if not file.is_file():
        raise DataError(f"{file.name}: missing; write the chemical symbol of each type into it")
    names = file.read_text().split()
    for name in names:
        if name not in atomic_numbers:
            raise DataError(f"{file.name}: {name!r} is no chemical symbol")
    return np.asarray([atomic_numbers[name] for name in names])
