"""Reading the reference's weights, and converting its checkpoints and packages."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, covalent_radii
from ase.stress import voigt_6_to_full_3x3_stress
from jax.tree_util import keystr, tree_leaves_with_path

from allegro_jax import AllegroConfig, SinglePoint, convert, load, nequip_model
from allegro_jax.convert import params_from_state_dict, random_structures

REFERENCE = Path(__file__).parents[1] / "reference"
STORED = np.load(REFERENCE / "modern.npz", allow_pickle=False)
CASES = sorted({name.split("/")[0] for name in STORED.files})

needs_nequip = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "nequip", "allegro")),
    reason='needs torch, nequip and nequip-allegro: pip install "allegro-jax[nequip]"',
)


def stored(case: str) -> tuple[dict[str, np.ndarray], AllegroConfig]:
    """The state_dict and the configuration of a stored model."""
    prefix = f"{case}/weights/"
    weights = {
        name.removeprefix(prefix): STORED[name] for name in STORED.files if name.startswith(prefix)
    }
    return weights, AllegroConfig.from_dict(json.loads(str(STORED[f"{case}/config"])))


def named(params) -> dict[str, np.ndarray]:
    return {
        keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in tree_leaves_with_path(params)
    }


# -- weights --------------------------------------------------------------------------------------


def test_prefixes_of_a_checkpoint_make_no_difference():
    weights, config = stored("l2_two_layers")
    wrapped = {f"model.sole_model.{key}": value for key, value in weights.items()}
    plain, other = (named(params_from_state_dict(w, config)) for w in (weights, wrapped))
    assert plain.keys() == other.keys()
    assert all((plain[name] == other[name]).all() for name in plain)


def test_trained_shifts_become_offsets_from_the_reference_energies():
    weights, config = stored("trainable_scales_and_shifts")
    with jax.enable_x64(True):
        params = params_from_state_dict(weights, config, jnp.float64)
    shifts = weights["model.func.per_type_energy_scale_shift.shifts"][:, 0]
    np.testing.assert_allclose(np.add(config.species_shifts, params["shifts"]), shifts, rtol=1e-15)
    assert 0 < np.abs(params["shifts"]).max() < 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model.func.allegro.tps.1.weights": None}, "'allegro.tps.1.weights' is missing"),
        ({"model.func.edge_norm._rmax_recip": None}, "one nequip-allegro model"),
        ({"model.func.allegro.tps.1.weights": np.zeros((4, 4))}, "asks for (4, 3)"),
        ({"model.func.allegro.latents.2.mlp.0.weight": np.zeros((4, 4))}, "latents.2.mlp.0"),
        ({"model.func.edge_norm._rmax_recip": np.array(1 / 5)}, "cutoff"),
        (
            {"model.func.allegro.latents.0.mlp.0.parametrizations.weight.original0": np.zeros(3)},
            "parametrised",
        ),
    ],
)
def test_a_state_dict_that_does_not_fit_is_an_error_that_names_the_entry(change, message):
    weights, config = stored("l2_two_layers")
    weights = {key: value for key, value in (weights | change).items() if value is not None}
    with pytest.raises(ValueError) as error:
        params_from_state_dict(weights, config)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "case, fields, message",
    [
        ("zbl", {"zbl": False}, "pair_potential"),
        ("zbl", {"species": ("H", "C", "N")}, "atomic_numbers"),
        ("pair_cutoffs", {"pair_cutoffs": None}, "_rmax_recip"),
        ("per_species_numbers", {"species_shifts": 0.0}, "species_shifts"),
        ("one_scale_and_shift", {"species_scales": 2.0}, "species_scales"),
        ("l2_two_layers", {"species_scales": 2.0}, "species_scales"),
        ("l1_three_layers_parity", {"num_layers": 2}, r"tps\.0\.weights"),
        ("l2_two_layers", {"architecture": "original", "embedding_dim": None}, "modern"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error(case, fields, message):
    weights, config = stored(case)
    with pytest.raises(ValueError, match=message):
        params_from_state_dict(weights, dataclasses.replace(config, **fields))


def test_energies_in_other_units_are_refused():
    weights, config = stored("zbl")
    weights["model.func.pair_potential._qqr2exesquare"] = np.array(332.06371 / 2)
    with pytest.raises(ValueError, match="eV and Å"):
        params_from_state_dict(weights, config)


# -- what a conversion is checked with ------------------------------------------------------------


@pytest.mark.parametrize("species", [("H",), ("H", "C", "O"), tuple(atomic_numbers)[1:31]])
def test_random_structures_hold_every_species_at_sensible_distances(species):
    config = AllegroConfig(species=species, cutoff=5.0)
    structures = random_structures(config, np.random.default_rng(0))
    assert set().union(*(atoms.symbols for atoms in structures)) == set(species)
    assert {len(atoms) for atoms in structures} == {8}
    assert {bool(atoms.pbc.all()) for atoms in structures} == {True, False}
    for atoms in structures:
        radii = covalent_radii[atoms.numbers]
        ratios = atoms.get_all_distances(mic=True) / (radii[:, None] + radii)
        assert 0.79 < ratios[~np.eye(8, dtype=bool)].min() < 2
        assert atoms.get_all_distances(mic=True)[0].max() < 20


class Echo(nequip_model.NequipModel):
    """A reference that says what our own model (``module``) says, but for a change."""

    def evaluate(self, atoms):
        out = self.module(atoms)
        results = {"energy": out["energy"], "forces": out["forces"]}
        if "stress" in out:
            results["stress"] = voigt_6_to_full_3x3_stress(out["stress"])
        return self.settings["change"](results)


def test_every_kind_of_difference_is_found(tiny_model, monkeypatch):
    few = random_structures(tiny_model.config, np.random.default_rng(0))[:2]
    monkeypatch.setattr(convert, "random_structures", lambda *_: few)
    single_point = SinglePoint(tiny_model.potential)

    def compared(change):
        settings = {"change": change}
        echo = Echo(single_point, tiny_model.species, settings)
        return convert.compare(echo, tiny_model.potential)

    def shifted(results):
        amounts = {"energy": 8 * 0.01, "forces": 0.02, "stress": 0.03}
        return {name: value + amounts[name] for name, value in results.items()}

    assert compared(lambda results: results).relative < 1e-4
    found = compared(shifted)
    assert (found.energy, found.forces, found.stress) == pytest.approx((0.01, 0.02, 0.03), rel=0.01)
    assert found.relative > 1e-3
    broken = compared(lambda results: results | {"forces": results["forces"] * np.nan})
    assert np.isnan(broken.forces) and np.isnan(broken.relative)


def test_without_torch_the_message_says_what_to_install(tmp_path, monkeypatch):
    source = tmp_path / "model.ckpt"
    source.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "allegro", None)
    with pytest.raises(ValueError, match=r'pip install "allegro-jax\[nequip\]"'):
        convert.convert(source, tmp_path / "model.safetensors")


def test_the_source_must_be_a_checkpoint_or_a_package(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.ckpt"):
        nequip_model.load(tmp_path / "absent.ckpt")
    other = tmp_path / "model.pth"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.nequip\.zip"):
        nequip_model.load(other)


# -- with the reference ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference_scripts():
    """The module that builds reference models from our configurations."""
    sys.path.insert(0, str(REFERENCE))
    try:
        import make_reference
        from nequip.utils.global_state import set_global_state
    finally:
        sys.path.remove(str(REFERENCE))
    set_global_state()
    return make_reference


def built(scripts, case: str, **fields) -> nequip_model.NequipModel:
    config = scripts.BASE | scripts.CASES[case][0] | fields
    module = scripts.reference_model(config, seed=1)
    return nequip_model.NequipModel(module, tuple(config["species"]), {})


@needs_nequip
@pytest.mark.parametrize("case", CASES)
def test_settings_are_found_in_the_built_model(case, reference_scripts):
    _, config = stored(case)
    model = built(reference_scripts, case)
    found = nequip_model.config_of(model)
    # a single layer has no nonlinearity to find, and one or two layers no parity
    for name in ("two_body", "latent", "readout"):
        if not getattr(config, f"{name}_hidden"):
            config = dataclasses.replace(config, **{f"{name}_nonlinearity": "silu"})
    rounded = np.asarray(found.per_species("average_neighbours"))
    np.testing.assert_allclose(rounded, config.per_species("average_neighbours"), rtol=1e-6)
    found = dataclasses.replace(found, average_neighbours=config.average_neighbours)
    if config.scales_trainable:  # one number becomes one per species
        found = dataclasses.replace(found, species_scales=config.species_scales)
    assert found == config
    params_from_state_dict(model.state_dict, found)


@needs_nequip
@pytest.mark.parametrize(
    "fields, message",
    [
        ({"two_body_nonlinearity": "sigmoid"}, "Sigmoid"),
        ({"latent_nonlinearity": "softplus"}, "Softplus"),
        ({"cutoff_power": 5.5}, "polynomial_cutoff_p"),
    ],
)
def test_settings_that_are_not_known_here_are_refused(fields, message, reference_scripts):
    with pytest.raises(ValueError, match=message):
        nequip_model.config_of(built(reference_scripts, "l1_one_layer", **fields))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with ``best.ckpt`` and ``tiny.nequip.zip`` of a model that nequip trained."""
    folder = tmp_path_factory.mktemp("nequip")
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(6):
        atoms = molecule("CH3CH2OH")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(folder / "data.xyz", frames)
    (folder / "train.yaml").write_text(TRAINING)
    script = [sys.executable, "-m", "nequip.scripts.train", "-cp", str(folder), "-cn", "train.yaml"]
    run([*script, f"hydra.run.dir={folder}"], folder)
    package = [sys.executable, "-m", "nequip.scripts.package", "build"]
    run([*package, "best.ckpt", "tiny.nequip.zip"], folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


TRAINING = """
run: [train]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {file_path: data.xyz, train: 4, val: 2}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: [light, C, oxygen]
      chemical_species_to_atom_type_map: {H: light, C: C, O: oxygen}
    - {_target_: nequip.data.transforms.NeighborListTransform, r_max: 4.0}
  train_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  val_dataloader: {_target_: torch.utils.data.DataLoader, batch_size: 2}
  stats_manager:
    _target_: nequip.data.CommonDataStatisticsManager
    type_names: [light, C, oxygen]
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 2
  enable_progress_bar: false
  logger: false
  callbacks:
    - _target_: lightning.pytorch.callbacks.ModelCheckpoint
      dirpath: ${hydra:runtime.output_dir}
      filename: best
      monitor: val0_epoch/weighted_sum
training_module:
  _target_: nequip.train.EMALightningModule
  ema_decay: 0.9
  loss:
    _target_: nequip.train.EnergyForceLoss
    coeffs: {total_energy: 1.0, forces: 1.0}
  val_metrics:
    _target_: nequip.train.EnergyForceMetrics
    coeffs: {total_energy_mae: 1.0, forces_mae: 1.0}
  optimizer: {_target_: torch.optim.Adam, lr: 0.05}
  model:
    _target_: allegro.model.AllegroModel
    seed: 3
    model_dtype: float32
    type_names: [light, C, oxygen]
    r_max: 4.0
    per_edge_type_cutoff: {light: 3.0, C: {light: 3.5, oxygen: 3.7}}
    radial_chemical_embed: {_target_: allegro.nn.TwoBodyBesselScalarEmbed}
    radial_chemical_embed_dim: 6
    scalar_embed_mlp_hidden_layers_width: 8
    l_max: 1
    num_layers: 2
    num_scalar_features: 8
    num_tensor_features: 4
    allegro_mlp_hidden_layers_width: 8
    readout_mlp_hidden_layers_width: 4
    avg_num_neighbors: ${training_data_stats:num_neighbors_mean}
    per_type_energy_shifts: ${training_data_stats:per_atom_energy_mean}
    per_type_energy_scales: ${training_data_stats:forces_rms}
global_options: {allow_tf32: false}
"""


@needs_nequip
@pytest.mark.slow
def test_checkpoints_and_packages_become_model_files(trained, tmp_path):
    lines: list[str] = []
    files = {}
    for source in ("best.ckpt", "tiny.nequip.zip"):
        files[source] = tmp_path / f"{source}.safetensors"
        convert.convert(trained / source, files[source], report=lines.append)
    assert any("only convert files you trust" in line for line in lines)
    assert any("largest differences" in line for line in lines)
    models = {source: load(path) for source, path in files.items()}
    for model in models.values():
        config = model.potential.config
        assert config.species == ("H", "C", "O")
        assert config.pair_cutoffs == ((3.0, 3.0, 3.0), (3.5, 4.0, 3.7), (4.0, 4.0, 4.0))
        # as computed from the data, not as rounded in the model
        assert config.average_neighbours == pytest.approx(
            models["best.ckpt"].potential.config.average_neighbours, rel=1e-15
        )
    first, second = (named(model.potential.params) for model in models.values())
    assert all((first[name] == second[name]).all() for name in first)

    reference = nequip_model.load(trained / "best.ckpt")
    atoms = ase.io.read(trained / "data.xyz")
    theirs, ours = reference.evaluate(atoms), models["best.ckpt"](atoms)
    scale = np.sqrt(np.mean(theirs["forces"] ** 2))
    np.testing.assert_allclose(ours["forces"], theirs["forces"], rtol=0, atol=1e-5 * scale)
    assert ours["energy"] == pytest.approx(float(theirs["energy"]), abs=1e-5 * scale * len(atoms))


@needs_nequip
@pytest.mark.slow
def test_the_averaged_weights_of_a_checkpoint_are_taken(trained):
    import torch

    entries = torch.load(trained / "best.ckpt", weights_only=False)["state_dict"]
    key = "func.edge_readout.mlp_module.mlp.0.weight"
    raw = entries[f"model.sole_model.model.{key}"].numpy()
    averaged = {k: v for k, v in entries.items() if k.startswith("ema.ema_weight_")}
    taken = nequip_model.load(trained / "best.ckpt").state_dict[f"model.{key}"]
    assert not np.array_equal(taken, raw)
    assert any(value.shape == taken.shape and (value.numpy() == taken).all()
               for value in averaged.values())  # fmt: skip


@needs_nequip
@pytest.mark.slow
def test_a_conversion_that_disagrees_writes_nothing(trained, tmp_path, monkeypatch):
    config_of = nequip_model.config_of
    monkeypatch.setattr(
        nequip_model,
        "config_of",
        lambda model: dataclasses.replace(config_of(model), cutoff_power=7),
    )
    destination = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match="disagrees"):
        convert.convert(trained / "best.ckpt", destination, report=lambda line: None)
    assert not destination.exists()


@needs_nequip
@pytest.mark.slow
def test_types_need_an_element_each(trained, tmp_path):
    with pytest.raises(ValueError, match="no type 'hydrogen'"):
        nequip_model.load(trained / "best.ckpt", {"hydrogen": "H"})
    with pytest.raises(ValueError, match="several types are one element"):
        nequip_model.load(trained / "best.ckpt", {"light": "O"})
    assert nequip_model.load(trained / "best.ckpt", {"oxygen": "S"}).species == ("H", "C", "S")
    # without the training's transforms, nothing tells what "light" is
    import torch

    checkpoint = torch.load(trained / "best.ckpt", weights_only=False)
    checkpoint["hyper_parameters"]["info_dict"]["data"]["transforms"] = []
    torch.save(checkpoint, tmp_path / "silent.ckpt")
    with pytest.raises(ValueError, match="--species light=H"):
        nequip_model.load(tmp_path / "silent.ckpt")


@needs_nequip
def test_a_file_that_nequip_cannot_load_is_one_readable_line(tmp_path):
    source = tmp_path / "broken.ckpt"
    source.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.ckpt: nequip cannot load it") as error:
        nequip_model.load(source)
    assert "\n" not in str(error.value)
