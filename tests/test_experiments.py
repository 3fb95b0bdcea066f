"""The accuracy experiments: descriptions, configurations and tables go together."""

from __future__ import annotations

import importlib
import re
import shutil
from pathlib import Path

import pytest

from allegro_jax.train.config import load_config

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
FOLDERS = sorted(path.parent for path in EXPERIMENTS.glob("*/experiment.yaml"))


@pytest.fixture
def harness(monkeypatch):
    """The scripts beside the experiments, imported as they import each other."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_configuration_can_be_read(folder, harness, tmp_path):
    described = harness("experiment").load(folder)
    for path in (*folder.glob("*.yaml"), *folder.glob("*.xyz.gz")):
        shutil.copy(path, tmp_path)
    if (folder / "models").is_dir():  # some are trained further
        shutil.copytree(folder / "models", tmp_path / "models")
    (tmp_path / "data").mkdir()
    made = re.findall(r"data/([\w.]+)", "".join(p.read_text() for p in folder.glob("*.yaml")))
    for name in (*described.files, *(made if (folder / "prepare.py").is_file() else ())):
        (tmp_path / "data" / name).touch()
    for path in tmp_path.glob("[!e]*.yaml"):
        load_config(path)
    for model in described.models.values():
        load_config(tmp_path / model.config, model.settings)
        for test in model.tests.values():
            assert test in described.files or (folder / "prepare.py").is_file()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_readme_shows_the_kept_results(folder, harness):
    described = harness("experiment").load(folder)
    text = (folder / "README.md").read_text()
    tables = harness("result_table")
    assert tables.BEGIN in text and tables.END in text
    if described.results():
        assert tables.table(described, described.results()) in text


def test_table_shows_published_figures_then_ours(harness):
    experiment, tables = harness("experiment"), harness("result_table")
    described = experiment.Experiment(
        folder=Path("nowhere"),
        title="t",
        data_source="s",
        files={},
        models={"ours": experiment.Model("c.yaml", {"hot": "h.xyz"}, published={"A": (None, 3.0)})},
        columns=(
            experiment.Column("hot", "forces_rmse", "F (meV/Å)"),
            experiment.Column("valid", "energy_mae", "E (eV)", scale=1.0),
        ),
        published={"B": (1.0, None)},
    )
    one = {"epochs": 5, "minutes": 2.0, "slope_percent": 1.0, "valid": {"energy_mae": 0.5}}
    found = {
        "ours": {
            "0": {**one, "tests": {"hot": {"forces_rmse": 0.010}}},
            "1": {**one, "tests": {"hot": {"forces_rmse": 0.014}}},
        }
    }
    assert tables.table(described, found).splitlines()[2:] == [
        "| B | 1 | – |  |",
        "| ours: A | – | 3 |  |",
        "| **ours** | 12 ± 2.8 | 0.5 ± 0 | 5/5 epochs, 2 min, −1.0% in the last tenth |",
    ]


def test_uncertainties_of_committees_have_a_table(harness):
    experiment, tables = harness("experiment"), harness("result_table")
    described = experiment.Experiment(
        folder=Path("nowhere"),
        title="t",
        data_source="s",
        files={},
        models={
            "alone": experiment.Model("c.yaml", {"hot": "h.xyz"}),
            "four": experiment.Model("c.yaml", {"hot": "h.xyz"}),
        },
        columns=(),
        published={},
    )
    one = {"epochs": 5, "minutes": 2.0, "slope_percent": None, "valid": {}}
    spread = {"rms": 0.02, "ratio": 1.5, "rank_correlation": 0.6, "share_of_largest": 0.4}
    found = {
        "alone": {"0": {**one, "tests": {"hot": {}}}},
        "four": {"0": {**one, "tests": {"hot": {"uncertainty": {"forces": spread}}}}},
    }
    assert (
        tables.table(described, found).splitlines()[-1]
        == "| **four** | hot | 20 | 1.5 | 0.6 | 40 |"
    )
    assert not tables.uncertainties(described, {"alone": found["alone"]})


def test_figure_is_drawn_of_what_is_known(harness, tmp_path):
    experiment, tables = harness("experiment"), harness("result_table")
    described = experiment.Experiment(
        folder=tmp_path,
        title="t",
        data_source="s",
        files={},
        models={"old": experiment.Model("c.yaml", {}), "new": experiment.Model("c.yaml", {})},
        columns=(),
        published={},
    )
    kept = {"curve": {"minutes": [1.0, 2.0], "errors": [0.3, 0.2]}}
    assert tables.draw(described, {"old": {"0": {}}}) == ["old"]
    assert tables.draw(described, {}) == []
    assert not (tmp_path / "figure.png").exists()
    assert tables.draw(described, {"new": {"0": kept, "1": kept}, "old": {"0": {}}}) == ["old"]
    assert (tmp_path / "figure.png").stat().st_size > 1000
    (tmp_path / "figure.png").unlink()
    (tmp_path / "runs" / "old-seed0").mkdir(parents=True)
    metrics = tmp_path / "runs" / "old-seed0" / "metrics.csv"
    metrics.write_text("seconds,valid_forces_rmse\n30,0.4\n60,\n90,0.2\n")
    assert tables.draw(described, {"new": {"0": kept}, "old": {"0": {}}}) == []
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_learning_curves_are_thinned(harness):
    thinned = harness("reproduce").thinned
    assert thinned([1.0, 2.0], [0.5, 0.25]) == {"minutes": [1.0, 2.0], "errors": [0.5, 0.25]}
    curve = thinned([epoch / 3 for epoch in range(500)], [1 / (epoch + 1) for epoch in range(500)])
    assert len(curve["minutes"]) == len(curve["errors"]) <= 40
    assert curve["errors"][0] == 1 and curve["errors"][-1] == 1 / 500


def test_slope_is_the_fall_over_the_last_tenth(harness):
    slope = harness("reproduce").slope
    assert slope([2.0] * 80 + [1.0] * 10 + [0.9] * 10) == 10.0
    assert slope([1.0]) is None
