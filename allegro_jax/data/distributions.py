"""What data sets hold: their composition, and histograms over edges that several of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from ase.formula import Formula
from jaxtyping import Bool, Float, Int

from allegro_jax.data.dataset import DataSet
from allegro_jax.data.frames import Frame
from allegro_jax.data.statistics import species_of_pairs

BINS = 60
# Histograms of larger sets are made from evenly spaced frames that have about so many pairs.
SAMPLED_PAIRS = 2_000_000
# Of many pairs of species, those with the most neighbours.
MOST_PAIRS = 12
MOST_FORMULAS = 12


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of samples of several data sets between the same edges.

    Attributes:
        name: of the quantity.
        unit: of the edges.
        edges: ascending, one more than the counts.
        counts: by name of the data set.
    """

    name: str
    unit: str
    edges: list[float]
    counts: dict[str, list[int]]


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a data set holds.

    Attributes:
        frames, atoms: how many.
        atoms_by_species: how many of each species that occurs.
        formulas: how many frames of each formula, the most frequent ones.
        other_formulas: how many more formulas there are.
        labels: how many frames carry ``energy``, ``forces`` and ``stress``.
        files: how many frames come from each file.
    """

    frames: int
    atoms: int
    atoms_by_species: dict[str, int]
    formulas: dict[str, int]
    other_formulas: int
    labels: dict[str, int]
    files: dict[str, int]


def contents(data: DataSet) -> Contents:
    """Of a data set."""
    return _contents(
        data.composition,
        data.species,
        {"energy": data.has_energy, "forces": data.has_forces, "stress": data.has_stress},
        [data.sources[number] for number in data.source],
    )


def contents_of_frames(frames: Sequence[Frame], species: Sequence[str]) -> Contents:
    """Of frames of given species."""
    place = {symbol: number for number, symbol in enumerate(species)}
    composition = np.zeros((len(frames), len(species)), np.int64)
    for row, frame in zip(composition, frames, strict=True):
        for symbol in frame.symbols:
            row[place[symbol]] += 1
    labels = {
        name: np.asarray([getattr(frame, name) is not None for frame in frames], bool)
        for name in ("energy", "forces")
    }
    labels["stress"] = np.asarray([f.stress is not None and f.has_volume for f in frames], bool)
    return _contents(composition, species, labels, [frame.source for frame in frames])


def sample(data: DataSet, pairs: int = SAMPLED_PAIRS) -> DataSet:
    """Evenly spaced frames of a data set that have about ``pairs`` pairs; all if there are fewer.

    The result owns its atoms and pairs (:meth:`DataSet.copy`).
    """
    total = int(data.counts.values.sum())
    frames = max(1, min(len(data), round(len(data) * pairs / max(total, 1))))
    chosen = np.unique(np.linspace(0, max(len(data) - 1, 0), frames).astype(int))
    return data.select(chosen[: len(data)]).copy()


def histograms(
    parts: Mapping[str, DataSet], reference_energies: Sequence[float]
) -> list[Histogram]:
    """Energies, forces, volumes and neighbours of several data sets of the same species.

    Args:
        parts: data sets by name, each owning its atoms and pairs (see :func:`sample`).
        reference_energies: eV of each species; energies are shown without them.
    """
    found = [
        _histogram("energy per atom", "eV", _of(parts, partial(_energies, reference_energies))),
        _histogram("size of forces", "eV/Å", _of(parts, _force_sizes)),
        _histogram("neighbours per atom", "", _of(parts, lambda data: data.neighbour_counts)),
        _histogram("volume per atom", "Å³", _of(parts, _volumes)),
    ]
    return [one for one in found if one is not None]


def distance_histograms(parts: Mapping[str, DataSet], cutoff: float) -> list[Histogram]:
    """Distances between neighbours, of each pair of species, those with the most pairs first.

    Args:
        parts: data sets by name, each owning its atoms and pairs (see :func:`sample`).
        cutoff: the last edge, Å.
    """
    edges = np.linspace(0, cutoff, BINS + 1)
    by_pair: dict[str, dict[str, np.ndarray]] = {}
    for name, data in parts.items():
        bins = np.minimum(np.linalg.norm(data.vectors, axis=1) / cutoff * BINS, BINS - 1)
        kinds = len(data.species)
        first, second = np.sort(species_of_pairs(data), axis=0)
        code = (first * kinds + second) * BINS + bins.astype(np.int64)
        table = np.bincount(code, minlength=kinds * kinds * BINS).reshape(-1, BINS)
        for place in np.flatnonzero(table.any(axis=1)):
            pair = sorted((data.species[place // kinds], data.species[place % kinds]))
            by_pair.setdefault("-".join(pair), {})[name] = table[place]
    total = {pair: sum(int(row.sum()) for row in rows.values()) for pair, rows in by_pair.items()}
    return [
        Histogram(
            pair, "Å", edges.tolist(), {name: row.tolist() for name, row in by_pair[pair].items()}
        )
        for pair in sorted(by_pair, key=lambda pair: -total[pair])[:MOST_PAIRS]
    ]


def _contents(
    composition: Int[np.ndarray, "frames species"],
    species: Sequence[str],
    labels: Mapping[str, Bool[np.ndarray, " frames"]],
    files: Sequence[str],
) -> Contents:
    rows, numbers = np.unique(composition, axis=0, return_counts=True)
    order = np.argsort(-numbers, kind="stable")
    formulas = {
        Formula.from_dict(
            {s: int(n) for s, n in zip(species, rows[place], strict=True) if n}
        ).format("hill"): int(numbers[place])
        for place in order[:MOST_FORMULAS]
    }
    by_species = composition.sum(axis=0)
    names, counts = np.unique(np.asarray(files, str), return_counts=True)
    return Contents(
        frames=len(composition),
        atoms=int(composition.sum()),
        atoms_by_species={s: int(n) for s, n in zip(species, by_species, strict=True) if n},
        formulas=formulas,
        other_formulas=max(len(rows) - MOST_FORMULAS, 0),
        labels={name: int(has.sum()) for name, has in labels.items()},
        files={str(name): int(count) for name, count in zip(names, counts, strict=True)},
    )


def _of(
    parts: Mapping[str, DataSet], values: Callable[[DataSet], np.ndarray]
) -> dict[str, np.ndarray]:
    """The values of every part that has some."""
    found = {name: np.asarray(values(data), float) for name, data in parts.items()}
    return {name: own for name, own in found.items() if own.size}


def number_of_bins(samples: int) -> int:
    """As many as samples fill: few of few, at most 60."""
    return int(np.clip(2 * np.sqrt(samples), 8, BINS))


def _histogram(name: str, unit: str, values: Mapping[str, np.ndarray]) -> Histogram | None:
    if not values:
        return None
    low = min(float(own.min()) for own in values.values())
    high = max(float(own.max()) for own in values.values())
    margin = 1e-3 * max(abs(low), abs(high), 1e-3)
    if high - low < margin:  # all alike
        low, high = low - margin, high + margin
    bins = number_of_bins(max(own.size for own in values.values()))
    if all((own == np.round(own)).all() for own in values.values()):  # whole numbers
        width = int(np.ceil((high - low + 1) / BINS))
        bins = int(np.ceil((high - low + 1) / width))
        low, high = low - 0.5, low - 0.5 + bins * width
    edges = np.linspace(low, high, bins + 1)
    counts = {part: np.histogram(own, edges)[0].tolist() for part, own in values.items()}
    return Histogram(name, unit, edges.tolist(), counts)


def _energies(per_species: Sequence[float], data: DataSet) -> Float[np.ndarray, " labelled"]:
    above = (data.energies - data.reference(per_species)) / np.maximum(data.atom_counts, 1)
    return above[data.has_energy]


def _force_sizes(data: DataSet) -> np.ndarray:
    labelled = data.forces[np.repeat(data.has_forces, data.atom_counts)]
    return np.linalg.norm(labelled, axis=1)


def _volumes(data: DataSet) -> Float[np.ndarray, " periodic"]:
    periodic = data.pbc.all(axis=1) & (data.volumes > 0)
    return data.volumes[periodic] / np.maximum(data.atom_counts[periodic], 1)
