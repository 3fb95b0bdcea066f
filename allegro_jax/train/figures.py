"""Figures of a training run: learning curve and parity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from allegro_jax.data.frames import Frame

TRAIN, VALID, GUIDE = "#4C72B0", "#DD8452", "0.65"


def learning_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss, energy and force errors (and stress errors, where there are any) against the epoch."""
    panels = [("loss", "loss", 1.0)]
    for name, label in (
        ("energy_per_atom_rmse", "energy RMSE (meV/atom)"),
        ("forces_rmse", "force RMSE (meV/Å)"),
        ("stress_rmse", "stress RMSE (meV/Å³)"),
    ):
        if any(f"{part}_{name}" in row for row in history for part in ("train", "valid")):
            panels.append((name, label, 1000.0))
    figure, axes = _panels(len(panels))
    epochs = np.asarray([row["epoch"] for row in history])
    best = int(np.nanargmin([row["valid_loss"] for row in history]))
    for axis, (name, label, unit) in zip(axes, panels, strict=True):
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
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.grid(True, which="major", color="0.92")
    axes[0].legend(frameon=False)
    _save(figure, path)


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
    quantities = {
        "energy": ("energy − mean (meV/atom)", "meV/atom"),
        "forces": ("force component (eV/Å)", "meV/Å"),
        "stress": ("stress component (eV/Å³)", "meV/Å³"),
    }
    pairs = {name: _labelled(name, frames, predictions) for name in quantities}
    pairs = {name: pair for name, pair in pairs.items() if pair[0].size}
    figure, axes = _panels(max(len(pairs), 1))
    for axis, (name, (label, predicted)) in zip(axes, pairs.items(), strict=False):
        text, unit = quantities[name]
        if name == "energy":  # shown per atom and about the mean
            label, predicted = 1000 * (label - label.mean()), 1000 * (predicted - label.mean())
        rmse = np.sqrt(np.mean((predicted - label) ** 2)) * (1 if name == "energy" else 1000)
        span = [min(label.min(), predicted.min()), max(label.max(), predicted.max())]
        axis.plot(span, span, color=GUIDE, linewidth=1, zorder=0)
        axis.plot(label, predicted, ".", color=TRAIN, markersize=3, alpha=0.5, rasterized=True)
        axis.set(xlabel=f"reference {text}", ylabel="model", title=f"RMSE {rmse:.3g} {unit}")
        axis.set_aspect("equal", adjustable="datalim")
    figure.suptitle(f"{len(frames)} {part} frames")
    _save(figure, path)


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


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=160)
