"""The Allegro network: weights, and site energies from dense neighbourhoods.

This file holds the modern architecture (nequip-allegro 0.4 and later), :mod:`allegro_jax.original`
the paper's. Both are pure functions of ``(params, config, neighbourhoods)``; neither knows of
boxes, neighbour lists or devices.

The edges of an atom are adjacent, so sums over neighbours are reductions and the tensor product is
contracted once per atom. Scalars have the layout [atoms, neighbours, features], which their matrix
products want; tensors [atoms, channels, components, neighbours], which theirs want.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from allegro_jax import original, radial
from allegro_jax.config import AllegroConfig
from allegro_jax.mlp import apply_mlp, mlp_shapes, scaled_weights, uniform
from allegro_jax.neighbourhoods import Geometry, geometry
from allegro_jax.tensor_product import (
    environment_sum,
    mix_paths,
    spherical_harmonics,
    tensor_products,
    weighted_harmonics,
)

Params = dict[str, Any]

# With few species a product with one-hot rows is faster than a gather, its transpose above all.
MAX_ONE_HOT_SPECIES = 16


def init(key: Array, config: AllegroConfig, dtype: Any = jnp.float32) -> Params:
    """Random weights, as the reference draws them (zero mean, unit variance; factors are applied
    at evaluation).

    Args:
        key: random key.
        config: the hyperparameters.
        dtype: of all weights.

    Returns:
        A nested dictionary of arrays. For the modern architecture, with T species, D embedding and
        S scalar features, U channels, R = l_max + 1: ``type_embedding`` (``centre``, ``neighbour``
        [T, D/2]) and ``basis_linear`` [bessels, D], or ``spline`` [T², D, splines]; ``two_body``, a
        list of [in, out]; ``tensor_embedding`` [S, U·R]; ``first_projection`` [S, S + U·R];
        ``layers``, each ``tensor_product`` ([U, paths] or [paths]) and ``latent``; ``readout``; and
        where trainable ``bessel`` [bessels], ``scales`` [T], ``shifts`` [T] (eV, added to
        ``species_shifts``).
    """
    keys = _Keys(key)
    if config.architecture == "original":
        params = original.init(keys, config, dtype)
    else:
        params = _init_modern(keys, config, dtype)
    if config.scales_trainable:
        params["scales"] = jnp.asarray(config.per_species("species_scales"), dtype)
    if config.shifts_trainable:
        params["shifts"] = jnp.zeros(config.num_species, dtype)
    return params


def count_parameters(params: Params) -> int:
    """Number of weights."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def parameter_name(path: tuple[Any, ...]) -> str:
    """The name of a weight, from its path in the tree: ``"layers.0.latent.1"``."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def site_energies(
    params: Params,
    config: AllegroConfig,
    vectors: Float[Array, "n K 3"],
    mask: Bool[Array, "n K"],
    centre_species: Int[Array, " n"],
    neighbour_species: Int[Array, "n K"],
) -> Float[Array, " n"]:
    """Energies of ``n`` atoms from their neighbourhoods, eV, without ``species_shifts``.

    Args:
        params: weights from :func:`init` (any floating type: it is that of the network).
        config: the hyperparameters.
        vectors: r_neighbour − r_centre, Å (any floating type: it is that of the geometry and of the
            result).
        mask: which slots hold a neighbour; those beyond the cutoff contribute exactly nothing.
        centre_species: species index of each row, −1 for a padded row (its energy is 0).
        neighbour_species: species index of each slot.

    Precision follows the reference: geometry, Bessel functions and harmonics in the vectors' type,
    the network in the weights', scales and the ZBL term in the vectors'.
    """
    edges = geometry(
        vectors, mask, centre_species, neighbour_species, config.cutoff, config.pair_cutoffs
    )
    network = original.network if config.architecture == "original" else _network
    energies = network(params, config, edges).astype(vectors.dtype)
    if "scales" in params:
        scales = params["scales"].astype(vectors.dtype)
    else:
        scales = jnp.asarray(config.per_species("species_scales"), vectors.dtype)
    energies = energies * scales[edges.centre_species]
    if "shifts" in params:
        energies = energies + params["shifts"].astype(vectors.dtype)[edges.centre_species]
    if config.zbl:
        numbers = jnp.asarray(config.atomic_numbers, vectors.dtype)
        repulsion = radial.zbl(
            edges.distances,
            edges.inside,
            numbers[edges.centre_species],
            numbers[edges.neighbour_species],
        )
        repulsion = repulsion * radial.envelope(edges.x, config.zbl_cutoff_power)
        energies = energies + jnp.sum(repulsion, axis=1)
    return jnp.where(centre_species >= 0, energies, 0)


# -- the modern architecture ----------------------------------------------------------------------


class _Keys:
    """An endless supply of random keys."""

    def __init__(self, key: Array) -> None:
        self._key = key

    def __call__(self) -> Array:
        self._key, key = jax.random.split(self._key)
        return key


def _init_modern(keys: _Keys, config: AllegroConfig, dtype: Any) -> Params:
    species, embedding = config.num_species, config.embedding_width
    scalars, channels, degrees = (
        config.num_scalar_features,
        config.num_tensor_features,
        config.l_max + 1,
    )
    env_weights = channels * (degrees if config.weight_individual_irreps else 1)

    def mlp(width_in: int, hidden: tuple[int, ...], width_out: int) -> list[Array]:
        return [uniform(keys(), shape, dtype) for shape in mlp_shapes(width_in, hidden, width_out)]

    params: Params = {}
    if config.radial_basis == "spline":
        # the forward initialisation counts the splines that overlap, the backward one the outputs
        fan = config.spline_span if config.forward_normalize else embedding
        shape = (species**2, embedding, config.num_splines)
        params["spline"] = uniform(keys(), shape, dtype) / math.sqrt(max(fan, 1))
    else:
        if config.bessel_trainable:
            params["bessel"] = jnp.arange(1, config.num_bessels + 1, dtype=dtype)
        params["type_embedding"] = {
            side: jax.random.normal(keys(), (species, embedding // 2), dtype)
            for side in ("centre", "neighbour")
        }
        params["basis_linear"] = uniform(keys(), (config.num_bessels, embedding), dtype)
    params["two_body"] = mlp(embedding, config.two_body_hidden, scalars)
    params["tensor_embedding"] = uniform(keys(), (scalars, channels * degrees), dtype)
    params["first_projection"] = uniform(keys(), (scalars, scalars + env_weights), dtype)
    params["layers"] = []
    products = tensor_products(config.l_max, config.parity, config.num_layers)
    for layer, product in enumerate(products):
        paths = len(product.paths)
        shape = (channels, paths) if config.path_channel_coupling else (paths,)
        last = layer == config.num_layers - 1
        params["layers"].append(
            {
                "tensor_product": uniform(keys(), shape, dtype),
                "latent": mlp(
                    scalars * (layer + 1) + channels,
                    config.latent_hidden,
                    scalars + (0 if last else env_weights),
                ),
            }
        )
    params["readout"] = mlp(scalars * (config.num_layers + 1), config.readout_hidden, 1)
    return params


def two_body(
    params: Params, config: AllegroConfig, edges: Geometry
) -> tuple[Float[Array, "n K S"], Float[Array, "n K env"], Float[Array, "n K embed"]]:
    """What depends on the distance and the species of a pair alone.

    Returns:
        The first latent x⁰; the weights of the first environment, U·R or U of them; and those of
        the features, U·R of them.
    """
    embedding = _two_body_embedding(params, config, edges, params["first_projection"].dtype)
    weights = scaled_weights(
        params["two_body"], config.two_body_nonlinearity, forward=config.forward_normalize
    )
    e = apply_mlp(weights, embedding, config.two_body_nonlinearity)

    # both linear maps of e at once
    (tensor_embedding,) = scaled_weights(
        [params["tensor_embedding"]], "none", forward=config.forward_normalize
    )
    (first_projection,) = scaled_weights([params["first_projection"]], "none")
    projected = e @ jnp.concatenate([first_projection, tensor_embedding], axis=1)
    x, env, embed = jnp.split(
        projected, [config.num_scalar_features, first_projection.shape[1]], axis=-1
    )
    return x, env, embed


def _network(params: Params, config: AllegroConfig, edges: Geometry) -> Float[Array, " n"]:
    """Site energies before scale and shift."""
    dtype = params["first_projection"].dtype
    scalars, channels, l_max = config.num_scalar_features, config.num_tensor_features, config.l_max
    neighbours_norm = 1 / np.sqrt(np.asarray(config.per_species("average_neighbours")))
    norm = jnp.asarray(neighbours_norm, dtype)[edges.centre_species][:, None, None]

    def env_weights(flat: Array) -> Array:
        """[n, K, U·R] (or [n, K, U]) as [n, U, R, K]."""
        shaped = jnp.swapaxes(flat, 1, 2).reshape(flat.shape[0], channels, -1, flat.shape[1])
        return jnp.broadcast_to(shaped, (flat.shape[0], channels, l_max + 1, flat.shape[1]))

    harmonics = spherical_harmonics(edges.unit_vectors, l_max).astype(dtype)
    harmonics = jnp.swapaxes(harmonics, 1, 2)
    x, env, embed = two_body(params, config, edges)
    latents = [x]
    features = weighted_harmonics(env_weights(embed), harmonics)

    products = tensor_products(l_max, config.parity, config.num_layers)
    for layer, (product, weights) in enumerate(zip(products, params["layers"], strict=True)):
        environment = norm * environment_sum(env_weights(env), harmonics)
        features = mix_paths(product, features, environment, weights["tensor_product"])
        latent = scaled_weights(
            weights["latent"], config.latent_nonlinearity, forward=config.forward_normalize
        )
        invariants = jnp.swapaxes(features[:, :, 0], 1, 2)  # 0e comes first
        out = apply_mlp(
            latent, jnp.concatenate([*latents, invariants], axis=-1), config.latent_nonlinearity
        )
        latents.append(out[..., :scalars])
        if layer < config.num_layers - 1:
            env = out[..., scalars:]

    readout = scaled_weights(
        params["readout"], config.readout_nonlinearity, forward=config.forward_normalize
    )
    edge_energies = apply_mlp(
        readout, jnp.concatenate(latents, axis=-1), config.readout_nonlinearity
    )
    return jnp.sum(edge_energies[..., 0], axis=1) * norm[:, 0, 0] / math.sqrt(2)


def _two_body_embedding(
    params: Params, config: AllegroConfig, edges: Geometry, dtype: Any
) -> Float[Array, "n K D"]:
    """Distances and species of the pairs as D features that vanish at the cutoff."""
    if config.radial_basis == "spline":
        basis = radial.spline_basis(edges.x, config.num_splines, config.spline_span)
        basis = jnp.where(edges.inside[..., None], basis, 0).astype(dtype)
        pair = radial.pair_index(edges.centre_species, edges.neighbour_species, config.num_species)
        if config.num_species == 1:
            return basis @ params["spline"][0].T
        return jnp.einsum("nkds,nks->nkd", params["spline"][pair], basis)

    if "bessel" in params:
        frequencies = params["bessel"].astype(edges.x.dtype)
    else:
        frequencies = jnp.arange(1, config.num_bessels + 1, dtype=edges.x.dtype)
    bessel = radial.bessel_basis(edges.x, frequencies).astype(dtype)
    cutoff = radial.envelope(edges.x, config.cutoff_power).astype(dtype)
    cutoff = jnp.where(edges.inside, cutoff, 0)
    (basis_linear,) = scaled_weights(
        [params["basis_linear"]], "none", forward=config.forward_normalize
    )
    radial_part = (bessel * cutoff[..., None]) @ basis_linear
    centre = params["type_embedding"]["centre"][edges.centre_species]
    neighbour = _rows(params["type_embedding"]["neighbour"], edges.neighbour_species)
    centre = jnp.broadcast_to(centre[:, None], neighbour.shape)
    return jnp.concatenate([centre, neighbour], axis=-1) * radial_part


def _rows(table: Float[Array, "T width"], index: Int[Array, "n K"]) -> Float[Array, "n K width"]:
    if table.shape[0] <= MAX_ONE_HOT_SPECIES:
        return jax.nn.one_hot(index, table.shape[0], dtype=table.dtype) @ table
    return table[index]
