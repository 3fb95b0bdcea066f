"""kill -9 at random moments: the run goes on, and nothing in its files shows that it died.

This file is also the program that is killed, ``python test_kill.py loop|simulate FOLDER FORMAT``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from md.output import Output
from md.run_files import CHECKPOINT, LOG
from md.trajectory import TrajectorySettings, join

ROOT = Path(__file__).parents[2]
FORMATS = ("extxyz", "h5md", "traj")
KILLS = 20


# -- the programs that are killed -----------------------------------------------------------------


def loop(folder: Path, form: str, pause: float = 0.0) -> None:
    """A run loop without physics: a chaotic map, its log, frames and checkpoints."""
    columns = ("step", "x")
    restart = (folder / CHECKPOINT).exists()
    settings = TrajectorySettings(form)
    state = {"step": np.asarray(0), "x": np.full((4, 3), 0.3)}
    with Output(folder, columns, trajectory=settings, restart=restart) as files:
        if restart:
            state = files.restore(state, ())
        while state["step"] < 300:
            step, x = int(state["step"]) + 1, 3.9 * state["x"] * (1 - state["x"])
            state = {"step": np.asarray(step), "x": x}
            atoms = Atoms("Ar4", x, momenta=x, info={"step": step, "time_fs": float(step)})
            atoms.calc = SinglePointCalculator(atoms, energy=x.sum(), forces=x)
            files.write([{"step": step, "x": x[0, 0]}], [atoms] if step % 2 else [])
            if step % 3 == 0:
                files.save(state, {})
            time.sleep(pause)
        files.write_structure("final.extxyz", atoms)


def simulate(folder: Path, form: str) -> None:
    """Lennard-Jones, as users run it; compiled programs are kept beside the folder."""
    import jax

    from md import LennardJones
    from md import simulate as run

    jax.config.update("jax_compilation_cache_dir", str(folder.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    run(
        LennardJones.create(("Ar",), 0.0104, 3.4, 5.0),
        bulk("Ar", "fcc", a=5.4) * (3, 2, 2),
        steps=600,
        ensemble="langevin",
        temperature_K=60,
        timestep_fs=4,
        seed=3,
        output=folder,
        trajectory=form,
        log_every=5,
        trajectory_every=10,
        chunk_steps=20,
        checkpoint_seconds=0,
        restart=(folder / CHECKPOINT).exists(),
        progress=False,
    )


def loop_under_fire(folder: Path, form: str) -> None:
    """Kill the loop again and again; forked, as importing it takes longer than running it."""
    from md import h5md, segments  # noqa: F401  otherwise imported when they are needed

    rng = random.Random(form)
    kills = 0
    while True:
        child = os.fork()
        if child == 0:
            loop(folder, form, pause=0.002)
            os._exit(0)
        if kills < KILLS:
            target = lines_in(folder) + rng.randint(0, 9)
            while lines_in(folder) < target and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.0005)
            time.sleep(rng.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        kills += 1
    print(kills)


def lines_in(folder: Path) -> int:
    return (folder / LOG).read_bytes().count(b"\n") if (folder / LOG).exists() else 0


# -- the tests ------------------------------------------------------------------------------------


def start(program: str, folder: Path, form: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, program, str(folder), form]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def frames_of(folder: Path, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and positions of a trajectory."""
    path = folder / f"trajectory.{form}"
    if form == "h5md":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            position = file["particles/trajectory/position"]
            return position["step"][:], position["value"][:]
    frames = ase.io.read(path, ":")
    return np.array([a.info["step"] for a in frames]), np.array([a.positions for a in frames])


def assert_no_trace(whole: Path, killed: Path, form: str) -> None:
    for name in (LOG, "final.extxyz"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    for ours, theirs in zip(frames_of(killed, form), frames_of(whole, form), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not [path for path in killed.glob("*") if path.name.endswith(".partial")]
    assert not (killed / "trajectory").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.parametrize("form", FORMATS)
def test_files_survive_kills(tmp_path, form):
    loop(tmp_path / "whole", form)
    supervisor = start("loop_under_fire", tmp_path / "killed", form)
    output, _ = supervisor.communicate(timeout=120)
    assert supervisor.returncode == 0
    assert int(output) == KILLS
    assert_no_trace(tmp_path / "whole", tmp_path / "killed", form)


@pytest.mark.parametrize(
    "kills",
    [pytest.param(2, marks=pytest.mark.slow), pytest.param(KILLS, marks=pytest.mark.nightly)],
)
def test_simulations_survive_kills(tmp_path, kills):
    """Moments are drawn among the lines of the log, and in between; some hit the start."""
    rng = random.Random(kills)
    assert start("simulate", tmp_path / "whole", "h5md").wait(300) == 0
    killed = tmp_path / "killed"
    done = 0
    while True:
        process = start("simulate", killed, "h5md")
        if done < kills:
            target = lines_in(killed) + rng.randint(0, 240 // kills)
            while process.poll() is None and lines_in(killed) < target:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            done += 1
        if process.wait(300) == 0:
            break
        if done == kills and list(killed.glob("trajectory/0*")):
            (path,) = join(killed)  # what is there can be read
            steps, _ = frames_of(path.parent, "h5md")
            np.testing.assert_array_equal(steps, 10 * np.arange(len(steps)))
    assert_no_trace(tmp_path / "whole", killed, "h5md")


if __name__ == "__main__":
    program, folder, form = sys.argv[1:]
    programs = {f.__name__: f for f in (loop_under_fire, simulate)}
    programs[program](Path(folder), form)
