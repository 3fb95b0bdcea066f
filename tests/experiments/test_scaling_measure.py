"""Times of a run's chunks are taken apart rightly, and the smallest size can be measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "scaling"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.slow
def test_smallest_size():
    smallest = ["--one", "silver", "collapsed", "108", "--seconds", "0", "--chunks", "2"]
    done = subprocess.run(
        [sys.executable, "measure.py", *smallest],
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["atoms"], found["chunk_steps"], found["steps"]) == (108, 4, 8)
    assert 0 < found["seconds_per_step"] < found["seconds_to_compile"]
    assert found["bytes_of_program"] > 108 * 4 * 12  # a list with its atoms at the least


def test_data_that_are_absent_are_told(monkeypatch, tmp_path):
    import measure

    monkeypatch.setenv("ALLEGRO_JAX_SHARED", str(tmp_path))
    found = measure.measured("li3po4", "collapsed", 1000, None)
    assert str(tmp_path) in found["skipped"]


def test_steps_and_rebuilds_are_told_apart():
    from measure import Timed, parted

    quiet, late = Timed(0.2, 0.2, 10, False), Timed(9.0, 0.2, 10, False)
    found = parted([quiet, quiet, late, Timed(0.5, 0.4, 10, True)])
    assert found["steps"] == 40
    assert found["seconds_of_a_step"] == pytest.approx(0.02)
    assert found["seconds_of_a_rebuild"] == pytest.approx(0.3)
    assert found["steps_between_rebuilds"] == 40
    assert found["seconds_per_step"] == pytest.approx(0.02 + 0.3 / 40)
    assert found["processor_seconds_per_step"] == pytest.approx(1.0 / 40)
    # without any rebuild, or without a chunk that has none, it is the mean
    assert parted([quiet, quiet])["seconds_per_step"] == pytest.approx(0.02)
    both = parted([Timed(0.5, 0.4, 10, True)])
    assert both["seconds_per_step"] == pytest.approx(0.05)
    assert both["seconds_of_a_step"] is both["seconds_of_a_rebuild"] is None


def test_the_paper_systems_have_the_paper_sizes():
    import systems

    assert systems.copies("silver", 1_000_000) == (63, 63, 63)
    assert len(systems.structure("silver", (3, 3, 3))) == 108
    assert systems.density(systems.structure("silver", (2, 2, 2))) == pytest.approx(4 / 4.09**3)
