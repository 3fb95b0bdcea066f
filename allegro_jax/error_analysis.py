"""Where the errors of a model are: by species, in which frames, and on which labels.

All functions take frames with labels and the predictions of each, as
:func:`allegro_jax.evaluation.predict_frames` gives them, and return plain JSON data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress
from jaxtyping import Float

from allegro_jax.data.distributions import number_of_bins
from allegro_jax.data.frames import Frame

WORST_FRAMES = 10
# Points of a parity plot: of energies, of stress components, and of forces of each species.
MOST_POINTS = 2000

Predictions = Sequence[Mapping[str, Any]]


def errors_by_species(frames: Sequence[Frame], predictions: Predictions) -> dict[str, Any]:
    """Errors of the forces on the atoms of each species, over Cartesian components.

    Returns:
        By chemical symbol ``atoms``, ``forces_mae``, ``forces_rmse``, ``label_rms`` (of the labels
        themselves) and ``largest`` (|ΔF| of the worst atom), all in eV/Å.
    """
    found = {}
    for symbol, (labels, predicted) in _forces_by_species(frames, predictions).items():
        error = predicted - labels
        found[symbol] = {
            "atoms": len(labels),
            "forces_mae": float(np.abs(error).mean()),
            "forces_rmse": float(np.sqrt(np.mean(error**2))),
            "label_rms": float(np.sqrt(np.mean(labels**2))),
            "largest": float(np.linalg.norm(error, axis=1).max()),
        }
    return found


@dataclasses.dataclass(frozen=True)
class FrameError:
    """How wrong a model is about a frame.

    Attributes:
        file, frame: where it is from; frames are counted from 0.
        formula: of the frame. atoms: how many.
        energy_per_atom: error with its sign, eV/atom; ``None`` without a label.
        forces_rmse: eV/Å, over components; ``None`` without labels.
        worst_atom, worst_species, worst_force: the atom with the largest |ΔF|, counted from 0, its
            species, and that error in eV/Å.
    """

    file: str
    frame: int
    formula: str
    atoms: int
    energy_per_atom: float | None
    forces_rmse: float | None
    worst_atom: int | None = None
    worst_species: str | None = None
    worst_force: float | None = None


def worst_frames(
    frames: Sequence[Frame], predictions: Predictions, number: int = WORST_FRAMES
) -> dict[str, list[FrameError]]:
    """The frames with the largest errors, by ``forces`` and by ``energy``, worst first."""
    each = [_frame_error(*pair) for pair in zip(frames, predictions, strict=True)]
    by_forces = [one for one in each if one.forces_rmse is not None]
    by_energy = [one for one in each if one.energy_per_atom is not None]
    return {
        "forces": sorted(by_forces, key=lambda one: -(one.forces_rmse or 0.0))[:number],
        "energy": sorted(by_energy, key=lambda one: -abs(one.energy_per_atom or 0.0))[:number],
    }


def parity_points(
    frames: Sequence[Frame],
    predictions: Predictions,
    reference_energies: Mapping[str, float],
    most: int = MOST_POINTS,
) -> dict[str, Any]:
    """Labels and predictions for parity plots, evenly thinned where there are many.

    Returns:
        Pairs of lists [labels, predictions]: ``energy`` (eV/atom, less the reference energies),
        ``forces`` (eV/Å, components, by chemical symbol), ``stress`` (eV/Å³, six components); each
        only where there are labels.
    """
    points: dict[str, Any] = {}
    energies = []
    for frame, predicted in zip(frames, predictions, strict=True):
        if frame.energy is not None:
            reference = sum(reference_energies[symbol] for symbol in frame.symbols)
            both = np.asarray([frame.energy, predicted["energy"]]) - reference
            energies.append(both / max(len(frame), 1))
    if energies:
        points["energy"] = _thinned(np.stack(energies, axis=1), most)
    forces = _forces_by_species(frames, predictions)
    if forces:
        points["forces"] = {
            symbol: _thinned(np.stack([own.ravel() for own in pair]), most)
            for symbol, pair in forces.items()
        }
    stress = [
        np.stack([full_3x3_to_voigt_6_stress(one) for one in (frame.stress, predicted["stress"])])
        for frame, predicted in zip(frames, predictions, strict=True)
        if frame.stress is not None and "stress" in predicted
    ]
    if stress:
        points["stress"] = _thinned(np.concatenate(stress, axis=1), most)
    return points


def error_histograms(frames: Sequence[Frame], predictions: Predictions) -> dict[str, Any]:
    """Histograms of errors.

    Returns:
        ``energy_per_atom`` (signed, eV/atom) and ``forces`` (|ΔF| of atoms, eV/Å, between
        logarithmic edges), each ``{"edges": [...], "counts": {name: [...]}}``; the forces by
        chemical symbol, the energies under ``all``.
    """
    found: dict[str, Any] = {}
    energies = [
        (predicted["energy"] - frame.energy) / max(len(frame), 1)
        for frame, predicted in zip(frames, predictions, strict=True)
        if frame.energy is not None
    ]
    if energies:
        reach = max(float(np.abs(energies).max()), 1e-9)
        edges = np.linspace(-reach, reach, number_of_bins(len(energies)) + 1)
        found["energy_per_atom"] = _histogram(edges, {"all": np.asarray(energies)})
    sizes = {
        symbol: np.linalg.norm(predicted - labels, axis=1)
        for symbol, (labels, predicted) in _forces_by_species(frames, predictions).items()
    }
    if sizes:
        every = np.concatenate(list(sizes.values()))
        highest = max(float(every.max()), 1e-9)
        # the smallest errors are of no interest, and may be 0
        lowest = max(float(np.quantile(every, 0.01)), 1e-4 * highest) / 2
        edges = np.geomspace(lowest, 1.0001 * highest, number_of_bins(len(every)) + 1)
        found["forces"] = _histogram(
            edges, {symbol: np.maximum(own, lowest) for symbol, own in sizes.items()}
        )
    return found


def _histogram(
    edges: Float[np.ndarray, " edges"], values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    counts = {name: np.histogram(own, edges)[0].tolist() for name, own in values.items()}
    return {"edges": edges.tolist(), "counts": counts}


def _forces_by_species(
    frames: Sequence[Frame], predictions: Predictions
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions [atoms, 3] of every species, those with the most atoms first."""
    labelled = [
        (np.asarray(frame.symbols), frame.forces, predicted["forces"])
        for frame, predicted in zip(frames, predictions, strict=True)
        if frame.forces is not None and len(frame)
    ]
    if not labelled:
        return {}
    symbols, labels, predicted = (np.concatenate(part) for part in zip(*labelled, strict=True))
    names, numbers = np.unique(symbols, return_counts=True)
    return {
        str(name): (labels[symbols == name], predicted[symbols == name])
        for name in names[np.argsort(-numbers, kind="stable")]
    }


def _frame_error(frame: Frame, predicted: Mapping[str, Any]) -> FrameError:
    energy, rmse, worst = None, None, {}
    if frame.energy is not None:
        energy = float(predicted["energy"] - frame.energy) / max(len(frame), 1)
    if frame.forces is not None and len(frame):
        error = predicted["forces"] - frame.forces
        rmse = float(np.sqrt(np.mean(error**2)))
        sizes = np.linalg.norm(error, axis=1)
        atom = int(sizes.argmax())
        worst = {
            "worst_atom": atom,
            "worst_species": frame.symbols[atom],
            "worst_force": float(sizes[atom]),
        }
    formula = frame.to_atoms().get_chemical_formula()
    return FrameError(frame.source, frame.index, formula, len(frame), energy, rmse, **worst)


def _thinned(points: Float[np.ndarray, "2 n"], most: int) -> list[list[float]]:
    """At most ``most`` of the points, in six digits."""
    total = points.shape[1]
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).astype(int))
    return [[float(f"{value:.6g}") for value in row] for row in points[:, chosen]]
