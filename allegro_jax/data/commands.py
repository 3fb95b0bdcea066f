"""Commands about data: ``allegro-jax data check``."""

from __future__ import annotations

import argparse


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add ``data`` and what it can do to a program's commands."""
    parser = commands.add_parser(
        "data",
        help="look at training data before training",
        description="Look at training data before training.",
    )
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_check,):
        add(parts)


# -- check ----------------------------------------------------------------------------------------


def _add_check(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "check",
        help="find what is wrong with labelled structures",
        description="Read labelled structures and report what is wrong with them.",
    )
    parser.set_defaults(command=_check)
    parser.add_argument("files", nargs="+", metavar="FILE", help="files with frames")


def _check(options: argparse.Namespace) -> None:
    from allegro_jax.data.frames import read_frames

    frames = read_frames(options.files)
    print(f"{len(frames)} frames, nothing wrong.")
