"""How many neighbours atoms have in their first shell, accumulated along a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import nan
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int

from md import pair_search, tallies
from md.distributions import (
    Bonds,
    Symbols,
    check_symbols,
    histogram,
    population,
    shorter,
    symbols_of,
)
from md.observable import Table, check_settings
from md.pair_search import Listed, PairSearch, neighbourhoods
from md.state import State
from md.tallies import Tally


@struct.dataclass
class ShellCounts:
    """Neighbours counted so far.

    Attributes:
        samples: states looked at.
        centres: [T, T, most + 1] centres of a species with so many neighbours of another.
        neighbours: [T, T] Σ over states of all such neighbours.
        search: of the shells; None where the run's own list serves.
        atoms: static; number of atoms of each species.
        species: static; symbols.
    """

    samples: Int[Array, ""]
    centres: Tally
    neighbours: Tally
    search: PairSearch | None
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
    on_domains: ClassVar[bool] = True

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
        self, state: State, neighbours: Listed | None, species: tuple[str, ...]
    ) -> ShellCounts:
        types, lengths = len(species), self._lengths(species)
        table, longest = tuple(tuple(row) for row in lengths.tolist()), float(lengths.max())
        return ShellCounts(
            samples=jnp.int32(0),
            centres=tallies.empty_tally((types, types, self.most + 1)),
            neighbours=tallies.empty_tally((types, types)),
            search=pair_search.chosen(self.name, state, neighbours, longest, table),
            atoms=population(state, species),
            species=species,
        )

    def _lengths(self, species: tuple[str, ...]) -> np.ndarray:
        """[T, T] reach of each shell, Å; 0 where none is asked for."""
        lengths = np.zeros((len(species),) * 2)
        for (a, b), length in dict(self.cutoff).items():
            check_symbols(self.name, (a, b), species)
            lengths[species.index(a), species.index(b)] = length
        return lengths

    def update(
        self, accumulators: ShellCounts, state: State, neighbours: Listed | None
    ) -> ShellCounts:
        search, pairs = pair_search.pairs_of(accumulators.search, state, neighbours)
        types, (n, k) = len(accumulators.species), pairs.indices.shape
        lengths, columns = self._lengths(accumulators.species), self.most + 1
        kinds = jnp.arange(types)
        size = types * types * (columns + 1)

        def bins_of(rows: Array) -> Array:
            """By centre and kind: of an atom, so many neighbours; and of each neighbour, one."""
            vectors, mask, other = neighbourhoods(rows, pairs, state)
            centre = state.species[rows][:, None].astype(jnp.int32)
            mask &= shorter(vectors, lengths, centre, other)
            number = jnp.sum(mask[..., None] & (other[..., None] == kinds), axis=1)
            met = (centre * types + kinds) * (columns + 1) + jnp.minimum(number, self.most)
            each = (centre * types + other) * (columns + 1) + columns
            found = jnp.concatenate([met, jnp.where(mask, each, size)], axis=1)
            return jnp.where(centre >= 0, found, size)  # padding counts nowhere

        shape = types, types, columns + 1
        found = histogram(bins_of, n, types * (k + 1) + k, shape, state.axes)
        met, total = (
            Tally(*(part[..., columns_of] for part in found))
            for columns_of in (slice(columns), columns)
        )
        return accumulators.replace(
            samples=accumulators.samples + 1,
            centres=tallies.merged(accumulators.centres, met),
            neighbours=tallies.merged(accumulators.neighbours, total),
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
