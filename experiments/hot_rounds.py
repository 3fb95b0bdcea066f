"""Run a model where it is hot, have GFN2-xTB say what is wrong where it goes wrong, learn, go on.

    pip install tblite ase
    cd experiments
    python hot_rounds.py 3bpa small_corrected small_rounds 3bpa_dynamics/1200K --hottest 1.6 \\
        --replicas 8 --picoseconds 15 --frames hot_corrected_rounds.xyz.gz \\
        --correction 3bpa/runs/correction/model.safetensors

A round runs replicas from the structure of the named run of ``dynamics.py``, at its temperature and
up to twice as hot, and looks by ``allegro-jax analyse --bonds`` for the first bond of each that
breaks or is new. Frames just before and after it, and a few from everywhere, get the forces of
GFN2-xTB (as in :mod:`hot_frames`), with ``--correction`` brought near those of first principles by
a model (:mod:`correction`), and are added to a file in the experiment's folder; then the model
trains further on all its data. A folder beside that file's name in ``runs`` keeps what each round
did; a script that was ended goes on with the round it was in. Training a model anew on what was
found is ``reproduce.py``'s matter.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dynamics
import numpy as np
from ase import Atoms
from ase.io import read, write
from correction import corrected
from experiment import Model, load
from hot_frames import labelled, with_forces
from reproduce import EXPERIMENTS, allegro, lay_out_data

STRIDE = 20  # fs between frames of a trajectory, for steps of 1 fs
BEFORE, AFTER = 15, 5  # frames around a change that are labelled
ELSEWHERE = 10  # frames of each trajectory that are labelled besides, evenly spaced
NO_LIMIT_K = 1e5  # what comes apart shall be seen to do so


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a folder with an experiment.yaml")
    parser.add_argument("start", help="one of its models, trained: what the first round runs")
    parser.add_argument("model", help="one of its models that learns from the frames")
    parser.add_argument("run", metavar="FOLDER/RUN", help="a run of a dynamics.yaml")
    parser.add_argument(
        "--frames",
        default="hot_rounds.xyz.gz",
        help="the file of the frames (default: %(default)s)",
    )
    parser.add_argument("--correction", type=Path, help="a model to correct the forces with")
    parser.add_argument(
        "--hottest", type=float, default=2.0, help="times the coldest replica (default: 2)"
    )
    parser.add_argument("--rounds", type=int, default=6, help="(default: 6)")
    parser.add_argument("--replicas", type=int, default=12, help="in a round (default: 12)")
    parser.add_argument("--picoseconds", type=int, default=3, help="of a replica (default: 3)")
    parser.add_argument("--epochs", type=int, default=12, help="of each training (default: 12)")
    options = parser.parse_args()
    experiment = load(EXPERIMENTS / options.experiment)
    lay_out_data(experiment.folder, experiment.files, experiment.data_source)
    found = experiment.folder / options.frames
    folder = experiment.folder / "runs" / options.frames.partition(".")[0]
    model = experiment.folder / "models" / f"{options.start}.safetensors"
    for number in range(options.rounds):
        place = folder / str(number)
        frames, changes = explored(options.run, model, place, number, options)
        print(f"round {number}: changes after {changes} ps", flush=True)
        kept = place / "labelled.xyz"
        if not kept.exists():
            write(kept, with_labels(frames, options.correction), format="extxyz")
        everything = [
            one for n in range(number + 1) for one in read(folder / str(n) / kept.name, ":")
        ]
        write(found, everything, format="extxyz")
        model = trained(experiment.models[options.model], experiment.folder, model, place, options)
    return 0


def explored(
    name: str, model: Path, place: Path, seed: int, options: argparse.Namespace
) -> tuple[list[Atoms], list[float]]:
    """Frames to be labelled, and the times in ps of the first changes of bonds."""
    folder, _, run_name = name.partition("/")
    described = dynamics.load(EXPERIMENTS / folder)
    run = described.runs[run_name]
    lay_out_data(described.folder, described.files, described.data_source)
    coldest, output = float(run.options["temperature"]), place / "run"
    words = {
        "run-file": described.folder / run.run_file,
        "steps": 1000 * options.picoseconds,
        "seed": 1000 + seed,
        "replicas": options.replicas,
        "replica-temperatures": f"{coldest}:{options.hottest * coldest}",
        "trajectory": "extxyz",
        "trajectory-every": STRIDE,
        "maximum-temperature": NO_LIMIT_K,
        **run.options,
    }
    if not output.exists():
        arguments = [model, described.folder / run.structure, *dynamics.flags(words)]
        command = [sys.executable, "-m", "allegro_jax.cli", "md", *arguments, "--output", output]
        told = subprocess.run([str(word) for word in command])
        if told.returncode and not (output / "replica-000" / "trajectory.extxyz").exists():
            sys.exit(told.returncode)  # else what was written until it exploded is wanted
    chosen, changes = [], []
    for replica in sorted(output.glob("replica-*")):
        looked_for = {**described.analysis, "adf": False, "blocks": 1}
        dynamics.analyse(replica, looked_for, replica / "analysis")
        summary = json.loads((replica / "analysis" / "summary.json").read_text())
        change = summary["settings"]["bonds"]["first_change"]
        frames = read(replica / "trajectory.extxyz", ":")
        last, around = len(frames), range(0)
        if change is not None:
            at = change["frame"]
            changes.append(at * STRIDE / 1000)
            last = min(at + AFTER, len(frames))
            around = range(max(at - BEFORE, 0), last)
        evenly = np.linspace(0, last - 1, ELSEWHERE + 1)[1:].astype(int)  # all begin alike
        chosen += [frames[i] for i in sorted({*around, *evenly.tolist()})]
    return chosen, changes


def with_labels(frames: list[Atoms], correction: Path | None) -> list[Atoms]:
    """The frames that can have forces, with them; corrected, if there is a model to do so."""
    known = [one for one in map(label, frames) if one is not None]
    return corrected(correction, known) if correction else known


def label(atoms: Atoms) -> Atoms | None:
    """The frame with forces of GFN2-xTB; None where it has none, or they are too large."""
    atoms = with_forces(Atoms(atoms.numbers, atoms.positions.round(4)))
    try:
        forces = atoms.get_forces()
    except Exception as error:  # no self-consistent field: as far out as too large a force
        print(f"a frame is left out: {str(error).splitlines()[-1]}")
        return None
    return labelled(atoms, forces)


def trained(
    model: Model, folder: Path, start: Path, place: Path, options: argparse.Namespace
) -> Path:
    """A model file that has learnt from all there is."""
    output = place / "model"
    path = output / "model.safetensors"
    if not path.exists():
        settings: Sequence[str] = [
            *model.settings,
            f"fine_tune.model={start}",
            f"training.epochs={options.epochs}",
            "training.learning_rate=0.004",
        ]
        allegro("train", folder / model.config, *settings, "--output", output)
    return path


if __name__ == "__main__":
    sys.exit(main())
