"""What belongs to atoms of all domains, in the order of their numbers, a part at a time.

Neither a device nor the host ever holds more of it than one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

from md.domains import numbering
from md.domains.grid import AXES, Grid
from md.domains.sharding import ON_ALL, ROWS

DOMAIN = "domain"
_LEAST = 2**16  # atoms of a part, if there are as many
_PARTS = 64  # of a domain: each is looked for among all of its atoms


def parts(
    fields: Mapping[str, jax.Array],
    ids: jax.Array,
    grid: Grid,
    number: int,
    chosen: tuple[int, ...] | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The place of the first atom of each part, and what belongs to its atoms. All processes ask.

    Args:
        fields: arrays whose rows are those of all domains.
        ids: of these rows, -1 where there is no atom.
        number: of atoms, of those chosen if some are.
        chosen: ids, in the order in which they are wanted; None: all, from 0.

    Yields:
        The fields, and as ``domain`` which one of the mesh each atom is in.
    """
    size = min(number, max(_LEAST, -(-len(ids) // (grid.domains * _PARTS))))
    for first in range(0, number, size):
        found = _part(dict(fields), ids, first, size, chosen, grid)
        yield (
            first,
            {
                name: np.asarray(values)[: number - first]
                for name, values in Grid.fetched(found).items()
            },
        )


@partial(jax.jit, static_argnames=("size", "chosen", "grid"))
def _part(
    fields: dict[str, Shaped[Array, "rows ..."]],
    ids: Int[Array, " rows"],
    first: Int[Array, ""] | int,
    size: int,
    chosen: tuple[int, ...] | None,
    grid: Grid,
) -> dict[str, Shaped[Array, "size ..."]]:
    def of_domain(
        fields: dict[str, Array], ids: Int[Array, " rows"], first: Int[Array, ""]
    ) -> dict[str, Array]:
        place = numbering.places(ids, chosen) - first
        mine = (place >= 0) & (place < size) & (ids >= 0)
        rows = jnp.arange(len(ids), dtype=jnp.int32)
        row = jnp.full(size, -1, jnp.int32)
        row = row.at[jnp.where(mine, place, size)].set(rows, mode="drop")
        held = row >= 0
        found = {
            name: jnp.where(
                held.reshape(-1, *(1,) * (values.ndim - 1)), values[jnp.maximum(row, 0)], 0
            )
            for name, values in fields.items()
        }
        found[DOMAIN] = jnp.where(held, jax.lax.axis_index(AXES), 0)
        return jax.lax.psum(found, AXES)  # each atom is in one domain

    specs = dict.fromkeys(fields, ROWS), ROWS, ON_ALL
    return grid.sharded(of_domain, specs, ON_ALL)(fields, ids, jnp.asarray(first, ids.dtype))
