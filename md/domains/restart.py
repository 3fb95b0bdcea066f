"""Checkpoints of a run on domains: as it stands on its devices, readable on any other number.

On the same grid a run goes on from the very rows it had, with the list built where it had been
built; on another its atoms are placed anew.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from md.domains import allocation, placement, sharding
from md.domains.geometry import Geometry
from md.domains.grid import Grid
from md.domains.lists import Capacities
from md.domains.search import Bins
from md.program import Carry
from md.state import State


def packed(carry: Carry) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a checkpoint, and what else is to be known of them (JSON)."""
    listed = carry.neighbours
    arrays = {
        "state": carry.state,
        "reference_positions": listed.reference_positions,
        "reference_cell": listed.reference_cell,
        "geometry": listed.geometry,
    }
    about = {
        "counts": list(listed.geometry.counts),
        "capacities": dataclasses.asdict(listed.capacities),
    }
    keys = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, arrays)
    return Grid.fetched(keys), about


def unpacked(arrays: dict[str, Any], like: Carry, about: dict[str, Any], grid: Grid) -> Carry:
    """What :func:`packed` was given, on a grid that may be another.

    Args:
        like: a fresh carry on that grid.
    """
    arrays = jax.tree.map(np.asarray, arrays)
    state: State = arrays["state"]
    impl = jax.random.key_impl(like.state.key)
    state = state.replace(key=jax.random.wrap_key_data(state.key, impl=impl))
    a, b, c = about["counts"]
    stored: Geometry = arrays["geometry"].replace(counts=(a, b, c))
    if grid.counts == stored.counts:
        return _as_it_was(state, stored, arrays, _capacities(about["capacities"]), like, grid)
    found = placement.in_order(
        {name: getattr(state, name) for name in sharding.STATE_ROWS},
        np.asarray(state.cell, float),
        stored,
    )
    state = state.replace(**found)
    positions, cell = found["positions"], np.asarray(state.cell, float)
    geometry = placement.cut(positions, cell, state.pbc, grid.counts, like.state.positions.dtype)
    fullest = int(placement.populations(positions, cell, geometry).max())
    state = state.replace(positions=positions.astype(like.state.positions.dtype))
    placed = placement.placed(
        state, positions, grid, geometry, allocation.rows_for(fullest, grid.domains)
    )
    listed = allocation.allocate(placed, geometry, grid, like.neighbours.reach)
    return like._replace(state=placed, neighbours=listed)


def _as_it_was(
    state: State,
    geometry: Geometry,
    arrays: dict[str, Any],
    capacities: Capacities,
    like: Carry,
    grid: Grid,
) -> Carry:
    rows = sharding.STATE_ROWS
    state = state.replace(
        **{name: grid.spread(getattr(state, name)) for name in rows},
        **{
            name: grid.everywhere(value)
            for name, value in vars(state).items()
            if name not in (*rows, "pbc", "axes")
        },
    )
    listed = allocation.empty(state, geometry, grid, like.neighbours.reach, capacities)
    listed = listed.replace(
        reference_positions=grid.spread(arrays["reference_positions"]),
        reference_cell=grid.everywhere(arrays["reference_cell"]),
    )
    return like._replace(state=state, neighbours=allocation.built_at_reference(state, listed, grid))


def _capacities(stored: dict[str, Any]) -> Capacities:
    """Capacities from JSON, which has no tuples."""
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    bins = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["bins"].items()}
    return Capacities(**sizes | {"bins": Bins(**bins)})


def _is_key(leaf: Any) -> bool:
    return jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
