"""Dividing frames into parts for training, validation and testing."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.names import SPLIT_BLOCKS, SPLIT_UNITS


def split(
    frames: Sequence[Frame],
    valid: float | int,
    test: float | int = 0,
    *,
    by: str = "frame",
    blocks: int = SPLIT_BLOCKS,
    seed: int = 0,
) -> dict[str, Int[np.ndarray, " part"]]:
    """Divide frames at random, in units that stay together.

    Args:
        frames: what to divide.
        valid, test: how many frames: a share below 1, or a number.
        by: what stays together: each ``frame``, the frames of a ``file``, those of one
            ``composition``, or contiguous ``blocks`` of a file, as neighbouring frames of a
            trajectory are nearly copies.
        blocks: into how many blocks each file is cut.
        seed: of the drawing.

    Returns:
        Frame numbers of ``train``, ``valid`` and ``test``, in ascending order. Whole units are
        drawn while they bring a part nearer to its size; where there are enough of them, a part
        that is asked for gets at least one. Isolated atoms, which give reference energies, all go
        to ``train``.

    Raises:
        DataError: a part would be empty.
    """
    if by not in SPLIT_UNITS:
        raise ValueError(f"by: {by!r} is not one of {', '.join(SPLIT_UNITS)}")
    units: dict[Hashable, list[int]] = {}
    for place, key in enumerate(_keys(frames, by, blocks)):
        if not frames[place].is_isolated_atom:
            units.setdefault(key, []).append(place)
    rng = np.random.default_rng(seed)
    members = list(units.values())
    order = [members[place] for place in rng.permutation(len(members))]
    sizes = {"test": _number(test, len(frames)), "valid": _number(valid, len(frames))}
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for name, size in sizes.items():
        rest = []
        for unit in order:
            missing = size - len(parts[name])
            nearer = abs(missing - len(unit)) < missing
            if size and (not parts[name] or nearer) and missing > 0:
                parts[name] += unit
            else:
                rest.append(unit)
        order = rest
    parts["train"] = [place for unit in order for place in unit]
    parts["train"] += [place for place, frame in enumerate(frames) if frame.is_isolated_atom]
    wanted = {"train": 1} | sizes
    for name, size in wanted.items():
        if size and not parts[name]:
            raise DataError(
                f"{len(frames)} frames in {len(members)} units (by {by}) are too few to leave any "
                f"for {name}; ask for less, or divide by frame or blocks"
            )
    return {name: np.sort(np.asarray(part, np.int64)) for name, part in parts.items()}


def _keys(frames: Sequence[Frame], by: str, blocks: int) -> list[Hashable]:
    """What each frame's unit is called."""
    match by:
        case "file":
            return [frame.source for frame in frames]
        case "composition":
            return [tuple(np.sort(frame.numbers).tolist()) for frame in frames]
        case "blocks":
            totals: dict[str, int] = {}
            for frame in frames:
                totals[frame.source] = totals.get(frame.source, 0) + 1
            done: dict[str, int] = dict.fromkeys(totals, 0)
            keys: list[Hashable] = []
            for frame in frames:
                keys.append((frame.source, done[frame.source] * blocks // totals[frame.source]))
                done[frame.source] += 1
            return keys
    return list(range(len(frames)))


def _number(asked: float | int, total: int) -> int:
    if asked < 0 or (asked >= 1 and asked != int(asked)):
        raise ValueError(f"{asked}: a share between 0 and 1, or a whole number of frames")
    return int(asked) if asked >= 1 else (max(1, round(asked * total)) if asked else 0)
