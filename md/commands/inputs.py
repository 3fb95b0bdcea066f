"""What a command works on: a potential, by the options that name one, and a structure."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class LoadedPotential(NamedTuple):
    """What a program makes of a potential's file.

    Attributes:
        potential: a :class:`md.local_potential.LocalPotential`.
        shortest_distances: [T, T] Å of its training data, or None.
    """

    potential: Any
    shortest_distances: Any = None


Loader = Callable[[str, str, bool], LoadedPotential]
"""``(path, dtype, collapse) -> LoadedPotential``: for files that are not YAML; ``collapse`` if the
potential may be replaced by an equivalent that is faster."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """The options that :func:`load_potential` and :func:`read_structure` look at."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a model file, or a YAML file that describes a potential; not with --potential",
    )
    parser.add_argument("structure", metavar="STRUCTURE", help="a structure that ASE reads")
    parser.add_argument(
        "--frame",
        type=int,
        metavar="N",
        help="of STRUCTURE, where it holds several, from 0 (default: the last)",
    )
    parser.add_argument(
        "--potential",
        metavar="MODULE:FUNCTION",
        help="a Python function that returns the potential, instead of MODEL",
    )
    parser.add_argument(
        "--no-collapse",
        action="store_true",
        help="evaluate the network of a model file also where it amounts to a few radial "
        "functions, which tables give faster",
    )
    parser.add_argument(
        "--replicate",
        nargs=3,
        type=int,
        metavar=("A", "B", "C"),
        help="repeat the structure so often along the vectors of its cell; with --domains every "
        "device makes its own atoms",
    )
    parser.add_argument("--format", metavar="NAME", help="of the structure, as ASE names it")
    parser.add_argument(
        "--species",
        nargs="+",
        metavar="TYPE=SYMBOL",
        help="elements of the types in a LAMMPS data file",
    )


def load_potential(options: argparse.Namespace, load: Loader, dtype: str) -> LoadedPotential:
    """The potential that the options name: a function, a YAML file, or the program's own kind."""
    from md import potential_file

    described = options.model is None or Path(options.model).suffix in (".yaml", ".yml")
    if options.no_collapse and described:
        raise ValueError("--no-collapse is of model files alone")
    if options.potential is not None:
        if options.model is not None:
            raise ValueError("give either MODEL or --potential, not both")
        return LoadedPotential(potential_file.from_import(options.potential))
    if options.model is None:
        raise ValueError("give MODEL and STRUCTURE, or --potential MODULE:FUNCTION and STRUCTURE")
    if described:
        return LoadedPotential(potential_file.load(options.model, dtype=dtype))
    return load(options.model, dtype, not options.no_collapse)


def read_structure(options: argparse.Namespace) -> Any:
    """The structure that the options name, repeated as they say."""
    from md import structure_file
    from md.replicated import Replicated

    species = species_of_types(options.species)
    structure = structure_file.read(options.structure, options.format, species, options.frame)
    return structure if options.replicate is None else Replicated(structure, options.replicate)


def species_of_types(given: list[str] | None) -> dict[int, str] | None:
    """What --species says: ``1=Li 2=O``."""
    if not given:
        return None
    try:
        pairs = [pair.split("=", 1) for pair in given]
        return {int(number): symbol for number, symbol in pairs}
    except ValueError:
        raise ValueError("--species: write TYPE=SYMBOL, for example 1=Li 2=O") from None
