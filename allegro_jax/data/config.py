"""The section ``data`` of a training configuration: where frames come from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allegro_jax.data.frames import LabelKeys
from allegro_jax.settings import (
    ConfigError,
    choice,
    files,
    read_files,
    read_numbers,
    setting,
    text,
)

REFERENCES = ("auto", "isolated_atoms", "least_squares")


def _read_valid(name: str, value: Any, folder: Path) -> tuple[Path, ...] | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return read_files(name, value, folder)
    if not 0 < value < math.inf or (value >= 1 and value != int(value)):
        raise ConfigError(
            f"{name}: a share between 0 and 1, a number of frames, or files; got {value}"
        )
    return float(value)


def _read_atoms(name: str, value: Any, folder: Path) -> Path | Mapping[str, float]:
    if isinstance(value, Mapping):
        return read_numbers(name, value)
    (path,) = read_files(name, [value], folder)
    return path


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where frames come from.

    Attributes:
        train: files with training frames, in any format ASE reads.
        valid: files with validation frames; or the share (below 1) or number (1 and above) of
            the training frames to set aside, drawn at random.
        test: files to evaluate with the finished model.
        energy_key, forces_key, stress_key: names of the labels in the files.
        isolated_atoms: energies (eV) of isolated atoms by symbol, or a file with one frame each.
        reference_energies: where the per-species energies come from: ``isolated_atoms`` (above, or
            single-atom frames among the training frames), ``least_squares`` over the training
            frames, or ``auto``: the former where they are given.
    """

    train: tuple[Path, ...] = files()
    valid: tuple[Path, ...] | float = setting(0.1, _read_valid)
    test: tuple[Path, ...] = files()
    energy_key: str = text("energy")
    forces_key: str = text("forces")
    stress_key: str = text("stress")
    isolated_atoms: Path | Mapping[str, float] | None = setting(None, _read_atoms)
    reference_energies: str = choice("auto", REFERENCES)

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("data.train: missing; name the file with the training frames")

    @property
    def keys(self) -> LabelKeys:
        return LabelKeys(self.energy_key, self.forces_key, self.stress_key)
