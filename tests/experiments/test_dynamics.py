"""The driver of the dynamics experiments: what it asks for, and what it makes of the answers."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from dataclasses import fields
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml

import md
from md import run_file

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STAGE = {field.name for field in fields(md.Stage)}
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
        stages = words.get("stages") or [
            md.Stage(**{one: words[one] for one in STAGE & words.keys()})
        ]
        total = sum(stage.steps for stage in stages)
        assert driver.steps_of(yaml.safe_load((folder / run.run_file).read_text())) == total
        length = sum(stage.steps * stage.timestep_fs for stage in stages)
        assert 0 < float(run.start.removesuffix("ps")) < length / 1000
        model = folder / run.model
        assert model.is_file() or model.stem in trained(model.parents[1])
        assert run.structure.removeprefix("data/") in {*described.files, *described.prepared}


def trained(folder: Path) -> set[str]:
    """Names of the models that an experiment trains; not all are kept."""
    models = yaml.safe_load((folder / "experiment.yaml").read_text())["models"]
    return {name.replace(" ", "_") for name in models}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_readme_shows_the_kept_results(folder, driver):
    described = driver.load(folder)
    results = json.loads((folder / "results.json").read_text())
    readme = (folder / "README.md").read_text()
    assert driver.table(described, results["rows"]) in readme
    if described.arrhenius is not None:
        lines = driver.arrhenius.lines(described.arrhenius, results["arrhenius"])
        assert driver.arrhenius.table(lines) in readme


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_results_of_runs_that_are_elsewhere_are_kept(folder, driver, tmp_path):
    for name in ("dynamics.yaml", "results.json", "README.md", "figure.png"):
        shutil.copy(folder / name, tmp_path)
    driver.compare(driver.load(tmp_path))
    for name in ("results.json", "README.md", "figure.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_an_arrhenius_run_is_analysed_twice_unless_it_is_aside(driver):
    described = driver.load(EXPERIMENTS / "li6ps5cl_dynamics")
    assert set(driver.analyses_of(described, "fast")) == {"analysis", "arrhenius"}
    found = driver.analyses_of(described, "fast-800")
    assert set(found) == {"arrhenius"}
    assert found["arrhenius"]["from"] == described.runs["fast-800"].start


def test_an_analysis_is_not_repeated_unless_something_has_changed(driver, monkeypatch, tmp_path):
    calls, output, trajectory = [], tmp_path / "analysis", tmp_path / "frames.xyz"

    def allegro(*words):
        calls.append(words)
        output.mkdir(exist_ok=True)
        (output / "summary.json").write_text("{}")

    monkeypatch.setattr(driver, "allegro", allegro)
    trajectory.write_text("")
    os.utime(trajectory, (0, 0))
    for options in ({"rdf": True}, {"rdf": True}, {"rdf": True, "blocks": 2}):
        driver.analyse(trajectory, options, output)
    assert [call[2:-2] for call in calls] == [("--rdf",), ("--rdf", "--blocks", "2")]
    later = (output / "summary.json").stat().st_mtime + 10
    os.utime(trajectory, (later, later))
    driver.analyse(trajectory, {"rdf": True, "blocks": 2}, output)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("against: network", "against: networks", "no curves are named networks"),
        ("curves:", "curvs:", "curvs"),
    ],
)
def test_a_description_that_cannot_be_is_refused(driver, tmp_path, before, after, message):
    text = (EXPERIMENTS / "water_dynamics" / "dynamics.yaml").read_text()
    (tmp_path / "dynamics.yaml").write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=message):
        driver.load(tmp_path)


def test_data_are_laid_out_and_prepared(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    experiment, reproduce = (importlib.import_module(n) for n in ("experiment", "reproduce"))
    monkeypatch.setenv("ALLEGRO_JAX_SHARED", str(tmp_path / "shared"))
    folder = tmp_path / "li6ps5cl_dynamics"
    folder.mkdir()
    shutil.copy(EXPERIMENTS / "li6ps5cl_dynamics" / "prepare.py", folder)
    source = tmp_path / "shared" / "data"
    source.mkdir(parents=True)
    millis = np.arange(18, dtype=np.int16).reshape(3, 2, 3) * 1000
    np.savez(source / "a.npz", Z=[3, 17], cell=np.eye(3) * 8, pos_unwrapped_mA=millis)
    for _ in range(2):  # the second finds it done
        reproduce.lay_out_data(folder, {"aimd.npz": experiment.Origin.of("a.npz")}, "nowhere")
    frames = ase.io.read(folder / "data" / "aimd.xyz", ":")
    assert [str(one.symbols) for one in frames] == ["LiCl"] * 3
    np.testing.assert_allclose([one.positions for one in frames], millis / 1000)
    some = {
        "two.xyz": experiment.Origin.of({"source": "aimd.xyz", "frames": "1:"}),
        "other.xyz": experiment.Origin.of({"source": "aimd.xyz", "without": "1:"}),
    }
    ase.io.write(source / "aimd.xyz", frames)
    reproduce.lay_out_data(folder, some, "nowhere")
    assert len(ase.io.read(folder / "data" / "two.xyz", ":")) == 2
    (other,) = ase.io.read(folder / "data" / "other.xyz", ":")
    np.testing.assert_allclose(other.positions, millis[0] / 1000)


def test_frames_are_chosen_as_python_slices_them(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    origin = importlib.import_module("experiment").Origin
    assert origin("a").chosen(3) == [0, 1, 2]
    assert origin("a", frames="::2").chosen(5) == [0, 2, 4]
    assert origin("a", without="::2").chosen(5) == [1, 3]
    assert origin("a", frames=":4", without="::3").chosen(9) == [1, 2]


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


def test_curves_on_other_bins_are_refused(report):
    one, other = ({"rdf": {"r_A": np.arange(4) * step, "g_P_O": np.ones(4)}} for step in (0.1, 0.2))
    with pytest.raises(ValueError, match="different bins"):
        report.distances(one, other)


def test_a_pair_has_one_name_whatever_the_order_of_the_file(report):
    assert report.in_order("g_O_H_error") == "g_H_O_error"
    assert report.in_order("n_Li_Cl") == "n_Cl_Li"
    assert report.in_order("g_total_error") == "g_total_error"


def test_peaks_are_where_a_curve_is_highest(report):
    rdf = {"r_A": np.array([1.0, 2, 3]), "g_O_O": np.array([0.0, 2.5, 1])}
    found = report.Found({}, {"rdf": rdf | {"g_O_O_error": np.array([0, 0.1, 0])}}).numbers()
    assert found == {"top O-O": (2.0, None), "height O-O": (2.5, 0.1)}


def test_published_curves_are_read_in_their_unit(driver, tmp_path):
    (tmp_path / "goo.dat").write_text('# bohr\n"# and quotes"\n1 0 9\n2 2.5 9\n3 1 9\n')
    (tmp_path / "goh.dat").write_text("2 1\n3 2\n")
    files = {"g_O_O": "goo.dat", "g_H_O": "goh.dat"}
    found = driver.Curves("measured", files, x_scale=0.5).read(tmp_path)
    np.testing.assert_allclose(found.tables["rdf"]["r_A"], [0.5, 1, 1.5])
    np.testing.assert_allclose(found.tables["rdf"]["g_O_O"], [0, 2.5, 1])
    np.testing.assert_allclose(found.tables["rdf"]["g_H_O"], [np.nan, 1, 2])
    assert found.numbers()["top O-O"] == (1.0, None)
    (tmp_path / "goo.dat").write_text("".join(f"{r} 1\n" for r in range(20)))
    (tmp_path / "goh.dat").write_text("".join(f"{r} 1\n" for r in range(20) if not 5 < r < 12))
    found = driver.Curves("measured", files).read(tmp_path)
    assert np.flatnonzero(np.isnan(found.tables["rdf"]["g_H_O"])).tolist() == [*range(6, 12)]


def test_a_figure_leaves_out_what_there_is_not(report, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    figure = importlib.import_module("dynamics_figure")
    r, ones = np.linspace(0, 5, 6), np.ones(6)
    rdf = {"r_A": r, "g_O_O": ones, "g_O_O_error": 0.1 * ones}
    reference = report.Found({}, {"rdf": rdf})
    run = report.Found({}, {"rdf": rdf, "msd": {"time_fs": r, "msd_O_A2": r}})
    panels = [
        figure.Panel("rdf", "g_O_O", "O–O", "r", "g", limits=(1, 4)),
        figure.Panel("msd", "msd_O_A2", "O", "time", "msd"),
    ]
    assert figure.curve([reference], panels[1]) is None
    x, y, error = figure.curve([run, run], panels[1])
    np.testing.assert_allclose([x, y, error], [r, r, 0 * r])
    drawn = []
    path = tmp_path / "figure.png"
    figure.draw(panels, {"a": [reference], "b": [run]}, path, {"c": reference}, drawn.append)
    assert path.stat().st_size > 0
    assert len(drawn) == 1


def test_drift_and_means_are_those_behind_the_start(report):
    time = np.arange(0.0, 10_001, 100)
    log = {
        "time_fs": time,
        "temperature_K": np.where(time < 5000, 3000.0, 600.0),
        "pressure_GPa": np.full(len(time), 2.0),
        "volume_A3": np.full(len(time), 29.915),
        "conserved_eV": np.where(time < 5000, 7.0, 0.003 * time / 1000),
    }
    found = report.of_log(log, "5ps", {"H": 2, "O": 1})
    assert found["temperature K"] == (600, 0)
    assert "bath K" not in found
    log["target_temperature_K"] = np.where(time < 5000, 3000.0, 610.0)
    assert report.of_log(log, "5ps", {"H": 2, "O": 1})["bath K"] == (610, None)
    assert "uncertainty eV/Å" not in found
    log["max_forces_std_eV_per_A"] = np.where(time % 200 == 0, time / 1e4, np.nan)  # every other
    looked = report.of_log(log, "5ps", {"H": 2, "O": 1})["uncertainty eV/Å"]
    assert looked[0] == pytest.approx(0.75) and looked[1] > 0
    drawn = report.Found({}, {}).with_log(log).tables["log"]
    assert next(iter(drawn)) == "time_fs" and set(drawn) == set(log)
    assert found["density g/cm3"][0] == pytest.approx(1.0, rel=1e-3)
    assert found["drift µeV/atom/ps"][0] == pytest.approx(1000.0)


def test_errors_of_means_are_those_of_blocks(report):
    noise = np.random.default_rng(0).normal(size=5000)
    mean, error = report.block_mean(3 + noise)
    assert mean == pytest.approx(3, abs=5 / np.sqrt(5000))
    assert 0.3 < error * np.sqrt(5000) < 2
    assert report.block_mean(noise[:3])[1] is None


def test_a_table_has_an_empty_cell_where_a_number_is_not_known(report):
    rows = [report.Row("D Li", "D", 10.0)]
    text = report.markdown(["a", "b"], rows, [[{"D Li": (0.1, 0.01)}], [{}]])
    assert text.splitlines()[-1] == "| D | 1.00 ± 0.10 | – |"
