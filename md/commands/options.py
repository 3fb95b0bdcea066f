"""What options of commands may say, and options that several commands have."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

Value = float | tuple[Any, ...]


def number_or_ramp(text: str) -> Value:
    """``300``; ``300:1000``, from one to the other; ``1,2,3``, along x, y and z; or both."""
    try:
        ends = [
            tuple(float(x) for x in end.split(",")) if "," in end else float(end)
            for end in text.split(":")
        ]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2):
        raise argparse.ArgumentTypeError(f"write a number, or START:END, not {text!r}")
    return ends[0] if len(ends) == 1 else tuple(ends)


def span(text: str) -> tuple[float, float]:
    """``1000:5000``."""
    try:
        start, end = (float(x) for x in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"write START:END, not {text!r}") from None
    return start, end


def numbers(text: str) -> tuple[float, ...]:
    """``1,2,3``."""
    try:
        return tuple(float(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"write numbers with commas, not {text!r}") from None


def grid(text: str) -> tuple[int, int, int] | str:
    """``2,2,1`` or ``auto``."""
    if text == "auto":
        return text
    try:
        a, b, c = (int(x) for x in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"write three whole numbers with commas, such as 2,2,1, or auto, not {text!r}"
        ) from None
    return a, b, c


def duration(text: str) -> float:
    """Seconds, from ``3600`` or ``1:00:00`` or ``30:00``."""
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if not 1 <= len(parts) <= 3:
        raise argparse.ArgumentTypeError(f"write seconds, or H:MM:SS, not {text!r}")
    return sum(part * 60**place for place, part in enumerate(reversed(parts)))


def add_dtype(parser: argparse._ActionsContainer, default: str | None = "float32") -> None:
    """The option --dtype; without a default where something else may say it."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        default=default,
        help="precision of the arithmetic (default: float32)",
    )


def add_processes(group: Any) -> None:
    """Options by which the processes of one run find each other."""
    group.add_argument(
        "--distributed",
        action="store_true",
        help="run with the other processes that srun, mpirun or a TPU pod has started",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where process 0 listens, if the launcher does not tell; and where it tells nothing,",
    )
    group.add_argument("--processes", type=int, metavar="N", help="how many there are, and")
    group.add_argument("--process", type=int, metavar="I", help="which this is, from 0")


def together(options: argparse.Namespace) -> contextlib.AbstractContextManager[None]:
    """A context in which this process has joined those that the options name, if any."""
    from md.processes import Launch, joined

    launch = Launch(options.coordinator, options.processes, options.process)
    several = options.distributed or launch != Launch()
    return joined(launch) if several else contextlib.nullcontext()
