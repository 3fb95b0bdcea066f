"""Frames with their neighbourhoods, as flat arrays: what batches are cut from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from allegro_jax.data.frames import Frame, check_distances, species_of
from allegro_jax.neighbour_search import neighbour_pairs
from allegro_jax.neighbourhoods import PairCutoffs


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """Neighbourhoods and labels of many frames; atoms and pairs of all frames follow one another.

    Atom ``a`` of the data set belongs to the frame ``frame_of_atom[a]``; its neighbours are the
    pairs ``pair_start[a] : pair_start[a + 1]``. Vectors are formed in float64 and stored in the
    dtype of training. Absent labels are zero, and masked.

    Attributes:
        species: chemical symbols; species indices refer to this order.
        atom_start: frame ``f`` has the atoms ``atom_start[f] : atom_start[f + 1]``.
        pair_start: see above.
        atom_species: species index of each atom.
        vectors: r_neighbour − r_centre of each pair, Å.
        neighbours: the neighbour of each pair, counted within its frame.
        volumes: Å³; 0 without a cell.
        energies, forces, stress: labels (eV, eV/Å, eV/Å³) of frames and atoms.
        has_energy, has_forces, has_stress: per frame.
    """

    species: tuple[str, ...]
    atom_start: Int[np.ndarray, " frame_bounds"]
    pair_start: Int[np.ndarray, " atom_bounds"]
    atom_species: Int[np.ndarray, " atoms"]
    vectors: Float[np.ndarray, "pairs 3"]
    neighbours: Int[np.ndarray, " pairs"]
    volumes: Float[np.ndarray, " frames"]
    energies: Float[np.ndarray, " frames"]
    forces: Float[np.ndarray, "atoms 3"]
    stress: Float[np.ndarray, "frames 3 3"]
    has_energy: Bool[np.ndarray, " frames"]
    has_forces: Bool[np.ndarray, " frames"]
    has_stress: Bool[np.ndarray, " frames"]

    def __len__(self) -> int:
        return len(self.volumes)

    @property
    def atom_counts(self) -> Int[np.ndarray, " frames"]:
        return np.diff(self.atom_start)

    @property
    def neighbour_counts(self) -> Int[np.ndarray, " atoms"]:
        return np.diff(self.pair_start)

    @property
    def frame_of_atom(self) -> Int[np.ndarray, " atoms"]:
        return np.repeat(np.arange(len(self)), self.atom_counts)

    @property
    def composition(self) -> Int[np.ndarray, "frames species"]:
        """How many atoms of each species every frame has."""
        counts = np.zeros((len(self), len(self.species)), np.int64)
        np.add.at(counts, (self.frame_of_atom, self.atom_species), 1)
        return counts

    def reference(self, per_species: Sequence[float] | np.ndarray) -> Float[np.ndarray, " frames"]:
        """The sum of per-species reference energies of each frame, eV, float64."""
        return self.composition @ np.asarray(per_species, float)


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
    atom_species, counts, vectors, neighbours = [], [], [], []
    for frame in frames:
        kinds = species_of(frame, species)
        pairs = neighbour_pairs(frame.positions, frame.cell, frame.pbc, cutoff, kinds, pair_cutoffs)
        check_distances(frame, pairs.centre, pairs.neighbour, np.linalg.norm(pairs.vectors, axis=1))
        atom_species.append(kinds)
        counts.append(np.bincount(pairs.centre, minlength=len(frame)))
        vectors.append(pairs.vectors.astype(dtype))
        neighbours.append(pairs.neighbour.astype(np.int32))

    def label(name: str, shape: tuple[int, ...]) -> np.ndarray:
        absent = np.zeros(shape)
        values = [getattr(frame, name) for frame in frames]
        return np.stack([absent if value is None else np.asarray(value) for value in values])

    forces = [np.zeros((len(f), 3)) if f.forces is None else f.forces for f in frames]
    return DataSet(
        species=tuple(species),
        atom_start=_starts([len(frame) for frame in frames]),
        pair_start=_starts(np.concatenate([*counts, np.zeros(0, int)])),
        atom_species=np.concatenate([*atom_species, np.zeros(0, np.int32)]),
        vectors=np.concatenate([*vectors, np.zeros((0, 3), dtype)]),
        neighbours=np.concatenate([*neighbours, np.zeros(0, np.int32)]),
        volumes=np.asarray([frame.volume for frame in frames], float),
        energies=label("energy", ()),
        forces=np.concatenate([*forces, np.zeros((0, 3))]).astype(dtype),
        stress=label("stress", (3, 3)),
        has_energy=np.asarray([frame.energy is not None for frame in frames], bool),
        has_forces=np.asarray([frame.forces is not None for frame in frames], bool),
        has_stress=np.asarray([f.stress is not None and f.has_volume for f in frames], bool),
    )


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))])
