"""Trajectories: what to keep of each frame, and the file formats that keep it.

================  ==========================================  =====================================
format            final file                                  while the run goes on
================  ==========================================  =====================================
``"extxyz"``      ``trajectory.extxyz``, text                 the same file, grows frame by frame
``"h5md"``        ``trajectory.h5md`` (:mod:`md.h5md`)        closed segments in ``trajectory/``
``"traj"``        ``trajectory.traj``, ASE's own              closed segments in ``trajectory/``
================  ==========================================  =====================================

Binary files promise nothing to readers while they are open, or when their writer was killed: they
are written in segments (:mod:`md.segments`), one per checkpoint. :func:`join` makes one file of
those that a killed run left behind.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from md.names import TRAJECTORY_FORMATS
from md.parts import Part

NAME = "trajectory"
_MOST_DECIMALS = 17


@dataclasses.dataclass(frozen=True)
class TrajectorySettings:
    """What a trajectory keeps. Positions, on their continuous path, and cells are always kept.

    Attributes:
        format: ``"extxyz"``, ``"h5md"`` or ``"traj"``.
        atoms: indices of the atoms to keep, held as a tuple; None: all. Text and ASE's files then
            hold no energy and no stress, as these are of all atoms; log.csv has them.
        velocities: whether to keep them (in extxyz and traj as ASE does: as momenta).
        forces: whether to keep them.
        precision: extxyz: decimals, 8 unless given; h5md: ``"float32"`` unless ``"float64"`` is
            given; traj: always float64.

    Raises:
        ValueError: for values that make no sense.
    """

    format: str = "extxyz"
    atoms: Sequence[int] | None = None
    velocities: bool = False
    forces: bool = False
    precision: int | str | None = None

    def __post_init__(self) -> None:
        if self.format not in TRAJECTORY_FORMATS:
            raise ValueError(
                f"the trajectory's format must be one of {', '.join(TRAJECTORY_FORMATS)}, "
                f"not {self.format!r}"
            )
        if self.atoms is not None:
            indices = tuple(operator.index(i) for i in self.atoms)  # also numpy's integers
            object.__setattr__(self, "atoms", indices)
            if not indices or min(indices) < 0 or len(set(indices)) < len(indices):
                raise ValueError(
                    "the trajectory's atoms must be distinct indices, counted from 0: at least one"
                )
        allowed: dict[str, tuple[Any, ...]] = {
            "extxyz": (None, *range(_MOST_DECIMALS + 1)),
            "h5md": (None, "float32", "float64"),
            "traj": (None, "float64"),
        }
        if self.precision not in allowed[self.format] or isinstance(self.precision, bool):
            words = {
                "extxyz": f"a number of decimals, 0 to {_MOST_DECIMALS}",
                "h5md": "float32 or float64",
                "traj": "float64",
            }
            raise ValueError(
                f"the precision of a trajectory in {self.format} must be {words[self.format]}, not "
                f"{self.precision!r}"
            )

    def check(self, number_of_atoms: int) -> None:
        """Refuse a subset that the structure does not have."""
        if self.atoms is not None and max(self.atoms) >= number_of_atoms:
            raise ValueError(
                f"the trajectory's atoms name index {max(self.atoms)}, but the structure has "
                f"{number_of_atoms} atoms, counted from 0"
            )

    @property
    def digits(self) -> int | str:
        """The precision, default filled in."""
        if self.precision is not None:
            return self.precision
        defaults: dict[str, int | str] = {"extxyz": 8, "h5md": "float32", "traj": "float64"}
        return defaults[self.format]

    def select(self, atoms: Atoms) -> Atoms:
        """What is to be kept of a frame of all atoms."""
        if self.atoms is None:
            return self.reduced(atoms)
        which = list(self.atoms)
        kept = atoms[which]
        kept.info = dict(atoms.info)
        if atoms.calc is not None and "forces" in atoms.calc.results:
            kept.calc = SinglePointCalculator(kept, forces=atoms.calc.results["forces"][which])
        return self.reduced(kept)

    def reduced(self, atoms: Atoms) -> Atoms:
        """What is to be kept of a frame that has no other atoms than those to keep."""
        results = {} if atoms.calc is None else dict(atoms.calc.results)
        if not self.forces:
            results.pop("forces", None)
        if self.atoms is not None:
            results = {name: results[name] for name in ("forces",) if name in results}
        kept = atoms.copy()
        kept.info = dict(atoms.info)
        if not self.velocities:
            kept.arrays.pop("momenta", None)
        kept.calc = SinglePointCalculator(kept, **results) if results else None
        return kept


@runtime_checkable
class Trajectory(Protocol):
    """A trajectory being written."""

    def write(self, frames: Sequence[Atoms]) -> None:
        """Append frames of all atoms: on the continuous path, with momenta, ``step`` and
        ``time_fs`` in ``info``, and a calculator that holds energy and forces."""
        ...

    def write_part(self, part: Part) -> None:
        """Append the next part of a frame, of those atoms alone that are kept."""
        ...

    def commit(self) -> dict[str, int]:
        """Force all frames to disk. Returns a mark to come back to (JSON)."""
        ...

    def finish(self) -> None:
        """Bring a complete trajectory into its final form."""
        ...

    def close(self) -> None:
        """Let go of the files, without another promise."""
        ...


def open_trajectory(
    folder: Path, settings: TrajectorySettings, mark: dict[str, int] | None = None
) -> Trajectory:
    """The trajectory of a run's folder: a new one, or one cut back to a mark and gone on with.

    Raises:
        ValueError: if the files hold less than what the mark promises.
    """
    if settings.format == "extxyz":
        from md.extxyz import SUFFIX, ExtendedXYZ

        return ExtendedXYZ(folder / (NAME + SUFFIX), settings, mark)
    from md.segments import SegmentedTrajectory

    return SegmentedTrajectory(folder, settings, mark)


def join(folder: str | Path) -> list[Path]:
    """Make one file of the segments that a run has closed so far, also in its replicas' folders.

    The segments stay: a run may still be writing more, or go on from its checkpoint. A run that
    comes to its end joins its own segments.

    Returns:
        The files written: ``trajectory.h5md`` or ``trajectory.traj``.

    Raises:
        ValueError: if there are no segments.
    """
    from md import segments

    folder = Path(folder)
    written = [
        path
        for place in (folder, *sorted(folder.glob("replica-*")))
        if (path := segments.join(place)) is not None
    ]
    if not written:
        raise ValueError(
            f"{folder} holds no segments of a trajectory: a finished run has joined them already, "
            "and extxyz is never in segments"
        )
    return written
