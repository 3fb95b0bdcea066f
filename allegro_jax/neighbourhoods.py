"""The dense layout of neighbourhoods: every atom is a row, every neighbour a slot of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int

from allegro_jax.neighbour_search import PairCutoffs


class Rows(NamedTuple):
    """Neighbourhoods of a group of atoms that have as many slots each.

    Attributes:
        vectors: r_neighbour − r_centre, Å.
        mask: which slots hold a neighbour.
        centre_species, neighbour_species: species indices; −1 for a padded row.
    """

    vectors: Float[Array, "n K 3"]
    mask: Bool[Array, "n K"]
    centre_species: Int[Array, " n"]
    neighbour_species: Int[Array, "n K"]


def one_by_one(groups: Sequence[Rows]) -> Rows:
    """The pairs of all groups as rows of one slot, for what does not depend on other pairs."""
    rows = [
        Rows(
            group.vectors.reshape(-1, 1, 3),
            group.mask.reshape(-1, 1),
            jnp.repeat(group.centre_species, group.mask.shape[1]),
            group.neighbour_species.reshape(-1, 1),
        )
        for group in groups
    ]
    return Rows(*(jnp.concatenate(entries) for entries in zip(*rows, strict=True)))


def by_group(
    pairs: Float[Array, "pairs ..."], shapes: tuple[tuple[int, int], ...]
) -> list[Float[Array, "n K ..."]]:
    """What is known of all pairs, for each group as [atoms, slots] of its shape."""
    parts = jnp.split(pairs, np.cumsum([atoms * slots for atoms, slots in shapes])[:-1])
    return [
        part.reshape(*shape, *pairs.shape[1:]) for part, shape in zip(parts, shapes, strict=True)
    ]


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
