"""The command relax."""

from __future__ import annotations

import argparse

from md import names
from md.commands.inputs import Loader, add_inputs, load_potential, read_structure
from md.commands.options import add_dtype


def add_command(commands: argparse._SubParsersAction, load: Loader) -> None:
    """Add relax to a program's commands."""
    parser = commands.add_parser(
        "relax",
        help="relax a structure: its atoms, and its cell if asked to",
        description="Move atoms to the nearest minimum of the energy, and the cell to a pressure. "
        "Writes log.csv and final.extxyz.",
    )
    parser.set_defaults(command=lambda options: _relax(options, load))
    add_inputs(parser)
    add = parser.add_argument
    add("--method", choices=("fire", "lbfgs"), default="fire", help="default: fire")
    add("--cell", choices=names.COUPLINGS, help="what the cell may do (default: nothing)")
    add("--pressure", type=float, default=0.0, metavar="GPA", help="with --cell (default: 0)")
    add(
        "--force-tolerance",
        type=float,
        default=0.01,
        metavar="EV/A",
        help="of the largest force (default: 0.01)",
    )
    add(
        "--stress-tolerance",
        type=float,
        default=0.05,
        metavar="GPA",
        help="of the largest component (default: 0.05)",
    )
    add("--max-steps", type=int, default=1000, metavar="N", help="default: 1000")
    add("--output", required=True, metavar="DIR", help="folder of the results")
    add(
        "--trajectory-every",
        type=int,
        default=0,
        metavar="N",
        help="steps between frames (default: 0, none)",
    )
    add("--no-progress", action="store_true", help="show no progress bar")
    add_dtype(parser)


def _relax(options: argparse.Namespace, load: Loader) -> None:
    from md.relaxation import relax
    from md.replicated import atoms_of

    loaded = load_potential(options, load, options.dtype)
    result = relax(
        loaded.potential,
        atoms_of(read_structure(options)),
        method=options.method,
        cell=options.cell,
        pressure_GPa=options.pressure,
        force_tolerance=options.force_tolerance,
        stress_tolerance_GPa=options.stress_tolerance,
        max_steps=options.max_steps,
        dtype=options.dtype,
        output=options.output,
        trajectory_every=options.trajectory_every,
        progress=not options.no_progress,
    )
    energy, force = result.log["energy_eV"][-1], result.log["force_eV_per_A"][-1]
    how = "relaxed" if result.converged else "NOT converged: give more --max-steps;"
    print(
        f"{how} after {result.steps} steps: energy {energy:.6f} eV, largest force "
        f"{force:.4f} eV/Å; in {options.output}"
    )
