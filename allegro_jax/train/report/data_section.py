"""The section of a report about the data: composition and distributions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from allegro_jax.train import figures
from allegro_jax.train.report import page
from allegro_jax.train.report.record import RunRecord

PARTS = ("training", "validation", "test")
COLOURS = dict(zip(PARTS, (figures.TRAIN, figures.VALID, figures.TEST), strict=True))


def data_section(record: RunRecord) -> list[str]:
    held = {part: record.contents[part] for part in PARTS if part in record.contents}
    labels = [f"with {name}" for name in ("energy", "forces", "stress")]
    species = list(dict.fromkeys(s for one in held.values() for s in one["atoms_by_species"]))
    parts = [
        page.table(
            ["", "frames", "atoms", *labels],
            [
                [part, one["frames"], one["atoms"], *one["labels"].values()]
                for part, one in held.items()
            ],
        ),
        page.table(
            ["atoms", *species],
            [
                [part, *(one["atoms_by_species"].get(symbol, 0) for symbol in species)]
                for part, one in held.items()
            ],
        ),
    ]
    for name, title in (("formulas", "formula"), ("files", "file")):
        keys = list(dict.fromkeys(key for one in held.values() for key in one[name]))
        rows = [[key, *(one[name].get(key, 0) for one in held.values())] for key in keys]
        made = page.table([title, *(f"{part} frames" for part in held)], rows)
        others = max(one["other_formulas"] for one in held.values()) if name == "formulas" else 0
        if others:
            made += page.paragraph(f"and {others} more formulas", "quiet")
        parts.append(page.folded(f"{len(keys)} {title}s", made) if len(keys) > 8 else made)
    drawn = [
        page.picture(
            partial(_draw_shares, histogram=one, label=_labelled(one["name"], one["unit"])),
            one["name"],
        )
        for one in record.histograms
    ]
    drawn += [
        page.picture(
            partial(_draw_shares, histogram=one, label=f"{one['name']} distance (Å)"),
            f"distances {one['name']}",
        )
        for one in record.distances
    ]
    parts.append(page.figures(drawn))
    counted = ", ".join(f"{number} {part}" for part, number in record.sampled.items())
    parts.append(
        page.paragraph(
            f"Distributions of {counted} frames, evenly spaced; energies above the reference "
            "energies.",
            "quiet",
        )
    )
    return parts


def _draw_shares(axis: Axes, histogram: Mapping[str, Any], label: str) -> None:
    colours = [COLOURS[part] for part in histogram["counts"]]
    figures.draw_histogram(axis, histogram["edges"], histogram["counts"], label, colours=colours)


def _labelled(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name
