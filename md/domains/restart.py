"""Checkpoints of a run on domains: as it stands on its devices, readable on any other number.

What belongs to atoms is written by the process that has them (:mod:`md.row_files`).

On the same grid a run goes on from the very rows it had, with the list built where it had been
built; on another its atoms are placed anew. What observables have accumulated knows of no domains.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from md.checkpoint import with_tuples
from md.domains import allocation, numbering, placement, sharding
from md.domains.geometry import Geometry
from md.domains.grid import Grid
from md.domains.lists import Capacities
from md.domains.search import Bins
from md.lag_sums import LagSums
from md.program import Carry
from md.row_files import Rows
from md.state import State

_REFERENCE = "reference_positions"
_BLOCK = 2**20  # rows on the host at once


class Packed(NamedTuple):
    """What a checkpoint of a run on domains holds.

    Attributes:
        rows: what belongs to atoms, on its devices.
        axes: along which axis the atoms of each of these are.
        tree: the rest, on the host.
        about: what else is to be known of them (JSON).
    """

    rows: dict[str, jax.Array]
    axes: dict[str, int]
    tree: dict[str, Any]
    about: dict[str, Any]


def packed(carry: Carry) -> Packed:
    state, listed = carry.state, carry.neighbours
    rows = {name: getattr(state, name) for name in sharding.STATE_ROWS}
    accumulators, rings = _without_rings(carry.accumulators)
    tree = {
        "state": state.replace(**dict.fromkeys(rows), key=jax.random.key_data(state.key)),
        "reference_cell": listed.reference_cell,
        "geometry": listed.geometry,
        "accumulators": accumulators,
        "watch": carry.watch,
    }
    about = {
        "counts": list(listed.geometry.counts),
        "capacities": dataclasses.asdict(listed.capacities),
    }
    rows |= {_REFERENCE: listed.reference_positions}
    axes = dict.fromkeys(rows, 0) | dict.fromkeys(rings, 1)
    return Packed(rows | rings, axes, Grid.fetched(tree), about)


def _without_rings(accumulators: Any) -> tuple[Any, dict[str, jax.Array]]:
    """What observables have, with nothing in place of what they keep of each atom; and that."""
    rings: dict[str, jax.Array] = {}

    def aside(values: jax.Array) -> np.ndarray:
        rings[_ring(len(rings))] = values
        return np.zeros(0, np.int8)

    def of_node(node: Any) -> Any:
        return node.mapped(aside, lambda same: same) if isinstance(node, LagSums) else node

    return jax.tree.map(of_node, accumulators, is_leaf=sharding.is_lag_sums), rings


def _with_rings(accumulators: Any, rows: Mapping[str, Rows], grid: Grid) -> Any:
    """What :func:`_without_rings` took apart, on a grid."""
    rings = (rows[_ring(number)] for number in itertools.count())

    def of_node(node: Any) -> Any:
        if not isinstance(node, LagSums):
            return grid.everywhere(node)
        atoms = sum(node.atoms)
        return node.mapped(lambda _: numbering.spread(next(rings), atoms, grid), grid.everywhere)

    return jax.tree.map(of_node, accumulators, is_leaf=sharding.is_lag_sums)


def _ring(number: int) -> str:
    return f"ring-{number}"


def unpacked(
    tree: dict[str, Any], rows: Mapping[str, Rows], about: dict[str, Any], like: Carry, grid: Grid
) -> Carry:
    """What :func:`packed` was given, on a grid that may be another.

    Args:
        tree, rows, about: as they were packed.
        like: a fresh carry on that grid.
    """
    allocation.release(like.neighbours)
    tree = jax.tree.map(np.asarray, tree)
    state: State = tree["state"]
    impl = jax.random.key_impl(like.state.key)
    state = state.replace(key=jax.random.wrap_key_data(state.key, impl=impl))
    a, b, c = about["counts"]
    stored: Geometry = tree["geometry"].replace(counts=(a, b, c))
    like = like._replace(
        accumulators=_with_rings(tree["accumulators"], rows, grid),
        watch=grid.everywhere(tree["watch"]),
    )
    if grid.counts == stored.counts:
        return _as_it_was(state, stored, rows, tree, _capacities(about["capacities"]), like, grid)
    geometry, fullest = _cut(rows, state, stored, grid, like.state.positions.dtype)
    placed = placement.placed_by_blocks(
        state,
        _blocks(rows, sharding.STATE_ROWS, state, stored),
        grid,
        geometry,
        allocation.rows_for(fullest, grid.domains),
        like.state.positions.dtype,
    )
    listed = allocation.allocate(placed, geometry, grid, like.neighbours.reach)
    return like._replace(state=placed, neighbours=listed)


def _cut(
    rows: Mapping[str, Rows], state: State, stored: Geometry, grid: Grid, dtype: Any
) -> tuple[Geometry, int]:
    """The domains of a grid, and how many atoms the fullest of them has."""
    cell, names = np.asarray(state.cell, float), ("positions", "images", "ids")
    outermost = np.zeros((0, 3))  # the atoms that are, in some direction
    if not all(state.pbc):
        basis = np.linalg.inv(placement.frame(cell, state.pbc))
        for block in _blocks(rows, names, state, stored):
            points = np.concatenate([outermost, block["positions"]])
            if len(points):  # a block may be all padding
                along = points @ basis
                outermost = points[np.concatenate([along.argmin(axis=0), along.argmax(axis=0)])]
    else:
        outermost = np.zeros((1, 3))
    geometry = placement.cut(outermost, cell, state.pbc, grid.counts, dtype)
    populations = sum(
        placement.populations(block["positions"], cell, geometry)
        for block in _blocks(rows, names, state, stored)
    )
    return geometry, int(populations.max())


def _blocks(
    rows: Mapping[str, Rows], names: Sequence[str], state: State, stored: Geometry
) -> Iterator[dict[str, np.ndarray]]:
    """What a checkpoint has of its atoms, some at a time; positions on their continuous path."""
    cell, number = np.asarray(state.cell, float), rows["ids"].shape[0]
    for first in range(0, number, _BLOCK):
        here = slice(first, min(first + _BLOCK, number))
        (held,) = np.nonzero(rows["ids"][here] >= 0)
        found = {name: rows[name][here][held] for name in names}
        domain = (first + held) // (number // int(np.prod(stored.counts)))
        found["positions"] = placement.continuous(
            found["positions"], found["images"], domain, cell, stored
        )
        yield found


def _as_it_was(
    state: State,
    geometry: Geometry,
    rows: Mapping[str, Rows],
    tree: dict[str, Any],
    capacities: Capacities,
    like: Carry,
    grid: Grid,
) -> Carry:
    own = {name: grid.spread(rows[name]) for name in sharding.STATE_ROWS}
    state = state.replace(**own, **sharding.elsewhere(state, grid))
    listed = allocation.empty(state, geometry, grid, like.neighbours.reach, capacities)
    listed = listed.replace(
        reference_positions=grid.spread(rows[_REFERENCE]),
        reference_cell=grid.everywhere(tree["reference_cell"]),
    )
    return like._replace(state=state, neighbours=allocation.built_at_reference(state, listed, grid))


def _capacities(stored: dict[str, Any]) -> Capacities:
    bins = Bins(**with_tuples(stored["bins"]))
    return Capacities(**with_tuples(stored) | {"bins": bins})
