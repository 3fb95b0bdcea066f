"""From a training configuration to data sets and a model configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from allegro_jax.config import AllegroConfig
from allegro_jax.data.checks import Problem, summarise_skipped
from allegro_jax.data.checksum import checksum
from allegro_jax.data.comparison import compare, summarise_suspicions
from allegro_jax.data.config import DataConfig
from allegro_jax.data.dataset import DataSet, build_dataset
from allegro_jax.data.frames import DataError, Frame, isolated_atom_energies
from allegro_jax.data.sources import read_frames
from allegro_jax.data.statistics import (
    Statistics,
    find_species,
    fit_reference_energies,
    reference_energies_from,
    statistics,
)
from allegro_jax.settings import ConfigError
from allegro_jax.train.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What training starts from.

    Attributes:
        model: the complete model configuration.
        train, valid: data sets.
        valid_frames: the frames of ``valid``.
        statistics: of the training frames.
        force_scale: σ of the loss, eV/Å.
        skipped: why frames were left out, where the user asked for that.
        provenance: where the data came from: files with checksums, numbers of frames.
    """

    model: AllegroConfig
    train: DataSet
    valid: DataSet
    valid_frames: list[Frame]
    statistics: Statistics
    force_scale: float
    skipped: list[Problem]
    provenance: dict[str, Any]

    def reference(self, data: DataSet) -> Float[np.ndarray, " frames"]:
        """Reference energy of every frame of a data set, eV."""
        return data.reference(self.model.per_species("species_shifts"))


def prepare(config: TrainingConfig, say: Callable[[str], object] = print) -> Preparation:
    """Read and check the data, and complete the model configuration from it.

    Raises:
        DataError: a file or frame that cannot be used.
        ConfigError: a model that does not go with the data.
    """
    known = config.model.get("species")
    skipped: list[Problem] = []
    train, valid = _read(config, known, skipped)
    if skipped:
        say(summarise_skipped(skipped, "training and validation"))
    for line in summarise_suspicions(compare([*train, *valid])):
        say(line)
    isolated = isolated_atom_energies(train)
    alone = sum(frame.is_isolated_atom for frame in train)
    train = [frame for frame in train if not frame.is_isolated_atom]
    valid = [frame for frame in valid if not frame.is_isolated_atom]
    if not train:
        raise DataError(f"{config.data.train[0]}: no frames to train on beside isolated atoms")
    if alone:
        say(f"{alone} isolated atoms among the training frames are left out of the fit.")
    if not valid:
        raise DataError("data.valid: no frames to validate on beside isolated atoms")

    species = tuple(known) if known else find_species([*train, *valid])
    trial = _model_config({**config.model, "species": species})
    dtype = np.dtype(config.training.precision)
    data = [
        build_dataset(frames, species, trial.cutoff, trial.pair_cutoffs, dtype=dtype)
        for frames in (train, valid)
    ]
    found = statistics(data[0])
    if not len(data[0].vectors):
        raise ConfigError(
            f"model.cutoff: no two atoms of the training frames are within {trial.cutoff} Å"
        )

    fields: dict[str, Any] = {**config.model, "species": species}
    fields.setdefault("average_neighbours", found.average_neighbours)
    if "species_shifts" not in fields:
        fields["species_shifts"] = [
            float(energy) for energy in _reference_energies(config.data, data[0], isolated)
        ]
    model = _model_config(fields)
    residual = data[0].energies - data[0].reference(model.per_species("species_shifts"))
    scale = found.force_rms or _energy_scale(data[0], residual)
    if "species_scales" not in fields:
        model = dataclasses.replace(model, species_scales=scale)
    return Preparation(
        model=model,
        train=data[0],
        valid=data[1],
        valid_frames=valid,
        statistics=found,
        force_scale=scale,
        skipped=skipped,
        provenance={
            "files": {str(path): checksum(path) for path in _files(config.data)},
            "train_frames": len(train),
            "valid_frames": len(valid),
        },
    )


def _read(
    config: TrainingConfig, species: Sequence[str] | None, skipped: list[Problem]
) -> tuple[list[Frame], list[Frame]]:
    valid = config.data.valid

    def read(paths: Sequence[Path]) -> list[Frame]:
        report = config.data.report(skipped)
        return read_frames(paths, config.data.conventions, species=species, report=report)

    frames = read(config.data.train)
    if not isinstance(valid, float):
        return frames, read(valid)
    fit = np.asarray([place for place, frame in enumerate(frames) if not frame.is_isolated_atom])
    number = int(valid) if valid >= 1 else max(1, round(valid * len(fit)))
    if number >= len(fit):
        raise ConfigError(
            f"data.valid: {number} frames for validation leave none of {len(fit)} to train on"
        )
    chosen = set(np.random.default_rng(config.seed).permutation(fit)[:number].tolist())
    return (
        [frame for place, frame in enumerate(frames) if place not in chosen],
        [frame for place, frame in enumerate(frames) if place in chosen],
    )


def _reference_energies(
    config: DataConfig, train: DataSet, isolated: Mapping[str, float]
) -> Float[np.ndarray, " species"]:
    origin = "data.train"
    if config.isolated_atoms is not None:
        origin = "data.isolated_atoms"
        if isinstance(config.isolated_atoms, Mapping):
            isolated = config.isolated_atoms
        else:
            isolated = isolated_atom_energies(
                read_frames(config.isolated_atoms, config.conventions)
            )
    wanted = config.reference_energies
    if wanted == "auto":
        complete = set(train.species) <= set(isolated)
        given = config.isolated_atoms is not None
        wanted = "isolated_atoms" if complete or given else "least_squares"
    if wanted == "isolated_atoms":
        return reference_energies_from(isolated, train.species, origin)
    return fit_reference_energies(train)


def _energy_scale(data: DataSet, residual: np.ndarray) -> float:
    """Without forces: the spread of energies per atom sets the scale; never zero."""
    per_atom = residual[data.has_energy] / np.maximum(data.atom_counts[data.has_energy], 1)
    return max(float(per_atom.std()), 1e-2) if len(per_atom) else 1.0


def _model_config(fields: Mapping[str, Any]) -> AllegroConfig:
    try:
        return AllegroConfig.from_dict(fields)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def _files(config: DataConfig) -> list[Path]:
    files = [*config.train]
    if not isinstance(config.valid, float):
        files += config.valid
    if isinstance(config.isolated_atoms, Path):
        files.append(config.isolated_atoms)
    return files
