"""Time and memory per atom against the number of atoms, and what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

# The paper's, on one A100: atoms, µs per atom and step
PAPER = {
    "silver": ((71, 67.463), (1_022_400, 0.289)),
    "li3po4": ((192, 27.785), (421_824, 0.552)),
}
NAMES = {"silver": "Ag", "li3po4": "Li₃PO₄"}
COLOURS = {"silver": "C0", "li3po4": "C3"}
BUDGET = 200  # bytes per atom that silver is to take at most
MARKS = ("o", "s", "^", "D")  # of devices
LINES = {"collapsed": "-", "network": "--"}


def draw(machines: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (device, found), mark in zip(machines.items(), MARKS, strict=False):
        for system in NAMES:
            for form, line in LINES.items():
                rows = [r for r in found["rows"] if (r["system"], r["form"]) == (system, form)]
                if not rows:
                    continue
                atoms = [row["atoms"] for row in rows]
                style = {"color": COLOURS[system], "linestyle": line, "marker": mark}
                label = f"{NAMES[system]}, {form}: {device}"
                micros = [1e6 * row["seconds_per_step"] / row["atoms"] for row in rows]
                time.plot(atoms, micros, markersize=4, label=label, **style)
                planned = [row["bytes_of_program"] / row["atoms"] for row in rows]
                memory.plot(atoms, planned, markersize=4, label=label, **style)
    for system, ((few, most), (many, least)) in PAPER.items():
        # through both: so much per step, and so much per atom
        overhead = (most - least) / (1 / few - 1 / many)
        atoms = np.geomspace(few, 1e8, 200)
        label = f"{NAMES[system]}: paper, A100"
        curve = least + overhead * (1 / atoms - 1 / many)
        time.plot(atoms, curve, ":", color=COLOURS[system], label=label)
        time.plot((few, many), (most, least), "*", color=COLOURS[system])
    memory.axhline(BUDGET, color="0.5", linewidth=1, label=f"{BUDGET} B")
    time.set(xscale="log", yscale="log", xlabel="atoms", ylabel="µs per atom and step")
    memory.set(xscale="log", yscale="log", xlabel="atoms", ylabel="bytes per atom, of the program")
    for axis in (time, memory):
        axis.grid(True, which="major", color="0.92")
    place = {"loc": "outside lower center", "ncols": 3, "frameon": False}
    lines, names = time.get_legend_handles_labels()
    figure.legend(lines, names, fontsize="x-small", handlelength=3.5, **place)
    memory.legend(frameon=False, fontsize="x-small", handles=memory.lines[-1:])
    figure.savefig(path, dpi=130)
    plt.close(figure)
