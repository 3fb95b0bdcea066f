"""Estimates before a run: steps and padding are exact, times and memory go together."""

from __future__ import annotations

import json

import pytest
from ase.io import write

from allegro_jax import cli
from allegro_jax.train.config import config_from_dict
from allegro_jax.train.preparation import prepare
from allegro_jax.train.trainer import Trainer
from allegro_jax.train.tuning import Estimate, recommend, tune
from tests.allegro_jax.train.examples import TINY, alloy


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    frames = [alloy(number) for number in range(14)]
    write(folder / "frames.xyz", frames, format="extxyz")
    return {
        "data": {"train": str(folder / "frames.xyz"), "valid": 4},
        "model": TINY,
        "training": {"epochs": 7, "batch_size": 4, "row_groups": 1, "block_slots": 24},
        "output": str(folder / "run"),
    }


@pytest.fixture(scope="module")
def tuning(content):
    config = config_from_dict(content)
    found = tune(config, batch_sizes=[4], block_slots=[96], seconds=0.01, say=lambda _: None)
    assert not config.output.exists()
    return found


def test_steps_and_padding_are_those_of_training(tuning, content):
    for one in tuning.paddings:
        fit = {"batch_size": one.batch_size, "row_groups": one.row_groups}
        config = config_from_dict({**content, "training": content["training"] | fit})
        trainer = Trainer(config, prepare(config, lambda _: None))
        assert (one.steps_per_epoch, one.padding) == (trainer.steps_per_epoch, trainer.waste)
        assert one.steps_per_epoch == 3  # 10 frames, 4 at a time
    assert [one.row_groups for one in tuning.paddings] == [1, 2, 4, 8]


def test_estimates(tuning):
    small, large = tuning.estimates
    assert (small.block_slots, large.block_slots) == (24, 96)
    assert 0 < small.memory < large.memory  # more slots at once need more memory
    for one in tuning.estimates:
        assert one.fits and one.compile_seconds > 0 and one.step_seconds > 1e-4
        assert one.epoch_seconds == pytest.approx(
            3 * one.step_seconds + one.validation_seconds, rel=1e-9
        )
        assert one.frame_seconds == pytest.approx(3 * one.step_seconds / 10)
        assert one.run_seconds == pytest.approx(one.compile_seconds + 7 * one.epoch_seconds)
    assert tuning.recommended in tuning.estimates
    assert tuning.data_bytes > 14 * 4 * 12 * 16  # frames, atoms, neighbours, a vector and a number
    text = str(tuning)
    assert f"  block_slots: {tuning.recommended.block_slots}" in text
    assert text.count("  <-") == 1


def test_recommendation():
    def estimate(batch_size, epoch):
        return Estimate(batch_size, 4, 256, 10, 0.1, epoch is not None, 1, 1.0, epoch_seconds=epoch)

    one, five, ten = estimate(1, 9.0), estimate(5, 4.2), estimate(10, 4.0)
    assert recommend([one, five, ten]) == five  # within 10% of the fastest, and smaller
    assert recommend([one, estimate(5, 5.0), ten]) == ten
    assert recommend([one, five, estimate(10, None)]) == five
    assert recommend([estimate(1, None)]) is None


def test_nothing_that_fits(content, monkeypatch):
    monkeypatch.setattr("allegro_jax.train.tuning.memory_limit", lambda: 1000)
    found = tune(config_from_dict(content), batch_sizes=[4], block_slots=[24], say=lambda _: None)
    assert found.recommended is None and not found.estimates[0].fits
    assert "does not fit" in str(found) and "Nothing fits" in str(found)


def test_a_batch_size_left_to_the_default_is_among_those_tried(content, monkeypatch):
    def estimate(config, *_, **__):
        return Estimate(config.training.batch_size, 1, 24, 10, 0.1, True, 1, 1.0, epoch_seconds=1.0)

    monkeypatch.setattr("allegro_jax.train.tuning.measure", estimate)
    config = {**content, "training": content["training"] | {"batch_size": None}}
    found = tune(config_from_dict(config), block_slots=[24], say=lambda _: None)
    assert [one.batch_size for one in found.estimates] == [1, 2, 5, 8, 10]  # 8 x 4 atoms


def test_command(content, tmp_path, capsys):
    import yaml

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    arguments = ["tune", str(tmp_path / "run.yaml"), "training.epochs=3", "--batch-sizes", "4"]
    arguments += ["--block-slots", "24", "--seconds", "0.01", "--json", str(tmp_path / "out.json")]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert "3 epochs" in out and "10 training and 4 validation frames" in err
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["epochs"] == 3 and found["recommended"] == found["estimates"][0]
    assert cli.main([*arguments[:2], "--batch-sizes", "0,x"]) == 2
    assert "--batch-sizes: expected whole numbers" in capsys.readouterr().err
