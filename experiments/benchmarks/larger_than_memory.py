"""Training on more data than a process may hold in memory.

Frames are shaken crystals of copper, labelled by harmonic springs. One process finds their
neighbourhoods and keeps them on disk. A second one, that may allocate only so much memory
(RLIMIT_DATA: files that are mapped do not count, for their pages can be dropped), trains an epoch
from there. A third one tries to hold the same data in memory, which the limit must forbid::

    python larger_than_memory.py

README.md has the results. Linux only.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

CUTOFF, BATCH = 6.0, 4
SPRING = 20.0  # eV/Å²


def write_frames(path: Path, number: int) -> None:
    """Shaken crystals of 256 atoms with energies and forces."""
    from ase.build import bulk

    random = np.random.default_rng(0)
    crystal = bulk("Cu", "fcc", a=3.7, cubic=True).repeat(4)
    moved = 0.05 * random.normal(size=(number, len(crystal), 3))
    np.savez(
        path,
        numbers=crystal.numbers,
        positions=crystal.positions + moved,
        cell=crystal.cell.array,
        energy=SPRING / 2 * np.sum(moved**2, axis=(1, 2)),
        forces=-SPRING * moved,
    )


def work(folder: Path, task: str, limit: float) -> dict[str, Any]:
    """One process: ``build`` the store, or train an epoch from ``disk`` or from ``memory``."""
    if task != "build":
        allowed = int(1e9 * limit)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    from allegro_jax.train.config import config_from_dict
    from allegro_jax.train.preparation import prepare
    from allegro_jax.train.trainer import Trainer

    config = config_from_dict(
        {
            "data": {
                "train": "frames.npz",
                "valid": 40,
                "cache": False if task == "memory" else "cache",
            },
            "model": {
                "cutoff": CUTOFF,
                "l_max": 0,
                "num_layers": 1,
                "num_scalar_features": 8,
                "num_tensor_features": 4,
                "two_body_hidden": [8],
                "latent_hidden": [8],
                "readout_hidden": [8],
            },
            "training": {"batch_size": BATCH, "row_groups": 1},
        },
        folder,
    )
    started = time.perf_counter()
    preparation = prepare(config, lambda line: None)
    found: dict[str, Any] = {"prepare_s": time.perf_counter() - started}
    if task == "build":
        return found
    trainer = Trainer(config, preparation)
    peaks: list[float] = []
    started = time.perf_counter()
    run = trainer.epoch(trainer.start(), lambda: peaks.append(status("RssAnon")))
    row = run.history[0]
    return found | {
        "epoch_s": time.perf_counter() - started,
        "steps": trainer.steps_per_epoch,
        "waiting": run.waiting_seconds / run.seconds,
        "allocated_gb": max(peaks),
        "reserved_gb": status("VmData"),
        "train_loss": row["train_loss"],
        "valid_loss": row["valid_loss"],
    }


def status(name: str) -> float:
    """A figure of this process, GB: ``RssAnon``, memory in use that is no file's; ``VmData``, what
    the limit counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=6_000)
    parser.add_argument("--limit", type=float, default=1.5, help="GB a process may allocate")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--task", choices=("build", "disk", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(work(options.folder, options.task, options.limit)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_frames(folder / "frames.npz", options.frames)
        for task in ("build", "disk", "memory"):
            command = [sys.executable, __file__, "--folder", name, "--task", task]
            command += ["--limit", str(options.limit)]
            done = subprocess.run(command, capture_output=True, text=True)
            last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:]
            print(f"{task}: {'' if done.returncode == 0 else 'failed: '}{' '.join(last)}")
            if task == "build":
                files = (folder / "cache").rglob("*")
                kept = sum(path.stat().st_size for path in files if path.is_file())
                print(f"store: {kept / 1e9:.2f} GB; limit: {options.limit:g} GB")


if __name__ == "__main__":
    main()
