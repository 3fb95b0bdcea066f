"""``results.json``, and the tables between marks in the README that are made from it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results.json", HERE / "README.md"


def load() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def store(part: str, value: Any) -> None:
    """Replace one part of the results."""
    RESULTS.write_text(json.dumps(load() | {part: value}, indent=1, sort_keys=True) + "\n")


def put(part: str, text: str) -> None:
    """Put text between the marks of a part in the README.

    Raises:
        ValueError: if the marks are not there.
    """
    begin, end = f"<!-- {part}: made by {part}.py -->", f"<!-- end of {part} -->"
    whole = README.read_text()
    if begin not in whole or end not in whole:
        raise ValueError(f"{README}: has no lines {begin} and {end}")
    before, rest = whole.split(begin, 1)
    README.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
