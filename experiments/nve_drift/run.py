"""Drift of the energy in a long run at constant energy, in single precision. See README.md.

python run.py                          # with the quickstart's model, trained first if it is absent
python run.py --model m.safetensors --structure start.xyz --steps 20000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

import allegro_jax
from md import Stage, simulate, structure_file

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"
MODEL = QUICKSTART / "runs" / "training" / "model.safetensors"
STRUCTURE = QUICKSTART / "data" / "test.xyz"
OUTPUT = HERE / "runs"
LIMIT = 1.0  # meV/atom/ns
EQUILIBRATION, BLOCKS = 4000, 20


def main() -> int:
    options = parser().parse_args()
    if options.model == MODEL and not MODEL.exists():
        train()
    model = allegro_jax.load(options.model)
    atoms = structure_file.read(options.structure)
    bath = {"ensemble": "langevin", "temperature_K": options.temperature}
    at_rest = {"remove_drift_every": 1, "remove_rotation_every": 0 if atoms.pbc.any() else 1}
    started = time.perf_counter()
    run = simulate(
        model.potential,
        atoms,
        [
            Stage(EQUILIBRATION, timestep_fs=options.timestep, **bath, **at_rest),
            Stage(options.steps, timestep_fs=options.timestep),
        ],
        dtype=options.dtype,
        output=OUTPUT / "dynamics",
        trajectory_every=0,
        seed=options.seed,
    )
    seconds = time.perf_counter() - started
    result = {
        "atoms": len(atoms),
        "steps": options.steps,
        "timestep_fs": options.timestep,
        "precision": options.dtype,
        "seconds": seconds,
        **measure(run.log, len(atoms)),
    }
    (OUTPUT / "drift.json").write_text(json.dumps(result, indent=2) + "\n")
    draw(run.log, len(atoms), result, OUTPUT / "drift.png")
    print(table(result))
    return int(abs(result["drift_meV_per_atom_per_ns"]) >= LIMIT)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", type=Path, default=MODEL, help="default: the quickstart's")
    add("--structure", type=Path, default=STRUCTURE, help="default: ethanol of the quickstart")
    add("--steps", type=int, default=100_000, help="at constant energy (default: 100000)")
    add("--timestep", type=float, default=0.5, help="fs (default: 0.5)")
    add("--temperature", type=float, default=300.0, help="of the equilibration, K (default: 300)")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--seed", type=int, default=0)
    return parser


def train() -> None:
    """Train the quickstart's model where the quickstart keeps it; the same command goes on."""
    command = ["train", QUICKSTART / "config.yaml", "--output", MODEL.parent]
    subprocess.run([sys.executable, "-m", "allegro_jax.cli", *map(str, command)], check=True)


def at_constant_energy(log: dict[str, np.ndarray], atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Time in ps and conserved energy in meV/atom, from the end of the equilibration on."""
    inside = log["step"] >= EQUILIBRATION
    time_ps, energy = log["time_fs"][inside] / 1000, log["conserved_eV"][inside]
    return time_ps - time_ps[0], 1000 * (energy - energy[0]) / atoms


def measure(log: dict[str, np.ndarray], atoms: int) -> dict[str, float]:
    """Slope of the straight line fitted to the energy, and its standard error.

    The line is fitted to averages over blocks of time, which are independent where single samples
    are not.
    """
    time_ps, energy = at_constant_energy(log, atoms)
    blocks = np.array_split(np.arange(len(energy)), BLOCKS)
    centres = np.array([time_ps[block].mean() for block in blocks]) / 1000  # ns
    means = np.array([energy[block].mean() for block in blocks])
    (slope, _), covariance = np.polyfit(centres, means, 1, cov=True)
    kelvin = log["temperature_K"][log["step"] >= EQUILIBRATION]
    return {
        "drift_meV_per_atom_per_ns": float(slope),
        "error_meV_per_atom_per_ns": float(np.sqrt(covariance[0, 0])),
        "fluctuation_meV_per_atom": float(energy.std()),
        "temperature_K": float(kelvin.mean()),
    }


def draw(log: dict[str, np.ndarray], atoms: int, result: dict, path: Path) -> None:
    time_ps, energy = at_constant_energy(log, atoms)
    slope = result["drift_meV_per_atom_per_ns"] / 1000
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    axes.plot(time_ps, energy, ".", markersize=1, color="0.6", label="every 10 steps")
    line = energy.mean() + slope * (time_ps - time_ps.mean())
    axes.plot(time_ps, line, color="k", label=f"fit: {1000 * slope:.2g} meV/atom/ns")
    axes.set(xlabel="time (ps)", ylabel="conserved energy − start\n(meV/atom)")
    axes.legend(frameon=False, markerscale=8)
    figure.savefig(path, dpi=150)


def table(result: dict) -> str:
    drift, error = (result[f"{name}_meV_per_atom_per_ns"] for name in ("drift", "error"))
    rows = [
        ("atoms", f"{result['atoms']}"),
        ("steps", f"{result['steps']:,} of {result['timestep_fs']:g} fs"),
        ("precision", result["precision"]),
        ("mean temperature", f"{result['temperature_K']:.0f} K"),
        ("drift of the energy", f"{drift:.3f} ± {error:.3f} meV/atom/ns"),
        ("fluctuation of the energy", f"{result['fluctuation_meV_per_atom']:.4f} meV/atom"),
        ("wall time", f"{result['seconds']:.0f} s"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


if __name__ == "__main__":
    sys.exit(main())
