"""Commands of the engine, for any program that knows how to read a potential."""

from __future__ import annotations

import argparse

from md.commands import analysis, dynamics, relaxation, segments
from md.commands.inputs import LoadedPotential, Loader
from md.commands.options import add_dtype

__all__ = ["LoadedPotential", "Loader", "add_commands", "add_dtype"]


def add_commands(commands: argparse._SubParsersAction, load: Loader) -> None:
    """Add md, relax, join and analyse to a program's commands."""
    dynamics.add_command(commands, load)
    relaxation.add_command(commands, load)
    segments.add_command(commands)
    analysis.add_command(commands)
