"""H5MD: trajectories in HDF5, read by MDAnalysis, VMD, pyh5md and h5py.

Format 1.1 (de Buyl, Colberg & Höfling, Comput. Phys. Commun. 185, 1546, 2014; nongnu.org/h5md),
with its module of units. A file holds::

    /particles/trajectory/box/edges     [frames, 3, 3] Å, rows are the lattice vectors
    /particles/trajectory/position      [frames, atoms, 3] Å, on the continuous path
    /particles/trajectory/velocity      [frames, atoms, 3] Å/fs       on request
    /particles/trajectory/force         [frames, atoms, 3] kJ/mol/Å   on request
    /particles/trajectory/species       [atoms] atomic numbers, an enumeration of the elements
    /particles/trajectory/mass          [atoms] amu
    /particles/trajectory/id            [atoms] index of each atom in the simulation
    /observables/potential_energy       [frames] eV, of all atoms
    /observables/kinetic_energy         [frames] eV, of all atoms

each element that changes with time being a group of ``value``, ``step`` and ``time`` (fs), of
which the last two are shared. Forces are the one quantity that is not in eV: readers know the unit
kJ/mol/Å, and not eV/Å.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from md import units
from md.durable import replacing
from md.parts import Part
from md.trajectory import TrajectorySettings

SUFFIX = ".h5md"

KILOJOULE_PER_MOLE = 1e3 / (6.02214076e23 * 1.602176634e-19)
"""eV."""

_CHUNK_BYTES = 2**18  # of a dataset; whole frames at least, but for
_CHUNK_ATOMS = 2**20  # more atoms than these
_PARTICLES = "particles/trajectory"

Series = dict[str, tuple[np.ndarray, str]]  # by the name of the element: values and unit


class H5MDWriter:
    """Writes one file; it is readable only when closed.

    Args:
        path: the file, overwritten.
        settings: which atoms and arrays, and the precision of what there is per atom. Edges, times
            and energies are float64.
    """

    def __init__(self, path: Path, settings: TrajectorySettings) -> None:
        self._file = h5py.File(path, "w")
        self._settings = settings

    def write(self, frames: Sequence[Atoms]) -> None:
        """Append frames of all atoms, as described in :class:`md.trajectory.Trajectory`."""
        if not frames:
            return
        of_atoms = self._of_atoms([self._settings.select(atoms) for atoms in frames])
        of_frames = self._of_frames(frames, [atoms.get_kinetic_energy() for atoms in frames])
        if "h5md" not in self._file:
            atoms, chosen = frames[0], self._settings.atoms
            ids = np.arange(len(atoms)) if chosen is None else np.asarray(chosen)
            numbers = atoms.numbers[ids]
            self._begin(of_atoms | of_frames, len(ids), np.unique(numbers), atoms.pbc)
            self._name_atoms(slice(None), ids, numbers, atoms.get_masses()[ids])
        self._append_times(frames)
        for name, (values, _) in (of_atoms | of_frames).items():
            _append(self._file[f"{name}/value"], values)

    def write_part(self, part: Part) -> None:
        """Append the next part of a frame, of those atoms alone that are kept."""
        atoms, here = part.atoms, slice(part.first, part.first + len(part.atoms))
        of_atoms = self._of_atoms([self._settings.reduced(atoms)])
        if part.begins:
            of_frame = self._of_frames([atoms], [part.kinetic_eV])
            if "h5md" not in self._file:  # which elements there are, only later parts may tell
                every = np.arange(1, len(chemical_symbols))
                self._begin(of_atoms | of_frame, part.total, every, atoms.pbc)
            self._append_times([atoms])
            for name, (values, _) in of_frame.items():
                _append(self._file[f"{name}/value"], values)
            for name in of_atoms:
                dataset = self._file[f"{name}/value"]
                dataset.resize(dataset.shape[0] + 1, axis=0)
        for name, (values, _) in of_atoms.items():
            dataset = self._file[f"{name}/value"]
            dataset[dataset.shape[0] - 1, here] = values[0]
        if dataset.shape[0] == 1:
            chosen = self._settings.atoms
            ids = np.arange(here.start, here.stop) if chosen is None else chosen[here]
            self._name_atoms(here, np.asarray(ids), atoms.numbers, atoms.get_masses())

    def close(self) -> None:
        self._file.close()

    def _of_atoms(self, chosen: Sequence[Atoms]) -> Series:
        """What belongs to atoms and changes with time; the position first."""
        precision = str(self._settings.digits)
        series = {"position": ([a.positions for a in chosen], "Angstrom")}
        if self._settings.velocities:
            velocities = [a.get_velocities() * units.FEMTOSECOND for a in chosen]
            series["velocity"] = (velocities, "Angstrom fs-1")
        if self._settings.forces:
            forces = [a.get_forces() / KILOJOULE_PER_MOLE for a in chosen]
            series["force"] = (forces, "kJ mol-1 Angstrom-1")
        return {
            f"{_PARTICLES}/{name}": (np.asarray(values, precision), unit)
            for name, (values, unit) in series.items()
        }

    def _of_frames(self, frames: Sequence[Atoms], kinetic_eV: Sequence[float]) -> Series:
        """What belongs to a frame as a whole."""
        edges = [atoms.cell.array for atoms in frames]
        potential = [atoms.get_potential_energy() for atoms in frames]
        return {
            f"{_PARTICLES}/box/edges": (np.asarray(edges, float), "Angstrom"),
            "observables/potential_energy": (np.asarray(potential, float), "eV"),
            "observables/kinetic_energy": (np.asarray(kinetic_eV, float), "eV"),
        }

    def _append_times(self, frames: Sequence[Atoms]) -> None:
        times = self._file[f"{_PARTICLES}/position"]
        _append(times["step"], np.asarray([atoms.info["step"] for atoms in frames]))
        _append(times["time"], np.asarray([atoms.info["time_fs"] for atoms in frames], float))

    def _begin(self, series: Series, atoms: int, numbers: np.ndarray, pbc: np.ndarray) -> None:
        """All that does not change with time, and empty series for what does.

        Args:
            series: of the first frame, or of its first part.
            atoms: how many are kept.
            numbers: atomic numbers of the elements that there may be.
            pbc: directions that repeat.
        """
        about = self._file.create_group("h5md")
        about.attrs["version"] = np.asarray([1, 1], np.int32)
        about.create_group("author").attrs["name"] = "unknown"
        creator = about.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "allegro-jax md", "1"
        about.create_group("modules/units").attrs["version"] = np.asarray([1, 0], np.int32)

        particles = self._file.create_group(_PARTICLES)
        box = particles.create_group("box")
        box.attrs["dimension"] = np.int32(3)
        box.attrs["boundary"] = ["periodic" if p else "none" for p in pbc]
        particles.create_dataset("id", (atoms,), np.int64)
        elements = {chemical_symbols[z]: int(z) for z in numbers}
        kind = h5py.enum_dtype(elements, basetype=np.int32)
        particles.create_dataset("species", (atoms,), dtype=kind)
        particles.create_dataset("mass", (atoms,), float).attrs["unit"] = "u"

        steps = times = None
        for name, (values, unit) in series.items():
            group = self._file.create_group(name)
            of_one = values.shape[1:]
            if name.startswith(_PARTICLES) and not name.endswith("edges"):
                of_one = (atoms, *of_one[1:])
            value = _growing(group, "value", of_one, values.dtype)
            value.attrs["unit"] = unit
            if steps is None:
                steps = _growing(group, "step", (), np.dtype(np.int64))
                times = _growing(group, "time", (), np.dtype(float))
                times.attrs["unit"] = "fs"
            else:
                group["step"], group["time"] = steps, times  # hard links

    def _name_atoms(
        self, here: slice, ids: np.ndarray, numbers: np.ndarray, masses: np.ndarray
    ) -> None:
        particles = self._file[_PARTICLES]
        particles["id"][here] = ids
        particles["species"][here] = numbers
        particles["mass"][here] = masses


def count(path: Path) -> int:
    """Frames in a file."""
    with h5py.File(path, "r") as file:
        return file[f"{_PARTICLES}/position/step"].shape[0]


def concatenate(paths: Sequence[Path], target: Path, frames: int | None = None) -> None:
    """Write the frames of several files, all alike, into one; the first ``frames`` of them.

    The target appears when it is complete, and may be one of the files.
    """
    with replacing(target) as partial:
        shutil.copyfile(paths[0], partial)
        with h5py.File(partial, "r+") as file:
            series = _growing_datasets(file)
            total = file[series[0]].shape[0]
            for path in paths[1:]:
                with h5py.File(path, "r") as source:
                    for name in series:
                        _copy(source[name], file[name])
                    total += source[series[0]].shape[0]
            if frames is not None and frames < total:
                for name in series:
                    file[name].resize(frames, axis=0)


def _growing_datasets(file: h5py.File) -> list[str]:
    """Names of the datasets that hold one row per frame, each once whatever its links."""
    found: list[str] = []

    def visit(name: str, item: Any) -> None:  # visits each object once
        if isinstance(item, h5py.Dataset) and item.maxshape and item.maxshape[0] is None:
            found.append(name)

    file.visititems(visit)
    return found


def _copy(source: h5py.Dataset, target: h5py.Dataset) -> None:
    """Append all rows of a dataset to another, a few megabytes at a time."""
    start, (frames, *of_one) = target.shape[0], source.shape
    target.resize(start + frames, axis=0)
    atoms = min(of_one[0], _CHUNK_ATOMS) if of_one else 1
    rows = max(1, 2**24 // (source.dtype.itemsize * atoms * max(1, int(np.prod(of_one[1:])))))
    for first in range(0, frames, rows):
        last = min(first + rows, frames)
        if not of_one:
            target[start + first : start + last] = source[first:last]
            continue
        for atom in range(0, of_one[0], atoms):
            some = slice(atom, min(atom + atoms, of_one[0]))
            target[start + first : start + last, some] = source[first:last, some]


def _growing(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    """An empty dataset, a row for each frame; in chunks of several rows, or of part of one."""
    chunk = (min(shape[0], _CHUNK_ATOMS), *shape[1:]) if shape else ()
    rows = int(np.clip(_CHUNK_BYTES // (dtype.itemsize * int(np.prod(chunk))), 1, 256))
    return group.create_dataset(
        name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *chunk)
    )


def _append(dataset: h5py.Dataset, values: np.ndarray) -> None:
    start = dataset.shape[0]
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values
