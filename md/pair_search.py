"""Pairs for observables, also those that look farther than the potential does.

Only sizes are kept between two searches, no list: an observable that looks at every hundredth step
costs nothing at the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import bins, cells, neighbours
from md.bins import Capacities, Reach, Required
from md.domains import lists
from md.domains.lists import DomainList
from md.neighbours import NeighbourList
from md.state import State

PairCutoffs = tuple[tuple[float, ...], ...]
Listed = NeighbourList | DomainList


class Pairs(NamedTuple):
    """Neighbours in slots, as in :class:`md.neighbours.NeighbourList`, and the atoms they refer to.

    Attributes:
        indices, shifts: of the neighbours; no shifts on domains.
        positions, species: of all rows; on domains those of ghosts come last.
    """

    indices: Int[Array, "atoms slots"]
    shifts: Int[Array, "atoms slots 3"] | None
    positions: Float[Array, "rows 3"]
    species: Int[Array, " rows"]


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


def chosen(
    name: str,
    state: State,
    listed: Listed | None,
    cutoff: float | int,
    pair_cutoffs: PairCutoffs | None = None,
    *,
    borrows: bool = False,
) -> PairSearch | None:
    """A search of an observable's own; None where it takes the run's list, as on domains it must.

    Args:
        name: of the observable.
        borrows: whether to take the run's list on a single device too, if that reaches far enough.

    Raises:
        ValueError: on domains, if the list does not reach so far.
    """
    on_domains = len(state.axes) > 0
    if (borrows or on_domains) and covers(listed, cutoff, pair_cutoffs):
        return None
    if on_domains:
        assert listed is not None
        reach = np.min(listed.reach.pair_cutoffs or listed.reach.cutoff)
        raise ValueError(
            f"{name}: on domains no pair is known beyond the potential's cutoff ({reach:g} Å), and "
            f"{float(cutoff):g} Å are asked for: choose less, or keep a trajectory and look at it "
            "by `allegro-jax analyse`"
        )
    return allocate(state, cutoff, pair_cutoffs)


def pairs_of(
    search: PairSearch | None, state: State, listed: Listed | None
) -> tuple[PairSearch | None, Pairs]:
    """The pairs of a state, from a search or from the run's list; compiled."""
    if search is not None:
        return find(search, state)
    assert listed is not None
    if isinstance(listed, DomainList):
        return None, Pairs(listed.indices, None, *lists.with_ghosts(state, listed)[:2])
    return None, Pairs(listed.indices, listed.shifts, state.positions, state.species)


def neighbourhoods(
    rows: Int[Array, " rows"], pairs: Pairs, state: State
) -> tuple[Array, Array, Array]:
    """Vectors to the neighbours of some atoms, which slots hold one, and their species."""
    indices = pairs.indices[rows]
    mask = indices < pairs.positions.shape[0]
    index = jnp.where(mask, indices, 0)
    ends = pairs.positions[index], pairs.positions[rows][:, None]
    if pairs.shifts is None:
        vectors = cells.difference(*ends)
    else:
        vectors = cells.displacement(*ends, pairs.shifts[rows], state.cell)
    return vectors, mask, pairs.species[index].astype(jnp.int32)


def find(search: PairSearch, state: State) -> tuple[PairSearch, Pairs]:
    """The pairs of a state, for use in compiled code. What does not fit sets ``faults``."""
    indices, shifts, faults, required = bins.search(
        state.positions, state.cell, state.species, search.reach, search.capacities
    )
    search = search.replace(
        faults=search.faults | faults,
        required=Required(*map(jnp.maximum, search.required, required)),
    )
    return search, Pairs(indices, shifts, state.positions, state.species)


def covers(
    listed: Listed | None, cutoff: float | int, pair_cutoffs: PairCutoffs | None = None
) -> bool:
    """Whether a neighbour list holds, at all times, every pair closer than a cutoff."""
    if listed is None:
        return False
    held = np.asarray(listed.reach.pair_cutoffs or listed.reach.cutoff)
    return bool(np.all(held >= np.asarray(pair_cutoffs or cutoff)))


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
