"""Curves of several analyses in the panels of one figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from dynamics_report import Found, errors

from md.analysis.blocks import standard_error


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel of the figure: a column of an analysis's table against its first.

    Attributes:
        table: ``rdf``, ``adf``, ``msd``; or ``log``, of the whole run against time in fs.
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


def curve(found: Sequence[Found], panel: Panel) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Abscissa, mean over seeds, and standard error (of a single seed, that of its blocks).

    ``None`` where there is no such curve.
    """
    tables = [one.tables.get(panel.table, {}) for one in found]
    if any(panel.column not in table for table in tables):
        return None
    x = next(iter(tables[0].values())) * panel.x_scale
    values = np.array([table[panel.column] for table in tables])
    if len(tables) == 1:
        return x, values[0], np.nan_to_num(errors(tables[0], panel.column))
    return x, values.mean(0), standard_error(values)


def draw(
    panels: Sequence[Panel],
    columns: Mapping[str, Sequence[Found]],
    path: Path,
    published: Mapping[str, Found] | None = None,
    last: Callable[[Any], None] | None = None,
) -> None:
    """All panels, each with a curve for the reference (black) and each run.

    Args:
        panels: what they show.
        columns: analyses of all seeds, the reference first, by label.
        path: of the figure.
        published: curves of others, drawn dashed, by label.
        last: draws one more panel, on the axes it is called with.
    """
    across = 3
    down = -(-(len(panels) + (last is not None)) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(4 * across, 2.8 * down + 0.5), layout="constrained", squeeze=False
    )
    styles = {
        label: {"color": f"C{n - 1}" if n else "k", "linewidth": 1.1 if n else 1.6}
        for n, label in enumerate(columns)
    } | {
        label: {"color": f"C{len(columns) + n - 1}", "linewidth": 1.1, "linestyle": "--"}
        for n, label in enumerate(published or ())
    }
    everything = dict(columns) | {label: [one] for label, one in (published or {}).items()}
    lines = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, found in everything.items():
            drawn = curve(found, panel)
            if drawn is not None:
                x, y, error = drawn
                colour = styles[label]["color"]
                axis.fill_between(x, y - error, y + error, color=colour, alpha=0.25, linewidth=0)
                (lines[label],) = axis.plot(x, y, zorder=1 + (colour != "k"), **styles[label])
        axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
        if panel.limits is not None:
            axis.set_xlim(*panel.limits)
            seen = [line.get_ydata()[inside(line.get_xdata(), panel.limits)] for line in axis.lines]
            axis.set_ylim(0, 1.05 * max((np.nanmax(part) for part in seen if len(part)), default=1))
    if last is not None:
        last(axes.flat[len(panels)])
    for axis in axes.flat[len(panels) + (last is not None) :]:
        axis.axis("off")
    figure.legend(
        [lines[label] for label in styles if label in lines],
        [label for label in styles if label in lines],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def inside(x: Any, limits: tuple[float, float]) -> np.ndarray:
    return (np.asarray(x) >= limits[0]) & (np.asarray(x) <= limits[1])
