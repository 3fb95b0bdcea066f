"""Databases of ASE: SQLite (.db), JSON, and LMDB (.aselmdb)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ase.db

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources.ase_files import record


def read(path: Path) -> Iterator[Record]:
    """The rows of a .db or .json database, in the order of their ids.

    Labels are the results of the calculator, the key-value pairs and ``data`` of a row.
    """
    kind = "json" if path.suffix == ".json" else "db"
    yield from _rows(ase.db.connect(path, type=kind, append=True))


def read_lmdb(path: Path) -> Iterator[Record]:
    """The rows of an LMDB database, as fairchem's data sets are.

    Raises:
        DataError: the package that reads them is not installed.
    """
    try:
        database = ase.db.connect(path, type="aselmdb", readonly=True)
    except ImportError as error:
        raise DataError(
            f'LMDB needs another package: pip install "allegro-jax[lmdb]" ({error})'
        ) from None
    yield from _rows(database)


def _rows(database: ase.db.core.Database) -> Iterator[Record]:
    for row in database.select(sort="id"):
        atoms = row.toatoms()
        atoms.info |= (row.data or {}) | row.key_value_pairs
        yield record(atoms)
