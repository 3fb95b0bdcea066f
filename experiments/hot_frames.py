"""Make frames of a molecule far from where its data are, with the forces of GFN2-xTB.

    pip install tblite ase
    cd experiments
    python hot_frames.py 3bpa/data/train_300K.xyz 3bpa/hot.xyz.gz
    python hot_frames.py CH3CH2OH rmd17/ethanol_hot.xyz.gz

A model knows nothing of what its data never show: that a hydrogen does not leave its carbon for
another one. Six Langevin trajectories from the relaxed molecule, two each at 1500, 2000 and 3000 K,
with a frame every 20 fs, show it. Such forces are off by 0.2 to 0.4 eV/Å (RMS, of frames of 3BPA at
600 K and of ethanol in rMD17): hence the small weight of the frames. Energies have another zero,
and are left out. tblite is not needed to use the frames. One to six minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.optimize import FIRE

TEMPERATURES, TRAJECTORIES, FRAMES = (1500, 2000, 3000), 2, 25
TIMESTEP_FS, STRIDE = 0.5, 40
WEIGHT = 0.02
LARGEST_FORCE = 40.0  # eV/Å; frames with larger ones are left out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecule", help="a file with the molecule, or its name as ASE knows it")
    parser.add_argument("output", type=Path, help="the file to write")
    options = parser.parse_args()
    known = Path(options.molecule).exists()
    start = read(options.molecule, 0) if known else molecule(options.molecule)
    start = with_forces(Atoms(start.numbers, start.positions))
    FIRE(start, logfile=None).run(fmax=0.05, steps=500)
    frames = []
    for t, temperature in enumerate(TEMPERATURES):
        for trajectory in range(TRAJECTORIES):
            frames += sampled(start, temperature, np.random.default_rng(100 * t + trajectory))
            print(f"{temperature} K, trajectory {trajectory}: {len(frames)} frames", flush=True)
    write(options.output, frames, format="extxyz")


def with_forces(atoms: Atoms) -> Atoms:
    from tblite.ase import TBLite

    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    return atoms


def sampled(start: Atoms, temperature: float, rng: np.random.Generator) -> list[Atoms]:
    """Frames of one trajectory."""
    atoms = with_forces(start.copy())
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    Stationary(atoms)
    dynamics = Langevin(
        atoms, TIMESTEP_FS * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng
    )
    frames = []
    for _ in range(FRAMES):
        dynamics.run(STRIDE)
        frame = labelled(atoms, atoms.get_forces())
        if frame is not None:
            frame.info["temperature_K"] = temperature
            frames.append(frame)
    return frames


def labelled(atoms: Atoms, forces: np.ndarray) -> Atoms | None:
    """A frame to learn from, with the small weight of such forces; None if one is too large."""
    if not np.abs(forces).max() < LARGEST_FORCE:
        return None
    frame = Atoms(atoms.numbers, atoms.positions.round(4))
    frame.info["weight"] = WEIGHT
    frame.calc = SinglePointCalculator(frame, forces=forces.round(3))
    return frame


if __name__ == "__main__":
    main()
