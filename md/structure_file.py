"""Structures to start from: all that ASE reads, and LAMMPS data files with their elements named."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

_LAMMPS_DATA = "lammps-data"
_HEADER_LINES = 100
_MASS_TOLERANCE = 0.01  # relative; elements are farther apart, isotopes mostly too


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    species: Mapping[int, str] | None = None,
    frame: int | None = None,
) -> Atoms:
    """The structure in a file; of several, the last, or the one that is asked for.

    Args:
        path: the file.
        format: as ASE names it, where its name and content do not tell. LAMMPS data files
            (``"lammps-data"``) are recognised by their header, and taken to be in ``units metal``.
        species: elements of the types in a LAMMPS data file, ``{1: "Li", 2: "O"}``. Otherwise they
            follow from its type labels or its masses.
        frame: which of several structures, counted from 0.

    Raises:
        ValueError: if the file or the frame is absent, unreadable or empty, or leaves an element
            open; one line that names the file and how to mend it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if frame is not None and frame < 0:
        raise ValueError(f"frames are counted from 0: {frame} is none of {path}")
    if format == _LAMMPS_DATA or (format is None and _is_lammps_data(path)):
        if frame:
            raise ValueError(f"{path}: a LAMMPS data file has no frame {frame}, it holds one")
        return _read_lammps_data(path, species)
    if species is not None:
        raise ValueError(
            f"{path} is not a LAMMPS data file, so its types cannot be given elements: leave out "
            "species, or say format='lammps-data'"
        )
    return _read_by_ase(path, format, frame)


def _read_by_ase(path: Path, format: str | None, frame: int | None = None, **options: Any) -> Atoms:
    hint = "" if format is not None else "; if ASE knows its format, name it (--format or format=)"
    try:
        index = -1 if frame is None else frame
        atoms = ase.io.read(path, index=index, format=format, **options)
    except Exception as error:  # ASE's readers raise what they like
        if frame is not None and isinstance(error, IndexError | StopIteration):
            raise ValueError(f"{path} has no frame {frame} (counted from 0)") from error
        words = str(error) or type(error).__name__
        raise ValueError(f"{path} cannot be read by ASE ({words}){hint}") from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise ValueError(f"{path} holds no atoms{hint}")
    return atoms


def _is_lammps_data(path: Path) -> bool:
    """Whether the first lines say how many atoms there are and where the box ends."""
    with path.open("rb") as file:
        header = b"".join(islice(file, 1, _HEADER_LINES))  # the first line is a comment
    return bool(
        re.search(rb"^\s*\d+\s+atoms\b", header, re.M)
        and re.search(rb"^\s*\S+\s+\S+\s+xlo\s+xhi\b|\bavec\b", header, re.M)
    )


def _read_lammps_data(path: Path, species: Mapping[int, str] | None) -> Atoms:
    text = path.read_text(encoding="utf-8", errors="replace")
    count = re.search(r"^\s*(\d+)\s+atom\s+types\b", text, re.M)
    kinds = range(1, int(count.group(1)) + 1 if count else 1)
    labels = _by_type(_section(text, "Atom Type Labels"))
    if species is None and labels and all(label in atomic_numbers for label in labels.values()):
        species = labels
    if species is None:
        numbers = _numbers_from_masses(path, _by_type(_section(text, "Masses")))
    else:
        unknown = sorted({s for s in species.values() if atomic_numbers.get(s, 0) < 1})
        if unknown:
            raise ValueError(f"{path}: species names {', '.join(unknown)}, which is no element")
        numbers = {kind: atomic_numbers[symbol] for kind, symbol in species.items()}
    missing = [str(kind) for kind in kinds if kind not in numbers]
    if missing:
        raise ValueError(
            f"{path} does not say which elements its types {', '.join(missing)} are: give species "
            f'for all types, such as {{1: "Li", 2: "O"}}'
        )
    return _read_by_ase(path, _LAMMPS_DATA, Z_of_type=numbers)


def _numbers_from_masses(path: Path, masses: Mapping[int, str]) -> dict[int, int]:
    """Atomic number of each type that has a mass."""
    numbers = {}
    for kind, word in masses.items():
        mass = float(word)
        number = int(np.argmin(np.abs(atomic_masses[1:] - mass))) + 1
        if abs(atomic_masses[number] / mass - 1) > _MASS_TOLERANCE:
            raise ValueError(
                f"{path}: the mass {word} of type {kind} is that of no element (nearest: "
                f'{chemical_symbols[number]}): give species, such as {{{kind}: "Li"}}'
            )
        numbers[kind] = number
    return numbers


def _section(text: str, title: str) -> list[str]:
    """Lines of a section: from its title and a blank line to the next line that begins none."""
    match = re.search(rf"^[ \t]*{title}[^\n]*\n\s*\n((?:[ \t]*\d+[^\n]*\n?)+)", text, re.M)
    return [] if match is None else match.group(1).splitlines()


def _by_type(lines: list[str]) -> dict[int, str]:
    """First word behind each type number."""
    return {int(words[0]): words[1] for line in lines if len(words := line.split()) > 1}
