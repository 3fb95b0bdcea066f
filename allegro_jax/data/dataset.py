"""Frames with their neighbourhoods, as flat arrays: what batches are cut from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float, Int

from allegro_jax.data.checks import check_distances
from allegro_jax.data.frames import Frame, species_of
from allegro_jax.data.ragged import Counts, ranges, starts
from allegro_jax.neighbour_search import PairCutoffs, neighbour_pairs

ELEMENTS = tuple(chemical_symbols[1:])
"""Every species there is: a data set of these needs no knowledge of the species that occur."""

# Frames are looked at in blocks of about so many pairs (16 bytes each) where all are too many.
BLOCK_PAIRS = 2_000_000


def per(unit: str, *, starts: str | None = None) -> Any:
    """A field with a row for every ``frame``, ``atom`` or ``pair``.

    Rows that are ``starts`` number atoms or pairs; they shift when data sets are joined.
    """
    return dataclasses.field(metadata={"per": unit, "starts": starts})


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """Neighbourhoods and labels of many frames. The arrays may be maps of files.

    Frame ``f`` has the atoms ``atom_start[f]`` and following, ``atom_counts[f]`` of them; atom
    ``a`` has the pairs ``pair_start[a]`` and following, ``neighbour_counts[a]`` of them. Arrays of
    atoms and pairs may hold those of other frames, too: a part of a data set (:meth:`select`)
    shares them with the whole. Vectors are formed in float64 and stored in the dtype of training.
    Absent labels are zero, and masked.

    Attributes:
        species: chemical symbols; species indices refer to this order.
        sources: names of the files.
        atom_start, atom_counts: see above.
        cells, pbc: rows are the lattice vectors, Å; which of them are periodic.
        volumes: Å³; 0 without a cell.
        energies, forces, stress: labels (eV, eV/Å, eV/Å³) of frames and atoms.
        has_energy, has_forces, has_stress: which frames carry them.
        weights: what the errors of each frame count in the loss.
        source, index: the file of each frame (a place in ``sources``), and its number there.
        atom_species: species index of each atom.
        positions: Å, float64.
        pair_start, neighbour_counts: see above.
        vectors: r_neighbour − r_centre of each pair, Å.
        neighbours: the neighbour of each pair, counted within its frame.
    """

    species: tuple[str, ...]
    sources: tuple[str, ...]
    atom_start: Int[np.ndarray, " frames"] = per("frame", starts="atom")
    atom_counts: Int[np.ndarray, " frames"] = per("frame")
    cells: Float[np.ndarray, "frames 3 3"] = per("frame")
    pbc: Bool[np.ndarray, "frames 3"] = per("frame")
    volumes: Float[np.ndarray, " frames"] = per("frame")
    energies: Float[np.ndarray, " frames"] = per("frame")
    stress: Float[np.ndarray, "frames 3 3"] = per("frame")
    has_energy: Bool[np.ndarray, " frames"] = per("frame")
    has_forces: Bool[np.ndarray, " frames"] = per("frame")
    has_stress: Bool[np.ndarray, " frames"] = per("frame")
    weights: Float[np.ndarray, " frames"] = per("frame")
    source: Int[np.ndarray, " frames"] = per("frame")
    index: Int[np.ndarray, " frames"] = per("frame")
    atom_species: Int[np.ndarray, " all_atoms"] = per("atom")
    positions: Float[np.ndarray, "all_atoms 3"] = per("atom")
    forces: Float[np.ndarray, "all_atoms 3"] = per("atom")
    pair_start: Int[np.ndarray, " all_atoms"] = per("atom", starts="pair")
    neighbour_counts: Int[np.ndarray, " all_atoms"] = per("atom")
    vectors: Float[np.ndarray, "all_pairs 3"] = per("pair")
    neighbours: Int[np.ndarray, " all_pairs"] = per("pair")

    def __len__(self) -> int:
        return len(self.volumes)

    # -- parts --

    def select(self, frames: Int[np.ndarray, " n"]) -> DataSet:
        """The data set of given frames, in this order; atoms and pairs are shared."""
        return dataclasses.replace(
            self, **{name: getattr(self, name)[frames] for name in rows_per("frame")}
        )

    def copy(self) -> DataSet:
        """The same frames in memory, with their own atoms and pairs alone, in order."""
        atoms = self.atoms
        counts = self.neighbour_counts[atoms]
        pairs = ranges(self.pair_start[atoms], counts)
        fields = {name: np.array(getattr(self, name)) for name in rows_per("frame")}
        fields |= {name: getattr(self, name)[atoms] for name in rows_per("atom")}
        fields |= {name: getattr(self, name)[pairs] for name in rows_per("pair")}
        fields["atom_start"] = starts(self.atom_counts)
        fields["pair_start"] = starts(counts)
        return dataclasses.replace(self, **fields)

    def blocks(self) -> Iterator[DataSet]:
        """Copies of consecutive parts, of a size that is no burden on memory."""
        per_frame = len(self.neighbours) / max(len(self.atom_species), 1) * self.atom_counts
        block = (np.cumsum(per_frame + 1) // BLOCK_PAIRS).astype(int)
        edges = np.flatnonzero(np.diff(block, prepend=-1, append=np.inf))
        for start, stop in itertools.pairwise(edges):
            yield self.select(np.arange(start, stop)).copy()

    def of_species(self, species: Sequence[str]) -> DataSet:
        """The same atoms, their species counted in another order.

        Raises:
            DataError: a species that is not among them, with its frame.
        """
        species = tuple(species)
        if species == self.species:
            return self
        place = {symbol: number for number, symbol in enumerate(species)}
        table = np.asarray([place.get(symbol, -1) for symbol in self.species], np.int16)
        kinds = table[self.atom_species]
        unknown = kinds[self.atoms] < 0
        if unknown.any():
            species_of(self.frame(int(self.frame_of_atom[unknown.argmax()])), species)
        return dataclasses.replace(self, species=species, atom_species=kinds)

    # -- what follows from the arrays --

    @property
    def atoms(self) -> Int[np.ndarray, " atoms"]:
        """The atoms of all frames, in order."""
        return ranges(self.atom_start, self.atom_counts)

    @property
    def frame_of_atom(self) -> Int[np.ndarray, " atoms"]:
        """The frame of each of :attr:`atoms`."""
        return np.repeat(np.arange(len(self)), self.atom_counts)

    @property
    def counts(self) -> Counts:
        """How many neighbours the atoms of each frame have."""
        return Counts(self.neighbour_counts[self.atoms], self.atom_counts)

    @property
    def occurring(self) -> tuple[str, ...]:
        """The species that occur, in the order of atomic numbers."""
        numbers = np.bincount(self.atom_species[self.atoms], minlength=len(self.species))
        return by_number(self.species[kind] for kind in np.flatnonzero(numbers))

    @property
    def is_isolated_atom(self) -> Bool[np.ndarray, " frames"]:
        return (self.atom_counts == 1) & ~self.pbc.any(axis=1)

    @property
    def composition(self) -> Int[np.ndarray, "frames species"]:
        """How many atoms of each species every frame has."""
        kinds = len(self.species)
        both = self.frame_of_atom * kinds + self.atom_species[self.atoms]
        return np.bincount(both, minlength=len(self) * kinds).reshape(len(self), kinds)

    def reference(self, per_species: Sequence[float] | np.ndarray) -> Float[np.ndarray, " frames"]:
        """The sum of per-species reference energies of each frame, eV, float64."""
        energies = np.asarray(per_species, float)
        parts = [
            self.select(np.arange(start, min(start + 65536, len(self)))).composition @ energies
            for start in range(0, len(self), 65536)
        ]
        return np.concatenate([*parts, np.zeros(0)])

    def frame(self, number: int) -> Frame:
        """A frame again; its forces in the precision of the data set."""
        start = self.atom_start[number]
        own = slice(start, start + self.atom_counts[number])
        symbols = [self.species[kind] for kind in self.atom_species[own]]
        return Frame(
            numbers=np.asarray([atomic_numbers[symbol] for symbol in symbols], np.int64),
            positions=np.array(self.positions[own]),
            cell=np.array(self.cells[number]),
            pbc=np.array(self.pbc[number]),
            energy=float(self.energies[number]) if self.has_energy[number] else None,
            forces=self.forces[own].astype(float) if self.has_forces[number] else None,
            stress=np.array(self.stress[number]) if self.has_stress[number] else None,
            weight=float(self.weights[number]),
            source=self.sources[self.source[number]],
            index=int(self.index[number]),
        )


def by_number(symbols: Iterable[str]) -> tuple[str, ...]:
    """Chemical symbols in the order of atomic numbers."""
    return tuple(sorted(symbols, key=atomic_numbers.__getitem__))


def rows_per(unit: str) -> tuple[str, ...]:
    """The arrays of a data set that have a row per ``frame``, ``atom`` or ``pair``."""
    return tuple(
        field.name for field in dataclasses.fields(DataSet) if field.metadata.get("per") == unit
    )


def build_dataset(
    frames: Sequence[Frame],
    species: Sequence[str],
    cutoff: float,
    pair_cutoffs: PairCutoffs | None = None,
    *,
    dtype: np.dtype | type = np.float32,
) -> DataSet:
    """Find the neighbours of every frame.

    Args:
        frames: checked frames.
        species: all chemical symbols that occur, in the model's order.
        cutoff: Å.
        pair_cutoffs: directed table [centre][neighbour] in Å.
        dtype: of the stored vectors and forces.

    Raises:
        DataError: an unknown species, or overlapping atoms.
    """
    place = {atomic_numbers[symbol]: number for number, symbol in enumerate(species)}
    table = np.asarray([place.get(number, -1) for number in range(len(chemical_symbols))], np.int16)
    atom_species, counts, vectors, neighbours = [], [], [], []
    for frame in frames:
        kinds = table[frame.numbers]
        if kinds.min(initial=0) < 0:
            species_of(frame, species)
        pairs = neighbour_pairs(frame.positions, frame.cell, frame.pbc, cutoff, kinds, pair_cutoffs)
        distances = np.sqrt(np.einsum("ij,ij->i", pairs.vectors, pairs.vectors))
        check_distances(frame, pairs.centre, pairs.neighbour, distances)
        atom_species.append(kinds)
        counts.append(np.bincount(pairs.centre, minlength=len(frame)))
        vectors.append(pairs.vectors.astype(dtype))
        neighbours.append(pairs.neighbour.astype(np.int32))

    def joined(rows: Iterable[np.ndarray], kind: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        return np.concatenate([*rows, np.zeros((0, *shape))]).astype(kind)

    def each(values: Iterable[Any], kind: Any, shape: tuple[int, ...] = ()) -> np.ndarray:
        absent = np.zeros(shape)
        rows = [absent if value is None else value for value in values]
        return np.asarray(rows, kind).reshape(-1, *shape)

    sources = tuple(dict.fromkeys(frame.source for frame in frames))
    number_of = {source: number for number, source in enumerate(sources)}
    sizes = each((len(frame) for frame in frames), np.int64)
    neighbour_counts = joined(counts, np.int32)
    forces = (np.zeros((len(f), 3)) if f.forces is None else f.forces for f in frames)
    return DataSet(
        species=tuple(species),
        sources=sources,
        atom_start=starts(sizes),
        atom_counts=sizes,
        cells=each((frame.cell for frame in frames), float, (3, 3)),
        pbc=each((frame.pbc for frame in frames), bool, (3,)),
        volumes=each((frame.volume for frame in frames), float),
        energies=each((frame.energy for frame in frames), float),
        stress=each((frame.stress for frame in frames), float, (3, 3)),
        has_energy=each((frame.energy is not None for frame in frames), bool),
        has_forces=each((frame.forces is not None for frame in frames), bool),
        has_stress=each((f.stress is not None and f.has_volume for f in frames), bool),
        weights=each((frame.weight for frame in frames), float),
        source=each((number_of[frame.source] for frame in frames), np.int32),
        index=each((frame.index for frame in frames), np.int64),
        atom_species=joined(atom_species, np.int16),
        positions=joined((frame.positions for frame in frames), float, (3,)),
        forces=joined(forces, dtype, (3,)),
        pair_start=starts(neighbour_counts),
        neighbour_counts=neighbour_counts,
        vectors=joined(vectors, dtype, (3,)),
        neighbours=joined(neighbours, np.int32),
    )


def join(parts: Sequence[DataSet]) -> DataSet:
    """Data sets of the same species and cutoff, as :func:`build_dataset` makes them, in one."""
    sources = tuple(dict.fromkeys(source for part in parts for source in part.sources))
    seen = {"atom": 0, "pair": 0}
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name, rows in shifted(part, sources, seen).items():
            columns.setdefault(name, []).append(rows)
        seen["atom"] += len(part.atom_species)
        seen["pair"] += len(part.neighbours)
    return DataSet(
        species=parts[0].species,
        sources=sources,
        **{name: np.concatenate(rows) for name, rows in columns.items()},
    )


def shifted(
    part: DataSet, sources: Sequence[str], seen: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The arrays of a data set as they continue those of others.

    Args:
        part: the data set.
        sources: names of the files of all.
        seen: how many atoms and pairs come before.
    """
    arrays = {}
    for field in dataclasses.fields(DataSet):
        if "per" not in field.metadata:
            continue
        rows = getattr(part, field.name)
        if field.metadata["starts"]:
            rows = rows + seen[field.metadata["starts"]]
        arrays[field.name] = rows
    places = np.asarray([sources.index(source) for source in part.sources], np.int32)
    arrays["source"] = places[part.source] if len(part.source) else part.source
    return arrays
