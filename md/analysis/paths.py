"""Continuous paths of atoms, from files that wrap them into the cell and from files that do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from ase.geometry import complete_cell
from jaxtyping import Float

from md.analysis.recording import Recording, pieces

_AMBIGUOUS = 0.4  # of the cell, in one time between frames: the next image is hardly farther
_BLOCK_BYTES = 2**26  # of a path; several arrays of this size are in memory


@dataclasses.dataclass(frozen=True)
class Paths:
    """Paths without jumps, computed for some atoms at a time.

    Where the file is not known to hold continuous positions, every atom is taken to have moved to
    the nearest image of its next position. Where the cell changes, paths are the sums of these
    displacements between frames, so that the cell's own motion does not count as diffusion: S. von
    Bülow, J. T. Bullerjahn and G. Hummer, J. Chem. Phys. 153, 021101 (2020).

    Attributes:
        recording: the frames.
        continuous: whether its positions never jump.
    """

    recording: Recording
    continuous: bool

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "frames some 3"]]]:
        """Ranges of atoms and their paths, Å.

        Raises:
            ValueError: if an atom moves by about half the cell between two frames.
        """
        frames, atoms, _ = self.recording.positions.shape
        size = max(1, _BLOCK_BYTES // (24 * frames))
        for start in range(0, atoms, size):
            chosen = slice(start, min(start + size, atoms))
            yield chosen, self._path(chosen)

    def centre(self) -> Float[np.ndarray, "frames 3"]:
        """Path of the centre of mass of all atoms, Å."""
        masses = self.recording.source.masses
        centre = np.zeros((len(self.recording.numbers), 3))
        for chosen, path in self.blocks():
            centre += np.einsum("n,fnx->fx", masses[chosen], path)
        return centre / masses.sum()

    def _path(self, chosen: slice) -> np.ndarray:
        positions = np.array(self.recording.positions[:, chosen])
        pbc = np.asarray(self.recording.source.pbc)
        if not pbc.any() or (self.continuous and self.recording.constant_cell):
            return positions
        basis = np.asarray([complete_cell(cell * pbc[:, None]) for cell in self.recording.cells])
        inverse = np.linalg.inv(basis)
        image = np.floor(positions @ inverse) * pbc
        inside = positions - image @ basis
        moved = np.diff(inside, axis=0)
        if self.continuous:
            moved += np.diff(image, axis=0) @ basis[1:]
        else:
            along = moved @ inverse[1:]
            nearest = np.rint(along) * pbc
            self._refuse_ambiguous(np.abs((along - nearest) * pbc), chosen)
            moved -= nearest @ basis[1:]
        path = positions
        np.cumsum(moved, axis=0, out=path[1:])
        path[1:] += path[0]
        return path

    def _refuse_ambiguous(self, share: np.ndarray, chosen: slice) -> None:
        """Args: share: [F − 1, n, 3] of the cell's vectors, by which atoms have moved."""
        if not (share > _AMBIGUOUS).any():
            return
        frame, atom, _ = np.unravel_index(int(np.argmax(share > _AMBIGUOUS)), share.shape)
        raise ValueError(
            f"{self.recording.source.path}: frame {self.recording.numbers[frame + 1]}: positions: "
            f"atom {chosen.start + atom} has moved by {share[frame, atom].max():.2f} of the cell "
            "since the frame before, so it cannot be told which image it went to: frames are too "
            "far apart, or not in order in time; if positions do not jump at the boundary of the "
            "cell, say --continuous (continuous=True)"
        )


def mean_velocity(recording: Recording) -> Float[np.ndarray, "frames 3"]:
    """Velocity of the centre of mass of all atoms, Å/fs."""
    assert recording.velocities is not None
    masses = recording.source.masses
    parts = [
        np.einsum("n,fnx->fx", masses, recording.velocities[piece]) for piece in pieces(recording)
    ]
    return np.concatenate(parts) / masses.sum()


def velocity_blocks(
    recording: Recording,
) -> Iterator[tuple[slice, Float[np.ndarray, "frames some 3"]]]:
    """Ranges of atoms and their velocities, Å/fs."""
    assert recording.velocities is not None
    frames, atoms, _ = recording.velocities.shape
    size = max(1, _BLOCK_BYTES // (24 * frames))
    for start in range(0, atoms, size):
        chosen = slice(start, min(start + size, atoms))
        yield chosen, np.array(recording.velocities[:, chosen])
