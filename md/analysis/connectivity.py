"""Bonds of the first frame along a trajectory: how long they are, and whether they stay.

What counts as a bond is a length for each pair of species. A bond is broken when it is longer than
1.2 times that, so that one at the edge does not break and form at every vibration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list
from jaxtyping import Bool, Float, Int

from md.analysis.blocks import standard_error
from md.analysis.findings import Findings
from md.analysis.recording import Recording
from md.analysis.shells import Pair, known_as
from md.analysis.structure_tables import BondLengths, lengths_said

BROKEN = 1.2  # of the length below which atoms are bonded
_STRETCH = 1.25  # of the sum of two covalent radii: a bond where the user says nothing


def add_bonds(findings: Findings, *, every: int, bond_lengths: BondLengths) -> None:
    """Add ``bonds``, if it is wanted.

    Args: as those of :func:`md.analysis.analyse`.
    """
    if not findings.wants("bonds"):
        return
    recording = findings.recording
    chosen = findings.symbols("bonds", 2)
    pairs = chosen or list(combinations_with_replacement(recording.species, 2))
    said = lengths_said(findings, bond_lengths)
    lengths = {pair: said.get(known_as(pair, said), covalent(pair)) for pair in pairs}
    bonded = Bonded.of(recording, lengths)
    frames = range(0, len(recording.numbers), every)
    found = np.stack([bonded.lengths_in(recording, frame) for frame in frames])
    new = [bonded.new_in(recording, frame) for frame in frames]
    at = np.asarray(frames)
    windows = [(at >= one.start) & (at < one.stop) for one in findings.windows]
    findings.tables["bonds"] = _rows(bonded, recording, windows, found, new)
    findings.settings["bonds"] = {
        "below_A": {"-".join(pair): round(length, 4) for pair, length in lengths.items()},
        "broken_above": BROKEN,
        "every_frames": every,
        "first_change": _first_change(bonded, recording, frames, found, new),
    }


def covalent(pair: Pair) -> float:
    """Length below which two atoms count as bonded: 1.25 times the sum of their covalent radii, Å.

    Radii: B. Cordero et al., Dalton Trans. 2832 (2008).
    """
    return _STRETCH * float(sum(covalent_radii[atomic_numbers[symbol]] for symbol in pair))


@dataclasses.dataclass(frozen=True)
class Bonded:
    """The bonds of the first frame.

    Attributes:
        lengths: Å, below which two atoms are bonded, by pair.
        atoms: [B, 2] the lower number first, in rising order.
        kinds: [B] the place of each in ``lengths``.
    """

    lengths: Mapping[Pair, float]
    atoms: Int[np.ndarray, "bonds 2"]
    kinds: Int[np.ndarray, " bonds"]

    @classmethod
    def of(cls, recording: Recording, lengths: Mapping[Pair, float]) -> Bonded:
        """Raises: ValueError if there is none, or an atom is bonded to two images of another."""
        found = close(recording, 0, lengths)
        path = recording.source.path
        if not len(found):
            names = ", ".join(f"{a}-{b} {lengths[a, b]:.2f} Å" for a, b in lengths)
            raise ValueError(
                f"{path}: frame {recording.numbers[0]}: bonds: no two atoms are closer than "
                f"{names}: give --bond-lengths (bond_lengths)"
            )
        if (found[:, 0] == found[:, 1]).any() or len(np.unique(found, axis=0)) < len(found):
            raise ValueError(
                f"{path}: bonds: in so small a cell atoms are bonded to several images of another: "
                "repeat it, or give shorter --bond-lengths (bond_lengths)"
            )
        return cls(lengths, found, _kinds(recording, lengths, found))

    @property
    def limits(self) -> Float[np.ndarray, " bonds"]:
        """Å, above which each bond is broken."""
        return BROKEN * np.asarray(list(self.lengths.values()))[self.kinds]

    def lengths_in(self, recording: Recording, frame: int) -> Float[np.ndarray, " bonds"]:
        """Å, between nearest images."""
        positions = np.asarray(recording.positions[frame])
        apart = positions[self.atoms[:, 1]] - positions[self.atoms[:, 0]]
        return np.asarray(find_mic(apart, recording.cells[frame], recording.source.pbc)[1])

    def new_in(self, recording: Recording, frame: int) -> Int[np.ndarray, "pairs 2"]:
        """Atoms that are as close as bonded ones, but were not in the first frame."""
        found = close(recording, frame, self.lengths)
        code = np.array([len(recording.source.symbols), 1])
        return found[~np.isin(found @ code, self.atoms @ code)]


def close(
    recording: Recording, frame: int, lengths: Mapping[Pair, float]
) -> Int[np.ndarray, "pairs 2"]:
    """Atoms that are closer than the length of their pair, in rising order."""
    source = recording.source
    atoms = Atoms(
        source.symbols, recording.positions[frame], cell=recording.cells[frame], pbc=source.pbc
    )
    open_axes = tuple(np.flatnonzero(~np.asarray(source.pbc)))
    if open_axes:
        atoms.center(vacuum=1.0, axis=open_axes)  # the search goes through all of an empty cell
    found = np.stack(neighbor_list("ij", atoms, dict(lengths)), axis=1)
    once = found[found[:, 0] <= found[:, 1]]
    return once[np.lexsort(once.T[::-1])]


def _kinds(
    recording: Recording, lengths: Mapping[Pair, float], atoms: Int[np.ndarray, "pairs 2"]
) -> Int[np.ndarray, " pairs"]:
    """The place in ``lengths`` of each pair of atoms."""
    symbols, order = recording.source.symbols, list(lengths)
    kinds = [order.index(known_as((symbols[i], symbols[j]), lengths)) for i, j in atoms]
    return np.asarray(kinds, int)


def _rows(
    bonded: Bonded,
    recording: Recording,
    windows: Sequence[Bool[np.ndarray, " frames"]],
    found: Float[np.ndarray, "frames bonds"],
    new: Sequence[Int[np.ndarray, "_ 2"]],
) -> dict[str, Any]:
    """A row for each kind of bond that the first frame has, or a later one."""
    broken = (found > bonded.limits).any(axis=0)
    formed = np.unique(np.concatenate(new), axis=0)
    formed_kinds = _kinds(recording, bonded.lengths, formed)
    rows: dict[str, Any] = {name: [] for name in (
        "first", "second", "bonds", "mean_A", "mean_A_error", "deviation_A", "shortest_A",
        "longest_A", "broken", "new",
    )}  # fmt: skip
    for kind, pair in enumerate(bonded.lengths):
        mine = bonded.kinds == kind
        number, others = int(mine.sum()), int((formed_kinds == kind).sum())
        if not number and not others:
            continue
        lengths = found[:, mine] if number else np.full((len(found), 1), np.nan)
        means = [lengths[window].mean() for window in windows[1:] if window.any()]
        row = (
            *pair, number, lengths.mean(), standard_error(means), lengths.std(), lengths.min(),
            lengths.max(), int(broken[mine].sum()), others,
        )  # fmt: skip
        for name, value in zip(rows, row, strict=True):
            rows[name].append(float(value) if isinstance(value, np.ndarray | float) else value)
    return rows


def _first_change(
    bonded: Bonded,
    recording: Recording,
    frames: Sequence[int],
    found: Float[np.ndarray, "frames bonds"],
    new: Sequence[Int[np.ndarray, "_ 2"]],
) -> dict[str, Any] | None:
    """The first frame whose bonds are not those of the first, with one pair of atoms."""
    for frame, lengths, others in zip(frames, found, new, strict=True):
        apart = lengths > bonded.limits
        if apart.any() or len(others):
            pair = bonded.atoms[np.argmax(apart)] if apart.any() else others[0]
            times = recording.times_fs
            return {
                "frame": int(recording.numbers[frame]),
                "time_fs": None if times is None else float(times[frame]),
                "atoms": pair.tolist(),
                "symbols": [recording.source.symbols[atom] for atom in pair],
                "change": "broken" if apart.any() else "new",
            }
    return None
