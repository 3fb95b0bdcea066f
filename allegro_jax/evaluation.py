"""A model on many frames: predictions, and errors against labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.stress import full_3x3_to_voigt_6_stress

from allegro_jax.data.batches import assemble, prefetch
from allegro_jax.data.conventions import DEFAULT_CONVENTIONS, Conventions
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.layout import shuffled_batches
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.sources import read_frames
from allegro_jax.error_analysis import errors_by_species
from allegro_jax.model_file import Model
from allegro_jax.train.gradient import Prediction, predict
from allegro_jax.uncertainty import calibration_of
from md.committee import members_of, spread

# Slots per batch, and per block within it: large enough to keep all cores busy.
BATCH_SLOTS, BLOCK_SLOTS = 8192, 1024
# Frames whose neighbourhoods are held in memory at once.
CHUNK_PAIRS = 20_000_000


def predict_frames(
    model: Model, frames: Sequence[Frame], *, dtype: str = "float32"
) -> list[dict[str, Any]]:
    """Predictions for every frame, in padded batches (one compilation per bucket of sizes).

    Args:
        model: the model.
        frames: structures; their labels are not used.
        dtype: arithmetic of the network, ``"float32"`` or ``"float64"``.

    Returns:
        For each frame ``energy`` (eV, with reference energies), ``forces`` [N, 3] (eV/Å),
        ``energies`` [N] (eV), and where the frame is periodic in all directions ``stress`` [3, 3]
        (eV/Å³, ASE sign). Of a committee these are means over its members, and ``energy_std`` (eV)
        and ``forces_std`` [N] (eV/Å) say how far those are apart (:mod:`md.committee`).

    Raises:
        DataError: a species that the model does not know, overlapping atoms.
    """
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: {dtype!r} is neither float32 nor float64")
    potential = model.potential
    results: list[dict[str, Any]] = []
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), potential.params)
        run = jax.jit(lambda params, batch: _of_members(potential, params, batch))
        for chunk in _chunks(frames, potential.cutoff):
            results += _predict_chunk(model, chunk, params, run, np.dtype(dtype))
    return results


def evaluate(
    model: Model,
    paths: str | Path | Sequence[str | Path],
    *,
    dtype: str = "float32",
    conventions: Conventions = DEFAULT_CONVENTIONS,
    output: str | Path | None = None,
) -> dict[str, Any]:
    """Errors of a model on labelled files.

    Args:
        model: the model.
        paths: files, folders and patterns; labels may be absent.
        dtype: arithmetic of the network.
        conventions: names, units and signs of the labels.
        output: an extended XYZ file to write the predictions to (energy, forces, stress and
            per-atom ``energies`` in ASE's conventions; of a committee also ``energy_std`` and
            ``forces_std``).

    Returns:
        ``energy_mae``, ``energy_rmse`` (eV per frame), ``energy_per_atom_mae``,
        ``energy_per_atom_rmse`` (eV/atom), ``forces_mae``, ``forces_rmse`` (eV/Å, over Cartesian
        components), ``stress_mae``, ``stress_rmse`` (eV/Å³, over the six independent components),
        each only where a frame carries the label; ``frames``, ``atoms``, and ``energy_count``,
        ``forces_count``, ``stress_count`` (how many frames carry it); ``by_species``, see
        :func:`allegro_jax.error_analysis.errors_by_species`; of a committee ``uncertainty``, see
        :func:`allegro_jax.uncertainty.calibration_of`; and the same for every file under ``files``.

    Raises:
        DataError: a file or frame that cannot be used.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    frames = read_frames(paths, conventions, species=model.species, require_labels=False)
    predictions = predict_frames(model, frames, dtype=dtype)
    if output is not None:
        write_predictions(output, frames, predictions)
    return report_errors(frames, predictions)


def report_errors(
    frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The report of :func:`evaluate`, from frames and their predictions."""
    report = errors_of(frames, predictions)
    report["files"] = {}
    members: dict[str, list[int]] = {}
    for place, frame in enumerate(frames):
        members.setdefault(frame.source, []).append(place)
    for source, places in members.items():
        report["files"][source] = errors_of(
            [frames[place] for place in places], [predictions[place] for place in places]
        )
    return report


def errors_of(frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean errors over all frames that carry a label, as :func:`evaluate` describes them."""
    differences: dict[str, list[np.ndarray]] = {
        name: [] for name in ("energy", "energy_per_atom", "forces", "stress")
    }
    for frame, predicted in zip(frames, predictions, strict=True):
        if frame.energy is not None:
            error = np.asarray([predicted["energy"] - frame.energy])
            differences["energy"].append(error)
            differences["energy_per_atom"].append(error / max(len(frame), 1))
        if frame.forces is not None:
            differences["forces"].append(np.ravel(predicted["forces"] - frame.forces))
        if frame.stress is not None and "stress" in predicted:
            error = predicted["stress"] - frame.stress
            differences["stress"].append(full_3x3_to_voigt_6_stress(error))
    report: dict[str, Any] = {"frames": len(frames), "atoms": sum(len(frame) for frame in frames)}
    for name, pieces in differences.items():
        if name != "energy_per_atom":
            report[f"{name}_count"] = len(pieces)
        error = np.concatenate([*pieces, np.zeros(0)])
        if error.size:
            report[f"{name}_mae"] = float(np.abs(error).mean())
            report[f"{name}_rmse"] = float(np.sqrt(np.mean(error**2)))
    report["by_species"] = errors_by_species(frames, predictions)
    if calibration := calibration_of(frames, predictions):
        report["uncertainty"] = calibration
    return report


def write_errors(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write errors as JSON."""
    Path(path).write_text(json.dumps(report, indent=2) + "\n")


def write_predictions(
    path: str | Path, frames: Sequence[Frame], predictions: Sequence[Mapping[str, Any]]
) -> None:
    """Write structures with predicted energy, forces, stress, per-atom energies, and how far the
    members of a committee are apart."""
    images: list[Atoms] = []
    for frame, predicted in zip(frames, predictions, strict=True):
        atoms = frame.to_atoms()
        results = {name: predicted[name] for name in ("energy", "forces", "energies")}
        if "stress" in predicted:
            results["stress"] = full_3x3_to_voigt_6_stress(predicted["stress"])
        atoms.calc = SinglePointCalculator(atoms, **results)
        if "energy_std" in predicted:  # not ASE's to know: beside its results
            atoms.info["energy_std"] = predicted["energy_std"]
            atoms.set_array("forces_std", predicted["forces_std"])
        images.append(atoms)
    write(path, images, format="extxyz")


def _chunks(frames: Sequence[Frame], cutoff: float) -> list[list[Frame]]:
    """Frames in pieces whose pairs fit in memory; a dense solid has about 0.1 atoms per Å³."""
    per_atom = max(1.0, 0.1 * 4.2 * cutoff**3)
    chunks: list[list[Frame]] = [[]]
    pairs = 0.0
    for frame in frames:
        if chunks[-1] and pairs + len(frame) * per_atom > CHUNK_PAIRS:
            chunks.append([])
            pairs = 0.0
        chunks[-1].append(frame)
        pairs += len(frame) * per_atom
    return [chunk for chunk in chunks if chunk]


def _of_members(potential: Any, params: Any, batch: Any) -> Prediction:
    """What each member says, one after another: arrays have a leading axis, of one without a
    committee."""
    if members_of(potential) == 1:
        return jax.tree.map(lambda value: value[None], predict(potential, params, batch))
    return jax.lax.map(lambda own: predict(potential.member, own, batch), params)


def _predict_chunk(
    model: Model,
    frames: Sequence[Frame],
    params: Any,
    run: Callable[[Any, Any], Any],
    dtype: np.dtype,
) -> list[dict[str, Any]]:
    potential = model.potential
    data = build_dataset(
        frames, potential.species, potential.cutoff, potential.pair_cutoffs, dtype=dtype
    )
    counts = data.counts
    mean_slots = max(1.0, data.neighbour_counts.sum() / len(data))
    batch_size = int(np.clip(BATCH_SLOTS / mean_slots, 1, 64))
    # every group of rows costs compile time, which only a larger job repays
    groups = 4 if data.neighbour_counts.sum() > 4_000_000 else 2
    buckets = plan_buckets(counts, batch_size, groups=groups, block_slots=BLOCK_SLOTS)
    per_species = np.asarray(potential.reference_energies, float)
    no_reference = np.zeros(len(data))

    def make(item: tuple[int, np.ndarray]) -> Any:
        place, members = item
        return assemble(data, members, buckets[place].layout, no_reference)

    results: list[dict[str, Any]] = [{} for _ in frames]
    for assembled in prefetch(make, shuffled_batches(buckets, 0, 0, shuffle=False)):
        found = jax.device_get(run(params, assembled.batch))
        sites = found.site_energies[:, assembled.rows].astype(float)
        forces = found.forces[:, assembled.rows].astype(float)
        ends = np.cumsum(data.atom_counts[assembled.frames])
        for place, (frame, end) in enumerate(zip(assembled.frames, ends, strict=True)):
            own = slice(end - data.atom_counts[frame], end)
            energies = sites[:, own].mean(axis=0)
            energies += per_species[data.atom_species[assembled.atoms[own]]]
            results[frame] = {
                "energy": float(energies.sum()),
                "forces": forces[:, own].mean(axis=0),
                "energies": energies,
            }
            if frames[frame].has_volume:
                virial = found.virials[:, place].astype(float).mean(axis=0)
                results[frame]["stress"] = virial / data.volumes[frame]
            if len(sites) > 1:
                apart = spread(sites[:, own], forces[:, own])
                results[frame] |= {"energy_std": float(apart.energy), "forces_std": apart.forces}
    return results


__all__ = [
    "DataError",
    "errors_of",
    "evaluate",
    "predict_frames",
    "report_errors",
    "write_errors",
    "write_predictions",
]
