"""What a data set says about the model that should fit it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from allegro_jax.data.dataset import DataSet
from allegro_jax.data.frames import DataError, Frame


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a data set.

    Attributes:
        average_neighbours: neighbours per atom within the cutoff, over all atoms; at least 1.
        average_neighbours_by_species: the same per centre species.
        force_rms: eV/Å, over Cartesian components; ``None`` without forces.
        shortest_distances: Å, by species pair (``"C-H"``, symbols in alphabetical order).
        ranges: smallest and largest value of each property, by name with its unit.
        atoms_by_species: how many atoms of each.
    """

    average_neighbours: float
    average_neighbours_by_species: dict[str, float]
    force_rms: float | None
    shortest_distances: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    atoms_by_species: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def find_species(frames: Iterable[Frame]) -> tuple[str, ...]:
    """The chemical symbols that occur, by atomic number."""
    numbers = sorted({int(number) for frame in frames for number in frame.numbers})
    from ase.data import chemical_symbols

    return tuple(chemical_symbols[number] for number in numbers)


def statistics(data: DataSet) -> Statistics:
    """Statistics of a data set with its neighbourhoods, looked at in blocks."""
    species = data.species
    atoms, pairs = np.zeros(len(species), np.int64), np.zeros(len(species), np.int64)
    components, squares = 0, 0.0
    shortest: dict[str, float] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for block in data.blocks():
        kinds = block.atom_species
        atoms += np.bincount(kinds, minlength=len(species))
        pairs += np.bincount(kinds, block.neighbour_counts, len(species)).astype(np.int64)
        forces = block.forces[np.repeat(block.has_forces, block.atom_counts)].astype(float)
        components += forces.size
        squares += float(np.sum(forces**2))
        for pair, distance in _shortest_distances(block).items():
            shortest[pair] = min(distance, shortest.get(pair, np.inf))
        for name, (low, high) in _ranges(block, forces).items():
            before = ranges.get(name, (low, high))
            ranges[name] = (min(low, before[0]), max(high, before[1]))
    return Statistics(
        average_neighbours=max(1.0, float(pairs.sum() / atoms.sum())) if atoms.sum() else 1.0,
        average_neighbours_by_species={
            symbol: max(1.0, float(pairs[kind] / atoms[kind]))
            for kind, symbol in enumerate(species)
            if atoms[kind]
        },
        force_rms=float(np.sqrt(squares / components)) if components else None,
        shortest_distances=dict(sorted(shortest.items())),
        ranges=ranges,
        atoms_by_species={symbol: int(atoms[kind]) for kind, symbol in enumerate(species)},
    )


def fit_reference_energies(data: DataSet) -> Float[np.ndarray, " species"]:
    """Per-species energies (eV) that explain the frame energies best, by least squares.

    Minimises Σ_f ((E_f − Σ_t n_ft s_t)/n_f)². Where compositions do not determine all of them (one
    molecule, one stoichiometry) the solution of smallest norm is taken.
    """
    kinds = len(data.species)
    # [fractions | energies per atom], reduced block by block to the triangle of its QR factors
    table = np.zeros((0, kinds + 1))
    for block in data.blocks():
        used = block.has_energy & (block.atom_counts > 0)
        rows = np.column_stack([block.composition, block.energies])[used]
        rows = rows / block.atom_counts[used, None]
        table = np.linalg.qr(np.concatenate([table, rows]), mode="r")
    # singular values below 1e-4 of the largest are noise amplified, not information
    return np.linalg.lstsq(table[:, :kinds], table[:, kinds], rcond=1e-4)[0]


def reference_energies_from(
    energies: Mapping[str, float], species: Sequence[str], origin: str
) -> Float[np.ndarray, " species"]:
    """Given isolated-atom energies (eV) in the order of ``species``.

    Raises:
        DataError: one is missing.
    """
    missing = [symbol for symbol in species if symbol not in energies]
    if missing:
        raise DataError(
            f"{origin}: no energy of an isolated {missing[0]} atom; add a frame or a value for "
            "it, or set data.reference_energies: least_squares"
        )
    return np.asarray([energies[symbol] for symbol in species], float)


def species_of_pairs(data: DataSet) -> Int[np.ndarray, "2 pairs"]:
    """Of each pair's centre and neighbour, in an unshared data set (:meth:`DataSet.copy`)."""
    first_atom = np.repeat(np.repeat(data.atom_start, data.atom_counts), data.neighbour_counts)
    centre = np.repeat(data.atom_species, data.neighbour_counts)
    return np.asarray([centre, data.atom_species[first_atom + data.neighbours]], np.int64)


def _shortest_distances(data: DataSet) -> dict[str, float]:
    """Of an unshared data set (:meth:`DataSet.copy`)."""
    distances = np.linalg.norm(data.vectors.astype(float), axis=1)
    kinds = np.sort(species_of_pairs(data), axis=0)
    total = len(data.species)
    shortest = np.full(total * total, np.inf)
    np.minimum.at(shortest, kinds[0] * total + kinds[1], distances)
    found = {}
    for place in np.flatnonzero(np.isfinite(shortest)):
        pair = sorted((data.species[place // total], data.species[place % total]))
        found["-".join(pair)] = float(shortest[place])
    return found


def _ranges(data: DataSet, forces: np.ndarray) -> dict[str, tuple[float, float]]:
    per_atom = data.energies[data.has_energy] / np.maximum(data.atom_counts[data.has_energy], 1)
    solid = data.volumes[data.volumes > 0] / np.maximum(data.atom_counts[data.volumes > 0], 1)
    values = {
        "atoms": data.atom_counts.astype(float),
        "energy_per_atom_eV": per_atom,
        "force_eV_per_A": np.linalg.norm(forces.reshape(-1, 3), axis=1),
        "stress_eV_per_A3": data.stress[data.has_stress].ravel(),
        "volume_per_atom_A3": solid,
        "neighbours": data.neighbour_counts.astype(float),
    }
    return {
        name: (float(value.min()), float(value.max()))
        for name, value in values.items()
        if value.size
    }
