"""Bring forces of GFN2-xTB near those of first principles: learn the difference, and add it.

    pip install tblite ase
    cd experiments
    for part in train valid; do
        python correction.py difference 3bpa/data/mixedT_$part.xyz 3bpa/data/difference_$part.xyz
    done
    allegro-jax train 3bpa/small.yaml data.train=3bpa/data/difference_train.xyz \\
        data.valid=3bpa/data/difference_valid.xyz data.isolated_atoms=null training.epochs=60 \\
        --output 3bpa/runs/correction
    python correction.py add 3bpa/runs/correction/model.safetensors 3bpa/hot_corrected.xyz.gz \\
        3bpa/hot.xyz.gz 3bpa/hot_rounds.xyz.gz::2

The frames that :mod:`hot_frames` and :mod:`hot_rounds` make have forces of another method than the
data, and a model cannot fit both. The difference of the two methods is small and smooth, so that
few frames teach it, and what was learnt from them holds where it is hot. Frames with such forces
may count ten times as much. (``reproduce.py 3bpa`` lays out the folder ``data``.)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from hot_frames import with_forces
from reproduce import allegro

WEIGHT = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("difference", help="what first principles have that GFN2-xTB has not")
    one.add_argument("frames", help="with energies and forces of first principles")
    one.add_argument("output", type=Path, help="the file to write")
    one = commands.add_parser("add", help="a model's forces to those of frames")
    one.add_argument("model", type=Path, help="trained on the difference")
    one.add_argument("output", type=Path, help="the file to write")
    one.add_argument("frames", nargs="+", help="with forces of GFN2-xTB; FILE::2 is every second")
    options = parser.parse_args()
    if options.command == "difference":
        made = [difference(frame) for frame in read(options.frames, ":")]
    else:
        made = corrected(options.model, [one for name in options.frames for one in chosen(name)])
    write(options.output, made, format="extxyz")
    forces = np.concatenate([frame.get_forces() for frame in made])
    print(f"{options.output}: {len(made)} frames, forces of {np.sqrt(np.mean(forces**2)):.3f} eV/Å")


def difference(frame: Atoms) -> Atoms:
    """A frame with its energy and forces less those of GFN2-xTB."""
    other = with_forces(Atoms(frame.numbers, frame.positions))
    made = Atoms(frame.numbers, frame.positions)
    made.calc = SinglePointCalculator(
        made,
        energy=frame.get_potential_energy() - other.get_potential_energy(),
        forces=frame.get_forces() - other.get_forces(),
    )
    return made


def chosen(name: str) -> list[Atoms]:
    file, _, stride = name.partition("::")
    return read(file, f"::{stride or 1}")


def corrected(model: Path, frames: list[Atoms]) -> list[Atoms]:
    """Frames with the forces of a model added to theirs."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.extxyz", Path(folder) / "found.extxyz"
        write(given, [Atoms(one.numbers, one.positions) for one in frames])
        allegro("evaluate", model, given, "--output", found)
        added = read(found, ":")
    made = []
    for frame, other in zip(frames, added, strict=True):
        one = Atoms(frame.numbers, frame.positions)
        one.info["weight"] = WEIGHT
        forces = frame.get_forces() + other.get_forces()
        one.calc = SinglePointCalculator(one, forces=forces.round(3))
        made.append(one)
    return made


if __name__ == "__main__":
    main()
