"""Optimisers against their equations by hand."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from allegro_jax.config import AllegroConfig
from allegro_jax.model import init
from allegro_jax.train.checkpoint import Checkpoints
from allegro_jax.train.config import FitConfig
from allegro_jax.train.optimiser import (
    apply_gradient,
    build_optimiser,
    initial_state,
    matrices,
)
from allegro_jax.train.schedule import StepSettings


def weights(seed):
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "two_body": [draw(6, 8), draw(8, 4)],
        "type_embedding": {"centre": draw(3, 5)},
        "layers": [{"tensor_product": draw(4, 3)}],
        "scales": draw(2),
    }


def flat(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("architecture", ["modern", "original"])
def test_matrices_are_maps_between_features(architecture):
    config = AllegroConfig(
        species=("H", "O"), cutoff=3.0, architecture=architecture, scales_trainable=True
    )
    shapes = jax.eval_shape(lambda key: init(key, config), jax.random.key(0))
    names = {name for name, chosen in flat(matrices(shapes)).items() if chosen}
    others = set(flat(shapes)) - names
    assert "['readout'][0]" in names and "['two_body'][0]" in names
    if architecture == "original":
        assert others == {"['scales']"}
    else:
        assert "['layers'][0]['tensor_product']" in others and "['basis_linear']" in names
        assert "['type_embedding']['neighbour']" in others


def settings(learning_rate):
    return StepSettings(np.float32(learning_rate), np.ones(3, np.float32))


def jitted_step(fit):
    return jax.jit(functools.partial(apply_gradient, fit=fit))


def muon_by_hand(gradients, weight, rate, decay):
    """Nesterov momentum, five quintic Newton–Schulz steps, the root mean square of Adam."""
    momentum = np.zeros_like(weight)
    for step, gradient in enumerate(gradients, start=1):
        momentum = 0.95 * momentum + 0.05 * gradient
        x = 0.95 * momentum / (1 - 0.95 ** (step + 1)) + 0.05 * gradient / (1 - 0.95**step)
        x = x / np.linalg.norm(x)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        weight = weight - rate * (0.2 * np.sqrt(max(weight.shape)) * x + decay * weight)
    return weight


def test_muon_by_hand():
    fit = FitConfig(optimiser="muon", weight_decay=0.1, clip=1e9)
    params, gradients = weights(0), [weights(seed) for seed in (1, 2, 3)]
    state, step = initial_state(params, fit), jitted_step(fit)
    for gradient in gradients:
        state = step(state, gradient, settings(0.02))
    found = state.params
    for place in (0, 1):
        expected = muon_by_hand(
            [gradient["two_body"][place] for gradient in gradients],
            params["two_body"][place],
            0.02,
            0.1,
        )
        np.testing.assert_allclose(found["two_body"][place], expected, rtol=1e-4, atol=1e-5)
    # Adam's steps are of the learning rate's size, without decay
    moved = np.abs(found["scales"] - params["scales"])
    assert (moved < 4 * 0.02).all() and (moved > 1e-3).all()


def test_weight_decay_shrinks_matrices_alone():
    fit = FitConfig(optimiser="adamw", weight_decay=0.5)
    params = weights(0)
    rule = build_optimiser(fit, 0.1)
    change, _ = rule.update(jax.tree.map(np.zeros_like, params), rule.init(params), params)
    np.testing.assert_allclose(change["two_body"][0], -0.05 * params["two_body"][0], rtol=1e-6)
    for name in ("type_embedding", "layers", "scales"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(change[name]))


@pytest.mark.parametrize("optimiser", ["adam", "muon", "schedule_free"])
def test_states_survive_a_checkpoint(optimiser, tmp_path):
    free = {"schedule": "constant", "ema": 0.0} if optimiser == "schedule_free" else {}
    fit = FitConfig(optimiser=optimiser, **free)
    state = initial_state(weights(0), fit)
    state = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("last", {"state": state}, {})
    like = {"state": initial_state(weights(1), fit)}
    found = checkpoints.restore("last", like)
    assert jax.tree.structure(found) == jax.tree.structure({"state": state})
    jax.tree.map(np.testing.assert_array_equal, found["state"], state)


def test_schedule_free_by_hand():
    """Gradients at y, steps of z, and their mean x, which is what is validated."""
    fit = FitConfig(
        optimiser="schedule_free", schedule="constant", ema=0.0, weight_decay=0.1, clip=None
    )
    params, rates = weights(0), (0.01, 0.02, 0.02)
    gradients = [weights(seed) for seed in (1, 2, 3)]
    state, take_step = initial_state(params, fit), jitted_step(fit)
    y = z = x = params["two_body"][0]
    second, total = np.zeros_like(x), 0.0
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        state = take_step(state, gradient, settings(rate))
        g = gradient["two_body"][0]
        second = 0.999 * second + 0.001 * g**2
        z = z - rate * (g / (np.sqrt(second / (1 - 0.999**step)) + 1e-8) + 0.1 * y)
        total += rate**2
        x = x + rate**2 / total * (z - x)
        y = 0.1 * z + 0.9 * x
        np.testing.assert_allclose(state.params["two_body"][0], y, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.average["two_body"][0], x, rtol=1e-4, atol=1e-5)
    assert state.step == 3


@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_step_by_hand(clip):
    """Adam with a clipped gradient, and the moving average that starts fast."""
    fit = FitConfig(optimiser="adam", clip=clip, ema=0.15)
    params, gradient = weights(0), weights(1)
    state, take_step = initial_state(params, fit), jitted_step(fit)
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))
    shrink = min(1, clip / norm) if clip else 1
    average = params["scales"]
    first = second = np.zeros_like(average)
    weight = average
    for step in (1, 2):
        state = take_step(state, gradient, settings(0.1))
        g = shrink * gradient["scales"]
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        change = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        weight = weight - 0.1 * change
        decay = min(0.15, step / (9 + step))
        average = decay * average + (1 - decay) * weight
    np.testing.assert_allclose(state.params["scales"], weight, rtol=1e-5)
    np.testing.assert_allclose(state.average["scales"], average, rtol=1e-5)
