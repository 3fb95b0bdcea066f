"""Data sets on disk: built once, frame by frame, then mapped into memory.

A store is a folder with one file per array of a :class:`~allegro_jax.data.dataset.DataSet` and a
manifest, which is written last. It is made under another name and takes its place by renaming:
whoever finds it finds it whole, and of several builders at the same time one wins. Its name is a
key: a hash of the contents of the files it was made from and of all that decides what was made.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allegro_jax.data.dataset import DataSet, build_dataset, rows_per, shifted
from allegro_jax.data.frames import Frame
from allegro_jax.data.workers import Workers
from allegro_jax.neighbour_search import PairCutoffs

# Part of every key: raised when the same data give other arrays.
FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = (*rows_per("frame"), *rows_per("atom"), *rows_per("pair"))

# Frames are handed on in chunks of so many atoms or frames.
CHUNK_ATOMS, CHUNK_FRAMES = 20_000, 500
# Processes take a second to start: so many chunks are worked on without.
SERIAL_CHUNKS = 4
# Checksums are of blocks of so many bytes; so many blocks are checked when a store is opened.
BLOCK_BYTES, CHECKED_BLOCKS = 1 << 24, 64
# What a builder that was killed has left behind is removed after a day.
STALE_SECONDS = 86400


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What data sets are made for.

    Attributes:
        species: chemical symbols; species indices refer to this order.
        cutoff: Å.
        pair_cutoffs: directed table [centre][neighbour] in Å.
        dtype: of vectors and forces.
    """

    species: tuple[str, ...]
    cutoff: float
    pair_cutoffs: PairCutoffs | None = None
    dtype: str = "float32"

    def build(self, frames: Sequence[Frame]) -> DataSet:
        """The data set of some frames."""
        return build_dataset(
            frames, self.species, self.cutoff, self.pair_cutoffs, dtype=np.dtype(self.dtype)
        )


def key(checksums: Sequence[str], recipe: Recipe, reading: Mapping[str, Any]) -> str:
    """The name of a store: SHA-256 over what decides its contents.

    Args:
        checksums: of the files, in order.
        recipe: what it is made for.
        reading: plain data: how the files are read (names of labels, units and the like).
    """
    content = [FORMAT, list(checksums), dataclasses.asdict(recipe), dict(reading)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def parts(frames: Iterable[Frame], recipe: Recipe, processes: int = 1) -> Iterator[DataSet]:
    """Data sets of consecutive frames, by several processes where there are many.

    The parts are the same however many processes there are. Frames are read as they are needed
    and kept no longer.

    Args:
        frames: checked frames.
        recipe: what the data sets are made for.
        processes: how many may work at once.
    """
    chunks = _chunks(frames)
    alone = itertools.islice(chunks, SERIAL_CHUNKS) if processes > 1 else chunks
    yield from map(recipe.build, alone)
    for more in chunks:
        with Workers(processes) as workers:
            yield from workers.map(recipe.build, itertools.chain([more], chunks))


def build(folder: Path, pieces: Iterable[DataSet], notes: Callable[[], Any] = dict) -> DataSet:
    """Write a store, piece by piece, and open it.

    Args:
        folder: its place; what is there is replaced, unless it is whole.
        pieces: data sets of one recipe, at least one.
        notes: called at the end; plain data kept with the store (:func:`read_notes`).

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder.parent)
    fresh = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        manifest = _write(fresh, pieces)
        manifest["notes"] = notes()
        (fresh / MANIFEST).write_text(json.dumps(manifest))
        data = _take_place(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return data


def open_store(folder: Path) -> DataSet | None:
    """Map a store into memory; ``None`` if there is none, or it is damaged.

    Sizes are checked in full, and contents of up to 64 blocks of 16 MiB, spread over all files.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        entries = manifest["arrays"]
        if manifest["format"] != FORMAT or set(entries) != set(ARRAYS):
            return None
        blocks = [(name, place) for name in ARRAYS for place in range(len(entries[name]["crc32"]))]
        checked = np.unique(np.linspace(0, len(blocks) - 1, CHECKED_BLOCKS).astype(int))
        for name, place in (blocks[number] for number in checked if blocks):
            if _checksum(folder / name, place) != entries[name]["crc32"][place]:
                return None
        arrays = {name: _map(folder / name, entries[name]) for name in ARRAYS}
        # when it was last used: for :func:`trim`
        with contextlib.suppress(OSError):
            os.utime(folder / MANIFEST)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return DataSet(tuple(manifest["species"]), tuple(manifest["sources"]), **arrays)


def read_notes(folder: Path) -> Any:
    """The notes of a store."""
    return json.loads((folder / MANIFEST).read_text())["notes"]


def size(folder: Path) -> int:
    """Bytes of a store."""
    return sum(path.stat().st_size for path in folder.iterdir())


def trim(root: Path, most: int, keep: Path) -> None:
    """Remove the stores in a folder that were not used for longest, until ``most`` bytes are left.

    A removed store stays readable for those that have it open. ``keep`` is never removed.
    """
    found = [path.parent for path in root.glob(f"*/{MANIFEST}")]
    found.sort(key=lambda folder: (folder == keep, (folder / MANIFEST).stat().st_mtime))
    total = sum(map(size, found))
    for folder in found:
        if total <= most or folder == keep:
            return
        total -= size(folder)
        shutil.rmtree(folder, ignore_errors=True)


# -- writing ---------------------------------------------------------------------------------------


def _chunks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Consecutive frames in lists of some size; one empty list if there are none."""
    chunk: list[Frame] = []
    atoms, first = 0, True
    for frame in frames:
        if len(chunk) == CHUNK_FRAMES or (chunk and atoms + len(frame) > CHUNK_ATOMS):
            yield chunk
            chunk, atoms, first = [], 0, False
        chunk.append(frame)
        atoms += len(frame)
    if chunk or first:
        yield chunk


def _write(folder: Path, pieces: Iterable[DataSet]) -> dict[str, Any]:
    """The files of a store, and its manifest."""
    seen = {"atom": 0, "pair": 0}
    sources: dict[str, None] = {}
    species: tuple[str, ...] = ()
    shapes: dict[str, list[int]] = {}
    dtypes: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / name).open("wb")) for name in ARRAYS}
        for piece in pieces:
            species = piece.species
            sources |= dict.fromkeys(piece.sources)
            for name, rows in shifted(piece, tuple(sources), seen).items():
                files[name].write(np.ascontiguousarray(rows).data)
                shape = shapes.setdefault(name, [0, *rows.shape[1:]])
                shape[0] += len(rows)
                dtypes[name] = rows.dtype.str
            seen["atom"] += len(piece.atom_species)
            seen["pair"] += len(piece.neighbours)
    return {
        "format": FORMAT,
        "species": species,
        "sources": list(sources),
        "arrays": {
            name: {
                "dtype": dtypes[name],
                "shape": shapes[name],
                "crc32": [
                    _checksum(folder / name, block)
                    for block in range(-(-(folder / name).stat().st_size // BLOCK_BYTES))
                ],
            }
            for name in ARRAYS
        },
    }


def _take_place(fresh: Path, folder: Path) -> DataSet:
    """Rename a store; whole ones that others have put there in the meantime stay."""
    for _ in range(3):
        with contextlib.suppress(OSError):
            fresh.rename(folder)
        data = open_store(folder)
        if data is not None:
            return data
        with contextlib.suppress(OSError):
            damaged = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
            folder.rename(damaged / "damaged")
            shutil.rmtree(damaged, ignore_errors=True)
    raise OSError(f"{folder}: what was written cannot be read again")


def _remove_stale(root: Path) -> None:
    for path in root.glob(".building-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


# -- reading ---------------------------------------------------------------------------------------


def _checksum(path: Path, block: int) -> int:
    with path.open("rb") as file:
        file.seek(block * BLOCK_BYTES)
        return zlib.crc32(file.read(BLOCK_BYTES))


def _map(path: Path, entry: Mapping[str, Any]) -> np.ndarray:
    """An array of a store.

    Raises:
        ValueError: the file is shorter or longer than it was.
    """
    dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
    if path.stat().st_size != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{path}: it has another size than when it was written")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, "r", shape=shape).view(np.ndarray)
