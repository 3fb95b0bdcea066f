"""Radial distributions that others have published, as columns of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from dynamics_report import Found

GAP = 5  # times the usual spacing, of a file that leaves distances out


@dataclasses.dataclass(frozen=True)
class Curves:
    """Curves of one source: files with distances in the first column, g(r) in the second.

    Attributes:
        label: their name in table and figure.
        files: by the name that the column has in ``rdf.csv``, ``g_O_O``.
        x_scale: from the files' unit of length to Å.
    """

    label: str
    files: Mapping[str, str]
    x_scale: float = 1.0

    def are_in(self, folder: Path) -> bool:
        return all((folder / file).is_file() for file in self.files.values())

    def read(self, folder: Path) -> Found:
        """All curves as a table of radial distributions, on the distances of the first file.

        Outside of its own file, and in gaps of it, a curve is NaN.
        """
        table: dict[str, np.ndarray] = {}
        for name, file in self.files.items():
            x, y = np.loadtxt(
                folder / file, usecols=(0, 1), comments=["#", '"'], unpack=True, ndmin=2
            )
            x = x * self.x_scale
            grid = table.setdefault("r_A", x)
            table[name] = np.interp(grid, x, y, left=np.nan, right=np.nan)
            steps = np.diff(x)
            for place in np.flatnonzero(steps > GAP * np.median(steps)):
                table[name][(grid > x[place]) & (grid < x[place + 1])] = np.nan
        return Found({}, {"rdf": table})
