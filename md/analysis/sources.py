"""Where frames come from: all that ASE reads, H5MD of any program, and folders of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from jaxtyping import Float

from md import structure_file, units
from md.cells import Periodicity
from md.names import TRAJECTORY_FORMATS
from md.trajectory import NAME


class Frame(NamedTuple):
    """Positions in Å, the cell in Å (rows are the lattice vectors), velocities in Å/fs."""

    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "3 3"]
    velocities: Float[np.ndarray, "atoms 3"] | None
    time_fs: float | None


@runtime_checkable
class Source(Protocol):
    """A trajectory that can be read from its beginning as often as needed.

    Attributes:
        path: for messages.
        symbols, masses: of the atoms; amu.
        pbc: directions that repeat.
        continuous: whether positions are known not to jump when an atom leaves the cell.
        notes: what had to be assumed, in words.
    """

    path: Path
    symbols: tuple[str, ...]
    masses: np.ndarray
    pbc: Periodicity
    continuous: bool
    notes: tuple[str, ...]

    def frames(self, start: int, stop: int | None) -> Iterator[tuple[int, Frame]]:
        """Frames with their numbers, from the first up to but without the last."""
        ...


def open_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    species: Mapping[int, str] | None = None,
    structure: str | os.PathLike[str] | None = None,
) -> Source:
    """Find out what a trajectory is.

    Args:
        path: a file, or the folder of a run.
        format: as ASE names it, or ``"h5md"``, where the name of the file does not tell.
        species: elements of the types that the file counts instead (H5MD, LAMMPS dumps).
        structure: a structure with the atoms' elements and masses, for files that have none.

    Raises:
        ValueError: if it is absent, unreadable or empty, or leaves an element open.
    """
    symbols = atoms = None
    if structure is not None:
        atoms = structure_file.read(structure)
        symbols = tuple(atoms.get_chemical_symbols())
    if species is not None:
        unknown = sorted({s for s in species.values() if atomic_numbers.get(s, 0) < 1})
        if unknown:
            raise ValueError(f"species names {', '.join(unknown)}, which is no element")
    sources = [_open_file(file, format, species, symbols, atoms) for file in _files(Path(path))]
    return sources[0] if len(sources) == 1 else _Joined(Path(path), sources)


def _open_file(
    path: Path,
    format: str | None,
    species: Mapping[int, str] | None,
    symbols: tuple[str, ...] | None,
    atoms: Atoms | None,
) -> Source:
    if format == "h5md" or (format is None and path.suffix in (".h5md", ".h5", ".hdf5")):
        from md.analysis.h5md_source import H5MDSource

        return H5MDSource(path, species, symbols, None if atoms is None else atoms.get_masses())
    return ASESource(path, format, species, atoms)


def _files(path: Path) -> list[Path]:
    """The files of a trajectory: one, or the segments of a run that is still going on."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: no such file")
    segments = [
        sorted(path.glob(f"{NAME}/{'[0-9]' * 6}.{suffix}")) for suffix in TRAJECTORY_FORMATS
    ]
    whole = [path / f"{NAME}.{suffix}" for suffix in TRAJECTORY_FORMATS]
    found = [files for files in segments if files]
    found += [[file] for file in whole if file.is_file()]
    if found:
        return found[0]  # where both exist the segments are the truth
    replicas = sorted(one.name for one in path.glob("replica-*"))
    raise ValueError(
        f"{path} holds no trajectory"
        + (f", but replicas: name one of them, such as {path / replicas[0]}" if replicas else "")
    )


class ASESource:
    """A file that ASE reads, frame by frame."""

    continuous = False
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path,
        format: str | None,
        species: Mapping[int, str] | None,
        structure: Atoms | None,
    ) -> None:
        self.path, self._format = path, format
        self._species, self._structure = species, structure
        if species is None and structure is None and _counts_types(path):
            raise ValueError(
                f"{path}: species: a LAMMPS dump without a column element: give the elements of "
                "its types, --species 1=Li 2=O, or --structure FILE"
            )
        read = next(self._read(0, 1), None)
        if read is None:
            raise ValueError(f"{path} holds no frames")
        _, atoms = read
        self._numbers = atoms.numbers
        self.symbols = tuple(atoms.get_chemical_symbols())
        self.masses = atoms.get_masses()
        a, b, c = (bool(p) for p in atoms.pbc)
        self.pbc: Periodicity = (a, b, c)

    def frames(self, start: int, stop: int | None) -> Iterator[tuple[int, Frame]]:
        for number, atoms in self._read(start, stop):
            if not np.array_equal(atoms.numbers, self._numbers):
                raise ValueError(
                    f"{self.path}: frame {number}: species: other atoms than in frame 0, or in "
                    "another order"
                )
            if tuple(atoms.pbc) != self.pbc:
                raise ValueError(
                    f"{self.path}: frame {number}: pbc: other periodic directions than in frame 0"
                )
            velocities = None
            if atoms.has("momenta"):
                velocities = atoms.get_velocities() * units.FEMTOSECOND
            time = atoms.info.get("time_fs")
            yield (
                number,
                Frame(
                    positions=atoms.positions,
                    cell=atoms.cell.array,
                    velocities=velocities,
                    time_fs=None if time is None else float(time),
                ),
            )

    def _read(self, start: int, stop: int | None) -> Iterator[tuple[int, Atoms]]:
        frames = ase.io.iread(self.path, slice(start, stop), self._format)
        number = start
        while True:
            try:
                atoms = next(frames)
            except StopIteration:
                return
            except Exception as error:  # ASE's readers raise what they like
                words_of = str(error) or type(error).__name__
                raise ValueError(
                    f"{self.path}: frame {number} cannot be read by ASE ({words_of}); if ASE knows "
                    "the format, name it (--format or format=)"
                ) from error
            yield number, self._named(atoms, number)
            number += 1

    def _named(self, atoms: Any, number: int) -> Atoms:
        """A frame with the elements that the user has named, and the velocities that it had."""
        if not isinstance(atoms, Atoms) or len(atoms) == 0:
            raise ValueError(f"{self.path}: frame {number} holds no atoms")
        if self._structure is None and self._species is None:
            return atoms
        velocities = atoms.get_velocities() if atoms.has("momenta") else None
        if self._structure is not None:
            if len(atoms) != len(self._structure):
                raise ValueError(
                    f"{self.path}: frame {number}: {len(atoms)} atoms, but the structure has "
                    f"{len(self._structure)}"
                )
            atoms.numbers = self._structure.numbers
            atoms.set_masses(self._structure.get_masses())
        else:
            named = {kind: atomic_numbers[s] for kind, s in (self._species or {}).items()}
            missing = sorted(set(atoms.numbers.tolist()) - set(named))
            if missing:
                raise ValueError(
                    f"{self.path}: frame {number}: species: no element for type {missing[0]}"
                )
            atoms.numbers = np.asarray([named[kind] for kind in atoms.numbers.tolist()])
            atoms.set_masses("defaults")
        if velocities is not None:
            atoms.set_velocities(velocities)
        return atoms


def _counts_types(path: Path) -> bool:
    """Whether a file is a LAMMPS dump that numbers types of atoms and names no elements."""
    with path.open("rb") as file:
        for line in islice(file, 20):
            if line.startswith(b"ITEM: ATOMS"):
                return b"element" not in line.split()
    return False


class _Joined:
    """Files that go on from one another."""

    def __init__(self, path: Path, parts: Sequence[Source]) -> None:
        first = parts[0]
        self.path, self._parts = path, parts
        self.symbols, self.masses, self.pbc = first.symbols, first.masses, first.pbc
        self.continuous = all(part.continuous for part in parts)
        self.notes = first.notes
        if any(part.symbols != first.symbols or part.pbc != first.pbc for part in parts):
            raise ValueError(f"{path}: its segments are not of one run: their atoms differ")

    def frames(self, start: int, stop: int | None) -> Iterator[tuple[int, Frame]]:
        number = 0
        for part in self._parts:
            for _, frame in part.frames(0, None):
                if stop is not None and number >= stop:
                    return
                if number >= start:
                    yield number, frame
                number += 1
