"""The benchmark of training draws the right conclusions, and takes our steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    """The scripts import each other."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
def test_our_steps_alone(tmp_path):
    hasty = ["--quick", "--only", "step", "--threads", "1", "--repeats", "1"]
    done = subprocess.run(
        [sys.executable, "training.py", *hasty, "--json", str(tmp_path / "found.json")],
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "| 3BPA | 5 |" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text())["step"]
    assert set(row["seconds"]) == {"allegro-jax", "allegro-jax, muon"}
    assert all(seconds > 0 for seconds in row["seconds"].values())
    assert 0 < row["padding"] < 0.5


def test_batches_are_those_of_an_epoch():
    from training import BATCHES, Batches, labelled

    batches = Batches(labelled("3BPA"), 5)
    chosen = np.concatenate(batches.frames)
    assert len(chosen) == len(set(chosen)) == 5 * BATCHES
    assert batches.waste < 0.2
    assert all(len(frames) == 5 for frames in batches.frames)
    for batch in batches.assembled:
        assert (batch.species >= 0).sum() == 5 * 27


def test_start_and_steady_state_are_told_apart():
    from training_epoch import summary

    first = {"began": 100.0, "ended": [130.0, 132.0, 134.0, 136.5], "peak": 2_000}
    second = {"began": 200.0, "ended": [210.0, 212.0], "peak": 1_500}
    assert summary([first, second]) == {"seconds": 2.0, "before": [28.0, 8.0], "peak": 2_000}


def test_programs_are_watched(tmp_path):
    from training_epoch import watched

    program = (
        "import time\n"
        "for n in range(3): time.sleep(0.3); print(n, file=open('lines', 'a'))\n"
        "x = bytearray(100_000_000); time.sleep(0.3); print('done')"
    )
    (tmp_path / "lines").touch()  # as metrics.csv is begun before the first epoch
    began = time.time()
    run = watched([sys.executable, "-c", program], tmp_path, {}, follow=tmp_path / "lines")
    assert run["output"] == "done\n"
    assert len(run["written"]) == 1 + 3 and run["written"] == sorted(run["written"])
    assert began <= run["began"] <= run["written"][1]
    if sys.platform == "linux":
        assert run["peak"] > 100_000_000
    with pytest.raises(SystemExit, match="no such thing"):
        watched([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path, {})


@pytest.mark.parametrize(("seconds", "runs"), [(0.1, 2 + 2 * 3), (5.0, 2 + 3)])
def test_short_runs_follow_one_of_their_own(monkeypatch, seconds, runs):
    import racing

    monkeypatch.setattr(racing, "PAUSE", 0)
    taken = []

    def contender(name, seconds):
        def run():
            following = taken[-1:] == [name]
            taken.append(name)
            return seconds if following else 2 * seconds

        return run

    contenders = {"quick": contender("quick", 0.01), "slow": contender("slow", seconds)}
    found = racing.in_turns("a race", 3, contenders)
    assert taken.count("quick") == taken.count("slow") == runs
    assert found == {"quick": 0.01 * (1 + (runs == 5)), "slow": seconds * (1 + (runs == 5))}


def test_utilisation_is_asked_of_the_driver(tmp_path, monkeypatch):
    from racing import Utilisation

    monkeypatch.setenv("PATH", str(tmp_path))
    with Utilisation(every=0.01) as used:
        time.sleep(0.05)
    assert not used.available and used.percent is None

    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 70\n")
    fake.chmod(0o755)
    with Utilisation(every=0.01) as used:
        deadline = time.monotonic() + 10
        while used.percent is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert used.available and used.percent == 70


def test_table():
    from training import markdown

    step = {
        "system": "3BPA",
        "frames": 5,
        "padding": 0.11,
        "seconds": {"allegro-jax": 0.05, "eager": 0.6, "compiled": 0.4},
        "compile_s": {"allegro-jax": 12.0, "compiled": 60.0},
        "notes": [],
        "gpu_percent": None,
    }
    alone = step | {"frames": 1, "seconds": {"allegro-jax": 0.01}, "notes": ["compiled: a reason"]}
    memory = {
        "allegro-jax": {"peak": 1e9, "before": 4e8, "after": 8e8},
        "eager": {"peak": 3.5e9, "before": 5e8, "after": 3e9},
    }
    text = markdown(
        {
            "machine": {"processor": "some", "threads": 2},
            "versions": {"jax": "1"},
            "step": [step, alone | {"compile_s": {"allegro-jax": 12.0}}],
            "memory": [{"system": "3BPA", "bytes": memory}],
            "epoch": {"skipped": "no data"},
        }
    )
    assert "| 3BPA | 5 | 50.0 | – | 600.0 | **12.0** | 400.0 | **8.0** | 11% | 12 s, 60 s |" in text
    assert "| 3BPA | 1 | 10.0 | – | – | – | – | – | 11% | 12 s, – |" in text
    assert "compiled: a reason" in text and "No epochs: no data." in text
    assert "| 3BPA | 1.00 (0.40, 0.80) | 3.50 (0.50, 3.00) | **3.5** |" in text
