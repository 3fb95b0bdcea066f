"""The seam between an interatomic potential and everything that drives one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@runtime_checkable
class LocalPotential(Protocol):
    """An energy that is a sum of site energies, each a function of one atom's neighbours alone.

    A local potential is a frozen pytree: ``params`` are its leaves, all else is static (hashable).

    Attributes:
        params: weights, handed to :meth:`site_energies` explicitly so that they can be traced,
            differentiated, or given a leading axis (a committee).
        species: chemical symbols; species indices refer to this order.
        cutoff: Å; atoms farther apart do not interact.
        pair_cutoffs: optional directed table ``[centre][neighbour]`` in Å that prunes neighbour
            lists.
        reference_energies: eV per species. They are *not* part of the site energies: added on the
            host in float64, they would swallow the digits of a float32 sum.

    It may also have ``bytes_per_slot``, the memory that the value and gradient of one neighbour
    take, from which the size of blocks is chosen; ``prepare(params)``, which does to the weights
    what need not be done again in every block (see :func:`prepared`);
    ``site_energies_of_groups(params, groups)``, for several groups of atoms at once (see
    :func:`site_energies_of_groups`); and ``pairwise = True`` if
    each site energy is half of a sum over pairs that is the same seen from either atom, which
    saves the engine half the work of adding forces up.
    """

    params: Any

    @property
    def species(self) -> tuple[str, ...]: ...

    @property
    def cutoff(self) -> float: ...

    @property
    def pair_cutoffs(self) -> tuple[tuple[float, ...], ...] | None: ...

    @property
    def reference_energies(self) -> tuple[float, ...]: ...

    def site_energies(
        self,
        params: Any,
        vectors: Float[Array, "n K 3"],
        mask: Bool[Array, "n K"],
        centre_species: Int[Array, " n"],
        neighbour_species: Int[Array, "n K"],
    ) -> Float[Array, " n"]:
        """Energies of ``n`` atoms, eV, from the dense neighbourhoods of a block of atoms.

        Args:
            params: the potential's weights.
            vectors: r_neighbour − r_centre, Å. Masked slots may hold anything finite, also zero.
            mask: which slots hold a neighbour. It may include atoms beyond the potential's cutoff
                (the skin of a neighbour list): they contribute exactly nothing.
            centre_species: species index of each row; −1 marks a padded row, whose energy is 0.
            neighbour_species: species index of each slot (any valid index where masked).

        Values and gradients are finite in padded rows and slots.
        """
        ...


def prepared(potential: Any, params: Any) -> Any:
    """The weights as ``site_energies`` is quickest with: what ``potential.prepare`` makes of them.

    It is differentiable, and done once for all blocks of atoms.
    """
    prepare = getattr(potential, "prepare", None)
    return params if prepare is None else prepare(params)


def precision_of(potential: Any) -> str:
    """``"float32"`` or whatever else the weights of a potential are; float32 where it has none."""
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(potential)]
    return next((kind.name for kind in kinds if jnp.issubdtype(kind, jnp.floating)), "float32")


def chosen_precision(dtype: str | None, potential: Any) -> str:
    """The precision asked for, or else that of the potential.

    Raises:
        ValueError: if it is neither float32 nor float64.
    """
    precision = jnp.dtype(dtype or precision_of(potential)).name
    if precision not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {precision}")
    return precision


def with_precision(potential: Any, precision: str) -> Any:
    """The same potential (or any pytree) with its floating leaves in another precision."""

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, precision) if floating else leaf

    return jax.tree.map(cast, potential)


def site_energies_of_groups(
    potential: Any,
    params: Any,
    groups: Sequence[tuple[Array, Array, Array, Array]],
) -> list[Float[Array, " n"]]:
    """Site energies of groups of atoms that have different numbers of slots.

    Each group is what ``site_energies`` takes after the weights. A potential that can do better
    than one group after the other has a method of this name.
    """
    together = getattr(potential, "site_energies_of_groups", None)
    if together is not None:
        return together(params, groups)
    return [potential.site_energies(params, *group) for group in groups]
