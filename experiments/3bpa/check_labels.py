"""How far the forces of hot frames are from the data's method, ωB97X/6-31G(d), computed by PySCF.

    pip install pyscf ase
    cd experiments/3bpa
    python check_labels.py 20 45 70 95 120

Frames of ``hot.xyz.gz`` (GFN2-xTB), which ``hot_corrected.xyz.gz`` begins with; first a frame of
the data, to see that the method is theirs. Four minutes a frame on one core.
"""

from __future__ import annotations

import sys

import numpy as np
from ase import Atoms
from ase.io import read
from ase.units import Bohr, Hartree


def forces(atoms: Atoms) -> np.ndarray:
    """eV/Å, with fitted densities."""
    from pyscf import dft, gto

    places = list(zip(atoms.get_chemical_symbols(), atoms.positions, strict=True))
    molecule = gto.M(atom=places, basis="6-31g*", cart=True, verbose=0)
    field = dft.RKS(molecule, xc="wb97x").density_fit()
    field.grids.level, field.conv_tol = 2, 1e-8
    field.kernel()
    if not field.converged:
        raise RuntimeError("the self-consistent field did not converge")
    return -np.asarray(field.nuc_grad_method().kernel()) * Hartree / Bohr


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def main() -> None:
    known = read("data/train_mixedT.xyz", 7)
    off = rms(forces(known) - known.get_forces())
    print(f"a frame of the data: {off:.3f} of {rms(known.get_forces()):.3f} eV/Å", flush=True)
    cheap, corrected = read("hot.xyz.gz", ":"), read("hot_corrected.xyz.gz", ":")
    for number in map(int, sys.argv[1:]):
        ours, theirs = cheap[number], corrected[number]
        assert np.allclose(ours.positions, theirs.positions)
        exact = forces(ours)
        print(
            f"frame {number}, {ours.info['temperature_K']} K, forces of {rms(exact):.2f} eV/Å: "
            f"GFN2-xTB off by {rms(ours.get_forces() - exact):.3f}, "
            f"corrected by {rms(theirs.get_forces() - exact):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
