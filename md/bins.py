"""The search behind neighbour lists: atoms sorted into bins, candidates from a stencil of bins.

Bins lie along the cell's own axes. Where the stencil reaches past the cell it wraps around, as
often as needed, and each turn is another periodic image. With a single bin this is the plain
search over all pairs and images.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from md import cells
from md.cells import Periodicity
from md.faults import Fault

_MARGIN = 1 + 1e-4  # of bins over the cutoff, for the rounding of fractional coordinates in float32
_CANDIDATES_PER_BLOCK = 2**20  # tens of MiB; XLA uses one core for each of several blocks
_LARGEST_SHIFT = 127  # that an int8 holds
_WORD = 24  # bits


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


class Bins(NamedTuple):
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


def bin_of_atoms(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    reach: Reach,
    counts: Int[Array, " 3"],
) -> tuple[Int[Array, "atoms 3"], Int[Array, "atoms 3"], Float[Array, " 3"]]:
    """Bin of each atom along each axis, image of each atom, and the width of the bins in Å.

    Along directions that do not repeat, bins are as wide as the range and are used again and
    again: far atoms share bins with near ones, which costs a few candidates and is right however
    far atoms fly.
    """
    basis = cells.frame(cell, reach.pbc)
    height = cells.heights(basis)
    image = cells.images(positions, cell, reach.pbc)
    along = cells.fractional(cells.translate(positions, -image, cell), basis) * height
    periodic = jnp.asarray(reach.pbc)
    width = jnp.where(periodic, height / counts, reach.range * _MARGIN)
    index = jnp.floor(along / width).astype(jnp.int32)
    # rounding may put a wrapped atom on the far face of the cell, hence the clip
    index = jnp.where(periodic, jnp.clip(index, 0, counts - 1), index % counts)
    return index, image, width


def fill(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    capacities: Capacities,
) -> Bins:
    n, count, occupancy = positions.shape[0], prod(capacities.bins), capacities.bin_occupancy
    of_atom, image, width = bin_of_atoms(positions, cell, reach, jnp.asarray(capacities.bins))
    flat = jnp.where(species >= 0, _flat(of_atom, capacities), count)  # padded atoms go to no bin
    order = sorted_rows(flat)
    bin_of_sorted = flat[order]
    first = jnp.searchsorted(bin_of_sorted, jnp.arange(count + 1)).astype(jnp.int32)
    place = jnp.arange(n, dtype=jnp.int32) - first[bin_of_sorted]
    members = jnp.full((count, occupancy), n, jnp.int32)
    members = members.at[bin_of_sorted, place].set(order, mode="drop")
    wrapped = cells.translate(positions, -image, cell)
    nowhere = jnp.full((1, 3), jnp.inf, positions.dtype)
    spans = ~jnp.asarray(reach.pbc) | (jnp.asarray(capacities.stencil) * width >= reach.range)
    return Bins(
        members=members,
        positions=jnp.concatenate([wrapped, nowhere])[members],
        of_atom=of_atom,
        place_of_atom=jnp.zeros(n, jnp.int32).at[order].set(place),
        image=jnp.concatenate([image, jnp.zeros((1, 3), jnp.int32)]),
        occupancy=jnp.max(jnp.diff(first)),
        too_thin=~jnp.all(spans),
    )


def sorted_rows(*keys: Int[Array, " atoms"]) -> Int[Array, " atoms"]:
    """Rows in the order of their keys, the first one first; those alike in their own order.

    With the row for the last key any way of sorting comes to this, also one that needs no room: a
    stable sort of XLA takes 20 to 50 B per atom on a CPU that its plan does not show.
    """
    rows = jnp.arange(keys[0].shape[0], dtype=jnp.int32)
    return jax.lax.sort((*keys, rows), num_keys=len(keys) + 1, is_stable=False)[-1]


def _flat(index: Int[Array, "*batch 3"], capacities: Capacities) -> Int[Array, "*batch"]:
    _, y, z = capacities.bins
    return (index[..., 0] * y + index[..., 1]) * z + index[..., 2]


def _neighbours_of(
    rows: Int[Array, " rows"],
    bins: Bins,
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
    # moving the centre instead of each candidate saves most of the arithmetic
    centres = cells.translate(bins.positions[own][:, None, :], -turns, cell)
    vectors = cells.difference(bins.positions[flat], centres[:, :, None, :])
    allowed = ranges(bins.members[flat], rows, species, reach, vectors.dtype)
    inside = jnp.sum(vectors**2, axis=-1) < allowed**2  # [rows, stencil, occupancy]
    itself = jnp.asarray((offsets == 0).all(axis=1))[None, :, None]
    itself &= jnp.arange(inside.shape[2]) == own[1][:, None, None]
    inside &= ~itself & (species[rows] >= 0)[:, None, None]

    box, place, count = first_true(inside, capacities.neighbours)
    held = jnp.arange(capacities.neighbours) < count[:, None]
    index = jnp.where(held, bins.members[jnp.take_along_axis(flat, box, axis=1), place], n)
    turn = jnp.take_along_axis(turns, box[..., None], axis=1)
    shift = turn + bins.image[rows][:, None, :] - bins.image[index]
    return index, jnp.where(held[..., None], shift, 0), count


def ranges(
    members: Int[Array, "rows stencil occupancy"],
    rows: Int[Array, " rows"],
    species: Int[Array, " atoms"],
    reach: Reach,
    dtype: Any,
) -> Array:
    """The distance, Å, within which each member counts as a neighbour of its row."""
    if reach.pair_cutoffs is None:
        return jnp.asarray(reach.range, dtype)
    table = np.minimum(np.asarray(reach.pair_cutoffs), reach.cutoff) + reach.skin
    return jnp.asarray(table, dtype)[
        species[rows][:, None, None], species.at[members].get(mode="clip")
    ]


def first_true(
    mask: Bool[Array, "rows boxes places"], slots: int
) -> tuple[Int[Array, "rows slots"], Int[Array, "rows slots"], Int[Array, " rows"]]:
    """The first ``slots`` true entries of each row: box, place in the box, and how many there are.

    Slots beyond that number hold some valid box and place.

    The mask is packed into words of 24 bits, which float32 holds exactly: several to a box, or
    several small boxes to a word. A slot's word is then found by bisecting the running counts, and
    its bit by halving the word. On a CPU this is several times faster than sorting, scattering, or
    counting single candidates. Packing and counting are matrix products because XLA never computes
    their operands twice, as it does with sums.
    """
    rows, boxes, places = mask.shape
    per_box = -(-places // _WORD)
    place = np.arange(places)
    powers = np.where(
        place[:, None] // _WORD == np.arange(per_box), 2.0 ** (place[:, None] % _WORD), 0
    )
    words = jnp.dot(mask.astype(jnp.float32), powers.astype(np.float32)).reshape(rows, -1)
    together = max(1, _WORD // places)  # boxes in a word
    if together > 1:
        words = jnp.pad(words, ((0, 0), (0, -boxes % together)))
        shifts = 2.0 ** (places * np.arange(together))
        words = jnp.dot(words.reshape(rows, -1, together), shifts.astype(np.float32))
    words = words.astype(jnp.uint32)
    inside = jax.lax.population_count(words).astype(jnp.float32)
    until = np.triu(np.ones((words.shape[1],) * 2, np.float32))
    running = jnp.dot(inside, until, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)

    slot = jnp.arange(slots)
    find = partial(jnp.searchsorted, side="right", method="scan_unrolled")
    word = jnp.minimum(jax.vmap(find, (0, None))(running, slot), words.shape[1] - 1)
    rest = jnp.take_along_axis(words, word, axis=1)
    before = jnp.take_along_axis(running, word, axis=1) - _true_bits(rest)
    left = slot - before  # true bits of the word that are still to be skipped
    bit = jnp.zeros_like(left)
    for width in (16, 8, 4, 2, 1):
        skipped = _true_bits((rest >> bit.astype(jnp.uint32)) & jnp.uint32((1 << width) - 1))
        above = left >= skipped
        left, bit = jnp.where(above, left - skipped, left), jnp.where(above, bit + width, bit)
    if together > 1:
        box = jnp.minimum(word * together + bit // places, boxes - 1)
        return box, bit % places, running[:, -1]
    found = jnp.minimum(word % per_box * _WORD + bit, places - 1)
    return word // per_box, found, running[:, -1]


def _true_bits(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def search(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    capacities: Capacities,
    room: tuple[Int[Array, "atoms slots"], Int[Array, "atoms slots 3"]] | None = None,
) -> tuple[Int[Array, "atoms slots"], Int[Array, "atoms slots 3"], Int[Array, ""], Required]:
    """Indices, shifts, faults and required sizes of the list of a structure.

    Args:
        room: arrays of the right sizes to write indices and shifts into, whatever they hold: those
            of a list that is given up, so that there need not be two in memory.
    """
    n, k = positions.shape[0], capacities.neighbours
    if room is None:
        room = jnp.zeros((n, k), jnp.int32), jnp.zeros((n, k, 3), jnp.int8)
    bins = fill(positions, cell, species, reach, capacities)

    blocks = ceil(n * candidates_per_atom(capacities) / _CANDIDATES_PER_BLOCK)
    size = ceil(n / blocks)

    def block(number, carry):
        indices, shifts, largest, farthest = carry
        start = jnp.minimum(number * size, n - size)  # the last block repeats some rows
        rows = start + jnp.arange(size, dtype=jnp.int32)
        index, shift, count = _neighbours_of(rows, bins, cell, species, reach, capacities)
        return (
            jax.lax.dynamic_update_slice_in_dim(indices, index.astype(jnp.int32), start, 0),
            jax.lax.dynamic_update_slice_in_dim(shifts, shift.astype(jnp.int8), start, 0),
            jnp.maximum(largest, jnp.max(count)),
            jnp.maximum(farthest, jnp.max(jnp.abs(shift)).astype(jnp.int32)),
        )

    carry = (*room, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))
    # outside a loop XLA uses all cores
    found = block(0, carry) if blocks == 1 else jax.lax.fori_loop(0, ceil(n / size), block, carry)
    indices, shifts, largest, farthest = found
    required = Required(largest, bins.occupancy)

    def bit(condition, fault):
        return jnp.where(condition, jnp.int32(fault), jnp.int32(0))

    faults = (
        bit(required.neighbours > k, Fault.NEIGHBOUR_CAPACITY)
        | bit(required.bin_occupancy > capacities.bin_occupancy, Fault.BIN_CAPACITY)
        | bit(bins.too_thin, Fault.CELL_SHRUNK)
        | bit(farthest > _LARGEST_SHIFT, Fault.SHIFT_RANGE)
    )
    return indices, shifts, faults, required


@partial(jax.jit, static_argnames=("reach", "capacities"))
def search_compiled(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    *,
    reach: Reach,
    capacities: Capacities,
) -> tuple[Int[Array, "atoms slots"], Int[Array, "atoms slots 3"], Int[Array, ""], Required]:
    """:func:`search`, for the host."""
    return search(positions, cell, species, reach, capacities)


@partial(jax.jit, static_argnames=("reach", "capacities"))
def count_compiled(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    *,
    reach: Reach,
    capacities: Capacities,
) -> tuple[Int[Array, ""], Required]:
    """Faults and required sizes alone, for the host: quicker to compile than :func:`search`."""
    return search(positions, cell, species, reach, capacities)[2:]


@partial(jax.jit, static_argnames="reach")
def _measure(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    counts: Int[Array, " 3"],
    *,
    reach: Reach,
) -> tuple[Float[Array, " 3"], Float[Array, "atoms 3"], Int[Array, "atoms 3"]]:
    """Heights of the cell, coordinates along its axes in Å, and bins of atoms."""
    basis = cells.frame(cell, reach.pbc)
    height = cells.heights(basis)
    along = cells.fractional(positions, basis) * height
    return height, along, bin_of_atoms(positions, cell, reach, counts)[0]


def plan(
    positions: Float[Array, "atoms 3"],
    cell: Float[Array, "3 3"],
    species: Int[Array, " atoms"],
    reach: Reach,
    slack: float,
) -> Capacities:
    """The grid of bins with the fewest candidates per atom, on the host; the slots are left at 1.

    Raises:
        ValueError: if the cell or a position is not usable.
    """
    finite = np.isfinite(np.asarray(positions)).all(axis=1)
    if not finite.all():
        raise ValueError(f"the position of atom {int(np.argmin(finite))} is not finite")
    measured = _measure(positions, cell, jnp.ones(3, jnp.int32), reach=reach)
    height, along = (np.asarray(x, float) for x in measured[:2])
    if not np.all(np.isfinite(height) & (height > 0)):
        raise ValueError(
            "the cell has no volume along its periodic directions: mend the cell or its pbc"
        )
    real = np.asarray(species) >= 0
    if not real.any():
        return Capacities(1, (1, 1, 1), _stencil((1, 1, 1), height, reach), len(real))
    length = np.where(reach.pbc, height, np.ptp(along[real], axis=0))
    plans = []
    for grid in _grids(length, reach, len(real)):
        occupancy = len(real)
        if prod(grid) > 1:
            of_atom = np.asarray(_measure(positions, cell, jnp.asarray(grid), reach=reach)[2])
            fullest = int(np.bincount(np.ravel_multi_index(of_atom[real].T, grid)).max())
            occupancy = min(occupancy, ceil(fullest * slack) + 1)
        plans.append(Capacities(1, grid, _stencil(grid, height, reach), occupancy))
    return min(plans, key=candidates_per_atom)


def _grids(length: np.ndarray, reach: Reach, atoms: int) -> list[tuple[int, int, int]]:
    """Grids worth trying: one bin; bins of the range, and half and a third of it."""
    grids = [(1, 1, 1)]
    for finer in (1, 2, 3):
        bins = [
            int(side / (reach.range * _MARGIN) * (finer if periodic else 1))
            for side, periodic in zip(length, reach.pbc, strict=True)
        ]
        while prod(max(1, b) for b in bins) > max(2 * atoms, 27):  # mostly empty space
            bins[int(np.argmax(bins))] //= 2
        # bins that are used again must not be met twice by a stencil of three
        a, b, c = (max(1, b) if p or b >= 3 else 1 for b, p in zip(bins, reach.pbc, strict=True))
        grids.append((a, b, c))
    return grids


def _stencil(grid: tuple[int, int, int], height: np.ndarray, reach: Reach) -> tuple[int, int, int]:
    a, b, c = (
        ceil(reach.range * _MARGIN * bins / h) if periodic else int(bins > 1)
        for bins, h, periodic in zip(grid, height, reach.pbc, strict=True)
    )
    return a, b, c


def candidates_per_atom(capacities: Capacities) -> int:
    """How many atoms are looked at to find the neighbours of one."""
    return prod(2 * s + 1 for s in capacities.stencil) * capacities.bin_occupancy
