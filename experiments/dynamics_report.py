"""What analyses of several runs say together: numbers with errors, and a table."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, atomic_numbers
from ase.units import kg

from md.analysis.blocks import standard_error

BEGIN, END = "<!-- results: made by dynamics.py -->", "<!-- end of results -->"
TABLES = ("rdf", "coordination", "adf", "msd")
UNCERTAINTIES = {
    "energy_std_meV_per_atom": "uncertainty meV/atom",
    "max_forces_std_eV_per_A": "uncertainty eV/Å",
}
Table = Mapping[str, np.ndarray]
Numbers = dict[str, tuple[float, float | None]]
"""Value and standard error (None: unknown) by name."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table: a quantity by its name in :data:`Numbers`, its title and factor."""

    value: str
    title: str
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Found:
    """One analysis: its summary, and its tables of curves by name."""

    summary: Mapping[str, Any]
    tables: Mapping[str, Table]

    @classmethod
    def read(cls, folder: Path) -> Found:
        """What ``allegro-jax analyse`` has written; not all tables need be there."""
        files = {name: folder / f"{name}.csv" for name in TABLES}
        tables = {name: read(file) for name, file in files.items() if file.is_file()}
        if "rdf" in tables:
            tables["rdf"] = {in_order(name): one for name, one in tables["rdf"].items()}
        return cls(json.loads((folder / "summary.json").read_text()), tables)

    def with_log(self, log: Table) -> Found:
        """Also with the log of the whole run as a table against time."""
        whole = {"time_fs": log["time_fs"]} | dict(log)
        return dataclasses.replace(self, tables={**self.tables, "log": whole})

    def numbers(self) -> Numbers:
        """Shells, peaks, shares of coordination numbers, bonds, angles, and motion."""
        return self._structure() | self._bonds() | self._angles() | self._motion()

    def _structure(self) -> Numbers:
        found: Numbers = {}
        for row in self.summary.get("shells", ()):
            pair = f"{row['centre']}-{row['neighbour']}"
            found[f"peak {pair}"] = (row["peak_A"], None)
            found[f"neighbours {pair}"] = (row["coordination"], row["coordination_error"])
        radial = self.tables.get("rdf", {})
        for name in named(radial, "g_"):
            pair, top = "-".join(name.split("_")[1:]), int(np.nanargmax(radial[name]))
            found[f"top {pair}"] = (float(radial["r_A"][top]), None)
            found[f"height {pair}"] = pair_of(radial[name][top], errors(radial, name)[top])
        shares = self.tables.get("coordination", {})
        for name in named(shares, "share_"):
            centre, neighbour = name.split("_")[1:]
            for number, share, error in zip(
                shares["neighbours"], shares[name], shares[f"{name}_error"], strict=True
            ):
                found[f"share {centre}-{neighbour} {number:g}"] = pair_of(share, error)
        return found

    def _bonds(self) -> Numbers:
        found: Numbers = {}
        rows = self.summary.get("bonds", ())
        for row in rows:
            pair = f"{row['first']}-{row['second']}"
            found[f"bond {pair}"] = (row["mean_A"], row["mean_A_error"])
            found[f"bond width {pair}"] = (row["deviation_A"], None)
            found[f"longest {pair}"] = (row["longest_A"], None)
        if rows:
            for kind in ("broken", "new"):
                found[f"bonds {kind}"] = (sum(row[kind] for row in rows), None)
        return found

    def _angles(self) -> Numbers:
        found: Numbers = {}
        angles = self.tables.get("adf", {})
        for name in named(angles, "p_"):
            triple = "-".join(name.removeprefix("p_").removesuffix("_per_degree").split("_"))
            mean, width = moments(angles["angle_degree"], angles[name])
            found[f"angle {triple}"], found[f"width {triple}"] = (mean, None), (width, None)
        return found

    def _motion(self) -> Numbers:
        found: Numbers = {}
        for row in self.summary.get("diffusion", ()):
            window = f"{row['from_fs'] / 1000:g}-{row['to_fs'] / 1000:g}ps"
            value = (row["D_cm2_per_s"], row["D_cm2_per_s_error"])
            found[f"D {row['species']} {window}"] = value
            found[f"exponent {row['species']} {window}"] = (row["exponent"], None)
        motion = self.tables.get("msd", {})
        for name in named(motion, "msd_"):
            species = name.split("_")[1]
            for at in (0.5, 1, 2, 5, 10, 20):
                if 1000 * at <= motion["time_fs"][-1]:
                    value, error = (
                        float(np.interp(1000 * at, motion["time_fs"], column))
                        for column in (motion[name], errors(motion, name))
                    )
                    found[f"msd {species} {at:g}ps"] = pair_of(value, error)
        return found


def read(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV file of numbers; empty cells are NaN."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    cells = [[float(cell) if cell else np.nan for cell in row] for row in rows[1:]]
    return dict(zip(rows[0], np.array(cells).reshape(-1, len(rows[0])).T, strict=True))


def named(table: Table, start: str) -> list[str]:
    """Columns whose names begin so, without those of errors."""
    return [name for name in table if name.startswith(start) and not name.endswith("_error")]


def in_order(name: str) -> str:
    """The column of a pair with its symbols in alphabetical order: ``g_H_O`` for ``g_O_H``.

    In a table of radial distributions they are in the order of the file.
    """
    words = name.split("_")
    if words[0] in ("g", "n") and len(words) >= 3 and "total" not in words:
        words[1:3] = sorted(words[1:3])
    return "_".join(words)


def errors(table: Table, name: str) -> np.ndarray:
    """Standard errors of a column, NaN where there are none."""
    return table.get(f"{name}_error", np.full(len(table[name]), np.nan))


def pair_of(value: float, error: float) -> tuple[float, float | None]:
    return float(value), None if np.isnan(error) else float(error)


def moments(x: np.ndarray, density: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a distribution on equal bins."""
    weights = density / density.sum()
    mean = float(np.sum(weights * x))
    return mean, float(np.sqrt(np.sum(weights * (x - mean) ** 2)))


def distances(one: Mapping[str, Table], other: Mapping[str, Table]) -> Numbers:
    """Area between two curves over the area below the other, of radial distributions and angles.

    Raises:
        ValueError: the two are not on the same abscissas.
    """
    found: Numbers = {}
    for kind, start in (("rdf", "g_"), ("adf", "p_")):
        if not (one.get(kind) and other.get(kind)):
            continue
        x, other_x = (next(iter(tables[kind].values())) for tables in (one, other))
        if len(x) != len(other_x) or np.abs(x - other_x).max() > 1e-3 * (x[1] - x[0]):
            raise ValueError(f"{kind}: the two curves are on different bins")
        for name in named(other[kind], start):
            gap = np.abs(one[kind][name] - other[kind][name]).sum() / other[kind][name].sum()
            words = name.removesuffix("_per_degree").split("_")[1:]
            found[f"distance {'-'.join(words)}"] = (float(gap), None)
    return found


def of_log(log: Table, start: str, atoms: Mapping[str, int]) -> Numbers:
    """Means from a time on (``"68ps"``), and the drift of what should be conserved, per atom.

    Standard errors of the means are those of five blocks of time. ``atoms``: numbers by symbol.
    """
    inside = log["time_fs"] >= 1000 * float(start.removesuffix("ps"))
    time_ps = log["time_fs"][inside] / 1000
    slope = np.polyfit(time_ps, log["conserved_eV"][inside], 1)[0]
    mass = sum(number * atomic_masses[atomic_numbers[symbol]] for symbol, number in atoms.items())
    density = 1000 * mass / kg * 1e24 / log["volume_A3"][inside]
    more: Numbers = {}
    if "target_temperature_K" in log:
        more["bath K"] = (float(log["target_temperature_K"][inside].mean()), None)
    for column, name in UNCERTAINTIES.items():
        if column in log:
            looked = log[column][inside]
            more[name] = block_mean(looked[np.isfinite(looked)])
    return more | {
        "temperature K": block_mean(log["temperature_K"][inside]),
        "pressure GPa": block_mean(log["pressure_GPa"][inside]),
        "density g/cm3": block_mean(density),
        "drift µeV/atom/ps": (float(1e6 * slope / sum(atoms.values())), None),
    }


def block_mean(values: np.ndarray, blocks: int = 5) -> tuple[float, float | None]:
    """Mean of a series in time, and its standard error from blocks of it."""
    if len(values) < blocks:
        return float(values.mean()), None
    means = [part.mean() for part in np.array_split(values, blocks)]
    return float(values.mean()), float(standard_error(means))


def over_seeds(values: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """Mean and its standard error: from the seeds, or of a single one that of its blocks."""
    if len(values) == 1:
        return values[0]
    numbers = np.array([value for value, _ in values])
    return float(numbers.mean()), float(standard_error(numbers))


def cell(values: Sequence[tuple[float, float | None]], scale: float = 1.0) -> str:
    """``1.23 ± 0.04``, with two digits of the error."""
    if not values:
        return "–"
    mean, error = over_seeds(values)
    mean *= scale
    if not error or error < 1e-9 * abs(mean):
        return f"{mean:.4g}".replace("-", "−")
    error *= scale
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{mean:.{digits}f} ± {error:.{digits}f}".replace("-", "−")


def markdown(
    titles: Sequence[str], rows: Sequence[Row], columns: Sequence[Sequence[Numbers]]
) -> str:
    """A row for each quantity, a column for each list of seeds."""
    lines = [["", *titles], ["---"] * (len(titles) + 1)]
    for row in rows:
        cells = [
            cell([tuple(one[row.value]) for one in seeds if row.value in one], row.scale)
            for seeds in columns
        ]
        lines.append([row.title, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_table(path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put a table between the marks in a README."""
    before, mark, rest = path.read_text().partition(marks[0])
    _, other, after = rest.partition(marks[1])
    if not (mark and other):
        raise ValueError(f"{path}: has no lines {' and '.join(marks)} to put the table between")
    path.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{after}")
