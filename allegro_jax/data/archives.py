"""Files inside archives."""

from __future__ import annotations

import fnmatch
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from allegro_jax.data.download import lock
from allegro_jax.data.frames import DataError
from allegro_jax.data.transfer import CHUNK

Wanted = Callable[[str], bool]


def unpacked(archive: Path, pattern: str) -> Path:
    """A file of a zip or tar archive, unpacked into ``ARCHIVE.files`` unless it is there.

    Args:
        archive: tar archives may be compressed.
        pattern: name of the file in the archive; where several match, they are joined, in the
            archive's order.

    Raises:
        DataError: no file matches, or this is no archive.
    """
    name = re.sub(r"[^\w.-]", "", pattern.rpartition("/")[2])
    name = f"all{name}" if name.startswith(".") else name
    path = archive.with_name(f"{archive.name}.files") / name
    if _is_newer(path, archive):
        return path
    path.parent.mkdir(exist_ok=True)
    with lock(path.with_name(f"{name}.lock")):
        if not _is_newer(path, archive):
            part = path.with_name(f"{name}.part")
            unpack = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
            try:
                with part.open("wb") as target:
                    count = unpack(archive, lambda member: _matches(member, pattern), target)
            except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
                raise DataError(f"{archive}: cannot be unpacked ({error})") from error
            if not count:
                part.unlink()
                raise DataError(f"{archive}: holds no {pattern}; it is not the published archive")
            part.replace(path)
    return path


def _is_newer(path: Path, archive: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns >= archive.stat().st_mtime_ns


def _matches(member: str, pattern: str) -> bool:
    # what a Mac's archiver adds is none of the data
    return not member.startswith("__MACOSX/") and fnmatch.fnmatchcase(member, pattern)


def _unpack_zip(archive: Path, wanted: Wanted, target: IO[bytes]) -> int:
    with zipfile.ZipFile(archive) as content:
        names = [name for name in content.namelist() if wanted(name)]
        for name in names:
            with content.open(name) as source:
                shutil.copyfileobj(source, target, CHUNK)
    return len(names)


def _unpack_tar(archive: Path, wanted: Wanted, target: IO[bytes]) -> int:
    count = 0
    with tarfile.open(archive, "r|*") as content:
        for member in content:
            if member.isfile() and wanted(member.name) and (source := content.extractfile(member)):
                shutil.copyfileobj(source, target, CHUNK)
                count += 1
    return count
