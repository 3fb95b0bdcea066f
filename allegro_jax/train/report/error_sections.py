"""The sections of a report about errors: of all, by species, by file, and of the worst frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from ase.units import GPa
from matplotlib.axes import Axes

from allegro_jax.train import figures
from allegro_jax.train.report import page
from allegro_jax.train.report.record import History, RunRecord

# Species with plots of their own.
MOST_SPECIES = 12
# Quantity, title, unit, and that unit in eV and Å.
QUANTITIES = (
    ("energy", "energy", "meV", 1e-3),
    ("energy_per_atom", "energy per atom", "meV/atom", 1e-3),
    ("forces", "forces", "meV/Å", 1e-3),
    ("stress", "stress", "GPa", GPa),
)


def headline(record: RunRecord, history: History) -> list[str]:
    best = history[record.model["best_epoch"] - 1] if history else {}
    columns = dict(record.errors)
    counted = " and ".join(f"{own['frames']} {part}" for part, own in columns.items())
    head = [
        "",
        *(f"{part} {kind}" for part in columns for kind in ("RMSE", "MAE")),
        "training RMSE",
    ]
    rows: list[list[page.Cell]] = []
    for name, title, unit, scale in QUANTITIES:
        values = [
            _in(columns[part].get(f"{name}_{kind}"), scale)
            for part in columns
            for kind in ("rmse", "mae")
        ]
        if any(value is not None for value in values):
            training = _in(best.get(f"train_{name}_rmse"), scale)
            rows.append([f"{title} ({unit})", *values, training])
    parts = [
        page.table(head, rows, caption=f"Errors on {counted} frames", kind="headline"),
        page.paragraph(
            "Forces over Cartesian components, stress over its six independent ones. Training "
            "errors are those of the weights as they changed in the course of the best epoch.",
            "quiet",
        ),
    ]
    calibration: list[list[page.Cell]] = [
        [
            f"{part}, {title} ({unit})",
            _in(found["rms"], scale),
            found["ratio"],
            found.get("correlation"),
            found.get("rank_correlation"),
        ]
        for part in columns
        for name, title, unit, scale in QUANTITIES
        if (found := columns[part].get("uncertainty", {}).get(name))
    ]
    if calibration:
        caption = "Uncertainties of the committee against its errors"
        head = ["", "RMS uncertainty", "error / uncertainty", "correlation", "of ranks"]
        parts.append(page.table(head, calibration, caption=caption))
    return parts


def _in(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def parity_section(record: RunRecord) -> list[str]:
    made: list[str] = []
    for part, points in record.points.items():
        errors = record.errors[part]
        drawn = []
        for name, key in (
            ("energy", "energy_per_atom"),
            ("forces", "forces"),
            ("stress", "stress"),
        ):
            if name not in points:
                continue
            pairs = _grouped(points[name]) if name == "forces" else {"": np.asarray(points[name])}
            draw = partial(figures.draw_parity, name=name, pairs=pairs, rmse=errors[f"{key}_rmse"])
            drawn.append(page.picture(draw, f"{part}: predicted against reference {name}"))
        found = record.error_histograms[part].get("energy_per_atom")
        if found:
            scaled = {**found, "edges": [1000 * edge for edge in found["edges"]]}
            draw = partial(
                _draw_errors, found=scaled, label="energy error (meV/atom)", logarithmic=False
            )
            drawn.append(page.picture(draw, f"{part}: distribution of energy errors"))
        if drawn:
            made += [page.heading(part.capitalize(), 3), page.figures(drawn)]
    if made:
        text = (
            "Energies without reference energies. At most 2000 points of each colour, evenly "
            "spaced; the errors are those of all."
        )
        made.append(page.paragraph(text, "quiet"))
    return made


def _grouped(by_species: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The species with the most atoms each by itself, all others together."""
    pairs = {symbol: np.asarray(pair) for symbol, pair in by_species.items()}
    shown = dict(list(pairs.items())[: MOST_SPECIES - 1])
    others = [pair for symbol, pair in pairs.items() if symbol not in shown]
    if others:
        shown["others"] = np.concatenate(others, axis=1)
    return shown


def _draw_errors(axis: Axes, found: Mapping[str, Any], label: str, logarithmic: bool) -> None:
    counts = dict(list(found["counts"].items())[:MOST_SPECIES])
    figures.draw_histogram(axis, found["edges"], counts, label, logarithmic=logarithmic)


def species_section(record: RunRecord) -> list[str]:
    made: list[str] = []
    for part, errors in record.errors.items():
        found = errors["by_species"]
        if not found:
            continue
        rows = [
            [
                symbol,
                own["atoms"],
                1000 * own["forces_rmse"],
                1000 * own["forces_mae"],
                100 * own["forces_rmse"] / own["label_rms"] if own["label_rms"] else None,
                1000 * own["largest"],
            ]
            for symbol, own in found.items()
        ]
        head = ["", "atoms", "force RMSE (meV/Å)", "MAE (meV/Å)", "RMSE / RMS force (%)"]
        made += [
            page.heading(part.capitalize(), 3),
            page.table([*head, "largest |ΔF| (meV/Å)"], rows),
        ]
        bars = {
            kind: [1000 * own[f"forces_{kind.lower()}"] for own in found.values()]
            for kind in ("RMSE", "MAE")
        }
        draw_bars = partial(
            figures.draw_bars, names=list(found), values=bars, label="force error (meV/Å)"
        )
        draw_errors = partial(
            _draw_errors,
            found=record.error_histograms[part]["forces"],
            label="error of a force, |ΔF| (eV/Å)",
            logarithmic=True,
        )
        drawn = [
            page.picture(draw_bars, f"{part}: force errors by species"),
            page.picture(draw_errors, f"{part}: distribution of force errors by species"),
        ]
        if len(found) > 1:
            drawn += [
                page.picture(
                    partial(
                        figures.draw_parity,
                        name="forces",
                        pairs={symbol: np.asarray(pair)},
                        rmse=found[symbol]["forces_rmse"],
                    ),
                    f"{part}: predicted against reference forces of {symbol}",
                    f"forces on {symbol}",
                )
                for symbol, pair in list(record.points[part]["forces"].items())[:MOST_SPECIES]
            ]
        made.append(page.figures(drawn))
    return made


def file_section(record: RunRecord) -> list[str]:
    made: list[str] = []
    shown = [one for one in QUANTITIES if one[0] != "energy"]
    for part, errors in record.errors.items():
        rows = [
            [file, own["frames"], own["atoms"]]
            + [
                _in(own.get(f"{name}_{kind}"), scale)
                for name, _, _, scale in shown
                for kind in ("rmse", "mae")
            ]
            for file, own in errors["files"].items()
        ]
        head = ["", "frames", "atoms"]
        for _, title, unit, _ in shown:
            head += [f"{title} RMSE ({unit})", "MAE"]
        made += [page.heading(part.capitalize(), 3), page.table(head, rows)]
        if errors["other_files"]:
            made.append(page.paragraph(f"and {errors['other_files']} more files", "quiet"))
    return made


def worst_frames_section(record: RunRecord) -> list[str]:
    made: list[str] = []
    head = ["file", "frame", "formula", "energy error (meV/atom)", "force RMSE (meV/Å)"]
    for part, tables in record.worst.items():
        for quantity, rows in tables.items():
            if not rows:
                continue
            cells = [
                [
                    row["file"],
                    row["frame"],
                    row["formula"],
                    _in(row["energy_per_atom"], 1e-3),
                    _in(row["forces_rmse"], 1e-3),
                    "–"
                    if row["worst_atom"] is None
                    else f"{row['worst_species']} {row['worst_atom']}",
                    _in(row["worst_force"], 1e-3),
                ]
                for row in rows
            ]
            caption = f"{part.capitalize()}, by the error of {quantity}"
            made.append(
                page.table([*head, "worst atom", "its |ΔF| (meV/Å)"], cells, caption=caption)
            )
    if made:
        made.append(page.paragraph("Frames and atoms are counted from 0.", "quiet"))
    return made
