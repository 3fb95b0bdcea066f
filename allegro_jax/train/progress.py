"""What a user sees of a run: a live bar, a line per epoch, and metrics.csv."""

from __future__ import annotations

import csv
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

ERRORS = tuple(
    f"{quantity}_{kind}"
    for quantity in ("energy_per_atom", "forces", "stress")
    for kind in ("mae", "rmse")
)
COLUMNS = (
    "epoch",
    *(f"{part}_{quantity}" for part in ("train", "valid") for quantity in ("loss", *ERRORS)),
    "valid_loss_spread",
    "valid_forces_rmse_spread",
    "learning_rate",
    "seconds",
    "waiting_seconds",
)
GROUPS_FILE = "metrics_by_group.csv"
GROUP_COLUMNS = ("epoch", "kind", "group", *ERRORS)


class Progress:
    """A live bar on a terminal; elsewhere a line now and then."""

    def __init__(
        self,
        epochs: int,
        done: int,
        steps_per_epoch: int,
        stream: TextIO | None = None,
        *,
        step: int = 0,
    ):
        """From ``step`` steps after ``done`` epochs on."""
        self.stream = sys.stderr if stream is None else stream
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.live = self.stream.isatty()
        self.started, self.first = time.monotonic(), done
        self.spoken = -1e9
        self.bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=done * steps_per_epoch + step,
            file=self.stream,
            disable=not self.live,
            ncols=shutil.get_terminal_size().columns,
            bar_format="{desc} |{bar}| {percentage:3.0f}% {elapsed}, {remaining} left{postfix}",
        )
        self.bar.set_description_str(f"epoch {done + 1}/{epochs}, compiling")
        self.compiling = True

    def step(self) -> None:
        if self.compiling:
            self.bar.set_description_str(self.bar.desc.removesuffix(", compiling"))
            self.compiling = False
        self.bar.update()

    def epoch(self, row: Mapping[str, Any], best: int) -> None:
        """Tell of a finished epoch."""
        text = describe(row)
        done = int(row["epoch"])
        if self.live:
            self.bar.set_description_str(f"epoch {min(done + 1, self.epochs)}/{self.epochs}")
            self.bar.n = done * self.steps_per_epoch
            self.bar.set_postfix_str(text)
            return
        now = time.monotonic()
        if now - self.spoken < 10 and done not in (1, self.epochs):
            return
        self.spoken = now
        left = (now - self.started) / max(done - self.first, 1) * (self.epochs - done)
        print(
            f"epoch {done}/{self.epochs}: {text}; best in epoch {best}; {_minutes(left)} left",
            file=self.stream,
            flush=True,
        )

    def close(self) -> None:
        self.bar.close()


def describe(row: Mapping[str, Any]) -> str:
    """Losses and validation errors of an epoch, in a line."""
    found = summarise(
        {name.removeprefix("valid_"): row[name] for name in row if name.startswith("valid_")}
    )
    return f"loss {row['train_loss']:.3g}, valid {row['valid_loss']:.3g}; RMSE {found}"


def summarise(errors: Mapping[str, Any]) -> str:
    """Root-mean-square errors, in a line."""
    units = {"energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}
    return ", ".join(
        f"{name.split('_')[0]} {1000 * errors[f'{name}_rmse']:.3g} {unit}"
        for name, unit in units.items()
        if errors.get(f"{name}_rmse") is not None
    )


def closing_summary(
    errors: Mapping[str, Mapping[str, Any]], best_epoch: int, model: Path, report: Path
) -> list[str]:
    """The last lines of a run: what the model of the best epoch is worth, and where it is.

    Args:
        errors: of every part (validation, test), as :func:`allegro_jax.evaluation.errors_of`
            gives them.
        best_epoch: whose weights the model has.
        model, report: files.
    """
    rows = [
        (f"RMSE, {part}", f"{summarise(own)} ({own['frames']} frames)")
        for part, own in errors.items()
    ]
    rows += [("best epoch", str(best_epoch)), ("model", str(model)), ("report", str(report))]
    width = max(len(name) for name, _ in rows)
    return [f"  {name:{width}}  {value}" for name, value in rows]


def write_metrics(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``metrics.csv`` anew: epochs as rows, empty where there are no labels.

    Beside it, ``metrics_by_group.csv``: validation errors of every species and every file, where
    there are several.
    """
    _write(path, COLUMNS, rows)
    beside = path.with_name(GROUPS_FILE)
    beside.unlink(missing_ok=True)
    groups = [group for row in rows for group in _groups(row)]
    if groups:
        _write(beside, GROUP_COLUMNS, groups)


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Add an epoch to the files of :func:`write_metrics`."""
    _write(path, COLUMNS, [row], "a")
    beside, groups = path.with_name(GROUPS_FILE), _groups(row)
    if groups:
        _write(beside, GROUP_COLUMNS, groups, "a" if beside.exists() else "w")


def _write(
    path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], mode: str = "w"
) -> None:
    with path.open(mode, newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if mode == "w":
            writer.writeheader()
        writer.writerows(rows)


def _groups(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"epoch": row["epoch"], "kind": kind, "group": name, **found}
        for kind in ("species", "source")
        for name, found in row.get(f"valid_by_{kind}", {}).items()
    ]


def _minutes(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
