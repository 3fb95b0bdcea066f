"""From files to a data set with neighbourhoods: from the disk, if it was built before."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allegro_jax.compilation_cache import cache_root
from allegro_jax.data import store
from allegro_jax.data.checks import Problem
from allegro_jax.data.comparison import Comparison
from allegro_jax.data.config import DataConfig
from allegro_jax.data.dataset import ELEMENTS, DataSet, join
from allegro_jax.data.frames import Frame
from allegro_jax.data.reading import bytes_of, read_in_order
from allegro_jax.data.statistics import find_species
from allegro_jax.settings import ConfigError

# Smaller files (in all) are read anew each time, unless a folder is named.
SMALL_BYTES = 20_000_000
# The most that is kept in the user's cache.
CACHE_BYTES = 50_000_000_000


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What files hold.

    Attributes:
        train, valid: the frames of the files for training and for validation, in order.
        skipped: what was left out, and why.
        suspicions: what is odd about frames beside each other.
        message: what a user may want to know of the cache; empty without one.
    """

    train: DataSet
    valid: DataSet
    skipped: list[Problem]
    suspicions: list[Problem]
    message: str


def load(
    config: DataConfig,
    recipe: store.Recipe,
    checksums: Mapping[str, str],
) -> Loaded:
    """The data sets of the files for training and validation.

    Frames are read one by one and never held all at once. In memory or in a store, the arrays are
    the same.

    Args:
        config: where frames come from, how to read them, and whether to keep what was made of them.
        recipe: what the data sets are made for.
        checksums: SHA-256 of the files for training and validation, by path.

    Raises:
        DataError: a file or frame that cannot be used.
        ConfigError: ``data.cache`` cannot be written.
    """
    known = None if recipe.species == ELEMENTS else recipe.species
    files = config.train, validation_files(config)
    paths = [path for group in files for path in group]
    skipped: list[Problem] = []
    suspicions: list[Problem] = []
    numbers = [0, 0]

    def frames() -> Iterator[Frame]:
        comparison = Comparison()
        for part, group in enumerate(files):
            report = config.report(skipped)
            read = read_in_order(
                group, config.conventions, species=known, report=report, processes=processes()
            )
            for frame in read:
                suspicions.extend(comparison.add(frame))
                numbers[part] += 1
                yield frame
        suspicions.extend(comparison.finish())

    def notes() -> dict[str, Any]:
        return {
            "paths": list(map(str, paths)),
            "train": numbers[0],
            "skipped": list(map(dataclasses.asdict, skipped)),
            "suspicions": list(map(dataclasses.asdict, suspicions)),
        }

    folder = _folder(config, sum(map(bytes_of, paths)))
    pieces = store.parts(frames(), recipe, processes())
    if folder is None:
        return _loaded(join(list(pieces)), notes(), paths, "")
    reading = {
        **dataclasses.asdict(config.conventions),
        "on_error": config.on_error,
        "train_files": len(files[0]),
    }
    place = folder / store.key([checksums[str(path)] for path in paths], recipe, reading)
    data = store.open_store(place)
    verb = "read from"
    if data is None:
        verb = "kept in"
        try:
            data = store.build(place, pieces, notes)
            if not isinstance(config.cache, Path):
                store.trim(folder, CACHE_BYTES, place)
        except OSError as error:
            raise ConfigError(
                f"data.cache: {folder}: cannot be written ({error.strerror or error}); name "
                "another folder, or false to hold the data in memory"
            ) from None
    message = f"Neighbourhoods are {verb} {place} ({store.size(place) / 1e6:.0f} MB)."
    return _loaded(data, store.read_notes(place), paths, message)


def validation_files(config: DataConfig) -> tuple[Path, ...]:
    """Empty where validation frames are drawn from those for training."""
    return () if isinstance(config.valid, float) else config.valid


def occurring_species(config: DataConfig) -> tuple[str, ...]:
    """The chemical symbols of all frames but isolated atoms, found by reading them all.

    Raises:
        DataError: a file or frame that cannot be used.
    """
    report = config.report([])
    files = [*config.train, *validation_files(config)]
    frames = read_in_order(files, config.conventions, report=report, processes=processes())
    return find_species(frame for frame in frames if not frame.is_isolated_atom)


def processes() -> int:
    """How many processes may work at once: the cores that this one may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _folder(config: DataConfig, total: int) -> Path | None:
    """Where stores are kept; ``None`` to hold the data in memory."""
    if isinstance(config.cache, Path):
        return config.cache
    root = cache_root()
    small = config.cache is None and total < SMALL_BYTES
    if config.cache is False or root is None or small:
        return None
    return root / "neighbourhoods"


def _loaded(data: DataSet, notes: dict[str, Any], paths: Sequence[Path], message: str) -> Loaded:
    # the same files may have had other names when the store was built
    names = dict(zip(notes["paths"], map(str, paths), strict=True))
    data = dataclasses.replace(data, sources=tuple(names.get(one, one) for one in data.sources))

    def problems(entries: list[dict[str, Any]]) -> list[Problem]:
        return [
            Problem(**{**entry, "source": names.get(entry["source"], entry["source"])})
            for entry in entries
        ]

    places = np.arange(len(data))
    return Loaded(
        data.select(places[: notes["train"]]),
        data.select(places[notes["train"] :]),
        problems(notes["skipped"]),
        problems(notes["suspicions"]),
        message,
    )
