"""A trajectory as arrays: read once, frame by frame, and kept on disk rather than in memory."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int

from md.analysis.sources import Frame, Source

_FEMTOSECONDS = {"fs": 1.0, "ps": 1e3, "ns": 1e6}


@dataclasses.dataclass(frozen=True)
class Recording:
    """The frames of a trajectory that are looked at.

    Attributes:
        source: where they come from, with what does not change: symbols, masses, pbc.
        numbers: [F] their numbers in the file, from 0.
        positions: [F, N, 3] Å, as they stand in the file; a temporary file mapped into memory.
        cells: [F, 3, 3] Å.
        velocities: [F, N, 3] Å/fs, likewise mapped; None where the file has none.
        times_fs: [F] None where nothing tells them.
    """

    source: Source
    numbers: Int[np.ndarray, " frames"]
    positions: Float[np.ndarray, "frames atoms 3"]
    cells: Float[np.ndarray, "frames 3 3"]
    velocities: Float[np.ndarray, "frames atoms 3"] | None
    times_fs: Float[np.ndarray, " frames"] | None

    @property
    def species(self) -> tuple[str, ...]:
        """Symbols, each once, in the order of the file."""
        return tuple(dict.fromkeys(self.source.symbols))

    @property
    def constant_cell(self) -> bool:
        return bool((self.cells == self.cells[0]).all())

    def spacing_fs(self) -> float:
        """Time between two frames.

        Raises:
            ValueError: if there is none, or not always the same.
        """
        path = self.source.path
        if len(self.numbers) < 2:
            raise ValueError(f"{path}: a single frame says nothing of time")
        if self.times_fs is None:
            raise ValueError(
                f"{path} does not say the time between its frames: give --timestep (timestep_fs)"
            )
        steps = np.diff(self.times_fs)
        odd = np.flatnonzero(~(np.abs(steps - steps[0]) <= 1e-3 * abs(steps[0])))
        if steps[0] <= 0 or len(odd):
            at = int(odd[0]) if len(odd) else 0
            raise ValueError(
                f"{path}: frame {self.numbers[at + 1]}: time: {steps[at]:g} fs after the frame "
                f"before, the first two are {steps[0]:g} fs apart: choose evenly spaced frames "
                "with --from, --to"
            )
        return float((self.times_fs[-1] - self.times_fs[0]) / (len(steps)))


def record(
    source: Source,
    *,
    start: int | str | None = None,
    stop: int | str | None = None,
    every: int = 1,
    timestep_fs: float | int | None = None,
) -> Recording:
    """Read the frames of a trajectory that are to be looked at.

    Args:
        source: the trajectory.
        start, stop: the first frame, and the one before which to stop; counted from 0, or times
            such as ``"5ps"`` (of which the end is included). All frames unless given.
        every: take every so many frames.
        timestep_fs: time between frames of the file, where it does not say.

    Raises:
        ValueError: if a frame is not what the others are, or there is none; one line that names
            the file, the frame and the field.
    """
    first, last = _moment("from", start), _moment("to", stop)
    if every < 1:
        raise ValueError(f"every must be at least 1 frame, not {every}")
    if timestep_fs is not None and not timestep_fs > 0:
        raise ValueError(f"timestep must be positive, not {timestep_fs}")
    numbers: list[int] = []
    cells: list[np.ndarray] = []
    times: list[float | None] = []
    origin: tuple[int, float] | None = None  # number and time of the first frame that tells one
    low = first if isinstance(first, int) else 0
    high = last if isinstance(last, int) else None
    with _Rows() as positions, _Rows() as velocities:
        for number, frame in source.frames(low, high):
            _check(source, number, frame)
            time, origin = _time(source, number, frame.time_fs, timestep_fs, origin)
            if isinstance(first, float) or isinstance(last, float):
                if time is None:
                    raise ValueError(
                        f"{source.path} does not say the time of its frames: give --timestep "
                        "(timestep_fs), or count frames"
                    )
                if isinstance(first, float) and time < first * (1 - 1e-12):
                    continue
                if isinstance(last, float) and time > last * (1 + 1e-12):
                    break
            if numbers and (number - numbers[0]) % every:
                continue
            if numbers and (frame.velocities is None) != (velocities.count == 0):
                raise ValueError(
                    f"{source.path}: frame {number}: velocities: some frames have them, others not"
                )
            numbers.append(number)
            times.append(time)
            cells.append(np.array(frame.cell, float))
            positions.append(frame.positions)
            if frame.velocities is not None:
                velocities.append(frame.velocities)
        if not numbers:
            raise ValueError(f"{source.path}: no frames from {start or 0} to {stop or 'the end'}")
        known = all(time is not None for time in times)
        return Recording(
            source=source,
            numbers=np.asarray(numbers),
            positions=positions.mapped(),
            cells=np.asarray(cells),
            velocities=velocities.mapped() if velocities.count else None,
            times_fs=np.asarray(times, float) if known else None,
        )


def _moment(name: str, value: int | str | None) -> int | float | None:
    """A number of a frame as int, a time in fs as float."""
    if value is None or isinstance(value, int):
        number = value
    else:
        match = re.fullmatch(r"\s*(\d+|\d*\.\d+|\d+\.)\s*(fs|ps|ns)?\s*", value)
        if match is None or (match[2] is None and not match[1].isdigit()):
            raise ValueError(
                f"{name}: write the number of a frame, or a time such as 5ps or 500fs, "
                f"not {value!r}"
            )
        if match[2] is not None:
            return float(match[1]) * _FEMTOSECONDS[match[2]]
        number = int(match[1])
    if number is not None and number < 0:
        raise ValueError(f"{name}: frames are counted from 0, not {number}")
    return number


def _time(
    source: Source,
    number: int,
    told: float | None,
    timestep_fs: float | int | None,
    origin: tuple[int, float] | None,
) -> tuple[float | None, tuple[int, float] | None]:
    """Time of a frame, and the first one that the file tells; refuses two that contradict."""
    if timestep_fs is None:
        return told, origin
    if told is None:
        return number * float(timestep_fs), origin
    if origin is None:
        return told, (number, told)
    expected = (number - origin[0]) * timestep_fs
    if abs(told - origin[1] - expected) > 1e-3 * expected:
        apart = (told - origin[1]) / (number - origin[0])
        raise ValueError(
            f"{source.path}: frame {number}: time: the file has its frames {apart:g} fs apart, not "
            f"{timestep_fs:g}: leave out --timestep (timestep_fs)"
        )
    return told, origin


def _check(source: Source, number: int, frame: Frame) -> None:
    """Refuse frames that no analysis can use."""
    atoms = len(source.symbols)
    fields: list[tuple[str, Any]] = [("positions", frame.positions)]
    if frame.velocities is not None:
        fields.append(("velocities", frame.velocities))
    for name, values in fields:
        if values.shape != (atoms, 3):
            raise ValueError(
                f"{source.path}: frame {number}: {name}: {len(values)} atoms, not the {atoms} of "
                "the first frame"
            )
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{source.path}: frame {number}: {name}: that of atom {int(np.argmin(finite))} is "
                "not finite"
            )
    periodic = np.asarray(frame.cell)[list(source.pbc)]
    finite = bool(np.isfinite(periodic).all())
    if not finite or (len(periodic) and np.linalg.matrix_rank(periodic, 1e-6) < len(periodic)):
        raise ValueError(
            f"{source.path}: frame {number}: cell: it has no volume along its periodic directions"
        )


class _Rows:
    """Arrays of one shape, appended to a temporary file. The system keeps small ones in memory."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._shape: tuple[int, ...] = ()
        self.count = 0

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # what is mapped stays

    def append(self, values: np.ndarray) -> None:
        self._shape = values.shape
        self._file.write(np.ascontiguousarray(values, np.float64).tobytes())
        self.count += 1

    def mapped(self) -> np.ndarray:
        self._file.flush()
        return np.memmap(self._file, np.float64, "r", shape=(self.count, *self._shape))


def pieces(recording: Recording, megabytes: int = 64) -> Iterator[slice]:
    """Ranges of frames whose positions are not more than that in memory."""
    size = max(1, megabytes * 2**20 // (24 * len(recording.source.symbols)))
    for start in range(0, len(recording.numbers), size):
        yield slice(start, min(start + size, len(recording.numbers)))
