"""The section ``data`` of a training configuration: where frames come from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allegro_jax.data.checks import Problem
from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import DataError
from allegro_jax.data.named_sets import is_named
from allegro_jax.data.names import POLICIES, STRESS_SIGNS
from allegro_jax.data.sources import Report, expand
from allegro_jax.data.units import parse_unit
from allegro_jax.settings import (
    ConfigError,
    choice,
    read_numbers,
    read_text,
    setting,
    text,
)

REFERENCES = ("auto", "isolated_atoms", "least_squares")


def sources() -> Any:
    """Files, folders and patterns; the files they mean, which must exist."""
    return setting((), _read_sources)


def unit(quantity: str) -> Any:
    """The name of a unit; ``None``: that of the format."""

    def read(name: str, value: Any, _: Path) -> str:
        try:
            parse_unit(read_text(name, value), quantity)
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        return str(value)

    return setting(None, read)


def _read_sources(name: str, value: Any, folder: Path) -> tuple[Path, ...]:
    values = [value] if isinstance(value, str | Path) else value or []
    if not isinstance(values, Sequence) or not all(isinstance(v, str | Path) for v in values):
        raise ConfigError(f"{name}: expected a file or a list of files, got {value!r}")
    try:
        paths = [path for one in values for path in expand(_placed(one, folder))]
    except DataError as error:
        raise ConfigError(f"{name}: {error}") from None
    for place, path in enumerate(paths):
        if path in paths[:place]:
            raise ConfigError(f"{name}: {path} is named twice")
    return tuple(paths)


def _placed(entry: str | Path, folder: Path) -> Path:
    """A path relative to the folder; published sets are nowhere."""
    return Path(entry) if is_named(entry) else folder / Path(entry).expanduser()


def _read_valid(name: str, value: Any, folder: Path) -> tuple[Path, ...] | float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return _read_sources(name, value, folder)
    if not 0 < value < math.inf or (value >= 1 and value != int(value)):
        raise ConfigError(
            f"{name}: a share between 0 and 1, a number of frames, or files; got {value}"
        )
    return float(value)


def _read_cache(name: str, value: Any, folder: Path) -> Path | bool:
    if isinstance(value, bool):
        return value
    return folder / Path(read_text(name, value)).expanduser()


def _read_atoms(name: str, value: Any, folder: Path) -> Path | Mapping[str, float]:
    if isinstance(value, Mapping):
        return read_numbers(name, value)
    paths = _read_sources(name, value, folder)
    if len(paths) != 1:
        raise ConfigError(f"{name}: expected one file, got {len(paths)}")
    return paths[0]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where frames come from.

    Attributes:
        train: files with training frames, folders of them, patterns (``runs/*/OUTCAR``), or
            published sets (``set:3bpa/train_300K``).
        valid: likewise with validation frames; or the share (below 1) or number (1 and above) of
            the training frames to set aside, drawn at random.
        test: likewise, to evaluate with the finished model.
        format: of all the files; ``null``: found for each.
        energy_key, forces_key, stress_key, virial_key: names of the labels in the files.
        weight_key: name of the frames' weights in the loss; ``null``: all weigh 1.
        energy_unit, length_unit: of the files; ``null``: what their format says, or eV and Å.
        forces_unit, stress_unit: ``null``: made of the two above.
        stress_sign: ``tension`` (as in ASE) or ``compression``: which of them is positive.
        on_error: a frame that cannot be used shall ``stop`` the run, or ``skip`` the frame.
        isolated_atoms: energies (eV) of isolated atoms by symbol, or a file with one frame each.
        reference_energies: where the per-species energies come from: ``isolated_atoms`` (above, or
            single-atom frames among the training frames), ``least_squares`` over the training
            frames, or ``auto``: the former where they are given.
        cache: where neighbourhoods are kept once they are found: a folder; ``true`` for that of the
            user (``~/.cache/allegro-jax``), ``false`` for memory alone, ``null`` for the former if
            the files are large.
    """

    train: tuple[Path, ...] = sources()
    valid: tuple[Path, ...] | float = setting(0.1, _read_valid)
    test: tuple[Path, ...] = sources()
    format: str | None = text(None)
    energy_key: str = text("energy")
    forces_key: str = text("forces")
    stress_key: str = text("stress")
    virial_key: str = text("virial")
    weight_key: str | None = text(None)
    energy_unit: str | None = unit("energy")
    length_unit: str | None = unit("length")
    forces_unit: str | None = unit("forces")
    stress_unit: str | None = unit("stress")
    stress_sign: str = choice("tension", STRESS_SIGNS)
    on_error: str = choice("stop", POLICIES)
    isolated_atoms: Path | Mapping[str, float] | None = setting(None, _read_atoms)
    reference_energies: str = choice("auto", REFERENCES)
    cache: Path | bool | None = setting(None, _read_cache)

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("data.train: missing; name the file with the training frames")

    @property
    def conventions(self) -> Conventions:
        """How to read labels."""
        fields = dataclasses.fields(Conventions)
        return Conventions(**{field.name: getattr(self, field.name) for field in fields})

    def report(self, skipped: list[Problem]) -> Report | None:
        """What the policy does about a problem: raise it, or note it in a list."""
        return skipped.append if self.on_error == "skip" else None
