"""Files that outlive the process that writes them, and the power supply."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file under another name; it takes its own only when it is complete and on disk.

    Yields the path to write to. Whatever happens before the end of the block, ``path`` is either
    what it was before or, afterwards, what was written.
    """
    partial = path.with_name(path.name + PARTIAL)
    yield partial
    settle(partial, path)


def settle(partial: Path, path: Path) -> None:
    """Force a file to disk, then give it its name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk, where the system can."""
    if os.name == "nt":
        return  # folders cannot be opened there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class GrowingText:
    """A text file that only grows: what was written is there for readers at once.

    Args:
        path: the file.
        size: bytes to cut an existing file back to; None starts a new one.

    Raises:
        ValueError: if the file is absent or shorter than ``size``.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        if size is not None:
            if not path.is_file() or path.stat().st_size < size:
                raise ValueError(
                    f"{path} is shorter than when the checkpoint was written: cannot go on; start "
                    "anew without restart"
                )
            os.truncate(path, size)
        self._file = path.open("w" if size is None else "a", encoding="utf-8", newline="\n")

    def write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def commit(self) -> int:
        """Force everything to disk; returns the size in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        self._file.close()
