"""Train what an experiment describes, test it once, and write its table and figure.

    python experiments/reproduce.py 3bpa                       everything the experiment describes
    python experiments/reproduce.py 3bpa --only train_300K     one of its models
    python experiments/reproduce.py 3bpa --seeds 1             fewer seeds
    python experiments/reproduce.py 3bpa training.epochs=20    another setting, for a quick try
    python experiments/reproduce.py 3bpa --table               table and figure of the kept results

An experiment is a folder with ``experiment.yaml`` (what :class:`Experiment` says), the training
configurations it names, and a README, in which the table is kept up to date. Data are laid into its
folder ``data`` first, from ``../shared/data`` (or ``$ALLEGRO_JAX_SHARED/data``), by ``prepare.py``
where more than copying is needed; models are trained
with ``allegro-jax train`` in ``runs``, where an interrupted run goes on, and tested with
``allegro-jax evaluate``. Results are kept in ``results.json``; tries with other settings are not.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from experiment import Experiment, Model, Origin, load
from result_table import draw, write_table

EXPERIMENTS = Path(__file__).resolve().parent
LARGEST_KEPT = 500_000  # bytes; larger models stay in `runs`
CURVE_POINTS = 40  # most of a learning curve that is kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a folder beside this file, for example 3bpa")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings for a try")
    parser.add_argument("--only", action="append", metavar="MODEL", help="models to train")
    parser.add_argument("--seeds", type=int, help="train this many of each model's seeds")
    parser.add_argument("--table", action="store_true", help="only table and figure")
    options = parser.parse_intermixed_args()  # settings may follow options
    folder = EXPERIMENTS / options.experiment
    try:
        experiment = load(folder)
        if not options.table:
            reproduce(experiment, options.only, options.seeds, options.overrides)
        results = experiment.results()
        if results and not options.overrides:
            write_table(experiment, results)
            if gone := draw(experiment, results):
                message = "not in figure.png, for their learning curves are gone: "
                print(message + ", ".join(gone), file=sys.stderr)
    except (ValueError, FileNotFoundError) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    return 0


def reproduce(
    experiment: Experiment,
    only: list[str] | None = None,
    seeds: int | None = None,
    overrides: list[str] = [],  # noqa: B006
) -> None:
    """Train and test every model and seed; results without overrides are kept."""
    for name in only or []:
        if name not in experiment.models:
            known = ", ".join(experiment.models)
            raise ValueError(f"--only {name}: no such model; known are {known}")
    lay_out_data(experiment.folder, experiment.files, experiment.data_source)
    for name, model in experiment.models.items():
        if only and name not in only:
            continue
        for seed in model.seeds[:seeds]:
            output = experiment.folder / "runs" / (f"{name}-seed{seed}" + "-try" * bool(overrides))
            settings = [f"seed={seed}", *model.settings, *overrides]
            allegro("train", experiment.folder / model.config, *settings, "--output", output)
            found = test(experiment, model, output)
            print(json.dumps(found, indent=2))
            if not overrides:
                experiment.keep(name, seed, found)
                keep_model(experiment, name, output / "model.safetensors")


def lay_out_data(folder: Path, files: Mapping[str, Origin], data_source: str) -> None:
    """Fill the folder ``data`` of an experiment; messages name the source of the data.

    Its ``prepare.py``, if there is one, follows, and makes what is not there yet.
    """
    shared = Path(os.environ.get("ALLEGRO_JAX_SHARED", EXPERIMENTS.parents[1] / "shared")) / "data"
    for name, origin in files.items():
        place = folder / "data" / name
        if place.exists():
            continue
        source = shared / origin.source
        if not source.is_file():
            raise FileNotFoundError(
                f"{place} is missing, and so is {source}, where it comes from; set "
                f"ALLEGRO_JAX_SHARED, or put the frames there ({data_source})"
            )
        place.parent.mkdir(exist_ok=True)
        if origin.frames is None and origin.without is None:
            place.symlink_to(source)
        else:
            frames = ase.io.read(source, ":")
            chosen = [frames[number] for number in origin.chosen(len(frames))]
            ase.io.write(place, chosen, format="extxyz")
    prepare = folder / "prepare.py"
    if prepare.is_file():
        subprocess.run([sys.executable, prepare], check=True)


def keep_model(experiment: Experiment, name: str, path: Path) -> None:
    """Copy a small model into the folder ``models``, which is under version control."""
    if path.stat().st_size <= LARGEST_KEPT:
        place = experiment.folder / "models" / f"{name.replace(' ', '_')}.safetensors"
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)


def test(experiment: Experiment, model: Model, output: Path) -> dict[str, Any]:
    """Errors on every test set, and how the training ended."""
    with (output / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = min(rows, key=lambda row: float(row["valid_loss"]))
    errors_by_epoch = [float(row[f"valid_{model.watched}"] or "nan") for row in rows]
    found: dict[str, Any] = {
        "epochs": len(rows),
        "minutes": round(float(rows[-1]["seconds"]) / 60, 1),
        "valid": {
            key.removeprefix("valid_"): float(best[key])
            for key in best
            if key.startswith("valid_") and key.endswith(("_mae", "_rmse")) and best[key]
        },
        "slope_percent": slope(errors_by_epoch),
        "curve": thinned([float(row["seconds"]) / 60 for row in rows], errors_by_epoch),
        "tests": {},
    }
    for part, name in model.tests.items():
        report = output / f"test-{part.replace(' ', '_')}.json"
        data = experiment.folder / "data" / name
        allegro("evaluate", output / "model.safetensors", data, "--json", report)
        errors = json.loads(report.read_text())
        found["tests"][part] = {
            key: value
            for key, value in errors.items()
            if key.endswith(("_mae", "_rmse", "frames", "uncertainty"))
        }
    return found


def thinned(minutes: list[float], errors: list[float]) -> dict[str, list[float]]:
    """A learning curve for a figure: epochs evenly spaced in the logarithm of their number."""
    last = len(errors) - 1
    if last < CURVE_POINTS:
        kept = np.arange(last + 1)
    else:
        kept = np.unique(np.rint(np.geomspace(1, last + 1, CURVE_POINTS)).astype(int) - 1)
    return {
        "minutes": [float(f"{minutes[epoch]:.3g}") for epoch in kept],
        "errors": [float(f"{errors[epoch]:.4g}") for epoch in kept],
    }


def slope(curve: list[float]) -> float | None:
    """How much a validation error still fell over the last tenth of the epochs, in percent."""
    tenth = max(len(curve) // 10, 1)
    if len(curve) < 3 * tenth:
        return None
    before, after = np.median(curve[-2 * tenth : -tenth]), np.median(curve[-tenth:])
    return round(float(100 * (before - after) / before), 1)


def allegro(*arguments: object) -> None:
    command = ["allegro-jax", *map(str, arguments)]
    print(f"$ {shlex.join(command)}", flush=True)
    finished = subprocess.run([sys.executable, "-m", "allegro_jax.cli", *command[1:]])
    if finished.returncode:
        sys.exit(finished.returncode)


if __name__ == "__main__":
    sys.exit(main())
