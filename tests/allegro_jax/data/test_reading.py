"""Files read by several processes: the same frames and problems in the same order as by one."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from allegro_jax.data import reading
from allegro_jax.data.config import DataConfig
from allegro_jax.data.frames import DataError
from allegro_jax.data.reading import read_in_order


@pytest.fixture
def paths(tmp_path, monkeypatch):
    """Five files: the second has a broken frame, the third is large, the fifth is no structure."""
    for place in range(4):
        frames = [molecule(name) for name in ("H2O", "CH4", "NH3")] * (30 if place == 2 else 1)
        for number, atoms in enumerate(frames):
            atoms.rattle(0.05, seed=100 * place + number)
            atoms.info["energy"] = np.nan if (place, number) == (1, 1) else -float(number)
        write(tmp_path / f"{place}.xyz", frames, format="extxyz")
    (tmp_path / "4.xyz").write_text("neither\nthis\n")
    monkeypatch.setattr(reading, "LITTLE_BYTES", 0)
    monkeypatch.setattr(reading, "LARGE_BYTES", 5000)
    return [tmp_path / f"{place}.xyz" for place in range(5)]


def read(paths, conventions, processes, **options):
    """Frames as plain data, and the error that ended the reading."""
    frames = []
    try:
        for frame in read_in_order(paths, conventions, processes=processes, **options):
            frames.append({k: np.asarray(v).tolist() for k, v in vars(frame).items()})
    except DataError as error:
        return frames, str(error)
    return frames, None


def test_the_order_is_that_of_the_files(paths):
    conventions = DataConfig(train=tuple(paths)).conventions
    problems: dict[int, list] = {1: [], 2: []}
    (one, _), (two, _) = (
        read(paths, conventions, number, report=own.append) for number, own in problems.items()
    )
    assert one == two and len(one) == 3 + 2 + 90 + 3
    assert problems[1] == problems[2] and len(problems[1]) == 2


@pytest.mark.parametrize(
    ("chosen", "frames", "message"),
    [((0, 1, 3), 4, "1.xyz, frame 1: energy: "), ((0, 3, 4), 6, "4.xyz: file: expected a number")],
)
def test_the_first_problem_stops(paths, chosen, frames, message):
    files = [paths[place] for place in chosen]
    conventions = DataConfig(train=tuple(files)).conventions
    one, two = (read(files, conventions, number) for number in (1, 2))
    assert one == two and len(one[0]) == frames and message in one[1]
