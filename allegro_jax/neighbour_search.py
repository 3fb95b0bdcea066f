"""Neighbour pairs of a structure, found on the host.

Processes that prepare data import this module: it must not import JAX.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

PairCutoffs = tuple[tuple[float, ...], ...]

# Up to so many atoms without periodic directions, trying all pairs is several times faster.
FEW_ATOMS = 100


class Pairs(NamedTuple):
    """Directed pairs of a structure, sorted by centre.

    Attributes:
        centre, neighbour: [E] atom indices.
        shifts: [E, 3] integers S: the neighbour is at r_j + S·cell.
        vectors: [E, 3] r_j + S·cell − r_i, Å, float64.
    """

    centre: np.ndarray
    neighbour: np.ndarray
    shifts: np.ndarray
    vectors: np.ndarray


def neighbour_pairs(
    positions: np.ndarray,
    cell: np.ndarray | None,
    pbc: Any,
    cutoff: float,
    species: np.ndarray | None = None,
    pair_cutoffs: PairCutoffs | None = None,
) -> Pairs:
    """All directed pairs closer than the cutoff, on the host, in float64.

    Any cell (triclinic, smaller than the cutoff, absent), any mix of periodic directions.

    Args:
        positions: [N, 3] Å, also outside the cell.
        cell: [3, 3] Å, rows are the lattice vectors; ``None`` or zeros where nothing is periodic.
        pbc: three booleans (or one).
        cutoff: Å.
        species: [N] species indices, needed for ``pair_cutoffs``.
        pair_cutoffs: directed table [centre][neighbour] that prunes the pairs.

    Raises:
        ValueError: positions or cell are not finite, or a periodic direction has no lattice vector.
    """
    positions = np.asarray(positions, float).reshape(-1, 3)
    periodic = np.broadcast_to(np.asarray(pbc, bool), 3)
    cell = np.zeros((3, 3)) if cell is None else np.array(cell, float).reshape(3, 3)
    if not np.isfinite(positions).all():
        atom = int(np.argwhere(~np.isfinite(positions))[0, 0])
        raise ValueError(f"positions: atom {atom} is not at a finite place")
    if not np.isfinite(cell).all():
        raise ValueError("cell: it holds a value that is not finite")
    cell = _completed_cell(cell, periodic)
    if len(positions) == 0:
        empty = np.zeros((0, 3))
        return Pairs(np.zeros(0, int), np.zeros(0, int), empty.astype(int), empty)

    if not periodic.any() and len(positions) <= FEW_ATOMS:
        centre, neighbour, shifts = _try_all(positions, cutoff)
    else:
        centre, neighbour, shifts = _search(positions, cell, periodic, cutoff)
    vectors = positions[neighbour] - positions[centre] + shifts @ cell
    if pair_cutoffs is not None:
        if species is None:
            raise ValueError("pair_cutoffs: need the species of the atoms")
        limits = np.asarray(pair_cutoffs)[species[centre], species[neighbour]]
        keep = np.einsum("ij,ij->i", vectors, vectors) < limits**2
        centre, neighbour, shifts, vectors = (
            array[keep] for array in (centre, neighbour, shifts, vectors)
        )
    return Pairs(centre, neighbour, shifts, vectors)


def _completed_cell(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """The cell with absent lattice vectors of open directions replaced by orthogonal unit ones."""
    lengths = np.linalg.norm(cell, axis=1)
    for axis in range(3):
        if periodic[axis] and lengths[axis] < 1e-8:
            raise ValueError(
                f"cell: direction {'abc'[axis]} is periodic, but has no lattice vector; "
                "give the cell, or set pbc to false there"
            )
    missing = lengths < 1e-8
    if missing.all():
        return np.eye(3)
    if missing.any():
        # the null space of the given vectors, orthonormal
        _, _, rows = np.linalg.svd(cell[~missing])
        cell = cell.copy()
        cell[missing] = rows[(~missing).sum() :]
    if abs(np.linalg.det(cell)) < 1e-10 * np.prod(np.linalg.norm(cell, axis=1)):
        raise ValueError("cell: the lattice vectors are linearly dependent (no volume)")
    return cell


def _try_all(positions: np.ndarray, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vectors = positions - positions[:, None]
    squared = np.einsum("ijk,ijk->ij", vectors, vectors)
    np.fill_diagonal(squared, np.inf)
    centre, neighbour = np.nonzero(squared < cutoff**2)
    return centre, neighbour, np.zeros((len(centre), 3), int)


def _search(
    positions: np.ndarray, cell: np.ndarray, periodic: np.ndarray, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from matscipy.neighbours import neighbour_list

    # Whole lattice translations bring periodic coordinates into the cell first; open directions get
    # a box around the atoms, since the search wants every atom inside.
    fractional = np.linalg.solve(cell.T, positions.T).T
    wrapped_by = np.where(periodic, np.floor(fractional), 0)
    inside = positions - wrapped_by @ cell
    box, origin = cell.copy(), np.zeros(3)
    fractional = fractional - wrapped_by
    for axis in np.flatnonzero(~periodic):
        low, high = fractional[:, axis].min(), fractional[:, axis].max()
        extent = max(high - low, 0.0) + 1e-3
        height = 1 / np.linalg.norm(np.linalg.inv(cell)[:, axis])
        pad = (cutoff + 1.0) / height
        origin = origin + (low - pad / 2) * cell[axis]
        box[axis] = cell[axis] * (extent + pad)
    centre, neighbour, shifts = neighbour_list(
        "ijS",
        positions=inside - origin,
        cell=box,
        pbc=periodic,
        cutoff=float(cutoff),
        numbers=np.ones(len(positions), dtype=np.int32),
    )
    shifts = shifts.astype(int) + (wrapped_by[centre] - wrapped_by[neighbour]).astype(int)
    order = np.argsort(centre, kind="stable")
    return centre[order], neighbour[order], shifts[order]


def dense(
    pairs: Pairs, num_atoms: int, width: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as rows: neighbour indices [N, K], vectors [N, K, 3] and mask [N, K].

    Args:
        pairs: sorted by centre.
        num_atoms: N.
        width: K; by default the largest number of neighbours (at least 1).

    Raises:
        ValueError: an atom has more than ``width`` neighbours.
    """
    counts = np.bincount(pairs.centre, minlength=num_atoms)
    largest = int(counts.max(initial=0))
    width = max(largest, 1) if width is None else width
    if largest > width:
        raise ValueError(
            f"an atom has {largest} neighbours, more than the {width} slots of its row"
        )
    slot = np.arange(len(pairs.centre)) - (np.cumsum(counts) - counts)[pairs.centre]
    neighbours = np.zeros((num_atoms, width), np.int32)
    vectors = np.zeros((num_atoms, width, 3))
    mask = np.zeros((num_atoms, width), bool)
    neighbours[pairs.centre, slot] = pairs.neighbour
    vectors[pairs.centre, slot] = pairs.vectors
    mask[pairs.centre, slot] = True
    return neighbours, vectors, mask
