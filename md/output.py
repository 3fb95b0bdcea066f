"""The files of a run, written by a thread of their own while the run goes on.

A folder holds, for each replica in a sub-folder ``replica-000`` ... where there are several::

    log.csv                 a line every so many steps
    trajectory.*            see :mod:`md.trajectory`
    uncertain.extxyz        frames at which a committee was uncertain, where that is looked at
    NAME.csv, *.png         tables of observables and figures, at the end
    final.extxyz            the last structure; last_good.extxyz where a run had to stop

and, always in the folder itself, ``checkpoint.npz``, on domains with a folder ``checkpoint-rows-0``
or ``-1`` for what belongs to atoms. All that grows can be read while the run goes
on. Files of an earlier run, and with them all tables and figures, are moved into ``previous-1`` and
so on.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from ase import Atoms

from md import checkpoint, row_files
from md.background import Background
from md.durable import replacing
from md.extxyz import formatted
from md.parts import Part, joined, whole
from md.processes import Team
from md.row_files import Rows
from md.run_files import CHECKPOINT, LOG, ROWS, Line, RunFiles, read_log, set_aside
from md.tables import write_csv
from md.trajectory import TrajectorySettings

Table = dict[str, np.ndarray]


class Output:
    """Where a run writes: a folder, or memory where there is none.

    Lines, frames and checkpoints reach the files in the order of the calls; the calls themselves
    return at once. What goes wrong in writing is raised by the next call, at the latest by
    ``close``. As a context manager an output is finished when the block ends well, and closed in
    any case::

        with Output(folder, columns, trajectory=TrajectorySettings("h5md")) as files:
            files.write(lines, frames)
            files.save(tree, {"settings": ...})

    To go on with an earlier run, open the folder with ``restart``, look at ``facts()``, and call
    ``restore`` before anything is written: it gives the pytree of the checkpoint and cuts all files
    back to what they held when it was written. Not one frame is then missing or there twice.

    Args:
        folder: where to write; None keeps lines and frames in memory.
        columns: of the log, ``step`` first.
        trajectory: what to keep of frames; None: there will be none.
        uncertain: whether there may be frames that are uncertain.
        replicas: how many; None for a run of one system, without sub-folders.
        restart: whether to go on with what the folder holds.
        writes: if false, the folder is only read: another process writes to it.

    Attributes:
        folder: the folder, or None.
        columns: of the log.

    Raises:
        ValueError: for ``restart`` without a folder or without a checkpoint in it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        columns: Sequence[str],
        *,
        trajectory: TrajectorySettings | None = None,
        uncertain: bool = False,
        replicas: int | None = None,
        restart: bool = False,
        writes: bool = True,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.columns = tuple(columns)
        self._settings = trajectory
        self._flags = uncertain
        self._writes = writes
        self._lines: list[list[Line]] = [[] for _ in range(replicas or 1)]
        self._frames: list[list[Atoms]] = [[] for _ in range(replicas or 1)]
        self._uncertain: list[list[Atoms]] = [[] for _ in range(replicas or 1)]
        self._files: list[RunFiles] = []
        self._writer: Background | None = None
        self._rows: str | None = None
        if self.folder is None:
            if restart:
                raise ValueError("restart needs the output folder of the run to go on with")
            return
        self._folders = [self.folder]
        if replicas is not None:
            self._folders = [self.folder / f"replica-{r:03d}" for r in range(replicas)]
        if restart:
            self.facts()  # refuses a folder without a checkpoint
            return
        if not writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        set_aside(self.folder)
        self._open([None] * len(self._folders))

    def path(self, name: str, replica: int | None = None) -> Path | None:
        """Path of a file, in the folder or in that of a replica; None without a folder."""
        if self.folder is None or not self._writes:
            return None
        return (self.folder if replica is None else self._folders[replica]) / name

    def write(self, lines: Sequence[Line], frames: Sequence[Atoms] = (), replica: int = 0) -> None:
        """Append lines to the log and frames to the trajectory of a replica.

        Args:
            lines: with a number for each of ``columns``; NaN becomes an empty cell.
            frames: see :class:`md.trajectory.Trajectory`. In memory they keep velocities and forces
                whatever the settings.
        """
        self._lines[replica].extend(lines)
        if not self._writes:
            return
        if self.folder is not None:
            files = self._opened[replica]
            self._submit(lambda: files.write(lines, frames))
        elif self._settings is not None:
            everything = self._everything(self._settings)
            self._frames[replica].extend(everything.select(atoms) for atoms in frames)

    @staticmethod
    def _everything(settings: TrajectorySettings) -> TrajectorySettings:
        return dataclasses.replace(settings, velocities=True, forces=True)

    def write_parts(self, parts: Iterable[Part]) -> None:
        """Append a frame that comes in parts, of the atoms of :attr:`wanted` alone.

        All processes must call, for they all take part in its making.
        """
        if not self._writes:
            for _ in parts:
                pass
        elif self.folder is None:
            frame = joined(parts)
            if self._settings is not None:
                self._frames[0].append(self._everything(self._settings).reduced(frame))
        else:
            (files,) = self._opened
            for part in parts:
                self._submit(partial(files.write_part, part))

    @property
    def wanted(self) -> tuple[int, ...] | None:
        """The atoms that a trajectory keeps, in its order; None: all."""
        chosen = None if self._settings is None else self._settings.atoms
        return None if chosen is None else tuple(chosen)

    def flag(self, frames: Sequence[Atoms], replica: int = 0) -> None:
        """Append frames to those that are uncertain."""
        if not self._writes:
            return
        if self.folder is None:
            self._uncertain[replica].extend(frames)
        elif frames:
            files = self._opened[replica]
            self._submit(lambda: files.flag(frames))

    def save(
        self, tree: Any, facts: Mapping[str, Any], rows: Mapping[str, jax.Array] | None = None
    ) -> None:
        """Write a checkpoint, of this pytree and of all that was written before this call.

        Args:
            tree: arrays, random keys and neighbour lists, fetched from the device at once.
            facts: what else to keep (JSON).
            rows: arrays of many devices, for which all processes must call. Each writes its own
                part, before this returns.
        """
        if self.folder is None:
            return
        folder = None if rows is None else self._write_rows(rows)
        if not self._writes:
            return
        path, snapshot = self.folder / CHECKPOINT, checkpoint.snapshot(tree)
        files = self._opened

        def task() -> None:
            marks = [each.commit() for each in files]
            about = {"marks": marks, "trajectory": self._about_trajectory(), "rows": folder}
            checkpoint.save(path, snapshot, {"run": dict(facts), "files": about})
            for old in path.parent.glob(f"{ROWS}-*"):
                if old.name != folder:
                    shutil.rmtree(old)

        self._submit(task)

    def _write_rows(self, rows: Mapping[str, jax.Array]) -> str:
        """Write rows beside those of the checkpoint that there is; returns in which folder."""
        assert self.folder is not None
        self._rows = f"{ROWS}-1" if self._rows == f"{ROWS}-0" else f"{ROWS}-0"
        folder, team = self.folder / self._rows, Team.of_all()
        if self._writes:
            assert self._writer is not None
            self._writer.wait()  # who may still be busy with what was there
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        team.wait()
        row_files.write(folder, rows)
        team.wait()
        return self._rows

    def facts(self) -> dict[str, Any]:
        """What ``save`` was told when it wrote the checkpoint that is in the folder."""
        return self._stored()["run"]

    def restore(self, template: Any, species: Any, resizable: Sequence[str] = ()) -> Any:
        """The pytree of the checkpoint; all files are cut back to it.

        Args:
            template, species, resizable: see :func:`md.checkpoint.load`.

        Raises:
            ValueError: if the checkpoint belongs to another kind of run or a file lost something.
        """
        assert self.folder is not None
        about = self._stored()["files"]
        if about["trajectory"] != self._about_trajectory():
            raise ValueError(
                f"{self.folder / CHECKPOINT} was written with another trajectory: "
                f"{about['trajectory']}, not {self._about_trajectory()}; restart with the same"
            )
        if len(about["marks"]) != len(self._folders):
            raise ValueError(
                f"{self.folder / CHECKPOINT} was written with {len(about['marks'])} replicas, not "
                f"{len(self._folders)}: restart with as many"
            )
        tree = checkpoint.load(self.folder / CHECKPOINT, template, species, resizable)
        self._rows = about.get("rows")
        if self._writes:
            self._open(about["marks"])
        for replica, folder in enumerate(self._folders):
            self._lines[replica] = list(read_log(folder / LOG, self.columns))
        return tree

    def rows(self, axes: Mapping[str, int]) -> dict[str, Rows]:
        """The arrays of many devices of the checkpoint that is in the folder.

        Args:
            axes: names, and along which axis each is cut.

        Raises:
            ValueError: if one is absent or incomplete.
        """
        assert self.folder is not None
        name = self._stored()["files"].get("rows")
        if name is None:
            raise ValueError(
                f"{self.folder / CHECKPOINT} was written without domains: restart without them"
            )
        return {each: Rows(self.folder / name, each, axis) for each, axis in axes.items()}

    def write_structure(
        self, name: str, structure: Atoms | Iterable[Part], replica: int | None = None
    ) -> None:
        """Write one structure, with all that it carries, as extended XYZ; at once.

        All processes must call for one in parts, for they all take part in its making.
        """
        if self.folder is None:
            return
        parts = whole(structure) if isinstance(structure, Atoms) else structure
        path = self.path(name, replica)
        if path is None:  # another process writes
            for _ in parts:
                pass
            return
        with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
            for part in parts:
                file.write(formatted(part.atoms, first=part.first, total=part.total))

    def write_table(
        self, name: str, columns: Mapping[str, np.ndarray], replica: int | None = None
    ) -> None:
        """Write columns of equal length as NAME.csv; at once."""
        path = self.path(f"{name}.csv", replica)
        if path is not None:
            write_csv(path, columns)

    def last_line(self, replica: int = 0) -> Line | None:
        return self._lines[replica][-1] if self._lines[replica] else None

    def log(self, replica: int = 0) -> Table:
        """The log of a replica as columns."""
        lines = self._lines[replica]
        table = {name: np.asarray([line[name] for line in lines], float) for name in self.columns}
        return table | {"step": table["step"].astype(int)}

    def frames(self, replica: int = 0) -> list[Atoms]:
        """The frames of a replica; none where they are in the folder."""
        return self._frames[replica]

    def uncertain(self, replica: int = 0) -> list[Atoms]:
        """The uncertain frames of a replica; none where they are in the folder."""
        return self._uncertain[replica]

    def finish(self) -> None:
        """Bring the files of a run that came to its end into their final form, and close them."""
        try:
            for files in self._files:
                self._submit(files.finish)
        finally:
            self.close()

    def close(self) -> None:
        """Wait until all is written, and let go of the files. More than once does no harm."""
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        finally:
            files, self._files = self._files, []
            for each in files:
                each.close()

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self.close()
        except Exception as also:  # must not hide why the block ended
            if also is not error:
                error.add_note(f"and its output could not be written: {also}")

    @property
    def _opened(self) -> list[RunFiles]:
        if not self._files:
            raise RuntimeError("the output is closed, or was opened to restart but not restored")
        return self._files

    def _open(self, marks: Sequence[dict[str, Any] | None]) -> None:
        for folder, mark in zip(self._folders, marks, strict=True):
            folder.mkdir(exist_ok=True)
            self._files.append(RunFiles(folder, self.columns, self._settings, self._flags, mark))
        self._writer = Background()

    def _submit(self, task: Callable[[], None]) -> None:
        if self._writer is not None:
            self._writer.submit(task)

    def _stored(self) -> dict[str, Any]:
        assert self.folder is not None
        return checkpoint.read_facts(self.folder / CHECKPOINT)

    def _about_trajectory(self) -> dict[str, Any] | None:
        if self._settings is None:
            return None
        about = dataclasses.asdict(self._settings)
        atoms = self._settings.atoms
        return about | {"atoms": None if atoms is None else list(atoms)}  # as JSON has it
