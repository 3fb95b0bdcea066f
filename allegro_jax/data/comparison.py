"""What is suspicious about frames beside each other: copies, and labels of mixed conventions."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from allegro_jax.data.checks import Problem
from allegro_jax.data.frames import Frame

# Net forces above this, eV/Å, and this share of all forces together are no numerical noise.
NET_FORCE, NET_SHARE = 0.1, 0.01
# Energies of one composition, eV/atom, with a gap larger than this and so many times the range of
# either side are two kinds of energies.
GAP, GAP_RANGES = 1.0, 5.0
# Stresses (their root mean square in a file) of one composition do not differ by more than this.
STRESS_RATIO = 30.0
# A file's stresses tell their sign where its volumes differ by so much, in so many frames.
VOLUME_SPREAD, SIGN_FRAMES = 0.02, 5


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What is kept of a frame.

    Attributes:
        place: the file and the frame's number in it.
        pbc: periodic directions; ``None`` for an isolated atom, which goes with anything.
        energy: eV/atom. volume: Å³/atom. trace: a third of the stress's trace, eV/Å³.
        stress_square: mean square of the stress's components.
    """

    source: str
    index: int
    pbc: tuple[bool, ...] | None
    energy: float | None
    volume: float
    trace: float | None
    stress_square: float | None


class Comparison:
    """Finds what is suspicious about frames that are given to it one by one.

    Of every frame a few numbers are kept, so that any number of frames can be compared.
    """

    def __init__(self) -> None:
        self._structures: dict[bytes, str] = {}
        self._forces: dict[bytes, str] = {}
        self._before: tuple[Frame, bytes] | None = None
        self._compositions: dict[tuple[int, ...], list[_Seen]] = defaultdict(list)

    def add(self, frame: Frame) -> list[Problem]:
        """What is suspicious about a frame in itself and against those before it."""
        if not len(frame):
            return []
        found = [*self._copies(frame), *_net_force(frame)]
        used = frame.stress if frame.has_volume else None
        self._compositions[tuple(np.sort(frame.numbers).tolist())].append(
            _Seen(
                source=frame.source,
                index=frame.index,
                pbc=None if frame.is_isolated_atom else tuple(map(bool, frame.pbc)),
                energy=None if frame.energy is None else frame.energy / len(frame),
                volume=frame.volume / len(frame),
                trace=None if used is None else float(np.trace(used)) / 3,
                stress_square=None if used is None else float(np.mean(used**2)),
            )
        )
        return found

    def finish(self) -> list[Problem]:
        """What is suspicious about all frames together; the first of each file stands for all."""
        found = list(_mixed_pbc(seen for group in self._compositions.values() for seen in group))
        for group in self._compositions.values():
            found += _mixed_energies([seen for seen in group if seen.energy is not None])
            with_stress = [seen for seen in group if seen.trace is not None]
            found += _mixed_stress_units(with_stress)
        return found + list(
            _stress_signs(
                [[seen for seen in group if seen.trace is not None]
                 for group in self._compositions.values()]
            )
        )  # fmt: skip

    def _copies(self, frame: Frame) -> Iterator[Problem]:
        structure = _digest(frame.numbers, np.round(frame.positions, 5), np.round(frame.cell, 5))
        first = self._structures.get(structure)
        self._structures.setdefault(structure, frame.where)
        before, self._before = self._before, (frame, structure)
        if first == frame.where:
            yield _suspicion(frame, "positions", "read twice, for training or validation")
        elif first is not None:
            yield _suspicion(frame, "positions", f"the same structure as {first}; keep one")
        elif frame.forces is not None and len(frame) > 1 and np.any(frame.forces != 0):
            first = self._forces.setdefault(_digest(frame.numbers, frame.forces), frame.where)
            if first != frame.where:
                yield _suspicion(
                    frame, "forces", f"identical to those of {first}, another structure"
                )
        elif frame.forces is None and frame.energy is not None and before is not None:
            # energies alone coincide by chance in large sets, but hardly from one frame to the next
            last = before[0]
            if frame.energy == last.energy and np.array_equal(frame.numbers, last.numbers):
                yield _suspicion(
                    frame, "energy", f"identical to that of {last.where}, another structure"
                )


def compare(frames: Iterable[Frame]) -> list[Problem]:
    """What :class:`Comparison` finds about frames."""
    comparison = Comparison()
    found = [problem for frame in frames for problem in comparison.add(frame)]
    return found + comparison.finish()


def summarise_suspicions(problems: Sequence[Problem]) -> list[str]:
    """A line for each kind of problem, with the first of them."""
    kinds: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        kinds[problem.field].append(problem)
    return [
        f"Warning: {group[0]}"
        + (f" ({len(group) - 1} more about {field})" if len(group) > 1 else "")
        for field, group in kinds.items()
    ]


def _suspicion(frame: Frame, field: str, text: str) -> Problem:
    return Problem(frame.source or "structure", frame.index, field, text, fatal=False)


def _digest(*arrays: np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update((np.ascontiguousarray(array) + 0).tobytes())  # −0 becomes 0
    return digest.digest()


def _net_force(frame: Frame) -> Iterator[Problem]:
    if frame.forces is None or len(frame) < 2:
        return
    net = float(np.linalg.norm(frame.forces.sum(axis=0)))
    total = float(np.linalg.norm(frame.forces, axis=1).sum())
    if net > NET_FORCE and net > NET_SHARE * total:
        yield _suspicion(
            frame,
            "forces",
            f"they sum to {net:.3g} eV/Å instead of 0; are some missing, constrained or rotated?",
        )


def _for_files(members: Iterable[_Seen], field: str, text: str) -> Iterator[Problem]:
    """One problem for each file, at its first frame."""
    by_file: dict[str, list[_Seen]] = defaultdict(list)
    for seen in members:
        by_file[seen.source].append(seen)
    for source, group in by_file.items():
        more = f" (and {len(group) - 1} more frames of this file)" if len(group) > 1 else ""
        first = min(seen.index for seen in group)
        yield Problem(source or "structure", first, field, text + more, fatal=False)


def _mixed_pbc(frames: Iterable[_Seen]) -> Iterator[Problem]:
    by_file: dict[str, list[_Seen]] = defaultdict(list)
    for seen in frames:
        if seen.pbc is not None:
            by_file[seen.source].append(seen)
    for group in by_file.values():
        usual = Counter(seen.pbc for seen in group).most_common(1)[0][0]
        assert usual is not None
        words = " ".join("T" if one else "F" for one in usual)
        others = [seen for seen in group if seen.pbc != usual]
        yield from _for_files(
            others, "pbc", f'not pbc="{words}" as most frames of the file; is it meant?'
        )


def _mixed_energies(group: list[_Seen]) -> Iterator[Problem]:
    """Energies of one composition in two clusters: the smaller one is reported."""
    if len(group) < 2:
        return
    group = sorted(group, key=lambda seen: seen.energy or 0.0)
    energies = np.asarray([seen.energy for seen in group])
    gaps = np.diff(energies)
    cut = int(gaps.argmax()) + 1
    spread = max(energies[cut - 1] - energies[0], energies[-1] - energies[cut])
    if gaps[cut - 1] < max(GAP, GAP_RANGES * spread):
        return
    low, high = group[:cut], group[cut:]
    few, many = (low, high) if len(low) <= len(high) else (high, low)
    values = [float(np.median([seen.energy for seen in part])) for part in (few, many)]
    text = (
        f"{values[0]:.4g} eV/atom, where other frames of the same composition have "
        f"{values[1]:.4g} ({many[0].source}, frame {many[0].index}); another unit or "
        "method?"
    )
    yield from _for_files(few, "energy", text)


def _mixed_stress_units(group: list[_Seen]) -> Iterator[Problem]:
    by_file: dict[str, list[_Seen]] = defaultdict(list)
    for seen in group:
        by_file[seen.source].append(seen)
    sizes = {
        source: float(np.sqrt(np.mean([seen.stress_square or 0.0 for seen in members])))
        for source, members in by_file.items()
    }
    sizes = {source: size for source, size in sizes.items() if size > 0}
    if len(sizes) < 2:
        return
    usual = float(np.median(list(sizes.values())))
    for source, size in sizes.items():
        if not usual / STRESS_RATIO < size < usual * STRESS_RATIO:
            text = (
                f"RMS {size:.3g} eV/Å³, in other files with this composition {usual:.3g}; another "
                "unit? (1 eV/Å³ is 160.2 GPa)"
            )
            yield from _for_files(by_file[source], "stress", text)


def _stress_signs(groups: list[list[_Seen]]) -> Iterator[Problem]:
    """A file whose pressure rises as its material expands has the other sign."""
    by_file: dict[str, list[tuple[np.ndarray, np.ndarray, list[_Seen]]]] = defaultdict(list)
    for group in groups:
        members: dict[str, list[_Seen]] = defaultdict(list)
        for seen in group:
            members[seen.source].append(seen)
        for source, own in members.items():
            volumes = np.asarray([seen.volume for seen in own])
            if len(own) >= SIGN_FRAMES and np.ptp(volumes) > VOLUME_SPREAD * volumes.mean():
                traces = np.asarray([seen.trace for seen in own])
                by_file[source].append((volumes - volumes.mean(), traces - traces.mean(), own))
    for found in by_file.values():
        volumes, traces = (np.concatenate([one[part] for one in found]) for part in (0, 1))
        scale = np.sqrt(np.mean(volumes**2) * np.mean(traces**2))
        if scale > 0 and np.mean(volumes * traces) / scale < -0.5:
            yield from _for_files(
                [seen for one in found for seen in one[2]],
                "stress",
                "it falls as the volume grows: positive under compression? set data.stress_sign",
            )
