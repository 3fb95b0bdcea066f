"""The halo: copies of the atoms just beyond a domain's faces.

Ghosts sit behind a domain's own atoms, in a block of rows for each *exchange*. An exchange sends
rows along one axis to one side; an axis has one to either side, and more where a single domain is
thinner than the range, whose images of images then count too. Which rows are sent is chosen at a
rebuild (:func:`choose`) and stays until the next (:func:`spread`).
"""

from __future__ import annotations

import dataclasses
from math import ceil
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from md import cells
from md.cells import Periodicity
from md.domains.geometry import Geometry, coordinate
from md.domains.grid import AXES, Counts

MARGIN = 1 + 1e-5
"""Of the range, for rounding."""

_ROWS_PER_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class Exchange:
    """One message. Static.

    Attributes:
        axis: 0, 1 or 2.
        side: −1: rows near the lower face go to the domain below; +1: the other way.
        source: first and last row that may be sent.
        target: first row of the ghosts that arrive.
        size: how many rows there is room for.
    """

    axis: int
    side: int
    source: tuple[int, int]
    target: int
    size: int


class Layout(NamedTuple):
    """Rows of a domain: own atoms, then the ghosts of each exchange in turn."""

    own: int
    exchanges: tuple[Exchange, ...]

    @property
    def rows(self) -> int:
        return self.own + sum(exchange.size for exchange in self.exchanges)


def layout(own: int, counts: Counts, pbc: Periodicity, turns: Counts, sizes: Counts) -> Layout:
    """The exchanges of a domain.

    Args:
        own: rows for own atoms.
        counts, pbc: of the grid.
        turns: how often an axis has to be gone along, see :func:`turns_of`.
        sizes: rows for the ghosts of one exchange along each axis.
    """
    exchanges: list[Exchange] = []
    rows = own
    for d in range(3):
        if counts[d] == 1 and not pbc[d]:
            continue
        before = (0, rows)
        source = {-1: before, 1: before}
        for _ in range(turns[d]):
            for side in (-1, 1):
                exchanges.append(Exchange(d, side, source[side], rows, sizes[d]))
                source[side] = (rows, rows + sizes[d])
                rows += sizes[d]
    return Layout(own, tuple(exchanges))


def turns_of(widths_A: tuple[float, float, float], reach: float) -> Counts:
    """How many domains the range spans along each axis, from their widths in Å."""
    a, b, c = (max(1, ceil(reach * MARGIN / width)) for width in widths_A)
    return a, b, c


def too_thin(
    cell: Float[Array, "3 3"], geometry: Geometry, turns: Counts, reach: float
) -> Bool[Array, ""]:
    """Whether the range goes past the domains that ghosts come from, along any axis."""
    heights = cells.heights(cells.frame(cell, geometry.pbc))
    thin = jnp.asarray(False)
    for d in range(3):
        if geometry.counts[d] > 1 or geometry.pbc[d]:
            narrowest = jnp.min(geometry.widths[d]) * heights[d]
            thin |= turns[d] * narrowest < reach * MARGIN
    return thin


def choose(
    positions: Float[Array, "own 3"],
    species: Int[Array, " own"],
    cell: Float[Array, "3 3"],
    geometry: Geometry,
    layout: Layout,
    reach: float,
) -> tuple[tuple[Array, ...], Float[Array, "rows 3"], Int[Array, " rows"], Int[Array, " 3"]]:
    """Choose the ghosts.

    Returns:
        The rows that each exchange sends (``rows`` where there is nothing to send), positions and
        species of all rows (−1 where there is no atom), and the most rows that any exchange along
        each axis had to send: more than its size where it did not fit.
    """
    positions = jnp.pad(positions, ((0, layout.rows - layout.own), (0, 0)))
    species = jnp.pad(species, (0, layout.rows - layout.own), constant_values=-1)
    basis = cells.frame(cell, geometry.pbc)
    heights = cells.heights(basis)
    sends, required = [], jnp.zeros(3, jnp.int32)
    for exchange in layout.exchanges:
        d, (start, stop) = exchange.axis, exchange.source
        u = coordinate(positions[start:stop], cell, geometry.pbc, d)
        near = reach * MARGIN / heights[d]
        close = u < near if exchange.side < 0 else u > geometry.width(d) - near
        close &= (species[start:stop] >= 0) & ~jnp.asarray(geometry.ends(d, exchange.side))
        found = rows_of(close, exchange.size)
        sent = jnp.where(found < stop - start, found + start, layout.rows)
        sends.append(sent)
        required = required.at[d].max(jnp.sum(close, dtype=jnp.int32))
        arrived = _sent(positions.at[sent].get(mode="fill", fill_value=0), exchange, geometry)
        arrived = arrived + offset(exchange, cell, geometry)
        kinds = _sent(species.at[sent].get(mode="fill", fill_value=-1), exchange, geometry)
        positions = jax.lax.dynamic_update_slice_in_dim(positions, arrived, exchange.target, 0)
        species = jax.lax.dynamic_update_slice_in_dim(species, kinds, exchange.target, 0)
    return tuple(sends), positions, species, required


def rows_of(chosen: Bool[Array, " rows"], size: int) -> Int[Array, " size"]:
    """The first rows that are chosen, in order; then the number of rows.

    Like :func:`jax.numpy.nonzero`, but in blocks: that needs many times the memory of its argument.
    """
    rows = chosen.shape[0]
    blocks = max(1, ceil(rows / _ROWS_PER_BLOCK))
    length = ceil(rows / blocks)

    def block(number: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        found, count = carry
        start = jnp.minimum(number * length, rows - length)  # the last block repeats some rows
        here = start + jnp.arange(length, dtype=jnp.int32)
        mine = jax.lax.dynamic_slice_in_dim(chosen, start, length) & (here >= number * length)
        place = count + jnp.cumsum(mine, dtype=jnp.int32)
        found = found.at[jnp.where(mine, place - 1, size)].set(here, mode="drop")
        return found, place[-1]

    carry = jnp.full(size, rows, jnp.int32), jnp.int32(0)
    return jax.lax.fori_loop(0, blocks, block, carry)[0] if blocks > 1 else block(0, carry)[0]


def offset(exchange: Exchange, cell: Float[Array, "3 3"], geometry: Geometry) -> Float[Array, " 3"]:
    """From coordinates relative to the sender's corner to those relative to the receiver's."""
    d = exchange.axis
    # what comes down lies beyond my upper face, what comes up beyond the lower face of its sender
    across = geometry.width(d) if exchange.side < 0 else -geometry.width(d, -1)
    return across * cells.frame(cell, geometry.pbc)[d]


def spread(
    values: Shaped[Array, "own ..."],
    sends: tuple[Array, ...],
    geometry: Geometry,
    layout: Layout,
    cell: Float[Array, "3 3"] | None = None,
) -> Shaped[Array, "rows ..."]:
    """What belongs to own atoms, for all rows.

    Args:
        values: of own atoms.
        sends: as :func:`choose` gave them.
        cell: where the values are positions, which change with the domain they are relative to.

    It is linear but for these shifts, and its transpose brings forces on ghosts home: the reverse
    exchange is ``jax.linear_transpose`` of this one.
    """
    empty = layout.rows - layout.own
    rows = jnp.pad(values, ((0, empty), *((0, 0) for _ in values.shape[1:])))
    for exchange, sent in zip(layout.exchanges, sends, strict=True):
        arrived = _sent(rows.at[sent].get(mode="fill", fill_value=0), exchange, geometry)
        if cell is not None:
            arrived = arrived + offset(exchange, cell, geometry)
        rows = jax.lax.dynamic_update_slice_in_dim(rows, arrived, exchange.target, 0)
    return rows


def gathered(
    values: Float[Array, "rows ..."],
    sends: tuple[Array, ...],
    geometry: Geometry,
    layout: Layout,
) -> Float[Array, "own ..."]:
    """The sum of what belongs to an atom over all its copies: the transpose of :func:`spread`."""
    own = jax.ShapeDtypeStruct((layout.own, *values.shape[1:]), values.dtype)
    back = jax.linear_transpose(lambda own: spread(own, sends, geometry, layout), own)
    return back(values)[0]


def _sent(rows: Array, exchange: Exchange, geometry: Geometry) -> Array:
    """Rows as they arrive from the domain beside this one."""
    count = geometry.counts[exchange.axis]
    if count == 1:
        return rows  # its own image
    along = [(i, (i + exchange.side) % count) for i in range(count)]
    return jax.lax.ppermute(rows, AXES[exchange.axis], along)
