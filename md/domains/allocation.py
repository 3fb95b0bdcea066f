"""Sizes of a domain's buffers: planned on the host, measured on the devices, enlarged when full."""

from __future__ import annotations

import dataclasses
from functools import partial
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from md import cells
from md.bins import Reach
from md.domains import halo, lists, loads, migration, search, sharding
from md.domains.geometry import Geometry
from md.domains.grid import Counts, Grid
from md.domains.lists import Capacities, DomainList, Required
from md.faults import GROWABLE, Fault
from md.state import State

_ATTEMPTS = 20


def rows_for(atoms: int, domains: int) -> int:
    """Rows of each domain: for the fullest now, and for what its number may fluctuate by.

    A single domain always holds all atoms.
    """
    return round_up(atoms if domains == 1 else ceil(atoms + 4 * np.sqrt(atoms) + 2), 8)


def allocate(
    state: State, geometry: Geometry, grid: Grid, reach: Reach, slack: float = 1.15
) -> DomainList:
    """An empty list with room for a state's neighbours, to be built before it is used.

    Args:
        state: placed (:mod:`md.domains.placement`).
        slack: capacities are this factor above what the state needs.
    """
    rows = state.species.shape[0] // grid.domains
    sizes = _planned(state, geometry, grid, reach, rows)
    for _ in range(_ATTEMPTS):
        found = _measured(state, empty(state, geometry, grid, reach, sizes), grid)
        faults = Fault(int(found.faults)) & ~Fault.NEIGHBOUR_CAPACITY
        if not faults & GROWABLE:
            return empty(state, geometry, grid, reach, _fitted(sizes, found.required, slack))
        sizes = enlarged(sizes, faults, found.required)
    raise ValueError(f"the buffers of domains are still too small after {_ATTEMPTS} growths")


def unmeasured(state: State, geometry: Geometry, grid: Grid, reach: Reach) -> DomainList:
    """An empty list of the sizes that :func:`allocate` begins with, which may well be too small."""
    rows = state.species.shape[0] // grid.domains
    sizes = dataclasses.replace(_planned(state, geometry, grid, reach, rows), neighbours=4)
    return empty(state, geometry, grid, reach, sizes)


def reallocate(state: State, geometry: Geometry, grid: Grid, old: DomainList) -> DomainList:
    """An empty list as :func:`allocate` makes it, of the sizes of an old one if these will do.

    Compiled code depends on them. The old list must not be used any more.
    """
    sizes = old.capacities
    release(old)
    if sizes.atoms == state.species.shape[0] // grid.domains:
        # without slots neighbours are only counted
        counting = dataclasses.replace(sizes, neighbours=0)
        found = _measured(state, empty(state, geometry, grid, old.reach, counting), grid)
        faults = Fault(int(found.faults)) & ~Fault.NEIGHBOUR_CAPACITY
        if not faults and int(found.required.neighbours) <= sizes.neighbours:
            return empty(state, geometry, grid, old.reach, sizes)
    return allocate(state, geometry, grid, old.reach)


def release(listed: DomainList) -> None:
    """Give back the memory of what is large in a list: there is no room for two."""
    for array in (listed.indices, *listed.sends, listed.ghost_species):
        if not array.is_deleted():
            array.delete()


def _fitted(sizes: Capacities, required: Required, slack: float) -> Capacities:
    """Capacities a little above what is required; rows and messages at rest tell nothing."""
    needed = jax.device_get(required)
    ghosts = [
        round_up(ceil(int(n) * slack), 8) if size else 0
        for n, size in zip(needed.ghosts, sizes.ghosts, strict=True)
    ]
    return dataclasses.replace(
        sizes,
        ghosts=(ghosts[0], ghosts[1], ghosts[2]),
        neighbours=round_up(ceil(int(needed.neighbours) * slack), 4),
        bins=dataclasses.replace(sizes.bins, occupancy=ceil(int(needed.occupancy) * slack) + 1),
    )


def _planned(state: State, geometry: Geometry, grid: Grid, reach: Reach, rows: int) -> Capacities:
    """Generous guesses, from the widths of the densest domain and the number of atoms in one.

    Without slots for neighbours: these are to be counted.
    """
    heights = np.asarray(cells.heights(cells.frame(jnp.asarray(_host(state.cell)), geometry.pbc)))
    narrow = [float(np.min(w) * h) for w, h in zip(geometry.widths, heights, strict=True)]
    atoms = Grid.fetched(loads.populations(state, grid)).reshape(geometry.counts)
    x, y, z = geometry.widths
    densest = np.argmax(atoms / (x[:, None, None] * y[:, None] * z))
    place = np.unravel_index(densest, geometry.counts)
    sides = [float(geometry.widths[d][i] * heights[d]) for d, i in enumerate(place)]
    turns = halo.turns_of((narrow[0], narrow[1], narrow[2]), reach.range)
    layers = [
        geometry.pbc[d] or geometry.counts[d] > 1 for d in range(3)
    ]  # along the others there are no ghosts
    turns = tuple(t if layer else 1 for t, layer in zip(turns, layers, strict=True))
    density = rows / np.prod(sides)
    ghosts, migrants, spanned = [], [], list(sides)
    for d in range(3):
        face = np.prod([spanned[e] for e in range(3) if e != d])
        depth = min(reach.range, sides[d])
        ghosts.append(round_up(search.likely(density * face * depth), 8) if layers[d] else 0)
        own_face = np.prod([sides[e] for e in range(3) if e != d])
        leaving = density * own_face * max(reach.skin, 0.1) / 4
        migrants.append(round_up(search.likely(leaving), 8))
        if layers[d]:
            spanned[d] += 2 * turns[d] * depth
    everyone = density * np.prod(spanned)
    bins = search.plan((sides[0], sides[1], sides[2]), reach.range, everyone)
    return Capacities(
        atoms=rows,
        ghosts=(ghosts[0], ghosts[1], ghosts[2]),
        migrants=(migrants[0], migrants[1], migrants[2]),
        turns=(turns[0], turns[1], turns[2]),
        neighbours=0,
        bins=bins,
    )


def empty(
    state: State, geometry: Geometry, grid: Grid, reach: Reach, capacities: Capacities
) -> DomainList:
    """A list without neighbours, which asks to be rebuilt."""
    rows, dtype = capacities.atoms, np.dtype(state.positions.dtype)
    plan = halo.layout(rows, geometry.counts, geometry.pbc, capacities.turns, capacities.ghosts)
    indices, species, reference, *sends = _made(
        grid,
        (
            _Uniform((rows, capacities.neighbours), plan.rows, np.dtype(np.int32)),
            _Uniform((plan.rows - rows,), -1, np.dtype(state.species.dtype)),
            _Uniform((rows, 3), np.nan, dtype),
            *(_Uniform((e.size,), plan.rows, np.dtype(np.int32)) for e in plan.exchanges),
        ),
    )
    zero, three = np.zeros((), np.int32), np.zeros(3, np.int32)
    return DomainList(
        indices=indices,
        sends=tuple(sends),
        ghost_species=species,
        reference_positions=reference,
        reference_cell=grid.everywhere(np.full((3, 3), np.nan, dtype)),
        geometry=grid.everywhere(geometry),
        faults=grid.everywhere(zero),
        required=grid.everywhere(Required(zero, three, three, zero, zero)),
        reach=reach,
        capacities=capacities,
    )


class _Uniform(NamedTuple):
    """An array on one device, all of one value."""

    shape: tuple[int, ...]
    value: float | int
    dtype: np.dtype


@partial(jax.jit, static_argnames=("grid", "arrays"))
def _made(grid: Grid, arrays: tuple[_Uniform, ...]) -> tuple[Array, ...]:
    """Such arrays on all devices; the host, which may have less memory, sees none of them."""

    def make() -> tuple[Array, ...]:
        return tuple(jnp.full(*array) for array in arrays)

    return grid.sharded(make, (), sharding.ROWS)()


@partial(jax.jit, static_argnames="grid")
def _measured(state: State, listed: DomainList, grid: Grid) -> DomainList:
    """A list with what its state needs, whose atoms are in their domains.

    Nothing else of it is of use. Atoms are not sorted, which only compiles longer.
    """

    def measure(state: State, listed: DomainList) -> DomainList:
        return lists.filled(listed, migration.unmoved(state))

    specs = sharding.of_state(state), sharding.of_list(listed)
    return grid.sharded(measure, specs, specs[1])(state, listed)


@partial(jax.jit, static_argnames="grid")
def built_at_reference(state: State, listed: DomainList, grid: Grid) -> DomainList:
    """The list that was built at its reference positions, with room of another size perhaps.

    A list that was still to be built stays so: its reference is not a number.
    """

    def build(state: State, listed: DomainList) -> DomainList:
        there = state.replace(positions=listed.reference_positions, cell=listed.reference_cell)
        built = lists.filled(listed, migration.unmoved(there))
        return built.replace(faults=listed.faults, required=listed.required)

    specs = sharding.of_state(state), sharding.of_list(listed)
    return grid.sharded(build, specs, specs[1])(state, listed)


def enlarged(
    capacities: Capacities, faults: Fault, required: Required, slack: float = 1.15
) -> Capacities:
    """Capacities with more room for whatever overflowed, and only for that."""
    new = capacities
    needed = jax.device_get(required)

    def more(old: int, least: int, multiple: int) -> int:
        if least <= old:
            return old
        return round_up(max(ceil(least * slack), ceil(old * 1.25)), multiple)

    def each(old: Counts, least: np.ndarray) -> Counts:
        a, b, c = (more(o, int(n), 8) for o, n in zip(old, least, strict=True))
        return a, b, c

    if Fault.ATOM_CAPACITY in faults:
        new = dataclasses.replace(new, atoms=more(new.atoms, int(needed.atoms), 8))
    if Fault.GHOST_CAPACITY in faults:
        new = dataclasses.replace(new, ghosts=each(new.ghosts, needed.ghosts))
    if Fault.MIGRANT_CAPACITY in faults:
        new = dataclasses.replace(new, migrants=each(new.migrants, needed.migrants))
    bins = new.bins
    if Fault.BIN_CAPACITY in faults:
        bins = dataclasses.replace(bins, occupancy=more(bins.occupancy, int(needed.occupancy), 1))
    if Fault.CELL_SHRUNK in faults:
        a, b, c = (s + 1 for s in bins.stencil)
        bins = dataclasses.replace(bins, stencil=(a, b, c))
    if Fault.NEIGHBOUR_CAPACITY in faults:
        slots = more(new.neighbours, int(needed.neighbours), 4)
        new = dataclasses.replace(new, neighbours=slots)
    return dataclasses.replace(new, bins=bins)


def with_rows(state: State, grid: Grid, rows: int) -> State:
    """The same state with other rows for the atoms of each domain; those left out hold none."""
    blanks = migration.FIELDS | {"site_energies": 0}
    return state.replace(
        **{
            name: with_rows_of(getattr(state, name), grid, rows, blank)
            for name, blank in blanks.items()
        }
    )


def with_rows_of(values: Array, grid: Grid, rows: int, blank: float | int = 0) -> Array:
    """What belongs to the atoms of domains that have more rows now, or fewer."""
    extra = rows - values.shape[0] // grid.domains
    if not extra:
        return values
    widths = ((0, max(extra, 0)), *((0, 0) for _ in values.shape[1:]))
    rows_of = sharding.ROWS

    def widen(values: Array) -> Array:
        return jnp.pad(values[:rows], widths, constant_values=blank)

    return jax.jit(grid.sharded(widen, (rows_of,), rows_of))(values)


def round_up(number: int, multiple: int) -> int:
    return max(multiple, -(-number // multiple) * multiple)


def _host(array: Any) -> np.ndarray:
    return np.asarray(jax.device_get(array))
