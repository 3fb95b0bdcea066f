"""What is kept of a run for its report: ``report.json``, plain data of about a megabyte at most.

With it and ``metrics.csv`` the report can be written again without data, model or device.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from allegro_jax import error_analysis
from allegro_jax.config import AllegroConfig
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.distributions import (
    contents,
    contents_of_frames,
    distance_histograms,
    histograms,
    sample,
)
from allegro_jax.data.frames import Frame
from allegro_jax.evaluation import report_errors
from allegro_jax.model import count_parameters
from allegro_jax.model_file import Model, library_versions
from allegro_jax.settings import names, plain
from allegro_jax.train.config import TrainingConfig
from allegro_jax.train.preparation import Preparation

FILE = "report.json"
VERSION = 1
# Test frames whose neighbourhoods are looked at; errors are those of all.
MOST_TEST_FRAMES = 2000
# Files with errors of their own, the worst of them.
MOST_FILES = 40

LIBRARIES = ("optax", "flax", "matscipy", "ase", "orbax-checkpoint", "safetensors", "matplotlib")


History = Sequence[Mapping[str, Any]]
"""A row of metrics for every epoch."""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """Frames, and what the finished model says of them."""

    frames: Sequence[Frame]
    predictions: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a report is made of, beside the epochs in ``metrics.csv``. Energies in eV, lengths in Å.

    Attributes:
        version: of this format.
        outcome: why the run ended.
        model: ``file``, ``weights`` (of a member), ``members``, ``best_epoch``.
        contents: of the data sets ``training``, ``validation`` and ``test``, as
            :class:`~allegro_jax.data.distributions.Contents` describes them.
        histograms, distances: :class:`~allegro_jax.data.distributions.Histogram` of these sets.
        sampled: how many frames of each the histograms are made of.
        errors: of ``validation`` and ``test``, by :func:`~allegro_jax.evaluation.report_errors`.
        worst, points, error_histograms: of the same, see :mod:`allegro_jax.error_analysis`.
        timing: ``steps_per_epoch``, ``frames`` and ``atoms`` of an epoch, ``padding`` (share of
            slots), ``compilations``, ``compile_seconds`` and ``first_epoch`` of the last session.
        configuration: of the run.
        architecture: the complete configuration of the model.
        from_data: fields of it that came from the data.
        environment: versions and hardware.
    """

    version: int
    outcome: str
    model: dict[str, Any]
    contents: dict[str, Any]
    histograms: list[dict[str, Any]]
    distances: list[dict[str, Any]]
    sampled: dict[str, int]
    errors: dict[str, Any]
    worst: dict[str, Any]
    points: dict[str, Any]
    error_histograms: dict[str, Any]
    timing: dict[str, Any]
    configuration: dict[str, Any]
    architecture: dict[str, Any]
    from_data: list[str]
    environment: dict[str, str]


def record_run(
    config: TrainingConfig,
    preparation: Preparation,
    model: Model,
    parts: Mapping[str, Evaluated],
    *,
    outcome: str,
    best_epoch: int,
    timing: Mapping[str, Any],
) -> RunRecord:
    """Collect what the report needs.

    Args:
        config: of the run.
        preparation: its data.
        model: the finished model.
        parts: evaluated frames: ``validation``, and ``test`` if there are any.
        outcome: why the run ended.
        best_epoch: whose weights the model has, from 1.
        timing: see :class:`RunRecord`.
    """
    species, shifts = model.species, preparation.model.per_species("species_shifts")
    sets = {"training": preparation.train, "validation": preparation.valid}
    held = {part: contents(data) for part, data in sets.items()}
    if "test" in parts:
        frames = parts["test"].frames
        held["test"] = contents_of_frames(frames, species)
        chosen = np.unique(np.linspace(0, len(frames) - 1, MOST_TEST_FRAMES).astype(int))
        sets["test"] = build_dataset(
            [frames[place] for place in chosen],
            species,
            model.config.cutoff,
            model.config.pair_cutoffs,
        )
    samples = {part: sample(data) for part, data in sets.items()}
    reference = dict(zip(species, shifts, strict=True))
    record = RunRecord(
        version=VERSION,
        outcome=outcome,
        model={
            "file": str(config.output / "model.safetensors"),
            "weights": count_parameters(model.potential.params) // model.members,
            "members": model.members,
            "best_epoch": best_epoch,
        },
        contents=_each(held, dataclasses.asdict),
        histograms=[dataclasses.asdict(one) for one in histograms(samples, shifts)],
        distances=[
            dataclasses.asdict(one) for one in distance_histograms(samples, model.config.cutoff)
        ],
        sampled={part: len(data) for part, data in samples.items()},
        errors=_each(parts, _errors),
        worst=_each(parts, _worst),
        points=_each(
            parts,
            lambda part: error_analysis.parity_points(part.frames, part.predictions, reference),
        ),
        error_histograms=_each(
            parts, lambda part: error_analysis.error_histograms(part.frames, part.predictions)
        ),
        timing=dict(timing),
        configuration=config.to_dict(),
        architecture=plain(model.config.to_dict()),
        from_data=_from_data(config, model.config),
        environment=environment(),
    )
    return record


def save_record(folder: Path, record: RunRecord) -> None:
    """Write ``report.json``."""
    text = json.dumps(dataclasses.asdict(record), separators=(",", ":"), default=float)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def load_record(folder: Path) -> RunRecord:
    """Read ``report.json``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or of another version.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version_found = content["version"]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no such file; a run writes it when it ends, so continue the run"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"{path}: not the record of a run") from None
    if version_found != VERSION or set(content) != set(names(RunRecord)):
        raise ValueError(
            f"{path}: written by another version of allegro-jax (format {version_found}; this one "
            f"reads {VERSION})"
        )
    return RunRecord(**content)


def environment() -> dict[str, str]:
    """Versions of what computed the numbers, and the hardware it ran on."""
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    return {
        **library_versions(),
        **{name: version(name) for name in LIBRARIES},
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "devices": f"{len(devices)} × {', '.join(kinds)} ({jax.default_backend()})",
    }


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _each(parts: Mapping[str, Any], function: Any) -> dict[str, Any]:
    return {part: function(value) for part, value in parts.items()}


def _errors(part: Evaluated) -> dict[str, Any]:
    found = report_errors(part.frames, part.predictions)
    files = found["files"]
    worst = sorted(files, key=lambda source: -_size(files[source]))[:MOST_FILES]
    found["files"] = {source: files[source] for source in worst}
    found["other_files"] = len(files) - len(worst)
    return found


def _size(errors: Mapping[str, Any]) -> float:
    return errors.get("forces_rmse", errors.get("energy_per_atom_rmse", 0.0))


def _worst(part: Evaluated) -> dict[str, Any]:
    found = error_analysis.worst_frames(part.frames, part.predictions)
    return {name: [dataclasses.asdict(one) for one in rows] for name, rows in found.items()}


def _from_data(config: TrainingConfig, model: AllegroConfig) -> list[str]:
    """Fields of the model that the user left open, and that are not their defaults."""
    defaults = AllegroConfig(species=("H",), cutoff=1.0)
    return [
        name
        for name in names(AllegroConfig)
        if name not in config.model and getattr(model, name) != getattr(defaults, name)
    ]
