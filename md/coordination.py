"""How many neighbours atoms have in their first shell, accumulated along a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import nan

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from md import pair_search, tallies
from md.distributions import Bonds, Symbols, check_symbols, neighbourhoods, population, symbols_of
from md.neighbours import NeighbourList
from md.observable import Table, check_settings
from md.pair_search import PairSearch
from md.state import State
from md.tallies import Tally


@struct.dataclass
class ShellCounts:
    """Neighbours counted so far.

    Attributes:
        samples: states looked at.
        centres: [T, T, most + 1] centres of a species with so many neighbours of another.
        neighbours: [T, T] Σ over states of all such neighbours.
        search: of the shells.
        atoms: static; number of atoms of each species.
        species: static; symbols.
    """

    samples: Int[Array, ""]
    centres: Tally
    neighbours: Tally
    search: PairSearch
    atoms: tuple[int, ...] = struct.field(pytree_node=False)
    species: tuple[str, ...] = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class CoordinationNumbers:
    """Distribution of the number of B atoms closer to an A atom than a length.

    The table has columns ``neighbours`` (0, 1, 2, ...) and ``share_A_B``: the share of the A atoms
    that have so many B atoms around them. The last row also counts those that have more.

    Attributes:
        cutoff: length in Å by ordered pair of symbols, the centre first: ``{"P-O": 2.1}``.
        most: the largest number of neighbours with a row of its own.
        every: steps between two looks.
        name: of the table.
    """

    cutoff: Mapping[Symbols, float | int] | Bonds
    most: int = 32
    every: int = 10
    name: str = "coordination"

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        given = dict(self.cutoff)
        pairs = tuple((symbols_of(pair, 2), length) for pair, length in given.items())
        object.__setattr__(self, "cutoff", pairs)
        if not pairs or not all(length > 0 for _, length in pairs):
            raise ValueError(f"{self.name}: cutoffs must be positive, not {given}")
        if self.most < 1:
            raise ValueError(f"{self.name}: most must be at least 1, not {self.most}")

    def init(
        self, state: State, neighbours: NeighbourList | None, species: tuple[str, ...]
    ) -> ShellCounts:
        types = len(species)
        lengths = np.zeros((types, types))
        for (a, b), length in dict(self.cutoff).items():
            check_symbols(self.name, (a, b), species)
            lengths[species.index(a), species.index(b)] = length
        table = tuple(tuple(row) for row in lengths.tolist())
        return ShellCounts(
            samples=jnp.int32(0),
            centres=tallies.empty_tally((types, types, self.most + 1)),
            neighbours=tallies.empty_tally((types, types)),
            search=pair_search.allocate(state, float(lengths.max()), table),
            atoms=population(state, species),
            species=species,
        )

    def update(
        self, accumulators: ShellCounts, state: State, neighbours: NeighbourList | None
    ) -> ShellCounts:
        search, pairs = pair_search.find(accumulators.search, state)
        types, n = len(accumulators.species), state.positions.shape[0]
        _, mask, other = neighbourhoods(jnp.arange(n), pairs, state)

        def around(kind: Array) -> Array:
            return jnp.sum(mask & (other == kind), axis=1, dtype=jnp.int32)

        number = jax.lax.map(around, jnp.arange(types))  # [T, N] neighbours of each kind
        centre = jnp.where(state.species >= 0, state.species, types)  # padding counts nowhere
        kinds = jnp.arange(types)[:, None]
        met = jnp.zeros((types, types, self.most + 1), jnp.int32)
        met = met.at[centre, kinds, jnp.minimum(number, self.most)].add(1, mode="drop")
        total = jnp.zeros((types, types), jnp.int32).at[centre, kinds].add(number, mode="drop")
        return accumulators.replace(
            samples=accumulators.samples + 1,
            centres=tallies.count(accumulators.centres, met),
            neighbours=tallies.count(accumulators.neighbours, total),
            search=search,
        )

    def result(self, accumulators: ShellCounts, timestep_fs: float) -> Table:
        counts = tallies.counts(accumulators.centres)
        table = {"neighbours": np.arange(self.most + 1)}
        for (a, b), i, j in self._indexed(accumulators):
            with np.errstate(invalid="ignore"):  # no such atoms: not a number
                table[f"share_{a}_{b}"] = counts[i, j] / counts[i, j].sum()
        return table

    def means(self, accumulators: ShellCounts) -> dict[str, float]:
        """Mean number of B atoms around an A atom, by ``"A-B"``; NaN where none was seen."""
        total, samples = tallies.counts(accumulators.neighbours), int(accumulators.samples)
        return {
            f"{a}-{b}": float(total[i, j] / seen)
            if (seen := samples * accumulators.atoms[i])
            else nan
            for (a, b), i, j in self._indexed(accumulators)
        }

    def _indexed(self, accumulators: ShellCounts) -> list[tuple[tuple[str, str], int, int]]:
        index = accumulators.species.index
        return [((a, b), index(a), index(b)) for a, b in dict(self.cutoff)]
