"""Dense neighbour lists with a skin: any cell, any mix of periodic directions, any number of images.

One algorithm serves all sizes. Atoms are sorted into a grid of bins along the cell's own axes; the neighbours
of an atom are sought in a fixed *stencil* of bins around its own. Where the stencil reaches past the cell it
wraps around, as often as needed, and each turn is another periodic image. With a single bin this is the plain
search over all pairs and images, which is what small systems get; with many it is the O(N) cell list.
Atoms are processed in blocks, so that candidates are never held for all of them at once.

Nothing is lost silently. Whatever does not fit sets a bit of ``faults`` and records the size that was required;
the owner of the list then calls ``grow`` and repeats what it did since the list was last good.

The interface is that of jax-md: ``allocate`` chooses sizes (on the host), ``update`` rebuilds with these sizes
(inside compiled code).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import cells
from md.cells import Periodicity
from md.faults import Fault

_MARGIN = 1 + 1e-4  # of bins over the cutoff, for the rounding of fractional coordinates in float32
_CANDIDATES_PER_BLOCK = 2**18
_LARGEST_SHIFT = 127


@dataclasses.dataclass(frozen=True)
class Reach:
    """Which pairs a list holds: those closer than their cutoff plus the skin. Lengths in Å.

    Attributes:
        pbc: directions that repeat.
        cutoff: distance that the list must cover at all times.
        skin: extra distance, so that the list stays complete until an atom has moved half of it.
        pair_cutoffs: directed table ``[centre][neighbour]`` that replaces the cutoff where smaller.
    """

    pbc: Periodicity
    cutoff: float
    skin: float = 0.0
    pair_cutoffs: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ValueError(f"cutoff must be positive, not {self.cutoff}")
        if not self.skin >= 0:
            raise ValueError(f"skin must not be negative, but is {self.skin}")

    @property
    def range(self) -> float:
        return self.cutoff + self.skin


@dataclasses.dataclass(frozen=True)
class Capacities:
    """The static sizes of a list.

    Attributes:
        neighbours: slots per atom, K.
        bins: number of bins along each cell vector.
        stencil: bins searched to either side, along each cell vector.
        bin_occupancy: atoms that one bin can hold.
    """

    neighbours: int
    bins: tuple[int, int, int]
    stencil: tuple[int, int, int]
    bin_occupancy: int


class Required(NamedTuple):
    """The largest sizes met since the list was allocated; compare with :class:`Capacities`.

    Where bins overflowed, ``neighbours`` is a lower bound.
    """

    neighbours: Int[Array, ""]
    bin_occupancy: Int[Array, ""]


@struct.dataclass
class NeighbourList:
    """The neighbours of every atom, in slots. A frozen pytree.

    Attributes:
        indices: [N, K] int32, index of the neighbour in each slot; N where the slot is empty.
        shifts: [N, K, 3] int8, lattice translation S of the neighbour: its image sits at r_j + S · cell.
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
        grow: ``(neighbours, positions, cell, species) -> NeighbourList``; on the host, enlarges only what
            the faults of ``neighbours`` name, and rebuilds.
    """

    allocate: Callable[..., NeighbourList]
    update: Callable[..., NeighbourList]
    grow: Callable[..., NeighbourList]


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
        partial(allocate, reach=reach, slack=slack), jax.jit(update), partial(grow, slack=slack)
    )


def allocate(
    positions: Any, cell: Any, species: Any, *, reach: Reach, slack: float = 1.15
) -> NeighbourList:
    """Choose capacities for a structure and build its list. On the host.

    Args:
        positions: [N, 3] Å, anywhere in space.
        cell: [3, 3] Å.
        species: [N] indices; −1 marks a padded atom, which has no neighbours and is nobody's neighbour.
    """
    positions, cell, species = jnp.asarray(positions), jnp.asarray(cell), jnp.asarray(species)
    if positions.shape[0] == 0:
        return empty(positions, cell, reach, Capacities(1, (1, 1, 1), (0, 0, 0), 1))
    capacities = _plan_bins(positions, cell, species, reach, slack)
    return _with_slots(positions, cell, species, reach, capacities, slack)


def grow(
    neighbours: NeighbourList, positions: Any, cell: Any, species: Any, *, slack: float = 1.15
) -> NeighbourList:
    """A list with more room for whatever overflowed, and only for that. On the host.

    Capacities grow at least by a quarter, so that a run needs few growths (each recompiles).
    """
    faults = Fault(int(neighbours.faults))
    reach, old = neighbours.reach, neighbours.capacities
    if Fault.SHIFT_RANGE in faults:
        raise ValueError(
            "an atom is over 127 cells away from its neighbour: wrap the positions first"
        )
    new = old
    if Fault.CELL_SHRUNK in faults:
        # room for the cell to shrink on: plan as if it already had
        planned = _plan_bins(0.95 * positions, 0.95 * cell, species, reach, slack)
        new = dataclasses.replace(planned, neighbours=old.neighbours)
    elif Fault.BIN_CAPACITY in faults:
        required = int(neighbours.required.bin_occupancy)
        occupancy = min(_enlarged(old.bin_occupancy, required, slack), positions.shape[0])
        new = dataclasses.replace(new, bin_occupancy=occupancy)
    if Fault.NEIGHBOUR_CAPACITY in faults:
        required = int(neighbours.required.neighbours)
        slots = _round_up(_enlarged(old.neighbours, required, slack))
        new = dataclasses.replace(new, neighbours=slots)
    return build(positions, cell, species, reach, new)


def empty(
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

    With u the movements of the atoms beyond the deformation F of the cell, a pair that was farther apart
    than cutoff + skin is still farther than (1 − ‖F − 1‖)(cutoff + skin) − 2 max |u|.
    """
    reach = neighbours.reach
    moved, strain = cells.travelled(
        positions, neighbours.reference_positions, cell, neighbours.reference_cell, reach.pbc
    )
    return 2 * jnp.max(moved, initial=0) + strain * reach.range > reach.skin


def update(
    neighbours: NeighbourList,
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
) -> NeighbourList:
    """Rebuild the list in place of the old one. Pure, of fixed shapes, for use inside compiled code.

    Nothing is lost silently: see ``faults`` of the result.
    """
    if positions.shape[0] == 0:
        return neighbours.replace(reference_cell=cell)
    indices, shifts, faults, required = _build(
        positions, cell, species, neighbours.reach, neighbours.capacities
    )
    return neighbours.replace(
        indices=indices,
        shifts=shifts,
        reference_positions=positions,
        reference_cell=cell,
        faults=neighbours.faults | faults,
        required=Required(*map(jnp.maximum, neighbours.required, required)),
    )


# ---------------------------------------------------------------------------------------------- building


class _Bins(NamedTuple):
    """Atoms sorted into bins.

    Attributes:
        members: [bins, C] indices of the atoms of each bin; N where empty.
        positions: [bins, C, 3] their positions, moved into the cell; infinite where empty.
        of_atom: [N, 3] the bin of each atom along each axis.
        place_of_atom: [N] its place in that bin.
        image: [N + 1, 3] the cell each atom was in; a row of zeros for empty slots.
        occupancy: atoms in the fullest bin.
        too_thin: whether the stencil spans less than the range.
    """

    members: Int[Array, "bins occupancy"]
    positions: Float[Array, "bins occupancy 3"]
    of_atom: Int[Array, "atoms 3"]
    place_of_atom: Int[Array, " atoms"]
    image: Int[Array, "rows 3"]
    occupancy: Int[Array, ""]
    too_thin: Bool[Array, ""]


def _bin_of_atoms(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    reach: Reach,
    bins: tuple[int, int, int],
) -> tuple[Int[Array, "atoms 3"], Int[Array, "atoms 3"], Float[Array, " 3"]]:
    """Bin of each atom along each axis, image of each atom, and the width of the bins in Å.

    Along directions that do not repeat, bins are as wide as the range and are used again and again: far
    atoms share bins with near ones, which costs a few candidates and is right however far atoms fly.
    """
    basis = cells.frame(cell, reach.pbc)
    height = cells.heights(basis)
    image = cells.images(positions, cell, reach.pbc)
    along = cells.fractional(cells.translate(positions, -image, cell), basis) * height
    counts, periodic = jnp.asarray(bins), jnp.asarray(reach.pbc)
    width = jnp.where(periodic, height / counts, reach.range * _MARGIN)
    index = jnp.floor(along / width).astype(jnp.int32)
    # rounding may put a wrapped atom on the far face of the cell, hence the clip
    index = jnp.where(periodic, jnp.clip(index, 0, counts - 1), index % counts)
    return index, image, width


def _fill_bins(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    capacities: Capacities,
) -> _Bins:
    n, count, occupancy = positions.shape[0], prod(capacities.bins), capacities.bin_occupancy
    of_atom, image, width = _bin_of_atoms(positions, cell, reach, capacities.bins)
    flat = jnp.where(species >= 0, _flat(of_atom, capacities), count)  # padded atoms go to no bin
    order = jnp.argsort(flat, stable=True).astype(jnp.int32)
    bin_of_sorted = flat[order]
    first = jnp.searchsorted(bin_of_sorted, jnp.arange(count + 1)).astype(jnp.int32)
    place = jnp.arange(n, dtype=jnp.int32) - first[bin_of_sorted]
    members = jnp.full((count, occupancy), n, jnp.int32)
    members = members.at[bin_of_sorted, place].set(order, mode="drop")
    wrapped = cells.translate(positions, -image, cell)
    nowhere = jnp.full((1, 3), jnp.inf, positions.dtype)
    spans = ~jnp.asarray(reach.pbc) | (jnp.asarray(capacities.stencil) * width >= reach.range)
    return _Bins(
        members=members,
        positions=jnp.concatenate([wrapped, nowhere])[members],
        of_atom=of_atom,
        place_of_atom=jnp.zeros(n, jnp.int32).at[order].set(place),
        image=jnp.concatenate([image, jnp.zeros((1, 3), jnp.int32)]),
        occupancy=jnp.max(jnp.diff(first)),
        too_thin=~jnp.all(spans),
    )


def _flat(index: Int[Array, "*batch 3"], capacities: Capacities) -> Int[Array, "*batch"]:
    _, y, z = capacities.bins
    return (index[..., 0] * y + index[..., 1]) * z + index[..., 2]


def _neighbours_of(
    rows: Int[Array, " rows"],
    bins: _Bins,
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    capacities: Capacities,
) -> tuple[Int[Array, "rows slots"], Int[Array, "rows slots 3"], Int[Array, " rows"]]:
    """Indices and lattice translations of the neighbours of some atoms, and their true number."""
    n = species.shape[0]
    offsets = np.asarray(list(product(*(range(-s, s + 1) for s in capacities.stencil))), np.int32)
    counts = jnp.asarray(capacities.bins)
    beside = bins.of_atom[rows][:, None, :] + offsets  # [rows, stencil, 3]
    turns = jnp.where(jnp.asarray(reach.pbc), beside // counts, 0)
    flat = _flat(beside % counts, capacities)

    own = _flat(bins.of_atom[rows], capacities), bins.place_of_atom[rows]
    centres = bins.positions[own][:, None, None, :]
    vectors = cells.displacement(bins.positions[flat], centres, turns[:, :, None, :], cell)
    ranges = _ranges(bins.members[flat], rows, species, reach, vectors.dtype)
    inside = jnp.sum(vectors**2, axis=-1) < ranges**2  # [rows, stencil, occupancy]
    itself = jnp.asarray((offsets == 0).all(axis=1))[None, :, None]
    itself &= jnp.arange(inside.shape[2]) == own[1][:, None, None]
    inside &= ~itself & (species[rows] >= 0)[:, None, None]

    pick, count = first_true(inside.reshape(len(rows), -1), capacities.neighbours)
    box, place = jnp.divmod(pick, inside.shape[2])
    held = jnp.arange(capacities.neighbours) < count[:, None]
    index = jnp.where(held, bins.members[jnp.take_along_axis(flat, box, axis=1), place], n)
    turn = jnp.take_along_axis(turns, box[..., None], axis=1)
    shift = turn + bins.image[rows][:, None, :] - bins.image[index]
    return index, jnp.where(held[..., None], shift, 0), count


def _ranges(
    members: Int[Array, "rows stencil occupancy"],
    rows: Int[Array, " rows"],
    species: Int[Array, " atoms"],
    reach: Reach,
    dtype: Any,
) -> Array:
    if reach.pair_cutoffs is None:
        return jnp.asarray(reach.range, dtype)
    table = np.minimum(np.asarray(reach.pair_cutoffs), reach.cutoff) + reach.skin
    return jnp.asarray(table, dtype)[
        species[rows][:, None, None], species.at[members].get(mode="clip")
    ]


def first_true(
    mask: Bool[Array, "rows candidates"], slots: int
) -> tuple[Int[Array, "rows slots"], Int[Array, " rows"]]:
    """Positions of the first ``slots`` true entries of each row, and how many there are in all.

    Slots beyond that number hold some valid position. The mask is packed into words of 32 bits; a slot's
    word is found from running counts, and its bit by halving: several times faster on a CPU than sorting,
    scattering, or running counts over single candidates.
    """
    words = -(-mask.shape[1] // 32)
    bits = jnp.pad(mask, ((0, 0), (0, words * 32 - mask.shape[1]))).reshape(-1, words, 32)
    powers = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
    word = jnp.sum(jnp.where(bits, powers, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)
    inside = jax.lax.population_count(word).astype(jnp.int32)
    running = jnp.cumsum(inside, axis=1)
    slot = jnp.arange(slots)
    at = jnp.sum(running[:, None, :] <= slot[:, None], axis=-1, dtype=jnp.int32)
    at = jnp.minimum(at, words - 1)
    left = slot - jnp.take_along_axis(running - inside, at, axis=1)  # true entries still to skip
    rest = jnp.take_along_axis(word, at, axis=1)
    bit = jnp.zeros_like(left)
    for width in (16, 8, 4, 2, 1):
        low = (rest >> bit.astype(jnp.uint32)) & jnp.uint32((1 << width) - 1)
        skipped = jax.lax.population_count(low).astype(jnp.int32)
        above = left >= skipped
        left, bit = jnp.where(above, left - skipped, left), jnp.where(above, bit + width, bit)
    return jnp.minimum(at * 32 + bit, mask.shape[1] - 1), running[:, -1]


def _build(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    capacities: Capacities,
) -> tuple[Int[Array, "atoms slots"], Int[Array, "atoms slots 3"], Int[Array, ""], Required]:
    """Indices, shifts, faults and required sizes of the list of a structure."""
    n, k = positions.shape[0], capacities.neighbours
    bins = _fill_bins(positions, cell, species, reach, capacities)

    def block(rows):
        index, shift, count = _neighbours_of(rows, bins, cell, species, reach, capacities)
        return index, shift.astype(jnp.int8), count, jnp.max(jnp.abs(shift))

    size = min(n, max(1, _CANDIDATES_PER_BLOCK // _candidates_per_atom(capacities)))
    blocks = -(-n // size)
    rows = jnp.minimum(jnp.arange(blocks * size, dtype=jnp.int32), n - 1).reshape(blocks, size)
    index, shift, count, farthest = jax.lax.map(block, rows)
    required = Required(jnp.max(count), bins.occupancy)

    def bit(condition, fault):
        return jnp.where(condition, jnp.int32(fault), jnp.int32(0))

    faults = (
        bit(required.neighbours > k, Fault.NEIGHBOUR_CAPACITY)
        | bit(required.bin_occupancy > capacities.bin_occupancy, Fault.BIN_CAPACITY)
        | bit(bins.too_thin, Fault.CELL_SHRUNK)
        | bit(jnp.max(farthest) > _LARGEST_SHIFT, Fault.SHIFT_RANGE)
    )
    return (
        index.reshape(blocks * size, k)[:n],
        shift.reshape(blocks * size, k, 3)[:n],
        faults,
        required,
    )


_rebuild_jit = jax.jit(_build, static_argnums=(3, 4))


def build(
    positions: Any, cell: Any, species: Any, reach: Reach, capacities: Capacities
) -> NeighbourList:
    """A list of given sizes, built on the spot. On the host; :func:`update` is for compiled code."""
    blank = empty(positions, cell, reach, capacities)
    indices, shifts, faults, required = _rebuild_jit(positions, cell, species, reach, capacities)
    return blank.replace(indices=indices, shifts=shifts, faults=faults, required=required)


# ---------------------------------------------------------------------------------------------- capacities


def _with_slots(positions, cell, species, reach, capacities, slack) -> NeighbourList:
    """Build with as many slots as the structure requires, and some slack."""
    counted = build(positions, cell, species, reach, capacities)
    required = int(counted.required.neighbours)
    slots = _round_up(ceil(required * slack))
    if not any(reach.pbc):
        slots = min(slots, max(1, positions.shape[0] - 1))  # no atom can have more
    return build(positions, cell, species, reach, dataclasses.replace(capacities, neighbours=slots))


def _plan_bins(positions, cell, species, reach: Reach, slack: float) -> Capacities:
    """The grid of bins with the fewest candidates per atom; the slots are left at 1."""
    basis = cells.frame(cell, reach.pbc)
    height = np.asarray(cells.heights(basis), float)
    if not np.all(np.isfinite(height) & (height > 0)):
        raise ValueError(
            "the cell has no volume along its periodic directions: mend the cell or its pbc"
        )
    finite = np.isfinite(np.asarray(positions)).all(axis=1)
    if not finite.all():
        raise ValueError(f"the position of atom {int(np.argmin(finite))} is not finite")
    real = np.asarray(species) >= 0
    if not real.any():
        return Capacities(1, (1, 1, 1), _stencil((1, 1, 1), height, reach), len(real))
    span = np.ptp(np.asarray(cells.fractional(positions, basis))[real], axis=0)
    length = np.where(reach.pbc, height, span)  # the frame is orthonormal where nothing repeats
    plans = [
        _plan_grid(grid, positions, cell, real, height, reach, slack)
        for grid in _grids(length, reach, len(real))
    ]
    return min(plans, key=_candidates_per_atom)


def _grids(length: np.ndarray, reach: Reach, atoms: int) -> set[tuple[int, int, int]]:
    """Grids worth trying: one bin, and bins of the range, half of it, and a third."""
    grids = {(1, 1, 1)}
    for finer in (1, 2, 3):
        bins = [
            int(l / (reach.range * _MARGIN) * (finer if periodic else 1))
            for l, periodic in zip(length, reach.pbc, strict=True)
        ]
        while prod(max(1, b) for b in bins) > max(2 * atoms, 27):  # mostly empty space
            bins[int(np.argmax(bins))] //= 2
        # bins that are used again must not be met twice by a stencil of three
        a, b, c = (max(1, b) if p or b >= 3 else 1 for b, p in zip(bins, reach.pbc, strict=True))
        grids.add((a, b, c))
    return grids


def _plan_grid(grid, positions, cell, real, height, reach: Reach, slack: float) -> Capacities:
    occupancy = len(real)
    if prod(grid) > 1:
        of_atom = np.asarray(_bin_of_atoms(positions, cell, reach, grid)[0])[real]
        fullest = int(np.bincount(np.ravel_multi_index(of_atom.T, grid)).max())
        occupancy = min(occupancy, ceil(fullest * slack) + 1)
    return Capacities(1, grid, _stencil(grid, height, reach), occupancy)


def _stencil(grid, height, reach: Reach) -> tuple[int, int, int]:
    a, b, c = (
        ceil(reach.range * _MARGIN * bins / h) if periodic else int(bins > 1)
        for bins, h, periodic in zip(grid, height, reach.pbc, strict=True)
    )
    return a, b, c


def _candidates_per_atom(capacities: Capacities) -> int:
    return prod(2 * s + 1 for s in capacities.stencil) * capacities.bin_occupancy


def _enlarged(old: int, required: int, slack: float) -> int:
    return max(ceil(required * slack), ceil(old * 1.25))


def _round_up(slots: int, multiple: int = 4) -> int:
    return max(multiple, -(-slots // multiple) * multiple)
