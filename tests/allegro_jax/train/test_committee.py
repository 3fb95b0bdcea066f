"""Committees: trained at once as if one by one, kept in one file, and their uncertainties."""

from __future__ import annotations

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.io import read, write

from allegro_jax import evaluation, model_file
from allegro_jax.interfaces.ase import AllegroCalculator
from allegro_jax.potential import AllegroPotential, SinglePoint, potential_of
from allegro_jax.settings import ConfigError
from allegro_jax.train import committee
from allegro_jax.train.loop import train
from allegro_jax.train.preparation import prepare
from allegro_jax.train.trainer import Trainer
from allegro_jax.uncertainty import calibration
from tests.allegro_jax.train import examples
from tests.allegro_jax.train.examples import cluster, labelled, quiet

MEMBERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(
        folder / "train.xyz", [labelled(cluster(number)) for number in range(13)], format="extxyz"
    )
    write(
        folder / "test.xyz",
        [labelled(cluster(number)) for number in range(50, 54)],
        format="extxyz",
    )
    return folder


def configuration(folder, output, **training):
    data, model = {"valid": 3}, {"cutoff": 4.0, "l_max": 0}
    return examples.configuration(folder, output, {"epochs": 2, **training}, data=data, model=model)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """A committee, trained in float64 so that differences in rounding stay small."""
    output = tmp_path_factory.mktemp("committee")
    config = configuration(folder, output, committee=MEMBERS, precision="float64")
    return config, train(config, say=quiet)


def test_members_are_what_separate_runs_with_their_keys_would_be(trained, folder, tmp_path):
    config, path = trained
    alone = dataclasses.replace(config.training, committee=1)
    config_alone = dataclasses.replace(config, training=alone, output=tmp_path)
    rows = list(csv.DictReader((path.parent / "metrics.csv").open()))
    with jax.enable_x64(True):
        found = model_file.load(path)
        assert found.members == MEMBERS
        keys = jax.random.split(jax.random.key(config.seed), MEMBERS)
        trainer = Trainer(config_alone, prepare(config_alone, quiet))
        losses = []
        for member, key in enumerate(keys):
            trainer.params = committee.init(key, found.config, jnp.float64)
            run = trainer.start()
            for _ in range(config.training.epochs):
                run = trainer.epoch(run, quiet)
            losses.append([row["valid_loss"] for row in run.history])
            # the file holds the epoch with the lowest mean loss: here the last
            for ours, theirs in zip(
                jax.tree.leaves(run.state.average),
                jax.tree.leaves(found.potential[member].params),
                strict=True,
            ):
                np.testing.assert_allclose(theirs, ours, rtol=1e-7, atol=1e-9)
    assert [float(row["valid_loss"]) for row in rows] == pytest.approx(np.mean(losses, axis=0))
    spreads = [float(row["valid_loss_spread"]) for row in rows]
    assert spreads == pytest.approx(np.std(losses, axis=0, ddof=1))
    assert found.metadata["training"]["best_epoch"] == 2


def test_bootstrap_gives_every_member_its_own_frames(folder, tmp_path):
    config = configuration(folder, tmp_path, committee=2, committee_bootstrap=True)
    trainer = Trainer(config, prepare(config, quiet))
    drawn = trainer.train.weights
    assert drawn.shape == (2, 10) and (drawn.sum(axis=1) == 10).all()
    assert (drawn[0] != drawn[1]).any()
    batches = trainer.train.batches(0, 0)
    counted = committee.over_members(lambda factor, batch: factor * batch.energy_weight.sum(), 2)
    factors = jnp.asarray([1.0, 10.0])
    totals = sum(counted(factors, batch) for batch in trainer.train.assembled(batches))
    np.testing.assert_array_equal(totals, [10, 100])  # every draw counts once in an epoch
    with pytest.raises(ConfigError, match=r"committee_bootstrap: needs training\.committee"):
        configuration(folder, tmp_path, committee_bootstrap=True)


def test_weights_follow_the_frames_of_a_batch(folder, tmp_path):
    config = configuration(folder, tmp_path)
    part = Trainer(config, prepare(config, quiet)).train
    place, frames = part.batches(0, 0)[-1]  # 10 frames in batches of 4: the last has 2
    (batch,) = part.assembled([(place, frames)])
    weights = np.arange(20.0).reshape(2, 10)
    own = committee.with_weights(batch, weights[:, frames])
    np.testing.assert_array_equal(own.energy_weight[:, : len(frames)], weights[:, frames])
    assert not own.energy_weight[:, len(frames) :].any()
    real = batch.species >= 0
    expected = np.repeat(weights[:, frames], 4, axis=1)
    for member in range(2):
        found = own.force_weight[member, real]
        np.testing.assert_array_equal(np.sort(found), np.sort(expected[member]))
    assert not own.force_weight[:, ~real].any()


def test_a_committee_is_the_mean_of_its_members(trained, folder):
    model = model_file.load(trained[1])
    atoms = read(folder / "test.xyz")
    together = model(atoms)
    alone = [SinglePoint(model.potential[member])(atoms) for member in range(MEMBERS)]
    energies = np.asarray([found["energy"] for found in alone])
    forces = np.asarray([found["forces"] for found in alone])
    assert together["energy"] == pytest.approx(energies.mean(), abs=1e-5)
    np.testing.assert_allclose(together["forces"], forces.mean(axis=0), atol=1e-5)
    assert together["energy_std"] == pytest.approx(energies.std(ddof=1), rel=1e-3)
    expected = np.linalg.norm(forces.std(axis=0, ddof=1), axis=1)
    np.testing.assert_allclose(together["forces_std"], expected, rtol=1e-3)
    assert set(together) - set(alone[0]) == {"energy_std", "forces_std"}

    calculator = AllegroCalculator(trained[1])
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(together["energy"])
    np.testing.assert_allclose(
        calculator.get_property("forces_std", atoms), together["forces_std"], rtol=1e-5
    )
    assert calculator.results["energy_std"] == pytest.approx(together["energy_std"])


def test_evaluation_sets_uncertainties_against_errors(trained, folder, tmp_path):
    model = model_file.load(trained[1])
    output = tmp_path / "predictions.xyz"
    report = evaluation.evaluate(model, folder / "test.xyz", output=output)
    images = read(output, ":")
    for image in images:
        single = model(image)
        assert image.info["energy_std"] == pytest.approx(single["energy_std"], rel=1e-3)
        np.testing.assert_allclose(image.arrays["forces_std"], single["forces_std"], rtol=1e-3)
        assert image.get_potential_energy() == pytest.approx(single["energy"], abs=1e-5)
    told = report["uncertainty"]["forces"]
    uncertainty = np.concatenate([image.arrays["forces_std"] for image in images])
    truth = read(folder / "test.xyz", ":")
    error = np.linalg.norm(
        np.concatenate(
            [i.get_forces() - t.get_forces() for i, t in zip(images, truth, strict=True)]
        ),
        axis=1,
    )
    assert told["rms"] == pytest.approx(np.sqrt(np.mean(uncertainty**2)), rel=1e-4)
    assert told["ratio"] == pytest.approx(np.sqrt(np.mean(error**2)) / told["rms"], rel=1e-4)
    assert told["correlation"] == pytest.approx(np.corrcoef(uncertainty, error)[0, 1], rel=1e-3)
    assert set(report["uncertainty"]) == {"energy_per_atom", "forces"}
    assert "uncertainty" in report["files"][str(folder / "test.xyz")]


def test_calibration_of_uncertainties_that_are_right():
    rng = np.random.default_rng(0)
    uncertainty = rng.uniform(0.1, 1.0, 20_000)
    right = calibration(uncertainty, uncertainty * rng.normal(size=20_000))
    assert right["ratio"] == pytest.approx(1, abs=0.02)
    assert 0.3 < right["correlation"] < 0.8 and 0.3 < right["rank_correlation"] < 0.8
    perfect = calibration(uncertainty, -uncertainty)
    assert perfect["rank_correlation"] == pytest.approx(1)
    assert perfect["share_of_largest"] == 1
    # equal values share their rank: without that this would depend on their order
    tied = calibration(np.asarray([1.0, 1, 2, 2]), np.asarray([1.0, 2, 1, 2]))
    assert tied["rank_correlation"] == pytest.approx(0)
    assert "correlation" not in calibration(np.ones(5), np.arange(5.0))


def test_file_of_a_committee(trained, tiny_model, tmp_path):
    path = trained[1]
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header["__metadata__"]["format_version"] == "2"
    again = model_file.save(tmp_path / "again.safetensors", model_file.load(path))
    one, other = model_file.load(path), model_file.load(again)
    for a, b in zip(jax.tree.leaves(one.potential), jax.tree.leaves(other.potential), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.config == other.config and one.potential.member == AllegroPotential(None, one.config)
    # a file that says another number of members than its weights have
    wrong = potential_of(tiny_model.potential.params, tiny_model.config, 2)
    model_file.save(tmp_path / "wrong.safetensors", model_file.Model(wrong))
    with pytest.raises(ValueError, match="do not belong to the configuration"):
        model_file.load(tmp_path / "wrong.safetensors")
