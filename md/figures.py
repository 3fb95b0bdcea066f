"""Figures of a run: temperature, energies and conserved quantity against time."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def draw(
    log: dict[str, np.ndarray], path: Path, *, atoms: int, temperature_K: float | None
) -> None:
    """Write a PNG with three panels from the columns of a log."""
    # not pyplot: it would take hold of a display and of the user's own figures
    from matplotlib.figure import Figure

    time_ps = log["time_fs"] / 1000
    figure = Figure(figsize=(7, 7), layout="constrained")
    thermal, potential, conserved = figure.subplots(3, sharex=True)

    thermal.plot(time_ps, log["temperature_K"], lw=0.8)
    if temperature_K is not None:
        thermal.axhline(temperature_K, color="k", ls="--", lw=0.8)
    thermal.set_ylabel("temperature (K)")

    def per_atom(values: np.ndarray) -> np.ndarray:
        return 1000 * (values - values[0]) / atoms

    total = log["potential_eV"] + log["kinetic_eV"]
    potential.plot(time_ps, per_atom(log["potential_eV"]), lw=0.8, label="potential")
    potential.plot(time_ps, per_atom(total), lw=0.8, label="potential + kinetic")
    potential.set_ylabel("energy − start (meV/atom)")
    potential.legend(frameon=False)

    conserved.plot(time_ps, per_atom(log["conserved_eV"]), lw=0.8)
    conserved.set_ylabel("conserved − start (meV/atom)")
    conserved.set_xlabel("time (ps)")
    figure.savefig(path, dpi=150)
