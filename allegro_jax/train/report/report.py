"""The report of a run: one page with all there is to see, which needs nothing beside itself."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from allegro_jax.train.report import page
from allegro_jax.train.report.data_section import data_section
from allegro_jax.train.report.error_sections import (
    file_section,
    headline,
    parity_section,
    species_section,
    worst_frames_section,
)
from allegro_jax.train.report.record import History, RunRecord, load_record
from allegro_jax.train.report.run_sections import (
    configuration_section,
    duration,
    learning_section,
    timing_section,
)

FILE = "report.html"
SECTIONS = {
    "errors": "Errors",
    "data": "Data",
    "learning": "Learning",
    "parity": "Parity",
    "species": "Species",
    "files": "Files",
    "worst": "Worst frames",
    "timing": "Timing",
    "configuration": "Configuration",
    "environment": "Versions and hardware",
}


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a run, from what the run has left there.

    Args:
        folder: holds ``report.json`` (:mod:`.record`) and ``metrics.csv``.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: one of them cannot be read.
    """
    folder = Path(folder)
    path = folder / FILE
    text = render(folder.resolve().name, load_record(folder), read_metrics(folder / "metrics.csv"))
    path.write_text(text, encoding="utf-8")
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv``; what is empty is left out.

    Raises:
        FileNotFoundError, ValueError: it is missing or cannot be read.
    """
    try:
        with path.open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items() if value}
                | {"epoch": int(row["epoch"])}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not the metrics of a run ({error})") from None


def render(title: str, record: RunRecord, history: History) -> str:
    """The page."""
    made = {
        "errors": headline(record, history),
        "data": data_section(record),
        "learning": learning_section(history),
        "parity": parity_section(record),
        "species": species_section(record),
        "files": file_section(record),
        "worst": worst_frames_section(record),
        "timing": timing_section(record, history),
        "configuration": configuration_section(record),
        "environment": [page.table(["", ""], [list(item) for item in record.environment.items()])],
    }
    made = {anchor: parts for anchor, parts in made.items() if any(parts)}
    sections = [
        page.heading(SECTIONS[anchor], 2, anchor) + "\n" + "\n".join(parts)
        for anchor, parts in made.items()
    ]
    return page.page(
        title,
        page.heading(title, 1),
        page.paragraph(_summary(record, history)),
        page.paragraph(record.model["file"], "quiet"),
        page.navigation({anchor: SECTIONS[anchor] for anchor in made}),
        *sections,
    )


def _summary(record: RunRecord, history: History) -> str:
    model = record.model
    committee = f", in each of {model['members']} members" if model["members"] > 1 else ""
    took = f"{duration(history[-1]['seconds'])}, " if history else ""
    return (
        f"{record.outcome} {took}{len(history)} epochs; the model is that of epoch "
        f"{model['best_epoch']} and has {model['weights']} weights{committee}."
    )
