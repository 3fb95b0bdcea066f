"""Domains that make their atoms of a structure's unit, each on its own device.

Which domain an atom is in, and where in it, is one coordinate along each axis, and a coordinate of
copy i of atom b depends on i and b alone: small tables, made on the host in float64, say all.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import cells
from md.domains import placement, sharding
from md.domains.geometry import Geometry
from md.domains.grid import AXES, Grid
from md.domains.migration import FIELDS
from md.replicated import Replicated
from md.state import State


class Places(NamedTuple):
    """Along one axis, the copies of each atom of the unit that are in each domain.

    Attributes:
        number: [domains, n] how many copies.
        copy: [domains, n, M] which ones; the first ``number`` count.
        image, coordinate: [domains, n, M] theirs, relative to the corner of the domain.
    """

    number: Int[Array, "domains n"]
    copy: Int[Array, "domains n M"]
    image: Int[Array, "domains n M"]
    coordinate: Float[Array, "domains n M"]


def places(structure: Replicated, geometry: Geometry) -> tuple[Places, Places, Places]:
    """Where all atoms are, as host arrays.

    Args:
        structure: that repeats along directions that do.
    """
    unit = placement.frame(structure.unit.cell.array, geometry.pbc)
    along = structure.unit.positions @ np.linalg.inv(unit)
    found = []
    for d, (repeat, edges) in enumerate(
        zip(structure.repeats, placement.lower_faces(geometry), strict=True)
    ):
        path = along[:, d]
        if geometry.pbc[d]:
            path = (np.arange(repeat)[:, None] + path) / repeat
        path = np.broadcast_to(path, (repeat, len(along)))
        image = np.floor(path).astype(np.int32) if geometry.pbc[d] else np.zeros(path.shape, int)
        inside = path - image
        domain = placement.between(inside, edges)
        found.append(_sorted(domain, image, inside - edges[domain], len(edges)))
    return found[0], found[1], found[2]


def _sorted(domain: np.ndarray, image: np.ndarray, coordinate: np.ndarray, count: int) -> Places:
    """Arrays [copies, n] sorted by domain."""
    members = domain[None] == np.arange(count)[:, None, None]  # [domains, copies, n]
    number = members.sum(axis=1)
    most = max(int(number.max()), 1)
    copy = np.argsort(~members, axis=1, kind="stable")[:, :most].swapaxes(1, 2)  # [domains, n, M]
    atom = np.arange(domain.shape[1])[:, None]
    return Places(
        number.astype(np.int32),
        copy.astype(np.int32),
        image[copy, atom].astype(np.int32),
        coordinate[copy, atom],
    )


def populations(along: tuple[Places, Places, Places]) -> np.ndarray:
    """How many atoms each domain holds, in the order of the mesh."""
    a, b, c = (place.number.astype(np.int64) for place in along)
    return np.einsum("in,jn,kn->ijk", a, b, c).ravel()


def placed(
    unit: State,
    structure: Replicated,
    grid: Grid,
    geometry: Geometry,
    along: tuple[Places, Places, Places],
    rows: int,
) -> State:
    """A state whose atoms are on the devices of their domains.

    Args:
        unit: a state of the unit, in the cell of the whole.
        geometry: the domains.
        along: their atoms, as :func:`places` gives them.
        rows: for each domain; at least as many as the fullest has atoms.
    """
    dtype = unit.positions.dtype
    tables = tuple(place._replace(coordinate=place.coordinate.astype(dtype)) for place in along)
    fields = {
        name: placement.compact(name, np.asarray(getattr(unit, name)))
        for name in ("momenta", "species", "group", "masses")
    }
    made = _make(
        grid.everywhere((tables, fields, unit.cell)), grid, structure.repeats, geometry.pbc, rows
    )
    made["site_energies"] = jnp.zeros_like(made["masses"])
    return unit.replace(**made, **sharding.elsewhere(unit, grid), axes=AXES)


@partial(jax.jit, static_argnames=("grid", "repeats", "pbc", "rows"))
def _make(arguments: Any, grid: Grid, repeats: Any, pbc: Any, rows: int) -> dict[str, Array]:
    made = partial(_made, repeats=repeats, pbc=pbc, rows=rows)
    return grid.sharded(made, (sharding.ON_ALL,), dict.fromkeys(FIELDS, sharding.ROWS))(arguments)


def _made(arguments: Any, repeats: Any, pbc: Any, rows: int) -> dict[str, Array]:
    """The rows of one domain."""
    tables, fields, cell = arguments
    here = [
        jax.tree.map(lambda x, d=d: x[jax.lax.axis_index(AXES[d])], tables[d]) for d in range(3)
    ]
    numbers = [place.number for place in here]
    ends = jnp.cumsum(numbers[0] * numbers[1] * numbers[2])
    row = jnp.arange(rows, dtype=jnp.int32)
    held = row < ends[-1]
    # a row is an atom of the unit, and a copy along each axis, the last axis fastest
    atom = jnp.searchsorted(ends, jnp.where(held, row, 0), side="right").astype(jnp.int32)
    rest = row - jnp.where(atom > 0, ends[atom - 1], 0)
    place = [jnp.int32(0)] * 3
    for d in (2, 1, 0):
        place[d] = rest % numbers[d][atom]
        rest = rest // numbers[d][atom]
    copy, image, coordinate = (
        [getattr(here[d], name)[atom, place[d]] for d in range(3)]
        for name in ("copy", "image", "coordinate")
    )
    number = (copy[0] * repeats[1] + copy[1]) * repeats[2] + copy[2]
    basis = cells.frame(cell, pbc)
    positions = sum(coordinate[d][:, None] * basis[d] for d in range(3))
    made = {name: values[atom] for name, values in fields.items()} | {
        "positions": positions,
        "images": jnp.stack(image, axis=1),
        "forces": jnp.zeros_like(positions),
        "ids": number * fields["masses"].shape[0] + atom,
    }
    return {
        name: jnp.where(held.reshape(-1, *(1,) * (made[name].ndim - 1)), made[name], blank).astype(
            made[name].dtype
        )
        for name, blank in FIELDS.items()
    }
