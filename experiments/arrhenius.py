"""Diffusion coefficients at several temperatures: activation energy, with its error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.units import kB
from dynamics_report import Found, cell, over_seeds

BEGIN, END = "<!-- arrhenius: made by dynamics.py -->", "<!-- end of arrhenius -->"
ROOM_K = 300.0


@dataclasses.dataclass(frozen=True)
class Arrhenius:
    """Runs at several temperatures, whose diffusion follows D = D0 exp(-E / kT).

    Attributes:
        species: whose diffusion.
        analysis: options of ``allegro-jax analyse``, the same for all temperatures.
        series: names of runs, by the label of what they have in common.
    """

    species: str
    analysis: Mapping[str, Any]
    series: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Arrhenius:
        """From YAML."""
        series = {label: tuple(names) for label, names in said["series"].items()}
        return cls(**(dict(said) | {"series": series}))


@dataclasses.dataclass(frozen=True)
class Line:
    """A fitted ln D against 1/kT.

    Attributes:
        points: temperature (K), D (cm²/s) and its standard error, a row for each temperature.
        activation_eV: minus the slope, and its standard error.
        extrapolated: D at 300 K (cm²/s), and its standard error.
        chi2_per_degree: squared distance of the points from the line, in their errors.
        constants: value at 1/kT = 0 (ln D0), and slope.
    """

    points: np.ndarray
    activation_eV: tuple[float, float]
    extrapolated: tuple[float, float]
    chi2_per_degree: float
    constants: tuple[float, float]


def fit(points: np.ndarray) -> Line:
    """Least squares of ln D on 1/kT, weighted by the errors of D.

    Args:
        points: temperature (K), D (cm²/s) and its standard error, a row for each temperature.

    Raises:
        ValueError: less than three temperatures, or a D or an error that is not positive.
    """
    temperature, value, error = points.T
    if len(points) < 3:
        raise ValueError(f"a line with an error needs three temperatures, not {len(points)}")
    if not (np.all(value > 0) and np.all(error > 0)):  # NaN: no error is known
        raise ValueError("all diffusion coefficients, and their errors, must be positive")
    x, y, weight = 1 / (kB * temperature), np.log(value), (value / error) ** 2
    design = np.stack([np.ones_like(x), x], 1)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    constants = covariance @ design.T @ (weight * y)
    room = np.array([1, 1 / (kB * ROOM_K)])
    there = float(np.exp(room @ constants))
    return Line(
        points,
        (float(-constants[1]), float(np.sqrt(covariance[1, 1]))),
        (there, there * float(np.sqrt(room @ covariance @ room))),
        float(np.sum(weight * (y - design @ constants) ** 2) / (len(points) - 2)),
        (float(constants[0]), float(constants[1])),
    )


def lines(
    described: Arrhenius, results: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, Line]:
    """A line for each series of which three temperatures have been analysed.

    Args:
        described: what belongs together.
        results: ``bath K`` (its temperature), ``D`` and its ``error`` (cm²/s), by run and seed.
    """
    found = {}
    for label, names in described.series.items():
        rows = []
        for name in names:
            seeds = list(results.get(name, {}).values())
            if seeds:
                value, error = over_seeds([(one["D"], one["error"]) for one in seeds])
                temperature = np.mean([one["bath K"] for one in seeds])
                rows.append((temperature, value, error or np.nan))
        if len(rows) >= 3:
            found[label] = fit(np.array(rows))
    return found


def diffusion(described: Arrhenius, found: Found) -> dict[str, float]:
    """``D`` and its ``error``, cm²/s, of an analysis."""
    (row,) = [one for one in found.summary["diffusion"] if one["species"] == described.species]
    return {"D": row["D_cm2_per_s"], "error": row["D_cm2_per_s_error"]}


def table(found: Mapping[str, Line]) -> str:
    """Markdown: temperatures and D of each series, then the activation energies."""
    text = ["| | T (K) | D (10⁻⁶ cm²/s) |", "| --- | --- | --- |"]
    for label, line in found.items():
        for temperature, value, error in line.points:
            text.append(f"| {label} | {temperature:.0f} | {cell([(value, error)], 1e6)} |")
    text += [
        "",
        "| | activation energy (eV) | D at 300 K, extrapolated (10⁻⁸ cm²/s) | χ² per degree |",
    ]
    text.append("| --- | --- | --- | --- |")
    for label, line in found.items():
        energy, room = cell([line.activation_eV]), cell([line.extrapolated], 1e8)
        text.append(f"| {label} | {energy} | {room} | {line.chi2_per_degree:.1f} |")
    return "\n".join(text)


def draw(axis: Any, found: Mapping[str, Line]) -> None:
    """Points with errors and the fitted lines, on axes."""
    for number, (label, line) in enumerate(found.items()):
        temperature, value, error = line.points.T
        colour = f"C{number}"
        axis.errorbar(1000 / temperature, value, error, fmt="o", color=colour, markersize=4)
        x = np.linspace(1000 / temperature.max(), 1000 / temperature.min())
        constant, slope = line.constants
        axis.plot(x, np.exp(constant + slope * x / (1000 * kB)), color=colour, linewidth=1)
        energy = f"{label}: {cell([line.activation_eV])} eV"
        axis.plot([], [], "o-", color=colour, markersize=4, label=energy)
    axis.set(title="Arrhenius", xlabel="1000 K / temperature", ylabel="D (cm²/s)", yscale="log")
    if found:
        axis.legend(fontsize="x-small", frameon=False)
