"""Frames kept as arrays over frames: the common ground of npz, HDF5 and DeePMD."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.units import Units

# the names under which files hold what they all hold; the first that is there counts
NUMBERS = ("numbers", "atomic_numbers", "nuclear_charges", "z", "Z")
POSITIONS = ("positions", "coordinates", "coords", "conformations", "pos", "R")
ENERGY = ("energy", "energies", "dft_total_energy", "E")
FORCES = ("forces", "force", "F")
GRADIENT = ("gradient", "gradients", "dft_total_gradient")
# arrays are read from their file in pieces of so many frames
PIECE = 256


def first_of(arrays: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of several names that is there."""
    return next((name for name in names if name in arrays), None)


def records(
    arrays: Mapping[str, Any], units: Units, *, periodic: bool | None = None
) -> Iterator[Record]:
    """The frames of arrays whose first axis runs over frames.

    Args:
        arrays: by name: atomic numbers [n] or [frames, n] (0: no atom), positions [frames, n, 3]
            or [frames, 3 n]; where given the cell [3, 3] or [frames, 3, 3] and pbc [3] or
            [frames, 3]; every other array over frames is a label. Things that load a slice when
            indexed by one, as HDF5's data sets do, are loaded piece by piece.
        units: of them.
        periodic: whether frames are; by default those with a cell are, unless ``pbc`` says so.

    Raises:
        DataError: no atomic numbers or no positions, or shapes that do not go together.
    """
    numbers_name, positions_name = first_of(arrays, NUMBERS), first_of(arrays, POSITIONS)
    for name, known, what in (
        (numbers_name, NUMBERS, "atomic numbers"),
        (positions_name, POSITIONS, "positions"),
    ):
        if name is None:
            raise DataError(
                f"{what}: none of the names {', '.join(known)}; it holds "
                f"{', '.join(arrays) or 'nothing'}"
            )
    numbers = np.asarray(arrays[numbers_name][()])
    frames = len(arrays[positions_name])
    if numbers.shape[-1:] == (1,) and numbers.ndim > 1:
        numbers = numbers[..., 0]  # one column
    each = numbers.ndim == 2
    if each and len(numbers) != frames:
        raise DataError(f"{numbers_name}: {len(numbers)} frames, but {frames} in {positions_name}")
    labels = [
        name
        for name, array in arrays.items()
        if name not in (numbers_name, positions_name, "cell", "pbc")
        and np.ndim(array) > 0
        and array.dtype.kind in "biuf"
        and len(array) == frames
    ]
    for start in range(0, frames, PIECE):
        piece = slice(start, min(start + PIECE, frames))
        positions = np.asarray(arrays[positions_name][piece], float)
        cells = _over_frames(arrays, "cell", (3, 3), frames, piece)
        pbc = _over_frames(arrays, "pbc", (3,), frames, piece)
        values = {name: np.asarray(arrays[name][piece]) for name in labels}
        for place in range(piece.stop - start):
            atoms = numbers[start + place] if each else numbers
            present = atoms > 0
            cell = np.zeros((3, 3)) if cells is None else cells[place]
            if pbc is not None:
                directions = pbc[place].astype(bool)
            else:
                directions = np.full(3, cells is not None if periodic is None else periodic)
            try:
                where = positions[place].reshape(len(atoms), 3)
            except ValueError:
                raise DataError(
                    f"{positions_name}: the shape {positions[place].shape} for {len(atoms)} atoms"
                ) from None
            yield Record(
                numbers=atoms[present],
                positions=where[present],
                cell=cell,
                pbc=directions,
                labels=_labels({name: value[place] for name, value in values.items()}, present),
                units=units,
            )


def _over_frames(
    arrays: Mapping[str, Any],
    name: str,
    shape: tuple[int, ...],
    frames: int,
    piece: slice,
) -> np.ndarray | None:
    """An array [frames, *shape], or one [*shape] for all frames, in a piece."""
    if name not in arrays:
        return None
    array = arrays[name]
    found = tuple(np.shape(array))
    if found == shape:
        return np.broadcast_to(np.asarray(array[()]), (piece.stop - piece.start, *shape))
    if len(found) < 2 or found[0] != frames or np.prod(found[1:]) != np.prod(shape):
        raise DataError(f"{name}: the shape {found}, expected {shape} or {(frames, *shape)}")
    return np.asarray(array[piece]).reshape(-1, *shape)


def _labels(values: dict[str, Any], present: np.ndarray) -> dict[str, Any]:
    """Labels of one frame by their own names and the usual ones, without absent atoms."""
    for name, value in values.items():
        if name in (*FORCES, *GRADIENT) and value.shape == (3 * len(present),):
            value = value.reshape(-1, 3)
        if value.shape == (len(present), 3) and name not in ("stress", "virial"):
            values[name] = value[present]
    energy, forces, gradient = (first_of(values, names) for names in (ENERGY, FORCES, GRADIENT))
    if energy is not None:
        values.setdefault("energy", values[energy])
    if forces is not None:
        values.setdefault("forces", values[forces])
    elif gradient is not None:
        values["forces"] = -values[gradient]
    return values
