"""Very many frames: time to read them and find neighbours, size of the cache, memory, waiting.

Frames are small molecules of ASE's collection, shaken, in one extended XYZ file, labelled by
harmonic springs. A first process starts a training run without a cache and a second one with it;
each takes some steps of a small model, and says how long these waited for data::

    python many_frames.py                   # 10⁵ frames
    python many_frames.py --frames 1000000

README.md has the results.
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

MOLECULES = ("CH3CH2OH", "C6H6", "CH3COOH", "C4H4NH", "isobutane", "CH3CONH2")
CUTOFF, BATCH = 5.0, 5
SPRING = 20.0  # eV/Å²


def write_frames(path: Path, number: int) -> None:
    """Shaken molecules with energies and forces."""
    from ase.build import molecule

    random = np.random.default_rng(0)
    kinds = [molecule(name) for name in MOLECULES]
    with path.open("w") as file:
        for place in range(number):
            atoms = kinds[place % len(kinds)]
            moved = 0.05 * random.normal(size=(len(atoms), 3))
            energy = -50.0 * len(atoms) + SPRING / 2 * np.sum(moved**2)
            rows = np.column_stack([atoms.positions + moved, -SPRING * moved])
            file.write(
                f"{len(atoms)}\nProperties=species:S:1:pos:R:3:forces:R:3 "
                f'energy={energy:.8f} pbc="F F F"\n'
            )
            file.writelines(
                f"{symbol} {' '.join(f'{value:.8f}' for value in row)}\n"
                for symbol, row in zip(atoms.symbols, rows, strict=True)
            )


def measure(folder: Path, steps: int) -> dict[str, Any]:
    """One process: prepare, plan, and take some steps."""
    from allegro_jax.data.layout import shuffled_batches
    from allegro_jax.train.config import config_from_dict
    from allegro_jax.train.preparation import prepare
    from allegro_jax.train.trainer import Trainer

    config = config_from_dict(
        {
            "data": {"train": "frames.xyz", "valid": 100, "cache": "cache"},
            "model": {
                "cutoff": CUTOFF,
                "l_max": 2,
                "num_layers": 1,
                "num_scalar_features": 32,
                "num_tensor_features": 8,
                "two_body_hidden": [32],
                "latent_hidden": [32],
                "readout_hidden": [16],
            },
            "training": {"batch_size": BATCH},
        },
        folder,
    )
    found: dict[str, Any] = {}

    def clock(name: str, action: Any) -> Any:
        start, spent = time.perf_counter(), processor_time()
        result = action()
        found[f"{name}_s"] = time.perf_counter() - start
        found[f"{name}_cpu_s"] = processor_time() - spent
        return result

    preparation = clock("prepare", lambda: prepare(config, lambda line: None))
    found["prepare_memory_gb"] = peak_memory()
    trainer = clock("plan", lambda: Trainer(config, preparation))
    clock("shuffle", lambda: shuffled_batches(trainer.train.buckets, 0, 1))
    found["padding"] = trainer.waste
    taken = 0

    def pause() -> bool:
        nonlocal taken
        taken += 1
        return taken % steps == 0

    run = trainer.epoch(trainer.start(), lambda: None, pause)  # compiles
    before = run.seconds, run.waiting_seconds
    run = trainer.epoch(run, lambda: None, pause)
    found["step_ms"] = 1e3 * (run.seconds - before[0]) / steps
    found["waiting"] = (run.waiting_seconds - before[1]) / (run.seconds - before[0])
    found["memory_gb"] = peak_memory()
    return found


def processor_time() -> float:
    """Of this process and those it has ended, s: what other work on the machine changes little."""
    own, ended = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def peak_memory() -> float:
    """Of this process so far, GB; pages of mapped files count, though they can be dropped."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=300, help="training steps to time")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.folder, options.steps)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_frames(folder / "frames.xyz", options.frames)
        size = (folder / "frames.xyz").stat().st_size
        print(f"{options.frames} frames, {size / 1e6:.0f} MB of text")
        for state in ("without", "with"):
            command = [sys.executable, __file__, "--worker", "--folder", name]
            command += ["--steps", str(options.steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(f"{state} cache: {json.dumps(json.loads(done.stdout.splitlines()[-1]))}")
        kept = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
        print(f"cache: {kept / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
