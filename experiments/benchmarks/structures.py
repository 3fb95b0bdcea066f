"""The structures of the benchmarks: made here, so that anyone can run them."""

from __future__ import annotations

import math

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal as spacegroup_crystal

# 3-(benzyloxy)pyridin-2-amine (3BPA), relaxed with GFN2-xTB.
_3BPA = (
    ("C", -1.76, -0.46, 0.00),
    ("C", -2.72, 0.53, 0.00),
    ("C", -4.07, 0.17, 0.00),
    ("C", -4.39, -1.16, 0.00),
    ("N", -3.48, -2.14, 0.00),
    ("C", -2.20, -1.81, 0.00),
    ("H", -2.44, 1.58, 0.00),
    ("H", -4.83, 0.93, 0.00),
    ("H", -5.42, -1.50, 0.00),
    ("N", -1.29, -2.82, 0.00),
    ("H", -0.31, -2.60, 0.00),
    ("H", -1.62, -3.76, 0.00),
    ("O", -0.40, -0.28, 0.00),
    ("C", 0.10, 1.04, 0.00),
    ("H", -0.26, 1.58, 0.89),
    ("H", -0.26, 1.58, -0.89),
    ("C", 1.60, 0.96, 0.00),
    ("C", 2.30, 0.90, -1.20),
    ("H", 1.76, 0.94, -2.13),
    ("C", 3.68, 0.79, -1.20),
    ("H", 4.22, 0.75, -2.13),
    ("C", 4.37, 0.74, 0.00),
    ("H", 5.45, 0.66, 0.00),
    ("C", 3.68, 0.79, 1.20),
    ("H", 4.22, 0.75, 2.13),
    ("C", 2.30, 0.90, 1.20),
    ("H", 1.76, 0.94, 2.13),
)


def molecule(shake: float = 0.03, seed: int = 0) -> Atoms:
    """One 3BPA molecule (27 atoms); each coordinate moved by ``shake`` Å (standard deviation)."""
    atoms = Atoms([row[0] for row in _3BPA], [row[1:] for row in _3BPA])
    return _shaken(atoms, shake, seed)


def water(molecules: int, seed: int = 0) -> Atoms:
    """A periodic cube of randomly turned molecules on a lattice, 0.1 atoms/Å³ like the liquid."""
    rng = np.random.default_rng(seed)
    edge = (3 * molecules / 0.1) ** (1 / 3)
    side = math.ceil(round(molecules ** (1 / 3), 6))
    grid = np.stack(np.meshgrid(*3 * [np.arange(side)], indexing="ij"), axis=-1).reshape(-1, 3)
    centres = (rng.permutation(grid)[:molecules] + 0.5) * edge / side
    half = math.radians(104.5 / 2)
    rigid = np.array(
        [[0, 0, 0], [0.96 * math.sin(half), 0, 0.59], [-0.96 * math.sin(half), 0, 0.59]]
    )
    turns = [np.linalg.qr(rng.normal(size=(3, 3)))[0] for _ in range(molecules)]
    positions = np.concatenate(
        [centre + rigid @ turn for centre, turn in zip(centres, turns, strict=True)]
    )
    return Atoms("OHH" * molecules, positions, cell=3 * [edge], pbc=True)


def crystal(cells: int = 5, shake: float = 0.05, seed: int = 0) -> Atoms:
    """Rock salt MgO at a finite temperature: 8·cells³ atoms."""
    atoms = bulk("MgO", "rocksalt", a=4.21, cubic=True).repeat(cells)
    return _shaken(atoms, shake, seed)


def silver(cells: int = 13, shake: float = 0.05, seed: int = 0) -> Atoms:
    """Face-centred silver: 4·cells³ atoms."""
    return _shaken(bulk("Ag", "fcc", a=4.09, cubic=True).repeat(cells), shake, seed)


def lithium_phosphate(cells: tuple[int, int, int], shake: float = 0.05, seed: int = 0) -> Atoms:
    """β-Li₃PO₄ (Pmn2₁): 16 atoms per cell of 6.12 x 5.24 x 4.86 Å³."""
    atoms = spacegroup_crystal(
        ("Li", "Li", "P", "O", "O", "O"),
        [
            (0.248, 0.328, 0.986),
            (0.500, 0.843, 0.989),
            (0.000, 0.824, 0.000),
            (0.208, 0.686, 0.893),
            (0.000, 0.106, 0.900),
            (0.500, 0.185, 0.820),
        ],
        spacegroup=31,
        cellpar=[6.115, 5.239, 4.855, 90, 90, 90],
    )
    return _shaken(atoms.repeat(cells), shake, seed)


def argon(count: int, shake: float = 0.3, seed: int = 0) -> Atoms:
    """Argon as dense as the liquid at 90 K (1.37 g/cm³), on a shaken cubic lattice: not melted."""
    side = round(count ** (1 / 3))
    if side**3 != count:
        raise ValueError(f"count must be a cube, not {count}")
    edge = (1 / 0.0207) ** (1 / 3)
    return _shaken(Atoms("Ar", cell=3 * [edge], pbc=True).repeat(side), shake, seed)


def copies(count: int) -> tuple[int, int, int]:
    """Three factors of a number, as near to each other as can be."""
    ways = (
        (a, b, count // (a * b))
        for a in range(1, count + 1)
        if a**3 <= count and count % a == 0
        for b in range(a, count // a + 1)
        if a * b * b <= count and count // a % b == 0
    )
    return min(ways, key=sum)


def _shaken(atoms: Atoms, shake: float, seed: int) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(0, shake, atoms.positions.shape)
    return atoms
