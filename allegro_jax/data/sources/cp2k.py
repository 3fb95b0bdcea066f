"""CP2K: the printed output of a single point, and the files that a trajectory is written to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, zip_longest
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.data import atomic_numbers

from allegro_jax.data.conventions import UNCONVERGED, Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.units import Units

# Positions are in Å, energies in Hartree, forces in Hartree/Bohr; stresses are converted here.
CP2K_UNITS = Units(energy=units.Hartree, forces=units.Hartree / units.Bohr, stress=1.0)
_NUMBER = r"(-?\d+\.\d+(?:[Ee][-+]?\d+)?)"


def forces_file(path: Path) -> Path:
    """The file with the forces that belongs to PROJECT-pos-1.xyz."""
    return path.with_name(path.name.replace("-pos-", "-frc-"))


def is_trajectory(path: Path) -> bool:
    return "-pos-" in path.name and path.suffix == ".xyz" and forces_file(path).is_file()


def read_trajectory(path: Path) -> Iterator[Record]:
    """Steps of PROJECT-pos-1.xyz with PROJECT-frc-1.xyz and PROJECT-1.cell, .stress or .restart.

    Raises:
        DataError: the files have not the same steps, or none tells the cell.
    """
    base = path.with_name(path.name.replace("-pos-", "-").removesuffix(".xyz"))
    cells, stresses = _table(base.with_name(base.name + ".cell"), 9), None
    restart = base.with_name(base.name + ".restart")
    pbc = np.ones(3, bool)
    if restart.is_file():
        last = ase.io.read(restart, format="cp2k-restart")
        pbc = last.pbc
        fixed = last.cell.array
    elif cells is None:
        raise DataError(
            f"its cell is unknown; put {base.name}.cell (of MOTION/PRINT/CELL) or "
            f"{base.name}.restart beside it"
        )
    stresses = _table(base.with_name(base.name + ".stress"), 9)
    forces = forces_file(path)
    with path.open() as one, forces.open() as other:
        for place, (moved, pushed) in enumerate(zip_longest(_steps(one), _steps(other))):
            if moved is None or pushed is None or moved[0] != pushed[0]:
                raise DataError(
                    f"frame {place} is not the step of {forces.name}; both must be written "
                    "equally often"
                )
            step, energy, symbols, positions = moved
            labels = {"forces": pushed[3]}
            if energy is not None:
                labels["energy"] = np.asarray(energy)
            if stresses is not None and step in stresses:
                # bar, positive under compression
                labels["stress"] = -stresses[step] * units.bar
            if cells is not None and step not in cells:
                raise DataError(f"step {step} is not in {base.name}.cell")
            cell = fixed if cells is None else cells[step]
            yield Record(_numbers(symbols), positions, cell, pbc, labels, CP2K_UNITS)


def _steps(file: Iterator[str]) -> Iterator[tuple[int, float | None, list[str], np.ndarray]]:
    """Step, energy, symbols and the three columns of each frame of a CP2K .xyz file."""
    for line in file:
        count, comment = int(line), next(file)
        rows = [row.split() for row in islice(file, count)]
        step, energy = re.search(r"i =\s*(\d+)", comment), re.search(r"E =\s*(\S+)", comment)
        if len(rows) < count or step is None:
            raise DataError("a frame is cut off, or has no step in its comment line")
        values = np.asarray([row[1:4] for row in rows], float).reshape(-1, 3)
        found = None if energy is None else float(energy[1].rstrip(","))
        yield int(step[1]), found, [row[0] for row in rows], values


def _table(path: Path, columns: int) -> dict[int, np.ndarray] | None:
    """Step → 3x3 tensor of a file with lines: step, time, nine components, ..."""
    if not path.is_file():
        return None
    rows = np.loadtxt(path, ndmin=2)
    return {int(row[0]): row[2 : 2 + columns].reshape(3, 3) for row in rows}


def is_output(head: bytes) -> bool:
    return b"CP2K|" in head or b"DBCSR| CPU Multiplication driver" in head


def read_output(path: Path) -> Iterator[Record]:
    """The structure of a single-point calculation with what was printed of it.

    Raises:
        DataError: several calculations in one output, or none.
    """
    text = path.read_text()
    energies = re.findall(rf"ENERGY\| Total FORCE_EVAL .*?{_NUMBER}\s*$", text, re.M)
    if len(energies) != 1:
        raise DataError(
            f"holds {len(energies)} energies; of a run with several steps, read the file "
            "PROJECT-pos-1.xyz, with PROJECT-frc-1.xyz (MOTION/PRINT/FORCES) beside it"
        )
    atoms = re.findall(
        rf"^\s+\d+\s+\d+\s+[A-Z][a-z]?\s+(\d+)\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s+\S+\s+\S+\s*$",
        text,
        re.M,
    )
    cell = re.findall(
        rf"CELL\| Vector [abc] \[angstrom\]:?\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}", text
    )
    periodic = re.search(r"CELL\| Periodicity\s+(\w+)", text)
    if not atoms or len(cell) < 3:
        raise DataError("no atomic coordinates or no cell are printed in it")
    labels = {"energy": np.asarray(float(energies[0]))}
    forces = re.findall(
        rf"^\s+\d+\s+\d+\s+[A-Z][a-z]?\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$", text, re.M
    ) or re.findall(rf"FORCES\|\s+\d+\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}", text)
    if forces:
        labels["forces"] = np.asarray(forces, float)
    stress = re.search(r"STRESS\|?.*?\[(GPa|bar)\]", text)
    rows = re.findall(rf"^\s*(?:STRESS\|)?\s+[xyzXYZ]\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$",
                      text, re.M)  # fmt: skip
    if stress and len(rows) >= 3:
        unit = units.GPa if stress[1] == "GPa" else units.bar
        labels["stress"] = -np.asarray(rows[:3], float) * unit  # positive under compression
    directions = "XYZ" if periodic is None else periodic[1]
    yield Record(
        numbers=np.asarray([int(row[0]) for row in atoms]),
        positions=np.asarray([row[1:] for row in atoms], float),
        cell=np.asarray(cell[:3], float),
        pbc=np.asarray([axis in directions for axis in "XYZ"]),
        labels=labels,
        units=CP2K_UNITS,
        flaw=UNCONVERGED if "SCF run NOT converged" in text else None,
    )


def _numbers(symbols: list[str]) -> np.ndarray:
    """Atomic numbers of kinds, which may be numbered (Fe1)."""
    bare = [re.sub(r"\d.*", "", symbol).capitalize() for symbol in symbols]
    for symbol in bare:
        if symbol not in atomic_numbers:
            raise DataError(f"{symbol!r} is no chemical symbol")
    return np.asarray([atomic_numbers[symbol] for symbol in bare])
