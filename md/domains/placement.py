"""On the host: atoms to the domains they are in, and back into their order.

Positions are taken and given as float64 on each atom's continuous path; only their difference from
the corner of a domain is ever rounded to the precision of a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import cells
from md.cells import Periodicity
from md.domains import sharding
from md.domains.geometry import Geometry
from md.domains.grid import AXES, Counts, Grid, make_grid
from md.domains.migration import FIELDS
from md.replicated import Structure, periodicity, unit_of
from md.state import State

_BLANKS = {**FIELDS, "site_energies": 0}


def grid_for(structure: Structure, counts: Sequence[int] | None, reach: float) -> Grid:
    """A grid of domains for a structure; see :func:`md.domains.grid.make_grid`.

    Args:
        structure: all atoms, or what repeats along directions that do.
    """
    pbc, cell = periodicity(structure), structure.cell.array
    lower, upper = extent(unit_of(structure).positions, cell, pbc)
    with jax.enable_x64(True):
        heights = np.asarray(cells.heights(jnp.asarray(frame(cell, pbc))))
    return make_grid(counts, heights * (upper - lower), pbc, reach)


def cut(
    positions: np.ndarray, cell: np.ndarray, pbc: Periodicity, counts: Counts, dtype: Any
) -> Geometry:
    """Domains of equal widths, over the cell or, where it does not repeat, over all atoms.

    Args:
        positions: Å; those of a unit will do where its copies lie along axes that repeat.
    """
    lower, upper = extent(positions, cell, pbc)
    widths = [
        np.full(count, (high - low) / count).astype(dtype)
        for low, high, count in zip(lower, upper, counts, strict=True)
    ]
    return Geometry((widths[0], widths[1], widths[2]), lower.astype(dtype), counts, pbc)


def extent(
    positions: np.ndarray, cell: np.ndarray, pbc: Periodicity
) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates between which the atoms lie: 0 and 1 along axes that repeat, else Å."""
    along = positions @ np.linalg.inv(frame(cell, pbc))
    lower = np.where(pbc, 0.0, along.min(axis=0))
    upper = np.where(pbc, 1.0, np.maximum(along.max(axis=0), lower + 1.0))
    return lower, upper


def populations(positions: np.ndarray, cell: np.ndarray, geometry: Geometry) -> np.ndarray:
    """How many atoms each domain holds, in the order of the mesh."""
    domain = _located(positions, cell, geometry)[0]
    return np.bincount(domain, minlength=int(np.prod(geometry.counts)))


def placed(state: State, positions: np.ndarray, grid: Grid, geometry: Geometry, rows: int) -> State:
    """A state whose atoms are on the devices of their domains.

    Args:
        state: of all atoms, with host arrays or on one device; its positions do not count.
        positions: [N, 3] float64, Å, on the continuous path of each atom.
        geometry: the domains.
        rows: for each domain; at least as many as the fullest has atoms.
    """
    whole = {name: compact(name, getattr(state, name)) for name in _BLANKS}
    block = whole | {"positions": positions}
    return placed_by_blocks(state, [block], grid, geometry, rows, state.positions.dtype)


def placed_by_blocks(
    state: State,
    blocks: Iterable[Mapping[str, np.ndarray]],
    grid: Grid,
    geometry: Geometry,
    rows: int,
    dtype: Any,
) -> State:
    """The same of atoms that come in blocks: a process keeps those of its own devices.

    Args:
        state: what belongs to no atom.
        blocks: all else, positions as of :func:`placed`.
        dtype: of the positions.
    """
    cell = np.asarray(state.cell, float)
    whole = (grid.domains * rows,)
    places = grid.by_atom.addressable_devices_indices_map(whole).values()
    filled = dict.fromkeys(((place[0].start or 0) // rows for place in places), 0)
    own: dict[int, dict[str, np.ndarray]] = {domain: {} for domain in filled}
    for block in blocks:
        of_atom, relative, images = _located(block["positions"], cell, geometry)
        block = {
            **block,
            "positions": relative.astype(dtype),
            "images": images.astype(np.int32),
        }
        for domain, arrays in own.items():
            (here,) = np.nonzero(of_atom == domain)
            start = filled[domain]
            filled[domain] += len(here)
            for name, blank in _BLANKS.items():
                values = block[name]
                if name not in arrays:
                    arrays[name] = np.full((rows, *values.shape[1:]), blank, values.dtype)
                arrays[name][start : filled[domain]] = values[here]

    def spread(name: str) -> jax.Array:
        shape = whole + next(iter(own.values()))[name].shape[1:]
        return jax.make_array_from_callback(
            shape, grid.by_atom, lambda place: own[(place[0].start or 0) // rows].pop(name)
        )

    fields = {name: spread(name) for name in _BLANKS}
    return state.replace(**fields, **sharding.elsewhere(state, grid), axes=AXES)


def compact(name: str, values: Any) -> np.ndarray:
    """What belongs to atoms, in a byte where that will do."""
    values = np.asarray(values)
    small = name in ("species", "group") and values.max(initial=0) < 128
    return values.astype(np.int8) if small else values


def in_order(
    fields: Mapping[str, Any], cell: np.ndarray, geometry: Geometry
) -> dict[str, np.ndarray]:
    """What belongs to atoms, in the order of their ids.

    Args:
        fields: arrays whose rows are those of all domains, among them ``ids``. ``positions``
            become float64 on the continuous path of each atom, and ``images`` 0.
    """
    ids = np.asarray(fields["ids"])
    (held,) = np.nonzero(ids >= 0)
    order = held[np.argsort(ids[held], kind="stable")]
    found = {name: np.asarray(values)[order] for name, values in fields.items()}
    if "positions" in found:
        rows = len(ids) // int(np.prod(geometry.counts))
        found["positions"] = continuous(
            found["positions"], found["images"], order // rows, cell, geometry
        )
        found["images"] = np.zeros_like(found["images"])
    return found


def continuous(
    positions: np.ndarray,
    images: np.ndarray,
    domain: np.ndarray,
    cell: np.ndarray,
    geometry: Geometry,
) -> np.ndarray:
    """Positions on the continuous path of each atom, float64, from those within its domain."""
    corners = _corners(geometry) @ frame(cell, geometry.pbc)
    return positions.astype(float) + corners[domain] + images @ cell


def frame(cell: np.ndarray, pbc: Periodicity) -> np.ndarray:
    """:func:`md.cells.frame` on the host, in float64."""
    with jax.enable_x64(True):
        return np.asarray(cells.frame(jnp.asarray(cell, jnp.float64), pbc))


def lower_faces(geometry: Geometry) -> list[np.ndarray]:
    """Lower faces of the domains along each axis, in float64 sums of their widths."""
    return [
        np.concatenate([[0.0], np.cumsum(np.asarray(widths, float))[:-1]]) + float(corner)
        for widths, corner in zip(geometry.widths, geometry.corner, strict=True)
    ]


def _corners(geometry: Geometry) -> np.ndarray:
    """Coordinates of the corners of all domains: [domains, 3]."""
    return np.stack(np.meshgrid(*lower_faces(geometry), indexing="ij"), axis=-1).reshape(-1, 3)


def between(coordinates: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The domain along one axis that each coordinate is in, from the lower faces of all."""
    return np.clip(np.searchsorted(faces, coordinates, side="right") - 1, 0, len(faces) - 1)


def _located(
    positions: np.ndarray, cell: np.ndarray, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The domain of each atom, its position relative to that domain's corner, and its image."""
    basis = frame(cell, geometry.pbc)
    along = positions @ np.linalg.inv(basis)
    images = np.where(geometry.pbc, np.floor(along), 0)
    along -= images
    index = [between(along[:, d], faces) for d, faces in enumerate(lower_faces(geometry))]
    domain = np.ravel_multi_index(index, geometry.counts)
    return domain, (along - _corners(geometry)[domain]) @ basis, images.astype(int)
