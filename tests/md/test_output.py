"""The files of a run: order, restarts, replicas, errors of the writing thread."""

from __future__ import annotations

import threading
import time

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from md.output import Output
from md.trajectory import TrajectorySettings

COLUMNS = ("step", "energy_eV", "pressure_GPa")
SPECIES = np.zeros(3, int)


def line(step: int) -> dict[str, float | int]:
    return {"step": step, "energy_eV": 0.1 * step, "pressure_GPa": np.nan}


def frame(step: int) -> Atoms:
    atoms = Atoms("Ar3", np.full((3, 3), 0.25 * step), cell=[9, 9, 9], pbc=True)
    atoms.set_momenta(np.ones((3, 3)))
    atoms.calc = SinglePointCalculator(atoms, energy=1.0 * step, forces=np.zeros((3, 3)))
    atoms.info.update(step=step, time_fs=float(step))
    return atoms


def opened(folder, form="extxyz", **options) -> Output:
    return Output(folder, COLUMNS, trajectory=TrajectorySettings(form), **options)


def tree(step: int) -> dict[str, np.ndarray]:
    return {"step": np.asarray(step), "x": np.arange(3.0)}


def steps_of(folder, form) -> list[int]:
    if form == "h5md":
        import h5py

        with h5py.File(folder / "trajectory.h5md") as file:
            return file["particles/trajectory/position/step"][:].tolist()
    return [atoms.info["step"] for atoms in ase.io.read(folder / f"trajectory.{form}", ":")]


@pytest.mark.parametrize("form", ["extxyz", "h5md", "traj"])
@pytest.mark.parametrize("replicas", [None, 2])
def test_a_restart_leaves_no_trace(tmp_path, form, replicas):
    count = replicas or 1

    def go(files, steps):
        for step in steps:
            for r in range(count):
                files.write([line(step)], [frame(step)], r)

    with opened(tmp_path / "whole", form, replicas=replicas) as whole:
        go(whole, range(6))
    dying = opened(tmp_path / "parts", form, replicas=replicas)
    go(dying, range(3))
    dying.save(tree(2), {"stage": 1})
    go(dying, range(3, 5))  # more than the checkpoint knows
    dying.close()
    with opened(tmp_path / "parts", form, replicas=replicas, restart=True) as parts:
        assert parts.facts() == {"stage": 1}
        restored = parts.restore(tree(0), SPECIES)
        assert int(restored["step"]) == 2
        go(parts, range(3, 6))
    names = ["."] if replicas is None else ["replica-000", "replica-001"]
    for r, name in enumerate(names):
        ours, theirs = tmp_path / "parts" / name, tmp_path / "whole" / name
        assert (ours / "log.csv").read_bytes() == (theirs / "log.csv").read_bytes()
        assert steps_of(ours, form) == steps_of(theirs, form) == list(range(6))
        np.testing.assert_array_equal(parts.log(r)["step"], np.arange(6))
    assert not list(tmp_path.rglob("*.partial"))


def test_log(tmp_path):
    with opened(tmp_path) as files:
        files.write([line(0), line(3)])
    expected = "step,energy_eV,pressure_GPa\n0,0.0,\n3,0.3,\n"
    assert (tmp_path / "log.csv").read_text() == expected
    assert files.last_line()["step"] == 3
    log = files.log()
    assert list(log) == list(COLUMNS) and log["step"].dtype == int
    assert np.isnan(log["pressure_GPa"]).all()


def test_files_grow_while_the_run_goes_on(tmp_path):
    with opened(tmp_path) as files:
        files.write([line(0)], [frame(0)])
        deadline = time.monotonic() + 10
        while len((tmp_path / "log.csv").read_text().splitlines()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        while not (tmp_path / "trajectory.extxyz").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert ase.io.read(tmp_path / "trajectory.extxyz").info["step"] == 0


def test_memory_keeps_all_of_the_chosen_atoms():
    settings = TrajectorySettings(atoms=(0, 2))
    with Output(None, COLUMNS, trajectory=settings, replicas=2) as files:
        files.write([line(0)], [frame(0), frame(1)], replica=1)
        files.save(tree(0), {})
        files.write_structure("final.extxyz", frame(1))
        files.write_table("rdf", {"r_A": np.arange(3.0)})
    assert files.frames() == [] and [a.info["step"] for a in files.frames(1)] == [0, 1]
    assert files.frames(1)[0].get_momenta().shape == files.frames(1)[0].get_forces().shape == (2, 3)
    assert files.path("x") is None and files.last_line() is None


def test_tables_and_structures(tmp_path):
    with opened(tmp_path, replicas=2) as files:
        files.write_table("rdf", {"r_A": np.asarray([0.5, 1]), "count": np.asarray([1, 2])}, 1)
        files.write_structure("final.extxyz", frame(7))
    assert (tmp_path / "replica-001" / "rdf.csv").read_text() == "r_A,count\n0.5,1\n1.0,2\n"
    final = ase.io.read(tmp_path / "final.extxyz")
    assert final.get_momenta().all() and final.get_potential_energy() == 7


def test_earlier_files_are_set_aside(tmp_path):
    (tmp_path / "input.yaml").write_text("mine")
    for run in range(3):
        with opened(tmp_path, "h5md", replicas=None if run else 2) as files:
            files.write([line(run)], [frame(run)])
            files.write_table("rdf", {"r_A": np.zeros(run)})
            files.save(tree(run), {})
    assert (tmp_path / "previous-1" / "replica-000" / "trajectory.h5md").exists()
    assert (tmp_path / "previous-2" / "trajectory.h5md").exists()
    assert (tmp_path / "previous-2" / "rdf.csv").read_text() == "r_A\n0.0\n"
    assert not (tmp_path / "replica-000").exists()
    assert (tmp_path / "input.yaml").exists()
    with opened(tmp_path, "h5md", restart=True) as files:
        assert files.restore(tree(0), SPECIES)["step"] == 2


@pytest.mark.parametrize("place", ["next call", "close", "finish"])
def test_errors_of_the_thread_reach_the_caller(tmp_path, monkeypatch, place):
    full = OSError(28, "No space left on device")

    def fail(*arguments):
        raise full

    threads = threading.active_count()
    files = opened(tmp_path)
    monkeypatch.setattr("md.durable.GrowingText.write", fail)
    files.write([line(0)])
    if place == "next call":
        with pytest.raises(OSError, match="No space"):
            for _ in range(1000):
                files.write([line(1)])
                time.sleep(0.01)
    with pytest.raises(OSError, match="No space"):
        files.finish() if place == "finish" else files.close()
    files.close()
    assert threading.active_count() == threads


def test_a_failing_disk_does_not_hide_why_the_run_ended(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError) as caught, opened(tmp_path) as files:
        monkeypatch.setattr("md.durable.GrowingText.write", fail)
        files.write([line(0)])
        raise ZeroDivisionError
    assert "No space left" in caught.value.__notes__[0]


def test_a_slow_disk_makes_the_run_wait(tmp_path, monkeypatch):
    """Memory stays bounded: at most a few chunks wait to be written."""
    gate, taken = threading.Event(), []
    with opened(tmp_path) as files:
        monkeypatch.setattr("md.durable.GrowingText.write", lambda *arguments: gate.wait(20))

        def produce():
            for step in range(50):
                files.write([line(step)])
                taken.append(step)

        producer = threading.Thread(target=produce)
        producer.start()
        producer.join(0.3)
        assert 1 < len(taken) < 20
        gate.set()
        producer.join()
    assert len(taken) == 50


def test_what_cannot_go_on_is_refused_in_words(tmp_path):
    with pytest.raises(ValueError, match="restart needs the output folder"):
        Output(None, COLUMNS, restart=True)
    with pytest.raises(ValueError, match="no checkpoint to restart from"):
        opened(tmp_path, restart=True)
    with opened(tmp_path) as files:
        files.write([line(0)], [frame(0)])
        files.save(tree(0), {})
    with pytest.raises(ValueError, match=r"with another trajectory.*extxyz"):
        opened(tmp_path, "h5md", restart=True).restore(tree(0), SPECIES)
    with pytest.raises(ValueError, match="with 1 replicas, not 3"):
        opened(tmp_path, replicas=3, restart=True).restore(tree(0), SPECIES)
    other = Output(tmp_path, ("step",), trajectory=TrajectorySettings(), restart=True)
    with pytest.raises(ValueError, match="has columns"):
        other.restore(tree(0), SPECIES)
    other.close()
    (tmp_path / "log.csv").write_text("st")
    with pytest.raises(ValueError, match="shorter than when"):
        opened(tmp_path, restart=True).restore(tree(0), SPECIES)
