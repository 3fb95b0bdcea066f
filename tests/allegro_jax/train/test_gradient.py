"""The gradient by blocks is exact, and padding changes nothing."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from allegro_jax.data.batches import assemble
from allegro_jax.data.dataset import build_dataset
from allegro_jax.data.layout import Group, Layout
from allegro_jax.data.sources import frame_from_atoms
from allegro_jax.model import init
from allegro_jax.potential import AllegroPotential, SinglePoint
from allegro_jax.train.gradient import loss_and_gradient, predict
from allegro_jax.train.loss import Loss

# Two layouts that the frames below fit: tight groups of several blocks, and one wide padded block.
TIGHT = Layout(3, (Group(2, 2, 24), Group(1, 3, 12), Group(3, 2, 5)))
PADDED = Layout(4, (Group(1, 16, 26),))


@pytest.fixture(scope="module")
def frames(water_pair):
    random = np.random.default_rng(0)
    ice = bulk("O", "fcc", a=3.9, cubic=True)
    ice.numbers[0] = 1
    ice.rattle(0.1, seed=1)
    structures = [water_pair, ice, Atoms("H", cell=[9, 9, 9], pbc=True)]
    for number, atoms in enumerate(structures):
        atoms.info["energy"] = -7.0 - number
        if number != 2:
            atoms.arrays["forces"] = random.normal(size=(len(atoms), 3))
        if number == 1:
            stress = random.normal(size=(3, 3)) / 20
            atoms.info["stress"] = stress + stress.T
    return [frame_from_atoms(atoms) for atoms in structures]


@pytest.fixture(scope="module")
def water_pair():
    positions = [
        [0, 0, 0.12],
        [0, 0.76, -0.48],
        [0, -0.76, -0.48],
        [2.7, 0.4, 0.7],
        [1.9, 0.6, 0.3],
    ]
    return Atoms("OHHOH", positions)


@pytest.fixture(scope="module")
def potential(tiny_config):
    config = dataclasses.replace(tiny_config, species_shifts=0.0, scales_trainable=True)
    with jax.enable_x64(True):
        params = init(jax.random.key(1), config, np.float64)
    return AllegroPotential(params, config)


@pytest.fixture(scope="module")
def batches(frames, potential):
    data = build_dataset(frames, potential.species, potential.cutoff, dtype=np.float64)
    return [assemble(data, np.arange(3), layout, np.zeros(3)) for layout in (TIGHT, PADDED)]


LOSS = Loss(energy=2.0, forces=1.0, stress=0.5, force_scale=0.7)


@pytest.fixture(scope="module")
def results(batches, potential):
    """Loss, sums, gradient (by blocks), and the plain gradient, for both layouts."""

    def by_blocks(params, batch):
        return loss_and_gradient(potential, params, batch, LOSS)

    def direct(params, batch):
        def value(params):
            return LOSS(predict(potential, params, batch), batch)

        return jax.value_and_grad(value, has_aux=True)(params)

    with jax.enable_x64(True):
        return {
            name: [
                jax.device_get(jax.jit(function)(potential.params, assembled.batch))
                for assembled in (batches if name == "blocks" else batches[:1])
            ]
            for name, function in (("blocks", by_blocks), ("direct", direct))
        }


def assert_trees_close(found, expected, tolerance):
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("place", [0, 1], ids=["blocks", "at once"])
def test_gradient_is_exact(results, place):
    (value, _), gradient = results["blocks"][place]
    (expected, _), direct = results["direct"][0]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert_trees_close(gradient, direct, 1e-11)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_padding_and_groups_change_nothing(results):
    (tight, tight_sums), tight_gradient = results["blocks"][0]
    (padded, padded_sums), padded_gradient = results["blocks"][1]
    np.testing.assert_allclose(tight, padded, rtol=1e-12)
    np.testing.assert_allclose(tight_sums, padded_sums, rtol=1e-11)
    assert_trees_close(tight_gradient, padded_gradient, 1e-11)


def test_loss_is_what_it_says(batches, frames, potential, results):
    """Against the potential evaluated frame by frame, and the definition of the loss."""
    with jax.enable_x64(True):
        evaluate = SinglePoint(potential, dtype=np.float64)
        predicted = [evaluate(frame.to_atoms()) for frame in frames]
    energy = [
        (result["energy"] - frame.energy) / len(frame)
        for result, frame in zip(predicted, frames, strict=True)
    ]
    forces = np.concatenate(
        [np.ravel(predicted[place]["forces"] - frames[place].forces) for place in (0, 1)]
    )
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    label = np.asarray([frames[1].stress[place] for place in voigt])
    stress = predicted[1]["stress"] - label
    volume = frames[1].volume / len(frames[1])
    expected = (
        2.0 * np.mean(np.square(energy))
        + 1.0 * np.mean(forces**2)
        + 0.5 * np.sum((stress * volume) ** 2 * [1, 1, 1, 2, 2, 2]) / 9
    ) / 0.7**2
    (value, sums), _ = results["blocks"][0]
    np.testing.assert_allclose(value, expected, rtol=1e-9)

    found = LOSS.errors(sums)
    assert found["energy_count"] == 3 and found["forces_count"] == forces.size
    assert found["stress_count"] == 6
    assert found["forces_mae"] == pytest.approx(np.abs(forces).mean())
    assert found["forces_rmse"] == pytest.approx(np.sqrt(np.mean(forces**2)))
    assert found["stress_rmse"] == pytest.approx(np.sqrt(np.mean(stress**2)))
    assert found["loss"] == pytest.approx(expected)


def test_parts_of_a_batch_add_up(frames, potential, results):
    """Values, sums and gradients of single frames, normalised by the labels of all of them."""
    data = build_dataset(frames, potential.species, potential.cutoff, dtype=np.float64)
    parts = [
        assemble(data, np.asarray(members, int), PADDED, np.zeros(3)).batch
        for members in ([0, 2], [1], [])
    ]

    def add(trees):
        return jax.tree.map(lambda *leaves: sum(leaves), *trees)

    @jax.jit
    def found(params, batch, normalisers):
        loss = functools.partial(LOSS, normalisers=normalisers)
        return loss_and_gradient(potential, params, batch, loss)

    with jax.enable_x64(True):
        normalisers = add([LOSS.normalisers(part) for part in parts])
        (value, sums), gradient = add(
            [found(potential.params, part, normalisers) for part in parts]
        )
    (expected, expected_sums), expected_gradient = results["blocks"][1]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-11)
    assert_trees_close(gradient, expected_gradient, 1e-11)


def test_energies_alone(batches, potential):
    """Without labels of forces and stress nothing changes when they are not predicted."""
    loss = dataclasses.replace(LOSS, energy=3.0)

    @jax.jit
    def found(params, batch):
        return loss_and_gradient(potential, params, batch, loss)

    with jax.enable_x64(True):
        unlabelled = batches[0].batch.replace(
            force_weight=np.zeros_like(batches[0].batch.force_weight),
            stress_weight=np.zeros_like(batches[0].batch.stress_weight),
        )
        (expected, sums), gradient = jax.device_get(found(potential.params, unlabelled))
        alone = unlabelled.replace(derivatives=False)
        (value, alone_sums), alone_gradient = jax.device_get(found(potential.params, alone))
        predicted = jax.jit(lambda p, b: predict(potential, p, b))(potential.params, alone)
    assert value > 0 and not predicted.forces.any() and not predicted.virials.any()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(alone_sums, sums, rtol=1e-11)
    assert_trees_close(alone_gradient, gradient, 1e-12)


def test_sites_agree_with_single_points(batches, frames, potential):
    assembled = batches[0]
    with jax.enable_x64(True):
        found = jax.device_get(
            jax.jit(lambda p, b: predict(potential, p, b))(potential.params, assembled.batch)
        )
        evaluate = SinglePoint(potential, dtype=np.float64)
        expected = [evaluate(frame.to_atoms()) for frame in frames]
    np.testing.assert_allclose(found.energies[:3], [e["energy"] for e in expected], atol=1e-12)
    np.testing.assert_allclose(
        found.forces[assembled.rows], np.concatenate([e["forces"] for e in expected]), atol=1e-10
    )
    np.testing.assert_allclose(
        found.site_energies[assembled.rows],
        np.concatenate([e["energies"] for e in expected]),
        atol=1e-12,
    )
    # padding
    rest = np.setdiff1d(np.arange(TIGHT.rows), assembled.rows)
    assert len(rest) and not found.forces[rest].any() and not found.site_energies[rest].any()
