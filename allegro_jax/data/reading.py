"""Frames of many files, read by several processes, in order."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from allegro_jax.data import named_sets
from allegro_jax.data.checks import Problem
from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import Frame
from allegro_jax.data.sources import Report, iter_frames, raise_problem
from allegro_jax.data.workers import Workers

# What a process has read of a file it hands over at once: larger files are read here instead, frame
# by frame, so that no file is ever held as a whole that memory might not hold.
LARGE_BYTES = 10_000_000
# Processes take a second to start: so much (all files together) is read without.
LITTLE_BYTES = 5_000_000


def read_in_order(
    paths: Sequence[Path],
    conventions: Conventions,
    *,
    species: Sequence[str] | None = None,
    report: Report | None = None,
    processes: int = 1,
) -> Iterator[Frame]:
    """The frames of files, one at a time, checked: those of :func:`iter_frames`, in its order.

    Args:
        paths: files, or published sets.
        conventions: names, units and signs of the labels.
        species: chemical symbols that may occur; ``None`` for any.
        report: called with each problem, in order; ``None``: the first is raised.
        processes: how many may read at once.

    Raises:
        DataError: naming file, frame (counted from 0) and field.
    """
    small = {path for path in paths if not named_sets.is_named(path) and _is_small(path)}
    if processes == 1 or len(small) < 2 or sum(map(bytes_of, small)) < LITTLE_BYTES:
        yield from iter_frames(paths, conventions, species=species, report=report)
        return
    read = functools.partial(
        _read, conventions=conventions, species=species, stop_at_problem=report is None
    )
    with Workers(min(processes, len(small))) as workers:
        for by_others, some in itertools.groupby(paths, small.__contains__):
            if by_others:
                for found in workers.map(read, some):
                    yield from _replayed(found, report or raise_problem)
            else:
                yield from iter_frames(list(some), conventions, species=species, report=report)


def bytes_of(path: Path) -> int:
    """Of a file, of all files of a folder, or of the file of a published set."""
    if named_sets.is_named(path):
        path = named_sets.resolve(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _is_small(path: Path) -> bool:
    return path.exists() and bytes_of(path) <= LARGE_BYTES


def _read(
    path: Path,
    *,
    conventions: Conventions,
    species: Sequence[str] | None,
    stop_at_problem: bool,
) -> list[Frame | Problem]:
    """Frames and problems of a file as they come; of problems that stop all, the first."""
    found: list[Frame | Problem] = []
    for frame in iter_frames(path, conventions, species=species, report=found.append):
        if stop_at_problem and found and isinstance(found[-1], Problem):
            break
        found.append(frame)
    return found


def _replayed(found: Sequence[Frame | Problem], report: Report) -> Iterator[Frame]:
    for one in found:
        if isinstance(one, Problem):
            report(one)
        else:
            yield one
