"""First shells of radial distributions, and how far apart atoms count as neighbours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import numpy as np

from md.observable import Table

Pair = tuple[str, str]
Triple = tuple[str, str, str]

_SMOOTHING_A = 0.1  # standard deviation
_PEAK, _RISE = 0.1, 0.03  # of the highest value: what counts as a peak, and as its end


class Shell(NamedTuple):
    """The first shell of a radial distribution: where it is highest and where it ends, Å."""

    peak_A: float
    minimum_A: float


def first_shell(r: np.ndarray, shape: np.ndarray) -> Shell | None:
    """First peak of a radial distribution, and the minimum behind it.

    Values are smoothed by a Gaussian of 0.1 Å. A peak is left when they have fallen by a tenth of
    the highest value; the minimum is the lowest place from there until they have risen by 3% of it,
    or the middle of that place where no atoms at all are between two shells.

    Args:
        r: centres of equal bins, Å.
        shape: g(r), or anything proportional to it.

    Returns:
        None where there is no peak, or no minimum up to the largest distance.
    """
    width = r[1] - r[0]
    reach = max(1, round(4 * _SMOOTHING_A / width))
    kernel = np.exp(-((np.arange(-reach, reach + 1) * width / _SMOOTHING_A) ** 2) / 2)
    padded = np.pad(np.nan_to_num(shape), reach, mode="edge")
    smooth = np.convolve(padded, kernel / kernel.sum(), "valid")
    highest = smooth.max()
    if highest <= 0:
        return None
    peak = lowest = -1
    for at, value in enumerate(smooth):
        if lowest < 0:
            if peak < 0 or value > smooth[peak]:
                peak = at
            elif value < smooth[peak] - _PEAK * highest:
                lowest = at
        elif value < smooth[lowest]:
            lowest = at
        elif value > smooth[lowest] + _RISE * highest:
            break
    if lowest < 0 or lowest == len(smooth) - 1:
        return None
    flat = smooth[lowest:] <= smooth[lowest] + 1e-6 * highest
    end = len(smooth) if flat.all() else lowest + int(np.argmin(flat))
    return Shell(float(r[peak]), float((r[lowest] + r[end - 1]) / 2))


def shells(table: Table) -> dict[Pair, Shell]:
    """First shells in a table of radial distributions, of the pairs that have one."""
    r = table["r_A"]
    edges = np.concatenate([[0.0], r + (r[1] - r[0]) / 2])
    volumes = np.diff(edges**3)
    found = {}
    for name in table:
        symbols = name.split("_")
        if symbols[0] == "n" and len(symbols) == 3:
            shell = first_shell(r, np.diff(table[name], prepend=0) / volumes)
            if shell is not None:
                found[symbols[1], symbols[2]] = shell
    return found


@dataclasses.dataclass(frozen=True)
class Bonds:
    """How far apart the atoms of each pair of species count as neighbours.

    Attributes:
        lengths: Å, by pair in the order of the species.
        peaks: Å, where g(r) was looked at.
        given: pairs whose length the user has said.
        absent: pairs without a length, for want of a first minimum.
    """

    lengths: dict[Pair, float]
    peaks: dict[Pair, float]
    given: frozenset[Pair]
    absent: tuple[Pair, ...]


def bonds(
    species: tuple[str, ...], said: Mapping[Pair, float] | float | None, table: Table | None
) -> Bonds:
    """Lengths as given, or else from the first minimum of each radial distribution.

    Args:
        said: Å, by pair in either order, or for all pairs; None: none.
        table: of all pairs (:func:`md.analysis.structure.radial`); None where it is not needed.
    """
    pairs = list(combinations_with_replacement(species, 2))
    if isinstance(said, Mapping):
        given = {pair: said[known_as(pair, said)] for pair in pairs if known_as(pair, said) in said}
    else:
        given = {} if said is None else dict.fromkeys(pairs, float(said))
    found = {} if table is None else shells(table)
    lengths = {pair: shell.minimum_A for pair, shell in found.items()} | given
    return Bonds(
        lengths=lengths,
        peaks={pair: shell.peak_A for pair, shell in found.items()},
        given=frozenset(given),
        absent=tuple(pair for pair in pairs if pair not in lengths),
    )


def known_as(pair: Pair, known: Mapping[Pair, Any]) -> Pair:
    """A pair, or the same in the other order where that is known."""
    return (pair[1], pair[0]) if (pair[1], pair[0]) in known and pair not in known else pair
