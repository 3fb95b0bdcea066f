"""Extended XYZ: one text file that grows frame by frame, read by ASE, OVITO and most others."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from md.durable import GrowingText
from md.parts import Part
from md.trajectory import TrajectorySettings

SUFFIX = ".extxyz"


class ExtendedXYZ:
    """A growing extended XYZ file, a :class:`md.trajectory.Trajectory`.

    Args:
        path: the file.
        settings: which atoms and arrays, and the decimals.
        mark: what ``commit`` returned when the checkpoint to go on from was written; None starts
            a new file.
    """

    def __init__(
        self, path: Path, settings: TrajectorySettings, mark: dict[str, int] | None
    ) -> None:
        self._text = GrowingText(path, None if mark is None else mark["bytes"])
        self._settings = settings

    def write(self, frames: Sequence[Atoms]) -> None:
        select, decimals = self._settings.select, int(self._settings.digits)
        self._text.write("".join(formatted(select(atoms), decimals) for atoms in frames))

    def write_part(self, part: Part) -> None:
        atoms = self._settings.reduced(part.atoms)
        decimals = int(self._settings.digits)
        self._text.write(formatted(atoms, decimals, part.first, part.total))

    def commit(self) -> dict[str, int]:
        return {"bytes": self._text.commit()}

    def finish(self) -> None:
        """Nothing to do: the file always has its final form."""

    def close(self) -> None:
        self._text.close()


def formatted(atoms: Atoms, decimals: int = 8, first: int = 0, total: int | None = None) -> str:
    """One frame as text, or, of one in parts, a part.

    Args:
        decimals: of what belongs to atoms.
        first: the place of the first atom; only the first part says what is true of the whole.
        total: how many atoms the frame has, if it is in parts.

    Columns: element, position (Å); masses (amu) and momenta (√(amu·eV), as ASE has them) where the
    atoms carry them; forces (eV/Å) where the calculator has them, and how far the members of a
    committee are apart, forces_std, where the atoms carry it. The second line holds the cell (Å,
    row by row), the scalars of ``atoms.info``, and energy (eV) and stress (eV/Å³) where the
    calculator has them.
    """
    columns = {"pos": atoms.positions}
    columns |= {name: atoms.arrays[name] for name in ("masses", "momenta") if atoms.has(name)}
    results = {} if atoms.calc is None else atoms.calc.results
    if "forces" in results:
        columns["forces"] = results["forces"]
    if atoms.has("forces_std"):
        columns["forces_std"] = atoms.arrays["forces_std"]
    table = np.column_stack(list(columns.values()))
    row = "%-2s" + f" %{decimals + 8}.{decimals}f" * table.shape[1] + "\n"
    symbols = atoms.get_chemical_symbols()
    rows = "".join(
        [row % (s, *numbers) for s, numbers in zip(symbols, table.tolist(), strict=True)]
    )
    if first:
        return rows
    widths = {name: 1 if values.ndim == 1 else 3 for name, values in columns.items()}
    properties = "species:S:1" + "".join(f":{name}:R:{width}" for name, width in widths.items())

    facts: dict[str, Any] = {}
    if atoms.cell.any():
        facts["Lattice"] = _quoted(atoms.cell.array)
    facts["Properties"] = properties
    facts |= {key: _scalar(value) for key, value in atoms.info.items() if np.isscalar(value)}
    if "energy" in results:
        facts["energy"] = _scalar(results["energy"])
    if "stress" in results:
        facts["stress"] = _quoted(atoms.get_stress(voigt=False))
    facts["pbc"] = '"' + " ".join("T" if p else "F" for p in atoms.pbc) + '"'

    comment = " ".join(f"{key}={value}" for key, value in facts.items())
    return f"{len(atoms) if total is None else total}\n{comment}\n{rows}"


def _quoted(values: np.ndarray) -> str:
    return '"' + " ".join(repr(float(x)) for x in values.ravel()) + '"'


def _scalar(value: Any) -> str:
    """A scalar so that ASE reads back the same: booleans as T and F, text in quotes."""
    if isinstance(value, (bool, np.bool_)):
        return "T" if value else "F"
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return repr(float(value))
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
