"""Model files: nothing is lost, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from safetensors.numpy import load_file, save_file

import allegro_jax
from allegro_jax import model_file
from allegro_jax.config import AllegroConfig
from allegro_jax.model_file import Model
from allegro_jax.potential import AllegroPotential
from md import LennardJones
from md.committee import Committee

STORED = Path(__file__).parent / "model-version-1.safetensors"
METADATA = {
    "training": {"data": ["a.xyz"], "epochs": 3, "forces_rmse": 0.1 + 0.2},
    "shortest_distances": {"H-H": 0.7, "H-O": 0.9},
    "ranges": {"energy_per_atom": [-5.5, -5.25]},
}


@pytest.fixture
def saved(tmp_path, tiny_model) -> Path:
    return model_file.save(
        tmp_path / "model.safetensors", dataclasses.replace(tiny_model, metadata=METADATA)
    )


def assert_same_bits(first, second) -> None:
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_reloads_bit_identical(saved, tiny_model):
    model = allegro_jax.load(saved)
    assert model.config == tiny_model.config  # floats included
    assert_same_bits(model.potential.params, tiny_model.potential.params)
    assert {key: model.metadata[key] for key in METADATA} == METADATA
    assert model.shortest_distances == {("H", "H"): 0.7, ("H", "O"): 0.9}
    assert model.metadata["units"] == {
        "energy": "eV",
        "length": "Å",
        "forces": "eV/Å",
        "stress": "eV/Å³",
    }
    assert {"allegro-jax", "jax", "jaxlib", "e3nn-jax"} <= set(model.metadata["versions"])


def test_reloaded_model_predicts_the_same_bits(saved, tiny_model, water):
    reloaded, original = allegro_jax.load(saved)(water), tiny_model(water)
    assert reloaded["energy"] == original["energy"]
    np.testing.assert_array_equal(reloaded["forces"], original["forces"])


@pytest.mark.parametrize(
    "fields",
    [
        {"architecture": "original", "num_layers": 1},
        {"radial_basis": "spline", "path_channel_coupling": False, "num_layers": 3},
        {"bessel_trainable": True, "scales_trainable": True, "shifts_trainable": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_every_kind_of_model_reloads_in_float64(tmp_path, random_params, fields):
    small = {"l_max": 1, "num_scalar_features": 4, "num_tensor_features": 2}
    config = AllegroConfig.from_dict({"species": ["C", "H"], "cutoff": 4.0, **small, **fields})
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, random_params(config, np.float64))
        path = model_file.save(tmp_path / "m.safetensors", Model(AllegroPotential(params, config)))
        model = model_file.load(path)
        assert model.config == config
        assert_same_bits(model.potential.params, params)


def test_file_holds_no_more_than_tensors_and_json(saved):
    assert all(value.dtype == np.float32 for value in load_file(saved).values())
    length = int.from_bytes(saved.read_bytes()[:8], "little")
    header = json.loads(saved.read_bytes()[8 : 8 + length])["__metadata__"]
    assert header["format_version"] == "1"
    assert json.loads(header["model"])["config"]["species"] == ["H", "O"]


def test_saving_replaces_whole_files_only(saved, tiny_model, monkeypatch):
    before = saved.read_bytes()

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model_file.save(saved, tiny_model)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_saving_refuses_what_it_could_not_read_back(tmp_path, tiny_model):
    for value in (float("nan"), object()):
        model = dataclasses.replace(tiny_model, metadata={"training": value})
        with pytest.raises(ValueError, match="metadata are not JSON data"):
            model_file.save(tmp_path / "model.safetensors", model)
    with pytest.raises(FileNotFoundError, match=r"folder .* does not exist"):
        model_file.save(tmp_path / "absent" / "model.safetensors", tiny_model)
    assert not list(tmp_path.iterdir())


def test_what_is_no_network_is_not_saved(tmp_path):
    path = tmp_path / "model.safetensors"
    argon = LennardJones.create(["Ar"], [[0.0104]], [[3.4]], 5.0)
    with pytest.raises(TypeError, match="not a LennardJones; save the network"):
        model_file.save(path, model_file.Model(Committee.create(argon, argon)))
    assert not path.exists()


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model file"):
        model_file.load(tmp_path / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no such model file"):
        model_file.load(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 100, -100, -1])
def test_truncated_file(saved, length):
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"model\.safetensors: .*truncated"):
        model_file.load(saved)


@pytest.mark.parametrize("place", [3, 200, 600, -1, -2000])
def test_damaged_file(saved, place):
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: .*(damaged|unreadable|later)"):
        model_file.load(saved)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 a zip", b"\x80\x04 a pickle", b"# a text file\n" * 100]
)
def test_file_of_another_kind(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a readable model file"):
        model_file.load(path)


def test_safetensors_of_another_program(tmp_path):
    path = tmp_path / "other.safetensors"
    for header in (None, {"format": "pt"}):
        save_file({"weight": np.zeros(3)}, path, header)
        with pytest.raises(ValueError, match="not an allegro-jax model"):
            model_file.load(path)


def test_later_format(saved, monkeypatch):
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 0)
    with pytest.raises(ValueError, match=r"format 1 by a later allegro-jax.*Upgrade"):
        model_file.load(saved)


def test_weights_of_another_configuration(tmp_path, tiny_model):
    other = dataclasses.replace(tiny_model.config, num_scalar_features=10)
    path = model_file.save(
        tmp_path / "m.safetensors", Model(AllegroPotential(tiny_model.potential.params, other))
    )
    with pytest.raises(ValueError, match="do not belong to the configuration: 'basis_linear'"):
        model_file.load(path)


def test_stored_version_1_file_still_loads():
    model = model_file.load(STORED)
    assert model.config.species == ("H", "O")
    assert model.config.species_shifts == (-13.587222780835477, -2041.8396277138045)
    assert model.metadata["training"] == {"data": ["stored"], "epochs": 1}
    expected = json.loads(STORED.with_suffix(".json").read_text())
    atoms = Atoms(expected["symbols"], expected["positions"])
    result = model(atoms)
    assert result["energy"] == pytest.approx(expected["energy"], abs=1e-5)
    np.testing.assert_allclose(result["forces"], expected["forces"], atol=1e-5)


def test_table_of_shortest_distances(tiny_model):
    model = dataclasses.replace(tiny_model, metadata={"shortest_distances": {"O-H": 0.9}})
    np.testing.assert_array_equal(model.shortest_distance_table(), [[0, 0.9], [0.9, 0]])
