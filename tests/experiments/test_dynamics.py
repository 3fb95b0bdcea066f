"""The driver of the dynamics experiments: what it asks for, and what it makes of the answers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from md import run_file

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FOLDERS = sorted(path.parent for path in EXPERIMENTS.glob("*/dynamics.yaml"))


@pytest.fixture
def driver(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("dynamics")


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("dynamics_report")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_descriptions_name_what_is_there(folder, driver):
    described = driver.load(folder)
    for run in described.runs.values():
        words = run_file.load(folder / run.run_file)
        total = sum(stage.steps for stage in words["stages"])
        assert driver.steps_of(yaml.safe_load((folder / run.run_file).read_text())) == total
        length = sum(stage.steps * stage.timestep_fs for stage in words["stages"])
        assert 0 < float(run.start.removesuffix("ps")) < length / 1000
        assert (folder / run.model).is_file()
        assert run.structure.removeprefix("data/") in described.files


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_shows_the_kept_results(folder, driver):
    described = driver.load(folder)
    columns = json.loads((folder / "results.json").read_text())["rows"]
    assert driver.table(described, columns) in (folder / "README.md").read_text()


def test_options_become_words(driver):
    options = {"rdf": True, "msd": False, "adf": ["O-P-O", "P-O-O"], "cutoff": 10}
    assert driver.flags(options) == ["--rdf", "--adf", "O-P-O", "P-O-O", "--cutoff", "10"]


def test_halves_share_no_frame(driver):
    (_, first), (_, second) = driver.halves({"first_frame": 1, "last_frame": 9})
    assert (first["from"], first["to"], second["from"], second["to"]) == (1, 5, 5, 10)


def test_errors_are_of_seeds_or_of_blocks(report):
    assert report.over_seeds([(2.0, 0.5)]) == (2.0, 0.5)
    mean, error = report.over_seeds([(1.0, 9.0), (3.0, None)])
    assert (mean, error) == pytest.approx((2.0, np.std([1, 3], ddof=1) / np.sqrt(2)))
    assert report.cell([(1.2345, 0.0213)]) == "1.234 ± 0.021"
    assert report.cell([(-12.345, 2.13)]) == "−12.3 ± 2.1"
    assert report.cell([(0.012345, None)], scale=100) == "1.234"
    assert report.cell([]) == "–"


def test_moments_of_a_normal_distribution(report):
    x = np.arange(0.5, 180)
    found = report.moments(x, np.exp(-((x - 109.4) ** 2) / (2 * 5.0**2)))
    assert found == pytest.approx((109.4, 5.0), rel=1e-3)


def test_distance_is_the_area_between_curves(report):
    one = {"rdf": {"r_A": np.arange(4), "g_P_O": np.array([0.0, 2, 1, 1])}, "adf": {}}
    other = {"rdf": {"r_A": np.arange(4), "g_P_O": np.array([0.0, 1, 2, 1])}, "adf": {}}
    assert report.distances(one, other) == {"distance P-O": (0.5, None)}


def test_drift_and_means_are_those_behind_the_start(report):
    time = np.arange(0.0, 10_001, 100)
    log = {
        "time_fs": time,
        "temperature_K": np.where(time < 5000, 3000.0, 600.0),
        "pressure_GPa": np.full(len(time), 2.0),
        "conserved_eV": np.where(time < 5000, 7.0, 0.003 * time / 1000),
    }
    found = report.of_log(log, "5ps", 100)
    assert found["temperature K"][0] == 600
    assert found["drift µeV/atom/ps"][0] == pytest.approx(30.0)


def test_a_table_has_an_empty_cell_where_a_number_is_not_known(report):
    rows = [report.Row("D Li", "D", 10.0)]
    text = report.markdown(["a", "b"], rows, [[{"D Li": (0.1, 0.01)}], [{}]])
    assert text.splitlines()[-1] == "| D | 1.00 ± 0.10 | – |"
