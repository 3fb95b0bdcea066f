"""Neighbour lists of jax-md for :func:`md.evaluation.evaluate`, where they are right.

jax-md keeps one image of each neighbour, the nearest, and does not notice all of what makes its
lists incomplete. What would give wrong energies is refused here; :mod:`md.neighbours` has none of
these limits.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import cells
from md.cells import Periodicity

_OVERFLOWS = {
    1: "has more neighbours than it has room for",
    2: "has more atoms in a cell than it has room for",
    4: "has cells that became smaller than its cutoff",
}  # of jax_md.partition.PartitionErrorCode; its MALFORMED_BOX is set for boxes that are well formed


@struct.dataclass
class PairList:
    """Neighbours and their images, as :func:`md.evaluation.evaluate` takes them.

    Attributes:
        indices: [N, K] index of the neighbour in each slot; N where the slot is empty.
        shifts: [N, K, 3] its image is at r_j + shift · cell.
    """

    indices: Int[Array, "atoms slots"]
    shifts: Int[Array, "atoms slots 3"]


def from_jax_md(
    neighbours: Any,
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    pbc: Periodicity,
    cutoff: float | int,
    *,
    skin: float | int = 0.0,
) -> PairList:
    """A list of jax-md, checked on the host.

    Args:
        neighbours: a ``jax_md.partition.NeighborList`` in dense format, of Cartesian positions.
        positions: where the atoms are now, Å.
        cell: Å, rows are the lattice vectors (jax-md's boxes hold them in columns). It must be the
            one that the list was made for.
        pbc: directions that repeat.
        cutoff: of the potential, Å.
        skin: the list's ``dr_threshold``, Å.

    Raises:
        ValueError: if pairs may be missing: an overflowed or stale list, a cell narrower than twice
            the cutoff; and, where jax-md used its cell list, positions outside the cell or a cell
            that is not a rectangular box.
    """
    if neighbours.format.name != "Dense":
        raise ValueError(
            f"neighbours must be in jax-md's dense format, not {neighbours.format.name}"
        )
    if neighbours.idx.shape[0] != positions.shape[0]:
        raise ValueError(
            f"neighbours are of {neighbours.idx.shape[0]} atoms, positions of {positions.shape[0]}"
        )
    code = int(neighbours.error.code)
    for bit, what in _OVERFLOWS.items():
        if code & bit:
            raise ValueError(f"the list {what}: allocate it anew")
    repeats = np.asarray(pbc)
    widths = np.asarray(cells.heights(cells.frame(cell, pbc)))[repeats]
    if widths.size and widths.min() < 2 * cutoff:
        raise ValueError(
            f"the cell is {widths.min():.2f} Å wide, less than twice the cutoff ({cutoff} Å), and "
            "jax-md keeps one image of each neighbour only: use md.neighbour_list"
        )
    reference = neighbours.reference_position
    if neighbours.cell_list_fn is not None:
        matrix = np.asarray(cell)
        if (matrix != np.diag(np.diagonal(matrix))).any():
            raise ValueError(
                "jax-md's cell list is made for rectangular boxes: give disable_cell_list=True"
            )
        fractions = np.asarray(cells.fractional(reference, cell))
        if not ((fractions >= 0) & (fractions < 1)).all():
            raise ValueError(
                "the list was made of positions outside the cell, where jax-md's cell list loses "
                "neighbours: wrap the positions first"
            )
    moved = np.asarray(nearest_image(cells.difference(positions, reference), cell, pbc))
    farthest = float(np.sqrt((moved**2).sum(axis=1).max(initial=0)))
    if not farthest <= skin / 2:
        raise ValueError(
            f"an atom is {farthest:.3g} Å from where the list was made, farther than half of its "
            f"skin ({skin} Å): update the list (it must be of Cartesian positions)"
        )
    return with_shifts(neighbours.idx, positions, cell, pbc)


def with_shifts(
    indices: Int[Array, "atoms slots"],
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    pbc: Periodicity,
) -> PairList:
    """The nearest image of each neighbour. Pure, for compiled code; nothing is checked.

    A vector shorter than half of the cell's smallest width has fractional coordinates below one
    half, so that rounding finds it, whatever the shape of the cell.
    """
    neighbour = jnp.minimum(indices, positions.shape[0] - 1)
    vectors = cells.difference(positions[neighbour], positions[:, None])
    return PairList(indices, -_turns(vectors, cell, pbc))


def nearest_image(
    vectors: Float[Array, "*batch 3"], cell: Float[Array, "3 3"], pbc: Periodicity
) -> Float[Array, "*batch 3"]:
    """Vectors less the lattice vector that rounding their fractional coordinates gives."""
    return cells.translate(vectors, -_turns(vectors, cell, pbc), cell)


def _turns(
    vectors: Float[Array, "*batch 3"], cell: Float[Array, "3 3"], pbc: Periodicity
) -> Int[Array, "*batch 3"]:
    fractions = cells.fractional(vectors, cells.frame(cell, pbc))
    return jnp.where(jnp.asarray(pbc), jnp.round(fractions), 0).astype(jnp.int32)
