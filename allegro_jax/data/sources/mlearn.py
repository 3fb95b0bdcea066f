"""The JSON files of mlearn (Zuo et al., J. Phys. Chem. A 124, 731 (2020)), in eV and Å."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.data import atomic_numbers

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError

# "virial_stress" is VASP's, in kbar and positive under compression, as xx yy zz xy yz xz
_STRESS = -0.1 * units.GPa
_VOIGT = (0, 1, 2, 4, 5, 3)  # which of them are xx yy zz yz xz xy


def read(path: Path) -> Iterator[Record]:
    """The frames of a file: a list of structures, as pymatgen writes them, with their labels.

    Raises:
        DataError: a file that is not as mlearn's are.
    """
    try:
        entries = json.loads(path.read_text())
        for entry in entries:
            yield _record(entry)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"not a file of mlearn ({type(error).__name__}: {error})") from None


def _record(entry: Mapping[str, Any]) -> Record:
    structure, labels = entry["structure"], dict(entry["outputs"])
    sites = structure["sites"]
    stress = labels.pop("virial_stress", None)
    if stress is not None:
        labels["stress"] = _STRESS * np.asarray(stress, float)[list(_VOIGT)]
    return Record(
        numbers=np.asarray([atomic_numbers[site["species"][0]["element"]] for site in sites]),
        positions=np.asarray([site["xyz"] for site in sites], float),
        cell=np.asarray(structure["lattice"]["matrix"], float),
        pbc=np.ones(3, bool),
        labels=labels | {"group": entry.get("group")},
    )
