"""Rows that are carried down say of every edge what its tensor features would."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from allegro_jax.tensor_product import slices, spherical_harmonics, tensor_products
from allegro_jax.tensor_track import (
    carried_down,
    environment_sum,
    invariant_row,
    invariants,
    weigh_paths,
)

ATOMS, NEIGHBOURS, CHANNELS = 3, 5, 4


def explicit_features(product, weights, features, environment):
    """Σ_paths W · CG(features of an edge, environment of its atom), one path after another."""
    left, right, out = (slices(irreps) for irreps in (product.left, product.right, product.out))
    result = np.zeros((*features.shape[:3], out[-1].stop))
    weights = np.broadcast_to(weights, (CHANNELS, len(product.paths)))
    for number, path in enumerate(product.paths):
        result[..., out[path[2]]] += np.einsum(
            "u,nkua,nub,abc->nkuc",
            weights[:, number],
            features[..., left[path[0]]],
            environment[..., right[path[1]]],
            product.coefficients(path),
        )
    return result


@pytest.mark.parametrize("coupled", [True, False], ids=["by channel", "by path"])
@pytest.mark.parametrize(
    ("l_max", "layers", "parity"),
    [(0, 2, True), (2, 1, True), (3, 2, True), (2, 3, True), (2, 3, False)],
)
def test_invariants_of_every_layer(l_max, layers, parity, coupled):
    rng = np.random.default_rng(l_max + 10 * layers)
    vectors = rng.normal(size=(ATOMS, NEIGHBOURS, 3))
    degrees = np.repeat(np.arange(l_max + 1), 2 * np.arange(l_max + 1) + 1)
    size = ATOMS, NEIGHBOURS, l_max + 1, CHANNELS
    with jax.enable_x64(True):
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
        harmonics = spherical_harmonics(jnp.asarray(vectors), l_max)

        def of_components(weights):
            return np.swapaxes(weights[:, :, degrees], 2, 3)  # [n, k, u, a]

        embedding, earlier = rng.normal(size=size), []
        features = of_components(embedding) * np.asarray(harmonics)[:, :, None]
        for layer, product in enumerate(tensor_products(l_max, parity, layers)):
            shape = (CHANNELS, len(product.paths)) if coupled else (len(product.paths),)
            weights, env = rng.normal(size=shape), jnp.asarray(rng.normal(size=size))
            environment = environment_sum(env.reshape(*size[:2], -1), harmonics)
            expected = np.einsum("nkub,nkb->nub", of_components(np.asarray(env)), harmonics)
            np.testing.assert_allclose(environment, expected, rtol=0, atol=1e-12)

            weighed = weigh_paths(product, jnp.asarray(weights), last=layer == layers - 1)
            row = invariant_row(product, weighed, environment)
            for layer_before in reversed(earlier):
                row = carried_down(row, *layer_before)
            found = invariants(row, jnp.asarray(embedding.reshape(*size[:2], -1)), harmonics)
            features = explicit_features(product, weights, features, expected)
            scale = np.abs(features[..., 0]).max()
            np.testing.assert_allclose(found, features[..., 0], rtol=0, atol=1e-12 * scale)
            assert (weighed.outputs is None) == (layer == layers - 1)
            earlier.append((weighed, environment))
