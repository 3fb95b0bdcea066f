"""Pairs for observables that look farther than the potential does.

Only sizes are kept between two searches, no list: an observable that looks at every hundredth step
costs nothing at the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int

from md import bins, neighbours
from md.bins import Capacities, Reach, Required
from md.neighbours import NeighbourList
from md.state import State

PairCutoffs = tuple[tuple[float, ...], ...]


class Pairs(NamedTuple):
    """Neighbours in slots, as in :class:`md.neighbours.NeighbourList`."""

    indices: Int[Array, "atoms slots"]
    shifts: Int[Array, "atoms slots 3"]


@struct.dataclass
class PairSearch:
    """What a search of pairs within a cutoff needs, and what went wrong in those done so far.

    Attributes:
        faults: int32 bits of :class:`md.faults.Fault`, sticky.
        required: the largest sizes met.
        reach, capacities: static, see :mod:`md.bins`.
    """

    faults: Int[Array, ""]
    required: Required
    reach: Reach = struct.field(pytree_node=False)
    capacities: Capacities = struct.field(pytree_node=False)


def allocate(
    state: State, cutoff: float | int, pair_cutoffs: PairCutoffs | None = None
) -> PairSearch:
    """Choose sizes for the pairs of a state within a cutoff, or within their own; on the host."""
    reach = Reach(state.pbc, float(cutoff), 0.0, pair_cutoffs)
    listed = neighbours.allocate(
        state.positions, state.cell, state.species, reach=reach, fill=False
    )
    return PairSearch(listed.faults, listed.required, reach, listed.capacities)


def find(search: PairSearch, state: State) -> tuple[PairSearch, Pairs]:
    """The pairs of a state, for use in compiled code. What does not fit sets ``faults``."""
    indices, shifts, faults, required = bins.search(
        state.positions, state.cell, state.species, search.reach, search.capacities
    )
    search = search.replace(
        faults=search.faults | faults,
        required=Required(*map(jnp.maximum, search.required, required)),
    )
    return search, Pairs(indices, shifts)


def covers(listed: NeighbourList | None, cutoff: float | int) -> bool:
    """Whether a neighbour list holds, at all times, every pair closer than a cutoff."""
    if listed is None:
        return False
    return listed.reach.pair_cutoffs is None and listed.reach.cutoff >= cutoff


def _is_search(node: Any) -> bool:
    return isinstance(node, PairSearch)


def faults(tree: Any) -> Int[Array, "*replicas"]:
    """The faults of all searches inside a pytree (accumulators of observables); compiled.

    With replicas, those of each.
    """
    total = jnp.int32(0)
    for node in jax.tree.leaves(tree, is_leaf=_is_search):
        if _is_search(node):
            total = total | node.faults
    return total


def grown(before: Any, after: Any, state: State) -> Any:
    """The pytree ``before`` with more room in every search that overflowed on the way to ``after``.

    On the host. ``state`` is any state near those that overflowed.
    """

    def grow(old: Any, new: Any) -> Any:
        if not _is_search(old) or int(new.faults) == 0:
            return old
        n = state.positions.shape[0]
        listed = NeighbourList(
            indices=jnp.zeros((n, 0), jnp.int32),
            shifts=jnp.zeros((n, 0, 3), jnp.int8),
            reference_positions=state.positions,
            reference_cell=state.cell,
            faults=new.faults,
            required=new.required,
            reach=old.reach,
            capacities=old.capacities,
        )
        place = state.positions, state.cell, state.species
        return old.replace(capacities=neighbours.enlarged(listed, *place))

    return jax.tree.map(grow, before, after, is_leaf=_is_search)
