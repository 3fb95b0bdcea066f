"""The benchmark of collapsed models runs, and its structures are what they are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"


@pytest.mark.slow
def test_smallest_case(tmp_path):
    short = ["--atoms", "100", "--repeats", "1", "--only", "silver"]
    done = subprocess.run(
        [sys.executable, "collapsed.py", *short, "--json", str(tmp_path / "found.json")],
        cwd=FOLDER,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert "| silver | 2946 | 108 |" in done.stdout
    (row,) = json.loads((tmp_path / "found.json").read_text())["systems"]
    assert row["largest_difference_eV_per_A"] < 2e-5
    assert set(row["seconds"]) == {"network", "collapsed"}


def test_crystals(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import structures

    atoms = structures.lithium_phosphate((2, 2, 3), shake=0)
    assert atoms.get_chemical_formula() == "Li72O96P24"
    distances = atoms.get_all_distances(mic=True)
    oxygen = np.sort(distances[atoms.symbols == "P"][:, atoms.symbols == "O"], axis=1)
    assert (np.abs(oxygen[:, :4] - 1.55) < 0.02).all()  # tetrahedra
    assert (oxygen[:, 4] > 3).all()
    assert len(structures.silver(3)) == 108
