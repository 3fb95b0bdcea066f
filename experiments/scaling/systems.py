"""The paper's two speed systems: their models, their structures, and what stands in for the chunk.

Only :func:`structure` knows how a system comes to be; all else takes what it returns.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import jax
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk

import md
from allegro_jax import AllegroConfig, AllegroPotential, model
from allegro_jax.collapsed import collapse
from md import chunk

HERE = Path(__file__).resolve().parent
SYSTEMS = ("silver", "li3po4")
NETWORK, COLLAPSED = "network", "collapsed"
SILVER_EDGE = 4.09  # Å
SKIN = 0.5  # Å, the default of md.simulate
REACH = 4.0 + SKIN  # Å, of the neighbour lists of both
GLASS = "data/li3po4/li3po4_quench.xyz"  # in the folder of shared data


class Absent(Exception):
    """Data that a system is made from are not there; says which."""


def potential(system: str, form: str) -> Any:
    """The model of the paper's size with random weights, as a network or collapsed.

    Random weights hold no crystal together, and full forces tear it to pieces within a picosecond:
    with a hundredth of them atoms go their way as for the first tenths of one, whatever the model.
    """
    config = AllegroConfig.from_dict(yaml.safe_load((HERE / f"{system}.yaml").read_text()))
    config = dataclasses.replace(config, species_scales=(0.01,) * len(config.species))
    network = AllegroPotential(model.init(jax.random.key(0), config), config)
    return collapse(network).potential if form == COLLAPSED else network


def copies(system: str, atoms: int) -> tuple[int, int, int]:
    """How often the unit is repeated along each axis for about so many atoms."""
    n = max(round((atoms / len(unit(system))) ** (1 / 3)), 1)
    return n, n, n


def unit(system: str) -> Atoms:
    """What is repeated: the cubic cell of silver, or 192 atoms of quenched Li3PO4 at 600 K.

    Raises:
        Absent: if there are no frames of Li3PO4.
    """
    if system == "silver":
        return bulk("Ag", "fcc", a=SILVER_EDGE, cubic=True)
    shared = Path(os.environ.get("ALLEGRO_JAX_SHARED", HERE.parents[2] / "shared"))
    if not (shared / GLASS).is_file():
        raise Absent(f"{shared / GLASS} is absent: ALLEGRO_JAX_SHARED may name another folder")
    glass = ase.io.read(shared / GLASS, index=-1)
    return Atoms(glass.symbols, glass.positions, cell=glass.cell, pbc=True)


def structure(system: str, repeats: tuple[int, int, int]) -> md.Replicated:
    """Copies of the unit, which domains make on their devices."""
    return md.Replicated(unit(system), repeats)


def simulate(
    potential: Any,
    atoms: Any,
    steps: int,
    chunk_steps: int,
    domains: tuple[int, int, int] = (1, 1, 1),
) -> md.Simulation:
    """The run that is measured: 300 K, constant energy, 2 fs, nothing written."""
    return md.simulate(
        potential,
        atoms,
        steps=steps,
        temperature_K=300.0,
        timestep_fs=2.0,
        domains=domains,
        chunk_steps=chunk_steps,
        log_every=chunk_steps,
        trajectory_every=0,
        progress=False,
    )


@contextmanager
def in_place_of_the_chunk(stand_in: Callable[..., Any]) -> Iterator[None]:
    """Have the run loop call ``stand_in(chunk, *arguments)`` for its compiled chunk of steps.

    Args:
        stand_in: gets the jitted function and its arguments: program, system, course, nothing, a
            carry that is written over, and counts; it returns what the function would.
    """
    original = chunk.compiled
    chunk.compiled = lambda: partial(stand_in, original())
    try:
        yield
    finally:
        chunk.compiled = original


def density(atoms: Any) -> float:
    """Atoms per Å³."""
    return float(len(atoms) / np.abs(np.linalg.det(atoms.cell.array)))
