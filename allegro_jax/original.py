"""The architecture of the paper (Musaelian et al., Nat. Commun. 14, 579 (2023)).

It differs from the modern one throughout: species enter one-hot beside standardised Bessel
functions, every latent carries the envelope u and is updated residually, environment weights come
from a linear map of their own, and a linear map mixes channels and paths of the tensor track.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from allegro_jax import radial
from allegro_jax.config import AllegroConfig
from allegro_jax.mlp import apply_mlp, mlp_shapes, scaled_weights_original, uniform
from allegro_jax.neighbourhoods import Geometry
from allegro_jax.tensor_product import (
    TensorProduct,
    harmonics,
    products_of,
    slices,
    spherical_harmonics,
)


def scalar_paths(product: TensorProduct) -> int:
    """How many paths lead to 0e."""
    return sum(product.out[path[2]] == (0, 1) for path in product.paths)


def init(keys: Callable[[], Array], config: AllegroConfig, dtype: Any) -> dict[str, Any]:
    """Random weights: ``two_body``, ``layers``, ``final_latent`` and ``readout``.

    Each layer has ``environment`` [S, U·R] (twice as wide in the first), ``linear``, one
    [U·paths, U] per output irrep, and, but for the first, ``latent``.

    The last layer's ``linear`` feeds nothing; it is kept because the paper's models (and their
    parameter counts) hold it.
    """
    scalars, channels, degrees = (
        config.num_scalar_features,
        config.num_tensor_features,
        config.l_max + 1,
    )

    def mlp(width_in: int, hidden: tuple[int, ...], width_out: int) -> list[Array]:
        return [uniform(keys(), shape, dtype) for shape in mlp_shapes(width_in, hidden, width_out)]

    params: dict[str, Any] = {
        "two_body": mlp(
            2 * config.num_species + config.num_bessels, config.two_body_hidden, scalars
        ),
        "layers": [],
    }
    invariants = 0
    for layer, product in enumerate(products_of(config)):
        weights: dict[str, Any] = {}
        if layer:
            weights["latent"] = mlp(scalars + invariants, config.latent_hidden, scalars)
        width = channels * degrees * (1 if layer else 2)
        weights["environment"] = uniform(keys(), (scalars, width), dtype)
        weights["linear"] = [
            jax.random.normal(
                keys(), (channels * sum(path[2] == i for path in product.paths), channels), dtype
            )
            for i in range(len(product.out))
        ]
        invariants = channels * scalar_paths(product)
        params["layers"].append(weights)
    params["final_latent"] = mlp(scalars + invariants, config.latent_hidden, scalars)
    params["readout"] = mlp(scalars, config.readout_hidden, 1)
    return params


def two_body(
    params: dict[str, Any], config: AllegroConfig, edges: Geometry
) -> tuple[Float[Array, "n K S"], Float[Array, "n K 1"]]:
    """The first latent x⁰, a function of the distance and the species of a pair; the envelope u."""
    dtype = params["readout"][0].dtype
    cutoff = jnp.where(edges.inside, radial.envelope(edges.x, config.cutoff_power), 0)
    cutoff = cutoff.astype(dtype)[..., None]
    inputs = _two_body_inputs(config, edges, cutoff, dtype)
    weights = scaled_weights_original(params["two_body"], config.two_body_nonlinearity)
    return cutoff * apply_mlp(weights, inputs, config.two_body_nonlinearity), cutoff


def network(params: dict[str, Any], config: AllegroConfig, edges: Geometry) -> Float[Array, " n"]:
    """Site energies before scale and shift."""
    dtype = params["readout"][0].dtype
    channels, l_max = config.num_tensor_features, config.l_max
    neighbours_norm = 1 / np.sqrt(np.asarray(config.per_species("average_neighbours")))
    norm = jnp.asarray(neighbours_norm, dtype)[edges.centre_species][:, None, None]
    alpha = config.residual_weight

    harmonics = spherical_harmonics(edges.unit_vectors, l_max).astype(dtype)
    harmonics = jnp.swapaxes(harmonics, 1, 2)

    def mlp(weights: list[Array], x: Array, nonlinearity: str) -> Array:
        return apply_mlp(scaled_weights_original(weights, nonlinearity), x, nonlinearity)

    def update(x: Array, weights: list[Array], invariants: Array) -> Array:
        new = mlp(weights, jnp.concatenate([x, invariants], axis=-1), config.latent_nonlinearity)
        return (x + alpha * cutoff * new) / math.sqrt(1 + alpha**2)

    def env_weights(flat: Array) -> Array:
        """[n, K, U·R] as [n, U, R, K]."""
        return jnp.swapaxes(flat, 1, 2).reshape(flat.shape[0], channels, l_max + 1, flat.shape[1])

    x, cutoff = two_body(params, config, edges)
    features = invariants = None
    for product, weights in zip(products_of(config), params["layers"], strict=True):
        if invariants is not None:
            x = update(x, weights["latent"], invariants)
        env = mlp([weights["environment"]], x, "none")
        if features is None:
            embed, env = jnp.split(env, 2, axis=-1)
            features = _weighted_harmonics(env_weights(embed), harmonics)
        environment = norm * _environment_sum(env_weights(env), harmonics)
        by_irrep = _separate_paths(product, features, environment)
        invariants = _flat_channels(by_irrep[0])[:, 0].swapaxes(1, 2)  # 0e comes first
        features = _mix_channels(by_irrep, weights["linear"])
    x = update(x, params["final_latent"], invariants)
    edge_energies = mlp(params["readout"], x, config.readout_nonlinearity)
    return jnp.sum(edge_energies[..., 0], axis=1) * norm[:, 0, 0]


def _two_body_inputs(
    config: AllegroConfig, edges: Geometry, cutoff: Array, dtype: Any
) -> Float[Array, "n K inputs"]:
    """[one-hot centre ‖ one-hot neighbour ‖ standardised Bessel × envelope]."""
    mean, deviation = radial.bessel_moments(config.num_bessels, config.cutoff)
    frequencies = jnp.arange(1, config.num_bessels + 1, dtype=edges.x.dtype)
    # (2/r_c)·sin(nπr/r_c)/r is 2π/r_c² times the modern basis
    bessel = radial.bessel_basis(edges.x, frequencies) * (2 * math.pi / config.cutoff**2)
    bessel = ((bessel - mean.astype(bessel.dtype)) / deviation.astype(bessel.dtype)).astype(dtype)
    neighbour = jax.nn.one_hot(edges.neighbour_species, config.num_species, dtype=dtype)
    centre = jax.nn.one_hot(edges.centre_species, config.num_species, dtype=dtype)
    centre = jnp.broadcast_to(centre[:, None], neighbour.shape)
    return jnp.concatenate([centre, neighbour, bessel * cutoff], axis=-1)


def _flat_channels(features: Float[Array, "n u paths c K"]) -> Float[Array, "n c u_paths K"]:
    """(channel, path) as one axis, channel first."""
    n, channels, paths, components, neighbours = features.shape
    return jnp.moveaxis(features, 3, 1).reshape(n, components, channels * paths, neighbours)


def _mix_channels(by_irrep: list[Array], weights: list[Array]) -> Float[Array, "n U c K"]:
    """The linear map of every output irrep over (channel, path), ×1/√(U·paths)."""
    return jnp.concatenate(
        [
            jnp.einsum(
                "xv,ncxk->nvck", weight / math.sqrt(weight.shape[0]), _flat_channels(features)
            )
            for features, weight in zip(by_irrep, weights, strict=True)
        ],
        axis=2,
    )


def _weighted_harmonics(
    weights: Float[Array, "n u degrees K"], harmonics: Float[Array, "n b K"]
) -> Float[Array, "n u b K"]:
    """weights[n, u, l(b), k] · harmonics[n, b, k]."""
    return jnp.concatenate(
        [
            weights[:, :, degree, None] * harmonics[:, None, span]
            for degree, span in enumerate(_degrees(weights.shape[2]))
        ],
        axis=2,
    )


def _environment_sum(
    weights: Float[Array, "n u degrees K"], harmonics: Float[Array, "n b K"]
) -> Float[Array, "n u b"]:
    """Σ_k weights[n, u, l(b), k] · harmonics[n, b, k]."""
    return jnp.concatenate(
        [
            jnp.einsum("nuk,nbk->nub", weights[:, :, degree], harmonics[:, span])
            for degree, span in enumerate(_degrees(weights.shape[2]))
        ],
        axis=2,
    )


def _degrees(count: int) -> tuple[slice, ...]:
    return slices(harmonics(count - 1))


def _separate_paths(
    product: TensorProduct,
    features: Float[Array, "n u a K"],
    environment: Float[Array, "n u b"],
) -> list[Float[Array, "n u paths c K"]]:
    """CG_path(features, environment) of every path, by output irrep: the original's product."""
    left_spans, right_spans = slices(product.left), slices(product.right)
    results: dict[tuple[int, int, int], Array] = {}
    for i_left, span in enumerate(left_spans):
        paths = [path for path in product.paths if path[0] == i_left]
        matrices = [
            jnp.einsum(
                "nub,abc->nuca",
                environment[:, :, right_spans[path[1]]],
                jnp.asarray(product.coefficients(path), environment.dtype),
            )
            for path in paths
        ]
        out = jnp.einsum("nuca,nuak->nuck", jnp.concatenate(matrices, axis=2), features[:, :, span])
        ends = np.cumsum([matrix.shape[2] for matrix in matrices])[:-1]
        results |= dict(zip(paths, jnp.split(out, ends, axis=2), strict=True))
    return [
        jnp.stack([results[path] for path in product.paths if path[2] == i_out], axis=2)
        for i_out in range(len(product.out))
    ]
