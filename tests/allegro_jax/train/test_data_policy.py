"""What training does with frames that are unusable, suspicious, or have a weight."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from allegro_jax.data.batches import assemble
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.frames import DataError
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.sources import read_frames
from allegro_jax.settings import ConfigError
from allegro_jax.train import train
from allegro_jax.train.preparation import prepare
from tests.allegro_jax.train import examples


@pytest.fixture
def folder(tmp_path):
    """Six frames, the third without distance; a test file whose second frame is unlabelled."""

    def molecule(distance, **info):
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, distance]], info=info)
        if info:
            atoms.arrays["forces"] = np.asarray([[0, 0, -1.0], [0, 0, 1.0]]) * (1.1 - distance)
        return atoms

    distances = (1.0, 1.05, 0.05, 1.1, 1.15, 1.2)
    frames = [
        molecule(distance, energy=-10 * distance, w=1 + place)
        for place, distance in enumerate(distances)
    ]
    write(tmp_path / "train.xyz", frames, format="extxyz")
    write(tmp_path / "test.xyz", [molecule(1.07, energy=-10.7), molecule(1.3)], format="extxyz")
    return tmp_path


def configuration(folder, **data):
    training = {"epochs": 1, "batch_size": 2}
    model = {"cutoff": 3.0}
    return examples.configuration(
        folder, folder / "run", training, data={"valid": 2, **data}, model=model
    )


def test_stop_is_the_default(folder):
    with pytest.raises(DataError, match=r"train\.xyz, frame 2: positions: .*0\.05 Å"):
        prepare(configuration(folder))


def test_skipped_frames_are_told_and_listed(folder):
    said = []
    train(configuration(folder, on_error="skip", test="test.xyz"), say=said.append)
    words = [line for line in said if "skipped.csv" in line]
    assert len(words) == 2 and "1 training and validation frames" in words[0]
    assert "train.xyz, frame 2: positions" in words[0] and "1 test frames" in words[1]
    with (folder / "run" / "skipped.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["frame"], row["field"]) for row in rows] == [
        (str(folder / "train.xyz"), "2", "positions"),
        (str(folder / "test.xyz"), "1", "labels"),
    ]


def test_suspicions_are_said(folder):
    text = (folder / "train.xyz").read_text()
    (folder / "again.xyz").write_text(text)
    said = []
    prepare(configuration(folder, on_error="skip", valid="again.xyz"), said.append)
    (line,) = [line for line in said if line.startswith("Warning")]
    assert "again.xyz, frame 0: positions: the same structure as" in line
    assert "(4 more about positions)" in line


def test_weights_reach_the_batch(folder):
    config = configuration(folder, on_error="skip", weight_key="w")
    frames = read_frames(config.data.train, config.data.conventions, report=lambda problem: None)
    assert [frame.weight for frame in frames] == [1, 2, 4, 5, 6]
    data = build_dataset(frames, ("C", "O"), 3.0)
    assert data.frame(2).weight == 4
    (bucket,) = plan_buckets(data.counts, 5, groups=1, block_slots=20)
    assembled = assemble(data, np.arange(5), bucket.layout, np.zeros(5))
    np.testing.assert_array_equal(assembled.batch.energy_weight, [1, 2, 4, 5, 6])
    weights = assembled.batch.force_weight[assembled.rows]
    np.testing.assert_array_equal(weights, np.repeat([1, 2, 4, 5, 6], 2))
    assert not assembled.batch.stress_weight.any()


def test_settings_are_checked(folder):
    for settings, message in (
        ({"energy_unit": "Bohr"}, "data.energy_unit: 'Bohr' is no unit of energy"),
        ({"stress_sign": "tensile"}, "data.stress_sign: 'tensile' is not one of"),
        ({"on_error": "ignore"}, "data.on_error: 'ignore' is not one of stop, skip"),
        ({"train": "*.cif"}, r"data.train: .*\*\.cif: no file matches"),
        ({"train": ["t*.xyz", "train.xyz"]}, r"data.train: .*train\.xyz is named twice"),
        ({"test": "absent.xyz"}, r"data.test: .*absent\.xyz: no such file"),
    ):
        with pytest.raises(ConfigError, match=message):
            configuration(folder, **settings)
    paths = configuration(folder, train="t*.xyz").data.train
    assert [path.name for path in paths] == ["test.xyz", "train.xyz"]
