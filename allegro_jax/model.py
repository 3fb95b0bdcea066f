"""The Allegro network: weights, and site energies from dense neighbourhoods.

This file holds the modern architecture (nequip-allegro 0.4 and later), :mod:`allegro_jax.original`
the paper's. Both are pure functions of ``(params, config, neighbourhoods)``; neither knows of
boxes, neighbour lists or devices.

The edges of an atom are adjacent, so sums over neighbours are reductions, and all that tensor
products need is done once per atom (:mod:`allegro_jax.tensor_track`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, Int

from allegro_jax import original, radial
from allegro_jax.config import AllegroConfig
from allegro_jax.mlp import apply_mlp, linear, mlp_shapes, scaled_weights, uniform
from allegro_jax.neighbourhoods import Geometry, Rows, by_group, geometry, one_by_one
from allegro_jax.tensor_product import products_of, spherical_harmonics
from allegro_jax.tensor_track import (
    ProductWeights,
    carried_down,
    environment_sum,
    invariant_row,
    invariants,
    weigh_paths,
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


@struct.dataclass
class Prepared:
    """Weights as the network multiplies by them, from :func:`prepare`."""

    weights: Params


def prepare(params: Params, config: AllegroConfig) -> Prepared:
    """Weights with their factors, and in the order and the products in which they are used.

    Where a network is evaluated block by block this is done once, before the first.
    """
    if config.architecture == "original":
        return Prepared(params)
    return Prepared(_prepare_modern(params, config))


def site_energies(
    params: Params | Prepared,
    config: AllegroConfig,
    vectors: Float[Array, "n K 3"],
    mask: Bool[Array, "n K"],
    centre_species: Int[Array, " n"],
    neighbour_species: Int[Array, "n K"],
) -> Float[Array, " n"]:
    """Energies of ``n`` atoms from their neighbourhoods, eV, without ``species_shifts``.

    Args:
        params: weights from :func:`init` (any floating type: it is that of the network), or what
            :func:`prepare` made of them.
        config: the hyperparameters.
        vectors: r_neighbour − r_centre, Å (any floating type: it is that of the geometry and of the
            result).
        mask: which slots hold a neighbour; those beyond the cutoff contribute exactly nothing.
        centre_species: species index of each row, −1 for a padded row (its energy is 0).
        neighbour_species: species index of each slot.

    Precision follows the reference: geometry, Bessel functions and harmonics in the vectors' type,
    the network in the weights', scales and the ZBL term in the vectors'.
    """
    rows = Rows(vectors, mask, centre_species, neighbour_species)
    return site_energies_of_groups(params, config, [rows])[0]


def site_energies_of_groups(
    params: Params | Prepared, config: AllegroConfig, groups: Sequence[Rows]
) -> list[Float[Array, " n"]]:
    """:func:`site_energies` of several groups of atoms, each with its own number of slots.

    What is done to a pair alone is done to those of all groups at once.
    """
    weights = (params if isinstance(params, Prepared) else prepare(params, config)).weights
    if config.architecture == "original" and len(groups) > 1:
        return [site_energies_of_groups(params, config, [group])[0] for group in groups]
    shapes = tuple(group.mask.shape for group in groups)
    pairs = groups[0] if len(groups) == 1 else one_by_one(groups)
    edges = geometry(*pairs, config.cutoff, config.pair_cutoffs)
    centre = jnp.concatenate([group.centre_species for group in groups])
    species, dtype = jnp.maximum(centre, 0), pairs.vectors.dtype
    if config.architecture == "original":
        energies = original.network(weights, config, edges).astype(dtype)
    else:
        energies = _network(weights, config, edges, species, shapes).astype(dtype)
    if "scales" in weights:
        scales = weights["scales"].astype(dtype)
    else:
        scales = jnp.asarray(config.per_species("species_scales"), dtype)
    energies = energies * scales[species]
    if "shifts" in weights:
        energies = energies + weights["shifts"].astype(dtype)[species]
    if config.zbl:
        repulsion = by_group(_repulsion(config, edges).reshape(-1), shapes)
        energies = energies + jnp.concatenate([jnp.sum(group, axis=1) for group in repulsion])
    energies = jnp.where(centre >= 0, energies, 0)
    return jnp.split(energies, np.cumsum([atoms for atoms, _ in shapes])[:-1])


def _repulsion(config: AllegroConfig, edges: Geometry) -> Float[Array, "n K"]:
    """The ZBL energy of every pair, eV."""
    numbers = jnp.asarray(config.atomic_numbers, edges.distances.dtype)
    repulsion = radial.zbl(
        edges.distances,
        edges.inside,
        numbers[edges.centre_species],
        numbers[edges.neighbour_species],
    )
    return repulsion * radial.envelope(edges.x, config.zbl_cutoff_power)


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
    for layer, product in enumerate(products_of(config)):
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


def _prepare_modern(params: Params, config: AllegroConfig) -> Params:
    """The same dictionary but for:

    ``basis_linear`` and every MLP: with the factors that keep variances. ``projection``: both
    linear maps of the two-body embedding in one, [S, S + env + R·U], where env is R·U or U.
    ``layers``: weights of harmonics are degrees first, and ``tensor_product`` is a
    :class:`~allegro_jax.tensor_track.ProductWeights`.
    """
    forward, scalars = config.forward_normalize, config.num_scalar_features

    def degrees_first(weight: Array, start: int) -> Array:
        """The columns from ``start`` on, which are (U, R) in the files, as (R, U)."""
        before, after = jnp.split(weight, [start], axis=1)
        after = after.reshape(len(after), config.num_tensor_features, -1)
        return jnp.concatenate([before, after.swapaxes(1, 2).reshape(len(after), -1)], axis=1)

    prepared = dict(params)
    if "basis_linear" in params:
        (prepared["basis_linear"],) = scaled_weights(
            [params["basis_linear"]], "none", forward=forward
        )
    for name in ("two_body", "readout"):
        nonlinearity = getattr(config, f"{name}_nonlinearity")
        prepared[name] = scaled_weights(params[name], nonlinearity, forward=forward)
    (embedding,) = scaled_weights([prepared.pop("tensor_embedding")], "none", forward=forward)
    (projection,) = scaled_weights([prepared.pop("first_projection")], "none")
    prepared["projection"] = jnp.concatenate(
        [degrees_first(projection, scalars), degrees_first(embedding, 0)], axis=1
    )
    prepared["layers"] = []
    for product, layer in zip(products_of(config), params["layers"], strict=True):
        last = len(prepared["layers"]) == config.num_layers - 1
        latent = scaled_weights(layer["latent"], config.latent_nonlinearity, forward=forward)
        latent[-1] = degrees_first(latent[-1], scalars)
        weighed = weigh_paths(product, layer["tensor_product"], last=last)
        prepared["layers"].append({"tensor_product": weighed, "latent": latent})
    return prepared


def two_body(
    weights: Params, config: AllegroConfig, edges: Geometry
) -> tuple[Float[Array, "n K S"], Float[Array, "n K env"], Float[Array, "n K embed"]]:
    """What depends on the distance and the species of a pair alone, from prepared weights.

    Returns:
        The first latent x⁰; the weights of the first environment, R·U or U of them; and those of
        the features, R·U of them.
    """
    embedding = _two_body_embedding(weights, config, edges, weights["projection"].dtype)
    e = apply_mlp(weights["two_body"], embedding, config.two_body_nonlinearity)
    features = config.num_tensor_features * (config.l_max + 1)
    projection = weights["projection"]
    x, env, embed = jnp.split(
        linear(e, projection), [config.num_scalar_features, projection.shape[1] - features], axis=-1
    )
    return x, env, embed


def _network(
    weights: Params,
    config: AllegroConfig,
    edges: Geometry,
    species: Int[Array, " atoms"],
    shapes: tuple[tuple[int, int], ...],
) -> Float[Array, " atoms"]:
    """Site energies before scale and shift.

    ``shapes``: atoms and slots of every group of which ``edges`` holds the pairs; ``species`` are
    those of all their atoms. Tensor products see all atoms, sums over neighbours one group.
    """
    dtype, scalars = weights["projection"].dtype, config.num_scalar_features
    neighbours_norm = 1 / np.sqrt(np.asarray(config.per_species("average_neighbours")))
    norm = jnp.asarray(neighbours_norm, dtype)[species]

    def flat(of_pairs: Array) -> Array:
        return of_pairs.reshape(-1, of_pairs.shape[-1])

    harmonics = spherical_harmonics(edges.unit_vectors, config.l_max).astype(dtype)
    harmonics = by_group(flat(harmonics), shapes)

    def of_all_degrees(env: Array) -> Array:
        """Weights of the harmonics, the same for all degrees if there are no others."""
        each = env.shape[-1] > config.num_tensor_features
        return env if each else jnp.tile(env, config.l_max + 1)

    first, env, embed = (flat(of_pairs) for of_pairs in two_body(weights, config, edges))
    embed = by_group(embed, shapes)
    latents = [first]
    earlier: list[tuple[ProductWeights, Array]] = []  # with their environments
    for product, layer in zip(products_of(config), weights["layers"], strict=True):
        env = by_group(of_all_degrees(env), shapes)
        environment = norm[:, None, None] * jnp.concatenate(
            [environment_sum(*group) for group in zip(env, harmonics, strict=True)]
        )
        row = invariant_row(product, layer["tensor_product"], environment)
        for matrix in reversed(earlier):
            row = carried_down(row, *matrix)
        rows = jnp.split(row, np.cumsum([atoms for atoms, _ in shapes])[:-1])
        found = [flat(invariants(*group)) for group in zip(rows, embed, harmonics, strict=True)]
        inputs = jnp.concatenate([*latents, jnp.concatenate(found)], axis=-1)
        out = apply_mlp(layer["latent"], inputs, config.latent_nonlinearity)
        latents.append(out[:, :scalars])
        env = out[:, scalars:]
        earlier.append((layer["tensor_product"], environment))

    edge_energies = apply_mlp(
        weights["readout"], jnp.concatenate(latents, axis=-1), config.readout_nonlinearity
    )
    sums = [jnp.sum(group, axis=1) for group in by_group(edge_energies[:, 0], shapes)]
    return jnp.concatenate(sums) * norm / math.sqrt(2)


def _two_body_embedding(
    weights: Params, config: AllegroConfig, edges: Geometry, dtype: Any
) -> Float[Array, "n K D"]:
    """Distances and species of the pairs as D features that vanish at the cutoff."""
    if config.radial_basis == "spline":
        basis = radial.spline_basis(edges.x, config.num_splines, config.spline_span)
        basis = jnp.where(edges.inside[..., None], basis, 0).astype(dtype)
        pair = radial.pair_index(edges.centre_species, edges.neighbour_species, config.num_species)
        if config.num_species == 1:
            return basis @ weights["spline"][0].T
        return jnp.einsum("nkds,nks->nkd", weights["spline"][pair], basis)

    if "bessel" in weights:
        frequencies = weights["bessel"].astype(edges.x.dtype)
    else:
        frequencies = jnp.arange(1, config.num_bessels + 1, dtype=edges.x.dtype)
    bessel = radial.bessel_basis(edges.x, frequencies).astype(dtype)
    cutoff = radial.envelope(edges.x, config.cutoff_power).astype(dtype)
    cutoff = jnp.where(edges.inside, cutoff, 0)
    radial_part = linear(bessel * cutoff[..., None], weights["basis_linear"])
    centre = _rows(weights["type_embedding"]["centre"], edges.centre_species)
    neighbour = _rows(weights["type_embedding"]["neighbour"], edges.neighbour_species)
    centre = jnp.broadcast_to(centre[:, None], neighbour.shape)
    return jnp.concatenate([centre, neighbour], axis=-1) * radial_part


def _rows(
    table: Float[Array, "T width"], index: Int[Array, "*slots"]
) -> Float[Array, "*slots width"]:
    if table.shape[0] <= MAX_ONE_HOT_SPECIES:
        return jax.nn.one_hot(index, table.shape[0], dtype=table.dtype) @ table
    return table[index]
