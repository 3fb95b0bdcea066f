"""How much memory a run will take, before it is run."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from md import chunk
from md.assembly import Assembly
from md.domains.lists import DomainList
from md.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Memory of the compiled step on each device, in bytes.

    Attributes:
        atoms: of the whole system.
        domains: along the cell's axes; None on one device without.
        rows: atoms that a device has room for, and
        ghosts: copies of others'.
        slots: neighbours that an atom has room for.
        state: positions, momenta, forces and all else that a run carries.
        neighbour_list: of these atoms.
        temporaries: while a step is made or a list built; blocks of atoms are evaluated here.
        results: lines and frames of a chunk, and without domains a second state.
        limit: what the device has, where it tells.
    """

    atoms: int
    domains: tuple[int, int, int] | None
    rows: int
    ghosts: int
    slots: int
    state: int
    neighbour_list: int
    temporaries: int
    results: int
    limit: int | None

    @property
    def total(self) -> int:
        return self.state + self.neighbour_list + self.temporaries + self.results

    @property
    def devices(self) -> int:
        return 1 if self.domains is None else int(np.prod(self.domains))

    def __str__(self) -> str:
        of = "one device" if self.domains is None else "{}x{}x{} domains".format(*self.domains)
        parts = {
            "state": self.state,
            "neighbour list": self.neighbour_list,
            "temporaries": self.temporaries,
            "results of a chunk": self.results,
            "in all": self.total,
        }
        per_atom = self.devices / self.atoms
        lines = [
            f"{self.atoms} atoms on {of}; each has room for {self.rows} atoms, {self.ghosts} "
            f"ghosts and {self.slots} neighbours of each atom",
            *(
                f"{name:<28}{_readable(size):>12}{size * per_atom:>10.1f} B per atom"
                for name, size in parts.items()
            ),
        ]
        if self.limit is not None:
            fits = "fits" if self.total <= self.limit else "does NOT fit: take more devices"
            lines.append(f"the device has {_readable(self.limit)}: it {fits}")
        return "\n".join(lines)


def planned(assembly: Assembly, schedule: Schedule) -> MemoryPlan:
    """The plan of a run's first stage."""
    leg = assembly.legs[0]
    carry = assembly.enter(leg, leg, assembly.fresh())
    listed = carry.neighbours
    on_domains = isinstance(listed, DomainList)
    lowered = chunk.lowered(
        assembly.program(leg),
        assembly.system_of(leg),
        assembly.course(leg),
        jax.tree.map(_shape, carry),
        schedule.first().counts,
    )
    used = lowered.compile().memory_analysis()
    list_bytes = sum(_bytes(leaf) for leaf in jax.tree.leaves(listed))
    layout = listed.layout if on_domains else None
    atoms = len(assembly.templates[0])
    grid = assembly.grid
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    list_bytes //= 1 if grid is None else grid.domains
    return MemoryPlan(
        atoms=atoms,
        domains=None if grid is None else grid.counts,
        rows=atoms if layout is None else layout.own,
        ghosts=0 if layout is None else layout.rows - layout.own,
        slots=listed.capacities.neighbours,
        state=max(int(used.argument_size_in_bytes) - list_bytes, 0),
        neighbour_list=list_bytes,
        temporaries=int(used.temp_size_in_bytes),
        results=max(int(used.output_size_in_bytes) - int(used.alias_size_in_bytes), 0),
        limit=None if limit is None else int(limit),
    )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _bytes(leaf: Any) -> int:
    return int(np.prod(leaf.shape)) * leaf.dtype.itemsize


def _readable(size: int) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"
