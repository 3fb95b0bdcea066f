"""Atoms that left their domain go to the one beside it, with all they own."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from md import cells, totals
from md.domains.geometry import Geometry, coordinate
from md.domains.grid import AXES
from md.domains.halo import rows_of
from md.faults import Fault
from md.state import State, real_atoms

# What travels, and what fills a row without an atom. Site energies do not: lists are rebuilt
# between new positions and their energies.
FIELDS = {
    "positions": 0,
    "images": 0,
    "momenta": 0,
    "forces": 0,
    "species": -1,
    "ids": -1,
    "group": -1,
    "masses": 1,
}


class Migrated(NamedTuple):
    """A state after migration.

    Attributes:
        state: the atoms of each domain; rows in no order.
        faults: of all devices.
        leaving: the most atoms that left this domain through one face along each axis.
        atoms: the most that this domain would have had to hold; it was more than its rows if they
            did not fit.
    """

    state: State
    faults: Int[Array, ""]
    leaving: Int[Array, " 3"]
    atoms: Int[Array, ""]


def unmoved(state: State) -> Migrated:
    """A state whose atoms are where they belong."""
    nothing = jnp.int32(0)
    return Migrated(state, nothing, jnp.zeros(3, jnp.int32), nothing)


def migrated(state: State, geometry: Geometry, room: tuple[int, int, int]) -> Migrated:
    """Every atom in the domain that it is in, and inside the cell along axes that repeat.

    Args:
        state: padded rows come last, as :func:`reordered` by a rebuild leaves them.
        room: how many atoms can leave through one face, for each axis.

    Atoms move by less than a domain between two rebuilds; if one has not, ``faults`` says so. Where
    any device has too little room, it says so too, and along that axis all atoms stay where they
    were: none is ever lost.
    """
    faults, leaving = jnp.int32(0), jnp.zeros(3, jnp.int32)
    atoms = used = jnp.sum(real_atoms(state.species), dtype=jnp.int32)
    for d in range(3):
        if geometry.counts[d] > 1:
            state, used, along = _along(state, used, geometry, d, room[d])
            faults |= along.faults
            leaving = leaving.at[d].set(along.leaving)
            atoms = jnp.maximum(atoms, along.atoms)
        elif geometry.pbc[d]:
            state = _wrapped(state, d)
    return Migrated(state, faults, leaving, atoms)


def _wrapped(state: State, d: int) -> State:
    turns = jnp.floor(coordinate(state.positions, state.cell, state.pbc, d)).astype(jnp.int32)
    turns = jnp.where(real_atoms(state.species), turns, 0)
    moved = turns[:, None].astype(state.cell.dtype) * state.cell[d]
    return state.replace(positions=state.positions - moved, images=state.images.at[:, d].add(turns))


class _Along(NamedTuple):
    """What was found along one axis; as in :class:`Migrated`."""

    faults: Int[Array, ""]
    leaving: Int[Array, ""]
    atoms: Int[Array, ""]


def _along(
    state: State, used: Int[Array, ""], geometry: Geometry, d: int, room: int
) -> tuple[State, Int[Array, ""], _Along]:
    """Migration along one axis.

    Args:
        used: rows from this one on were never used.

    Returns:
        The state, and rows used now.
    """
    u, rows = coordinate(state.positions, state.cell, state.pbc, d), state.species.shape[0]
    real = real_atoms(state.species)
    below = real & (u < 0) & ~jnp.asarray(geometry.ends(d, -1))
    above = real & (u >= geometry.width(d)) & ~jnp.asarray(geometry.ends(d, 1))
    far = (below & (u < -geometry.width(d, -1))) | (
        above & (u >= geometry.width(d) + geometry.width(d, 1))
    )

    def sent(values: Any, side: int) -> Any:
        count = geometry.counts[d]
        return jax.lax.ppermute(values, AXES[d], [(i, (i + side) % count) for i in range(count)])

    # is there room for all, on all devices?
    leave = {side: jnp.sum(those, dtype=jnp.int32) for side, those in ((-1, below), (1, above))}
    left = leave[-1] + leave[1]
    wanted = used + jnp.maximum(sent(leave[-1], -1) + sent(leave[1], 1) - left, 0)
    leaving = jnp.maximum(leave[-1], leave[1])
    faults = (
        jnp.where(jnp.any(far), jnp.int32(Fault.LEFT_BEHIND), 0)
        | jnp.where(leaving > room, jnp.int32(Fault.MIGRANT_CAPACITY), 0)
        | jnp.where(wanted > rows, jnp.int32(Fault.ATOM_CAPACITY), 0)
    )
    faults = totals.joined(faults, state.axes)
    below, above, left = below & (faults == 0), above & (faults == 0), left * (faults == 0)

    gone = rows_of(below | above, 2 * room)
    down = below.at[gone].get(mode="fill", fill_value=False)
    basis = cells.frame(state.cell, geometry.pbc)[d]
    arriving = []
    for side, goes in ((-1, down), (1, ~down)):
        # of those who leave, the ones to this side, first
        mine = jnp.where(goes, gone, rows)[jnp.argsort(~goes, stable=True)][:room]
        parcel = _taken(state, mine)
        turns = (side * geometry.wraps(d, side)).astype(state.images.dtype)
        parcel["images"] = parcel["images"].at[:, d].add(turns)
        parcel = _unpacked(sent(_packed(parcel), side), parcel)
        across = geometry.width(d) if side < 0 else -geometry.width(d, -1)
        parcel["positions"] = parcel["positions"] + across * basis
        arriving.append(parcel)
    merged = {name: jnp.concatenate([one[name] for one in arriving]) for name in FIELDS}
    # those who arrive take the rows of those who left, then rows that were never used
    come = merged["species"] >= 0
    place = jnp.cumsum(come, dtype=jnp.int32) - 1
    free = jnp.where(place < left, gone[jnp.minimum(place, 2 * room - 1)], used + place - left)
    target = jnp.where(come, free, rows)
    state = _without(state, below | above)
    state = state.replace(
        **{name: getattr(state, name).at[target].set(merged[name], mode="drop") for name in FIELDS}
    )
    used = used + jnp.maximum(jnp.sum(come, dtype=jnp.int32) - left, 0)
    return state, used, _Along(faults, leaving, wanted)


def _taken(state: State, rows: Int[Array, " room"]) -> dict[str, Array]:
    return {
        name: getattr(state, name).at[rows].get(mode="fill", fill_value=blank)
        for name, blank in FIELDS.items()
    }


def _packed(parcel: dict[str, Array]) -> tuple[Array, ...]:
    """One array of each precision: few messages are quicker than many."""
    columns: dict[Any, list[Array]] = {}
    for values in parcel.values():
        columns.setdefault(values.dtype, []).append(values.reshape(values.shape[0], -1))
    return tuple(jnp.concatenate(same, axis=1) for same in columns.values())


def _unpacked(arrays: tuple[Array, ...], like: dict[str, Array]) -> dict[str, Array]:
    of_kind = {array.dtype: array for array in arrays}
    taken: dict[Any, int] = {}
    parcel = {}
    for name, values in like.items():
        width = values.size // values.shape[0]
        start = taken.get(values.dtype, 0)
        columns = of_kind[values.dtype][:, start : start + width]
        parcel[name], taken[values.dtype] = columns.reshape(values.shape), start + width
    return parcel


def _without(state: State, leaves: Bool[Array, " atoms"]) -> State:
    def emptied(values: Array, blank: int) -> Array:
        return jnp.where(leaves.reshape(-1, *(1,) * (values.ndim - 1)), blank, values)

    return state.replace(
        **{name: emptied(getattr(state, name), blank) for name, blank in FIELDS.items()}
    )


def reordered(state: State, order: Int[Array, " atoms"]) -> State:
    """The same atoms in other rows."""
    return state.replace(**{name: getattr(state, name)[order] for name in FIELDS})
