"""What a run writes of its states: ase.Atoms, whole or, on domains, in parts."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from ase import Atoms

from md import replicated, structures, summation
from md.assembly import Assembly
from md.domains import gathering, placement, sharding
from md.domains.grid import Grid
from md.ensembles import Course
from md.observables import Sample
from md.parts import Part, whole
from md.program import Carry, Program
from md.stages import Leg
from md.state import State
from md.step import observed
from md.uncertainty import UncertainFrame

_MANY_ATOMS = 10**6


def atoms_of(assembly: Assembly, frame: Any, leg: Leg, replica: int) -> Atoms:
    """A frame (numpy) of one replica."""
    if frame.geometry is not None:
        fields = {name: getattr(frame, name) for name in structures.BY_ATOM}
        cell = np.asarray(frame.cell, float)
        frame = frame._replace(**placement.in_order(fields, cell, frame.geometry))
    return structures.atoms_from_frame(
        frame,
        replicated.atoms_of(assembly.templates[replica]),
        time_fs=leg.time_fs(int(frame.sample.step)),
        reference_energy=assembly.reference_energy,
    )


def uncertain_atoms(assembly: Assembly, found: UncertainFrame, leg: Leg, replica: int) -> Atoms:
    """The same for a frame of an uncertain state, with the spread of its committee."""
    atoms = atoms_of(assembly, found.frame, leg, replica)
    atom, forces, frame = int(found.atom), found.spread.forces, found.frame
    if frame.geometry is not None:
        fields = {"ids": frame.ids, "forces": forces}
        ordered = placement.in_order(fields, np.asarray(frame.cell, float), frame.geometry)
        forces = ordered["forces"]
    atoms.info["energy_std"] = float(found.spread.energy)
    atoms.info["max_forces_std"] = float(forces[atom])
    atoms.info["max_forces_std_atom"] = atom
    atoms.set_array("forces_std", np.asarray(forces, float))
    return atoms


def structures_of(assembly: Assembly, leg: Leg, carry: Carry) -> list[Callable[[], Iterable[Part]]]:
    """What gives the structure of each replica as it is in this state, in parts.

    On domains these are made when they are asked for, by all processes; else it is one part.
    """
    if assembly.grid is not None:
        return [partial(parts_of, assembly, leg, carry)]
    sample = _sample(assembly.program(leg), assembly.course(leg), carry.state)
    frame = jax.device_get(structures.frame_of(carry.state, sample))
    found = [
        atoms_of(assembly, jax.tree.map(lambda x, at=at: x[at], frame), leg, replica)
        for replica, at in enumerate(assembly.of_replicas())
    ]
    return [partial(whole, atoms) for atoms in found]


def parts_of(
    assembly: Assembly, leg: Leg, carry: Carry, chosen: tuple[int, ...] | None = None
) -> Iterator[Part]:
    """The structure on domains as it is now, a part at a time; all processes must ask.

    Args:
        chosen: ids of atoms, in the order in which they are wanted; None: all.
    """
    assert assembly.grid is not None
    with jax.enable_x64(assembly.precision == "float64"):
        yield from _parts(assembly, assembly.grid, leg, carry, chosen)


def _parts(
    assembly: Assembly, grid: Grid, leg: Leg, carry: Carry, chosen: tuple[int, ...] | None
) -> Iterator[Part]:
    state, geometry = carry.state, Grid.fetched(carry.neighbours.geometry)
    sample = Grid.fetched(_sample(assembly.program(leg), assembly.course(leg), state))
    cell = np.asarray(Grid.fetched(state.cell), float)
    (template,) = assembly.templates
    total = len(template) if chosen is None else len(chosen)
    names = [name for name in structures.BY_ATOM if name != "ids"]
    fields = {name: getattr(state, name) for name in names}
    for first, found in gathering.parts(fields, state.ids, grid, total, chosen):
        which = first + np.arange(len(found[gathering.DOMAIN]))
        if chosen is not None:
            which = np.asarray(chosen)[which]
        domain, images = found.pop(gathering.DOMAIN), found["images"]
        found["positions"] = placement.continuous(
            found["positions"], images, domain, cell, geometry
        )
        found["images"] = np.zeros_like(images)
        atoms = structures.atoms_from_frame(
            structures.Frame(**found, ids=which, cell=cell, sample=sample),
            replicated.some_of(template, which),
            time_fs=leg.time_fs(int(sample.step)),
            reference_energy=assembly.reference_energy,
        )
        yield Part(atoms, first, total, summation.to_float(sample.kinetic))
        if total > _MANY_ATOMS:
            del atoms, found
            gc.collect()  # ASE's calculators refer to themselves


@partial(jax.jit, static_argnames="program")
def _sample(program: Program, course: Course, state: State) -> Sample:
    """What the log says of a state; compiled once, for every frame on domains is looked at so."""

    look = program.per_replica(partial(observed, program))
    if program.grid is not None:
        specs = sharding.ON_ALL, sharding.of_state(state)
        look = program.grid.sharded(look, specs, sharding.ON_ALL)
    return look(program.parameters(course, state), state)
