"""Collapsed models as local potentials."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Bool, Float, Int

from allegro_jax.collapsed import tables
from allegro_jax.collapsed.energies import energies_and_gradients, energies_of
from allegro_jax.collapsed.functions import num_functions, radial_functions
from allegro_jax.config import AllegroConfig
from allegro_jax.neighbourhoods import Geometry, geometry
from allegro_jax.potential import AllegroPotential

_CPU_BYTES_PER_SLOT = 1024  # a tenth of a million slots


@struct.dataclass
class CollapsedAllegro(AllegroPotential):
    """A model that collapses, with its radial functions evaluated by its own network.

    The same weights and the same numbers, less the work of the tensor product.
    """

    @property
    def bytes_per_slot(self) -> int:
        hidden = sum(self.config.two_body_hidden) + 2 * self.config.num_scalar_features
        return 4 * (4 * hidden + 4 * num_functions(self.config))

    def prepare(self, params: Any) -> Any:  # what it does is for the network
        return params

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        edges = _geometry(self.config, vectors, mask, centre_species, neighbour_species)
        energies = energies_of(radial_functions(params, self.config, edges), edges, self.config)
        if "shifts" in params:
            energies = energies + params["shifts"].astype(vectors.dtype)[edges.centre_species]
        return jnp.where(centre_species >= 0, energies, 0)


@struct.dataclass
class TabulatedAllegro(AllegroPotential):
    """A model that collapses, with its radial functions as tables (see :func:`collapse`).

    Attributes:
        params: ``{"table": coefficients, "shifts": [T] eV}``.
        config: of the model that it was.
    """

    @property
    def bytes_per_slot(self) -> int:
        # as compiled: four coefficients of each function, and some ten numbers more
        memory = 16 * num_functions(self.config) + 64
        # On a CPU, where the blocks of large potentials fit the engine's notion of a cache, this
        # one's would not: blocks of half a million slots take twice the time of these.
        return memory if jax.default_backend() != "cpu" else max(memory, _CPU_BYTES_PER_SLOT)

    def prepare(self, params: Any) -> Any:  # what it does is for the network
        return params

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        return _tabulated_energies(
            self.config, params, vectors, mask, centre_species, neighbour_species
        )


def _geometry(config: AllegroConfig, *slots: Array) -> Geometry:
    return geometry(*slots, config.cutoff, config.pair_cutoffs)


def _from_table(config: AllegroConfig, params: Any, *slots: Array) -> Float[Array, " n"]:
    edges = _geometry(config, *slots)
    functions, _ = tables.look_up(params["table"], edges, config.num_species)
    return _shifted(energies_of(functions, edges, config), params, *slots)


def _shifted(energies: Array, params: Any, *slots: Array) -> Float[Array, " n"]:
    _, _, centre_species, _ = slots
    shifts = params["shifts"][jnp.maximum(centre_species, 0)]
    return jnp.where(centre_species >= 0, energies + shifts, 0)


_tabulated_energies = jax.custom_jvp(_from_table, nondiff_argnums=(0,))


def _tabulated_jvp(config: AllegroConfig, primals: Any, tangents: Any) -> tuple[Array, Array]:
    """The gradient comes with the energies: cheaper than what automatic differentiation writes."""
    params, *slots = primals
    of_params, of_vectors, *_ = tangents
    edges = _geometry(config, *slots)
    functions, derivatives = tables.look_up(params["table"], edges, config.num_species)
    energies, gradients = energies_and_gradients(functions, derivatives, edges, config)
    change = jnp.zeros_like(energies)
    if not isinstance(of_vectors, SymbolicZero):
        change = change + jnp.sum(gradients * of_vectors, axis=(1, 2))
    if not all(isinstance(leaf, SymbolicZero) for leaf in jax.tree.leaves(of_params)):
        of_params = jax.tree.map(_instantiated, of_params, params)
        _, more = jax.jvp(lambda own: _from_table(config, own, *slots), (params,), (of_params,))
        change = change + more
    return _shifted(energies, params, *slots), change


def _instantiated(tangent: Any, value: Array) -> Array:
    return jnp.zeros_like(value) if isinstance(tangent, SymbolicZero) else tangent


_tabulated_energies.defjvp(_tabulated_jvp, symbolic_zeros=True)
