"""Commands about data: ``allegro-jax data check``, ``stats``, ``split``, ``sets``, ``fetch``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allegro_jax.data.names import SPLIT_BLOCKS, SPLIT_UNITS

if TYPE_CHECKING:
    from allegro_jax.data.conventions import Conventions
    from allegro_jax.data.frames import Frame


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add ``data`` and what it can do to a program's commands."""
    parser = commands.add_parser(
        "data",
        help="look at training data, and divide it",
        description="Look at training data before training, and divide it.",
    )
    parts = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (_add_check, _add_stats, _add_split, _add_sets, _add_fetch):
        add(parts)


# -- check ----------------------------------------------------------------------------------------


def _add_check(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "check",
        help="find what is wrong with labelled structures",
        description="Read labelled structures and report all that is wrong with them (errors: the "
        "frame cannot be used) or suspicious (warnings). The exit code is 2 if there are errors.",
    )
    parser.set_defaults(command=_check)
    _add_files(parser)
    parser.add_argument("--species", nargs="+", metavar="SYMBOL", help="elements that may occur")
    parser.add_argument("--json", metavar="OUT.json", help="write the problems")


def _check(options: argparse.Namespace) -> None:
    from allegro_jax.data.checks import Problem
    from allegro_jax.data.comparison import Comparison
    from allegro_jax.data.frames import DataError
    from allegro_jax.data.sources import iter_frames

    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        problems.append(problem)
        print(f"{'error' if problem.fatal else 'warning'}: {problem}")

    sound, comparison = 0, Comparison()
    for frame in iter_frames(
        options.files, conventions(options), species=options.species, report=report
    ):
        sound += 1
        for problem in comparison.add(frame):
            report(problem)
    for problem in comparison.finish():
        report(problem)
    errors = sum(problem.fatal for problem in problems)
    if options.json:
        _write_json(options.json, [vars(problem) for problem in problems])
    print(f"{sound} frames can be used; {errors} errors, {len(problems) - errors} warnings.")
    if errors:
        raise DataError(f"{errors} errors; data.on_error: skip trains without those frames")


# -- stats ----------------------------------------------------------------------------------------


def _add_stats(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "stats",
        help="composition, ranges of labels, distances, neighbours",
        description="Print what is in a data set.",
    )
    parser.set_defaults(command=_stats)
    _add_files(parser)
    parser.add_argument(
        "--cutoff",
        type=float,
        default=5.0,
        metavar="A",
        help="count neighbours up to this distance in Å (default: 5)",
    )
    parser.add_argument("--json", metavar="OUT.json", help="write the figures")


def _stats(options: argparse.Namespace) -> None:
    from allegro_jax.data.summary import summarise, table

    if not options.cutoff > 0:
        raise ValueError(f"--cutoff: a distance above 0 Å, got {options.cutoff:g}")
    summary = summarise(_read(options, require_labels=False), options.cutoff)
    print(table(summary))
    if options.json:
        _write_json(options.json, summary)


# -- split ----------------------------------------------------------------------------------------


def _add_split(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "split",
        help="divide frames into train, valid and test",
        description="Divide frames at random. Writes train.xyz, valid.xyz and test.xyz (extended "
        "XYZ, eV and Å, all labels kept) and split.json, which says where every frame came from.",
    )
    parser.set_defaults(command=_split)
    _add_files(parser)
    add = parser.add_argument
    add("--valid", type=float, default=0.1, metavar="N", help="share or number (default: 0.1)")
    add("--test", type=float, default=0.0, metavar="N", help="share or number (default: 0)")
    add("--seed", type=int, default=0, metavar="N", help="of the drawing (default: 0)")
    add(
        "--by",
        choices=SPLIT_UNITS,
        default="frame",
        help="what stays together: a frame, the frames of a file or of one composition, or "
        "contiguous blocks of a file (default: frame)",
    )
    add(
        "--blocks",
        type=int,
        default=SPLIT_BLOCKS,
        metavar="N",
        help=f"with --by blocks: how many in each file (default: {SPLIT_BLOCKS})",
    )
    add("--output", required=True, metavar="DIR", help="folder of the parts")


def _split(options: argparse.Namespace) -> None:
    from allegro_jax.data.checksum import checksum
    from allegro_jax.data.sources import expand
    from allegro_jax.data.splitting import split
    from allegro_jax.data.writing import write_frames

    frames = _read(options, require_labels=True)
    parts = split(
        frames,
        options.valid,
        options.test,
        by=options.by,
        blocks=options.blocks,
        seed=options.seed,
    )
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        name: getattr(options, name) for name in ("by", "seed", "valid", "test")
    }
    if options.by == "blocks":
        record["blocks"] = options.blocks
    files = [path for entry in options.files for path in expand(entry)]
    record["sources"] = {str(path): checksum(path) for path in files}
    record["parts"] = {}
    for name, members in parts.items():
        if not len(members):
            continue
        path = output / f"{name}.xyz"
        write_frames(path, [frames[place] for place in members])
        places: dict[str, list[int]] = {}
        for place in members:
            places.setdefault(frames[place].source, []).append(frames[place].index)
        record["parts"][name] = {
            "file": path.name,
            "sha256": checksum(path),
            "frames": len(members),
            "indices": places,
        }
        print(f"{path}: {len(members)} frames")
    _write_json(output / "split.json", record)


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
    parser.add_argument(
        "--to",
        metavar="DIR",
        help="write the frames of each part as extended XYZ, in eV and Å: DIR/NAME/PART.xyz",
    )


def _fetch(options: argparse.Namespace) -> None:
    from allegro_jax.data import named_sets, set_listing
    from allegro_jax.data.sources import iter_frames
    from allegro_jax.data.writing import write_frames

    for path in named_sets.fetch(options.name):
        print(path)
    for part in named_sets.find_parts(options.name) if options.to else ():
        path = Path(options.to, f"{part}.xyz")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_frames(path, iter_frames(f"{named_sets.PREFIX}{part}"))
        print(path)
    print(set_listing.acknowledgement(options.name))


# -- shared ---------------------------------------------------------------------------------------

# options that are settings of the section data, and what they say
_SETTINGS = {
    "format": "format of all the files (default: found for each)",
    "energy_key": "name of the energy (default: energy)",
    "forces_key": "name of the forces (default: forces)",
    "stress_key": "name of the stress (default: stress)",
    "virial_key": "name of the virial, −V·stress (default: virial)",
    "weight_key": "name of the frames' weights",
    "energy_unit": "such as Hartree or kcal/mol (default: by the format)",
    "length_unit": "such as Bohr (default: by the format)",
    "forces_unit": "such as Hartree/Bohr (default: by the two above)",
    "stress_unit": "such as GPa (default: likewise)",
    "stress_sign": "what is positive: tension or compression (default: tension)",
}


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="files, folders and patterns with frames"
    )
    add_reading(parser)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Options that say how files are to be read."""
    group = parser.add_argument_group("how to read files, as the settings of data in a run")
    for name, text in _SETTINGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", metavar="NAME", help=text)


def conventions(options: argparse.Namespace) -> Conventions:
    """What the options of :func:`add_reading` say."""
    from allegro_jax.data.conventions import Conventions

    given = {name: getattr(options, name) for name in _SETTINGS}
    return Conventions(**{name: value for name, value in given.items() if value is not None})


def _read(options: argparse.Namespace, *, require_labels: bool) -> list[Frame]:
    from allegro_jax.data.sources import read_frames

    return read_frames(options.files, conventions(options), require_labels=require_labels)


def _write_json(path: str | Path, data: object) -> None:
    Path(path).write_text(json.dumps(data, indent=2) + "\n")
