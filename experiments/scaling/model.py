"""Weak and strong scaling by a model of the time of a step (``step_time.py``), beside the paper's.

    python model.py                                         the tables of the README
    python model.py --compute 0.01 --overhead 0.5 --cluster dgx-h100      others, only printed

All that is assumed is in the README.
"""

from __future__ import annotations

import argparse
import sys

import report
from step_time import (
    POSITION,
    Cluster,
    Compute,
    Exchange,
    Link,
    step_time,
    strong_efficiency,
    thinnest,
    weak_efficiency,
)

PART = "model"

# Latencies are assumptions; bandwidths are those that makers and centres state (README).
INSIDE, BETWEEN = 10e-6, 20e-6  # s
CLUSTERS = {
    "dgx-a100": Cluster((2, 2, 2), Link(300e9, INSIDE), Link(25e9, BETWEEN)),
    "perlmutter": Cluster((1, 2, 2), Link(100e9, INSIDE), Link(25e9, BETWEEN)),
    "dgx-h100": Cluster((2, 2, 2), Link(450e9, INSIDE), Link(50e9, BETWEEN)),
}
DENSITIES = {"silver": 0.0585, "li3po4": 0.0943}  # atoms per Å³
NAMES = {"silver": "Ag", "li3po4": "Li₃PO₄"}

# The paper's times on one A100: of the smallest system all is overhead.
PAPER = {
    "silver": Compute((0.289 - 67.463 * 71 / 1_022_400) * 1e-6, 67.463e-6 * 71),
    "li3po4": Compute((0.552 - 27.785 * 192 / 421_824) * 1e-6, 27.785e-6 * 192),
}
# What allegro-jax is to reach on an H100, collapsed; its overhead is an assumption.
TARGET = {"silver": Compute(0.01e-6, 0.5e-3), "li3po4": Compute(0.02e-6, 0.5e-3)}

PUBLISHED = (  # system, atoms, GPUs, µs per atom and step
    ("silver", 1_022_400, 1, 0.289),
    ("silver", 1_022_400, 8, 0.042),
    ("silver", 1_022_400, 64, 0.010),
    ("silver", 1_022_400, 128, 0.009),
    ("silver", 100_640_512, 128, 1e6 / 3.6 / 100_640_512),  # 3.6 steps/s
    ("li3po4", 421_824, 1, 0.552),
    ("li3po4", 421_824, 8, 0.075),
    ("li3po4", 421_824, 64, 0.018),
    ("li3po4", 50_331_648, 128, 0.013),
)
GPUS = (1, 8, 128, 5120)
SHARES = (100_000, 781_250, 1_000_000)  # atoms per GPU; 10⁸ on 128
WHOLE = 100_000_000

Run = tuple[str, str, str, Compute]  # name, system, cluster, compute


def main() -> int:
    options = parse_arguments()
    if options.compute is not None:
        compute = Compute(options.compute * 1e-6, options.overhead * 1e-3)
        run = (f"{options.compute:g} µs per atom", options.system, options.cluster, compute)
        print(weak([run]), strong([run]), sep="\n\n")
        return 0
    runs = [
        *((f"the paper's, {NAMES[s]}", s, "dgx-a100", PAPER[s]) for s in PAPER),
        *((f"our target, {NAMES[s]}", s, "dgx-h100", TARGET[s]) for s in TARGET),
        *measured(),
    ]
    text = "\n\n".join(
        [
            "The paper's runs, µs per atom and step (efficiency): as published, by the model with "
            "the paper's compute, and by the model with our target's on a DGX H100:",
            against_the_paper(),
            f"Weak scaling, ms per step (efficiency) with {', '.join(f'{n:,}' for n in SHARES)} "
            "atoms per GPU:",
            weak(runs),
            f"Strong scaling of {WHOLE:,} atoms (the time of one GPU is that of as many atoms as "
            "it takes, fitting or not):",
            strong(runs),
        ]
    )
    print(text)
    report.put(PART, text)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--compute", type=float, help="µs per atom and step on one GPU; without: all tables")
    add("--overhead", type=float, default=0.5, help="ms per step, whatever the atoms")
    add("--system", choices=tuple(DENSITIES), default="silver")
    add("--cluster", choices=tuple(CLUSTERS), default="dgx-h100")
    return parser.parse_args()


def exchange_of(system: str) -> Exchange:
    """With the slack of buffers and the reductions that were counted in the largest program."""
    rows = [row for row in report.load()["exchange"].values() if row["system"] == system]
    largest = max(rows, key=lambda row: row["ghosts_by_the_surface"])
    surface = 2 * POSITION * largest["ghosts_by_the_surface"]
    slack = largest["bytes_per_step"] / surface
    return Exchange(DENSITIES[system], slack=slack, reductions=largest["reductions_per_step"])


def measured() -> list[Run]:
    """The largest collapsed system of each kind, as if a GPU were what it was measured on."""
    runs = []
    for found in report.load().get("measure", {}).values():
        for system, name in NAMES.items():
            rows = [
                row
                for row in found["rows"]
                if (row["system"], row["form"]) == (system, "collapsed")
                and row["seconds_of_a_rebuild"] is not None
            ]
            if rows:
                row = max(rows, key=lambda row: row["atoms"])
                compute = Compute(
                    row["seconds_of_a_step"] / row["atoms"],
                    rebuild_per_atom=row["seconds_of_a_rebuild"] / row["atoms"],
                    rebuild_every=row["steps_between_rebuilds"],
                )
                label = f"measured on {found['machine']['device']}, {name}"
                runs.append((label, system, "dgx-h100", compute))
    return runs


def against_the_paper() -> str:
    titles = ("system", "atoms", "GPUs", "the paper, µs (efficiency)", "model", "our target")
    rows = []
    alone = {system: us for system, _, gpus, us in PUBLISHED if gpus == 1}
    for system, atoms, gpus, us in PUBLISHED:
        cells = [f"{us:.3g} ({alone[system] / us / gpus:.0%})"]
        for compute, cluster in ((PAPER, "dgx-a100"), (TARGET, "dgx-h100")):
            setting = compute[system], exchange_of(system), CLUSTERS[cluster]
            micros = 1e6 * step_time(gpus, atoms, *setting).total / atoms
            cells.append(f"{micros:.3g} ({strong_efficiency(gpus, atoms, *setting):.0%})")
        rows.append((NAMES[system], f"{atoms:,}", gpus, *cells))
    return report.table(titles, rows)


def weak(runs: list[Run]) -> str:
    rows = []
    for name, system, cluster, compute in runs:
        setting = compute, exchange_of(system), CLUSTERS[cluster]
        for gpus in GPUS:
            cells = (
                f"{ms(step_time(gpus, gpus * share, *setting).total)} "
                f"({weak_efficiency(gpus, share, *setting):.0%})"
                for share in SHARES
            )
            rows.append((name, cluster, f"{gpus:,}", *cells))
    return report.table(("compute", "links", "GPUs", *(f"{n:,}" for n in SHARES)), rows)


def ms(seconds: float) -> str:
    """Three digits."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def strong(runs: list[Run]) -> str:
    titles = ("compute", "links", "GPUs", "atoms per GPU", "ms per step", "computing", "exchange")
    titles += ("reductions", "rebuilds", "µs per atom", "efficiency")
    rows = []
    for name, system, cluster, compute in runs:
        setting = compute, exchange_of(system), CLUSTERS[cluster]
        for gpus in GPUS:
            if gpus > 1 and thinnest(gpus, WHOLE, setting[1]) < setting[1].reach:
                continue
            found = step_time(gpus, WHOLE, *setting)
            rows.append(
                (
                    name,
                    cluster,
                    f"{gpus:,}",
                    f"{WHOLE / gpus:,.0f}",
                    ms(found.total),
                    *map(ms, found),
                    f"{1e6 * found.total / WHOLE:.3g}",
                    f"{strong_efficiency(gpus, WHOLE, *setting):.0%}",
                )
            )
    return report.table(titles, rows)


if __name__ == "__main__":
    sys.exit(main())
