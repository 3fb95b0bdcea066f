"""The dense layout of neighbourhoods: every atom is a row, every neighbour a slot of it."""

from __future__ import annotations

import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int

from allegro_jax.neighbour_search import PairCutoffs


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
