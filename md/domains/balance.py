"""Faces between domains that shift along each axis until the loads of domains are about equal.

Where to: to the quantiles of the atoms along each axis, found from histograms that every device
makes of its own atoms. A grid of faces cannot balance everything, so what it would bring is counted
before anything moves. Then faces go there in strides that leave every atom in its domain or the one
beside it, atoms migrate, and the list is to be built anew.
"""

from __future__ import annotations

from functools import partial
from itertools import chain, combinations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from md import cells, totals
from md.bins import sorted_rows
from md.domains import allocation, halo, loads, migration, sharding
from md.domains.geometry import Geometry
from md.domains.grid import Counts, Grid
from md.domains.lists import DomainList
from md.domains.loads import ByAxis
from md.domains.migration import Migrated
from md.domains.placement import lower_faces
from md.faults import GROWABLE, Fault
from md.state import State, real_atoms

_BALANCED = 1.05  # an imbalance that is not worth the effort
_GAIN = 0.02  # of the load of the fullest domain; less is not worth it either
_MARGIN = 1.1  # of the least width, for a cell that shrinks
_LATTICE = 2.0**-22  # of the cell: multiples have exact differences in single precision
_STRIDES = 12  # of one balance; what is left is for the next
_ATTEMPTS = 20


def balanced(state: State, listed: DomainList, grid: Grid) -> tuple[State, DomainList]:
    """The same atoms, in domains whose faces have moved to where loads are more equal.

    Returns:
        What was given, where nothing is to be gained. Else a state with every atom in its domain,
        and as many rows as that takes; and a list that is still to be built. The list that was
        given must not be used any more then.
    """
    geometry = Grid.fetched(listed.geometry)
    how = grid, listed.reach.range, listed.capacities.turns
    if _target(state, geometry, *how) is None:
        return state, listed
    allocation.release(listed)
    state, geometry = shifted(state, geometry, *how)
    fullest = int(Grid.fetched(loads.populations(state, grid)).max())
    rows, wanted = listed.capacities.atoms, allocation.rows_for(fullest, grid.domains)
    if not fullest <= rows <= 1.3 * wanted:  # else compiled code can stay what it is
        rows = wanted
    state = allocation.with_rows(state, grid, rows)
    return state, allocation.reallocate(state, geometry, grid, listed)


def shifted(
    state: State, geometry: Geometry, grid: Grid, reach: float, turns: Counts
) -> tuple[State, Geometry]:
    """Faces where loads are more equal, and atoms in the domains that they are in then.

    Args:
        geometry: the domains as they are; numpy.
        reach: Å, range of the lists.
        turns: how many domains it may span along each axis.
    """
    for _ in range(_STRIDES):
        target = _target(state, geometry, grid, reach, turns)
        if target is None:
            break
        new = _towards(geometry, target, np.asarray(state.cell), reach, turns)
        moves = [b - a for a, b in zip(lower_faces(geometry), lower_faces(new), strict=True)]
        spans = [np.mean(widths) for widths in geometry.widths]
        if max(np.abs(m).max() / s for m, s in zip(moves, spans, strict=True)) < 1e-3:
            break
        migrated = _migrated(state, new, (moves[0], moves[1], moves[2]), grid)
        if migrated is None:
            break
        state, geometry = migrated, new
    return state, geometry


# -- where faces should be ------------------------------------------------------------------------


def _target(
    state: State, geometry: Geometry, grid: Grid, reach: float, turns: Counts
) -> ByAxis | None:
    """The best faces along each axis, [domains along it + 1]; None if those there are will do."""
    present = loads.imbalance(Grid.fetched(loads.populations(state, grid)))
    if present < _BALANCED:
        return None
    faces, lower = _faces(geometry), _of_kind(state, lower_faces(geometry))
    lowest, highest = Grid.fetched(loads.extent(state, geometry, lower, grid))
    around = [one.copy() for one in faces]  # all atoms, also those beyond the outermost faces
    for d in range(3):
        around[d][0] = min(around[d][0], lowest[d])
        around[d][-1] = max(around[d][-1], highest[d])
    slabs = Grid.fetched(loads.slabs(state, geometry, lower, _of_kind(state, around), grid))
    heights, found = _heights(np.asarray(state.cell), geometry), {}
    for d, count in enumerate(geometry.counts):
        if count > 1:
            least = _MARGIN * reach / (turns[d] * heights[d])
            low, high = float(lowest[d]), float(highest[d])
            ends = (0.0, 1.0) if geometry.pbc[d] else (low, max(high, low + count * least))
            found[d] = quantiles(slabs[d], around[d], ends, least)
    axes = list(found)
    some = chain.from_iterable(combinations(axes, n) for n in range(1, len(axes) + 1))
    best, target = present * (1 - _GAIN), None
    for chosen in some:
        first, second, third = (found[d] if d in chosen else faces[d] for d in range(3))
        inner = _of_kind(state, [one[1:-1] for one in (first, second, third)])
        imbalance = loads.imbalance(
            Grid.fetched(loads.foreseen(state, geometry, lower, inner, grid))
        )
        if imbalance < best:
            best, target = imbalance, (first, second, third)
    return target


def quantiles(
    slabs: Int[np.ndarray, " slabs"],
    faces: Float[np.ndarray, " faces"],
    ends: tuple[float, float],
    least: float,
) -> Float[np.ndarray, " faces"]:
    """Faces between which there are equal numbers of atoms, as far as the least width allows.

    Args:
        slabs: atoms in slabs along an axis, of equal width within each domain.
        faces: those that the domains have.
        ends: the first and the last of the new ones.
        least: width of a domain, if there is room for so much.
    """
    count = len(faces) - 1
    per = len(slabs) // count
    bounds = np.interp(np.arange(len(slabs) + 1) / per, np.arange(count + 1), faces)
    below = np.concatenate([[0], np.cumsum(slabs, dtype=np.int64)])
    wanted = np.interp(np.arange(count + 1) / count * below[-1], below, bounds)
    lowest, highest = np.full(count + 1, -np.inf), np.full(count + 1, np.inf)
    lowest[[0, -1]] = highest[[0, -1]] = ends
    return apart(wanted, lowest, highest, min(least, (ends[1] - ends[0]) / count))


def apart(
    wanted: Float[np.ndarray, " faces"],
    lowest: Float[np.ndarray, " faces"],
    highest: Float[np.ndarray, " faces"],
    least: float,
) -> Float[np.ndarray, " faces"]:
    """Faces near those that are wanted, within bounds, and at least so far from each other.

    There are some between the bounds that are.
    """
    lowest, highest, found = lowest.copy(), highest.copy(), wanted.copy()
    for j in range(1, len(wanted)):
        lowest[j] = max(lowest[j], lowest[j - 1] + least)
    for j in reversed(range(len(wanted) - 1)):
        highest[j] = min(highest[j], highest[j + 1] - least)
    for j in range(len(wanted)):
        after = found[j - 1] + least if j else -np.inf
        found[j] = min(max(wanted[j], lowest[j], after), highest[j])
    return found


# -- how they get there ---------------------------------------------------------------------------


def _towards(
    geometry: Geometry,
    target: ByAxis,
    cell: np.ndarray,
    reach: float,
    turns: Counts,
) -> Geometry:
    """Domains whose faces are nearer to a target.

    A face gets at most to the middle of the domain that it moves into. Atoms, which are less than
    half the reach outside their domain, then are in the one beside it at most.
    """
    heights = _heights(cell, geometry)
    widths, corner = list(geometry.widths), np.array(geometry.corner)
    for d, faces in enumerate(_faces(geometry)):
        if geometry.counts[d] == 1:
            continue
        widths_now = np.diff(faces)
        lowest = faces - np.concatenate([[np.inf], widths_now / 2])
        highest = faces + np.concatenate([widths_now / 2, [np.inf]])
        if geometry.pbc[d]:
            lowest[[0, -1]] = highest[[0, -1]] = 0.0, 1.0
        needed = reach / (turns[d] * heights[d])
        found = apart(target[d], lowest, highest, min(_MARGIN * needed, widths_now.min()))
        if geometry.pbc[d]:
            found = np.round(found / _LATTICE) * _LATTICE
        if np.diff(found).min() >= needed * halo.MARGIN * (1 + 1e-6):
            widths[d] = np.diff(found).astype(corner.dtype)
            corner[d] = found[0]
    return geometry.replace(widths=(widths[0], widths[1], widths[2]), corner=corner)


def _migrated(state: State, geometry: Geometry, moves: ByAxis, grid: Grid) -> State | None:
    """A state whose atoms are in new domains, with as many rows as that takes.

    Args:
        moves: how far the lower face of each domain moved along each axis.

    Returns:
        None if an atom is beyond the domain beside its own.
    """
    rows = state.species.shape[0] // grid.domains
    # where there is one domain, nobody leaves
    rooms = np.where(np.asarray(geometry.counts) > 1, _power_of_two(rows // 4), 8)
    for _ in range(_ATTEMPTS):
        room = tuple(int(n) for n in rooms)
        wide = allocation.with_rows(state, grid, rows)
        found = _settled(wide, geometry, _of_kind(state, moves), grid, room)
        faults = Fault(int(found.faults))
        if not faults:
            return found.state
        if faults & ~GROWABLE:
            return None
        rows = max(rows, allocation.round_up(int(found.atoms), 8))
        rooms = np.maximum(rooms, [_power_of_two(int(n)) for n in Grid.fetched(found.leaving)])
    raise ValueError(f"domains have too little room still after {_ATTEMPTS} growths")


def _power_of_two(least: int) -> int:
    """Of rooms, which compiled code depends on, few are enough."""
    return 1 << max(3, (least - 1).bit_length())


def _faces(geometry: Geometry) -> list[np.ndarray]:
    """Faces along each axis, the last ones too."""
    return [
        np.append(lower, lower[-1] + float(widths[-1]))
        for lower, widths in zip(lower_faces(geometry), geometry.widths, strict=True)
    ]


def _heights(cell: np.ndarray, geometry: Geometry) -> np.ndarray:
    return np.asarray(cells.heights(cells.frame(jnp.asarray(cell), geometry.pbc)), float)


def _of_kind(state: State, arrays: list[np.ndarray] | ByAxis) -> ByAxis:
    """Numbers in the precision of a state."""
    x, y, z = (np.asarray(array).astype(state.positions.dtype) for array in arrays)
    return x, y, z


@partial(jax.jit, static_argnames=("grid", "room"))
def _settled(state: State, geometry: Geometry, moves: ByAxis, grid: Grid, room: Counts) -> Migrated:
    """Atoms in the domains that they are in after faces have moved; padded rows come last."""

    def settle(state: State, geometry: Geometry, moves: ByAxis) -> Migrated:
        by = jnp.stack([moves[d][geometry.index(d)] for d in range(3)])
        by = cells.lattice_vector(by, cells.frame(state.cell, state.pbc))
        there = jnp.where(real_atoms(state.species)[:, None], state.positions - by, 0)
        state = state.replace(positions=there)
        moved = migration.migrated(state, geometry, room)
        # site energies, which have no place of their own in messages, go in that of masses
        energies = migration.migrated(state.replace(masses=state.site_energies), geometry, room)
        padding = ~real_atoms(moved.state.species)
        order = sorted_rows(padding.astype(jnp.int32), moved.state.ids)
        settled = migration.reordered(moved.state, order)
        return Migrated(
            settled.replace(site_energies=energies.state.masses[order]),
            totals.joined(moved.faults, state.axes),
            totals.largest_of_devices(moved.leaving, state.axes),
            totals.largest_of_devices(moved.atoms, state.axes),
        )

    spread = sharding.of_state(state)
    everywhere = (sharding.ON_ALL,) * 3
    run = grid.sharded(settle, (spread, *everywhere[:2]), Migrated(spread, *everywhere))
    return run(state, geometry, moves)
