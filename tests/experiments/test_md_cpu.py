"""The benchmark of molecular dynamics runs, and draws the right conclusions."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"


@pytest.mark.slow
def test_smallest_case(tmp_path):
    smallest = ["--quick", "--largest", "125", "--only", "Lennard-Jones", "--threads", "1"]
    short = ["--repeats", "1", "--seconds", "0.2", "--json", str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "md_cpu.py", *smallest, *short],
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "| 125 |" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text())["speed"]
    assert {"allegro-jax", "forces alone", "ASE"} <= set(row["seconds_per_step"])
    # a longer run less a shorter one: on a busy machine the difference of short ones has any sign
    assert all(map(math.isfinite, row["seconds_per_step"].values()))


def test_conclusions(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import md_cpu

    def row(atoms, ours, **others):
        seconds = {"allegro-jax": ours, **others}
        return {"potential": "Lennard-Jones", "atoms": atoms, "seconds_per_step": seconds}

    speed = [
        row(1000, 1.2e-3, **{"forces alone": 1e-3}),
        *(row(atoms, 1e-9 * atoms**1.1) for atoms in (10_000, 100_000, 1_000_000)),
    ]
    found = md_cpu.conclusions(speed)
    assert found["overhead"] == {"Lennard-Jones": pytest.approx(1.2)}
    assert found["exponent"] == pytest.approx(1.1)
