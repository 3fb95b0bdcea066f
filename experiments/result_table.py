"""The table of an experiment beside the published figures, and its learning curves."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from experiment import Column, Experiment
from matplotlib.ticker import LogLocator, NullFormatter

BEGIN, END = "<!-- results: made by reproduce.py -->", "<!-- end of results -->"
Results = Mapping[str, Mapping[str, Mapping[str, Any]]]


def write_table(experiment: Experiment, results: Results) -> None:
    """Put the table between the marks in the experiment's README."""
    path = experiment.folder / "README.md"
    text = path.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{path}: has no lines {BEGIN} and {END} to put the table between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{table(experiment, results)}\n{END}{after}")


def table(experiment: Experiment, results: Results) -> str:
    """Markdown: published rows, then ours (mean ± standard deviation over seeds)."""
    titles = [column.title for column in experiment.columns]
    rows = [["", *titles, "training"], ["---"] * (len(titles) + 2)]
    rows += _published(experiment.published)
    for name, model in experiment.models.items():
        seeds = list(results.get(name, {}).values())
        if not seeds:
            continue
        rows += _published(model.published, f"{model.label or name}: ")
        cells = [_cell([_value(found, column) for found in seeds]) for column in experiment.columns]
        rows.append([f"**{model.label or name}**", *cells, _training(seeds)])
    text = _markdown(rows)
    spread = uncertainties(experiment, results)
    return f"{text}\n\n{spread}" if spread else text


def uncertainties(experiment: Experiment, results: Results) -> str:
    """Markdown: of committees, their spread over true errors on the atoms of each test."""
    rows = [
        ["uncertainty of forces", "test", "RMS (meV/Å)", "true error over it", "rank correlation",
         "largest tenth found (%)"],
        ["---"] * 6,
    ]  # fmt: skip
    for name, model in experiment.models.items():
        for part in model.tests:
            seeds = [found["tests"].get(part, {}) for found in results.get(name, {}).values()]
            known = [one["uncertainty"]["forces"] for one in seeds if "uncertainty" in one]
            if known:
                keys = {"rms": 1000, "ratio": 1, "rank_correlation": 1, "share_of_largest": 100}
                cells = [_cell([scale * one[key] for one in known]) for key, scale in keys.items()]
                rows.append([f"**{model.label or name}**", part, *cells])
    return _markdown(rows) if len(rows) > 2 else ""


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _published(figures: Mapping[str, Sequence[float | None]], prefix: str = "") -> list[list[str]]:
    return [
        [prefix + name, *("–" if value is None else f"{value:g}" for value in values), ""]
        for name, values in figures.items()
    ]


def draw(experiment: Experiment, results: Results) -> list[str]:
    """``figure.png``: validation errors against time, the seeds of a model in one colour.

    Returns:
        The models of which a learning curve is gone: they are left out. Without any curve the
        figure stays as it is.
    """
    curves: dict[str, list[dict[str, list[float]]]] = {}
    gone = []
    for name, model in experiment.models.items():
        for seed, found in results.get(name, {}).items():
            curve = found.get("curve") or _curve(experiment, name, seed)
            if curve is not None:
                curves.setdefault(model.label or name, []).append(curve)
            elif name not in gone:
                gone.append(name)
    if not curves:
        return gone
    shown = (model for name, model in experiment.models.items() if results.get(name))
    quantity, kind = next(shown).watched.rsplit("_", 1)
    unit = "meV/Å" if quantity == "forces" else "meV/atom"
    figure, axis = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for number, (label, of_seeds) in enumerate(curves.items()):
        style: Any = {"color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
        for curve in of_seeds:
            errors = 1000 * np.array(curve["errors"])
            axis.plot(curve["minutes"], errors, linewidth=1.2, **style)
        axis.plot([], [], label=label, **style)  # one line of the legend for all seeds
    axis.set(
        xlabel="minutes of training",
        ylabel=f"validation {quantity.replace('_', ' ')} {kind.upper()} ({unit})",
        xscale="log",
        yscale="log",
    )
    figure.suptitle(experiment.title, fontsize="medium")  # may be wider than the axes
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        one.set_major_formatter("{x:g}")
        one.set_minor_formatter(NullFormatter())
    axis.grid(True, which="both", color="0.92")
    axis.legend(frameon=False, fontsize="small")
    figure.savefig(experiment.folder / "figure.png", dpi=130)
    plt.close(figure)
    return gone


def _curve(experiment: Experiment, name: str, seed: str) -> dict[str, list[float]] | None:
    """The learning curve of a run that is still there."""
    path = experiment.folder / "runs" / f"{name}-seed{seed}" / "metrics.csv"
    if not path.is_file():
        return None
    with path.open() as file:
        rows = list(csv.DictReader(file))
    watched = f"valid_{experiment.models[name].watched}"
    return {
        "minutes": [float(row["seconds"]) / 60 for row in rows],
        "errors": [float(row[watched] or "nan") for row in rows],
    }


def _value(found: Mapping[str, Any], column: Column) -> float | None:
    part = found["valid"] if column.test == "valid" else found["tests"].get(column.test, {})
    value = part.get(column.error)
    return None if value is None else column.scale * value


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = f"{np.mean(known):.3g}"
    return f"{text} ± {np.std(known, ddof=1):.2g}" if len(known) > 1 else text


def _training(seeds: Sequence[Mapping[str, Any]]) -> str:
    epochs = "/".join(str(found["epochs"]) for found in seeds)
    minutes = np.mean([found["minutes"] for found in seeds])
    falls = [found["slope_percent"] for found in seeds if found["slope_percent"] is not None]
    change = f", {-np.mean(falls):+.1f}% in the last tenth".replace("-", "−") if falls else ""
    return f"{epochs} epochs, {minutes:.0f} min{change}"
