"""The loss against its definition in numpy, label by label."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from allegro_jax.data.batches import Batch
from allegro_jax.train.breakdown import Breakdown
from allegro_jax.train.gradient import Prediction
from allegro_jax.train.loss import Loss

SIZES = (3, 2, 4)
LOSS = Loss(energy=2.0, forces=1.0, stress=0.5, force_scale=0.7)
LOSSES = {
    "mse": LOSS,
    "mae": dataclasses.replace(LOSS, penalty="mae"),
    "huber": dataclasses.replace(LOSS, penalty="huber", huber_delta=0.8),
    "total": dataclasses.replace(LOSS, total_energy=True, force_scale=1.0),
    "species": dataclasses.replace(LOSS, species_weights=(1.0, 5.0, 0.0)),
}


def made_up(padding=0):
    """A batch of three frames and a prediction; the second lacks forces, the third stress.

    Weights are fractional. Padding is filled with what an evaluation leaves there.
    """
    random = np.random.default_rng(0)
    rows, frames = sum(SIZES), len(SIZES)

    def symmetric():
        tensor = random.normal(size=(frames, 3, 3))
        return tensor + tensor.swapaxes(1, 2)

    def by_row(values, fill=0):
        return np.concatenate([values, np.full((padding, *values.shape[1:]), fill, values.dtype)])

    def by_frame(values, fill=0):
        more = 1 if padding else 0
        return np.concatenate([values, np.full((more, *values.shape[1:]), fill, values.dtype)])

    frame = np.repeat(np.arange(frames), SIZES)
    weights = np.asarray([0.3, 1.7, 0.25])
    batch = Batch(
        groups=(),
        species=by_row(random.integers(3, size=rows), -1),
        frame=by_row(frame),
        source=by_frame(np.asarray([1, 0, 1])),
        atoms=by_frame(np.asarray(SIZES, float), 1),
        volumes=by_frame(np.asarray([30.0, 25.0, 44.0]), 1),
        energies=by_frame(random.normal(size=frames)),
        forces=by_row(random.normal(size=(rows, 3))),
        stress=by_frame(symmetric() / 20),
        energy_weight=by_frame(weights),
        force_weight=by_row(np.where(frame == 1, 0, weights[frame])),
        stress_weight=by_frame(weights * [1, 1, 0]),
    )
    prediction = Prediction(
        energies=by_frame(random.normal(size=frames)),
        forces=by_row(random.normal(size=(rows, 3))),
        virials=by_frame(symmetric()),
        site_energies=by_row(random.normal(size=rows)),
    )
    return prediction, batch


def evaluate(loss, prediction, batch, *rest):
    """Value and sums, in float64."""
    with jax.enable_x64(True):
        return loss(*jax.tree.map(jnp.asarray, (prediction, batch)), *rest)


def by_hand(loss, prediction, batch):
    def penalty(residual):
        residual = residual / loss.force_scale
        if loss.penalty == "mse":
            return residual**2
        if loss.penalty == "mae":
            return residual
        delta = loss.huber_delta
        return residual**2 if residual < delta else 2 * delta * residual - delta**2

    terms = {"energy": [], "forces": [], "stress": []}
    for frame, size in enumerate(SIZES):
        error = abs(prediction.energies[frame] - batch.energies[frame])
        error /= 1 if loss.total_energy else size
        terms["energy"].append(batch.energy_weight[frame] * penalty(error))
        if batch.stress_weight[frame]:
            volume = batch.volumes[frame]
            error = prediction.virials[frame] / volume - batch.stress[frame]
            error = np.sqrt(np.mean(error**2)) * volume / size
            terms["stress"].append(batch.stress_weight[frame] * penalty(error))
    for row in range(sum(SIZES)):
        if batch.force_weight[row]:
            own = loss.species_weights[batch.species[row]] if loss.species_weights else 1
            error = np.sqrt(np.mean((prediction.forces[row] - batch.forces[row]) ** 2))
            terms["forces"].append(batch.force_weight[row] * own * penalty(error))
    return sum(getattr(loss, name) * np.mean(values) for name, values in terms.items())


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_by_hand_and_padded(loss):
    expected = by_hand(loss, *made_up())
    for padding in (0, 5):
        value, sums = evaluate(loss, *made_up(padding))
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert loss.errors(sums)["loss"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradient_by_finite_differences(loss):
    prediction, batch = made_up(padding=2)
    prediction.forces[0] = batch.forces[0]  # a residual of zero, as in padding
    with jax.enable_x64(True):
        gradient = jax.grad(lambda one: evaluate(loss, one, batch)[0])(
            jax.tree.map(jnp.asarray, prediction)
        )
    random = np.random.default_rng(1)
    for name in ("energies", "forces", "virials"):
        values, found = getattr(prediction, name), getattr(gradient, name)
        assert np.isfinite(found).all()
        direction = random.normal(size=values.shape)
        direction[0] *= name != "forces"  # |ΔF| has no derivative at 0
        ends = [
            evaluate(loss, prediction._replace(**{name: values + step * direction}), batch)[0]
            for step in (1e-6, -1e-6)
        ]
        expected = float(ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(np.vdot(direction, found), expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [LOSSES["mae"], LOSSES["huber"]], ids=["mae", "huber"])
def test_no_rotation_changes_it(loss):
    prediction, batch = made_up()
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    turned = prediction._replace(
        forces=prediction.forces @ turn.T, virials=turn @ prediction.virials @ turn.T
    )
    label = batch.replace(forces=batch.forces @ turn.T, stress=turn @ batch.stress @ turn.T)
    expected, _ = evaluate(loss, prediction, batch)
    np.testing.assert_allclose(evaluate(loss, turned, label)[0], expected, rtol=1e-12)


def test_errors_count_labels_whatever_their_weights():
    prediction, batch = made_up(padding=5)
    found = LOSS.errors(evaluate(LOSS, prediction, batch)[1])
    rows = np.flatnonzero(batch.force_weight)
    error = (prediction.forces - batch.forces)[rows]
    assert found["forces_mae"] == pytest.approx(np.abs(error).mean())
    assert found["forces_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found["forces_count"] == 3 * 7
    energy = (prediction.energies - batch.energies)[:3]
    assert found["energy_rmse"] == pytest.approx(np.sqrt(np.mean(energy**2)))
    assert found["energy_per_atom_mae"] == pytest.approx(np.mean(np.abs(energy) / SIZES))
    stress = (prediction.virials / batch.volumes[:, None, None] - batch.stress)[:2]
    stress = stress[:, (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    assert found["stress_mae"] == pytest.approx(np.abs(stress).mean())
    assert found["stress_count"] == 12


def test_parts_add_up_to_the_whole():
    """Parts that carry different numbers of labels, as in accumulation and on several devices."""
    prediction, batch = made_up()
    loss = LOSSES["huber"]
    with jax.enable_x64(True):
        weights = jnp.asarray([0.1, 3.0, 2.0])
    whole, sums = evaluate(loss, prediction, batch, weights)
    parts = []
    for frame in range(3):  # as if the other frames were padding
        own = np.arange(3) == frame
        parts.append(
            batch.replace(
                energy_weight=batch.energy_weight * own,
                force_weight=batch.force_weight * own[batch.frame],
                stress_weight=batch.stress_weight * own,
            )
        )
    with jax.enable_x64(True):
        counts = sum(loss.normalisers(part) for part in parts)
    found = [evaluate(loss, prediction, part, weights, counts) for part in parts]
    np.testing.assert_allclose(sum(float(value) for value, _ in found), whole, rtol=1e-12)
    np.testing.assert_allclose(sum(np.asarray(own) for _, own in found), sums, rtol=1e-12)


def test_breakdown_by_hand():
    prediction, batch = made_up(padding=5)
    groups = Breakdown(("H", "C", "O"), ("a.xyz", "b.xyz"))
    with jax.enable_x64(True):
        found = groups.errors(groups(*jax.tree.map(jnp.asarray, (prediction, batch))))
    error = prediction.forces - batch.forces
    for place, symbol in enumerate(groups.species):
        own = error[(batch.species == place) & (batch.force_weight > 0)]
        assert found["by_species"][symbol] == {
            "forces_mae": pytest.approx(np.abs(own).mean()),
            "forces_rmse": pytest.approx(np.sqrt(np.mean(own**2))),
            "forces_count": own.size,
        }
    assert found["by_source"]["a.xyz"]["energy_rmse"] == pytest.approx(
        abs(prediction.energies[1] - batch.energies[1])
    )
    assert "forces_rmse" not in found["by_source"]["a.xyz"]  # that frame has none
    energy = (prediction.energies - batch.energies)[[0, 2]]
    assert found["by_source"]["b.xyz"]["energy_mae"] == pytest.approx(np.abs(energy).mean())
    rows = np.isin(batch.frame, [0, 2]) & (batch.force_weight > 0)
    assert found["by_source"]["b.xyz"]["forces_mae"] == pytest.approx(np.abs(error[rows]).mean())
    assert Breakdown(("H",), ("a.xyz",)).errors(np.ones(18)) == {}
