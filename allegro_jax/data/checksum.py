"""Fingerprints of data."""

from __future__ import annotations

import hashlib
from pathlib import Path

from allegro_jax.data import named_sets


def checksum(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and checksums of all its files.

    Of a published set, ``set:SET/PART``, :func:`~allegro_jax.data.named_sets.fingerprint`.
    """
    if named_sets.is_named(path):
        return named_sets.fingerprint(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{checksum(file)}  {file.relative_to(path)}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
