"""Loading: from files or from the cache, with the same result; what makes it read anew."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write

from allegro_jax.data import loading
from allegro_jax.data.checksum import checksum
from allegro_jax.data.config import DataConfig
from allegro_jax.data.dataset import ELEMENTS
from allegro_jax.data.store import Recipe
from allegro_jax.settings import ConfigError
from tests.allegro_jax.data.test_dataset import assert_same

RECIPE = Recipe(ELEMENTS, 3.0)


def labelled(atoms: Atoms, number: int) -> Atoms:
    atoms.rattle(0.05, seed=number)
    atoms.info["energy"] = -float(number)
    return atoms


@pytest.fixture
def config(tmp_path):
    frames = [labelled(molecule(name), n) for n, name in enumerate(["H2O", "CH4", "CH3OH"] * 3)]
    broken = frames[4].copy()
    broken.info["energy"] = np.nan
    write(tmp_path / "train.xyz", [*frames[:6], broken, frames[0]], format="extxyz")
    write(tmp_path / "valid.xyz", frames[6:], format="extxyz")
    return DataConfig(
        train=(tmp_path / "train.xyz",), valid=(tmp_path / "valid.xyz",), on_error="skip"
    )


def load(config, recipe=RECIPE):
    paths = [*config.train, *loading.validation_files(config)]
    return loading.load(config, recipe, {str(path): checksum(path) for path in paths})


def test_memory_and_cache_agree(config, tmp_path, monkeypatch):
    memory = load(config)
    assert (len(memory.train), len(memory.valid), memory.message) == (7, 3, "")
    assert [problem.frame for problem in memory.skipped] == [6]
    assert len(memory.suspicions) == 1  # the copy of the first frame

    cached = dataclasses.replace(config, cache=tmp_path / "cache")
    assert "kept in" in load(cached).message
    # from now on, no frame is read
    monkeypatch.setattr(loading, "read_in_order", None)
    again = load(cached)
    assert "read from" in again.message
    assert_same(again.train.copy(), memory.train.copy())
    assert_same(again.valid.copy(), memory.valid.copy())
    assert (again.skipped, again.suspicions) == (memory.skipped, memory.suspicions)
    # under another name it is the same data
    moved = config.train[0].rename(tmp_path / "moved.xyz")
    moved = load(dataclasses.replace(cached, train=(moved,)))
    assert moved.train.frame(0).where.endswith("moved.xyz, frame 0")
    assert moved.skipped[0].source.endswith("moved.xyz")


def test_changes_are_noticed(config, tmp_path):
    config = dataclasses.replace(config, cache=tmp_path / "cache")

    def number():
        return len(list(config.cache.iterdir()))

    load(config)
    load(config)
    assert number() == 1
    load(config, Recipe(ELEMENTS, 2.5))
    assert number() == 2
    load(dataclasses.replace(config, energy_unit="kcal/mol"))
    assert number() == 3
    load(dataclasses.replace(config, train=config.valid, valid=config.train))
    assert number() == 4
    path = config.train[0]
    path.write_text(path.read_text().replace("-1.0", "-1.5"))
    assert load(config).train.energies[1] == -1.5
    assert number() == 5


def test_where_things_are_kept(config, tmp_path, monkeypatch):
    monkeypatch.setenv("ALLEGRO_JAX_CACHE", str(tmp_path / "user"))
    kept = tmp_path / "user" / "neighbourhoods"
    load(config)
    assert not kept.exists()  # too small
    load(dataclasses.replace(config, cache=True))
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(loading, "SMALL_BYTES", 1)
    assert "read from" in load(config).message
    assert load(dataclasses.replace(config, cache=False)).message == ""
    monkeypatch.setenv("ALLEGRO_JAX_CACHE", "")
    assert load(config).message == ""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"data\.cache: .*file: cannot be written .*; name"):
        load(dataclasses.replace(config, cache=tmp_path / "file"))
