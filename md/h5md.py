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
from md.trajectory import TrajectorySettings

SUFFIX = ".h5md"

KILOJOULE_PER_MOLE = 1e3 / (6.02214076e23 * 1.602176634e-19)
"""eV."""

_CHUNK_BYTES = 2**18  # of a dataset; whole frames at least
_PARTICLES = "particles/trajectory"


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
        series = self._series(frames)
        if "h5md" not in self._file:
            self._begin(frames[0], series)
        times = self._file[f"{_PARTICLES}/position"]
        _append(times["step"], np.asarray([atoms.info["step"] for atoms in frames]))
        _append(times["time"], np.asarray([atoms.info["time_fs"] for atoms in frames], float))
        for name, (values, _) in series.items():
            _append(self._file[f"{name}/value"], values)

    def close(self) -> None:
        self._file.close()

    def _series(self, frames: Sequence[Atoms]) -> dict[str, tuple[np.ndarray, str]]:
        """What changes with time: name of the element → values and unit; the position first."""
        precision = str(self._settings.digits)
        chosen = [self._settings.select(atoms) for atoms in frames]
        series = {
            f"{_PARTICLES}/position": ([a.positions for a in chosen], precision, "Angstrom"),
            f"{_PARTICLES}/box/edges": ([a.cell.array for a in frames], "float64", "Angstrom"),
        }
        if self._settings.velocities:
            velocities = [a.get_velocities() * units.FEMTOSECOND for a in chosen]
            series[f"{_PARTICLES}/velocity"] = (velocities, precision, "Angstrom fs-1")
        if self._settings.forces:
            forces = [a.get_forces() / KILOJOULE_PER_MOLE for a in chosen]
            series[f"{_PARTICLES}/force"] = (forces, precision, "kJ mol-1 Angstrom-1")
        for name, energies in (
            ("potential", [a.get_potential_energy() for a in frames]),
            ("kinetic", [a.get_kinetic_energy() for a in frames]),
        ):
            series[f"observables/{name}_energy"] = (energies, "float64", "eV")
        return {name: (np.asarray(v, dtype), unit) for name, (v, dtype, unit) in series.items()}

    def _begin(self, atoms: Atoms, series: dict[str, tuple[np.ndarray, str]]) -> None:
        """All that does not change with time, and empty series for what does."""
        about = self._file.create_group("h5md")
        about.attrs["version"] = np.asarray([1, 1], np.int32)
        about.create_group("author").attrs["name"] = "unknown"
        creator = about.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "allegro-jax md", "1"
        about.create_group("modules/units").attrs["version"] = np.asarray([1, 0], np.int32)

        particles = self._file.create_group(_PARTICLES)
        box = particles.create_group("box")
        box.attrs["dimension"] = np.int32(3)
        box.attrs["boundary"] = ["periodic" if p else "none" for p in atoms.pbc]
        chosen = self._settings.atoms
        ids = np.arange(len(atoms)) if chosen is None else np.asarray(chosen)
        particles.create_dataset("id", data=ids.astype(np.int64))
        numbers = atoms.numbers[ids]
        elements = {chemical_symbols[z]: int(z) for z in np.unique(numbers)}
        kind = h5py.enum_dtype(elements, basetype=np.int32)
        particles.create_dataset("species", data=numbers.astype(np.int32), dtype=kind)
        mass = particles.create_dataset("mass", data=atoms.get_masses()[ids])
        mass.attrs["unit"] = "u"

        steps = times = None
        for name, (values, unit) in series.items():
            group = self._file.create_group(name)
            value = _growing(group, "value", values.shape[1:], values.dtype)
            value.attrs["unit"] = unit
            if steps is None:
                steps = _growing(group, "step", (), np.dtype(np.int64))
                times = _growing(group, "time", (), np.dtype(float))
                times.attrs["unit"] = "fs"
            else:
                group["step"], group["time"] = steps, times  # hard links


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
    rows = max(1, 2**24 // (source.dtype.itemsize * max(1, int(np.prod(source.shape[1:])))))
    for start in range(0, source.shape[0], rows):
        _append(target, source[start : start + rows])


def _growing(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    rows = int(np.clip(_CHUNK_BYTES // (dtype.itemsize * int(np.prod(shape))), 1, 256))
    return group.create_dataset(
        name, (0, *shape), dtype, maxshape=(None, *shape), chunks=(rows, *shape)
    )


def _append(dataset: h5py.Dataset, values: np.ndarray) -> None:
    start = dataset.shape[0]
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values
