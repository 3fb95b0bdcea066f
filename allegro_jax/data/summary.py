"""What is in a data set: composition, ranges of labels, distances, neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.frames import Frame
from allegro_jax.data.statistics import find_species, statistics

UNITS = {
    "atoms": "",
    "energy_per_atom_eV": "eV/atom",
    "force_eV_per_A": "eV/Å",
    "stress_eV_per_A3": "eV/Å³",
    "volume_per_atom_A3": "Å³/atom",
    "neighbours": "",
}


def summarise(frames: Sequence[Frame], cutoff: float) -> dict[str, Any]:
    """A summary of frames, as JSON data.

    Args:
        frames: at least one.
        cutoff: up to which distances and neighbours are counted, Å.

    Returns:
        ``frames``, ``atoms``, ``atoms_by_species``, ``compositions`` (formula to frames, the most
        frequent first), ``labels`` (how many frames have each), ``pbc`` (likewise), ``files``, and
        with their units in the names ``force_rms``, ``ranges``, ``shortest_distances``, and within
        ``cutoff`` ``average_neighbours`` in all and by species of the centre.
    """
    found = statistics(build_dataset(frames, find_species(frames), cutoff))
    formulas = Counter(frame.to_atoms().get_chemical_formula() for frame in frames)
    periodic = Counter("".join("FT"[int(one)] for one in frame.pbc) for frame in frames)
    return {
        "frames": len(frames),
        "atoms": sum(len(frame) for frame in frames),
        "atoms_by_species": found.atoms_by_species,
        "compositions": dict(formulas.most_common()),
        "labels": {
            name: sum(getattr(frame, name) is not None for frame in frames)
            for name in ("energy", "forces", "stress")
        },
        "pbc": dict(periodic.most_common()),
        "files": dict(Counter(frame.source for frame in frames)),
        "force_rms_eV_per_A": found.force_rms,
        "ranges": {name: list(ends) for name, ends in found.ranges.items()},
        "cutoff_A": cutoff,
        "shortest_distances_A": found.shortest_distances,
        "average_neighbours": found.average_neighbours,
        "average_neighbours_by_species": found.average_neighbours_by_species,
    }


def table(summary: dict[str, Any], most: int = 10) -> str:
    """A summary for reading; of compositions the ``most`` frequent ones."""
    labels = ", ".join(f"{count} with {name}" for name, count in summary["labels"].items())
    lines = [
        f"{summary['frames']} frames, {summary['atoms']} atoms; {labels}",
        "",
        f"{'composition':24} {'frames':>8}",
    ]
    formulas = list(summary["compositions"].items())
    lines += [f"{formula:24} {count:8}" for formula, count in formulas[:most]]
    if len(formulas) > most:
        rest = sum(count for _, count in formulas[most:])
        lines.append(f"{f'... {len(formulas) - most} more':24} {rest:8}")
    lines += ["", f"{'range':24} {'least':>12} {'most':>12}"]
    for name, (least, most_) in summary["ranges"].items():
        label, unit = name.partition("_eV")[0].removesuffix("_A3").replace("_", " "), UNITS[name]
        lines.append(f"{label:24} {least:12.4f} {most_:12.4f} {unit}".rstrip())
    if summary["force_rms_eV_per_A"] is not None:
        lines.append(f"{'force RMS (component)':24} {summary['force_rms_eV_per_A']:25.4f} eV/Å")
    within = f"neighbours in {summary['cutoff_A']:g} Å"
    lines += ["", f"{'species':10} {'atoms':>10} {within:>22}"]
    for symbol, count in summary["atoms_by_species"].items():
        neighbours = summary["average_neighbours_by_species"][symbol]
        lines.append(f"{symbol:10} {count:10} {neighbours:22.2f}")
    lines.append(f"{'all':10} {summary['atoms']:10} {summary['average_neighbours']:22.2f}")
    lines += ["", f"{'pair':10} {'shortest, Å':>12}"]
    pairs = sorted(summary["shortest_distances_A"].items(), key=lambda pair: pair[1])
    lines += [f"{pair:10} {distance:12.3f}" for pair, distance in pairs]
    return "\n".join(lines)
