"""Fine-tuning: what is kept of a model, what is frozen, and what new data change."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax import model_file
from allegro_jax.config import AllegroConfig
from allegro_jax.data.sources import read_frames
from allegro_jax.evaluation import predict_frames
from allegro_jax.model import site_energies
from allegro_jax.model_file import Model
from allegro_jax.potential import AllegroPotential, potential_of
from allegro_jax.settings import ConfigError
from allegro_jax.train import fine_tuning
from allegro_jax.train.config import config_from_dict
from allegro_jax.train.frozen import frozen_names, hold
from allegro_jax.train.preparation import prepare
from allegro_jax.train.trainer import Trainer
from tests.allegro_jax.train.examples import TINY, cluster, quiet

SMALL = TINY | {"cutoff": 4.0}
OFFSETS = {"Cu": 0.3, "Au": -1.25, "Ag": 2.0}


@pytest.fixture(scope="module")
def stored(tmp_path_factory, random_params):
    """A model of copper and gold, in a file."""
    config = AllegroConfig(
        species=("Cu", "Au"), species_shifts=(-3.5, -3.8), average_neighbours=(3.0, 3.5), **SMALL
    )
    params = jax.tree.map(jnp.asarray, random_params(config))
    model = Model(AllegroPotential(params, config), {"shortest_distances": {"Cu-Cu": 1.5}})
    return model_file.save(tmp_path_factory.mktemp("model") / "old.safetensors", model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, stored):
    """Old and new frames: labels are the model's own, but for an energy of each atom."""
    folder = tmp_path_factory.mktemp("data")
    model = model_file.load(stored)

    def label(atoms: Atoms) -> Atoms:
        twin = atoms.copy()
        twin.numbers[twin.numbers == 47] = 79  # silver behaves as gold
        found = model(twin)
        energy = found["energy"] + sum(OFFSETS[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=found["forces"])
        return atoms

    formulas = ["Cu3Au", "CuAu3", "Cu2Au2", "Cu4"]
    old = [label(cluster(number, formulas[number % 4])) for number in range(8)]
    new = [label(cluster(9 + number, ["Cu3Ag", "CuAuAg2"][number % 2])) for number in range(6)]
    for name, frames in (("old.xyz", old), ("new.xyz", new)):
        write(folder / name, frames, format="extxyz")
    return folder


def configuration(folder, stored, data="old.xyz", training=(), model=None, **fine_tune):
    content = {
        "data": {"train": data, "valid": 2},
        "fine_tune": {"model": str(stored), **fine_tune},
        "training": {"batch_size": 3, "row_groups": 1, "warmup_epochs": 0, **dict(training)},
        "output": str(folder / "out"),
    }
    if model is not None:
        content["model"] = model
    return config_from_dict(content, folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"scales_trainable": True, "shifts_trainable": True},
        {"radial_basis": "spline", "pair_cutoffs": ((4.0, 3.5), (3.6, 3.9))},
        {"architecture": "original"},
    ],
    ids=["modern", "spline", "original"],
)
def test_new_species_leave_what_is_known_of_old_ones(random_params, fields):
    before = AllegroConfig(species=("H", "O"), species_scales=(0.5, 2.0), **SMALL, **fields)
    sources = (0, 1, None, 1)  # the third is drawn, the fourth takes after oxygen
    after = fine_tuning.extended_config(before, ("H", "O", "S", "Se"), sources)
    old, fresh = (jax.tree.map(jnp.asarray, random_params(one)) for one in (before, after))
    new = fine_tuning.extended_params(old, fresh, before, after, sources)
    shapes = jax.tree.map(jnp.shape, fresh)
    assert jax.tree.map(jnp.shape, new) == shapes

    rng = np.random.default_rng(1)
    vectors = jnp.asarray(rng.normal(0, 2.0, (5, 6, 3)), jnp.float32)
    centre, neighbour = rng.integers(2, size=5), rng.integers(2, size=(5, 6))

    @functools.partial(jax.jit, static_argnums=1)
    def energies(params, config, centre, neighbour):
        return site_energies(params, config, vectors, jnp.ones((5, 6), bool), centre, neighbour)

    expected = energies(old, before, centre, neighbour)
    found = energies(new, after, centre, neighbour)
    if before.architecture == "modern":
        np.testing.assert_array_equal(found, expected)
    else:  # evaluation divides by √(number of species): equal to rounding
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    centre_like, neighbour_like = (np.where(one == 1, 3, one) for one in (centre, neighbour))
    alike = energies(new, after, centre_like, neighbour_like)
    np.testing.assert_allclose(alike, expected, rtol=1e-4)
    unknown = energies(new, after, np.where(centre == 1, 2, centre), neighbour)
    assert np.isfinite(unknown).all() and (unknown[centre == 1] != expected[centre == 1]).all()


def test_patterns_name_weights():
    params = {
        "two_body": [0.0, 0.0],
        "layers": [{"latent": [0.0], "tensor_product": 0.0}, {"latent": [0.0]}],
        "readout": [0.0],
    }
    assert frozen_names(params, ()) == frozenset()
    assert frozen_names(params, ["two_body"]) == {"two_body.0", "two_body.1"}
    assert frozen_names(params, ["layers.0"]) == {"layers.0.latent.0", "layers.0.tensor_product"}
    assert frozen_names(params, ["layers.*.latent"]) == {"layers.0.latent.0", "layers.1.latent.0"}
    but = frozen_names(params, ["all but readout, layers.1"])
    assert but == frozen_names(params, ["two_body", "layers.0"])
    with pytest.raises(ConfigError, match=r"no 'body'; it has layers\.0, layers\.1, readout, tw"):
        frozen_names(params, ["body"])
    with pytest.raises(ConfigError, match="nothing is left to train"):
        frozen_names(params, ["*"])
    held = hold(frozenset({"readout.0"}), params, jax.tree.map(lambda x: x + 1, params))
    assert held["readout"] == [0.0] and held["two_body"] == [1.0, 1.0]


def test_training_starts_from_the_file_and_leaves_frozen_weights(stored, folder):
    training = {"optimiser": "adamw", "weight_decay": 0.1, "learning_rate": 0.01}
    config = configuration(folder, stored, training=training, frozen=["two_body", "readout.0"])
    trainer = Trainer(config, prepare(config, quiet))
    run, before = trainer.start(), model_file.load(stored)
    assert trainer.potential.config == before.config
    for one, other in zip(
        jax.tree.leaves(run.best), jax.tree.leaves(before.potential.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    run = trainer.epoch(run, quiet)
    old = dict(jax.tree_util.tree_leaves_with_path(before.potential.params))
    for tree in (run.state.params, run.state.average):
        for path, weights in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            frozen = name.startswith("two_body") or name == "readout.0"
            assert np.array_equal(weights, old[path]) == frozen, name


def test_kept_shifts_and_new_species(stored, folder):
    config = configuration(folder, stored, "new.xyz", analogues={"Ag": "Au"})
    prepared = prepare(config, quiet)
    model, before = prepared.model, model_file.load(stored)
    assert model.species == ("Cu", "Au", "Ag")
    assert model.average_neighbours == (3.0, 3.5, 3.5)
    assert model.species_shifts[:2] == (-3.5, -3.8)
    # copper's offset is not to be had: silver's alone explains it as well as it can
    assert model.species_shifts[2] != 0
    assert prepared.statistics.shortest_distances["Cu-Cu"] == 1.5
    frames = read_frames([folder / "old.xyz"])
    after = Model(AllegroPotential(prepared.params, model))
    for one, other in zip(
        predict_frames(after, frames), predict_frames(before, frames), strict=True
    ):
        assert one["energy"] == other["energy"]
        np.testing.assert_array_equal(one["forces"], other["forces"])


def test_fitted_shifts_find_the_energies_of_atoms(stored, folder):
    config = configuration(
        folder,
        stored,
        "new.xyz",
        shifts="fit",
        analogues={"Ag": "Au"},
        replay="old.xyz",
    )
    prepared = prepare(config, quiet)
    expected = [-3.5 + OFFSETS["Cu"], -3.8 + OFFSETS["Au"], -3.8 + OFFSETS["Ag"]]
    np.testing.assert_allclose(prepared.model.species_shifts, expected, atol=1e-4)
    given = configuration(folder, stored, model={"species_shifts": {"Cu": 1, "Au": 2}})
    assert prepare(given, quiet).model.species_shifts == (1, 2)


def test_old_data_are_mixed_in(stored, folder):
    config = configuration(folder, stored, "new.xyz", replay="old.xyz", replay_weight=0.25)
    prepared = prepare(config, quiet)
    assert len(prepared.train) == 4 + 8 and len(prepared.valid) == 2
    assert sorted(prepared.train.weights) == [0.25] * 8 + [1] * 4
    assert str(folder / "old.xyz") in prepared.provenance["files"]
    assert str(stored) in prepared.provenance["files"]
    shared = dataclasses.replace(config.fine_tune, replay_share=1 / 3)
    config = dataclasses.replace(config, fine_tune=shared)
    assert sorted(prepare(config, quiet).train.weights) == [0.25] * 2 + [1] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"l_max": 2}}, r"model\.l_max: .*old\.safetensors has 1, not 2; leave out"),
        ({"model": {"species": ["Au", "Cu"]}}, r"model\.species: has to begin with .* Cu, Au"),
        ({"analogues": {"Cu": "Au"}}, r"fine_tune\.analogues\.Cu: is no new species"),
        ({"data": "new.xyz", "analogues": {"Ag": "Pt"}}, "the model knows no Pt; it knows Cu, Au"),
        ({"training": {"committee": 2}}, "would stay alike; set training.committee_bootstrap"),
    ],
)
def test_what_does_not_go_with_the_file_is_refused(stored, folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        prepare(configuration(folder, stored, **changes), quiet)


def test_a_committee_goes_on_as_one(stored, folder, tmp_path):
    training = {"committee": 2, "committee_bootstrap": True}
    config = configuration(folder, stored, "new.xyz", training=training)
    prepared = prepare(config, quiet)
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(prepared.params)}
    assert leading == {2}
    embedding = prepared.params["type_embedding"]["centre"]
    np.testing.assert_array_equal(embedding[0, :2], embedding[1, :2])
    assert (embedding[0, 2] != embedding[1, 2]).all()  # each draws the new species for itself
    potential = potential_of(prepared.params, prepared.model, 2)
    both = model_file.save(tmp_path / "both.safetensors", Model(potential))
    again = prepare(configuration(folder, both, training={"committee": 2}), quiet)
    for one, other in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(prepared.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ConfigError, match=r"is a committee of 2: set training\.committee: 2"):
        prepare(configuration(folder, both), quiet)


def test_settings_of_fine_tuning_are_checked(stored, folder):
    with pytest.raises(ConfigError, match=r"fine_tune\.model: missing"):
        config_from_dict({"data": {"train": "old.xyz"}, "fine_tune": {}}, folder)
    with pytest.raises(ConfigError, match=r"fine_tune\.replay: missing; its share"):
        configuration(folder, stored, replay_share=0.5)
    with pytest.raises(ConfigError, match=r"fine_tune\.shifts: 'fitted' is not one of keep, fit"):
        configuration(folder, stored, shifts="fitted")
