"""Collapsed models against the networks that they stand for."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from ase import Atoms

from allegro_jax import cli, collapsed, model, model_file
from allegro_jax.collapsed import CollapsedAllegro, NotTabulated, TabulatedAllegro, collapse
from allegro_jax.config import AllegroConfig
from allegro_jax.model_file import Model
from allegro_jax.potential import AllegroPotential, SinglePoint, potential_of
from md.evaluation import pair_gradients
from md.local_potential import LocalPotential

SCALING = Path(__file__).parents[2] / "experiments" / "scaling"
SMALL = {
    "species": ("Li", "O"),
    "cutoff": 4.0,
    "l_max": 1,
    "num_layers": 1,
    "num_scalar_features": 8,
    "num_tensor_features": 1,
    "two_body_hidden": (8,),
    "latent_hidden": (),
    "average_neighbours": (4.0, 7.0),
    "species_scales": (0.5, 2.0),
    "species_shifts": (-3.0, -200.0),
}
CONFIGS = {
    "the paper's": AllegroConfig.original(**SMALL, cutoff_power=48, parity=False),
    "original, all else": AllegroConfig.original(
        **SMALL | {"num_tensor_features": 3, "l_max": 2, "latent_hidden": (5,)},
        latent_nonlinearity="none",
        zbl=True,
    ),
    "modern": AllegroConfig(
        **SMALL | {"num_tensor_features": 3, "l_max": 2, "latent_hidden": (5,)},
        latent_nonlinearity="identity",
        readout_hidden=(4,),
        readout_nonlinearity="none",
        pair_cutoffs={"Li": {"Li": 2.5}},
        scales_trainable=True,
        shifts_trainable=True,
        forward_normalize=False,
        zbl=True,
    ),
    "splines": AllegroConfig(
        **SMALL | {"num_tensor_features": 2, "l_max": 3},
        readout_hidden=(),
        radial_basis="spline",
        weight_individual_irreps=False,
        path_channel_coupling=False,
    ),
    "scalars": AllegroConfig(**SMALL | {"l_max": 0}, readout_hidden=(), bessel_trainable=True),
}
# with everything that a table has: pair cutoffs, ZBL, shifts, three directions and two channels
TABULATED = AllegroConfig(
    **SMALL | {"num_tensor_features": 2},
    readout_hidden=(),
    pair_cutoffs={"Li": {"Li": 3.1}},
    shifts_trainable=True,
    zbl=True,
)


def drawn(config, random_params, dtype=np.float64):
    params = jax.tree.map(jnp.asarray, random_params(config, dtype))
    return AllegroPotential(params, config)


@pytest.fixture(scope="module")
def slots():
    """Seven neighbourhoods, some slots beyond the cutoff, some empty, the last row padded."""
    rng = np.random.default_rng(0)
    vectors = 2 * rng.normal(size=(7, 12, 3))
    mask = rng.random((7, 12)) < 0.8
    vectors[~mask] = 0
    species = np.array([0, 1, 0, 1, 1, 0, -1], np.int32)
    return vectors, mask, species, rng.integers(0, 2, (7, 12)).astype(np.int32)


@pytest.fixture(scope="module")
def potential(random_params):
    with jax.enable_x64(True):
        return drawn(TABULATED, random_params)


@pytest.fixture(scope="module")
def table(potential):
    with jax.enable_x64(True):
        return collapse(potential, force_error=1e-5)


@pytest.fixture(scope="module")
def atoms():
    """A disordered crystal; its cell is smaller than twice the cutoff."""
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*3 * [np.arange(3.0)], indexing="ij"), axis=-1).reshape(-1, 3)
    positions = 2.2 * grid + rng.normal(0, 0.25, grid.shape)
    return Atoms("LiO" * 13 + "O", positions, cell=[6.6, 6.6, 6.6], pbc=True)


@pytest.fixture(scope="module")
def single_points(potential, table):
    """In float64, of the network and of its table."""
    found = []
    for one in (potential, table.potential):
        single = SinglePoint(one)
        single.atoms_capacity, single.slots_capacity = 27, 80
        found.append(single)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_the_collapsed_form_is_the_network(name, slots, random_params):
    config = CONFIGS[name]
    assert collapsed.obstacle(config) is None
    with jax.enable_x64(True):
        potential = drawn(config, random_params)
        exact, found = (
            jax.jit(one.site_energies)(one.params, *map(jnp.asarray, slots))
            for one in (potential, CollapsedAllegro(potential.params, config))
        )
        exact, found = np.asarray(exact), np.asarray(found)
    assert np.abs(exact[:6]).min() > 1e-3
    assert found[6] == 0
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-12 * max(1, np.abs(exact).max()))


def test_tables_are_as_exact_as_they_say(single_points, table, atoms):
    exact, found = (single(atoms) for single in single_points)
    assert isinstance(table.potential, LocalPotential)
    assert table.functions == 10
    assert 1e-9 < table.force_error <= 1e-5
    error = np.abs(found["forces"] - exact["forces"]).max()
    assert 0 < error < table.force_error
    np.testing.assert_allclose(found["energies"], exact["energies"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["stress"], exact["stress"], rtol=0, atol=1e-7)


def test_single_precision_is_that_of_the_network(single_points, potential, table, atoms):
    exact = single_points[0](atoms)["forces"]
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), potential)
    made = collapse(single)
    assert {leaf.dtype for leaf in jax.tree.leaves(made.potential)} == {np.dtype("float32")}
    of_network, of_table = (
        np.abs(SinglePoint(one)(atoms)["forces"] - exact).max() for one in (single, made.potential)
    )
    assert of_table < 2 * of_network + made.force_error


def test_forces_are_the_gradient(single_points, atoms):
    tabulated = single_points[1]
    forces, step = tabulated(atoms)["forces"], 1e-4
    for atom, axis in ((0, 0), (7, 2), (20, 1)):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(tabulated(moved)["energy"])
        numeric = -(energies[0] - energies[1]) / (2 * step)
        assert forces[atom, axis] == pytest.approx(numeric, abs=1e-6)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-10)


def test_rotation(single_points, atoms):
    tabulated = single_points[1]
    turned = atoms.copy()
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]  # maybe a reflection too
    turned.set_cell(atoms.cell.array @ turn)
    turned.set_positions(atoms.positions @ turn)
    before, after = tabulated(atoms), tabulated(turned)
    assert after["energy"] == pytest.approx(before["energy"], abs=1e-9)
    np.testing.assert_allclose(after["forces"], before["forces"] @ turn, atol=1e-9)


def test_gradients_of_higher_degrees(slots, random_params):
    """The closed form against automatic differentiation of the network, l_max 3."""
    with jax.enable_x64(True):
        potential = drawn(CONFIGS["splines"], random_params)
        found = collapse(potential, force_error=1e-5).potential
        arrays = [jnp.asarray(x) for x in slots]
        (_, exact), (_, ours) = (
            jax.jit(lambda one: pair_gradients(one, *arrays))(one) for one in (potential, found)
        )
        scale = max(1.0, float(jnp.abs(exact).max()))
        np.testing.assert_allclose(np.asarray(ours), np.asarray(exact), rtol=0, atol=1e-5 * scale)


def test_padding_and_the_cutoff(table, slots):
    """What lies outside is exactly nothing, and what comes in does so smoothly."""
    vectors, mask, centres, neighbours = slots
    with jax.enable_x64(True):

        @jax.jit
        def evaluate(vectors, mask):
            arguments = map(jnp.asarray, (vectors, mask, centres, neighbours))
            return pair_gradients(table.potential, *arguments)

        energies, gradients = map(np.asarray, evaluate(vectors, mask))
        garbage = np.where(mask[..., None], vectors, 1e3)
        distances = np.linalg.norm(vectors, axis=-1)
        limits = np.asarray(TABULATED.pair_cutoffs)[np.maximum(centres, 0)[:, None], neighbours]
        inside = mask & (distances < limits) & (centres >= 0)[:, None]
        assert (mask & ~inside)[:6].any()
        for other in (evaluate(garbage, mask), evaluate(vectors, inside)):
            np.testing.assert_array_equal(np.asarray(other[0]), energies)
            np.testing.assert_array_equal(np.asarray(other[1]), gradients)
        assert np.isfinite(gradients).all()
        assert energies[6] == 0
        assert (gradients[~inside] == 0).all()
        assert (gradients[inside] != 0).any(axis=-1).all()

        alone = np.zeros_like(mask)
        alone[:6, 0] = True
        near = np.zeros_like(vectors)
        for below in (1e-3, 1e-9):
            near[:, 0, 0] = limits[:, 0] - below
            _, gradients = evaluate(near, alone)
            assert np.abs(gradients).max() < 1e-2 * below**0.5


@pytest.mark.slow
def test_derivatives_of_every_kind(table, slots):
    """Forward mode, second derivatives and those with respect to tables."""
    potential = table.potential
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        vectors, *others = map(jnp.asarray, slots)
        change = jnp.asarray(rng.normal(size=vectors.shape))
        params = jax.tree.map(jnp.asarray, potential.params)

        @jax.jit
        def total(params, vectors):
            return jnp.sum(potential.site_energies(params, vectors, *others))

        gradient = jax.jit(jax.grad(total, argnums=1))
        _, forward = jax.jit(lambda v, dv: jax.jvp(lambda v: total(params, v), (v,), (dv,)))(
            vectors, change
        )
        slope = float(jnp.sum(gradient(params, vectors) * change))
        assert float(forward) == pytest.approx(slope, rel=1e-10)

        product = jax.jit(lambda v, dv: jax.jvp(lambda v: gradient(params, v), (v,), (dv,))[1])
        step = 1e-6
        ends = [gradient(params, vectors + sign * step * change) for sign in (1, -1)]
        numeric = (ends[0] - ends[1]) / (2 * step)
        found = product(vectors, change)
        scale = float(jnp.abs(found).max())
        np.testing.assert_allclose(found, numeric, rtol=0, atol=1e-5 * scale)

        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
        of_params, of_both = jax.jit(jax.grad(total)), jax.jit(jax.grad(total, argnums=(0, 1)))
        ends = [
            total(jax.tree.map(lambda x, dx, s=s: x + s * 1e-6 * dx, params, direction), vectors)
            for s in (1, -1)
        ]
        numeric = float(ends[0] - ends[1]) / 2e-6
        for found in (of_params(params, vectors), of_both(params, vectors)[0]):
            products = jax.tree.map(lambda a, b: float(jnp.sum(a * b)), found, direction)
            assert sum(jax.tree.leaves(products)) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"num_layers": 2}, "num_layers is 2, not 1"),
        ({"latent_hidden": (4,)}, "the latent network has a hidden layer with silu"),
        ({"readout_hidden": (4,)}, "the readout network has a hidden layer with silu"),
    ],
)
def test_what_does_not_collapse_is_left_alone(change, reason, random_params):
    config = AllegroConfig(**SMALL | {"readout_hidden": ()} | change)
    assert collapsed.obstacle(config) == reason
    potential = drawn(config, random_params, np.float32)
    with pytest.raises(ValueError, match=f"does not collapse to radial functions: {reason}"):
        collapse(potential)
    assert Model(potential).collapsed() is None


def test_what_would_not_be_worth_it(random_params):
    many = AllegroConfig(**SMALL | {"num_tensor_features": 8}, readout_hidden=())
    potential = drawn(many, random_params, np.float32)
    with pytest.raises(NotTabulated, match="33 radial functions per pair of species, above 32"):
        collapse(potential)
    assert Model(potential).collapsed() is None
    with pytest.raises(NotTabulated, match=r"tables of 32768 intervals leave an error of forces"):
        collapse(drawn(CONFIGS["scalars"], random_params), force_error=1e-30)


def test_a_committee(random_params, slots):
    config = CONFIGS["the paper's"]
    one = drawn(config, random_params, np.float32)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.7 * leaf]), one.params)
    made = collapse(potential_of(params, config, 2))
    arrays = [jnp.asarray(slots[0], jnp.float32), *map(jnp.asarray, slots[1:])]
    found = jax.jit(made.potential.site_energies)(made.potential.params, *arrays)
    exact = jax.jit(potential_of(params, config, 2).site_energies)(params, *arrays)
    np.testing.assert_allclose(found, exact, atol=2e-5)


@pytest.mark.parametrize(("name", "scalars"), [("silver", 32), ("li3po4", 64)])
def test_sizes_of_the_papers_speed_models(name, scalars):
    config = AllegroConfig.from_dict(yaml.safe_load((SCALING / f"{name}.yaml").read_text()))
    shapes = jax.eval_shape(lambda key: model.init(key, config), jax.random.key(0))
    inputs, hidden = 2 * config.num_species + 8, scalars // 2
    by_hand = inputs * hidden + hidden * scalars  # two-body network
    by_hand += scalars * 4 + 2  # weights of features and environment; mixing of two paths
    by_hand += (scalars + 2) * scalars + scalars * 32 + 32  # latent, edge energy
    assert model.count_parameters(shapes) == by_hand == {"silver": 2946, "li3po4": 9058}[name]
    assert collapsed.obstacle(config) is None
    assert collapsed.num_functions(config) == 5


@pytest.fixture(scope="module")
def model_path(tmp_path_factory, random_params):
    path = tmp_path_factory.mktemp("model") / "paper.safetensors"
    return model_file.save(path, Model(drawn(CONFIGS["the paper's"], random_params, np.float32)))


def test_md_finds_it_and_says_so(model_path, atoms, tmp_path, monkeypatch, capsys):
    atoms.write(tmp_path / "start.extxyz")
    taken = []

    def simulate(potential, *_, **__):
        taken.append(type(potential))
        raise ValueError("not now")

    monkeypatch.setattr("md.run.simulate", simulate)
    words = ["md", str(model_path), str(tmp_path / "start.extxyz"), "--steps", "1"]
    words += ["--output", str(tmp_path / "run")]
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "collapses exactly: 5 radial functions per pair of species, in tables of" in said
    assert cli.main([*words, "--no-collapse"]) == 2
    assert "collapses" not in capsys.readouterr().err
    assert taken == [TabulatedAllegro, AllegroPotential]


def test_no_collapse_is_refused_where_there_is_nothing_to_collapse(tmp_path, capsys):
    words = ["md", str(tmp_path / "argon.yaml"), "x.xyz", "--steps", "1", "--output", "run"]
    assert cli.main([*words, "--no-collapse"]) == 2
    assert "--no-collapse is of model files alone" in capsys.readouterr().err


@pytest.mark.slow
def test_dynamics_conserve_energy(table, atoms):
    import md

    with jax.enable_x64(True):
        run = md.simulate(
            table.potential, atoms, steps=200, timestep_fs=0.25, temperature_K=50, dtype="float64",
            log_every=10, progress=False, skin=0.3,
        )  # fmt: skip
    conserved = np.asarray(run.log["conserved_eV"])
    kinetic = np.asarray(run.log["kinetic_eV"])
    assert np.ptp(kinetic) > 0.05
    assert np.ptp(conserved) < 1e-2 * np.ptp(kinetic)
