"""NumPy archives: sGDML's, rMD17's, and arrays under plain names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources.arrays import records
from allegro_jax.data.units import ASE_UNITS, KCAL_MOL, Units, parse_unit

# Names that only sGDML (MD17 and its kin) and rMD17 use: their energies are in kcal/mol.
_SGDML = {"R", "E", "z"}
_RMD17 = {"coords", "energies", "nuclear_charges"}


def read(path: Path) -> Iterator[Record]:
    """Frames of an .npz file.

    Raises:
        DataError: arrays that are missing, do not go together, or have an unknown unit.
    """
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    yield from records(arrays, _units(arrays))


def _units(arrays: dict[str, np.ndarray]) -> Units:
    own = KCAL_MOL if set(arrays) >= _SGDML or set(arrays) >= _RMD17 else ASE_UNITS
    values = {"energy": own.energy, "length": own.length}
    for name, quantity in (("e_unit", "energy"), ("r_unit", "length")):
        if name in arrays:
            text = arrays[name].item()
            text = text.decode() if isinstance(text, bytes) else str(text)
            try:
                values[quantity] = parse_unit(text, quantity)
            except ValueError as error:
                raise DataError(f"{name}: {error}") from None
    return Units(**values)
