"""Figures of a run: its log against time, and its distributions and correlations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Table = Mapping[str, np.ndarray]

ERROR = "_error"
"""Ends the name of a column that holds the standard errors of another."""

_WIDTH, _HEIGHT = 5.5, 2.2  # of a panel, inches
_IN_LEGEND = 8  # curves, within the panel
_COLOURS, _STYLES = 10, ("-", "--", ":", "-.")  # when colours come again, lines change


def draw(
    log: Table,
    path: Path,
    *,
    atoms: int,
    tables: Mapping[str, Table] | None = None,
) -> None:
    """Write a PNG: on the left the log against time, on the right what observables found.

    Temperature, energies and conserved quantity are always there; pressure and volume where the
    cell moves. Of the tables, those are drawn that :mod:`md.distributions` and
    :mod:`md.correlations` make.

    Args:
        log: columns of the log.
        path: of the file.
        atoms: number of atoms, by which energies are divided.
        tables: results of observables by name.
    """
    # not pyplot: it would take hold of a display and of the user's own figures
    from matplotlib.figure import Figure

    left = [_temperature, _energies, _conserved]
    if "target_pressure_GPa" in log or len(np.unique(log["volume_A3"])) > 1:
        left += [_pressure, _volume]
    right = [(table, kind) for table in (tables or {}).values() if (kind := _kind(table))]
    columns, rows = 1 + bool(right), max(len(left), len(right))
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows + 0.5), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    axes: Any = None
    for row, panel in enumerate(left):
        axes = figure.add_subplot(grid[row, 0], sharex=axes)
        panel(axes, log, atoms)
        axes.tick_params(labelbottom=row == len(left) - 1)
    axes.set_xlabel("time (ps)")
    for row, (table, kind) in enumerate(right):
        kind.draw(figure.add_subplot(grid[row, 1]), table)
    figure.savefig(path, dpi=150)


def draw_table(table: Table, path: Path) -> None:
    """Write a PNG of the curves of one table, one below the other; nothing if it has none."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in _KINDS if kind.names(table)]
    if not kinds:
        return
    beside = max(len(kind.names(table)) for kind in kinds) // (3 * _IN_LEGEND)
    size = (_WIDTH + 1.2 * beside, 1.5 * _HEIGHT * len(kinds))
    figure = Figure(figsize=size, layout="constrained")
    for axes, kind in zip(figure.subplots(len(kinds), squeeze=False)[:, 0], kinds, strict=True):
        kind.draw(axes, table)
    figure.savefig(path, dpi=150)


def _time_ps(log: Table) -> np.ndarray:
    return np.asarray(log["time_fs"]) / 1000


def _temperature(axes: Any, log: Table, atoms: int) -> None:
    axes.plot(_time_ps(log), log["temperature_K"], lw=0.8)
    _target(axes, log, "target_temperature_K")
    axes.set_ylabel("temperature (K)")


def _energies(axes: Any, log: Table, atoms: int) -> None:
    total = log["potential_eV"] + log["kinetic_eV"]
    axes.plot(_time_ps(log), _per_atom(log["potential_eV"], atoms), lw=0.8, label="potential")
    axes.plot(_time_ps(log), _per_atom(total, atoms), lw=0.8, label="potential + kinetic")
    axes.set_ylabel("energy − start\n(meV/atom)")
    axes.legend(frameon=False)


def _conserved(axes: Any, log: Table, atoms: int) -> None:
    axes.plot(_time_ps(log), _per_atom(log["conserved_eV"], atoms), lw=0.8)
    axes.set_ylabel("conserved − start\n(meV/atom)")


def _pressure(axes: Any, log: Table, atoms: int) -> None:
    axes.plot(_time_ps(log), log["pressure_GPa"], lw=0.8)
    _target(axes, log, "target_pressure_GPa")
    axes.set_ylabel("pressure (GPa)")


def _volume(axes: Any, log: Table, atoms: int) -> None:
    axes.plot(_time_ps(log), log["volume_A3"] / atoms, lw=0.8)
    axes.set_ylabel("volume (Å³/atom)")


def _target(axes: Any, log: Table, column: str) -> None:
    if column in log:
        axes.plot(_time_ps(log), log[column], color="k", ls="--", lw=0.8)


def _per_atom(values: np.ndarray, atoms: int) -> np.ndarray:
    return 1000 * (values - values[0]) / atoms


@dataclasses.dataclass(frozen=True)
class _Curves:
    """One kind of table: curves of the columns that share a prefix, with bands of their errors."""

    abscissa: str
    prefix: str
    xlabel: str
    ylabel: str

    def names(self, table: Table) -> list[str]:
        if self.abscissa not in table:
            return []
        named = [name for name in table if name.startswith(self.prefix)]
        return [name for name in named if not name.endswith(ERROR)]

    def draw(self, axes: Any, table: Table) -> None:
        x = table[self.abscissa]
        for number, name in enumerate(self.names(table)):
            label = name.removeprefix(self.prefix)
            for unit in ("_per_degree", "_per_THz", "_A2_per_ps", "_A2"):
                label = label.removesuffix(unit)
            style = _STYLES[number // _COLOURS % len(_STYLES)]
            label = label.replace("_", "–")
            (line,) = axes.plot(x, table[name], ls=style, lw=0.8, label=label)
            if name + ERROR in table:
                low, high = (table[name] + sign * table[name + ERROR] for sign in (-1, 1))
                axes.fill_between(x, low, high, color=line.get_color(), alpha=0.25, lw=0)
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        if len(self.names(table)) <= _IN_LEGEND:
            axes.legend(frameon=False)
        else:  # beside the panel, in as many columns as needed
            columns = -(-len(self.names(table)) // (3 * _IN_LEGEND))
            place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
            axes.legend(frameon=False, ncols=columns, fontsize="xx-small", **place)


_KINDS = (
    _Curves("r_A", "g_", "distance (Å)", "g(r)"),
    _Curves("r_A", "n_", "distance (Å)", "n(r)"),  # without a volume there is no g(r)
    _Curves("angle_degree", "p_", "angle (°)", "density (1/°)"),
    _Curves("frequency_THz", "vdos_", "frequency (THz)", "density of states (1/THz)"),
    _Curves("time_fs", "msd_", "time (fs)", "msd (Å²)"),
    _Curves("neighbours", "share_", "number of neighbours", "share of the atoms"),
    _Curves("time_fs", "correlation_", "time (fs)", "velocities: C(τ) / C(0)"),
    _Curves("time_fs", "integral_", "time (fs)", "∫ C dτ / d (Å²/ps)"),
)


def _kind(table: Table) -> _Curves | None:
    return next((kind for kind in _KINDS if kind.names(table)), None)
