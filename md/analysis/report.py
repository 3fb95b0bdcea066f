"""What an analysis says: a summary in numbers and in words, CSV files and figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from md import figures
from md.analysis.findings import Findings
from md.durable import replacing
from md.names import QUANTITIES
from md.tables import write_csv

SUMMARY = "summary.json"
TABLES = (*QUANTITIES, "shells", "diffusion")
_OF_ROWS = ("bonds", "shells", "diffusion")  # not curves


def summary(findings: Findings) -> dict[str, Any]:
    """Numbers and settings, as summary.json has them."""
    recording = findings.recording
    source, symbols = recording.source, np.asarray(recording.source.symbols)
    times = recording.times_fs
    volume = None
    if all(source.pbc):
        volume = float(np.abs(np.linalg.det(recording.cells)).mean())
    return {
        "trajectory": str(source.path),
        "frames": len(recording.numbers),
        "first_frame": int(recording.numbers[0]),
        "last_frame": int(recording.numbers[-1]),
        "atoms": {symbol: int(np.sum(symbols == symbol)) for symbol in recording.species},
        "pbc": list(source.pbc),
        "volume_A3": volume,
        "length_fs": None if times is None else float(times[-1] - times[0]),
        "settings": findings.settings,
        **{name: _rows(findings.tables.get(name, {})) for name in _OF_ROWS},
        "tables": [name for name in TABLES if name in findings.tables],
        "notes": findings.notes,
        "left_out": findings.left_out,
    }


def text(summary: Mapping[str, Any]) -> str:
    """A summary for people."""
    atoms = ", ".join(f"{number} {symbol}" for symbol, number in summary["atoms"].items())
    frames = f"{summary['frames']} frames of {sum(summary['atoms'].values())} atoms ({atoms})"
    if summary["length_fs"] is not None:
        frames += f", {summary['length_fs'] / 1000:g} ps"
    blocks = summary["settings"]["blocks"]
    errors = f"errors from {blocks} blocks" if blocks else "too short for errors"
    lines = [f"{summary['trajectory']}: {frames}; {errors}"]
    if summary["shells"]:
        lines.append("first shells: peak of g(r), length, number of neighbours")
    for row in summary["shells"]:
        peak = "      " if row["peak_A"] is None else f"{row['peak_A']:6.2f}"
        given = " (given)" if row["cutoff_from"] == "given" else ""
        lines.append(
            f"  {row['centre'] + '-' + row['neighbour']:6}{peak} Å {row['cutoff_A']:6.2f} Å "
            f"{_with_error(row['coordination'], row['coordination_error'], '8.3f')}{given}"
        )
    lines += _bonds(summary)
    if summary["diffusion"]:
        lines.append("diffusion coefficients")
    for row in summary["diffusion"]:
        value = _with_error(row["D_cm2_per_s"], row["D_cm2_per_s_error"], ".3e")
        what = f"{row['from_fs']:g} to {row['to_fs']:g} fs"
        if row["exponent"] is not None:
            what += f", where MSD ~ t^{row['exponent']:.2f}"
        lines.append(f"  {row['species']:3} {row['method']:10} {value} cm²/s ({what})")
    if "dos" in summary["tables"]:
        dos = summary["settings"]["dos"]
        lines.append(
            f"density of states up to {dos['highest_frequency_THz']:g} THz, lines "
            f"{1000 / dos['longest_lag_fs']:.2g} THz wide"
        )
    lines += [f"note: {note}" for note in summary["notes"]]
    for reason in dict.fromkeys(summary["left_out"].values()):
        names = [name for name, why in summary["left_out"].items() if why == reason]
        lines.append(f"left out: {', '.join(names)}: {reason}")
    return "\n".join(lines)


def _bonds(summary: Mapping[str, Any]) -> list[str]:
    if not summary["bonds"]:
        return []
    lines = ["bonds of the first frame: mean length, shortest to longest"]
    for row in summary["bonds"]:
        what = f"  {row['first'] + '-' + row['second']:6}{row['bonds']:6}"
        if row["bonds"]:
            mean = _with_error(row["mean_A"], row["mean_A_error"], "8.3f")
            what += f"{mean} Å, {row['shortest_A']:.3f} to {row['longest_A']:.3f} Å"
        lines.append(f"{what}; {row['broken']} broken, {row['new']} new")
    change = summary["settings"]["bonds"]["first_change"]
    if change is not None:
        names = "-".join(f"{s}{a}" for s, a in zip(change["symbols"], change["atoms"], strict=True))
        lines.append(f"  first in frame {change['frame']}: {names} {change['change']}")
    return lines


def write(folder: Path, tables: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write NAME.csv of each table, figures of those that have curves, and summary.json.

    Files of an earlier analysis in the same folder go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        for suffix in (".csv", ".png"):
            (folder / (name + suffix)).unlink(missing_ok=True)
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
        if name not in _OF_ROWS:
            figures.draw_table(table, folder / f"{name}.png")
    with replacing(folder / SUMMARY) as partial:
        partial.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a table, as JSON has them."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and np.isnan(value) else value

    return [
        {name: plain(value) for name, value in zip(table, row, strict=True)}
        for row in zip(*table.values(), strict=True)
    ]


def _with_error(value: float | None, error: float | None, form: str) -> str:
    words = "unknown" if value is None else f"{value:{form}}"
    return words if error is None else f"{words} ± {error:{form.lstrip('8')}}"
