"""Outputs of first-principles programs: every step, its units and signs, and what failed."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import read_frames

_spec = importlib.util.spec_from_file_location("outputs", Path(__file__).with_name("outputs.py"))
outputs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(outputs)

WRITERS = {
    "OUTCAR": outputs.outcar,
    "vasprun.xml": outputs.vasprun,
    "h2.pwo": outputs.espresso,
}


def assert_step(frame, step, *, accuracy=1e-7):
    close = {"rtol": 0, "atol": accuracy}
    assert frame.symbols == ("H", "H") and frame.pbc.all() and frame.index == step
    assert frame.energy == pytest.approx(outputs.ENERGIES[step], abs=accuracy)
    np.testing.assert_allclose(frame.cell, outputs.CELL * np.eye(3), **close)
    np.testing.assert_allclose(frame.positions, outputs.POSITIONS[step], **close)
    np.testing.assert_allclose(frame.forces, outputs.FORCES[step], **close)
    np.testing.assert_allclose(frame.stress, outputs.full(outputs.STRESS[step]), **close)


@pytest.mark.parametrize("name", [*WRITERS, "aims.out"])
def test_all_steps_come(tmp_path, name):
    (tmp_path / name).write_text({**WRITERS, "aims.out": outputs.aims}[name]())
    frames = read_frames(tmp_path / name)
    assert len(frames) == 2
    for step, frame in enumerate(frames):
        assert_step(frame, step)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("unconverged", [(0,), (1,)])
def test_unconverged_steps_are_left_out(tmp_path, name, unconverged):
    (tmp_path / name).write_text(WRITERS[name](unconverged))
    problems = []
    (frame,) = read_frames(tmp_path / name, report=problems.append)
    assert_step(frame, 1 - unconverged[0])
    (problem,) = problems
    assert problem.frame == unconverged[0] and "did not converge" in problem.text
    with pytest.raises(DataError, match=rf"{name}, frame {unconverged[0]}: labels: .*converge"):
        read_frames(tmp_path / name)


def test_compressed_output(tmp_path):
    with gzip.open(tmp_path / "OUTCAR.gz", "wt") as file:
        file.write(outputs.outcar((1,)))
    problems = []
    (frame,) = read_frames(tmp_path / "OUTCAR.gz", report=problems.append)
    assert_step(frame, 0)
    assert [problem.frame for problem in problems] == [1]


def test_a_run_that_was_killed(tmp_path):
    """What was finished is used; the rest of the file is one problem."""
    (tmp_path / "vasprun.xml").write_text(outputs.vasprun().partition("</modeling>")[0])
    assert len(read_frames(tmp_path / "vasprun.xml")) == 2
    text = outputs.outcar()
    (tmp_path / "OUTCAR").write_text(text[: text.rindex(" POSITION  ")])
    (frame,) = read_frames(tmp_path / "OUTCAR")
    assert_step(frame, 0)


@pytest.mark.parametrize("last", ["| Total energy uncorrected", "Atomic structure (and"])
def test_an_aims_run_that_was_killed(tmp_path, last):
    text = outputs.aims()
    (tmp_path / "aims.out").write_text(text[: text.rindex(last)])
    (frame,) = read_frames(tmp_path / "aims.out")
    assert_step(frame, 0)


def test_cp2k_output(tmp_path):
    (tmp_path / "h2.out").write_text(outputs.cp2k_output())
    (frame,) = read_frames(tmp_path / "h2.out")
    assert_step(frame, 0, accuracy=1e-6)
    (tmp_path / "h2.out").write_text(outputs.cp2k_output(converged=False))
    with pytest.raises(DataError, match=r"h2\.out, frame 0: labels: .*did not converge"):
        read_frames(tmp_path / "h2.out")
    (tmp_path / "h2.out").write_text(2 * outputs.cp2k_output())
    with pytest.raises(DataError, match=r"holds 2 energies.*PROJECT-pos-1\.xyz"):
        read_frames(tmp_path / "h2.out")


def test_cp2k_trajectory(tmp_path):
    for name, text in outputs.cp2k_trajectory().items():
        (tmp_path / name).write_text(text)
    # as a file, and as what can be read of a folder
    for path in (tmp_path / "H2-pos-1.xyz", tmp_path):
        frames = read_frames(path)
        assert len(frames) == 2
        for step, frame in enumerate(frames):
            assert_step(frame, step, accuracy=1e-6)
    (tmp_path / "H2-1.cell").unlink()
    with pytest.raises(DataError, match=r"H2-pos-1\.xyz: .*H2-1\.cell"):
        read_frames(tmp_path)


def test_cp2k_steps_must_agree(tmp_path):
    files = outputs.cp2k_trajectory()
    files["H2-frc-1.xyz"] = files["H2-frc-1.xyz"].replace("i =        5", "i =        6")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=r"frame 1: .*H2-frc-1\.xyz"):
        read_frames(tmp_path)


def test_a_path_is_not_an_index(tmp_path):
    """ASE takes what follows an @ for frame numbers, unless told otherwise."""
    (tmp_path / "cu@1").mkdir()
    (tmp_path / "cu@1" / "OUTCAR").write_text(outputs.outcar())
    assert len(read_frames(tmp_path / "cu@1")) == 2


def test_one_run_is_read_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "OUTCAR").write_text(outputs.outcar())
    (tmp_path / "run" / "vasprun.xml").write_text(outputs.vasprun())
    (tmp_path / "run" / "INCAR").write_text("NELM = 3\n")
    assert {frame.source for frame in read_frames(tmp_path / "run")} == {
        str(tmp_path / "run" / "vasprun.xml")
    }
    assert len(read_frames(str(tmp_path / "*" / "OUTCAR"))) == 2
