"""What domains exchange: bytes counted in the compiled run loop, beside the surface of a domain.

    python exchange.py

compiles the chunk of steps that ``md.simulate`` runs for several grids and sizes, on fake devices
of the CPU, and counts what one device sends in a step, and what more at a rebuild of the lists. It
rewrites its part of ``results.json`` and of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import report
from collectives import PERMUTE, collectives

PART = "exchange"
POSITION = 12  # bytes: three numbers of single precision; a force takes as many
CASES = (  # system, copies of its unit along each axis, domains
    ("silver", (12, 12, 12), (2, 2, 2)),
    ("silver", (24, 24, 24), (2, 2, 2)),
    ("silver", (48, 48, 48), (2, 2, 2)),
    ("silver", (24, 24, 24), (2, 1, 1)),
    ("silver", (24, 24, 24), (2, 2, 1)),
    ("silver", (24, 24, 24), (4, 2, 1)),
    ("silver", (24, 24, 24), (8, 1, 1)),
    ("li3po4", (4, 4, 4), (2, 2, 2)),
    ("li3po4", (8, 8, 8), (2, 2, 2)),
)

Triple = tuple[int, int, int]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--one",
        nargs=3,
        metavar=("SYSTEM", "COPIES", "DOMAINS"),
        help="count one case, such as silver 12,12,12 2,2,2, in this process, and print it",
    )
    parser.add_argument("--systems", nargs="*", default=("silver", "li3po4"), help="of the cases")
    options = parser.parse_args()
    if options.one:
        system, copies, domains = options.one
        print(json.dumps(counted(system, triple(copies), triple(domains))))
        return 0
    for case in CASES:
        if case[0] in options.systems:
            found = in_its_own_process(*case)
            print(json.dumps(found), flush=True)
            if "skipped" not in found:
                report.store(PART, report.load().get(PART, {}) | {name_of(*case): found})
    known = report.load().get(PART, {})
    report.put(PART, markdown([known[name_of(*case)] for case in CASES if name_of(*case) in known]))
    return 0


def name_of(system: str, copies: Triple, domains: Triple) -> str:
    return f"{system} {copies} in {domains}"


def triple(text: str) -> Triple:
    a, b, c = map(int, text.split(","))
    return a, b, c


def ghosts(sides: tuple[float, ...], reach: float, domains: Triple, density: float) -> float:
    """The mean number of atoms that a domain receives from others.

    Copies go along x, then along y with what came along x, then along z: with all three axes split,
    Π (side + 2 reach) − Π side, times the density. Along an axis with one domain copies are its own
    images, and cost no message, but are sent on along the axes that follow.

    Args:
        sides: Å, of a domain, at right angles.
        reach: Å, cutoff and skin.
        density: atoms per Å³.
    """
    volume, spanned = 0.0, list(sides)
    for d in range(3):
        if domains[d] > 1:
            volume += 2 * reach * prod(spanned[e] for e in range(3) if e != d)
        spanned[d] += 2 * reach
    return density * volume


def in_its_own_process(system: str, copies: Triple, domains: Triple) -> dict[str, Any]:
    """:func:`counted` in a process that sees as many devices as there are domains."""
    words = [",".join(map(str, numbers)) for numbers in (copies, domains)]
    flags = f"--xla_force_host_platform_device_count={prod(domains)}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__).resolve()), "--one", system, *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


class Looked(Exception):
    """Ends a run when enough is known of it."""


def counted(system: str, copies: Triple, domains: Triple) -> dict[str, Any]:
    """Compile one case, count in it, and run the one chunk that builds the first lists.

    A chunk is a loop over lines of the log, in it one over steps, in it one of at most one turn for
    a rebuild, and nothing farther in is sent anywhere.
    """
    import numpy as np
    import systems

    def look(chunk: Any, program: Any, *arguments: Any) -> NoReturn:
        compiled = chunk.lower(program, *arguments).compile()
        raise Looked(compiled.as_text(), compiled(*arguments)[0].neighbours)

    try:
        atoms = systems.structure(system, copies)
    except systems.Absent as absent:
        return {"skipped": str(absent)}
    potential = systems.potential(system, systems.COLLAPSED)
    try:
        with systems.in_place_of_the_chunk(look):
            systems.simulate(potential, atoms, 5, 5, domains)
    except Looked as looked:
        text, listed = looked.args
    found = collectives(text)
    rebuild = max(one.depth for one in found if one.kind == PERMUTE)
    step = [one for one in found if one.depth == rebuild - 1]
    halo = [one.size for one in step if one.kind == PERMUTE]
    small = [one.size for one in step if one.kind != PERMUTE]
    more = [one.size for one in found if one.depth == rebuild and one.kind == PERMUTE]
    lengths, density = atoms.cell.lengths() / domains, systems.density(atoms)
    layout = listed.layout
    sent = [e for e in layout.exchanges if domains[e.axis] > 1]
    rows = np.asarray(listed.ghost_species).reshape(prod(domains), -1) >= 0
    held = sum(int(rows[:, e.target - layout.own :][:, : e.size].sum()) for e in sent)
    return {
        "system": system,
        "atoms_per_device": len(atoms) / prod(domains),
        "domains": domains,
        "messages_per_step": len(halo),
        "bytes_per_step": sum(halo),
        "reductions_per_step": len(small),
        "bytes_of_reductions": sum(small),
        "messages_per_rebuild": len(more),
        "bytes_per_rebuild": sum(more),
        "rows_of_layout": sum(e.size for e in sent),
        "ghosts_held": held / prod(domains),
        "ghosts_by_the_surface": ghosts(tuple(lengths), systems.REACH, domains, density),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    titles = (
        "system",
        "domains",
        "atoms per device",
        "ghosts by the surface",
        "held: × surface",
        "kB a step by the surface",
        "kB a step, compiled",
        "× surface",
        "messages a step",
        "small reductions a step (bytes)",
        "kB more at a rebuild (messages)",
    )
    lines = []
    for row in rows:
        surface = row["ghosts_by_the_surface"]
        expected = 2 * POSITION * surface
        lines.append(
            (
                row["system"],
                " × ".join(map(str, row["domains"])),
                f"{row['atoms_per_device']:,.0f}",
                f"{surface:,.0f}",
                f"{row['ghosts_held'] / surface:.2f}",
                f"{expected / 1e3:,.1f}",
                f"{row['bytes_per_step'] / 1e3:,.1f}",
                f"{row['bytes_per_step'] / expected:.2f}",
                row["messages_per_step"],
                f"{row['reductions_per_step']} ({row['bytes_of_reductions']})",
                f"{row['bytes_per_rebuild'] / 1e3:,.1f} ({row['messages_per_rebuild']})",
            )
        )
    return report.table(titles, lines)


if __name__ == "__main__":
    sys.exit(main())
