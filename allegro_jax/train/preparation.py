"""From a training configuration to data sets and a model configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from allegro_jax.config import AllegroConfig
from allegro_jax.data.checks import Problem, summarise_skipped
from allegro_jax.data.checksum import checksum
from allegro_jax.data.comparison import summarise_suspicions
from allegro_jax.data.config import DataConfig
from allegro_jax.data.dataset import ELEMENTS, DataSet, by_number
from allegro_jax.data.frames import DataError, isolated_atom_energies
from allegro_jax.data.loading import Loaded, load, occurring_species, validation_files
from allegro_jax.data.sources import read_frames
from allegro_jax.data.statistics import (
    Statistics,
    fit_reference_energies,
    reference_energies_from,
    statistics,
)
from allegro_jax.data.store import Recipe
from allegro_jax.settings import ConfigError
from allegro_jax.train import fine_tuning
from allegro_jax.train.config import FitConfig, TrainingConfig

# In a batch, where its size is not given. Smaller batches learn more per epoch (docs/training.md),
# and fewer atoms than this do not occupy a processor.
BATCH_ATOMS = 32


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What training starts from.

    Attributes:
        model: the complete model configuration.
        train, valid: data sets.
        statistics: of the training frames.
        force_scale: σ of the loss, eV/Å.
        skipped: why frames were left out, where the user asked for that.
        provenance: where the data came from: files with checksums, numbers of frames.
        params: the weights to start from; ``None`` draws them.
    """

    model: AllegroConfig
    train: DataSet
    valid: DataSet
    statistics: Statistics
    force_scale: float
    skipped: list[Problem]
    provenance: dict[str, Any]
    params: Any = None

    def reference(self, data: DataSet) -> Float[np.ndarray, " frames"]:
        """Reference energy of every frame of a data set, eV."""
        return data.reference(self.model.per_species("species_shifts"))

    def batch_size(self, fit: FitConfig) -> int:
        """Frames per batch: what ``fit`` says, or as many as hold about 32 atoms."""
        atoms = max(int(self.train.atom_counts.sum()), 1)
        return fit.batch_size or max(1, round(BATCH_ATOMS * len(self.train) / atoms))


def prepare(config: TrainingConfig, say: Callable[[str], object] = print) -> Preparation:
    """Read and check the data, and complete the model configuration from it.

    Raises:
        DataError: a file or frame that cannot be used.
        ConfigError: a model that does not go with the data.
    """
    checksums = {str(path): checksum(path) for path in _files(config)}
    origin = None if config.fine_tune is None else fine_tuning.read_model(config)
    recipe = _recipe(config) if origin is None else fine_tuning.recipe(config, origin)
    loaded = load(config.data, recipe, checksums)
    for line in (loaded.message, *summarise_suspicions(loaded.suspicions)):
        if line:
            say(line)
    if loaded.skipped:
        say(summarise_skipped(loaded.skipped, "training and validation"))
    train, valid = _split(config, loaded)
    alone = loaded.train.is_isolated_atom
    if alone.any():
        say(f"{alone.sum()} isolated atoms among the training frames are left out of the fit.")
    isolated = isolated_atom_energies(map(loaded.train.frame, np.flatnonzero(alone).tolist()))

    params, fields = None, dict(config.model)
    if origin is not None:
        train = fine_tuning.with_replay(config, train, recipe, checksums, say)
        occurring = by_number({*train.occurring, *valid.occurring})
        energies = _isolated(config.data, isolated)
        start = fine_tuning.start(config, origin, occurring, train, energies)
        params, fields = start.params, start.config.to_dict()
    known = fields.get("species")
    species = tuple(known) if known else by_number({*train.occurring, *valid.occurring})
    fields["species"] = species
    train, valid = train.of_species(species), valid.of_species(species)
    found = statistics(train)
    if not found.ranges["neighbours"][1]:
        raise ConfigError(
            f"model.cutoff: no two atoms of the training frames are within {fields['cutoff']} Å"
        )

    fields.setdefault("average_neighbours", found.average_neighbours)
    if "species_shifts" not in fields:
        fields["species_shifts"] = [
            float(energy) for energy in _reference_energies(config.data, train, isolated)
        ]
    model = _model_config(fields)
    residual = train.energies - train.reference(model.per_species("species_shifts"))
    scale = found.force_rms or _energy_scale(train, residual)
    if "species_scales" not in fields:
        model = dataclasses.replace(model, species_scales=scale)
    if origin is not None:
        found = fine_tuning.with_distances(found, origin)
    return Preparation(
        model=model,
        train=train,
        valid=valid,
        statistics=found,
        force_scale=scale,
        skipped=loaded.skipped,
        provenance={
            "files": checksums,
            "train_frames": len(train),
            "valid_frames": len(valid),
        },
        params=params,
    )


def _recipe(config: TrainingConfig) -> Recipe:
    """What neighbourhoods are found for. Without pair cutoffs they know no species of the model."""
    known = config.model.get("species")
    if not known and config.model.get("pair_cutoffs") is not None:
        known = occurring_species(config.data)
    trial = _model_config({**config.model, "species": known or ("H",)})
    return Recipe(
        species=tuple(known or ELEMENTS),
        cutoff=trial.cutoff,
        pair_cutoffs=trial.pair_cutoffs,
        dtype=config.training.precision,
    )


def _split(config: TrainingConfig, loaded: Loaded) -> tuple[DataSet, DataSet]:
    """Frames to train on and to validate on, without isolated atoms."""
    fit = np.flatnonzero(~loaded.train.is_isolated_atom)
    if not len(fit):
        raise DataError(f"{config.data.train[0]}: no frames to train on beside isolated atoms")
    wanted = config.data.valid
    if not isinstance(wanted, float):
        valid = loaded.valid.select(np.flatnonzero(~loaded.valid.is_isolated_atom))
        if not len(valid):
            raise DataError("data.valid: no frames to validate on beside isolated atoms")
        return loaded.train.select(fit), valid
    number = int(wanted) if wanted >= 1 else max(1, round(wanted * len(fit)))
    if number >= len(fit):
        raise ConfigError(
            f"data.valid: {number} frames for validation leave none of {len(fit)} to train on"
        )
    chosen = np.sort(np.random.default_rng(config.seed).permutation(fit)[:number])
    return loaded.train.select(np.setdiff1d(fit, chosen)), loaded.train.select(chosen)


def _reference_energies(
    config: DataConfig, train: DataSet, isolated: Mapping[str, float]
) -> Float[np.ndarray, " species"]:
    origin = "data.train" if config.isolated_atoms is None else "data.isolated_atoms"
    isolated = _isolated(config, isolated)
    wanted = config.reference_energies
    if wanted == "auto":
        complete = set(train.species) <= set(isolated)
        given = config.isolated_atoms is not None
        wanted = "isolated_atoms" if complete or given else "least_squares"
    if wanted == "isolated_atoms":
        return reference_energies_from(isolated, train.species, origin)
    return fit_reference_energies(train)


def _isolated(config: DataConfig, among_frames: Mapping[str, float]) -> Mapping[str, float]:
    """Energies of isolated atoms, eV: given ones, or those found among the training frames."""
    if config.isolated_atoms is None:
        return among_frames
    if isinstance(config.isolated_atoms, Mapping):
        return config.isolated_atoms
    return isolated_atom_energies(read_frames(config.isolated_atoms, config.conventions))


def _energy_scale(data: DataSet, residual: np.ndarray) -> float:
    """Without forces: the spread of energies per atom sets the scale; never zero."""
    per_atom = residual[data.has_energy] / np.maximum(data.atom_counts[data.has_energy], 1)
    return max(float(per_atom.std()), 1e-2) if len(per_atom) else 1.0


def _model_config(fields: Mapping[str, Any]) -> AllegroConfig:
    try:
        return AllegroConfig.from_dict(fields)
    except ValueError as error:
        raise ConfigError(f"model: {error}") from None


def _files(config: TrainingConfig) -> list[Path]:
    data, tune = config.data, config.fine_tune
    files = [*data.train, *validation_files(data)]
    if isinstance(data.isolated_atoms, Path):
        files.append(data.isolated_atoms)
    if tune is not None and tune.model is not None:
        files += [tune.model, *tune.replay]
    return files
