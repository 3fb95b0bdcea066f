"""What can be wrong with a frame."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from allegro_jax.data.frames import DataError, Frame, species_of
from allegro_jax.neighbour_search import neighbour_pairs

# Two nuclei closer than this are a defect of the file, not chemistry (H2 is 0.74 Å).
OVERLAP = 0.2
# Closer than this they are one atom written twice.
DUPLICATE = 1e-3
# Larger forces come from failed calculations; they would dominate any loss.
ABSURD_FORCE = 1000.0


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something wrong in a file.

    Attributes:
        source: the file.
        frame: the frame's place in it, counted from 0; ``None``: the file as a whole.
        field: what of it.
        text: what is wrong, and how to mend it.
        fatal: the frame cannot be used; otherwise it is merely suspicious.
    """

    source: str
    frame: int | None
    field: str
    text: str
    fatal: bool = True

    @classmethod
    def of(cls, error: DataError, source: str, frame: int | None) -> Problem:
        """The problem that an error tells of, whose message may begin with the place."""
        text = str(error).removeprefix(f"{source}, frame {frame}: ").removeprefix(f"{source}: ")
        field, colon, rest = text.partition(": ")
        return cls(source, frame, field, rest) if colon else cls(source, frame, "file", text)

    def __str__(self) -> str:
        where = self.source if self.frame is None else f"{self.source}, frame {self.frame}"
        return f"{where}: {self.field}: {self.text}"


def summarise_skipped(problems: Sequence[Problem], what: str) -> str:
    """One line about frames that were left out."""
    frames = {(problem.source, problem.frame) for problem in problems}
    return (
        f"{len(frames)} {what} frames (or files) are left out, all listed in skipped.csv; the "
        f"first: {problems[0]}"
    )


def write_problems(path: str | Path, problems: Sequence[Problem]) -> None:
    """Write problems as CSV: file, frame, field, problem."""
    with Path(path).open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(("file", "frame", "field", "problem"))
        for one in problems:
            frame = "" if one.frame is None else one.frame
            lines.writerow((one.source, frame, one.field, one.text))


def check_frame(frame: Frame, *, species: Sequence[str] | None = None) -> None:
    """Refuse what can only be a mistake.

    Raises:
        DataError: the first of :func:`frame_problems`.
    """
    for problem in frame_problems(frame, species=species):
        raise DataError(str(problem))


def frame_problems(frame: Frame, *, species: Sequence[str] | None = None) -> Iterator[Problem]:
    """What can only be a mistake: the frame cannot be used.

    NaN or infinite numbers, an atom without element or of a species that is not known, a periodic
    frame without volume, a stress without a cell, a negative weight, atoms on top of each other
    (also through a periodic boundary), forces above 1000 eV/Å.

    Args:
        frame: the frame.
        species: chemical symbols that may occur; ``None`` for any.
    """

    def problem(field: str, text: str) -> Problem:
        return Problem(frame.source or "structure", frame.index, field, text)

    finite = True
    for name in ("positions", "cell", "energy", "forces", "stress", "weight"):
        value = getattr(frame, name)
        if value is not None and not np.all(np.isfinite(value)):
            finite = finite and name not in ("positions", "cell")
            yield problem(name, "NaN or infinite; remove the frame or recompute it")
    if frame.weight < 0:
        yield problem("weight", f"{frame.weight:g} is negative; correct it")
    if (frame.numbers < 1).any():
        yield problem("species", "'X' is no element; correct the chemical symbols")
    elif species is not None:
        try:
            species_of(frame, species)
        except DataError as error:
            yield problem("species", str(error).partition("species: ")[2])
    has_cell = True
    if frame.pbc.any() and finite:
        periodic = frame.cell[frame.pbc]
        if np.linalg.matrix_rank(periodic, tol=1e-6) < len(periodic):
            has_cell = False
            yield problem(
                "cell",
                f"periodic along {_directions(frame.pbc)}, but its lattice vectors span no volume; "
                'give Lattice="..." or set pbc="F F F"',
            )
    if frame.stress is not None and frame.volume < 1e-6 and np.abs(frame.stress).max() > 0:
        yield problem(
            "stress", "given for a frame without volume; give its Lattice and pbc, or remove the "
            "stress"
        )  # fmt: skip
    if finite and has_cell:
        yield from _overlaps(frame)
    if frame.forces is not None and len(frame):
        magnitudes = np.linalg.norm(frame.forces, axis=1)
        worst = int(magnitudes.argmax())
        if magnitudes[worst] > ABSURD_FORCE:
            yield problem(
                "forces",
                f"{magnitudes[worst]:.4g} eV/Å on atom {worst}, above {ABSURD_FORCE:g}; check the "
                "units (eV/Å), or remove the frame",
            )


def check_distances(
    frame: Frame,
    centre: Int[np.ndarray, " pairs"],
    neighbour: Int[np.ndarray, " pairs"],
    distances: Float[np.ndarray, " pairs"],
) -> None:
    """Refuse overlapping atoms, given the frame's neighbour pairs.

    Raises:
        DataError: two atoms closer than 0.2 Å.
    """
    for problem in _overlap(frame, centre, neighbour, distances):
        raise DataError(str(problem))


def _overlaps(frame: Frame) -> Iterator[Problem]:
    # a cell list with cells of 0.2 Å would be mostly empty cells
    pairs = neighbour_pairs(frame.positions, frame.cell, frame.pbc, 1.0)
    yield from _overlap(frame, pairs.centre, pairs.neighbour, np.linalg.norm(pairs.vectors, axis=1))


def _overlap(
    frame: Frame, centre: np.ndarray, neighbour: np.ndarray, distances: np.ndarray
) -> Iterator[Problem]:
    if not len(distances) or distances.min() >= OVERLAP:
        return
    place = int(distances.argmin())
    one, other, distance = int(centre[place]), int(neighbour[place]), float(distances[place])
    pair = f"atoms {one} and {other}"
    if one == other:
        text = f"atom {one} is only {distance:.3g} Å from its own image; check the cell"
    elif distance < DUPLICATE:
        text = f"{pair} are {distance:.0g} Å apart: one atom written twice; remove one of them"
    else:
        text = (
            f"{pair} are only {distance:.3g} Å apart; check the units (Å) and the cell, or remove "
            "the frame"
        )
    yield Problem(frame.source or "structure", frame.index, "positions", text)


def _directions(pbc: np.ndarray) -> str:
    return ", ".join(name for name, periodic in zip("abc", pbc, strict=True) if periodic)
