"""Frames of the published sets, read as their table says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from allegro_jax.data import named_sets
from allegro_jax.data.conventions import Conventions, Record

Reader = Callable[[Path], Iterator[Record]]


def conventions_of(name: str | Path) -> Conventions:
    """How the frames of ``set:SET/PART`` are to be read, whatever is said of other files.

    Raises:
        DataError: there is no such set.
    """
    return Conventions(**named_sets.find_part(name).conventions)


def read(name: str | Path, reader: Reader) -> Iterator[Record]:
    """The frames of ``set:SET/PART``, which is fetched first.

    Args:
        name: of the part.
        reader: of the format of its files.

    Raises:
        DataError: as :func:`~allegro_jax.data.named_sets.fetch`.
    """
    part = named_sets.find_part(name)
    left_out: set[int] = set()
    if part.exclude is not None:
        left_out = _first_numbers(named_sets.fetch(str(part))[1])
    records = reader(named_sets.resolve(name))
    for record in islice(records, *(part.frames or (None,))):
        if record.labels.get("gdb") not in left_out:
            yield record


def _first_numbers(path: Path) -> set[int]:
    """The numbers that lines begin with; other lines explain."""
    words = (line.split(maxsplit=1) for line in path.read_text().splitlines())
    return {int(first) for first, *_ in filter(None, words) if first.isdecimal()}
