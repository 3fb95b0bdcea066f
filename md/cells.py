"""Cells and positions: the only file that forms differences of positions.

A cell is a [3, 3] array whose rows are the lattice vectors a, b, c in Å; ``pbc`` says,
statically, which of them repeat. The rows of directions that do not repeat never matter and may
be zero.

Everything is written out in components rather than as matrix products: accelerators round the
inputs of small matrix products (TF32), and the CPU compiler of one release of JAX got them wrong.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Periodicity = tuple[bool, bool, bool]


def lattice_vector(coefficients: Array, cell: Float[Array, "3 3"]) -> Float[Array, "... 3"]:
    """From lattice (integer or fractional) to Cartesian coordinates: Σ_d coefficient_d · cell_d."""
    c = coefficients.astype(cell.dtype)
    return c[..., 0:1] * cell[0] + c[..., 1:2] * cell[1] + c[..., 2:3] * cell[2]


def difference(
    r_neighbour: Float[Array, "*#batch 3"], r_centre: Float[Array, "*#batch 3"]
) -> Float[Array, "*batch 3"]:
    """Vector from a centre to a position as they stand, without any image, Å."""
    return r_neighbour - r_centre


def displacement(
    r_neighbour: Float[Array, "*#batch 3"],
    r_centre: Float[Array, "*#batch 3"],
    shift: Int[Array, "*#batch 3"],
    cell: Float[Array, "3 3"],
) -> Float[Array, "*batch 3"]:
    """Vector from a centre to its neighbour's image, r_neighbour − r_centre + shift · cell, Å."""
    return difference(r_neighbour, r_centre) + lattice_vector(shift, cell)


def volume(cell: Float[Array, "3 3"]) -> Float[Array, ""]:
    """|a · (b × c)|, Å³."""
    return jnp.abs(jnp.sum(cell[0] * jnp.cross(cell[1], cell[2])))


def frame(cell: Float[Array, "3 3"], pbc: Periodicity) -> Float[Array, "3 3"]:
    """The repeating lattice vectors, completed to a basis by unit vectors perpendicular to them.

    Fractional coordinates in this basis count lattice vectors along directions that repeat, and Å
    along those that do not, whatever the cell holds there.
    """
    periodic = [d for d in range(3) if pbc[d]]
    if len(periodic) == 3:
        return cell
    if not periodic:
        return jnp.eye(3, dtype=cell.dtype)
    rows = [cell[d] for d in range(3)]
    if len(periodic) == 2:
        (free,) = (d for d in range(3) if not pbc[d])
        rows[free] = _unit(jnp.cross(rows[(free + 1) % 3], rows[(free + 2) % 3]))
    else:
        (d,) = periodic
        axis = jnp.zeros(3, cell.dtype).at[jnp.argmin(jnp.abs(rows[d]))].set(1)
        rows[(d + 1) % 3] = _unit(jnp.cross(rows[d], axis))
        rows[(d + 2) % 3] = _unit(jnp.cross(rows[d], rows[(d + 1) % 3]))
    return jnp.stack(rows)


def _unit(vector: Float[Array, " 3"]) -> Float[Array, " 3"]:
    return vector / jnp.sqrt(jnp.sum(vector**2))


def reciprocal(basis: Float[Array, "3 3"]) -> Float[Array, "3 3"]:
    """Rows g_d with g_d · basis[e] = δ_de, 1/Å."""
    a, b, c = basis
    cross = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    return cross / jnp.sum(a * cross[0])


def heights(basis: Float[Array, "3 3"]) -> Float[Array, " 3"]:
    """Distances between opposite faces of the parallelepiped, Å."""
    return 1 / jnp.sqrt(jnp.sum(reciprocal(basis) ** 2, axis=1))


def fractional(
    positions: Float[Array, "*batch 3"], basis: Float[Array, "3 3"]
) -> Float[Array, "*batch 3"]:
    """Coordinates f with positions = Σ_d f_d · basis[d]."""
    return lattice_vector(positions, reciprocal(basis).T)


def images(
    positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"], pbc: Periodicity
) -> Int[Array, "atoms 3"]:
    """Which periodic copy of the cell each atom is in; 0 along directions that do not repeat."""
    f = fractional(positions, frame(cell, pbc))
    return jnp.where(jnp.asarray(pbc), jnp.floor(f), 0).astype(jnp.int32)


def translate(
    positions: Float[Array, "*#batch 3"],
    lattice: Int[Array, "*#batch 3"],
    cell: Float[Array, "3 3"],
) -> Float[Array, "*batch 3"]:
    """positions + lattice · cell."""
    return positions + lattice_vector(lattice, cell)


def travelled(
    positions: Float[Array, "atoms 3"],
    reference_positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    reference_cell: Float[Array, "3 3"],
    pbc: Periodicity,
) -> tuple[Float[Array, " atoms"], Float[Array, ""]]:
    """How far atoms and cell have moved since a reference.

    With F the deformation that takes the reference cell to the present one (r → r F), any pair
    vector d has become d F + u_j − u_i, where u are the movements left over after the deformation.

    Returns:
        |u| of each atom, Å (exactly |r − r₀| while the cell is unchanged), and the Frobenius norm
        of F − 1. It bounds how much the deformation shortens a vector: |d F| ≥ (1 − ‖F − 1‖) |d|.
    """
    inverse = reciprocal(frame(reference_cell, pbc)).T
    change = frame(cell, pbc) - frame(reference_cell, pbc)
    strain = jnp.stack([lattice_vector(row, change) for row in inverse])  # F − 1
    moved = positions - reference_positions - lattice_vector(reference_positions, strain)
    return jnp.sqrt(jnp.sum(moved**2, axis=-1)), jnp.sqrt(jnp.sum(strain**2))
