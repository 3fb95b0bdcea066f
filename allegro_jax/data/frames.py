"""Labelled structures: reading them from files, and finding what is wrong with them."""

from __future__ import annotations

import dataclasses
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Bool, Float, Int

from md.species import species_indices

# Two nuclei closer than this are a defect of the file, not chemistry (H2 is 0.74 Å).
OVERLAP = 0.2
# Larger forces come from failed calculations; they would dominate any loss.
ABSURD_FORCE = 1000.0


class DataError(ValueError):
    """A file or frame that cannot be used; the message says which, why, and how to mend it."""


@dataclasses.dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a file (in ASE's ``info``, ``arrays`` or calculator results)."""

    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"


DEFAULT_KEYS = LabelKeys()


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
        source, index: the file, and the frame's place in it counted from 0.
    """

    numbers: Int[np.ndarray, " atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    cell: Float[np.ndarray, "3 3"]
    pbc: Bool[np.ndarray, " 3"]
    energy: float | None = None
    forces: Float[np.ndarray, "atoms 3"] | None = None
    stress: Float[np.ndarray, "3 3"] | None = None
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


def frame_from_atoms(
    atoms: ase.Atoms, keys: LabelKeys = DEFAULT_KEYS, source: str = "", index: int = 0
) -> Frame:
    """The structure and labels of an ``ase.Atoms``, wherever ASE has put them.

    Raises:
        DataError: a label has a wrong shape or is not numeric.
    """
    where = f"{source or 'structure'}, frame {index}"

    def label(name: str, key: str, shapes: dict[tuple[int, ...], Any]) -> Any:
        value = _find_label(atoms, key)
        if value is None:
            return None
        try:
            value = np.asarray(value, float)
        except (TypeError, ValueError):
            raise DataError(f"{where}: {name} (key {key!r}) is not numeric: {value!r}") from None
        if value.shape not in shapes:
            expected = " or ".join(str(shape) for shape in shapes)
            raise DataError(
                f"{where}: {name} (key {key!r}) has the shape {value.shape}, expected {expected}; "
                f"correct the file, or give another data.{name}_key"
            )
        convert = shapes[value.shape]
        return convert(value)

    count = len(atoms)
    return Frame(
        numbers=np.asarray(atoms.numbers, np.int64),
        positions=np.asarray(atoms.positions, float),
        cell=np.asarray(atoms.cell.array, float),
        pbc=np.asarray(atoms.pbc, bool),
        energy=label("energy", keys.energy, {(): float, (1,): lambda value: float(value[0])}),
        forces=label("forces", keys.forces, {(count, 3): np.asarray}),
        stress=label(
            "stress",
            keys.stress,
            {(6,): voigt_6_to_full_3x3_stress, (9,): lambda v: v.reshape(3, 3), (3, 3): np.asarray},
        ),
        source=source,
        index=index,
    )


def read_frames(
    paths: str | Path | Sequence[str | Path],
    keys: LabelKeys = DEFAULT_KEYS,
    *,
    species: Sequence[str] | None = None,
    require_labels: bool = True,
) -> list[Frame]:
    """Frames of one or several files in any format ASE reads, checked.

    Args:
        paths: files, also compressed (``.xyz.gz``).
        keys: names of the labels.
        species: chemical symbols that may occur; ``None`` for any.
        require_labels: refuse frames that carry no label at all.

    Raises:
        DataError: naming file, frame (counted from 0) and field.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    frames: list[Frame] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        try:
            images = _read_images(path)
        except Exception as error:  # ASE's readers raise what they like
            detail = str(error) or type(error).__name__
            raise DataError(f"{path}: ASE cannot read it ({detail})") from error
        if not images:
            raise DataError(f"{path}: holds no frames")
        for index, atoms in enumerate(images):
            frame = frame_from_atoms(atoms, keys, str(path), index)
            check_frame(frame, species=species)
            if require_labels and frame.energy is None and frame.forces is None:
                raise DataError(_no_labels(frame, atoms, keys))
            frames.append(frame)
    return frames


def check_frame(frame: Frame, *, species: Iterable[str] | None = None) -> None:
    """Refuse what can only be a mistake.

    Raises:
        DataError: NaN or infinite numbers, a periodic frame without volume, forces above
            1000 eV/Å, a stress without a cell, a species that is not known.
    """
    where = frame.where
    for name in ("positions", "cell", "energy", "forces", "stress"):
        value = getattr(frame, name)
        if value is not None and not np.all(np.isfinite(value)):
            raise DataError(f"{where}: {name}: NaN or infinite; remove the frame or recompute it")
    if (frame.numbers < 1).any():
        raise DataError(f"{where}: species: 'X' is no element; correct the chemical symbols")
    if species is not None:
        species_of(frame, species)
    if frame.pbc.any():
        periodic = frame.cell[frame.pbc]
        if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
            raise DataError(
                f"{where}: cell: periodic along {_directions(frame.pbc)}, but its lattice "
                'vectors span no volume; give Lattice="..." or set pbc="F F F"'
            )
    if frame.stress is not None and frame.volume < 1e-6 and np.abs(frame.stress).max() > 0:
        raise DataError(
            f"{where}: stress: given for a frame without volume; give its Lattice and pbc, or "
            "remove the stress"
        )
    if frame.forces is not None and len(frame):
        magnitudes = np.linalg.norm(frame.forces, axis=1)
        worst = int(magnitudes.argmax())
        if magnitudes[worst] > ABSURD_FORCE:
            raise DataError(
                f"{where}: forces: {magnitudes[worst]:.4g} eV/Å on atom {worst}, above "
                f"{ABSURD_FORCE:g}; check the units (eV/Å), or remove the frame"
            )


def check_distances(
    frame: Frame,
    centre: Int[np.ndarray, " pairs"],
    neighbour: Int[np.ndarray, " pairs"],
    distances: Float[np.ndarray, " pairs"],
) -> None:
    """Refuse overlapping atoms, given the frame's neighbour pairs.

    Raises:
        DataError: two atoms closer than 0.2 Å.
    """
    if len(distances) and distances.min() < OVERLAP:
        pair = int(distances.argmin())
        raise DataError(
            f"{frame.where}: positions: atoms {centre[pair]} and {neighbour[pair]} are only "
            f"{distances[pair]:.3g} Å apart; check the units (Å) and the cell, or remove the frame"
        )


def isolated_atom_energies(frames: Iterable[Frame]) -> dict[str, float]:
    """Energies (eV) of the single-atom frames, by chemical symbol; the first of each counts."""
    energies: dict[str, float] = {}
    for frame in frames:
        if frame.is_isolated_atom and frame.energy is not None:
            energies.setdefault(frame.symbols[0], frame.energy)
    return energies


def _read_images(path: Path) -> list[ase.Atoms]:
    if path.name.endswith(("xyz.gz", "extxyz.gz")):
        # ASE seeks back and forth in the file, which is slow in a compressed one
        with gzip.open(path, "rt") as file:
            return list(ase.io.iread(io.StringIO(file.read()), index=":", format="extxyz"))
    return list(ase.io.iread(path, index=":"))


def _find_label(atoms: ase.Atoms, key: str) -> Any:
    # ASE's readers move the names it knows ("energy", "forces", "stress") into a calculator
    results: Mapping[str, Any] = getattr(atoms.calc, "results", None) or {}
    for store in (atoms.info, atoms.arrays, results):
        if store.get(key) is not None:
            return store[key]
    return None


def _no_labels(frame: Frame, atoms: ase.Atoms, keys: LabelKeys) -> str:
    results = getattr(atoms.calc, "results", None) or {}
    there = [*atoms.info, *(set(atoms.arrays) - {"numbers", "positions"}), *results]
    found = f"it holds {', '.join(map(repr, there))}" if there else "it holds positions alone"
    return (
        f"{frame.where}: labels: neither an energy (key {keys.energy!r}) nor forces (key "
        f"{keys.forces!r}); {found}; set data.energy_key and data.forces_key to the names used"
    )


def _directions(pbc: np.ndarray) -> str:
    return ", ".join(name for name, periodic in zip("abc", pbc, strict=True) if periodic)


def species_of(frame: Frame, species: Sequence[str]) -> np.ndarray:
    """Species index of each atom of a frame.

    Raises:
        DataError: a species that the model does not know.
    """
    mend = "; remove the frame or train a model with it"
    return species_indices(frame.symbols, species, frame.where, mend, DataError)
