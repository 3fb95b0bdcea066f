"""Arrays whose rows lie on the devices of several processes, each writing and reading its own.

Rows are along the first axis, or along another that is cut. A folder holds a file
``NAME.FIRST.npy`` for each array and device, with the rows from FIRST on. Nothing is gathered, and
one array of one device at a time is on the host.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from md.durable import sync_folder


def write(folder: Path, arrays: Mapping[str, jax.Array]) -> None:
    """Write what the devices of this process have; it is on disk when this returns."""
    for name, array in arrays.items():
        for shard in array.addressable_shards:
            if shard.replica_id == 0:
                first = max(part.start or 0 for part in shard.index)  # one axis is cut at most
                with (folder / f"{name}.{first:012d}.npy").open("wb") as file:
                    np.save(file, np.asarray(shard.data))
                    file.flush()
                    os.fsync(file.fileno())
    sync_folder(folder)


class Rows:
    """An array in such files, read where it is asked for.

    Args:
        axis: along which it is cut.

    Raises:
        ValueError: if there are no files of it, or they leave rows out.
    """

    def __init__(self, folder: Path, name: str, axis: int = 0) -> None:
        self._axis = axis
        self._parts: list[tuple[int, np.ndarray]] = []
        end = 0
        for path in sorted(folder.glob(f"{name}.*.npy")):
            first = int(path.name.split(".")[-2])
            try:
                part = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise ValueError(f"{path} is damaged: {error}") from error
            if first != end:
                break
            self._parts.append((first, part))
            end = first + part.shape[axis]
        else:
            if self._parts:
                one = self._parts[0][1]
                self.shape = (*one.shape[:axis], end, *one.shape[axis + 1 :])
                self.dtype = one.dtype
                return
        raise ValueError(
            f"{folder}: the rows of {name} from {end} on are absent: the checkpoint is incomplete; "
            "all processes must write to the same folder"
        )

    def __getitem__(self, part: slice | tuple[slice, ...]) -> np.ndarray:
        """Rows from a slice, alone or among those of all axes; along other axes everything."""
        rows = part[self._axis] if isinstance(part, tuple) else part
        start, stop, _ = rows.indices(self.shape[self._axis])
        return np.concatenate(list(self._pieces(start, stop)), axis=self._axis)

    def _pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first, part in self._parts:
            lower, upper = max(start - first, 0), min(stop - first, part.shape[self._axis])
            if lower < upper:
                yield part[(slice(None),) * self._axis + (slice(lower, upper),)]
