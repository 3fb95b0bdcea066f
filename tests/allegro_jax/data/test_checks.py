"""What is wrong with frames, and what is suspicious about several."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax.data.checks import frame_problems, write_problems
from allegro_jax.data.comparison import compare, summarise_suspicions
from allegro_jax.data.frames import Frame
from allegro_jax.data.sources import frame_from_atoms, read_frames


def pair(distance, *, cell=0.0, pbc=False) -> Frame:
    return frame_from_atoms(Atoms("CO", [[0, 0, 0], [0, 0, distance]], cell=[cell] * 3, pbc=pbc))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pair(0.1), "atoms 0 and 1 are only 0.1 Å apart"),
        (pair(0.0), "atoms 0 and 1 are 0 Å apart: one atom written twice"),
        (pair(6.0, cell=6.0, pbc=True), "atoms 0 and 1 are 0 Å apart: one atom written twice"),
        (pair(5.9, cell=6.0, pbc=True), "atoms 0 and 1 are only 0.1 Å apart"),
        (
            frame_from_atoms(Atoms("H", cell=[0.1, 5, 5], pbc=True)),
            "atom 0 is only 0.1 Å from its own image; check the cell",
        ),
    ],
)
def test_overlapping_and_duplicate_atoms(frame, message):
    (problem,) = frame_problems(frame)
    assert problem.field == "positions" and message in problem.text and problem.fatal


def test_good_frames_have_no_problems():
    for frame in (pair(1.1), pair(5.9, cell=6.0), pair(5.0, cell=6.0, pbc=True)):
        assert list(frame_problems(frame)) == []


def test_negative_weight_and_all_problems_at_once():
    frame = dataclasses.replace(pair(0.1), weight=-1.0, energy=np.nan)
    assert [problem.field for problem in frame_problems(frame)] == ["energy", "weight", "positions"]


def test_skipping_reports_each_frame(tmp_path):
    images = [Atoms("CO", [[0, 0, 0], [0, 0, z]], info={"energy": -1.0}) for z in (1.1, 0.1, 1.2)]
    images.append(Atoms("CO", [[0, 0, 0], [0, 0, 1.3]]))
    write(tmp_path / "a.xyz", images, format="extxyz")
    problems = []
    frames = read_frames(tmp_path / "a.xyz", report=problems.append)
    assert [frame.index for frame in frames] == [0, 2]
    assert [(problem.frame, problem.field) for problem in problems] == [
        (1, "positions"),
        (3, "labels"),
    ]
    write_problems(tmp_path / "skipped.csv", problems)
    with (tmp_path / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["frame"]) for row in rows] == [
        (str(tmp_path / "a.xyz"), "1"),
        (str(tmp_path / "a.xyz"), "3"),
    ]


# -- several frames --------------------------------------------------------------------------------


def copper(source: str, count: int = 8) -> list[Frame]:
    """Rattled and strained copper, with the labels of an effective-medium potential."""
    rng = np.random.default_rng(len(source))
    frames = []
    for index in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (0.97 + 0.08 * index / count), scale_atoms=True)
        atoms.positions += 0.05 * rng.normal(size=(4, 3))
        atoms.calc = EMT()
        results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces")}
        results["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(frame_from_atoms(atoms, source=source, index=index))
    return frames


@pytest.fixture(scope="module")
def good() -> list[Frame]:
    return copper("a.xyz")


def found(frames):
    return [(problem.source, problem.frame, problem.field) for problem in compare(frames)]


def test_good_sets_are_not_suspicious(good):
    assert found([*good, *copper("bb.xyz")]) == []


def test_copies(good):
    copy = dataclasses.replace(good[2], source="b.xyz", index=0)
    (problem,) = compare([*good, copy])
    assert (
        str(problem) == "b.xyz, frame 0: positions: the same structure as a.xyz, frame 2; keep one"
    )
    assert not problem.fatal
    moved = dataclasses.replace(good[2], positions=good[2].positions + 0.01, index=8)
    assert found([*good, moved]) == [("a.xyz", 8, "forces")]
    bare = [dataclasses.replace(frame, forces=None) for frame in good[:3]]
    bare[2] = dataclasses.replace(bare[2], energy=bare[1].energy)
    assert found(bare) == [("a.xyz", 2, "energy")]


def test_net_force(good):
    wrong = dataclasses.replace(good[3], forces=good[3].forces + 0.2)
    assert found([*good[:3], wrong, *good[4:]]) == [("a.xyz", 3, "forces")]


def test_mixed_boundaries(good):
    open_ = dataclasses.replace(good[4], pbc=np.asarray([True, True, False]))
    alone = frame_from_atoms(Atoms("Cu"), source="a.xyz", index=8)
    assert found([*good[:4], open_, *good[5:], alone]) == [("a.xyz", 4, "pbc")]


@pytest.mark.parametrize("change", [lambda energy: energy / 27.2, lambda energy: energy - 40])
def test_energies_of_another_kind(good, change):
    base = [dataclasses.replace(frame, energy=frame.energy - 400) for frame in good]
    others = [
        dataclasses.replace(frame, energy=change(frame.energy - 400))
        for frame in copper("bb.xyz", 3)
    ]
    (problem,) = compare([*base, *others])
    assert (problem.source, problem.frame, problem.field) == ("bb.xyz", 0, "energy")
    assert "and 2 more frames of this file" in problem.text


def test_stress_of_another_unit_or_sign(good):
    kbar = [dataclasses.replace(f, stress=1602 * f.stress) for f in copper("bb.xyz")]
    assert ("bb.xyz", 0, "stress") in found([*good, *copper("ccc.xyz"), *kbar])
    flipped = [dataclasses.replace(frame, stress=-frame.stress) for frame in good]
    (problem,) = compare(flipped)
    assert problem.field == "stress" and "data.stress_sign" in problem.text


def test_suspicions_in_a_line_for_each_kind(good):
    wrong = [dataclasses.replace(frame, forces=frame.forces + 0.2) for frame in good]
    (line,) = summarise_suspicions(compare(wrong))
    assert line.startswith("Warning: a.xyz, frame 0: forces: they sum to")
    assert line.endswith("(7 more about forces)")
