"""Small disordered structures for the stored reference results."""

from __future__ import annotations

import numpy as np


def random_structure(kind: str, num_species: int, rng: np.random.Generator) -> tuple:
    """Positions (N, 3) Å, cell (3, 3) Å, pbc (3,) and species (N,) of a disordered structure."""
    triclinic = np.array([[3.4, 0.0, 0.2], [0.9, 3.1, 0.0], [-0.7, 0.6, 3.8]])
    count, box, cell, pbc, closest = {
        "molecule": (9, 4.5, None, (False,) * 3, 1.0),
        "close": (8, 2.6, None, (False,) * 3, 0.55),
        "triclinic": (3, None, triclinic, (True,) * 3, 1.2),
        "crystal": (12, None, np.diag([5.1, 4.7, 5.6]) + triclinic * 0.1, (True,) * 3, 1.2),
        "slab": (7, None, np.diag([3.6, 4.2, 12.0]) + triclinic * 0.05, (True, True, False), 1.1),
        "single_atom_cell": (1, None, np.array([[0, 1.8, 1.9], [1.7, 0, 1.8], [1.85, 1.8, 0]]),
                             (True,) * 3, 0.0),
    }[kind]  # fmt: skip
    frame = np.eye(3) * box if cell is None else cell.copy()
    if kind == "slab":
        frame = frame * [[1], [1], [0.35]]
    periodic = np.diag(np.asarray(pbc, float))
    images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    images = np.unique(images @ periodic, axis=0) @ (np.zeros((3, 3)) if cell is None else cell)
    positions: list[np.ndarray] = []
    while len(positions) < count:
        trial = rng.random(3) @ frame
        others = np.array([p + image for p in positions for image in images]).reshape(-1, 3)
        if others.size == 0 or np.linalg.norm(others - trial, axis=1).min() > closest:
            positions.append(trial)
    species = np.arange(count) % num_species
    rng.shuffle(species)
    if kind == "molecule":  # one atom without neighbours
        positions[-1] = np.array([20.0, 1.0, -3.0])
    if kind == "slab":  # positions outside the cell are legitimate input
        positions[0] = positions[0] + cell[0] - 2 * cell[1]
    return np.array(positions), np.zeros((3, 3)) if cell is None else cell, np.array(pbc), species
