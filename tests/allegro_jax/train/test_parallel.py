"""The same training on one device, on four, and in two processes."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from ase.build import bulk
from ase.io import write

from allegro_jax import model_file
from allegro_jax.settings import ConfigError
from allegro_jax.train.parallel import choose_devices
from md.processes import HEARTBEAT_SECONDS, Launch, Team
from tests.allegro_jax.train.examples import SHORT, TINY, labelled

PROGRAM = Path(__file__).with_name("parallel_run.py")
ROOT = Path(__file__).parents[3]
TRAIN = ("-m", "allegro_jax.cli", "train")
CONFIG = {
    "data": {"train": "train.xyz", "valid": 3},
    "model": TINY,
    "training": SHORT
    | {"epochs": 2, "batch_size": 5, "schedule": "constant", "precision": "float64"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """13 training frames of two sizes in batches of 5: the last batch leaves a device of 4 idle."""
    folder = tmp_path_factory.mktemp("parallel")
    frames = []
    for number in range(16):
        atoms = bulk("Cu", "fcc", a=3.7, cubic=True).repeat((1 + number % 2, 1, 1))
        atoms.rattle(0.07, seed=number)
        # some frames have no stress, so shards differ in what they carry
        frames.append(labelled(atoms, stress=number % 3 > 0))
    write(folder / "train.xyz", frames, format="extxyz")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder / "config.yaml"


def start(arguments: Sequence[object], devices: int = 1) -> subprocess.Popen:
    """Another Python process, in which JAX sees so many processors."""
    flags = (
        f"--xla_force_host_platform_device_count={devices} --xla_cpu_multi_thread_eigen=false "
        "intra_op_parallelism_threads=1"
    )
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def run(config: Path, results: Path, devices: int, *arguments: str) -> dict[str, np.ndarray]:
    finish(start([PROGRAM, config, results, *arguments], devices))
    return dict(np.load(results))


def assert_same(found, one, other, tolerance):
    names = [name.removeprefix(f"{one}/") for name in found if name.startswith(f"{one}/")]
    assert len(names) > 20
    for name in set(names) - {"devices"}:
        first, second = found[f"{one}/{name}"], found[f"{other}/{name}"]
        np.testing.assert_allclose(
            first, second, rtol=tolerance, atol=tolerance * max(1, np.abs(first).max())
        )


def test_four_devices_train_as_one(config, tmp_path):
    found = run(config, tmp_path / "found.npz", 4, "--devices", "1", "null")
    assert found["1/devices"] == 1 and found["null/devices"] == 4
    assert_same(found, "1", "null", 1e-10)


@pytest.mark.slow
def test_committees_and_accumulated_steps_on_several_devices(config, tmp_path):
    settings = ["training.precision=float32", "training.committee=2", "training.accumulate=2"]
    found = run(config, tmp_path / "found.npz", 4, *settings, "--devices", "1", "4")
    assert_same(found, "1", "4", 1e-5)


def start_pair(config: Path, *settings: Sequence[str]) -> list[subprocess.Popen]:
    """Two processes of one run, each with its own settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["--coordinator", f"127.0.0.1:{port}", "--processes", 2, "--process"]
    return [start([*TRAIN, config, *own, *launch, place]) for place, own in enumerate(settings)]


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_devices(config, tmp_path, monkeypatch):
    monkeypatch.setenv("ALLEGRO_JAX_CACHE", str(tmp_path / "cache"))
    finish(start([*TRAIN, config, f"--output={tmp_path / 'one'}"], devices=2))
    # in two pieces, so that they also continue
    for epochs in (1, 2):
        settings = [f"--output={tmp_path / 'two'}", f"training.epochs={epochs}"]
        said = [finish(process) for process in start_pair(config, settings, settings)]
        assert "on 2 devices of 2 processes" in said[0] and "epoch" not in said[1]
    assert "Continuing" in said[0]
    weights = [
        jax.tree.leaves(model_file.load(tmp_path / name / "model.safetensors").potential.params)
        for name in ("one", "two")
    ]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_processes_end_together(config, tmp_path):
    endless = [f"--output={tmp_path}", "training.epochs=1000000", "training.precision=float32"]
    pair = start_pair(config, [*endless, "training.clip=5"], [*endless, "training.clip=6"])
    for process in pair:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 2
        assert "process 1 differs from process 0 in training.clip" in output

    pair = start_pair(config, endless, endless)
    metrics = tmp_path / "metrics.csv"
    deadline = time.monotonic() + 600
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 4:
        assert time.monotonic() < deadline and pair[0].poll() is None
        time.sleep(0.1)
    pair[1].kill()
    pair[1].communicate()
    output, _ = pair[0].communicate(timeout=HEARTBEAT_SECONDS + 30)
    assert pair[0].returncode == 2
    assert "process 0: another process has ended" in output
    # the leader keeps what it has, but for an epoch whose line was only just written
    epochs = model_file.load(tmp_path / "model.safetensors").metadata["training"]["epochs"]
    assert epochs >= 2


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    process_index: int


def test_the_choice_of_devices(monkeypatch):
    """Against two processes that have three devices each."""
    alone = choose_devices(None, 5)
    assert alone.mesh is None and alone.number == 1 and list(alone.own) == [0]
    assert alone.spread(len) is len  # programs are those that there were without all this
    with pytest.raises(ConfigError, match=r"training\.devices: 2, but JAX finds 1 \(cpu\)"):
        choose_devices(2, 5)

    present = [Device(number, number // 3) for number in range(6)]
    monkeypatch.setattr(jax, "devices", lambda: present)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert list(choose_devices(2, 16).own) == [2, 3]
    assert choose_devices(None, 16).number == 6
    assert choose_devices(None, 5).number == 4
    with pytest.raises(ConfigError, match=r"training\.batch_size: 5 frames leave some of 6"):
        choose_devices(3, 5)
    with pytest.raises(ConfigError, match=r"training\.batch_size: 1 frames leave some of 2"):
        choose_devices(None, 1)


def test_what_launchers_say():
    slurm = {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"}
    assert Launch("host:1234").completed(slurm) == Launch("host:1234", 8, 3)
    mpi = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    assert Launch("host:1234").completed(slurm | mpi) == Launch("host:1234", 2, 1)
    assert Launch("host:1234", 4, 0).completed(slurm) == Launch("host:1234", 4, 0)
    assert Launch().completed(slurm) == Launch()  # JAX asks SLURM itself
    for launch, message in (
        (Launch("host"), "not of the form host:port"),
        (Launch("host:1"), "give --processes and --process"),
        (Launch("host:1", 2, 2), "2, but 2 processes count from 0"),
        (Launch(None, 2, 1), "--coordinator: needed with --processes"),
    ):
        with pytest.raises(ValueError, match=message):
            launch.completed({})


def test_alone_nothing_is_asked_of_others():
    team, said = Team.of_all(), []
    assert team == Team(1, 0) and team.leads
    team.voice(said.append)("heard")
    Team(2, 1).voice(said.append)("not heard")
    assert said == ["heard"]
    assert team.any_of(True, False) == (True, False)
    with team.leader_first():
        team.require_same({"seed": 0})


def test_a_lost_process_is_told_from_other_errors():
    lost = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    assert Team(2, 0).has_lost_one(lost) and not Team(1, 0).has_lost_one(lost)
    assert not Team(2, 0).has_lost_one(ValueError("the loss is no longer finite"))
