"""A live line about a run: steps, ns/day, temperature, drift, time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
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
        atoms: number of atoms, for the drift per atom.
        shown: whether to show anything.
        replicas: how many run side by side; None without. The line is then about the first, and
            the speed is that of each.
    """

    def __init__(
        self, total: int, done: int, atoms: int, shown: bool, replicas: int | None = None
    ) -> None:
        self._atoms = atoms
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            disable=not shown,
        )
        name = "dynamics" if replicas is None else f"{replicas} replicas"
        self._task = self._progress.add_task(name, total=total, completed=done, status="compiling")
        self._started: tuple[float, float] | None = None
        self._first_conserved: float | None = None

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

    def update(self, step: int, time_fs: float, line: Mapping[str, float | int] | None) -> None:
        """Tell the meter where the run is.

        Args:
            step, time_fs: of the state.
            line: the last one of the log, if there is one yet.
        """
        now = time.monotonic()
        if self._started is None:
            self._started = (now, time_fs)  # what came before was compilation
        began, first = self._started
        speed = (time_fs - first) / (now - began) if time_fs > first else 0.0  # fs/s
        words = [f"{speed * 1e-6 * 86400:.3g} ns/day"] if speed else []
        if line is not None:
            if self._first_conserved is None:
                self._first_conserved = line["conserved_eV"]
            drift = 1000 * (line["conserved_eV"] - self._first_conserved) / self._atoms
            words += [f"{line['temperature_K']:.0f} K", f"drift {drift:+.3f} meV/atom"]
        self._progress.update(self._task, completed=step, status=", ".join(words))
