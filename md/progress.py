"""A live line about a run: steps, ns/day, temperature, drift, time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class ProgressMeter:
    """Shows how a run is doing, while used as a context.

    Args:
        total, done: steps of the run, and how many of them were done before.
        timestep_fs: fs.
        atoms: number of atoms, for the drift per atom.
        shown: whether to show anything.
    """

    def __init__(self, total: int, done: int, timestep_fs: float, atoms: int, shown: bool) -> None:
        self._timestep_fs, self._atoms = timestep_fs, atoms
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            disable=not shown,
        )
        self._task = self._progress.add_task(
            "dynamics", total=total, completed=done, status="compiling"
        )
        self._started: tuple[float, int] | None = None
        self._first_conserved: float | None = None
        self._drift = 0.0

    def __enter__(self) -> ProgressMeter:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def update(self, step: int, temperature_K: float, conserved_eV: float) -> None:
        """Tell the meter where the run is."""
        now = time.monotonic()
        if self._first_conserved is None:
            self._first_conserved = conserved_eV
        if self._started is None:
            self._started = (now, step)  # what came before was compilation
        began, first = self._started
        rate = (step - first) / (now - began) if step > first else 0.0
        drift = 1000 * (conserved_eV - self._first_conserved) / self._atoms
        speed = f"{rate * self._timestep_fs * 1e-6 * 86400:.3g} ns/day " if rate else ""
        status = f"{speed}{temperature_K:.0f} K, drift {drift:+.3f} meV/atom"
        self._progress.update(self._task, completed=step, status=status)
