"""The files of a run: log.csv, trajectory.extxyz, final.extxyz, checkpoint.npz, figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from md.observables import LOG_COLUMNS

LOG = "log.csv"
TRAJECTORY = "trajectory.extxyz"
FINAL = "final.extxyz"
LAST_GOOD = "last_good.extxyz"
CHECKPOINT = "checkpoint.npz"
FIGURE = "run.png"
_ALL = (LOG, TRAJECTORY, FINAL, LAST_GOOD, CHECKPOINT, FIGURE)


class Output:
    """Where a run writes: a folder, or memory when there is none.

    Attributes:
        folder: the folder, or None.
        lines: lines of the log so far, as dictionaries.
        frames: frames so far; only kept where there is no folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, *, append: bool) -> None:
        self.folder = None if folder is None else Path(folder)
        self.lines: list[dict[str, float | int]] = []
        self.frames: list[Atoms] = []
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if append:
            return
        _set_aside(self.folder)
        with (self.folder / LOG).open("w") as file:
            file.write(",".join(LOG_COLUMNS) + "\n")
        (self.folder / TRAJECTORY).touch()

    def path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / name

    def sizes(self) -> dict[str, int]:
        """Bytes in each file that grows: what a restart cuts it back to."""
        if self.folder is None:
            return {}
        return {name: (self.folder / name).stat().st_size for name in (LOG, TRAJECTORY)}

    def cut(self, sizes: dict[str, int]) -> None:
        """Cut files back to sizes they had before, and read the log up to there."""
        assert self.folder is not None
        for name, size in sizes.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size < size:
                raise ValueError(
                    f"{path} is shorter than when the checkpoint was written: cannot go on"
                )
            os.truncate(path, size)
        self.lines = read_log(self.folder / LOG)

    def write_lines(self, lines: list[dict[str, float | int]]) -> None:
        self.lines.extend(lines)
        if self.folder is None or not lines:
            return
        with (self.folder / LOG).open("a") as file:
            file.writelines(",".join(_cell(line[c]) for c in LOG_COLUMNS) + "\n" for line in lines)

    def write_frames(self, frames: list[Atoms]) -> None:
        if self.folder is None:
            self.frames.extend(frames)
        elif frames:
            with (self.folder / TRAJECTORY).open("a") as file:
                ase.io.write(file, frames, format="extxyz")

    def write_structure(self, name: str, atoms: Atoms) -> None:
        if self.folder is not None:
            ase.io.write(self.folder / name, atoms, format="extxyz")

    def log(self) -> dict[str, np.ndarray]:
        """The log as columns."""
        columns = {name: np.asarray([line[name] for line in self.lines]) for name in LOG_COLUMNS}
        columns["step"] = columns["step"].astype(int)
        return columns


def read_log(path: Path) -> list[dict[str, float | int]]:
    """Lines of a log.csv; empty cells are NaN."""
    header, *rows = path.read_text().splitlines()
    names = header.split(",")
    if tuple(names) != LOG_COLUMNS:
        raise ValueError(f"{path} has columns {header}, not {','.join(LOG_COLUMNS)}")
    lines: list[dict[str, Any]] = [
        {n: float(cell) if cell else np.nan for n, cell in zip(names, row.split(","), strict=True)}
        for row in rows
    ]
    return [{**line, "step": int(line["step"])} for line in lines]


def _cell(value: float | int) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if np.isnan(value) else repr(round(float(value), 9))


def _set_aside(folder: Path) -> None:
    """Move the files of an earlier run into a folder of their own: nothing is overwritten."""
    present = [folder / name for name in _ALL if (folder / name).exists()]
    if not present:
        return
    number = 1
    while (folder / f"previous-{number}").exists():
        number += 1
    aside = folder / f"previous-{number}"
    aside.mkdir()
    for path in present:
        path.rename(aside / path.name)
