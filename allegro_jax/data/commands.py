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
    for add in (_add_check, _add_sets, _add_fetch):
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


# -- sets, fetch ----------------------------------------------------------------------------------


def _add_sets(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "sets",
        help="published data sets that can be named in place of a file",
        description="List the published data sets, or say all that is known of one of them. Use "
        "them as set:NAME/PART wherever a file is expected.",
    )
    parser.set_defaults(command=_sets)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the set to describe")


def _sets(options: argparse.Namespace) -> None:
    from allegro_jax.data import set_listing

    print(set_listing.description(options.name) if options.name else set_listing.overview())


def _add_fetch(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "fetch",
        help="download a published data set",
        description="Download the files of a published data set, or of a part of it. Those that "
        "are there already, and right, are not downloaded again.",
    )
    parser.set_defaults(command=_fetch)
    parser.add_argument("name", metavar="NAME[/PART]", help="as allegro-jax data sets lists it")


def _fetch(options: argparse.Namespace) -> None:
    from allegro_jax.data import named_sets, set_listing

    for path in named_sets.fetch(options.name):
        print(path)
    print(set_listing.acknowledgement(options.name))
