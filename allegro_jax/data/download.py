"""Files fetched once and kept: downloads resume when broken off, and are checked.

Written on :mod:`urllib` (:mod:`~allegro_jax.data.transfer`) rather than on ``pooch``, the usual
library for this: pooch starts a broken download anew, and the largest file here has 37 GB; and
where no checksum is known it takes any file, or none, while this module records the first one and
holds later copies to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sys
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path

from allegro_jax.data.frames import DataError
from allegro_jax.data.transfer import CHUNK, UnavailableError, read_json, transfer, write_json

FOLDER_VARIABLE = "ALLEGRO_JAX_DATA"
MIRROR_VARIABLE = "ALLEGRO_JAX_MIRROR"
ALGORITHMS = ("md5", "sha1", "sha256", "sha512")


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched.

    Attributes:
        name: where it is kept, relative to the data folder, ``"3bpa/train_300K.xyz"``.
        addresses: where it is found, in the order in which they are tried; empty where none is
            known that a program could download from.
        size: bytes; ``None``: not known.
        checksum: ``"md5:..."`` or another of :data:`ALGORITHMS`; ``None``: not known, then the
            SHA-256 of the first copy is recorded and later ones must agree.
        page: where people find the file, for messages.
    """

    name: str
    addresses: tuple[str, ...] = ()
    size: int | None = None
    checksum: str | None = None
    page: str | None = None

    @property
    def source(self) -> str:
        """Where to get it, for messages."""
        return self.addresses[0] if self.addresses else str(self.page)


def data_folder() -> Path:
    """Where fetched files are kept: ``ALLEGRO_JAX_DATA``, or ``~/.cache/allegro-jax/data``."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "allegro-jax" / "data"


def fetch_file(file: RemoteFile, folder: Path | None = None) -> Path:
    """The path of a file, downloaded unless it is there.

    A download goes to ``NAME.part`` and becomes ``NAME`` when it is complete and right; what was
    received before an interruption is not asked for again. Beside the file lies ``NAME.json``, its
    size and SHA-256, which spares hashing it at every use and shows when it has changed. Several
    processes may ask for the same file: one downloads, the others wait.

    The environment variable ``ALLEGRO_JAX_MIRROR`` names an address that serves a copy of a data
    folder; it is then asked instead of ``file.addresses``.

    Args:
        file: what to fetch.
        folder: instead of :func:`data_folder`.

    Raises:
        DataError: the file cannot be downloaded (then the message says what to put where), or has
            not the checksum that it should have.
    """
    path = (data_folder() if folder is None else folder) / file.name
    if _is_as_recorded(file, path):  # also where nothing can be written
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(_beside(path, ".lock")):
        if not path.is_file():
            _download(file, path)
        elif not _is_as_recorded(file, path):
            _accept(file, path, path)
    return path


def recorded_sha256(path: Path) -> str:
    """The SHA-256 of a fetched file, as its record has it."""
    return read_json(_beside(path, ".json"))["sha256"]


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; it ends with its process, however that ends."""
    with path.open("ab") as stream:
        if sys.platform == "win32":
            import msvcrt

            while True:
                with contextlib.suppress(OSError):  # gives up after ten seconds of waiting
                    msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _download(file: RemoteFile, path: Path) -> None:
    part, reasons = _beside(path, ".part"), []
    mirror = os.environ.get(MIRROR_VARIABLE)
    addresses = (f"{mirror.rstrip('/')}/{urllib.parse.quote(file.name)}",) if mirror else None
    for address in addresses or file.addresses:
        try:
            checked = file.checksum is not None
            transfer(address, part, name=file.name, size=file.size, checked=checked)
        except UnavailableError as error:
            reasons.append(f"{address}: {error}")
            continue
        _beside(path, ".part.json").unlink(missing_ok=True)
        _accept(file, part, path, address)
        return
    raise DataError(_by_hand(file, path, reasons))


def _is_as_recorded(file: RemoteFile, path: Path) -> bool:
    """Whether a file is there and was checked as it is; not so one just put there by hand."""
    if not path.is_file():
        return False
    status, record = path.stat(), read_json(_beside(path, ".json"))
    seen = (record.get("size"), record.get("modified"), record.get("published"))
    return seen == (status.st_size, status.st_mtime_ns, file.checksum)


def _accept(file: RemoteFile, candidate: Path, path: Path, address: str | None = None) -> None:
    """Check a complete file, record it, and let it be ``path``.

    Raises:
        DataError: it is not what it should be; a download is then kept as ``NAME.wrong``.
    """
    record_path = _beside(path, ".json")
    record = read_json(record_path)
    known = file.checksum or (f"sha256:{record['sha256']}" if "sha256" in record else None)
    algorithm, _, expected = (known or "sha256:").partition(":")
    found = _hashes(candidate, {algorithm, "sha256"})
    size = candidate.stat().st_size
    if known is not None and found[algorithm] != expected.lower():
        origin = "as published" if file.checksum else f"recorded of the first copy in {record_path}"
        kept = candidate
        if candidate != path:
            kept = candidate.replace(_beside(path, ".wrong"))
        raise DataError(
            f"{file.name}: wrong checksum: {algorithm} {found[algorithm]} of {kept} ({size} bytes) "
            f"instead of {expected}, {origin}; remove the file and try again, and if that does not "
            f"help, do not trust {address or file.source}"
        )
    candidate.replace(path)
    record |= {
        "size": size,
        "modified": path.stat().st_mtime_ns,
        "sha256": found["sha256"],
        "published": file.checksum,
        "address": address or record.get("address"),
    }
    write_json(record_path, record)
    if known is None:
        warnings.warn(
            f"{file.name}: no checksum was published where this program could read it; that of "
            f"this first copy, SHA-256 {found['sha256']}, is recorded in {record_path}, and later "
            "copies must agree",
            stacklevel=2,
        )


def _hashes(path: Path, algorithms: set[str]) -> dict[str, str]:
    hashers = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            for hasher in hashers.values():
                hasher.update(block)
    return {name: hasher.hexdigest() for name, hasher in hashers.items()}


def _by_hand(file: RemoteFile, path: Path, reasons: list[str]) -> str:
    """What a user can do where this program cannot: which file to put where."""
    known = [f"{file.size} bytes"] if file.size is not None else []
    known.append(file.checksum.replace(":", " ", 1) if file.checksum else "no checksum known")
    what = f"put it at {path} ({', '.join(known)})"
    if reasons:
        return (
            f"{file.name}: cannot be downloaded ({'; '.join(reasons)}); where there is a network, "
            f"get {file.source} and {what}"
        )
    return (
        f"{file.name}: no address is known from which a program could download it; get it by hand "
        f"from {file.source} and {what}"
    )


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
