"""The sections of a report about the run: learning curves, timing, settings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from allegro_jax.config import AllegroConfig
from allegro_jax.data.config import DataConfig
from allegro_jax.settings import names, plain
from allegro_jax.train import figures
from allegro_jax.train.config import FitConfig
from allegro_jax.train.report import page
from allegro_jax.train.report.record import History, RunRecord


def learning_section(history: History) -> list[str]:
    if not history:
        return []
    drawn = [
        page.picture(partial(_draw_curve, history=history, panel=panel), f"learning: {panel[1]}")
        for panel in figures.panels_of(history)
    ]
    draw_rate = partial(figures.draw_learning_rate, history=history)
    drawn.append(page.picture(draw_rate, "learning rate"))
    return [page.figures(drawn)]


def _draw_curve(axis: Axes, history: History, panel: figures.Panel) -> None:
    figures.draw_curve(axis, history, panel)
    if panel[0] == "loss":
        axis.legend(frameon=False, fontsize="small")


def timing_section(record: RunRecord, history: History) -> list[str]:
    timing = record.timing
    rows: list[list[page.Cell]] = [
        ["compilations", f"{timing['compilations']} in {duration(timing['compile_seconds'])}"],
    ]
    if history:
        rows.insert(0, ["training, in all", duration(history[-1]["seconds"])])
    epoch = typical_epoch(history, timing["first_epoch"])
    if epoch:
        seconds, waiting = epoch
        rows += [
            ["epoch, validation included (median)", duration(seconds)],
            [
                "step, with its share of the validation",
                f"{1e3 * seconds / timing['steps_per_epoch']:.4g} ms",
            ],
            ["waiting for data", f"{100 * waiting / seconds:.2g}% of an epoch"],
            [
                "throughput",
                f"{timing['frames'] / seconds:.4g} frames/s, "
                f"{timing['atoms'] / seconds:.4g} atoms/s",
            ],
        ]
    rows += [
        ["steps per epoch", timing["steps_per_epoch"]],
        ["slots that are padding", f"{100 * timing['padding']:.3g}%"],
    ]
    return [page.table(["", ""], rows)]


def typical_epoch(history: History, first: int) -> tuple[float, float] | None:
    """Median seconds of an epoch, and those of them that steps waited for data.

    Args:
        history: rows of metrics, in which times are summed up.
        first: the first epoch of the last session, which compiled; it is left out if it can be.
    """
    columns = ("seconds", "waiting_seconds")
    sums = [[row.get(column, np.nan) for column in columns] for row in history]
    took = np.diff(np.asarray([[0.0, 0.0], *sums]), axis=0)
    for usual in (took[first:], took[1:], took):
        if len(usual):
            seconds, waiting = np.median(usual, axis=0)
            return (float(seconds), float(waiting)) if seconds > 0 else None
    return None


def configuration_section(record: RunRecord) -> list[str]:
    given = record.configuration
    sections = {
        "data": (given["data"], _defaults(DataConfig)),
        "model": (_by_symbol(record.architecture), _defaults(AllegroConfig)),
        "training": (given["training"], _defaults(FitConfig)),
    }
    found = "from the model file or the data" if given.get("fine_tune") else "from the data"
    rows: list[list[page.Cell]] = []
    for section, (values, defaults) in sections.items():
        for key, value in values.items():
            origin = ""
            if section == "model" and key in record.from_data:
                origin = found
            elif section == "model" and key in given["model"]:
                origin = ""
            elif key in defaults and defaults[key] == value:
                origin = "default"
            rows.append([f"{section}.{key}", _setting(value), origin])
    rows += [[key, _setting(value), ""] for key, value in given.items() if key not in sections]
    return [page.table(["setting", "value", ""], rows)]


def _by_symbol(architecture: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a model, with the symbols of what has a number for each species."""
    species = architecture["species"]
    numbers = {
        name: dict(zip(species, architecture[name], strict=True))
        for name in ("average_neighbours", "species_scales", "species_shifts")
        if isinstance(architecture[name], list)
    }
    return architecture | numbers


def _defaults(section: type) -> dict[str, Any]:
    return {
        name: plain(getattr(section, name)) for name in names(section) if hasattr(section, name)
    }


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) if value else "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_setting(item)}" for key, item in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A time in the units that suit it."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
