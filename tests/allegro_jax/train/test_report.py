"""The report of a run: one page, well-formed, with nothing beside itself, that says what is so."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from allegro_jax import cli, error_analysis
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.distributions import (
    contents,
    contents_of_frames,
    distance_histograms,
    histograms,
    sample,
)
from allegro_jax.data.frames import Frame
from allegro_jax.data.sources.ase_files import frame_from_atoms
from allegro_jax.model_file import Model
from allegro_jax.potential import AllegroPotential
from allegro_jax.train.config import config_from_dict
from allegro_jax.train.preparation import prepare
from allegro_jax.train.progress import write_metrics
from allegro_jax.train.report import write_report
from allegro_jax.train.report.record import Evaluated, load_record, record_run, save_record
from allegro_jax.train.report.report import read_metrics
from allegro_jax.train.report.run_sections import duration, typical_epoch

VOID = {"meta", "img", "br", "hr", "input", "link"}
STRANGE = 'strange <b>&"name".xyz'


def labelled(number: int, labels: tuple[str, ...]) -> Atoms:
    """A rattled crystal with labels that mean nothing."""
    rng = np.random.default_rng(number)
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.rattle(0.1, rng=rng)
    if "energy" in labels:
        atoms.info["energy"] = float(rng.normal()) - 27.0
    if "forces" in labels:
        atoms.arrays["forces"] = rng.normal(size=(8, 3))
    if "stress" in labels:
        atoms.info["stress"] = 0.01 * rng.normal(size=(3, 3))
    return atoms


def frames_of(numbers: range, labels: tuple[str, ...], source: str) -> list[Frame]:
    return [
        frame_from_atoms(labelled(number, labels), source=source, index=place)
        for place, number in enumerate(numbers)
    ]


def predictions_of(frames: list[Frame], error: float = 0.1) -> list[dict]:
    """Labels with a random error; where there is none, something."""
    rng = np.random.default_rng(0)
    return [
        {
            "energy": (frame.energy or -27.0) + error * rng.normal(),
            "forces": (0 if frame.forces is None else frame.forces)
            + error * rng.normal(size=(len(frame), 3)),
            "stress": (0 if frame.stress is None else frame.stress)
            + 0.01 * error * np.eye(3) * rng.normal(),
        }
        for frame in frames
    ]


@pytest.fixture
def finished(tmp_path, random_params):
    """A function that leaves a folder as a run does, without training."""

    def make(labels: tuple[str, ...], *, test: bool):
        from ase.io import write

        data = tmp_path / STRANGE
        write(data, [labelled(number, labels) for number in range(10)], format="extxyz")
        folder = tmp_path / "run"
        folder.mkdir()
        config = config_from_dict(
            {
                "data": {"train": str(data), "valid": 3},
                "model": {"cutoff": 3.2, "l_max": 1, "num_layers": 1},
                "output": str(folder),
            }
        )
        preparation = prepare(config, lambda _: None)
        params = jax.tree.map(jax.numpy.asarray, random_params(preparation.model))
        model = Model(AllegroPotential(params, preparation.model))
        frames = {"validation": frames_of(range(3), labels, str(data))}
        if test:
            frames["test"] = frames_of(range(20, 25), labels, "test.xyz")
        parts = {part: Evaluated(own, predictions_of(own)) for part, own in frames.items()}
        timing = {"steps_per_epoch": 2, "frames": 7, "atoms": 56, "padding": 0.125}
        timing |= {"compilations": 2, "compile_seconds": 3.5, "first_epoch": 1}
        record = record_run(
            config, preparation, model, parts, outcome="Done.", best_epoch=2, timing=timing
        )
        save_record(folder, record)
        history = [
            {
                **{f"{part}_loss": 1 / epoch for part in ("train", "valid")},
                **{f"{part}_energy_per_atom_rmse": 0.1 / epoch for part in ("train", "valid")},
                "epoch": epoch,
                "learning_rate": 0.01,
                "waiting_seconds": 0.2 * epoch,
                "seconds": 10.0 + 2 * epoch,
            }
            for epoch in (1, 2, 3)
        ]
        write_metrics(folder / "metrics.csv", history)
        return folder, parts

    return make


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects what the page refers to and says."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.pictures = 0
        self.tables: list[list[list[str]]] = []

    def handle_starttag(self, tag, attributes):
        assert tag != "script"
        found = dict(attributes)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        self.anchors |= {found["id"]} if "id" in found else set()
        if tag == "img":
            self.pictures += 1
            assert found["alt"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, head: str) -> list[list[str]]:
        """The first table with this text in its head."""
        return next(table for table in self.tables if head in " ".join(table[0]))


def read(path) -> Reader:
    text = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    # everything is within: pictures are data, links lead to headings of the page itself
    for address in reader.addresses:
        assert address.startswith("data:image/svg+xml;base64,") or address[1:] in reader.anchors
    assert not re.search(r"https?://|url\(|@import", text)
    return reader


def test_report_with_everything(finished):
    folder, parts = finished(("energy", "forces", "stress"), test=True)
    page = read(write_report(folder))
    errors = page.table("validation RMSE")
    names = [row[0].split(" (")[0] for row in errors[1:]]
    assert names == ["energy", "energy per atom", "forces", "stress"]
    frames, predictions = parts["test"].frames, parts["test"].predictions
    difference = np.concatenate(
        [p["forces"] - frame.forces for frame, p in zip(frames, predictions, strict=True)]
    )
    column = errors[0].index("test RMSE")
    assert float(errors[3][column]) == pytest.approx(1000 * np.sqrt(np.mean(difference**2)), 1e-3)
    assert page.table("with energy")[1:] == [
        ["training", "7", "56", "7", "7", "7"],
        ["validation", "3", "24", "3", "3", "3"],
        ["test", "5", "40", "5", "5", "5"],
    ]
    assert page.table("formula")[1] == ["Cl4Na4", "7", "3", "5"]
    assert {row[0] for row in page.table("largest")[1:]} == {"Na", "Cl"}
    assert [row[0].endswith(STRANGE) for row in page.table("worst atom")[1:]] == [True] * 3
    settings = {row[0]: row[1:] for row in page.table("setting")[1:]}
    assert settings["model.species"] == ["Na, Cl", "from the data"]
    assert settings["model.average_neighbours"][1] == "from the data"
    shifts = "Na: [-+.0-9]+, Cl: [-+.0-9]+"
    assert re.fullmatch(shifts, settings["model.species_shifts"][0])
    assert settings["model.cutoff"] == ["3.2", ""]
    assert settings["training.epochs"] == ["200", "default"]
    assert page.anchors >= {"errors", "data", "learning", "parity", "species", "worst", "timing"}
    assert page.pictures > 15

    before = (folder / "report.html").read_bytes()
    assert cli.main(["report", str(folder)]) == 0
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("labels", "test", "rows"),
    [(("energy", "forces"), False, 3), (("energy",), True, 2), (("forces",), False, 1)],
    ids=["no stress, no test", "energies alone", "forces alone"],
)
def test_report_of_what_there_is(finished, labels, test, rows):
    folder, _ = finished(labels, test=test)
    page = read(write_report(folder))
    errors = page.table("validation RMSE")
    assert len(errors) == 1 + rows and ("test RMSE" in errors[0]) == test
    assert ("species" in page.anchors) == ("forces" in labels)


def test_a_folder_without_a_finished_run(finished, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / "empty")]) == 2
    assert "report.json: no such file; a run writes it when it ends" in capsys.readouterr().err
    folder, _ = finished(("energy",), test=False)
    record = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**record, "version": 99}))
    with pytest.raises(ValueError, match="another version of allegro-jax"):
        load_record(folder)
    (folder / "report.json").write_text("{")
    with pytest.raises(ValueError, match=r"report\.json: not the record of a run"):
        load_record(folder)
    (folder / "metrics.csv").write_text("epoch,train_loss\n1,\x00\n")
    with pytest.raises(ValueError, match=r"metrics\.csv: not the metrics of a run"):
        read_metrics(folder / "metrics.csv")


def test_distributions_of_a_crystal():
    """Rock salt: six neighbours of the other kind at a/2, twelve of its own at a/√2."""
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    atoms.info["energy"] = -27.0
    frames = [frame_from_atoms(atoms, source="a.xyz", index=place) for place in range(3)]
    data = build_dataset(frames, ("Na", "Cl"), 4.3)
    assert contents(data) == contents_of_frames(frames, ("Na", "Cl"))
    assert contents(data).atoms_by_species == {"Na": 12, "Cl": 12}
    assert contents(data).formulas == {"Cl4Na4": 3} and contents(data).files == {"a.xyz": 3}

    found = {one.name: one for one in distance_histograms({"all": data}, 4.3)}
    for pair, distance, count in (("Cl-Na", 2.8, 144), ("Na-Na", 5.6 / 2**0.5, 144)):
        counts = np.asarray(found[pair].counts["all"])
        (bin_,) = np.flatnonzero(counts)
        assert found[pair].edges[bin_] <= distance <= found[pair].edges[bin_ + 1] + 1e-6
        assert counts[bin_] == count
    by_name = {one.name: one for one in histograms({"all": data}, (-1.0, -2.0))}
    assert set(by_name) == {"energy per atom", "neighbours per atom", "volume per atom"}
    for name, value in (
        ("energy per atom", (-27.0 + 12) / 8),
        ("neighbours per atom", 18),
        ("volume per atom", 5.6**3 / 8),
    ):
        (bin_,) = np.flatnonzero(by_name[name].counts["all"])
        assert by_name[name].edges[bin_] <= value <= by_name[name].edges[bin_ + 1]
    assert len(sample(data, pairs=300)) == 2 and len(sample(data)) == 3


def test_where_errors_are():
    frames = frames_of(range(4), ("energy", "forces"), "a.xyz")
    predictions = predictions_of(frames, error=0.0)
    predictions[2]["forces"][5, 1] += 0.3
    predictions[1]["energy"] -= 0.8
    found = error_analysis.worst_frames(frames, predictions, number=2)
    worst = found["forces"][0]
    assert (worst.file, worst.frame, worst.worst_atom) == ("a.xyz", 2, 5)
    assert worst.worst_species == frames[2].symbols[5]
    assert worst.worst_force == pytest.approx(0.3)
    assert worst.forces_rmse == pytest.approx(0.3 / np.sqrt(24))
    assert (found["energy"][0].frame, found["energy"][0].energy_per_atom) == (
        1,
        pytest.approx(-0.1),
    )
    by_species = error_analysis.errors_by_species(frames, predictions)
    hit, other = (worst.worst_species, *({"Na", "Cl"} - {worst.worst_species}))
    assert by_species[hit]["forces_rmse"] == pytest.approx(0.3 / np.sqrt(4 * 4 * 3))
    assert by_species[hit]["forces_mae"] == pytest.approx(0.3 / (4 * 4 * 3))
    assert by_species[other]["forces_rmse"] == by_species[other]["largest"] == 0
    points = error_analysis.parity_points(frames, predictions, {"Na": -1.0, "Cl": -2.0}, most=10)
    assert np.shape(points["energy"]) == (2, 4) and np.shape(points["forces"]["Na"]) == (2, 10)
    np.testing.assert_allclose(points["energy"][0][0], (frames[0].energy + 12) / 8, 1e-5)
    counts = error_analysis.error_histograms(frames, predictions)["forces"]["counts"]
    assert {symbol: sum(own) for symbol, own in counts.items()} == {"Na": 16, "Cl": 16}


def test_times():
    ends = (30.0, 32.0, 34.0, 64.0, 66.5)
    rows = [{"seconds": end, "waiting_seconds": 0.5 * n} for n, end in enumerate(ends, start=1)]
    assert typical_epoch(rows, first=1) == (2.25, 0.5)
    assert typical_epoch(rows, first=4) == (2.5, 0.5)  # the fourth compiled again
    assert typical_epoch([], first=1) is None
    assert [duration(s) for s in (0.5, 75.0, 3725.0)] == ["0.5 s", "1 min 15 s", "1 h 02 min"]
