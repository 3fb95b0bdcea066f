"""Which models collapse, and the radial functions that their weights amount to."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from allegro_jax import model, original, radial
from allegro_jax.config import AllegroConfig
from allegro_jax.mlp import scaled_weights, scaled_weights_original
from allegro_jax.neighbourhoods import Geometry
from allegro_jax.tensor_product import tensor_products

LINEAR = ("none", "identity")


def obstacle(config: AllegroConfig) -> str | None:
    """What keeps a model of this configuration from collapsing; none if it does collapse.

    It collapses if it has one layer, and if the latent and the readout network are linear (no
    hidden layer, or no nonlinearity). Architecture, channels, l_max, basis, species, cutoffs, ZBL,
    the two-body network, scales and shifts may be any.
    """
    if config.num_layers > 1:
        return f"num_layers is {config.num_layers}, not 1"
    for name in ("latent", "readout"):
        nonlinearity = getattr(config, f"{name}_nonlinearity")
        if getattr(config, f"{name}_hidden") and nonlinearity not in LINEAR:
            return f"the {name} network has a hidden layer with {nonlinearity}"
    return None


def num_functions(config: AllegroConfig) -> int:
    """How many radial functions each ordered pair of species has."""
    return 1 + 2 * config.num_tensor_features * (config.l_max + 1) + config.zbl


def radial_functions(
    params: model.Params, config: AllegroConfig, edges: Geometry
) -> Float[Array, "functions n K"]:
    """Exactly what the network makes of each pair: α, b_0·, b_1·, …, a_0·, a_1·, …, and r·u_ZBL.

    Of b and a those of degree l stand together, one for each channel. In eV, and for a no unit.
    """
    parts = _original_parts if config.architecture == "original" else _modern_parts
    alpha, b, a = parts(params, config, edges)
    count, _ = alpha.shape
    dtype = edges.distances.dtype

    def by_degree(x: Array) -> Array:  # [n, K, U, R] as [R·U, n, K]
        return jnp.moveaxis(x, (3, 2), (0, 1)).reshape(-1, count, x.shape[1])

    scales = params.get("scales", jnp.asarray(config.per_species("species_scales"), dtype))
    scales = scales.astype(dtype)[edges.centre_species][:, None]
    functions = [scales * alpha[None], scales * by_degree(b), by_degree(a)]
    if config.zbl:
        numbers = jnp.asarray(config.atomic_numbers, dtype)
        centre, neighbour = numbers[edges.centre_species], numbers[edges.neighbour_species]
        repulsion = radial.zbl(edges.distances, edges.inside, centre, neighbour)
        repulsion = repulsion * radial.envelope(edges.x, config.zbl_cutoff_power)
        functions.append((edges.distances * repulsion)[None])
    return jnp.concatenate([x.astype(dtype) for x in functions])


def _modern_parts(
    params: model.Params, config: AllegroConfig, edges: Geometry
) -> tuple[Float[Array, "n K"], Float[Array, "n K U R"], Float[Array, "n K U R"]]:
    """α, b and a before the scale: E_i = √(1/2N̄) Σ_j [x⁰ ‖ (x⁰ ‖ V)·latent]·readout."""
    scalars = config.num_scalar_features
    (layer,) = params["layers"]
    latent, readout = (
        functools.reduce(
            jnp.matmul, scaled_weights(weights, nonlinearity, forward=config.forward_normalize)
        )
        for weights, nonlinearity in (
            (layer["latent"], config.latent_nonlinearity),
            (params["readout"], config.readout_nonlinearity),
        )
    )
    through = latent @ readout[scalars:, 0]
    paths = jnp.atleast_2d(layer["tensor_product"])  # [U or 1, R]
    weights = through[scalars:, None] * paths * _path_factors(config).astype(paths.dtype)

    x, *pair_weights = model.two_body(model.prepare(params, config).weights, config, edges)
    norm = _neighbours_norm(config, edges, x.dtype)
    alpha = x @ (readout[:scalars, 0] + through[:scalars]) * (norm / math.sqrt(2))
    env, embed = (
        jnp.swapaxes(flat.reshape(*alpha.shape, -1, config.num_tensor_features), -1, -2)
        for flat in pair_weights
    )
    b = embed * weights * (norm / math.sqrt(2))[..., None, None]
    a = env * norm[..., None, None]
    return alpha, b, jnp.broadcast_to(a, b.shape)


def _original_parts(
    params: model.Params, config: AllegroConfig, edges: Geometry
) -> tuple[Float[Array, "n K"], Float[Array, "n K U R"], Float[Array, "n K U R"]]:
    """The same: E_i = √(1/N̄) Σ_j [x⁰ + α·u·(x⁰ ‖ V)·latent]/√(1+α²)·readout."""
    scalars, residual = config.num_scalar_features, config.residual_weight
    latent, readout, environment = (
        functools.reduce(jnp.matmul, scaled_weights_original(weights, nonlinearity))
        for weights, nonlinearity in (
            (params["final_latent"], _linear(config.latent_nonlinearity, params["final_latent"])),
            (params["readout"], _linear(config.readout_nonlinearity, params["readout"])),
            ([params["layers"][0]["environment"]], "none"),
        )
    )
    through = residual * (latent @ readout[:, 0])
    x, cutoff = original.two_body(params, config, edges)
    norm = _neighbours_norm(config, edges, x.dtype)
    cutoff = cutoff[..., 0]
    outer = norm / math.sqrt(1 + residual**2)
    alpha = outer * (x @ readout[:, 0] + cutoff * (x @ through[:scalars]))
    shape = (*alpha.shape, config.num_tensor_features, config.l_max + 1)
    embed, env = jnp.split(x @ environment, 2, axis=-1)
    weights = through[scalars:].reshape(shape[2:]) * _path_factors(config).astype(x.dtype)
    b = embed.reshape(shape) * weights * (outer * cutoff)[..., None, None]
    return alpha, b, env.reshape(shape) * norm[..., None, None]


def _linear(nonlinearity: str, weights: list[Array]) -> str:
    """A network without a hidden layer is linear, whatever its nonlinearity is called."""
    return nonlinearity if len(weights) > 1 else "none"


def _path_factors(config: AllegroConfig) -> Float[np.ndarray, " R"]:
    """V·Y of degree l over the product of unit harmonics: the paths l ⊗ l → 0e are diagonal."""
    (product,) = tensor_products(config.l_max, config.parity, 1)
    factors = np.zeros(config.l_max + 1)
    for path in product.paths:
        degree = product.left[path[0]][0]
        factors[degree] = product.coefficients(path)[0, 0, 0] * (2 * degree + 1)
    return factors


def _neighbours_norm(config: AllegroConfig, edges: Geometry, dtype: Any) -> Float[Array, "n 1"]:
    norm = 1 / np.sqrt(np.asarray(config.per_species("average_neighbours")))
    return jnp.asarray(norm, dtype)[edges.centre_species][:, None]
