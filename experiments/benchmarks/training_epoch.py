"""Whole training programs, as a user starts them: ``allegro-jax train`` and ``nequip-train``.

Both read the same two files of acetylacetone, train the same model by Adam in batches of the same
size, and validate and write checkpoints as their defaults have it. The time of an epoch is the
median distance between the ends of epochs, from the second on: start-up, compilation and reading
are left out, and reported by themselves.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from racing import peak_bytes, say
from reference import model_settings

OURS, THEIRS = "allegro-jax train", "nequip-train"
SPECIES = ["H", "C", "O"]
BATCH_SIZE = 5
VALIDATION = 50
SEED = 1
EPOCHS = {OURS: 10, THEIRS: 3}
QUICK_EPOCHS = {OURS: 5, THEIRS: 2}


def race_epochs(
    reference_python: str | None, data: Path, *, quick: bool, threads: int
) -> dict[str, Any]:
    """Ours, theirs, and ours again: so that a change of the machine's mood hits both.

    The second time our programs are found compiled, on disk.
    """
    if not data.is_file():
        return {"skipped": f"{data} is not there; experiments/acac/README.md says how to get it"}
    epochs = QUICK_EPOCHS if quick else EPOCHS
    with tempfile.TemporaryDirectory(prefix="training_") as name:
        folder = Path(name)
        sizes = write_frames(data, folder)
        runs: dict[str, list[dict[str, Any]]] = {OURS: [run_ours(folder, epochs[OURS], "first")]}
        if reference_python:
            runs[THEIRS] = [run_theirs(reference_python, folder, epochs[THEIRS], threads)]
        runs[OURS].append(run_ours(folder, epochs[OURS], "second"))
    found = {name: summary(each) for name, each in runs.items()}
    results = {
        "train_frames": sizes[0],
        "valid_frames": sizes[1],
        "batch_size": BATCH_SIZE,
        "contenders": found,
        "said": runs[OURS][0]["said"],
    }
    if THEIRS in found:
        results["ratio"] = found[THEIRS]["seconds"] / found[OURS]["seconds"]
    return results


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds per epoch, seconds before the steady state, and peak memory of some runs.

    Each run has ``began`` and ``ended``, the times of its start and of the ends of its epochs. The
    first epoch holds compilation; what it took beyond the others counts as time before.
    """
    steady = [
        later - earlier for run in runs for earlier, later in itertools.pairwise(run["ended"])
    ]
    seconds = median(steady)
    peaks = [run["peak"] for run in runs if run["peak"]]
    return {
        "seconds": seconds,
        "before": [run["ended"][0] - run["began"] - seconds for run in runs],
        "peak": max(peaks, default=None),
    }


def write_frames(data: Path, folder: Path) -> tuple[int, int]:
    """Split the frames in ``train.xyz`` and ``valid.xyz``; returns how many each has."""
    import ase.io
    import numpy as np

    frames = ase.io.read(data, ":")
    order = np.random.default_rng(SEED).permutation(len(frames))
    parts = {"valid": order[:VALIDATION], "train": order[VALIDATION:]}
    for name, chosen in parts.items():
        ase.io.write(folder / f"{name}.xyz", [frames[number] for number in chosen])
    return len(parts["train"]), len(parts["valid"])


def run_ours(folder: Path, epochs: int, name: str) -> dict[str, Any]:
    import yaml

    model, _ = model_settings()
    output = folder / name
    content = {
        "data": {"train": "train.xyz", "valid": "valid.xyz"},
        "model": {
            key: getattr(model, key)
            for key in (
                "cutoff",
                "l_max",
                "num_layers",
                "num_scalar_features",
                "num_tensor_features",
            )
        },
        "training": {"epochs": epochs, "batch_size": BATCH_SIZE, "optimiser": "adam", "ema": 0.999},
        "output": str(output),
    }
    (folder / "ours.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "allegro_jax.cli", "train", str(folder / "ours.yaml")]
    cache = {"ALLEGRO_JAX_CACHE": str(folder / "cache")}
    run = watched(command, folder, cache, follow=output / "metrics.csv")
    # a file of metrics is begun before the first epoch, and has a line more after each
    ended = run["written"][1:]
    lines = run["output"].splitlines()
    said = [line for line in lines if "padding" in line or "compilations took" in line]
    return {"began": run["began"], "ended": ended, "peak": run["peak"], "said": said}


def run_theirs(python: str, folder: Path, epochs: int, threads: int) -> dict[str, Any]:
    clock = folder / "epochs.txt"
    config = Path(__file__).with_name("nequip_training.yaml")
    _, settings = model_settings()
    settings |= {
        "type_names": SPECIES,
        "avg_num_neighbors": "${training_data_stats:num_neighbors_mean}",
        "per_type_energy_shifts": "${training_data_stats:per_atom_energy_mean}",
        "per_type_energy_scales": "${training_data_stats:per_type_forces_rms}",
    }
    model = {"_target_": "allegro.model.AllegroModel", **settings}
    filled = folder / "theirs.yaml"
    filled.write_text(_filled(config, folder, clock, model, epochs))
    command = [str(Path(python).with_name("nequip-train")), "-cp", str(folder), "-cn", "theirs"]
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    run = watched(command, folder, environment)
    times = [float(line) for line in clock.read_text().split()]
    return {"began": run["began"], "ended": times[1:], "peak": run["peak"], "said": []}


def _filled(config: Path, folder: Path, clock: Path, model: Mapping[str, Any], epochs: int) -> str:
    import yaml

    content = yaml.safe_load(config.read_text())
    content["data"]["train_file_path"] = str(folder / "train.xyz")
    content["data"]["val_file_path"] = str(folder / "valid.xyz")
    content["data"]["train_dataloader"]["batch_size"] = BATCH_SIZE
    content["trainer"]["max_epochs"] = epochs
    content["trainer"]["callbacks"][-1]["path"] = str(clock)
    content["training_module"]["model"] = dict(model)
    content["hydra"] = {"run": {"dir": str(folder / "theirs")}}
    return yaml.safe_dump(content)


def watched(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    follow: Path | None = None,
) -> dict[str, Any]:
    """Run a program to its end.

    Returns:
        When it ``began``; its ``output``; its ``peak`` memory, bytes; and when the file to
        ``follow`` was ``written``, as often as that happened.
    """
    say(" ".join(map(str, command)))
    log, written = folder / "log.txt", []
    began, peak = time.time(), None
    with log.open("w") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                peak = peak_bytes(str(process.pid)) or peak  # a peak: the last look tells it
                if follow is not None and follow.exists():
                    changed = follow.stat().st_mtime
                    if changed not in written[-1:]:
                        written.append(changed)
                time.sleep(0.02)
        finally:
            process.kill()  # if the user has had enough
    output = log.read_text()
    if process.returncode:
        sys.exit(f"{command[0]} stopped:\n{output[-3000:]}")
    return {"began": began, "output": output, "peak": peak, "written": written}
