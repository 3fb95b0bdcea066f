"""Distributions of distances and of bond angles, accumulated along a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations_with_replacement
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from md import cells, pair_search, tallies
from md.domains.grid import Grid
from md.observable import Table, check_settings
from md.pair_search import Listed, PairCutoffs, PairSearch, neighbourhoods
from md.state import State
from md.summation import TwoFloat
from md.tallies import Tally
from md.totals import Axes

Number = float | int
Symbols = str | Sequence[str]
Bonds = tuple[tuple[Symbols, Number], ...]

_VALUES_PER_BLOCK = 2**20


@struct.dataclass
class PairCounts:
    """Distances counted so far.

    Attributes:
        samples: states looked at.
        pairs: [T, T, bins] directed pairs of a centre's and a neighbour's species.
        volumes: Σ of the cell's volume, Å³.
        search: None where the run's own list reaches far enough.
        atoms: static; number of atoms of each species.
        species: static; symbols.
        periodic: static; whether all directions repeat.
    """

    samples: Int[Array, ""]
    pairs: Tally
    volumes: TwoFloat
    search: PairSearch | None
    atoms: tuple[int, ...] = struct.field(pytree_node=False)
    species: tuple[str, ...] = struct.field(pytree_node=False)
    periodic: bool = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class RadialDistribution:
    r"""Radial distribution functions g(r) and running coordination numbers n(r).

        g_AB(r_k) = ⟨c_AB(k)⟩ ⟨V⟩ / (N_A N_B 4π/3 (r_{k+1}³ − r_k³)),
        n_AB(r_k) = Σ_{l ≤ k} ⟨c_AB(l)⟩ / N_A

    ==========  =========================================================
    c_AB(k)     pairs of an A atom and a B atom, periodic images included,
                at distances between the bin's edges r_k and r_{k+1}
    N_A, N_B    numbers of atoms
    V           volume of the cell
    ==========  =========================================================

    So g → 1 at large distances, but for the N_B / (N_B − 1) of a species with itself. The table
    has columns ``r_A`` (centres of the bins), ``g_A_B`` and ``n_A_B`` (B atoms around an A atom
    up to the outer edge of the bin), and if asked for ``g_total`` and ``n_total`` of all atoms
    whatever their species. Without three periodic directions there is no density to compare with,
    and the columns g are left out.

    Any cutoff will do: also one beyond the potential's, or beyond half the cell. On domains it must
    be within the potential's.

    Attributes:
        cutoff: Å.
        bins: number of bins.
        every: steps between two looks.
        pairs: pairs of symbols, ``("Li", "O")`` or ``"Li-O"``; all pairs of species that are there
            unless given.
        total: whether to have the columns of all atoms.
        name: of the table.
    """

    cutoff: Number
    bins: int = 200
    every: int = 10
    pairs: Sequence[Symbols] | None = None
    total: bool = False
    name: str = "rdf"
    on_domains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        _check_bins(self.name, self.bins)
        if not self.cutoff > 0:
            raise ValueError(f"{self.name}: cutoff must be positive, not {self.cutoff}")
        if self.pairs is not None:
            object.__setattr__(self, "pairs", tuple(symbols_of(pair, 2) for pair in self.pairs))

    def init(self, state: State, neighbours: Listed | None, species: tuple[str, ...]) -> PairCounts:
        for pair in self.pairs or ():
            check_symbols(self.name, pair, species)
        search = pair_search.chosen(self.name, state, neighbours, self.cutoff, borrows=True)
        return PairCounts(
            samples=jnp.int32(0),
            pairs=tallies.empty_tally((len(species), len(species), self.bins)),
            volumes=tallies.empty_sum((), state.positions.dtype),
            search=search,
            atoms=population(state, species),
            species=species,
            periodic=all(state.pbc),
        )

    def update(
        self, accumulators: PairCounts, state: State, neighbours: Listed | None
    ) -> PairCounts:
        search, pairs = pair_search.pairs_of(accumulators.search, state, neighbours)
        types, (n, k) = len(accumulators.species), pairs.indices.shape
        shape = accumulators.pairs.low.shape

        def bins_of(rows: Array) -> Array:
            vectors, mask, other = neighbourhoods(rows, pairs, state)
            distance = jnp.sqrt(jnp.sum(vectors**2, axis=-1))
            place = jnp.floor(distance * (self.bins / self.cutoff)).astype(jnp.int32)
            kind = _species(state, rows) * types + other
            inside = mask & (distance < self.cutoff)
            # rounding may put a distance just below the cutoff into the bin beyond the last
            place = jnp.minimum(place, self.bins - 1)
            return jnp.where(inside, kind * self.bins + place, np.prod(shape))

        counted = histogram(bins_of, n, k, shape, state.axes)
        return accumulators.replace(
            samples=accumulators.samples + 1,
            pairs=tallies.merged(accumulators.pairs, counted),
            volumes=tallies.accumulate(accumulators.volumes, cells.volume(state.cell)),
            search=search,
        )

    def result(self, accumulators: PairCounts, timestep_fs: float) -> Table:
        samples = np.float64(accumulators.samples)
        edges = np.linspace(0, self.cutoff, self.bins + 1)
        shells = 4 / 3 * np.pi * np.diff(edges**3)
        counts = tallies.counts(accumulators.pairs)
        table = {"r_A": (edges[1:] + edges[:-1]) / 2}
        with np.errstate(divide="ignore", invalid="ignore"):  # no samples: not a number
            mean = counts / samples
            volume = tallies.total(accumulators.volumes) / samples

        def add(name: str, pairs: np.ndarray, centres: int, others: int) -> None:
            around = pairs / max(centres, 1)
            if accumulators.periodic:
                table[f"g_{name}"] = around / (max(others, 1) / volume * shells)
            table[f"n_{name}"] = np.cumsum(around)

        for a, b in self._pairs(accumulators):
            i, j = accumulators.species.index(a), accumulators.species.index(b)
            add(f"{a}_{b}", mean[i, j], accumulators.atoms[i], accumulators.atoms[j])
        if self.total:
            add("total", mean.sum(axis=(0, 1)), sum(accumulators.atoms), sum(accumulators.atoms))
        return table

    def _pairs(self, accumulators: PairCounts) -> list[tuple[str, ...]]:
        if self.pairs is not None:
            return [symbols_of(pair, 2) for pair in self.pairs]
        facts = zip(accumulators.species, accumulators.atoms, strict=True)
        present = [symbol for symbol, atoms in facts if atoms]
        return list(combinations_with_replacement(present, 2))


@struct.dataclass
class AngleCounts:
    """Angles counted so far.

    Attributes:
        angles: [T, T, T, bins] of a centre's species and those of its two neighbours, the lower
            index first.
        search: of the bonds; None where the run's own list serves.
        species: static; symbols.
    """

    angles: Tally
    search: PairSearch | None
    species: tuple[str, ...] = struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class AngularDistribution:
    """Distributions of the angles between the bonds of an atom.

    The table has columns ``angle_degree`` (centres of the bins) and ``p_A_B_C_per_degree``, the
    probability density of the angle A-B-C at the atom B, which integrates to 1. It is not divided
    by sin θ: atoms without order give ½ sin θ per radian.

    Attributes:
        cutoff: length in Å below which two atoms are bonded; or a mapping from pairs of symbols to
            lengths, ``{("Si", "O"): 2.1}`` or ``{"Si-O": 2.1}``, pairs not named being unbonded.
        bins: number of bins from 0° to 180°.
        every: steps between two looks.
        triples: symbols (A, B, C) or "A-B-C" with the centre in the middle; all that were met
            unless given.
        name: of the table.
    """

    cutoff: Number | Mapping[Symbols, Number] | Bonds
    bins: int = 180
    every: int = 10
    triples: Sequence[Symbols] | None = None
    name: str = "adf"
    on_domains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        _check_bins(self.name, self.bins)
        if isinstance(self.cutoff, Mapping):
            bonds = tuple((symbols_of(pair, 2), length) for pair, length in self.cutoff.items())
            object.__setattr__(self, "cutoff", bonds)
        if self.triples is not None:
            object.__setattr__(self, "triples", tuple(symbols_of(one, 3) for one in self.triples))
        lengths: list[Any] = [self.cutoff]
        if not isinstance(self.cutoff, int | float):
            lengths = list(dict(self.cutoff).values())
        if not lengths or not all(length > 0 for length in lengths):
            raise ValueError(f"{self.name}: cutoffs must be positive, not {lengths}")

    def init(
        self, state: State, neighbours: Listed | None, species: tuple[str, ...]
    ) -> AngleCounts:
        for triple in self.triples or ():
            check_symbols(self.name, triple, species)
        lengths, types = self._lengths(species), len(species)
        table: PairCutoffs | None = None
        if not isinstance(self.cutoff, int | float):
            table = tuple(tuple(row) for row in lengths.tolist())
        longest = float(lengths.max())
        return AngleCounts(
            angles=tallies.empty_tally((types, types, types, self.bins)),
            search=pair_search.chosen(self.name, state, neighbours, longest, table),
            species=species,
        )

    def _lengths(self, species: tuple[str, ...]) -> np.ndarray:
        """[T, T] longest bond between two species, Å; 0 where there are no bonds."""
        if isinstance(self.cutoff, int | float):
            return np.full((len(species),) * 2, float(self.cutoff))
        lengths = np.zeros((len(species),) * 2)
        for (a, b), length in dict(self.cutoff).items():
            check_symbols(self.name, (a, b), species)
            i, j = species.index(a), species.index(b)
            lengths[i, j] = lengths[j, i] = length
        return lengths

    def update(
        self, accumulators: AngleCounts, state: State, neighbours: Listed | None
    ) -> AngleCounts:
        search, pairs = pair_search.pairs_of(accumulators.search, state, neighbours)
        lengths = self._lengths(accumulators.species)
        types, (n, k) = len(accumulators.species), pairs.indices.shape
        first, second = (jnp.asarray(index) for index in np.triu_indices(k, 1))
        shape = accumulators.angles.low.shape

        def bins_of(rows: Array) -> Array:
            vectors, mask, other = neighbourhoods(rows, pairs, state)
            mask &= shorter(vectors, lengths, _species(state, rows), other)
            angle = _angle(vectors[:, first], vectors[:, second])
            place = jnp.floor(angle * (self.bins / np.pi)).astype(jnp.int32)
            place = jnp.clip(place, 0, self.bins - 1)  # 180° belongs to the last bin
            low = jnp.minimum(other[:, first], other[:, second])
            high = jnp.maximum(other[:, first], other[:, second])
            kind = (_species(state, rows) * types + low) * types + high
            inside = mask[:, first] & mask[:, second]
            return jnp.where(inside, kind * self.bins + place, np.prod(shape))

        counted = histogram(bins_of, n, len(first), shape, state.axes)
        return accumulators.replace(
            angles=tallies.merged(accumulators.angles, counted), search=search
        )

    def result(self, accumulators: AngleCounts, timestep_fs: float) -> Table:
        width = 180 / self.bins
        counts, symbols = tallies.counts(accumulators.angles), accumulators.species
        met = np.argwhere(counts.sum(axis=-1) > 0)
        triples: list[tuple[str, ...]] = [(symbols[a], symbols[b], symbols[c]) for b, a, c in met]
        if self.triples is not None:
            triples = [symbols_of(one, 3) for one in self.triples]
        table = {"angle_degree": (np.arange(self.bins) + 0.5) * width}
        for a, b, c in triples:
            low, high = sorted((symbols.index(a), symbols.index(c)))
            angles = counts[symbols.index(b), low, high]
            with np.errstate(invalid="ignore"):  # none seen: not a number
                table[f"p_{a}_{b}_{c}_per_degree"] = angles / (angles.sum() * width)
        return table


def symbols_of(given: Symbols, number: int) -> tuple[str, ...]:
    """Symbols that belong together, from a sequence or from a string such as ``"Si-O"``."""
    symbols = tuple(given.split("-") if isinstance(given, str) else given)
    if len(symbols) != number:
        raise ValueError(
            f"{number} symbols are needed, such as {'-'.join('ABC'[:number])}, not {given!r}"
        )
    return symbols


def _check_bins(name: str, bins: int) -> None:
    if bins < 1:
        raise ValueError(f"{name}: bins must be at least 1, not {bins}")


def check_symbols(name: str, symbols: Symbols, species: tuple[str, ...]) -> None:
    for symbol in symbols:
        if symbol not in species:
            raise ValueError(
                f"{name}: there is no {symbol} among the potential's species, {', '.join(species)}"
            )


def population(state: State, species: tuple[str, ...]) -> tuple[int, ...]:
    """Number of atoms of each species."""
    found = Grid.fetched(_population(state.species, len(species)))
    return tuple(int(number) for number in found)


@partial(jax.jit, static_argnames="types")
def _population(species: Int[Array, " atoms"], types: int) -> Int[Array, " types"]:
    return jnp.stack([jnp.sum(species == s, dtype=jnp.int32) for s in range(types)])


def _species(state: State, rows: Int[Array, " rows"]) -> Int[Array, "rows 1"]:
    return state.species[rows][:, None].astype(jnp.int32)


def shorter(
    vectors: Float[Array, "rows slots 3"],
    lengths: Float[np.ndarray, "types types"],
    centre: Int[Array, "rows 1"],
    other: Int[Array, "rows slots"],
) -> Bool[Array, "rows slots"]:
    """Which vectors are shorter than the length of their pair of species."""
    allowed = jnp.asarray(lengths, vectors.dtype)[jnp.maximum(centre, 0), jnp.maximum(other, 0)]
    return jnp.sum(vectors**2, axis=-1) < allowed**2


def _angle(u: Float[Array, "*batch 3"], v: Float[Array, "*batch 3"]) -> Float[Array, "*batch"]:
    """Angle between vectors, in radians; by the arctangent, which is accurate at 0 and π too."""
    cross = jnp.cross(u, v)
    return jnp.arctan2(jnp.sqrt(jnp.sum(cross**2, axis=-1)), jnp.sum(u * v, axis=-1))


def histogram(
    bins_of: Callable[[Array], Any], atoms: int, values: int, shape: tuple[int, ...], axes: Axes
) -> Tally:
    """How often each bin is met, over the rows of all atoms of all devices, some rows at a time.

    Args:
        bins_of: from rows of atoms to their bins [rows, values], as indices of the flattened
            histogram; its size counts nowhere.
        atoms: rows of this device.
        values: for each row.
        shape: of the histogram.
        axes: as of :class:`md.state.State`.
    """
    size, length = min(atoms, max(1, _VALUES_PER_BLOCK // max(values, 1))), int(np.prod(shape))

    def step(tally: Tally, start: Array) -> tuple[Tally, None]:
        rows = start + jnp.arange(size)
        index = bins_of(jnp.minimum(rows, atoms - 1))
        index = jnp.where((rows < atoms)[:, None], index, length)
        counts = jnp.zeros((length,), jnp.int32).at[index].add(1, mode="drop")
        return tallies.count(tally, counts), None

    starts = jnp.arange(-(-atoms // size)) * size
    found = jax.lax.scan(step, tallies.empty_tally((length,)), starts)[0]
    found = Tally(*(part.reshape(shape) for part in found))
    return tallies.over_devices(found, axes)
