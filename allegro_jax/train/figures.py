"""Figures of a training run: learning curves, parity, distributions.

Each ``draw_*`` fills one axis; :func:`learning_curve` and :func:`parity` put some of them side by
side in a PNG file, and :func:`inline_picture` makes one of them a picture for a web page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from allegro_jax.data.frames import Frame

TRAIN, VALID, TEST, GUIDE = "#4C72B0", "#DD8452", "#55A868", "0.65"
COLOURS = (TRAIN, VALID, TEST, "#C44E52", "#8172B3", "#937860", "#DA8BC3", "#8C8C8C")

# Column, label and unit of what a learning curve shows.
Panel = tuple[str, str, float]
PANELS: tuple[Panel, ...] = (
    ("loss", "loss", 1.0),
    ("energy_per_atom_rmse", "energy RMSE (meV/atom)", 1000.0),
    ("forces_rmse", "force RMSE (meV/Å)", 1000.0),
    ("stress_rmse", "stress RMSE (meV/Å³)", 1000.0),
)
# Axis label, its factor, unit of the RMSE and its factor, of what a parity plot shows.
PARITY = {
    "energy": ("energy (meV/atom)", 1000.0, "meV/atom", 1.0),
    "forces": ("force component (eV/Å)", 1.0, "meV/Å", 1000.0),
    "stress": ("stress component (eV/Å³)", 1.0, "meV/Å³", 1000.0),
}

History = Sequence[Mapping[str, Any]]


# -- files -----------------------------------------------------------------------------------------


def learning_curve(history: History, path: Path) -> None:
    """Loss, energy and force errors (and stress errors, where there are any) against the epoch."""
    panels = panels_of(history)
    figure, axes = _panels(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        draw_curve(axis, history, panel)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=160)


def parity(
    frames: Sequence[Frame],
    predictions: Sequence[Mapping[str, Any]],
    path: Path,
    part: str,
) -> None:
    """Predicted against labelled energies, forces and stress.

    Args:
        frames: with labels.
        predictions: of each frame, as :func:`allegro_jax.evaluation.predict_frames` gives them.
        path: of the picture.
        part: which frames these are ("test", "validation").
    """
    pairs = {name: _labelled(name, frames, predictions) for name in PARITY}
    pairs = {name: pair for name, pair in pairs.items() if pair[0].size}
    figure, axes = _panels(max(len(pairs), 1))
    for axis, (name, (label, predicted)) in zip(axes, pairs.items(), strict=False):
        if name == "energy":  # shown about the mean
            label, predicted = label - label.mean(), predicted - label.mean()
        rmse = float(np.sqrt(np.mean((predicted - label) ** 2)))
        draw_parity(axis, name, {"": np.stack([label, predicted])}, rmse)
    figure.suptitle(f"{len(frames)} {part} frames")
    figure.savefig(path, dpi=160)


def inline_picture(draw: Callable[[Axes], object], size: tuple[float, float] = (4.4, 3.3)) -> str:
    """A figure with one axis as the ``data:`` address of an SVG picture, without a background.

    Args:
        draw: fills the axis.
        size: width and height, inches.
    """
    figure = Figure(figsize=size)
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    figure.subplots_adjust(left=0.17, right=0.97, bottom=0.17, top=0.9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.patch.set_alpha(0)
    draw(axis)
    file = io.BytesIO()
    # text stays text, in whatever font the reader has; the same figure is the same bytes
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "allegro-jax"}):
        figure.savefig(file, format="svg", transparent=True, dpi=120, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()


# -- one axis each ---------------------------------------------------------------------------------


def panels_of(history: History) -> list[Panel]:
    """What there is to show of a history."""
    return [
        panel
        for panel in PANELS
        if any(f"{part}_{panel[0]}" in row for row in history for part in ("train", "valid"))
    ]


def draw_curve(axis: Axes, history: History, panel: Panel) -> None:
    """Training and validation against the epoch, with a dot at the best epoch."""
    name, label, unit = panel
    epochs = np.asarray([row["epoch"] for row in history])
    losses = np.asarray([row["valid_loss"] for row in history], float)
    best = int(np.nanargmin(losses)) if np.isfinite(losses).any() else len(losses) - 1
    for part, colour, text in (
        ("train", TRAIN, "training"),
        ("valid", VALID, "validation (averaged weights)"),
    ):
        values = unit * np.asarray([row.get(f"{part}_{name}", np.nan) for row in history])
        if np.isfinite(values).any():
            axis.plot(epochs, values, color=colour, linewidth=1.3, label=text)
            if part == "valid" and np.isfinite(values[best]):
                axis.plot(epochs[best], values[best], "o", color=colour, markersize=5)
    axis.set(xlabel="epoch", ylabel=label, yscale="log")
    if name != "loss":
        _plain_logarithmic(axis.yaxis, (1, 2, 5))
    axis.grid(True, which="major", color="0.92")


def draw_learning_rate(axis: Axes, history: History) -> None:
    epochs, rates = ([row[name] for row in history] for name in ("epoch", "learning_rate"))
    axis.plot(epochs, rates, color=TRAIN, linewidth=1.3)
    axis.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    axis.grid(True, which="major", color="0.92")


def draw_parity(
    axis: Axes,
    name: str,
    pairs: Mapping[str, Float[np.ndarray, "2 _"]],
    rmse: float,
) -> None:
    """Predictions against labels.

    Args:
        axis: to draw on.
        name: ``energy``, ``forces`` or ``stress``; sets the units.
        pairs: labels and predictions in eV and Å, by name; each has its colour.
        rmse: for the title, in eV and Å.
    """
    text, factor, unit, rmse_factor = PARITY[name]
    every = factor * np.concatenate(list(pairs.values()), axis=1)
    span = [float(every.min()), float(every.max())]
    axis.plot(span, span, color=GUIDE, linewidth=1, zorder=0)
    size = 3 if every.size > 1000 else 5
    for (key, (label, predicted)), colour in zip(pairs.items(), _colours(pairs), strict=True):
        axis.plot(
            factor * label,
            factor * predicted,
            ".",
            color=colour,
            markersize=size,
            alpha=0.5,
            rasterized=True,
            label=key or None,
        )
    rmse_text = f"RMSE {factor * rmse_factor * rmse:.3g} {unit}"
    axis.set(xlabel=f"reference {text}", ylabel="model", title=rmse_text)
    axis.set_aspect("equal", adjustable="datalim")
    if len(pairs) > 1:
        axis.legend(frameon=False, markerscale=2, fontsize="small")


def draw_histogram(
    axis: Axes,
    edges: Sequence[float],
    counts: Mapping[str, Sequence[int]],
    label: str,
    *,
    colours: Sequence[str] = COLOURS,
    logarithmic: bool = False,
) -> None:
    """Shares of samples between edges, as steps, one line for each of several sets of samples."""
    for (name, own), colour in zip(counts.items(), _cycled(colours, len(counts)), strict=True):
        total = max(sum(own), 1)
        axis.stairs(100 * np.asarray(own) / total, edges, color=colour, linewidth=1.3, label=name)
    filled = np.flatnonzero(np.sum(list(counts.values()), axis=0))
    if len(filled):
        axis.set_xlim(edges[max(filled[0] - 1, 0)], edges[min(filled[-1] + 2, len(edges) - 1)])
    axis.set(xlabel=label, ylabel="share (%)")
    if logarithmic:
        axis.set_xscale("log")
        _plain_logarithmic(axis.xaxis, (1,))
    if len(counts) > 1:
        axis.legend(frameon=False, fontsize="small")


def draw_bars(
    axis: Axes, names: Sequence[str], values: Mapping[str, Sequence[float]], label: str
) -> None:
    """Bars side by side, a group for each name."""
    width = 0.8 / max(len(values), 1)
    for place, (key, own) in enumerate(values.items()):
        at = np.arange(len(names)) + (place - (len(values) - 1) / 2) * width
        axis.bar(at, own, width, color=COLOURS[place % len(COLOURS)], label=key)
    axis.set_xticks(np.arange(len(names)), names, rotation=90 if len(names) > 12 else 0)
    axis.set(ylabel=label)
    if len(values) > 1:
        axis.legend(frameon=False, fontsize="small")


def _plain_logarithmic(axis: Axis, digits: Sequence[int]) -> None:
    """Plain numbers at some multiples of powers of ten."""
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _colours(names: Mapping[str, Any]) -> list[str]:
    return _cycled(COLOURS, len(names))


def _cycled(colours: Sequence[str], number: int) -> list[str]:
    return [colours[place % len(colours)] for place in range(number)]


def _labelled(
    name: str, frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = [np.zeros(0)], [np.zeros(0)]
    for frame, prediction in zip(frames, predictions, strict=True):
        label = getattr(frame, name)
        if label is None or name not in prediction:
            continue
        scale = 1 / max(len(frame), 1) if name == "energy" else 1.0
        labels.append(scale * np.ravel(label))
        predicted.append(scale * np.ravel(prediction[name]))
    return np.concatenate(labels), np.concatenate(predicted)


def _panels(number: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(4.2 * number, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, number, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)
