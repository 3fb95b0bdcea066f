"""How many atoms and ghosts domains hold, or would hold with other faces, counted on devices."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from md import totals
from md.domains import sharding
from md.domains.geometry import Geometry, coordinate
from md.domains.grid import Grid
from md.domains.lists import DomainList
from md.state import State, real_atoms

SLABS = 256
"""Of a histogram, for each domain along an axis."""

_Each = np.ndarray | jax.Array
ByAxis = tuple[_Each, _Each, _Each]
"""An array for each axis."""


class Loads(NamedTuple):
    """What domains have to do, in the order of the mesh.

    Attributes:
        atoms: [domains] of each domain.
        ghosts: [domains] copies of atoms of other domains.
    """

    atoms: np.ndarray
    ghosts: np.ndarray

    @property
    def imbalance(self) -> float:
        """Atoms of the fullest domain, over the mean: how much longer all wait for it."""
        return imbalance(self.atoms)


def measured(state: State, listed: DomainList, grid: Grid) -> Loads:
    """Loads of a state whose list is built. All processes must ask."""
    return Loads(*Grid.fetched(_loads(state, listed, grid)))


def imbalance(atoms: Int[np.ndarray, " domains"]) -> float:
    """The largest number of atoms of any domain, over the mean."""
    return float(np.max(atoms) / np.mean(atoms))


@partial(jax.jit, static_argnames="grid")
def _loads(state: State, listed: DomainList, grid: Grid) -> tuple[Array, Array]:
    def count(state: State, listed: DomainList) -> tuple[Array, Array]:
        numbers = [_number(species) for species in (state.species, listed.ghost_species)]
        atoms, ghosts = (jax.lax.all_gather(n, state.axes) for n in numbers)
        return atoms, ghosts

    specs = sharding.of_state(state), sharding.of_list(listed)
    return grid.sharded(count, specs, (sharding.ON_ALL,) * 2)(state, listed)


@partial(jax.jit, static_argnames="grid")
def populations(state: State, grid: Grid) -> Array:
    """How many atoms each domain holds, in the order of the mesh."""

    def count(state: State) -> Array:
        return jax.lax.all_gather(_number(state.species), state.axes)

    return grid.sharded(count, (sharding.of_state(state),), sharding.ON_ALL)(state)


def _number(species: Int[Array, " rows"]) -> Int[Array, ""]:
    return jnp.sum(real_atoms(species), dtype=jnp.int32)


@partial(jax.jit, static_argnames="grid")
def extent(state: State, geometry: Geometry, lower: ByAxis, grid: Grid) -> tuple[Array, Array]:
    """The coordinates between which all atoms are, along axes that do not repeat; else 0 and 1.

    Args:
        lower: lower faces of the domains.
    """

    def find(state: State, geometry: Geometry, lower: ByAxis) -> tuple[Array, Array]:
        real, found = real_atoms(state.species), []
        for d in range(3):
            u = coordinate(state.positions, state.cell, state.pbc, d)
            u = u + lower[d][geometry.index(d)]
            found.append([jnp.max(x, where=real, initial=-jnp.inf) for x in (-u, u)])
        ends = totals.largest_of_devices(jnp.stack(list(map(jnp.stack, found))), state.axes)
        repeats = jnp.asarray(geometry.pbc)
        return jnp.where(repeats, 0, -ends[:, 0]), jnp.where(repeats, 1, ends[:, 1])

    specs = sharding.of_state(state), *(sharding.ON_ALL,) * 2
    return grid.sharded(find, specs, (sharding.ON_ALL,) * 2)(state, geometry, lower)


@partial(jax.jit, static_argnames="grid")
def slabs(
    state: State, geometry: Geometry, lower: ByAxis, faces: ByAxis, grid: Grid
) -> tuple[Array, ...]:
    """Atoms in slabs along each axis: in each domain, so many of equal width between its faces."""

    def count(state: State, geometry: Geometry, lower: ByAxis, faces: ByAxis) -> tuple[Array, ...]:
        real, slabs = real_atoms(state.species), []
        for d, domains in enumerate(geometry.counts):
            here = geometry.index(d)
            first, width = faces[d][here] - lower[d][here], faces[d][here + 1] - faces[d][here]
            u = coordinate(state.positions, state.cell, state.pbc, d)
            place = jnp.floor((u - first) / width * SLABS).astype(jnp.int32)
            # those that have left a domain since the last migration are near its face
            place = jnp.clip(place, 0, SLABS - 1) + here * SLABS
            slabs.append(jnp.zeros(domains * SLABS, jnp.int32).at[place].add(real))
        return tuple(totals.over_devices(slabs, state.axes))

    specs = sharding.of_state(state), *(sharding.ON_ALL,) * 3
    run = grid.sharded(count, specs, (sharding.ON_ALL,) * 3)
    return run(state, geometry, lower, faces)


@partial(jax.jit, static_argnames="grid")
def foreseen(state: State, geometry: Geometry, lower: ByAxis, inner: ByAxis, grid: Grid) -> Array:
    """How many atoms each domain would have with other faces between domains."""

    def count(state: State, geometry: Geometry, lower: ByAxis, inner: ByAxis) -> Array:
        number = jnp.zeros(state.species.shape, jnp.int32)
        for d, domains in enumerate(geometry.counts):
            if domains == 1:
                continue
            u = coordinate(state.positions, state.cell, state.pbc, d)
            u = u + lower[d][geometry.index(d)]
            u = u - jnp.floor(u) if geometry.pbc[d] else u
            place = jnp.searchsorted(inner[d], u, side="right").astype(jnp.int32)
            number = number * domains + place
        atoms = jnp.zeros(grid.domains, jnp.int32).at[number].add(real_atoms(state.species))
        return totals.over_devices(atoms, state.axes)

    specs = sharding.of_state(state), *(sharding.ON_ALL,) * 3
    return grid.sharded(count, specs, sharding.ON_ALL)(state, geometry, lower, inner)
