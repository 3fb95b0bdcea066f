"""The dense layout of neighbourhoods: every atom is a row, every neighbour a slot of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int

PairCutoffs = tuple[tuple[float, ...], ...]


@struct.dataclass
class Geometry:
    """Distances and directions of the slots of a block of atoms.

    Slots that are not ``inside`` (masked, or beyond the cutoff of their species pair) hold a
    harmless neighbour at the cutoff, so that every function of them and its derivatives are finite.

    Attributes:
        distances: Å. x: distance over the cutoff of the species pair.
        unit_vectors: directions centre → neighbour.
        inside: whether the slot holds a neighbour within the cutoff.
        centre_species, neighbour_species: valid species indices, also in padding.
    """

    distances: Float[Array, "n K"]
    x: Float[Array, "n K"]
    unit_vectors: Float[Array, "n K 3"]
    inside: Bool[Array, "n K"]
    centre_species: Int[Array, " n"]
    neighbour_species: Int[Array, "n K"]


def geometry(
    vectors: Float[Array, "n K 3"],
    mask: Bool[Array, "n K"],
    centre_species: Int[Array, " n"],
    neighbour_species: Int[Array, "n K"],
    cutoff: float,
    pair_cutoffs: PairCutoffs | None,
) -> Geometry:
    """Distances and directions, with everything outside the cutoff made harmless."""
    real = (centre_species >= 0)[:, None]
    centre_species = jnp.maximum(centre_species, 0)
    if pair_cutoffs is None:
        limits = jnp.asarray(cutoff, vectors.dtype)
    else:
        table = jnp.asarray(pair_cutoffs, vectors.dtype)
        limits = table[centre_species[:, None], neighbour_species]
    squared = jnp.sum(vectors**2, axis=-1)
    inside = mask & real & (squared < limits**2)
    # two atoms in one place are kept, so that their NaN is seen instead of a wrong energy
    harmless = jnp.asarray([cutoff, 0, 0], vectors.dtype)
    vectors = jnp.where(inside[..., None], vectors, harmless)
    squared = jnp.where(inside, squared, jnp.asarray(cutoff, vectors.dtype) ** 2)
    distances = jnp.sqrt(squared)
    return Geometry(
        distances=distances,
        x=jnp.where(inside, distances / limits, 1),
        unit_vectors=vectors / distances[..., None],
        inside=inside,
        centre_species=centre_species,
        neighbour_species=neighbour_species,
    )


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
