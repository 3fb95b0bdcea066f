"""The quickstart: train on the shipped data, test, run dynamics, draw figures. See README.md.

Everything is done with the commands a user types; they are printed as they run.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "runs"
TRAINING, DYNAMICS = OUTPUT / "training", OUTPUT / "dynamics"
MODEL = TRAINING / "model.safetensors"
TEST = HERE / "data" / "test.xyz"
PREDICTIONS, ERRORS = OUTPUT / "test-predictions.extxyz", OUTPUT / "test-errors.json"
TIMESTEP_FS, STEPS, TEMPERATURE_K = 0.5, 10_000, 300
FORCE_RMSE_LIMIT = 0.060  # eV/Å; a change that makes the quickstart worse than this is a mistake


def main() -> int:
    started = time.perf_counter()
    shutil.rmtree(OUTPUT, ignore_errors=True)  # of an earlier run
    OUTPUT.mkdir()
    allegro("train", HERE / "config.yaml", "--output", TRAINING)
    allegro("evaluate", MODEL, TEST, "--output", PREDICTIONS, "--json", ERRORS)
    allegro(
        *("md", MODEL, TEST, "--ensemble", "nvt", "--temperature", TEMPERATURE_K),
        *("--timestep", TIMESTEP_FS, "--steps", STEPS, "--output", DYNAMICS),
    )
    draw_parity(OUTPUT / "test-parity.png")
    errors = json.loads(ERRORS.read_text())
    report(errors, time.perf_counter() - started)
    if errors["forces_rmse"] >= FORCE_RMSE_LIMIT:
        limit = 1000 * FORCE_RMSE_LIMIT
        print(f"The force error is above the {limit:.0f} meV/Å expected here.", file=sys.stderr)
        return 1
    return 0


def allegro(*arguments: object) -> None:
    command = ["allegro-jax", *map(relative, arguments)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    finished = subprocess.run([sys.executable, "-m", "allegro_jax.cli", *command[1:]])
    if finished.returncode:
        sys.exit(finished.returncode)


def relative(argument: object) -> str:
    """Paths as short as they can be typed from here."""
    if isinstance(argument, Path) and argument.is_relative_to(Path.cwd()):
        return str(argument.relative_to(Path.cwd()))
    return str(argument)


def draw_parity(path: Path) -> None:
    """Predicted against computed forces and energies of the test set."""
    labels, predictions = ase.io.read(TEST, ":"), ase.io.read(PREDICTIONS, ":")
    forces = [np.concatenate([a.get_forces().ravel() for a in x]) for x in (labels, predictions)]
    energies = [np.array([a.get_potential_energy() for a in x]) for x in (labels, predictions)]
    energies = [values - energies[0].mean() for values in energies]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout="constrained")
    for ax, (label, prediction), name, unit in (
        (axes[0], forces, "force component", "eV/Å"),
        (axes[1], energies, "energy − mean", "eV"),
    ):
        rmse = 1000 * np.sqrt(np.mean((prediction - label) ** 2))
        span = [label.min(), label.max()]
        ax.plot(span, span, color="0.6", linewidth=1)
        ax.plot(label, prediction, ".", markersize=3)
        ax.set(
            xlabel=f"PBE/def2-SVP {name} ({unit})",
            ylabel=f"Allegro ({unit})",
            title=f"test set: RMSE {rmse:.1f} m{unit}",
        )
    figure.savefig(path, dpi=150)


def report(errors: dict, seconds: float) -> None:
    def line(name: str, of: str) -> str:
        rmse, mae = (1000 * errors[f"{name}_{kind}"] for kind in ("rmse", "mae"))
        return f"{rmse:6.1f} RMSE {mae:6.1f} MAE  {of}"

    picoseconds = STEPS * TIMESTEP_FS / 1000
    model, test, config = relative(MODEL), relative(TEST), relative(HERE / "config.yaml")
    print(
        f"""
Done in {seconds:.0f} s. On the test set (ethanol at 300-600 K, PBE/def2-SVP):
  forces {line("forces", "meV/Å")}
  energy {line("energy", "meV per molecule")}

Everything is in {relative(OUTPUT)}/
  training/  model.safetensors, metrics.csv, learning_curve.png, parity.png, checkpoints/
  dynamics/  log.csv, run.png, trajectory.extxyz: {picoseconds:g} ps at {TEMPERATURE_K} K
  test-errors.json, test-predictions.extxyz, test-parity.png

What to try next (allegro-jax is in .venv/bin; `source .venv/bin/activate` puts it on the path):
  what the model is    allegro-jax info {model}
  how fast it is       allegro-jax benchmark {model}
  a hotter molecule    allegro-jax md {model} {test} \\
                         --ensemble langevin --temperature 600 --timestep 0.5 --steps 20000 \\
                         --output hot
  in Python            allegro_jax.load("{model}")(atoms)
  your own data        copy {config}, name your files in it, and
                       allegro-jax train my.yaml --output my-model
"""
    )


if __name__ == "__main__":
    sys.exit(main())
