"""Domains on several processes: they make the run that one makes, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from md.run_files import CHECKPOINT, FINAL, LOG

HERE = Path(__file__).parent
DEVICES = 4

pytestmark = pytest.mark.slow


def start(processes: int, **settings) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = (
        f"--xla_force_host_platform_device_count={DEVICES // processes} "
        "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(HERE.parents[1]),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    given = {"coordinator": f"127.0.0.1:{port}", "processes": processes, **settings}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "processes_worker.py"), str(place), json.dumps(given)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in range(processes)
    ]


def finish(started: list[subprocess.Popen]) -> None:
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output


def run(processes: int, folder: Path, **settings) -> None:
    finish(start(processes, output=str(folder), **settings))


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """One process, one device, no domains."""
    folder = tmp_path_factory.mktemp("alone")
    run(1, folder, steps=60)
    return folder


def assert_same(folder: Path, expected: Path) -> None:
    ours, theirs = (read(path / FINAL) for path in (folder, expected))
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-7)
    frames = [read(path / "trajectory.extxyz", ":") for path in (folder, expected)]
    assert [f.info["step"] for f in frames[0]] == [f.info["step"] for f in frames[1]]
    for one, other in zip(*frames, strict=True):
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-7)
    logs = [np.genfromtxt(path / LOG, delimiter=",", names=True) for path in (folder, expected)]
    for column in ("potential_eV", "conserved_eV", "pressure_GPa"):
        np.testing.assert_allclose(logs[0][column], logs[1][column], atol=1e-7)
    for name in ("rdf", "msd"):
        tables = [
            np.genfromtxt(path / f"{name}.csv", delimiter=",", skip_header=1)
            for path in (folder, expected)
        ]
        assert np.nanmax(tables[1][:, 1]) > 1e-3
        np.testing.assert_allclose(*tables, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_the_run_of_one(alone, tmp_path, processes):
    run(processes, tmp_path, domains="auto", steps=60)
    assert_same(tmp_path, alone)


@pytest.mark.nightly
def test_processes_shift_the_same_faces(tmp_path):
    """A slab in the lower third: the upper one of two processes has hardly an atom at first."""
    settings = {"stretch": 3, "steps": 60}
    run(1, tmp_path / "one", **settings)
    run(2, tmp_path / "two", domains=[1, 1, 4], balance=20, **settings)
    assert_same(tmp_path / "two", tmp_path / "one")
    with np.load(tmp_path / "two" / CHECKPOINT) as checkpoint:
        (name,) = [key for key in checkpoint.files if key.endswith("widths[2]")]
        widths = checkpoint[name]
    assert widths[0] < 0.15 and widths[-1] > 0.5


def test_when_one_is_killed_the_others_end_and_any_number_goes_on(alone, tmp_path):
    settings = {"output": str(tmp_path), "domains": "auto"}
    started = start(2, steps=10**6, checkpoint_seconds=0.1, chunk_steps=20, **settings)
    deadline = time.monotonic() + 300
    while not (tmp_path / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    started[1].send_signal(signal.SIGKILL)
    since = time.monotonic()
    output, _ = started[0].communicate(timeout=120)
    # told by a connection that closed or, while it waits for a new one, by missing heartbeats
    told = {2: "another process has ended", -signal.SIGABRT: "another task died"}
    assert told[started[0].returncode] in output
    assert time.monotonic() - since < 100
    log = np.genfromtxt(tmp_path / LOG, delimiter=",", names=True)
    steps = 20 * (int(np.atleast_1d(log["step"])[-1]) // 20 + 2)
    run(1, tmp_path, restart=True, steps=steps, domains=[1, 1, 1])
    assert read(tmp_path / FINAL).info["step"] == steps
    if steps == 60:
        assert_same(tmp_path, alone)
