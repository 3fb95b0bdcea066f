"""The first-principles trajectory as extended XYZ, positions unwrapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write

DATA = Path(__file__).resolve().parent / "data"


def main() -> None:
    place = DATA / "aimd.xyz"
    if place.is_file():
        return
    data = np.load(DATA / "aimd.npz")
    frames = data["pos_unwrapped_mA"] / 1000  # Å
    images = [Atoms(data["Z"], frame, cell=data["cell"], pbc=True) for frame in frames]
    write(place, images, format="extxyz")


if __name__ == "__main__":
    main()
