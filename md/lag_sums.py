"""Sums over pairs of past states by the time between them, and the ring that keeps these states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import tallies, totals
from md.domains import numbering
from md.domains.grid import Grid
from md.domains.lists import DomainList
from md.state import State, real_atoms
from md.summation import TwoFloat


@struct.dataclass
class LagSums:
    """A ring of past states, and sums over pairs of states by the time between them.

    Attributes:
        samples: states looked at; the last is in place (samples − 1) mod L of the ring.
        ring: an array with a leading axis L that belongs to atoms, or a named tuple of arrays that
            tells by ``by_atom`` which of them do. On domains these are there by the numbers of
            atoms, a block of them on each device (:mod:`md.domains.numbering`).
        steps: [L] step of each state in the ring; −1 where there is none yet.
        sums: [L, T] Σ over origins of the mean over a species' atoms; row l is l looks apart.
        origins: [L] number of pairs of states in each row. States between which the observable
            took a rest (a stage without it) make no pair.
        masses: [T] mean mass of each species, amu.
        atoms: static; number of atoms of each species that take part.
        species: static; symbols.
    """

    samples: Int[Array, ""]
    ring: Any
    steps: Int[Array, " lags"]
    sums: TwoFloat
    origins: Int[Array, " lags"]
    masses: Float[Array, " species"]
    atoms: tuple[int, ...] = struct.field(pytree_node=False)
    species: tuple[str, ...] = struct.field(pytree_node=False)

    def mapped(self, of_atoms: Callable[[Any], Any], others: Callable[[Any], Any]) -> LagSums:
        """Functions of all arrays: one of those that belong to atoms, one of the others."""
        ring = self.ring
        if hasattr(ring, "by_atom"):
            fields = {
                name: None if x is None else (of_atoms if name in ring.by_atom else others)(x)
                for name, x in ring._asdict().items()
            }
            ring = ring._replace(**fields)
        else:
            ring = of_atoms(ring)
        return jax.tree.map(others, self.replace(ring=None)).replace(ring=ring)


def check_lags(name: str, lags: int) -> None:
    if lags < 2:
        raise ValueError(f"{name}: lags must be at least 2, not {lags}")


class Population(NamedTuple):
    """The atoms that take part; fields as of :class:`LagSums`."""

    atoms: tuple[int, ...]
    masses: Float[np.ndarray, " species"]
    species: tuple[str, ...]


def population(name: str, state: State, atoms: Any, species: tuple[str, ...]) -> Population:
    """Count those that take part, on the host.

    Raises:
        ValueError: for atoms that there are not, or that are named twice.
    """
    found = Grid.fetched(_counted(state, atoms, len(species)))
    everyone, population, masses = int(found[0]), [int(n) for n in found[1]], found[2]
    if atoms is not None:
        if not (atoms and all(0 <= index < everyone for index in atoms)):
            raise ValueError(f"{name}: atoms must be indices from 0 to {everyone - 1}")
        if len(set(atoms)) < len(atoms):
            raise ValueError(f"{name}: atoms are named twice: name each once")
    return Population(tuple(population), np.asarray(masses), species)


@partial(jax.jit, static_argnames=("atoms", "types"))
def _counted(state: State, atoms: Any, types: int) -> tuple[Array, Array, Array]:
    """How many atoms there are; of those chosen, how many of each species, and their mean mass."""
    taking_part = numbering.places(state.ids, atoms or None) >= 0
    members = [taking_part & (state.species == s) for s in range(types)]
    numbers = jnp.stack([jnp.sum(member, dtype=jnp.int32) for member in members])
    masses = jnp.stack([jnp.sum(jnp.where(member, state.masses, 0)) for member in members])
    return jnp.sum(real_atoms(state.species)), numbers, masses / jnp.maximum(numbers, 1)


def empty(lags: int, sample: Any, state: State, population: Population) -> LagSums:
    """Accumulators of nothing.

    Args:
        sample: the shapes of what the ring holds of one state.
    """
    kind = state.positions.dtype
    sums = LagSums(
        samples=jnp.int32(0),
        ring=jax.tree.map(lambda x: jax.ShapeDtypeStruct((lags, *x.shape), x.dtype), sample),
        steps=jnp.full(lags, -1, jnp.int32),
        sums=tallies.empty_sum((lags, len(population.species)), kind),
        origins=jnp.zeros(lags, jnp.int32),
        masses=jnp.asarray(population.masses, state.masses.dtype),
        atoms=population.atoms,
        species=population.species,
    )

    def zeros(leaf: Any) -> Any:
        blank = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.zeros(leaf.shape, leaf.dtype) if blank else leaf

    def by_number(shape: Any) -> Array:
        if not state.axes:
            return zeros(shape)
        return numbering.zeros(shape, Grid(state.positions.sharding.mesh))

    return sums.mapped(by_number, zeros)


def chosen(
    accumulators: LagSums, atoms: Any, values: dict[str, Array], state: State, neighbours: Any
) -> tuple[dict[str, Array], Int[Array, " atoms"]]:
    """Of what belongs to atoms, that of those chosen; and their species, −1 where there is none."""
    if not isinstance(neighbours, DomainList):
        rows = slice(None) if atoms is None else np.asarray(atoms)
        return {name: x[rows] for name, x in values.items()}, state.species[rows]
    number, devices = sum(accumulators.atoms), int(np.prod(neighbours.geometry.counts))
    places = numbering.places(state.ids, atoms)
    found = numbering.brought(values | {"species": state.species}, places, number, devices)
    kinds = jnp.where(numbering.held(number, devices), found.pop("species"), -1)
    return found, kinds


def compared(
    accumulators: LagSums,
    now: Any,
    kinds: Int[Array, " atoms"],
    state: State,
    every: int,
    compare: Callable[[Any], Float[Array, " atoms"]],
) -> LagSums:
    """Put a sample into the ring, and compare it with every sample there.

    Means over the atoms of each species are added to the sums.

    Args:
        kinds: species of the atoms that take part.
        compare: from a sample of the past to a number for each of these atoms.
    """
    lags, step = accumulators.sums.high.shape[0], state.step
    place = accumulators.samples % lags
    ring = jax.tree.map(lambda past, x: past.at[place].set(x), accumulators.ring, now)
    steps = accumulators.steps.at[place].set(step.astype(accumulators.steps.dtype))
    population = jnp.maximum(jnp.asarray(accumulators.atoms), 1)
    member = kinds == jnp.arange(len(accumulators.species))[:, None]
    weights = member / population[:, None].astype(state.positions.dtype)  # [T, atoms]

    def one_lag(lag: Array) -> tuple[Array, Array]:
        at = (place - lag) % lags
        each = compare(jax.tree.map(lambda past: past[at], ring))
        values = jnp.dot(weights, each, precision=jax.lax.Precision.HIGHEST)
        pair = (steps[at] >= 0) & (step - steps[at] == lag * every)
        return jnp.where(pair, values, 0), pair

    values, pairs = jax.lax.map(one_lag, jnp.arange(lags))
    return accumulators.replace(
        samples=accumulators.samples + 1,
        ring=ring,
        steps=steps,
        sums=tallies.accumulate(accumulators.sums, totals.over_devices(values, state.axes)),
        origins=accumulators.origins + pairs,
    )


def columns(accumulators: LagSums) -> dict[str, np.ndarray]:
    """Means over origins, by symbol; not a number at lags that no two samples are apart."""
    sums, origins = tallies.total(accumulators.sums), np.asarray(accumulators.origins)[:, None]
    means = np.where(origins > 0, sums / np.maximum(origins, 1), np.nan)
    facts = enumerate(zip(accumulators.species, accumulators.atoms, strict=True))
    return {symbol: means[:, at] for at, (symbol, atoms) in facts if atoms}
