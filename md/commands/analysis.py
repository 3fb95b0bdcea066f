"""The command analyse."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from md.commands.inputs import species_of_types
from md.commands.options import span
from md.names import QUANTITIES

# options that are words of md.analyse under another name
_WORDS = {
    "from": "start",
    "to": "stop",
    "timestep": "timestep_fs",
    "msd_lag": "msd_lag_fs",
    "vacf_lag": "vacf_lag_fs",
    "fit": "fit_fs",
    "structure": "structure_file",
    "keep_drift": "remove_drift",
}
_OWN = ("command", "trajectory", "species", "bond_lengths", "output")


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add analyse to a program's commands."""
    parser = commands.add_parser(
        "analyse",
        help="structure and motion of atoms along a trajectory",
        description="Radial distributions, coordination numbers, angles, mean squared "
        "displacement, diffusion, velocity autocorrelation and density of states, with errors. "
        "Writes a CSV file and a figure of each, and summary.json. Without a quantity, all that "
        "the file allows, but for bonds.",
    )
    parser.set_defaults(command=_analyse)
    parser.add_argument(
        "trajectory",
        metavar="TRAJECTORY",
        help="a file that ASE reads, an H5MD file, or the folder of a run",
    )
    parser.add_argument("--output", metavar="DIR", help="default: NAME-analysis, in this folder")
    group = parser.add_argument_group("quantities")
    add = group.add_argument
    add("--rdf", nargs="*", metavar="A-B", help="radial distributions: of all pairs, or of these")
    add(
        "--coordination",
        nargs="*",
        metavar="A-B",
        help="numbers of B atoms in the first shell of an A atom",
    )
    add("--adf", nargs="*", metavar="A-B-C", help="angles between the bonds of an atom B")
    add(
        "--bonds",
        nargs="*",
        metavar="A-B",
        help="lengths of the bonds of the first frame, and which break or are new",
    )
    for name, words in (
        ("--msd", "mean squared displacements, and diffusion coefficients from them"),
        ("--vacf", "velocity autocorrelations, and diffusion coefficients from them"),
        ("--dos", "vibrational densities of states"),
    ):
        add(name, action="store_const", const=True, help=words)
    group = parser.add_argument_group("frames")
    add = group.add_argument
    add("--from", metavar="WHEN", help="the first frame, from 0, or a time: 5ps, 500fs")
    add("--to", metavar="WHEN", help="the frame before which to stop, or the last time")
    add("--every", type=int, metavar="N", help="take every Nth of these frames (default: 1)")
    add(
        "--structure-every",
        type=int,
        metavar="N",
        help="of the frames taken, every Nth for distances and angles (default: 1)",
    )
    add(
        "--timestep",
        type=float,
        metavar="FS",
        help="between two frames of the file, where it does not say",
    )
    add("--blocks", type=int, metavar="N", help="of time, for the errors (default: 5)")
    group = parser.add_argument_group("distances and angles")
    add = group.add_argument
    add("--cutoff", type=float, metavar="A", help="of radial distributions, Å (default: 10)")
    add("--bins", type=int, metavar="N", help="of radial distributions (default: 200)")
    add("--angle-bins", type=int, metavar="N", help="of angles (default: 180)")
    add(
        "--bond-lengths",
        nargs="+",
        metavar="A-B=LENGTH",
        help="Å, below which two atoms are neighbours; a number alone: of all pairs (default: the "
        "first minimum of g(r); of bonds 1.25 times the covalent radii)",
    )
    group = parser.add_argument_group("motion")
    add = group.add_argument
    add(
        "--fit",
        type=span,
        metavar="START:END",
        help="fs, between which the mean squared displacement is fitted (default: 20 to 50%% of a "
        "block)",
    )
    add("--msd-lag", type=float, metavar="FS", help="longest of msd (default: half the length)")
    add(
        "--vacf-lag",
        type=float,
        metavar="FS",
        help="longest of vacf and dos (default: 2000, or a block)",
    )
    add(
        "--axes",
        metavar="XYZ",
        help="in which motion counts, such as xy (default: all that repeat)",
    )
    add(
        "--keep-drift",
        action="store_const",
        const=False,
        help="do not look from the centre of mass of the atoms in the file",
    )
    add(
        "--continuous",
        action="store_const",
        const=True,
        help="positions do not jump at the boundary of the cell",
    )
    add("--window", choices=("hann", "none"), help="of the density of states (default: hann)")
    group = parser.add_argument_group("files of others")
    add = group.add_argument
    add("--format", metavar="NAME", help="as ASE names it, or h5md, where the name does not tell")
    add("--species", nargs="+", metavar="TYPE=SYMBOL", help="elements, where the file has numbers")
    add("--structure", metavar="FILE", help="a structure with the elements, where it has none")


def _analyse(options: argparse.Namespace) -> None:
    from md.analysis import analyse

    words: dict[str, Any] = {
        _WORDS.get(name, name): value
        for name, value in vars(options).items()
        if name not in _OWN and value is not None
    }
    for name in QUANTITIES:
        if words.get(name) == []:
            words[name] = True
    if options.bond_lengths:
        words["bond_lengths"] = _lengths(options.bond_lengths)
    output = options.output
    if output is None:
        output = f"{Path(options.trajectory).resolve().stem}-analysis"
    analysis = analyse(
        options.trajectory, species=species_of_types(options.species), output=output, **words
    )
    print(f"{analysis}\nin {output}")


def _lengths(given: list[str]) -> float | dict[str, float]:
    """``2.5``, or ``P-O=2.1 Li-O=2.6``."""
    try:
        if len(given) == 1 and "=" not in given[0]:
            return float(given[0])
        pairs = [one.split("=", 1) for one in given]
        return {pair: float(length) for pair, length in pairs}
    except ValueError:
        raise ValueError(
            "--bond-lengths: write A-B=LENGTH, for example P-O=2.1 Li-O=2.6, or one number"
        ) from None
