"""Neighbours among a domain's own atoms and its ghosts, by bins along the cell's axes.

Bins cover the domain and its halo. Atoms are sorted by bin, the last axis fastest, so that all bins
of a stencil along that axis are one run of the sorted atoms: no table of bins and their members is
ever made. Rows are searched in blocks, and the list is written over the old one.
"""

from __future__ import annotations

import dataclasses
from itertools import product
from math import ceil, prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import bins, cells
from md.bins import Reach
from md.domains.geometry import Geometry, coordinate
from md.domains.grid import Counts
from md.faults import Fault

_CANDIDATES_PER_BLOCK = 2**20  # tens of MiB
_SHRINKS = 1.05  # what a stencil is made for


@dataclasses.dataclass(frozen=True)
class Bins:
    """Static sizes of a search.

    Attributes:
        counts: number of bins along each axis, over the domain and its halo.
        stencil: bins searched to either side along each axis.
        occupancy: atoms that one run of bins can hold.
    """

    counts: Counts
    stencil: Counts
    occupancy: int

    @property
    def number(self) -> int:
        return prod(self.counts)

    @property
    def candidates(self) -> int:
        """How many atoms are looked at to find the neighbours of one."""
        return (2 * self.stencil[0] + 1) * (2 * self.stencil[1] + 1) * self.occupancy


def plan(widths_A: tuple[float, float, float], reach: float, atoms: float) -> Bins:
    """Bins of the range or of half of it, whichever leaves fewer atoms to look at.

    Args:
        widths_A: of the domain, Å.
        reach: Å.
        atoms: rows of the domain that hold an atom, ghosts included.
    """
    return min(
        (_bins(widths_A, reach, atoms, finer) for finer in (1, 2)),
        key=lambda bins: bins.candidates,
    )


def _bins(widths_A: tuple[float, float, float], reach: float, atoms: float, finer: int) -> Bins:
    spans = [width + 2 * reach for width in widths_A]
    # wide enough for a stencil of ``finer`` bins, also when the box has shrunk a little
    counts = [max(1, int(span / (reach * _SHRINKS) * finer)) for span in spans]
    while prod(counts) > max(2 * atoms, 27):  # mostly empty space
        counts[int(np.argmax(counts))] //= 2
    stencil = [
        min(n, ceil(reach * _SHRINKS * n / span)) for n, span in zip(counts, spans, strict=True)
    ]
    run = atoms / prod(counts) * (2 * stencil[2] + 1)
    a, b, c = counts
    return Bins((a, b, c), (stencil[0], stencil[1], stencil[2]), likely(run))


def likely(mean: float) -> int:
    """More than a Poisson number of this mean nearly ever is, and a tenth for other reasons."""
    return ceil(1.1 * mean + 5 * np.sqrt(mean) + 3)


def bin_of(
    positions: Float[Array, "rows 3"],
    species: Int[Array, " rows"],
    cell: Float[Array, "3 3"],
    geometry: Geometry,
    reach: float,
    sizes: Bins,
) -> tuple[Int[Array, "rows 3"], Int[Array, " rows"]]:
    """The bin of each row along each axis, and the number of that bin, or of none.

    Whatever lies beyond the halo is in the outermost bin: only its occupancy suffers.
    """
    height = cells.heights(cells.frame(cell, geometry.pbc))
    along = []
    for d, count in enumerate(sizes.counts):
        u = coordinate(positions, cell, geometry.pbc, d) * height[d]
        place = jnp.floor((u + reach) / _width(d, height, geometry, reach, sizes))
        along.append(jnp.clip(place, 0, count - 1).astype(jnp.int32))
    flat = _flat(*along, sizes)
    return jnp.stack(along, axis=1), jnp.where(species >= 0, flat, sizes.number)


def _width(d: int, height: Array, geometry: Geometry, reach: float, sizes: Bins) -> Array:
    return (geometry.width(d) * height[d] + 2 * reach) / sizes.counts[d]


def _flat(x: Array, y: Array, z: Array, sizes: Bins) -> Array:
    return (x * sizes.counts[1] + y) * sizes.counts[2] + z


def search(
    positions: Float[Array, "rows 3"],
    species: Int[Array, " rows"],
    cell: Float[Array, "3 3"],
    geometry: Geometry,
    reach: Reach,
    sizes: Bins,
    room: Int[Array, "own slots"],
) -> tuple[Int[Array, "own slots"], Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
    """The neighbours of the first rows.

    Args:
        positions: of own atoms and ghosts, relative to the domain's corner.
        room: the array to write to, whatever it holds; without slots, neighbours are only counted.

    Returns:
        The rows of the neighbours (the number of rows where a slot is empty), faults, and the slots
        and the occupancy that were needed.
    """
    rows, (own, slots) = species.shape[0], room.shape
    along, number = bin_of(positions, species, cell, geometry, reach.range, sizes)
    along = along[:own]
    order = bins.sorted_rows(number)
    first = jnp.searchsorted(number[order], jnp.arange(sizes.number + 1)).astype(jnp.int32)
    (sx, sy, sz), (nx, ny, nz) = sizes.stencil, sizes.counts
    offsets = np.asarray(list(product(range(-sx, sx + 1), range(-sy, sy + 1))), np.int32)
    place = jnp.arange(sizes.occupancy, dtype=jnp.int32)
    blocks = ceil(own * sizes.candidates / _CANDIDATES_PER_BLOCK)
    size = ceil(own / blocks)

    def block(turn: Array | int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        listed, most, fullest = carry
        start = jnp.minimum(turn * size, own - size)  # the last block repeats some rows
        here = start + jnp.arange(size, dtype=jnp.int32)
        x = along[here, 0, None] + offsets[:, 0]
        y = along[here, 1, None] + offsets[:, 1]
        z = along[here, 2, None]
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny) & (species[here] >= 0)[:, None]
        begin = first[jnp.where(inside, _flat(x, y, jnp.maximum(z - sz, 0), sizes), 0)]
        end = first[jnp.where(inside, _flat(x, y, jnp.minimum(z + sz, nz - 1), sizes) + 1, 0)]
        length = jnp.where(inside, end - begin, 0)  # [size, runs]
        member = order[jnp.minimum(begin[..., None] + place, rows - 1)]
        vectors = cells.difference(positions[member], positions[here][:, None, None])
        allowed = bins.ranges(member, here, species, reach, positions.dtype)
        near = jnp.sum(vectors**2, axis=-1) < allowed**2
        near &= (place < length[..., None]) & (member != here[:, None, None])
        if slots:
            run, within, count = bins.first_true(near, slots)
            found = jnp.take_along_axis(begin, run, axis=1) + within
            held = jnp.arange(slots) < count[:, None]
            found = jnp.where(held, order[jnp.minimum(found, rows - 1)], rows).astype(jnp.int32)
            listed = jax.lax.dynamic_update_slice_in_dim(listed, found, start, 0)
        else:
            count = jnp.sum(near, axis=(1, 2))
        return (
            listed,
            jnp.maximum(most, jnp.max(count).astype(jnp.int32)),
            jnp.maximum(fullest, jnp.max(length)),
        )

    carry = room, jnp.int32(0), jnp.int32(0)
    carry = block(0, carry) if blocks == 1 else jax.lax.fori_loop(0, blocks, block, carry)
    listed, most, fullest = carry
    height = cells.heights(cells.frame(cell, geometry.pbc))
    widths = jnp.stack([_width(d, height, geometry, reach.range, sizes) for d in range(3)])
    spans = jnp.asarray(sizes.stencil) * widths >= reach.range
    # a stencil of all bins spans everything
    spans |= jnp.asarray(sizes.stencil) >= jnp.asarray(sizes.counts) - 1
    faults = (
        jnp.where(most > slots, jnp.int32(Fault.NEIGHBOUR_CAPACITY), 0)
        | jnp.where(fullest > sizes.occupancy, jnp.int32(Fault.BIN_CAPACITY), 0)
        | jnp.where(~jnp.all(spans), jnp.int32(Fault.CELL_SHRUNK), 0)
    )
    return listed, faults, most, fullest
