"""What belongs to atoms, by their numbers instead of their domains: where it stays for good.

Each device holds a block of numbers. What is brought there goes round all devices, and each takes
what is its own: no device ever holds more than one domain of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from md.domains.grid import AXES, Grid
from md.row_files import Rows


def block_of(number: int, devices: int) -> int:
    """How many numbers each device holds."""
    return -(-number // devices)


def places(ids: Int[Array, " rows"], chosen: tuple[int, ...] | None) -> Int[Array, " rows"]:
    """The place of each atom among those chosen (all: None), −1 for others and for padding.

    Args:
        chosen: ids, each once.
    """
    if chosen is None:
        return ids
    order = np.argsort(chosen)
    ordered = jnp.asarray(np.asarray(chosen)[order], ids.dtype)
    at = jnp.minimum(jnp.searchsorted(ordered, ids), len(chosen) - 1)
    return jnp.where(ordered[at] == ids, jnp.asarray(order, ids.dtype)[at], -1)


def held(number: int, devices: int) -> Bool[Array, " block"]:
    """Which places of this device's block there are; the last blocks may not be full."""
    block = block_of(number, devices)
    return _first(block) + jnp.arange(block) < number


def brought(
    values: Mapping[str, Shaped[Array, "rows ..."]],
    places: Int[Array, " rows"],
    number: int,
    devices: int,
) -> dict[str, Shaped[Array, "block ..."]]:
    """What belongs to the atoms of this domain, where it belongs by number; within ``shard_map``.

    Args:
        values: of the atoms of this domain.
        places: of these atoms, from 0; −1 for those that are not wanted.
        number: of places.
        devices: of the mesh.
    """
    block = block_of(number, devices)
    around = [(i, (i + 1) % devices) for i in range(devices)]

    def turn(_: Array, carry: tuple) -> tuple:
        passing, at, found = carry
        mine = (at >= 0) & (at >= _first(block)) & (at < _first(block) + block)
        row = jnp.where(mine, at - _first(block), block)
        found = {
            name: found[name].at[row].set(of_all, mode="drop") for name, of_all in passing.items()
        }
        passing, at = jax.lax.ppermute((passing, at), AXES, around)
        return passing, at, found

    found = {name: jnp.zeros((block, *x.shape[1:]), x.dtype) for name, x in values.items()}
    return jax.lax.fori_loop(0, devices, turn, (dict(values), places, found))[2]


def _first(block: int) -> Int[Array, ""]:
    return jax.lax.axis_index(AXES) * block


def zeros(shape: jax.ShapeDtypeStruct, grid: Grid) -> jax.Array:
    """Zeros by lag and number, with numbers over the devices of a grid."""
    lags, number, *others = shape.shape
    block = block_of(number, grid.domains)
    whole = (lags, block * grid.domains, *others)
    part = np.zeros((lags, block, *others), shape.dtype)
    return jax.make_array_from_callback(whole, grid.by_number, lambda _: part)


def spread(values: Rows, number: int, grid: Grid) -> jax.Array:
    """Values by lag and number, with numbers over the devices of a grid.

    Args:
        values: [lags, numbers, ...] as some grid had them.
        number: how many of the numbers count; the rest was padding.
    """
    block = block_of(number, grid.domains)
    shape = (values.shape[0], block * grid.domains, *values.shape[2:])

    def part(index: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = index[1].indices(shape[1])
        own = values[:, min(first, number) : min(last, number)]
        short = (last - first) - own.shape[1]
        return np.pad(own, ((0, 0), (0, short), *((0, 0),) * (own.ndim - 2)))

    return jax.make_array_from_callback(shape, grid.by_number, part)
