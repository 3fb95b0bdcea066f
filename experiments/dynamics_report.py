"""What analyses of several runs say together: numbers with errors, a table, a figure."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

BEGIN, END = "<!-- results: made by dynamics.py -->", "<!-- end of results -->"
TABLES = ("rdf", "coordination", "adf", "msd")
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
class Panel:
    """A panel of the figure: a column of an analysis's table against its first.

    Attributes:
        table: ``rdf``, ``adf``, ``msd``.
        column: its name there.
        title: above the panel.
        x, y: labels of the axes.
        limits: of the first axis; all there is unless given.
        x_scale: from the table's unit to that of the label.
    """

    table: str
    column: str
    title: str
    x: str
    y: str
    limits: tuple[float, float] | None = None
    x_scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Found:
    """One analysis: its summary, and its tables of curves by name."""

    summary: Mapping[str, Any]
    tables: Mapping[str, Table]

    @classmethod
    def read(cls, folder: Path) -> Found:
        """What ``allegro-jax analyse`` has written."""
        return cls(
            json.loads((folder / "summary.json").read_text()),
            {name: read(folder / f"{name}.csv") for name in TABLES},
        )

    def numbers(self) -> Numbers:
        """Shells, shares of coordination numbers, angles, and motion."""
        found: Numbers = {}
        for row in self.summary["shells"]:
            pair = f"{row['centre']}-{row['neighbour']}"
            found[f"peak {pair}"] = (row["peak_A"], None)
            found[f"neighbours {pair}"] = (row["coordination"], row["coordination_error"])
        shares = self.tables["coordination"]
        for name in named(shares, "share_"):
            centre, neighbour = name.split("_")[1:]
            for number, share, error in zip(
                shares["neighbours"], shares[name], shares[f"{name}_error"], strict=True
            ):
                found[f"share {centre}-{neighbour} {number:g}"] = pair_of(share, error)
        angles = self.tables["adf"]
        for name in named(angles, "p_"):
            triple = "-".join(name.removeprefix("p_").removesuffix("_per_degree").split("_"))
            mean, width = moments(angles["angle_degree"], angles[name])
            found[f"angle {triple}"], found[f"width {triple}"] = (mean, None), (width, None)
        for row in self.summary["diffusion"]:
            window = f"{row['from_fs'] / 1000:g}-{row['to_fs'] / 1000:g}ps"
            value = (row["D_cm2_per_s"], row["D_cm2_per_s_error"])
            found[f"D {row['species']} {window}"] = value
            found[f"exponent {row['species']} {window}"] = (row["exponent"], None)
        motion = self.tables["msd"]
        for name in named(motion, "msd_"):
            species = name.split("_")[1]
            for at in (0.5, 1, 2, 5, 10, 20):
                if 1000 * at <= motion["time_fs"][-1]:
                    value, error = (
                        float(np.interp(1000 * at, motion["time_fs"], motion[column]))
                        for column in (name, f"{name}_error")
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


def pair_of(value: float, error: float) -> tuple[float, float | None]:
    return float(value), None if np.isnan(error) else float(error)


def moments(x: np.ndarray, density: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of a distribution on equal bins."""
    weights = density / density.sum()
    mean = float(np.sum(weights * x))
    return mean, float(np.sqrt(np.sum(weights * (x - mean) ** 2)))


def distances(one: Mapping[str, Table], other: Mapping[str, Table]) -> Numbers:
    """Area between two curves over the area below the other, of radial distributions and angles."""
    found: Numbers = {}
    for kind, start in (("rdf", "g_"), ("adf", "p_")):
        for name in named(other[kind], start):
            gap = np.abs(one[kind][name] - other[kind][name]).sum() / other[kind][name].sum()
            words = name.removesuffix("_per_degree").split("_")[1:]
            found[f"distance {'-'.join(words)}"] = (float(gap), None)
    return found


def of_log(log: Table, start: str, atoms: int) -> Numbers:
    """Means from a time on (``"68ps"``), and the drift of what should be conserved, per atom."""
    inside = log["time_fs"] >= 1000 * float(start.removesuffix("ps"))
    time_ps = log["time_fs"][inside] / 1000
    slope = np.polyfit(time_ps, log["conserved_eV"][inside], 1)[0]
    return {
        "temperature K": (float(log["temperature_K"][inside].mean()), None),
        "pressure GPa": (float(log["pressure_GPa"][inside].mean()), None),
        "drift µeV/atom/ps": (float(1e6 * slope / atoms), None),
    }


def over_seeds(values: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    """Mean and its standard error: from the seeds, or of a single one that of its blocks."""
    if len(values) == 1:
        return values[0]
    numbers = np.array([value for value, _ in values])
    return float(numbers.mean()), float(numbers.std(ddof=1) / np.sqrt(len(numbers)))


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


def write_table(path: Path, text: str) -> None:
    """Put a table between the marks in a README."""
    before, mark, rest = path.read_text().partition(BEGIN)
    _, other, after = rest.partition(END)
    if not (mark and other):
        raise ValueError(f"{path}: has no lines {BEGIN} and {END} to put the table between")
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def curve(found: Sequence[Found], panel: Panel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Abscissa, mean over seeds, and standard error (of a single seed, that of its blocks)."""
    tables = [one.tables[panel.table] for one in found]
    x = next(iter(tables[0].values())) * panel.x_scale
    values = np.array([table[panel.column] for table in tables])
    if len(tables) == 1:
        return x, values[0], np.nan_to_num(tables[0][f"{panel.column}_error"])
    return x, values.mean(0), values.std(0, ddof=1) / np.sqrt(len(values))


def draw(panels: Sequence[Panel], columns: Mapping[str, Sequence[Found]], path: Path) -> None:
    """All panels, each with a curve for the reference (black) and each run."""
    across = 3
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4 * across, 2.8 * down + 0.5), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        for number, (label, found) in enumerate(columns.items()):
            colour = f"C{number - 1}" if number else "k"
            x, y, error = curve(found, panel)
            axis.fill_between(x, y - error, y + error, color=colour, alpha=0.25, linewidth=0)
            style = {"color": colour, "linewidth": 1.1 if number else 1.6}
            axis.plot(x, y, label=label, zorder=2 if number else 1, **style)
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.limits is not None:
            axis.set_xlim(*panel.limits)
            seen = [line.get_ydata()[inside(line.get_xdata(), panel.limits)] for line in axis.lines]
            axis.set_ylim(0, 1.05 * max(part.max() for part in seen if len(part)))
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def inside(x: Any, limits: tuple[float, float]) -> np.ndarray:
    return (np.asarray(x) >= limits[0]) & (np.asarray(x) <= limits[1])
