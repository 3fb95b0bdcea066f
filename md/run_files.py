"""The files of a run: their names, those that grow, and those of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from md.durable import GrowingText
from md.extxyz import formatted
from md.parts import Part
from md.trajectory import Trajectory, TrajectorySettings, open_trajectory

LOG = "log.csv"
FINAL = "final.extxyz"
LAST_GOOD = "last_good.extxyz"
CHECKPOINT = "checkpoint.npz"
ROWS = "checkpoint-rows"
FIGURE = "run.png"
UNCERTAIN = "uncertain.extxyz"

_EARLIER = (
    "*.csv", "*.png", "trajectory", "trajectory.*", FINAL, LAST_GOOD, CHECKPOINT, f"{ROWS}-*",
    UNCERTAIN, "replica-*", "*.partial",
)  # fmt: skip

Line = Mapping[str, float | int]


class RunFiles:
    """The growing files of one replica.

    Args:
        folder: where they are.
        columns: of the log.
        settings: what to keep of frames; None: there will be none.
        uncertain: whether there may be frames that are uncertain.
        mark: what ``commit`` returned, to cut back to; None for new files.
    """

    def __init__(
        self,
        folder: Path,
        columns: Sequence[str],
        settings: TrajectorySettings | None,
        uncertain: bool,
        mark: dict[str, Any] | None,
    ) -> None:
        self._columns = columns
        self._log = GrowingText(folder / LOG, None if mark is None else mark["log"])
        self._trajectory: Trajectory | None = None
        if settings is not None:
            old = None if mark is None else mark["trajectory"]
            self._trajectory = open_trajectory(folder, settings, old)
        self._uncertain: GrowingText | None = None
        if uncertain:
            size = None if mark is None else mark.get("uncertain")  # None: a new file
            self._uncertain = GrowingText(folder / UNCERTAIN, size)
        if mark is None:
            self._log.write(",".join(columns) + "\n")

    def write(self, lines: Sequence[Line], frames: Sequence[Atoms]) -> None:
        rows = (",".join(_cell(line[name]) for name in self._columns) for line in lines)
        self._log.write("".join(row + "\n" for row in rows))
        if self._trajectory is not None:
            self._trajectory.write(frames)

    def write_part(self, part: Part) -> None:
        if self._trajectory is not None:
            self._trajectory.write_part(part)

    def flag(self, frames: Sequence[Atoms]) -> None:
        assert self._uncertain is not None
        self._uncertain.write("".join(map(formatted, frames)))

    def commit(self) -> dict[str, Any]:
        """Force all to disk; returns what to cut back to."""
        trajectory = None if self._trajectory is None else self._trajectory.commit()
        uncertain = None if self._uncertain is None else self._uncertain.commit()
        return {"log": self._log.commit(), "trajectory": trajectory, "uncertain": uncertain}

    def finish(self) -> None:
        if self._trajectory is not None:
            self._trajectory.finish()

    def close(self) -> None:
        self._log.close()
        if self._trajectory is not None:
            self._trajectory.close()
        if self._uncertain is not None:
            self._uncertain.close()


def read_log(path: Path, columns: Sequence[str]) -> list[Line]:
    """Lines of a log.csv; empty cells are NaN.

    Raises:
        ValueError: if it has other columns.
    """
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    names = header.split(",")
    if names != list(columns):
        raise ValueError(
            f"{path} has columns {header}, not {','.join(columns)}: restart with the same settings"
        )
    lines = [
        {n: float(cell) if cell else np.nan for n, cell in zip(names, row.split(","), strict=True)}
        for row in rows
    ]
    return [{**line, "step": int(line["step"])} for line in lines]


def _cell(value: Any) -> str:
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return "" if np.isnan(value) else repr(round(float(value), 9))


def set_aside(folder: Path) -> None:
    """Move the files of an earlier run into a folder of their own: nothing is overwritten."""
    earlier = [folder / LOG, folder / CHECKPOINT, *folder.glob(f"replica-*/{LOG}")]
    if not any(path.exists() for path in earlier):
        return
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    aside = folder / f"previous-{number}"
    aside.mkdir()
    for path in {path for pattern in _EARLIER for path in folder.glob(pattern)}:
        path.rename(aside / path.name)
