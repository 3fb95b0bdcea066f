"""The neighbour list of a domain, as the run loop needs it: rebuilt when due, and evaluated."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import cells, evaluation, totals
from md.bins import Reach, sorted_rows
from md.domains import halo, migration, search
from md.domains.geometry import Geometry
from md.domains.grid import Counts
from md.domains.halo import Layout
from md.domains.migration import Migrated
from md.domains.search import Bins
from md.evaluation import Evaluation
from md.faults import Fault
from md.state import State, real_atoms


@dataclasses.dataclass(frozen=True)
class Capacities:
    """Static sizes, the same for all domains.

    Attributes:
        atoms: rows for own atoms.
        ghosts: rows for the ghosts of one exchange, along each axis.
        migrants: rows for the atoms that leave through one face, along each axis.
        turns: how often ghosts are sent along each axis (:func:`md.domains.halo.turns_of`).
        neighbours: slots per atom.
        bins: of the search.
    """

    atoms: int
    ghosts: Counts
    migrants: Counts
    turns: Counts
    neighbours: int
    bins: Bins


class Required(NamedTuple):
    """The largest sizes that any domain needed; compare with :class:`Capacities`."""

    atoms: Int[Array, ""]
    ghosts: Int[Array, " 3"]
    migrants: Int[Array, " 3"]
    neighbours: Int[Array, ""]
    occupancy: Int[Array, ""]


@struct.dataclass
class DomainList:
    """The neighbours of every atom of a domain, and the halo that holds some of them.

    Attributes:
        indices: [own, K] rows of the neighbours among own atoms and ghosts; their number where a
            slot is empty.
        sends: for each exchange, the rows that it sends.
        ghost_species: [ghosts] −1 where there is none.
        reference_positions, reference_cell: where the list was built; NaN before that.
        geometry: the domains.
        faults: bits of :class:`md.faults.Fault`, of all domains.
        required: the largest sizes met in any domain.
        reach, capacities: static.
    """

    indices: Int[Array, "own slots"]
    sends: tuple[Int[Array, " _"], ...]
    ghost_species: Int[Array, " ghosts"]
    reference_positions: Float[Array, "own 3"]
    reference_cell: Float[Array, "3 3"]
    geometry: Geometry
    faults: Int[Array, ""]
    required: Required
    reach: Reach = struct.field(pytree_node=False)
    capacities: Capacities = struct.field(pytree_node=False)

    # where neighbours are: there are no images but those among the ghosts
    shifts = None

    @property
    def layout(self) -> Layout:
        """Rows of a domain."""
        sizes, geometry = self.capacities, self.geometry
        return halo.layout(sizes.atoms, geometry.counts, geometry.pbc, sizes.turns, sizes.ghosts)


def needs_rebuild(listed: DomainList, state: State) -> Bool[Array, ""]:
    """Whether a pair outside the lists may have come within its cutoff, in any domain.

    See :func:`md.neighbours.needs_update`.
    """
    reach = listed.reach
    moved, strain = cells.travelled(
        state.positions, listed.reference_positions, state.cell, listed.reference_cell, reach.pbc
    )
    # NaN, an unknown reference, asks for a rebuild
    kept = real_atoms(state.species) <= (2 * moved + strain * reach.range <= reach.skin)
    return ~(totals.every(kept, state.axes) & jnp.all(jnp.isfinite(listed.reference_cell)))


def arranged(listed: DomainList, state: State) -> Migrated:
    """Atoms where they belong, sorted in space."""
    moved = migration.migrated(state, listed.geometry, listed.capacities.migrants)
    state = moved.state
    _, number = search.bin_of(
        state.positions,
        state.species,
        state.cell,
        listed.geometry,
        listed.reach.range,
        listed.capacities.bins,
    )
    # with the ids as second key the order does not depend on where atoms came from
    order = sorted_rows(number, state.ids)
    return moved._replace(state=migration.reordered(state, order))


def filled(listed: DomainList, moved: Migrated) -> DomainList:
    """Lists of atoms that are in their domains."""
    state = moved.state
    sizes, layout = listed.capacities, listed.layout
    sends, positions, species, ghosts = halo.choose(
        state.positions,
        state.species,
        state.cell,
        listed.geometry,
        layout,
        listed.reach.range,
    )
    indices, faults, neighbours, occupancy = search.search(
        positions, species, state.cell, listed.geometry, listed.reach, sizes.bins, listed.indices
    )
    faults |= jnp.where(
        jnp.any(ghosts > jnp.asarray(sizes.ghosts)), jnp.int32(Fault.GHOST_CAPACITY), 0
    )
    thin = halo.too_thin(state.cell, listed.geometry, sizes.turns, listed.reach.range)
    faults |= jnp.where(thin, jnp.int32(Fault.DOMAIN_SHRUNK), 0)
    faults |= moved.faults
    found = Required(moved.atoms, ghosts, moved.leaving, neighbours, occupancy)
    return listed.replace(
        indices=indices,
        sends=sends,
        ghost_species=species[layout.own :],
        reference_positions=state.positions,
        reference_cell=state.cell,
        faults=listed.faults | totals.joined(faults, state.axes),
        required=Required(
            *(
                jnp.maximum(old, totals.largest_of_devices(new, state.axes))
                for old, new in zip(listed.required, found, strict=True)
            )
        ),
    )


def with_ghosts(
    state: State, listed: DomainList
) -> tuple[Float[Array, "rows 3"], Int[Array, " rows"], Int[Array, " rows"]]:
    """Positions, species and ids of own atoms and ghosts."""
    rows = partial(halo.spread, sends=listed.sends, geometry=listed.geometry, layout=listed.layout)
    species = jnp.concatenate([state.species, listed.ghost_species])
    return rows(state.positions, cell=state.cell), species, rows(state.ids)


def evaluate(
    potential: Any,
    state: State,
    listed: DomainList,
    *,
    block_size: int | None = None,
    deterministic: bool = False,
    with_virial: bool | Bool[Array, ""] = True,
) -> Evaluation:
    """Site energies and forces of own atoms, and the virial of all.

    Positions of ghosts are fetched, every domain evaluates its own atoms, and the forces on ghosts
    are sent home.
    """
    geometry, layout = listed.geometry, listed.layout
    positions = halo.spread(state.positions, listed.sends, geometry, layout, state.cell)
    species = jnp.concatenate([state.species, listed.ghost_species])
    found = evaluation.evaluate(
        potential,
        positions,
        state.cell,
        species,
        listed,
        block_size=block_size,
        deterministic=deterministic,
        with_virial=with_virial,
    )
    if getattr(potential, "pairwise", False):
        forces = found.forces[: layout.own]  # each atom's own slots hold all its forces
    else:
        forces = halo.gathered(found.forces, listed.sends, geometry, layout)
    virial = totals.over_devices(found.virial, state.axes)
    return Evaluation(found.site_energies, forces, virial)
