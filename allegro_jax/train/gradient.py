"""Predictions of a batch, and the exact gradient of a loss on them, block by block.

The loss depends on energies E_f, forces F and stress, and these on the weights θ through the site
energies E_i(θ, v_i) and the pair gradients g_i = ∂E_i/∂v_i alone; everything after them is linear
and cheap. So the gradient needs two passes over blocks of atoms that keep no activations:

1. E_i and g_i of every block; then the loss L, and its cotangents ē_i = ∂L/∂E_i and c_i = ∂L/∂g_i.
2. dL/dθ = Σ_i ∂/∂θ [ē_i E_i(θ, v_i) + c_i·g_i(θ, v_i)], where c_i·g_i = d/dε E_i(θ, v_i + ε c_i) at
   ε = 0: one forward-mode derivative, differentiated in reverse mode.

Memory is that of one block, whatever the batch, and blocks stay in cache. Those without an atom are
skipped. Where a batch wants energies alone there are no g_i and c_i, and less than half the work.

A batch that is no more than one block in each of its groups is small: all its activations are kept,
and differentiated in reverse mode twice, which saves evaluating the network anew for step 2. Its
groups are evaluated together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from allegro_jax.data.batches import Batch, RowGroup
from allegro_jax.data.loading import processes
from md.local_potential import LocalPotential, prepared, site_energies_of_groups

Params = Any
SMALLEST_SET = 400  # slots of the groups that are evaluated together


class Prediction(NamedTuple):
    """What a potential says of a batch.

    Attributes:
        energies: eV per frame, without reference energies.
        forces: eV/Å per row; 0 where the batch wants energies alone.
        virials: eV per frame, Σ v ⊗ ∂E/∂v = V · stress (ASE sign); likewise.
        site_energies: eV per row.
    """

    energies: Float[Array, " frames"]
    forces: Float[Array, "rows 3"]
    virials: Float[Array, "frames 3 3"]
    site_energies: Float[Array, " rows"]


class Sites(NamedTuple):
    """Site energies and their gradients, per group: [blocks, rows] and [blocks, rows, width, 3];
    no gradients where energies alone are wanted."""

    energies: tuple[Float[Array, "blocks rows"], ...]
    gradients: tuple[Float[Array, "blocks rows width 3"], ...]


def evaluate_sites(potential: LocalPotential, params: Params, batch: Batch) -> Sites:
    """Site energies and pair gradients of a batch: of groups together if each is one block, or
    else one block of rows after another.

    ``params`` are best prepared (:func:`md.local_potential.prepared`).
    """
    slots = list(zip((group.vectors for group in batch.groups), _slots(batch), strict=True))
    if _is_small(batch):
        first = jax.tree.map(lambda entry: entry[0], slots)
        energies, gradients = {}, {}
        for numbers in _together([group.neighbours.size for group in batch.groups]):
            chosen = [first[number] for number in numbers]
            sites = _evaluated(potential, params, chosen, derivatives=batch.derivatives)
            sites = jax.tree.map(lambda entry: entry[None], sites)
            energies |= dict(zip(numbers, sites.energies, strict=True))
            gradients |= dict(zip(numbers, sites.gradients, strict=batch.derivatives))
        return Sites(
            *(tuple(found[key] for key in sorted(found)) for found in (energies, gradients))
        )

    def evaluated(vectors: Array, *rest: Array) -> Sites:
        return _evaluated(potential, params, [(vectors, rest)], derivatives=batch.derivatives)

    def skipped(vectors: Array, *_: Array) -> Sites:
        energies = jnp.zeros(vectors.shape[:1], vectors.dtype)
        return Sites((energies,), (jnp.zeros_like(vectors),) if batch.derivatives else ())

    def block(_: None, inputs: tuple[Array, Array, Array, Array]) -> tuple[None, Sites]:
        return None, jax.lax.cond(_holds_atoms(inputs[2]), evaluated, skipped, *inputs)

    pieces = [jax.lax.scan(block, None, (vectors, *rest))[1] for vectors, rest in slots]
    return Sites(
        tuple(energies for piece in pieces for energies in piece.energies),
        tuple(gradients for piece in pieces for gradients in piece.gradients),
    )


def _together(slots: Sequence[int]) -> list[list[int]]:
    """Which groups are evaluated together: as many sets as processors can share, of some size.

    Groups together are fewer and larger operations, sets are independent of each other. (2 cores,
    acetylacetone: 946 slots in two sets 12.3 ms and in one 14.2; 3BPA, 560 slots in four sets or in
    one 8.5; one core, 15.5 and 13.5.)
    """
    number = 1
    if jax.default_backend() == "cpu":
        number = max(min(processes(), sum(slots) // SMALLEST_SET, len(slots)), 1)
    sets: list[list[int]] = [[] for _ in range(number)]
    for group in sorted(range(len(slots)), key=lambda group: -slots[group]):
        min(sets, key=lambda numbers: sum(slots[one] for one in numbers)).append(group)
    return sets


def _evaluated(
    potential: LocalPotential,
    params: Params,
    groups: list[tuple[Array, tuple[Array, ...]]],
    *,
    derivatives: bool,
) -> Sites:
    """One block of every group."""
    vectors, rest = zip(*groups, strict=True)

    def total(vectors: tuple[Array, ...]) -> tuple[Array, list[Array]]:
        together = [(own, *others) for own, others in zip(vectors, rest, strict=True)]
        energies = site_energies_of_groups(potential, params, together)
        return sum(each.sum() for each in energies), energies

    if not derivatives:
        return Sites(tuple(total(vectors)[1]), ())
    (_, energies), gradients = jax.value_and_grad(total, has_aux=True)(vectors)
    return Sites(tuple(energies), gradients)


def _is_small(batch: Batch) -> bool:
    """Whether the batch is one block in each of its groups."""
    return all(len(group.counts) == 1 for group in batch.groups)


def predict_from_sites(sites: Sites, batch: Batch) -> Prediction:
    """Energies, forces and virials: linear in the sites."""
    frames = batch.atoms.shape[0]
    energies = jnp.concatenate([energy.reshape(-1) for energy in sites.energies])
    by_frame = jax.ops.segment_sum(energies, batch.frame, frames)
    if not batch.derivatives:
        forces, virials = jnp.zeros_like(batch.forces), jnp.zeros_like(batch.stress)
        return Prediction(by_frame, forces, virials, energies)
    own = jnp.concatenate([grad.sum(axis=2).reshape(-1, 3) for grad in sites.gradients])
    forces = own
    for group, grad in zip(batch.groups, sites.gradients, strict=True):
        forces = forces.at[group.neighbours.reshape(-1)].add(-grad.reshape(-1, 3))
    virials = jnp.concatenate(
        [
            jnp.einsum("brka,brkc->brac", group.vectors, grad).reshape(-1, 3, 3)
            for group, grad in zip(batch.groups, sites.gradients, strict=True)
        ]
    )
    virials = jax.ops.segment_sum(virials, batch.frame, frames)
    return Prediction(
        energies=by_frame,
        forces=forces,
        virials=(virials + virials.swapaxes(1, 2)) / 2,
        site_energies=energies,
    )


def predict(potential: LocalPotential, params: Params, batch: Batch) -> Prediction:
    """Energies (without reference energies), forces and virials of a batch."""
    weights = prepared(potential, params)
    return predict_from_sites(evaluate_sites(potential, weights, batch), batch)


def loss_and_gradient(
    potential: LocalPotential,
    params: Params,
    batch: Batch,
    loss: Callable[[Prediction, Batch], tuple[Float[Array, ""], Any]],
) -> tuple[tuple[Float[Array, ""], Any], Params]:
    """Value, auxiliary output and gradient (with respect to ``params``) of a loss on a batch.

    Args:
        potential: the potential; its own weights are not used.
        params: weights.
        batch: frames with labels.
        loss: from predictions to (value, auxiliary output).
    """
    if _is_small(batch):

        def whole(params: Params) -> tuple[Float[Array, ""], Any]:
            return loss(predict(potential, params, batch), batch)

        return jax.value_and_grad(whole, has_aux=True)(params)

    weights, pull_weights = jax.vjp(lambda params: prepared(potential, params), params)
    sites = evaluate_sites(potential, weights, batch)
    value, pull_back, aux = jax.vjp(
        lambda sites: loss(predict_from_sites(sites, batch), batch), sites, has_aux=True
    )
    (cotangents,) = pull_back(jnp.ones_like(value))

    def block(gradient: Params, inputs: tuple[Any, ...]) -> tuple[Params, None]:
        vectors, energy_cotangent, direction, *rest = inputs
        _, centre, _ = rest

        def projected(weights: Params) -> Array:
            if direction is None:
                energies = potential.site_energies(weights, vectors, *rest)
                return jnp.vdot(energy_cotangent, energies)
            energies, derivatives = jax.jvp(
                lambda vectors: potential.site_energies(weights, vectors, *rest),
                (vectors,),
                (direction,),
            )
            return jnp.vdot(energy_cotangent, energies) + derivatives.sum()

        def added(gradient: Params) -> Params:
            return jax.tree.map(jnp.add, gradient, jax.grad(projected)(weights))

        return jax.lax.cond(_holds_atoms(centre), added, lambda same: same, gradient), None

    gradient = jax.tree.map(jnp.zeros_like, weights)
    directions = cotangents.gradients or (None,) * len(batch.groups)
    for group, energies, gradients, rest in zip(
        batch.groups, cotangents.energies, directions, _slots(batch), strict=True
    ):
        gradient, _ = jax.lax.scan(block, gradient, (group.vectors, energies, gradients, *rest))
    return (value, aux), pull_weights(gradient)[0]


def _slots(
    batch: Batch,
) -> list[
    tuple[
        Bool[Array, "blocks rows width"],
        Int[Array, "blocks rows"],
        Int[Array, "blocks rows width"],
    ]
]:
    """Mask, centre species and neighbour species of every group."""
    slots, start = [], 0
    for group in batch.groups:
        blocks, rows, width = group.neighbours.shape
        stop = start + blocks * rows
        centre = batch.species[start:stop].reshape(blocks, rows)
        neighbour = jnp.maximum(batch.species[group.neighbours], 0)
        slots.append((_mask(group, width), centre, neighbour))
        start = stop
    return slots


def _holds_atoms(centre: Int[Array, " rows"]) -> Bool[Array, ""]:
    """Whether a block is worth evaluating: a small frame in a large layout leaves many empty."""
    return (centre >= 0).any()


def _mask(group: RowGroup, width: int) -> Bool[Array, "blocks rows width"]:
    return jnp.arange(width) < group.counts[..., None]
