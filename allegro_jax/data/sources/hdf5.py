"""HDF5: arrays over frames in the file or in groups of it, and SPICE's layout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources.arrays import ENERGY, FORCES, GRADIENT, POSITIONS, first_of, records
from allegro_jax.data.units import ASE_UNITS, HARTREE_BOHR, Units, parse_unit

# Names in lower case, as SPICE's attributes have them.
_LOWER = {"hartree": "Hartree", "bohr": "Bohr", "angstrom": "Angstrom", "ev": "eV"}


def read(path: Path, subset: str | None = None) -> Iterator[Record]:
    """Frames of all groups of a file, in the order of their names.

    Args:
        path: the file.
        subset: only groups whose text ``subset`` begins so, as SPICE's have it.

    Raises:
        DataError: nowhere in the file are there positions, or arrays do not go together.
    """
    with h5py.File(path, "r") as file:
        yielded = False
        for group in _groups(file):
            if subset is not None and not _subset(group).startswith(subset):
                continue
            arrays = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
            yielded = True
            try:
                yield from records(arrays, _units(arrays))
            except DataError as error:
                raise DataError(f"group {group.name}: {error}") from None
        if not yielded:
            raise DataError(
                f"no group holds positions (one of {', '.join(POSITIONS)}); see the "
                "layout in docs/data.md"
            )


def _subset(group: h5py.Group) -> str:
    return group["subset"].asstr()[0] if "subset" in group else ""


def _groups(group: h5py.Group) -> Iterator[h5py.Group]:
    """Groups that hold positions, one inside another."""
    if first_of(group, POSITIONS):
        yield group
    for name in group:
        if isinstance(inner := group[name], h5py.Group):
            yield from _groups(inner)


def _units(arrays: dict[str, Any]) -> Units:
    """What the attribute ``units`` of the arrays says; SPICE's and ASE's units without."""
    spice = "conformations" in arrays and "dft_total_energy" in arrays
    own = HARTREE_BOHR if spice else ASE_UNITS
    values: dict[str, float] = {"energy": own.energy, "length": own.length}
    for quantity, names in (
        ("length", POSITIONS),
        ("energy", ENERGY),
        ("forces", (*FORCES, *GRADIENT)),
        ("stress", ("stress",)),
    ):
        name = first_of(arrays, names)
        text = None if name is None else arrays[name].attrs.get("units")
        if text is not None:
            text = text.decode() if isinstance(text, bytes) else str(text)
            text = re.sub(r"[a-z]+", lambda word: _LOWER.get(word[0], word[0]), text)
            try:
                values[quantity] = parse_unit(text, quantity)
            except ValueError as error:
                raise DataError(f"units of {name}: {error}") from None
    return Units(**values)
