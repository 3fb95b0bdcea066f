"""Batches: frames cut from a data set and laid out in the static shapes of a layout."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flax import struct
from jaxtyping import Float, Int

from allegro_jax.data.dataset import DataSet
from allegro_jax.data.layout import Layout
from allegro_jax.data.ragged import ranges


@struct.dataclass
class RowGroup:
    """Rows with the same number of slots, in blocks that are evaluated one after another.

    Attributes:
        vectors: r_neighbour − r_centre, Å; 0 in padding.
        neighbours: the batch row of each slot's neighbour; 0 in padding.
        counts: how many slots of each row hold a neighbour (they come first).
    """

    vectors: Float[Any, "blocks rows width 3"]
    neighbours: Int[Any, "blocks rows width"]
    counts: Int[Any, "blocks rows"]


@struct.dataclass
class Batch:
    """A fixed number of frames, flattened to rows (atoms) sorted by neighbour count.

    Rows of all groups follow one another. A label's weight is that of
    its frame; 0 where it is absent and in padding.

    Attributes:
        groups: the neighbourhoods.
        species: species index of each row; −1 in padding.
        frame: which of the batch's frames a row belongs to.
        source: the file that a frame is from, a place in the data set's ``sources``; 0 in padding.
        atoms: atoms per frame; 1 in padding, so that one can divide by it.
        volumes: Å³; 1 where there is none.
        energies: eV per frame, less the reference energies of its atoms.
        forces, stress: eV/Å and eV/Å³.
        energy_weight, force_weight, stress_weight: per frame, per row, per frame; with a leading
            axis where the members of a committee have their own.
        derivatives: whether forces and stress are wanted as well; where energies are the only
            labels they are not, which is less than half the work.
    """

    groups: tuple[RowGroup, ...]
    species: Int[Any, " rows"]
    frame: Int[Any, " rows"]
    source: Int[Any, " frames"]
    atoms: Float[Any, " frames"]
    volumes: Float[Any, " frames"]
    energies: Float[Any, " frames"]
    forces: Float[Any, "rows 3"]
    stress: Float[Any, "frames 3 3"]
    energy_weight: Float[Any, "*members frames"]
    force_weight: Float[Any, "*members rows"]
    stress_weight: Float[Any, "*members frames"]
    derivatives: bool = struct.field(pytree_node=False, default=True)


class Assembled(NamedTuple):
    """A batch, and where its rows and frames come from.

    Attributes:
        batch: host arrays.
        frames: [n] frame numbers in the data set, the batch's first n frames.
        rows, atoms: batch rows that hold an atom, and the atom of the data set that each holds.
    """

    batch: Batch
    frames: np.ndarray
    rows: np.ndarray
    atoms: np.ndarray


def assemble(
    data: DataSet,
    frames: Int[np.ndarray, " n"],
    layout: Layout,
    reference: Float[np.ndarray, " all_frames"],
    *,
    derivatives: bool = True,
) -> Assembled:
    """Lay frames out as a batch of host arrays.

    Args:
        data: where they come from.
        frames: frame numbers; they must fit the layout.
        layout: static shapes.
        reference: reference energy of every frame of the data set, eV, subtracted in float64.
        derivatives: whether forces and stress are wanted of the batch.
    """
    dtype = data.vectors.dtype
    sizes = data.atom_counts[frames]
    atoms = ranges(data.atom_start[frames], sizes)
    frame_of = np.repeat(np.arange(len(frames)), sizes)
    counts = data.neighbour_counts[atoms]
    place = _placement(counts, layout)  # batch row of each atom, frames in order
    first_atom = np.concatenate([[0], np.cumsum(sizes)])[:-1]

    atom_at = np.full(layout.rows, -1)  # which atom (of the batch) sits in a row
    atom_at[place] = np.arange(len(atoms))

    groups, start = [], 0
    for group in layout.groups:
        members = atom_at[start : start + group.total_rows]
        start += group.total_rows
        real = members >= 0
        number = np.where(real, counts[members], 0) if len(counts) else np.zeros(len(members), int)
        filled = np.arange(group.width) < number[:, None]
        vectors = np.zeros((*filled.shape, 3), dtype)
        neighbours = np.zeros(filled.shape, np.int32)
        pairs = ranges(data.pair_start[atoms[members[real]]], number[real])
        vectors[filled] = data.vectors[pairs]
        owner = np.repeat(frame_of[members[real]], number[real])
        neighbours[filled] = place[first_atom[owner] + data.neighbours[pairs]]
        shape = (group.blocks, group.rows)
        groups.append(
            RowGroup(
                vectors=vectors.reshape(*shape, group.width, 3),
                neighbours=neighbours.reshape(*shape, group.width),
                counts=number.astype(np.int32).reshape(shape),
            )
        )

    def by_row(values: np.ndarray, fill: int, kind: Any) -> np.ndarray:
        out = np.full((layout.rows, *values.shape[1:]), fill, kind)
        out[place] = values
        return out

    def by_frame(values: np.ndarray, fill: int, kind: Any = dtype) -> np.ndarray:
        out = np.full((layout.frames, *values.shape[1:]), fill, kind)
        out[: len(frames)] = values
        return out

    volumes, weights = data.volumes[frames], data.weights[frames]
    batch = Batch(
        groups=tuple(groups),
        species=by_row(data.atom_species[atoms], -1, np.int32),
        frame=by_row(frame_of, 0, np.int32),
        source=by_frame(data.source[frames], 0, np.int32),
        atoms=by_frame(np.maximum(sizes, 1), 1),
        volumes=by_frame(np.where(volumes > 0, volumes, 1), 1),
        energies=by_frame((data.energies[frames] - reference[frames]) * data.has_energy[frames], 0),
        forces=by_row(data.forces[atoms], 0, dtype),
        stress=by_frame(data.stress[frames], 0),
        energy_weight=by_frame(weights * data.has_energy[frames], 0),
        force_weight=by_row((weights * data.has_forces[frames])[frame_of], 0, dtype),
        stress_weight=by_frame(weights * data.has_stress[frames], 0),
        derivatives=derivatives,
    )
    return Assembled(batch, frames, place, atoms)


def prefetch(
    make: Callable[[Any], Any], items: Iterable[Any], ahead: int = 4
) -> Generator[Any, None, None]:
    """``make(item)`` for every item, in order, up to ``ahead`` of them prepared by a thread."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", make(item))):
                    return
            put(("end", None))
        except BaseException as error:  # handed to the consumer, who raises it
            put(("error", error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
    finally:
        stop.set()
        thread.join()


class Waits:
    """Keeps account of the time that a loop waits for its items.

    Attributes:
        seconds: in all so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterator[Any]) -> Iterator[Any]:
        while True:
            started = time.monotonic()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.monotonic() - started
            yield item


def _placement(counts: np.ndarray, layout: Layout) -> np.ndarray:
    """The row of each atom: widest rows first, spare rows left in the widest groups they fit."""
    order = np.argsort(-counts, kind="stable")
    # the narrowest group that is wide enough, or a wider one if that is full
    place = np.empty(len(counts), np.int64)
    stop, remaining = layout.rows, len(order)
    for group in reversed(layout.groups):
        start = stop - group.total_rows
        fitting = remaining - int(np.searchsorted(-counts[order[:remaining]], -group.width))
        taken = min(fitting, group.total_rows)
        place[order[remaining - taken : remaining]] = start + np.arange(taken)
        remaining -= taken
        stop = start
    if remaining:
        raise ValueError("frames do not fit the layout of their batch")
    return place
