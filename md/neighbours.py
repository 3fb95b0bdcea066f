"""Dense neighbour lists with a skin: any cell, any periodic directions, any number of images.

One algorithm (:mod:`md.bins`) serves all sizes: with many bins it is the O(N) cell list, with one
the plain search over all pairs and images, which is what small systems get. Atoms are processed in
blocks, so that candidates are never held for all of them at once.

Nothing is lost silently. Whatever does not fit sets a bit of ``faults`` and records the size that
was required; the owner of the list then calls ``grow`` and repeats what it did since the list was
last good.

The interface is that of jax-md: ``allocate`` chooses sizes (on the host), ``update`` rebuilds with
these sizes (inside compiled code).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import bins, cells
from md.bins import Capacities, Reach, Required
from md.faults import Fault

_TOO_FAR = "an atom is over 127 cells away from its neighbour: wrap the positions first"


@struct.dataclass
class NeighbourList:
    """The neighbours of every atom, in slots. A frozen pytree.

    Attributes:
        indices: [N, K] int32, index of the neighbour in each slot; N where the slot is empty.
        shifts: [N, K, 3] int8, lattice translation S of the neighbour, whose image is then at
            r_j + S · cell.
        reference_positions, reference_cell: where the list was built.
        faults: int32 bits of :class:`md.faults.Fault`, sticky until the list is allocated anew.
        required: the largest sizes met.
        reach, capacities: static.
    """

    indices: Int[Array, "atoms slots"]
    shifts: Int[Array, "atoms slots 3"]
    reference_positions: Float[Array, "atoms 3"]
    reference_cell: Float[Array, "3 3"]
    faults: Int[Array, ""]
    required: Required
    reach: Reach = struct.field(pytree_node=False)
    capacities: Capacities = struct.field(pytree_node=False)

    @property
    def mask(self) -> Bool[Array, "atoms slots"]:
        """Which slots hold a neighbour."""
        return self.indices < self.indices.shape[0]

    @property
    def did_overflow(self) -> Bool[Array, ""]:
        """Whether anything did not fit: the list may be incomplete and must not be used."""
        return self.faults != 0


class NeighbourFunctions(NamedTuple):
    """What :func:`neighbour_list` returns.

    Attributes:
        allocate: ``(positions, cell, species) -> NeighbourList``; on the host, chooses capacities.
        update: ``(neighbours, positions, cell, species) -> NeighbourList``; rebuilds with the same
            capacities, inside compiled code.
        reach: which pairs the lists hold.
        grow: ``(neighbours, positions, cell, species) -> NeighbourList``; on the host, enlarges
            only what the faults of ``neighbours`` name, and rebuilds.
    """

    allocate: Callable[..., NeighbourList]
    update: Callable[..., NeighbourList]
    grow: Callable[..., NeighbourList]
    reach: Reach


def neighbour_list(
    pbc: Any,
    cutoff: float,
    skin: float = 0.0,
    pair_cutoffs: Any = None,
    *,
    slack: float = 1.15,
) -> NeighbourFunctions:
    """Neighbour lists for one kind of system.

    Args:
        pbc: three booleans, or one for all.
        cutoff, skin, pair_cutoffs: see :class:`Reach`, Å.
        slack: capacities are allocated this factor above what the structure at hand requires.
    """
    a, b, c = (bool(p) for p in np.broadcast_to(pbc, 3))
    table = None if pair_cutoffs is None else tuple(tuple(map(float, row)) for row in pair_cutoffs)
    reach = Reach((a, b, c), float(cutoff), float(skin), table)
    return NeighbourFunctions(
        partial(allocate, reach=reach, slack=slack),
        _update_compiled,
        partial(grow, slack=slack),
        reach,
    )


def allocate(
    positions: Any,
    cell: Any,
    species: Any,
    *,
    reach: Reach,
    slack: float = 1.15,
    fill: bool = True,
) -> NeighbourList:
    """Choose capacities for a structure and build its list. On the host.

    Args:
        positions: [N, 3] Å, anywhere in space.
        cell: [3, 3] Å.
        species: [N] indices; −1 marks a padded atom, which has no neighbours and is nobody's.
        reach: which pairs to hold.
        slack: capacities are this factor above what the structure requires.
        fill: if false, the list stays empty and asks for an update (:func:`needs_update`): for
            programs that update in compiled code anyway, and need not compile the search twice.

    Raises:
        ValueError: if the cell or a position is not usable.
    """
    positions, cell, species = jnp.asarray(positions), jnp.asarray(cell), jnp.asarray(species)
    if positions.shape[0] == 0:
        return _empty(positions, cell, reach, Capacities(1, (1, 1, 1), (0, 0, 0), 1))
    planned = bins.plan(positions, cell, species, reach, slack)
    faults, required = bins.count_compiled(
        positions, cell, species, reach=reach, capacities=planned
    )
    if Fault.SHIFT_RANGE in Fault(int(faults)):
        raise ValueError(_TOO_FAR)
    slots = _round_up(ceil(int(required.neighbours) * slack))
    if not any(reach.pbc):
        slots = min(slots, max(1, positions.shape[0] - 1))  # no atom can have more
    capacities = dataclasses.replace(planned, neighbours=slots)
    if not fill:
        return _empty(jnp.full_like(positions, jnp.nan), cell, reach, capacities)
    return build(positions, cell, species, reach, capacities)


def grow(
    neighbours: NeighbourList, positions: Any, cell: Any, species: Any, *, slack: float = 1.15
) -> NeighbourList:
    """A list with more room for whatever overflowed, and only for that. On the host."""
    capacities = enlarged(neighbours, positions, cell, species, slack=slack)
    return build(positions, cell, species, neighbours.reach, capacities)


def enlarged(
    neighbours: NeighbourList, positions: Any, cell: Any, species: Any, *, slack: float = 1.15
) -> Capacities:
    """Capacities with more room for whatever overflowed in a list, and only for that. On the host.

    They grow at least by a quarter, so that a run needs few growths (each recompiles).
    """
    faults = Fault(int(neighbours.faults))
    new = old = neighbours.capacities
    if Fault.SHIFT_RANGE in faults:
        raise ValueError(_TOO_FAR)
    if Fault.CELL_SHRUNK in faults:
        # room for the cell to shrink on: plan as if it already had
        planned = bins.plan(0.95 * positions, 0.95 * cell, species, neighbours.reach, slack)
        new = dataclasses.replace(planned, neighbours=old.neighbours)
    elif Fault.BIN_CAPACITY in faults:
        required = int(neighbours.required.bin_occupancy)
        occupancy = min(_enlarged(old.bin_occupancy, required, slack), positions.shape[0])
        new = dataclasses.replace(new, bin_occupancy=occupancy)
    if Fault.NEIGHBOUR_CAPACITY in faults:
        required = int(neighbours.required.neighbours)
        slots = _round_up(_enlarged(old.neighbours, required, slack))
        new = dataclasses.replace(new, neighbours=slots)
    return new


def resized(
    neighbours: NeighbourList, species: Int[Array, " atoms"], capacities: Capacities
) -> NeighbourList:
    """A list of other sizes, built where the old one was; unfilled if the old one was."""
    positions, cell = neighbours.reference_positions, neighbours.reference_cell
    built = build(positions, cell, species, neighbours.reach, capacities)
    # an unfilled list was built nowhere: what the search made of that does not count
    filled = jnp.all(jnp.isfinite(positions))
    zero = jnp.zeros_like(built.faults)
    return built.replace(
        faults=jnp.where(filled, built.faults, zero),
        required=Required(*(jnp.where(filled, size, zero) for size in built.required)),
    )


def _empty(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    reach: Reach,
    capacities: Capacities,
) -> NeighbourList:
    """A list without neighbours, to be filled by :func:`update`."""
    n, k = positions.shape[0], capacities.neighbours
    zero = jnp.zeros((), jnp.int32)
    return NeighbourList(
        indices=jnp.full((n, k), n, jnp.int32),
        shifts=jnp.zeros((n, k, 3), jnp.int8),
        reference_positions=positions,
        reference_cell=cell,
        faults=zero,
        required=Required(zero, zero),
        reach=reach,
        capacities=capacities,
    )


def needs_update(
    neighbours: NeighbourList, positions: Float[Array, "atoms 3"], cell: Float[Array, "3 3"]
) -> Bool[Array, ""]:
    """Whether a pair outside the list may have come within its cutoff: one scalar.

    With u the movements of the atoms beyond the deformation F of the cell, a pair that was
    farther apart than cutoff + skin is still farther than (1 − ‖F − 1‖)(cutoff + skin) − 2 max |u|.
    """
    reach = neighbours.reach
    moved, strain = cells.travelled(
        positions, neighbours.reference_positions, cell, neighbours.reference_cell, reach.pbc
    )
    # written so that an unknown (NaN) reference asks for an update
    return ~(2 * jnp.max(moved, initial=0) + strain * reach.range <= reach.skin)


def update(
    neighbours: NeighbourList,
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
) -> NeighbourList:
    """A list for new positions, of the same sizes: pure, for use inside compiled code.

    Nothing is lost silently: see ``faults`` of the result. A list whose ``indices`` and ``shifts``
    are None gets new ones.
    """
    if positions.shape[0] == 0:
        return neighbours.replace(reference_cell=cell)
    room = None if neighbours.indices is None else (neighbours.indices, neighbours.shifts)
    indices, shifts, faults, required = bins.search(
        positions,
        cell,
        species,
        neighbours.reach,
        neighbours.capacities,
        room,
    )
    return neighbours.replace(
        indices=indices,
        shifts=shifts,
        reference_positions=positions,
        reference_cell=cell,
        faults=neighbours.faults | faults,
        required=Required(*map(jnp.maximum, neighbours.required, required)),
    )


_update_compiled = jax.jit(update)


def build(
    positions: Any, cell: Any, species: Any, reach: Reach, capacities: Capacities
) -> NeighbourList:
    """A list of given sizes, built on the spot. On the host."""
    blank = _empty(positions, cell, reach, capacities)
    indices, shifts, faults, required = bins.search_compiled(
        positions, cell, species, reach=reach, capacities=capacities
    )
    return blank.replace(indices=indices, shifts=shifts, faults=faults, required=required)


def _enlarged(old: int, required: int, slack: float) -> int:
    return max(ceil(required * slack), ceil(old * 1.25))


def _round_up(slots: int, multiple: int = 4) -> int:
    return max(multiple, -(-slots // multiple) * multiple)
