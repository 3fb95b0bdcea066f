"""H5MD files of any program, read frame by frame.

Format 1.1: de Buyl, Colberg & Höfling, Comput. Phys. Commun. 185, 1546 (2014); nongnu.org/h5md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_masses, atomic_numbers

from md.analysis.sources import Frame
from md.cells import Periodicity

_ANGSTROM = {"angstrom": 1.0, "a": 1.0, "å": 1.0, "nm": 10.0, "pm": 0.01, "um": 1e4, "m": 1e10}
_FEMTOSECOND = {"fs": 1.0, "ps": 1e3, "ns": 1e6, "us": 1e9, "s": 1e15}
_ROWS_BYTES = 2**25  # that are read at once
_OWN_CREATOR = "allegro-jax"


class H5MDSource:
    """A :class:`md.analysis.sources.Source`.

    Args:
        path: the file, with one group of particles that has positions.
        species: elements by the numbers that the file has for them.
        symbols, masses: of the atoms, where the file does not know.

    Raises:
        ValueError: if it is no such file, or leaves an element open.
    """

    def __init__(
        self,
        path: Path,
        species: Mapping[int, str] | None,
        symbols: tuple[str, ...] | None,
        masses: np.ndarray | None,
    ) -> None:
        self.path = path
        notes: list[str] = []
        with self._opened() as file:
            self._group = self._find_group(file)
            particles = file[self._group]
            value = self._series(particles, "position")
            if value.ndim != 3 or value.shape[2] != 3 or value.shape[1] == 0:
                raise ValueError(
                    f"{path}: position: its shape is {value.shape}, not [frames, N, 3]"
                )
            self._frames, atoms = value.shape[:2]
            self.pbc = self._boundary(particles)
            self.symbols = symbols or self._symbols(particles, species)
            if len(self.symbols) != atoms:
                raise ValueError(f"{path}: species: {len(self.symbols)}, but {atoms} positions")
            self.masses = self._masses(particles, masses)
            self._length = self._unit(value, notes, "position", length=1)
            self._edge_length = self._edges_unit(particles, notes)
            self._time = self._clock(particles["position"], notes)
            self._velocity = None
            if "velocity" in particles:
                velocity = self._series(particles, "velocity")
                if velocity.shape == value.shape and "unit" in velocity.attrs:
                    self._velocity = self._unit(velocity, notes, "velocity", length=1, time=-1)
                else:
                    lacks = "no unit" if velocity.shape == value.shape else "another shape"
                    notes.append(f"velocities have {lacks}, and are left out")
            creator = (
                _text(file["h5md/creator"].attrs.get("name", ""))
                if ("h5md/creator" in file)
                else ""
            )
            self._images = "image" in particles
            self.continuous = self._images or creator.startswith(_OWN_CREATOR)
        self.notes = tuple(notes)

    def frames(self, start: int, stop: int | None) -> Iterator[tuple[int, Frame]]:
        stop = self._frames if stop is None else min(stop, self._frames)
        rows = max(1, _ROWS_BYTES // (24 * len(self.symbols)))
        with self._opened() as file:
            particles = file[self._group]
            for low in range(start, stop, rows):
                piece = slice(low, min(low + rows, stop))
                positions = self._rows(particles, "position", piece) * self._length
                cells = self._cells(particles, piece)
                if self._images:
                    images = self._rows(particles, "image", piece)
                    positions = positions + np.einsum("fnd,fdx->fnx", images, cells)
                velocities = None
                if self._velocity is not None:
                    velocities = self._rows(particles, "velocity", piece) * self._velocity
                for at in range(len(positions)):
                    number = low + at
                    yield (
                        number,
                        Frame(
                            positions=positions[at],
                            cell=cells[at],
                            velocities=None if velocities is None else velocities[at],
                            time_fs=None if self._time is None else float(self._time[number]),
                        ),
                    )

    def _opened(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read as HDF5 ({error})") from error

    def _find_group(self, file: h5py.File) -> str:
        groups = []
        if isinstance(file.get("particles"), h5py.Group):
            groups = [name for name, one in file["particles"].items() if "position" in one]
        if len(groups) != 1:
            found = ", ".join(groups) if groups else "none"
            raise ValueError(
                f"{self.path}: particles: one group with positions is needed (H5MD), found {found}"
            )
        return f"particles/{groups[0]}"

    def _series(self, particles: Any, name: str) -> h5py.Dataset:
        element = particles[name]
        if not isinstance(element, h5py.Group) or "value" not in element:
            raise ValueError(f"{self.path}: {name}: it does not change with time: no trajectory")
        return element["value"]

    def _rows(self, particles: Any, name: str, piece: slice) -> np.ndarray:
        value = self._series(particles, name)
        if len(value) != self._frames:
            raise ValueError(
                f"{self.path}: {name}: {len(value)} frames, but {self._frames} of positions"
            )
        return np.asarray(value[piece], float)

    def _boundary(self, particles: Any) -> Periodicity:
        words = particles["box"].attrs.get("boundary") if "box" in particles else None
        if words is None:
            return (False, False, False)
        a, b, c = (_text(word) == "periodic" for word in np.broadcast_to(words, 3))
        if (a or b or c) and "edges" not in particles["box"]:
            raise ValueError(f"{self.path}: box/edges: absent, though the box is periodic")
        return (a, b, c)

    def _symbols(self, particles: Any, species: Mapping[int, str] | None) -> tuple[str, ...]:
        if "species" not in particles:
            raise ValueError(
                f"{self.path}: species: absent: give a structure with the elements of the atoms, "
                "--structure FILE"
            )
        data = particles["species"]
        if isinstance(data, h5py.Group):  # it may change with time; ours to read does not
            data = data["value"]
            kinds = np.asarray(data[0])
            if not (data[:] == kinds).all():
                raise ValueError(f"{self.path}: species: they change with time")
        else:
            kinds = np.asarray(data[:])
        names: dict[int, str] = dict(species or {})
        enumeration = h5py.check_enum_dtype(data.dtype)
        if not names and enumeration:
            names = {int(kind): name for name, kind in enumeration.items()}
        missing = sorted(
            {int(k) for k in kinds} - {k for k, s in names.items() if atomic_numbers.get(s, 0) > 0}
        )
        if missing:
            raise ValueError(
                f"{self.path}: species: it does not say which elements its types "
                f"{', '.join(map(str, missing))} are: give --species, such as {missing[0]}=Li"
            )
        return tuple(names[int(kind)] for kind in kinds)

    def _masses(self, particles: Any, given: np.ndarray | None) -> np.ndarray:
        if given is not None:
            return given
        if isinstance(particles.get("mass"), h5py.Dataset):
            masses = np.asarray(particles["mass"][:], float)
            if masses.shape == (len(self.symbols),) and (masses > 0).all():
                return masses
        return atomic_masses[[atomic_numbers[symbol] for symbol in self.symbols]]

    def _unit(
        self, data: Any, notes: list[str], field: str, *, length: int = 0, time: int = 0
    ) -> float:
        """Factor from the unit of a dataset to Å and fs; these where it names none."""
        if "unit" not in data.attrs:
            notes.append(f"the file names no unit of {field}: taken as {'Å' if length else 'fs'}")
            return 1.0
        text = _text(data.attrs["unit"])
        factor, powers = 1.0, [0, 0]
        for sign, part in zip((1, -1), text.partition("/")[::2], strict=True):
            for token in part.split():
                match = re.fullmatch(r"([A-Za-zÅµ]+)\^?([+-]?\d+)?", token)
                name, power = (match[1], sign * int(match[2] or 1)) if match else (token, 0)
                for kind, table in enumerate((_ANGSTROM, _FEMTOSECOND)):
                    if name.lower() in table:
                        factor *= table[name.lower()] ** power
                        powers[kind] += power
                        break
                else:
                    powers[0] += 99  # unknown
        if powers != [length, time]:
            raise ValueError(f"{self.path}: {field}: the unit {text!r} is not understood")
        return factor

    def _edges_unit(self, particles: Any, notes: list[str]) -> float:
        if not any(self.pbc):
            return 1.0
        edges = particles["box/edges"]
        data = edges["value"] if isinstance(edges, h5py.Group) else edges
        return self._unit(data, notes, "box/edges", length=1)

    def _cells(self, particles: Any, piece: slice) -> np.ndarray:
        frames = piece.stop - piece.start
        if not any(self.pbc) and "edges" not in particles.get("box", {}):
            return np.zeros((frames, 3, 3))
        edges = particles["box/edges"]
        if isinstance(edges, h5py.Group):
            values = self._rows(particles, "box/edges", piece)
        else:
            fixed = np.asarray(edges[()], float)
            values = np.broadcast_to(fixed, (frames, *fixed.shape))
        if values.shape[1:] == (3,):
            values = values[:, :, None] * np.eye(3)
        if values.shape[1:] != (3, 3):
            raise ValueError(f"{self.path}: box/edges: shape {values.shape[1:]}, not 3 or 3 × 3")
        return values * self._edge_length

    def _clock(self, element: h5py.Group, notes: list[str]) -> np.ndarray | None:
        """Times of all frames, fs."""
        if "time" not in element:
            return None
        data = element["time"]
        if "unit" not in data.attrs:
            notes.append("the file names no unit of time, so its times are not used")
            return None
        unit = self._unit(data, notes, "time", time=1)
        if data.shape == ():  # H5MD's short form: the time between two frames
            offset = float(np.asarray(data.attrs.get("offset", 0.0)))
            times = offset + float(data[()]) * np.arange(self._frames)
        else:
            times = np.asarray(data[:], float)
        if len(times) != self._frames:
            raise ValueError(f"{self.path}: time: {len(times)}, but {self._frames} positions")
        return times * unit


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.shape == (1,):
        value = value[0]
    return value.decode() if isinstance(value, bytes) else str(value)
