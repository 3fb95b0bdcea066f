"""The network's symmetries and limits, in float64, for both architectures."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from allegro_jax.config import AllegroConfig
from allegro_jax.model import site_energies, site_energies_of_groups
from allegro_jax.neighbour_search import dense, neighbour_pairs
from allegro_jax.neighbourhoods import Rows

SPECIES = ("H", "C", "O")
ROWS, SLOTS = 10, 24

SMALL = {
    "species": SPECIES,
    "cutoff": 3.0,
    "num_scalar_features": 8,
    "num_tensor_features": 4,
    "two_body_hidden": (8,),
    "latent_hidden": (8,),
    "readout_hidden": (6,),
    "average_neighbours": 5.0,
}
CONFIGS = {
    "modern": AllegroConfig(
        **SMALL,
        l_max=2,
        num_layers=2,
        pair_cutoffs={"H": {"H": 2.0}},
        species_scales=(0.5, 1.0, 2.0),
        zbl=True,
    ),
    "original": AllegroConfig.original(**SMALL, l_max=1, num_layers=3),
}


@functools.cache
def energies_of(config: AllegroConfig):
    """(params, vectors, mask, species, neighbour species) → (energies, gradients), compiled."""

    def both(params, vectors, mask, centre, neighbour):
        def total(vectors):
            energies = site_energies(params, config, vectors, mask, centre, neighbour)
            return energies.sum(), energies

        (_, energies), gradients = jax.value_and_grad(total, has_aux=True)(vectors)
        return energies, gradients

    return jax.jit(both)


class Case:
    """A model and the structures it is asked about, all padded to the same shapes."""

    def __init__(self, config: AllegroConfig, params) -> None:
        self.config, self.params = config, params

    def __call__(self, positions, species, cell=None, padding=0.0):
        """Site energies and forces."""
        n = len(positions)
        pairs = neighbour_pairs(
            positions, cell, cell is not None, 3.0, species, self.config.pair_cutoffs
        )
        neighbours, vectors, mask = dense(pairs, ROWS, SLOTS)
        vectors = np.where(mask[..., None], vectors, padding)
        centre = np.full(ROWS, -1, np.int32)
        centre[:n] = species
        energies, gradients = energies_of(self.config)(
            self.params, vectors, mask, centre, np.maximum(centre, 0)[neighbours]
        )
        energies, gradients = np.asarray(energies), np.asarray(gradients)
        assert np.isfinite(gradients).all()
        assert (gradients[~mask] == 0).all()
        assert (energies[n:] == 0).all()
        forces = gradients.sum(1)
        np.add.at(forces, neighbours[mask], -gradients[mask])
        return energies[:n], forces[:n]


@pytest.fixture(params=CONFIGS)
def model(request, random_params):
    with jax.enable_x64(True):
        config = CONFIGS[request.param]
        yield Case(config, random_params(config, np.float64))


@pytest.fixture
def cluster():
    rng = np.random.default_rng(1)
    grid = np.array([[x, y, z] for x in (0, 1.5) for y in (0, 1.5) for z in (0, 1.5)])
    positions = grid + rng.normal(0, 0.2, grid.shape)
    return positions, rng.integers(0, 3, len(positions)).astype(np.int32)


def test_rotation_reflection_translation(model, cluster):
    positions, species = cluster
    energies, forces = model(positions, species)
    rng = np.random.default_rng(2)
    for determinant in (1, -1):
        rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        rotation *= determinant * np.sign(np.linalg.det(rotation))
        moved = positions @ rotation.T + rng.normal(size=3)
        moved_energies, moved_forces = model(moved, species)
        np.testing.assert_allclose(moved_energies, energies, atol=1e-11)
        np.testing.assert_allclose(moved_forces, forces @ rotation.T, atol=1e-10)
    assert np.abs(forces).max() > 1e-3  # the comparison is not one of zeros
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-12)


def test_permutation(model, cluster):
    positions, species = cluster
    energies, forces = model(positions, species)
    order = np.random.default_rng(3).permutation(len(positions))
    shuffled_energies, shuffled_forces = model(positions[order], species[order])
    np.testing.assert_allclose(shuffled_energies, energies[order], atol=1e-11)
    np.testing.assert_allclose(shuffled_forces, forces[order], atol=1e-10)


def test_strictly_local(model, cluster):
    """An atom's neighbours matter; atoms beyond the cutoff have exactly no effect."""
    positions, species = cluster
    distances = np.linalg.norm(positions - positions[0], axis=1)
    far = distances > 3.0
    near_moved, far_moved = positions.copy(), positions.copy()
    far_moved[far] += 0.3 * (positions[far] - positions[0]) / distances[far, None]
    near_moved[np.argsort(distances)[1]] += 0.1
    energy = model(positions, species)[0][0]
    assert model(near_moved, species)[0][0] != energy
    if far.any():
        assert model(far_moved, species)[0][0] == energy


def test_extensive(model, cluster):
    positions, species = cluster
    positions, species = positions[:5], species[:5]
    energies, _ = model(positions, species)
    far_away = positions + np.array([50.0, 0, 0])
    both, _ = model(np.concatenate([positions, far_away]), np.concatenate([species, species]))
    np.testing.assert_allclose(both, np.concatenate([energies, energies]), atol=1e-13)


def test_smooth_at_the_cutoff(model):
    """Energy and force go to zero together as a neighbour leaves; nothing jumps."""
    species = np.array([1, 2, 1], np.int32)
    triangle = np.array([[0.0, 0, 0], [1.2, 0, 0], [0, 3.0, 0]])

    def at(distance):
        moved = triangle.copy()
        moved[2, 1] = distance
        return model(moved, species)

    outside = at(3.0 + 1e-9)
    for gap, tolerance in ((1e-2, 1e-3), (1e-4, 1e-7), (1e-6, 1e-11)):
        inside = at(3.0 - gap)
        np.testing.assert_allclose(inside[0], outside[0], atol=tolerance)
        np.testing.assert_allclose(inside[1], outside[1], atol=100 * tolerance)


def test_padding_is_inert(model, cluster):
    """What a masked slot holds changes nothing, and gradients there are zero."""
    positions, species = cluster
    plain = model(positions, species)
    for padding in (1.0, 1e6):
        padded = model(positions, species, padding=padding)
        np.testing.assert_array_equal(padded[0], plain[0])
        np.testing.assert_array_equal(padded[1], plain[1])


def test_groups_at_once(model, cluster):
    """Groups with as many slots as they need: energies and gradients are those of a single one."""
    positions, species = cluster
    pairs = neighbour_pairs(positions, None, False, 3.0, species, model.config.pair_cutoffs)
    neighbours, vectors, mask = dense(pairs, ROWS, SLOTS)
    centre = np.full(ROWS, -1, np.int32)
    centre[: len(species)] = species
    neighbour_species = np.maximum(centre, 0)[neighbours]
    energies, gradients = energies_of(model.config)(
        model.params, vectors, mask, centre, neighbour_species
    )
    parts = [slice(0, 3), slice(3, 4), slice(4, ROWS)]  # the last with rows of padding
    widths = [
        int(mask[part].sum(axis=1).max()) + more
        for part, more in zip(parts, (0, 3, 1), strict=True)
    ]

    params = jax.tree.map(jnp.asarray, model.params)

    def total(vectors):
        groups = [
            Rows(
                own,
                *map(
                    jnp.asarray, (mask[part, :width], centre[part], neighbour_species[part, :width])
                ),
            )
            for own, part, width in zip(vectors, parts, widths, strict=True)
        ]
        found = site_energies_of_groups(params, model.config, groups)
        return sum(each.sum() for each in found), found

    own = [vectors[part, :width] for part, width in zip(parts, widths, strict=True)]
    (_, found), slopes = jax.jit(jax.value_and_grad(total, has_aux=True))(own)
    assert len(set(widths)) > 1
    for part, width, of_group, slope in zip(parts, widths, found, slopes, strict=True):
        np.testing.assert_allclose(of_group, energies[part], rtol=0, atol=1e-12)
        np.testing.assert_allclose(slope, gradients[part, :width], rtol=0, atol=1e-11)


def test_no_neighbours(model):
    energies, forces = model(np.zeros((1, 3)), np.array([1], np.int32))
    np.testing.assert_array_equal(energies, 0)
    np.testing.assert_array_equal(forces, 0)


def test_directed_pair_cutoffs(random_params):
    """A pair beyond its own cutoff is invisible, in that direction only."""
    with jax.enable_x64(True):
        config = dataclasses.replace(
            CONFIGS["modern"], pair_cutoffs={"H": {"C": 1.0}}, zbl=False, l_max=0, num_layers=1
        )
        case = Case(config, random_params(config, np.float64))
        energies, _ = case(np.array([[0.0, 0, 0], [1.5, 0, 0]]), np.array([0, 1], np.int32))
        assert energies[0] == 0
        assert energies[1] != 0


@pytest.mark.slow
def test_vmap_second_derivatives_and_export(random_params, cluster):
    """Composes with jit, vmap, forward and reverse derivatives of second order, and jax.export."""
    with jax.enable_x64(True):
        config = dataclasses.replace(CONFIGS["modern"], l_max=1, zbl=False)
        params = jax.tree.map(jnp.asarray, random_params(config, np.float64))
        positions, species = (array[:3] for array in cluster)
        layout = dense(neighbour_pairs(positions, None, False, 3.0), 3, 2)
        neighbours, vectors, mask, species = map(jnp.asarray, (*layout, species))

        def energy(vectors):
            return site_energies(params, config, vectors, mask, species, species[neighbours]).sum()

        hessian = jax.jit(jax.hessian(energy))(vectors)
        reverse = jax.jit(jax.jacrev(jax.grad(energy)))(vectors)
        np.testing.assert_allclose(hessian, reverse, atol=1e-9)
        step = 1e-5 * np.random.default_rng(0).normal(size=vectors.shape)
        gradient = jax.jit(jax.grad(energy))
        change = (gradient(vectors + step) - gradient(vectors - step)) / 2
        np.testing.assert_allclose(change, np.tensordot(hessian, step, 3), atol=1e-11)

        many = jnp.stack([vectors, 1.01 * vectors])
        batched = jax.jit(jax.vmap(jax.grad(energy)))(many)
        np.testing.assert_allclose(batched[1], gradient(many[1]), atol=1e-12)

        exported = jax.export.export(jax.jit(jax.grad(energy)))(vectors)
        np.testing.assert_allclose(exported.call(vectors), gradient(vectors), atol=1e-12)
