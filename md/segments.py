"""Binary trajectories as closed segments, so that a killed process loses no more than the last.

``trajectory/000001.h5md``, ``000002.h5md`` ... each hold the frames between two checkpoints: a
file takes its name when it is closed and on disk, and never changes again. The joined
``trajectory.h5md`` is nothing but a long segment: when a finished run goes on, it becomes the
first one. Where both exist the segments are the truth, and the joined file can be made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ase import Atoms

from md.durable import PARTIAL, replacing, settle, sync_folder
from md.parts import Part, joined
from md.trajectory import NAME, TrajectorySettings

_JOINED = NAME + ".joined"  # segments that are no longer needed


class SegmentFormat(NamedTuple):
    """A binary format.

    Attributes:
        suffix: of its files.
        open: ``(path, settings)``, gives a writer with ``write(frames)``, ``write_part(part)`` and
            ``close()``.
        count: ``(path)``, frames in a file.
        concatenate: ``(paths, target, frames)``, writes the first ``frames`` (None: all) of
            several files into one, which may be one of them.
    """

    suffix: str
    open: Callable[[Path, TrajectorySettings], Any]
    count: Callable[[Path], int]
    concatenate: Callable[[Sequence[Path], Path, int | None], None]


def segment_format(name: str) -> SegmentFormat:
    """``"h5md"`` or ``"traj"``."""
    if name == "h5md":
        from md import h5md

        return SegmentFormat(h5md.SUFFIX, h5md.H5MDWriter, h5md.count, h5md.concatenate)
    return SegmentFormat(".traj", _ASEWriter, _ase_count, _ase_concatenate)


class SegmentedTrajectory:
    """A :class:`md.trajectory.Trajectory` in segments.

    Args:
        folder: of the run.
        settings: what to keep.
        mark: what ``commit`` returned when the checkpoint to go on from was written; None starts
            anew.

    Raises:
        ValueError: if the segments hold fewer frames than the mark says.
    """

    def __init__(
        self, folder: Path, settings: TrajectorySettings, mark: dict[str, int] | None
    ) -> None:
        self._format = segment_format(settings.format)
        self._settings = settings
        self._joined = folder / (NAME + self._format.suffix)
        self._segments = folder / NAME
        self._writer: Any = None
        self._frames = 0
        self._segments.mkdir(exist_ok=True)
        if mark is not None:
            self._cut(mark["frames"])
            self._frames = mark["frames"]

    def write(self, frames: Sequence[Atoms]) -> None:
        if not frames:
            return
        if self._writer is None:
            self._writer = self._format.open(self._partial, self._settings)
        self._writer.write(frames)
        self._frames += len(frames)

    def write_part(self, part: Part) -> None:
        if self._writer is None:
            self._writer = self._format.open(self._partial, self._settings)
        self._writer.write_part(part)
        self._frames += part.ends

    def commit(self) -> dict[str, int]:
        """Close the segment, if it holds frames."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            settle(self._partial, self._next)
        return {"frames": self._frames}

    def finish(self) -> None:
        """Join the segments and remove them."""
        self.commit()
        paths = _segments(self._segments, self._format.suffix)
        if len(paths) == 1:
            paths[0].replace(self._joined)
        elif paths:
            self._format.concatenate(paths, self._joined, None)
        # under another name first: half a folder of segments must never pass for the truth
        done = self._segments.with_name(_JOINED)
        self._segments.replace(done)
        sync_folder(done.parent)
        shutil.rmtree(done)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    @property
    def _next(self) -> Path:
        number = len(_segments(self._segments, self._format.suffix)) + 1
        return self._segments / f"{number:06d}{self._format.suffix}"

    @property
    def _partial(self) -> Path:
        return self._segments / f"{NAME}{self._format.suffix}{PARTIAL}"

    def _cut(self, frames: int) -> None:
        """Keep the first frames of what an earlier process left."""
        shutil.rmtree(self._segments.with_name(_JOINED), ignore_errors=True)
        self._partial.unlink(missing_ok=True)
        paths = _segments(self._segments, self._format.suffix)
        if not paths and self._joined.exists():
            paths = [self._next]
            self._joined.replace(paths[0])
        self._joined.unlink(missing_ok=True)
        left = frames
        for path in paths:
            held = self._format.count(path) if left else 0
            if held > left:
                self._format.concatenate([path], path, left)
            elif left == 0:
                path.unlink()
            left -= min(held, left)
        if left:
            raise ValueError(
                f"{self._segments} lacks {left} of the {frames} frames that were there when the "
                "checkpoint was written: cannot go on; start anew without restart"
            )


def join(folder: Path) -> Path | None:
    """Write what the closed segments of one folder hold into one file; None if there are none."""
    for name in ("h5md", "traj"):
        form = segment_format(name)
        paths = _segments(folder / NAME, form.suffix)
        if paths:
            joined = folder / (NAME + form.suffix)
            form.concatenate(paths, joined, None)
            return joined
    return None


def _segments(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob("[0-9]" * 6 + suffix))


class _ASEWriter:
    def __init__(self, path: Path, settings: TrajectorySettings) -> None:
        from ase.io.trajectory import TrajectoryWriter

        self._writer = TrajectoryWriter(path, "w")
        self._settings = settings
        self._parts: list[Part] = []

    def write(self, frames: Sequence[Atoms]) -> None:
        for atoms in frames:
            self._writer.write(self._settings.select(atoms))

    def write_part(self, part: Part) -> None:
        self._parts.append(part)  # this format takes whole frames only
        if part.ends:
            self._writer.write(self._settings.reduced(joined(self._parts)))
            self._parts.clear()

    def close(self) -> None:
        self._writer.close()


def _ase_count(path: Path) -> int:
    from ase.io.trajectory import TrajectoryReader

    with TrajectoryReader(path) as frames:
        return len(frames)


def _ase_concatenate(paths: Sequence[Path], target: Path, frames: int | None = None) -> None:
    from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

    left = float("inf") if frames is None else frames
    with replacing(target) as partial, TrajectoryWriter(partial, "w") as writer:
        for path in paths:
            with TrajectoryReader(path) as source:
                for index in range(int(min(left, len(source)))):
                    writer.write(source[index])
                    left -= 1
