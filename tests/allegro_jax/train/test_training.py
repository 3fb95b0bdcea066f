"""Training end to end: what is written, exact continuation, compilations, refusals."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax import model_file
from allegro_jax.data.frames import DataError
from allegro_jax.data.planning import plan_buckets
from allegro_jax.settings import ConfigError
from allegro_jax.train.loop import MODEL_FILE, train
from allegro_jax.train.preparation import prepare
from allegro_jax.train.progress import Progress
from allegro_jax.train.trainer import Trainer
from tests.allegro_jax.train.examples import alloy, configuration, labelled, quiet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    frames = [alloy(number) for number in range(20)]
    write(folder / "train.xyz", frames, format="extxyz")
    write(folder / "test.xyz", [alloy(number) for number in range(100, 103)], format="extxyz")
    return folder


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory):
    """A run of four epochs in one go, and what it said."""
    said: list[str] = []
    output = tmp_path_factory.mktemp("straight")
    config = configuration(folder, output, data={"test": "test.xyz"})
    path = train(config, say=said.append)
    return path, said


def test_what_a_run_leaves(straight, folder):
    path, said = straight
    output = path.parent
    for name in ("learning_curve.png", "parity.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
    assert (output / "checkpoints/best").is_dir() and (output / "checkpoints/last").is_dir()
    with (output / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert all(float(row["valid_forces_rmse"]) > 0 for row in rows)
    assert all(float(row["valid_stress_rmse"]) > 0 for row in rows)
    # the step and the validation: one bucket each, one compilation each
    assert any("2 compilations took" in line for line in said)
    assert any("of the slots were padding; steps waited for data" in line for line in said)
    assert 0 < float(rows[-1]["waiting_seconds"]) < float(rows[-1]["seconds"])

    with (output / "metrics_by_group.csv").open() as file:
        groups = list(csv.DictReader(file))
    assert [(row["epoch"], row["group"]) for row in groups[:3]] == [
        ("1", "Cu"),
        ("1", "Au"),
        ("2", "Cu"),
    ]
    assert len(groups) == 8 and all(float(row["forces_rmse"]) > 0 for row in groups)
    assert all(row["kind"] == "species" for row in groups)  # of a single file

    model = model_file.load(path)
    assert model.species == ("Cu", "Au")
    assert model.config.per_species("average_neighbours")[0] == pytest.approx(12, abs=0.5)
    training = model.metadata["training"]
    assert training["best_epoch"] == 1 + np.argmin([float(row["valid_loss"]) for row in rows])
    assert len(next(iter(training["data"]["files"].values()))) == 64
    assert 2.2 < model.shortest_distances["Cu", "Cu"] < 2.7
    assert model.metadata["ranges"]["atoms_by_species"]["Au"] > 0

    assert training["validation"]["by_species"]["Au"]["forces_count"] > 0
    report = (output / "report.html").read_text(encoding="utf-8")
    assert "All 4 epochs are done." in report and "test RMSE" in report
    assert any(line.split() == ["report", str(output / "report.html")] for line in said)

    report = json.loads((output / "test.json").read_text())
    assert report["by_species"]["Au"]["atoms"] == 1
    assert report["frames"] == 3 and report["stress_count"] == 3
    assert report["forces_rmse"] < 5.0


@pytest.fixture
def without_report(monkeypatch):
    """Runs end with the model: what follows is seen once, and takes longer than these runs."""
    monkeypatch.setattr(
        "allegro_jax.train.loop.finish", lambda config, *_, **__: config.output / MODEL_FILE
    )


@pytest.mark.usefixtures("without_report")
def test_continuing_is_bit_identical(straight, folder, tmp_path):
    config = configuration(folder, tmp_path, data={"test": "test.xyz"})
    train(config, stop_after=2, say=quiet)
    first = (tmp_path / "metrics.csv").read_text().splitlines()
    assert len(first) == 3
    assert_same_run(straight[0], train(config, say=quiet))


@pytest.mark.usefixtures("without_report")
def test_interrupted_within_an_epoch(straight, folder, tmp_path, monkeypatch):
    """By a signal after the second step of the second epoch; then going on, paused at each step."""

    class Terminated(Exception):
        pass

    def terminate(*_):
        raise Terminated

    steps = itertools.count(1)
    monkeypatch.setattr(
        Progress, "step", lambda _: next(steps) == 6 and signal.raise_signal(signal.SIGTERM)
    )
    config = configuration(folder, tmp_path, data={"test": "test.xyz"})
    before = signal.signal(signal.SIGTERM, terminate)
    said: list[str] = []
    try:
        with pytest.raises(Terminated):
            train(config, say=said.append)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "after epoch 1 and 2 of 4 steps, which is kept" in said[-1]
    fit = dataclasses.replace(config.training, checkpoint_minutes=1e-9)
    path = train(dataclasses.replace(config, training=fit), say=said.append)
    assert any("Continuing" in line and "2 of 4 steps" in line for line in said)
    assert next(steps) == 17  # none was taken twice
    assert_same_run(straight[0], path)


def assert_same_run(one: Path, other: Path) -> None:
    """The same weights and metrics, to the last bit."""
    models = [model_file.load(path) for path in (one, other)]
    assert models[0].config == models[1].config
    weights = [jax.tree.leaves(model.potential.params) for model in models]
    for expected, found in zip(*weights, strict=True):
        np.testing.assert_array_equal(expected, found)

    def history(path):
        with (path.parent / "metrics.csv").open() as file:
            times = {"seconds": "", "waiting_seconds": ""}
            return [row | times for row in csv.DictReader(file)]

    assert history(one) == history(other)


def test_another_run_is_not_overwritten(straight, folder):
    output = straight[0].parent
    config = configuration(folder, output, {"learning_rate": 1e-3})
    with pytest.raises(
        ConfigError, match=r"another training\.learning_rate; choose another output"
    ):
        train(config, say=quiet)
    config = configuration(folder, output, model={"num_scalar_features": 6})
    with pytest.raises(ConfigError, match=r"another model\.num_scalar_features"):
        train(config, say=quiet)


@pytest.mark.usefixtures("without_report")
def test_files_may_be_named_otherwise(folder, tmp_path):
    """By another path, as from another folder: their content counts."""
    singles = [Atoms(symbol) for symbol in ("Cu", "Au")]
    for atoms, energy in zip(singles, (-1.5, -2.5), strict=True):
        atoms.info["energy"] = energy
    said: list[str] = []
    for name, stop in (("one.xyz", 1), ("other.xyz", 2)):
        write(tmp_path / name, singles, format="extxyz")
        data = {"isolated_atoms": str(tmp_path / name)}
        config = configuration(folder, tmp_path / "run", {"epochs": 3}, data=data)
        train(config, stop_after=stop, say=said.append)
    assert any("Continuing" in line for line in said)
    singles[0].info["energy"] = -1.0
    write(tmp_path / "other.xyz", singles, format="extxyz")
    with pytest.raises(ConfigError, match="holds a run with another files"):
        train(config, say=quiet)


def test_early_stop_and_other_choices(folder, tmp_path):
    training = {
        "epochs": 50,
        "patience": 2,
        "learning_rate": 1e-30,  # lost in rounding: no epoch is better than the first
        "ema": 0.0,
        "optimiser": "adamw",
        "weight_decay": 1e-3,
        "schedule": "plateau",
        "plateau_patience": 1,
        "precision": "float64",
    }
    said: list[str] = []
    config = configuration(folder, tmp_path, training, model={"scales_trainable": True})
    # validation frames in a file; labels of the energy alone
    frames = [alloy(number) for number in range(30, 33)]
    for atoms in frames:
        energy = atoms.get_potential_energy()
        atoms.calc = None
        atoms.info["energy"] = energy
    write(tmp_path / "valid.xyz", frames, format="extxyz")
    data = dataclasses.replace(config.data, valid=(tmp_path / "valid.xyz",))
    path = train(dataclasses.replace(config, data=data), say=said.append)
    epochs = model_file.load(path).metadata["training"]["epochs"]
    assert epochs < 50
    assert any("Early stop" in line for line in said)


def test_buckets_compile_once(folder, tmp_path, monkeypatch):
    # so few frames are not worth a second layout otherwise
    plan = functools.partial(plan_buckets, worth=0)
    monkeypatch.setattr("allegro_jax.train.parts.plan_buckets", plan)
    frames = [alloy(number) for number in range(12)]
    frames += [labelled(alloy(number).repeat((2, 1, 1))) for number in range(12)]
    write(tmp_path / "mixed.xyz", frames, format="extxyz")
    config = configuration(
        folder, tmp_path / "run", {"batch_size": 1}, data={"train": str(tmp_path / "mixed.xyz")}
    )
    trainer = Trainer(config, prepare(config, quiet))
    run = trainer.start()
    for _ in range(3):
        run = trainer.epoch(run, quiet)
    buckets = len(trainer.train.buckets) + len(trainer.valid.buckets)
    assert len(trainer.train.buckets) == 2
    assert len(trainer.programs) == buckets
    assert f"{buckets} compilations" in trainer.accounts(run)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]


def test_accumulated_batches_are_one_batch(tmp_path):
    """Though they carry different numbers of labels; what is left over makes a step of its own."""
    frames = [alloy(number) for number in range(8)]
    for atoms in frames[:3]:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    write(tmp_path / "train.xyz", frames, format="extxyz")
    write(tmp_path / "valid.xyz", frames[5:], format="extxyz")
    steps = {1: 1, 4: 1, 3: 2}
    found = {}
    for accumulate in steps:
        training = {
            "batch_size": 8 if accumulate == 1 else 2,
            "accumulate": accumulate,
            "precision": "float64",
        }
        config = configuration(tmp_path, tmp_path, training, data={"valid": "valid.xyz"})
        with jax.enable_x64(True):
            trainer = Trainer(config, prepare(config, quiet))
            stepped: list[int] = []
            run = trainer.epoch(trainer.start(), functools.partial(stepped.append, 1))
        assert len(stepped) == trainer.steps_per_epoch == run.state.step == steps[accumulate]
        row = run.history[0]
        assert row["train_energy_count"] == 8 and row["train_forces_count"] == 5 * 4 * 3
        found[accumulate] = jax.tree.leaves(run.state.average), row
    for one, other, different in zip(*(found[accumulate][0] for accumulate in steps), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-10)
        assert not np.allclose(one, different, rtol=1e-8, atol=1e-10)
    for name in ("train_loss", "valid_loss"):
        assert found[1][1][name] == pytest.approx(found[4][1][name], rel=1e-9)


def test_reference_energies(folder, tmp_path):
    atoms = {"Cu": -1.5, "Au": -2.5}
    config = configuration(folder, tmp_path, data={"isolated_atoms": atoms})
    assert prepare(config, quiet).model.species_shifts == (-1.5, -2.5)
    config = configuration(folder, tmp_path, data={"isolated_atoms": {"Cu": -1.5}})
    with pytest.raises(DataError, match="no energy of an isolated Au atom"):
        prepare(config, quiet)

    frames = [alloy(number) for number in range(6)]
    for symbol, energy in atoms.items():
        single = Atoms(symbol)
        single.info["energy"] = energy
        frames.append(single)
    write(tmp_path / "with_atoms.xyz", frames, format="extxyz")
    data = {"train": str(tmp_path / "with_atoms.xyz"), "valid": 2}
    said: list[str] = []
    prepared = prepare(configuration(folder, tmp_path, data=data), said.append)
    assert prepared.model.species_shifts == (-1.5, -2.5)
    assert len(prepared.train) == 4 and "2 isolated atoms" in said[0]
    data["reference_energies"] = "least_squares"
    fitted = prepare(configuration(folder, tmp_path, data=data), quiet)
    residual = fitted.train.energies - fitted.reference(fitted.train)
    assert np.abs(residual).max() < 0.5 and fitted.model.species_shifts != (-1.5, -2.5)


def test_impossible_runs_are_refused(folder, tmp_path):
    with pytest.raises(
        ConfigError, match=r"data\.valid: 20 frames for validation leave none of 20"
    ):
        prepare(configuration(folder, tmp_path, data={"valid": 20}), quiet)
    with pytest.raises(
        DataError, match=r"train\.xyz, frame 0: species: the potential knows .*, not Au"
    ):
        prepare(configuration(folder, tmp_path, model={"species": ["Cu"]}), quiet)
    with pytest.raises(ConfigError, match=r"model\.cutoff: no two atoms .* are within 0\.5 Å"):
        prepare(configuration(folder, tmp_path, model={"cutoff": 0.5}), quiet)
