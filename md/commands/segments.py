"""The command join: one file of a trajectory's segments."""

from __future__ import annotations

import argparse


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add join to a program's commands."""
    parser = commands.add_parser(
        "join",
        help="make one file of the trajectory that a killed run left in segments",
        description="Join the closed segments of an h5md or traj trajectory. The segments stay, "
        "so a run that is still going on, or is restarted, does not mind.",
    )
    parser.set_defaults(command=_join)
    parser.add_argument("folder", metavar="DIR", help="folder of a run")


def _join(options: argparse.Namespace) -> None:
    from md.trajectory import join

    for path in join(options.folder):
        print(path)
