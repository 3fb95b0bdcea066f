"""Frames as extended XYZ files that keep all labels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from allegro_jax.data.frames import Frame


def write_frames(path: str | Path, frames: Iterable[Frame]) -> None:
    """Write frames with energy, forces, stress (ASE's units and sign) and weights.

    Where a frame came from goes along as ``source_file`` and ``source_frame``.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    with path.open("w") as file:
        for frame in frames:
            atoms = frame.to_atoms()
            results = {"energy": frame.energy, "forces": frame.forces}
            if frame.stress is not None:
                results["stress"] = full_3x3_to_voigt_6_stress(frame.stress)
            atoms.calc = SinglePointCalculator(
                atoms, **{name: value for name, value in results.items() if value is not None}
            )
            if frame.weight != 1:
                atoms.info["weight"] = frame.weight
            atoms.info |= {"source_file": frame.source, "source_frame": frame.index}
            write(file, atoms, format="extxyz")
