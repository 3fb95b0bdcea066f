"""What options of commands may say, and options that several commands have."""

from __future__ import annotations

import argparse
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
