"""Stores: the same arrays as in memory, whoever builds them; damage is noticed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from allegro_jax.data import store
from allegro_jax.data.dataset import DataSet, build_dataset, join
from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.store import Recipe, open_store
from tests.allegro_jax.data.test_dataset import assert_same, structures

RECIPE = Recipe(("H", "C", "O", "Cu"), 3.0)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return structures(40)


@pytest.fixture(scope="module")
def expected(frames) -> DataSet:
    return build_dataset(frames, RECIPE.species, RECIPE.cutoff)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK_FRAMES", 3)


def test_a_store_holds_the_arrays(frames, expected, tmp_path, small_chunks):
    folder = tmp_path / "deep" / "store"
    assert open_store(folder) is None
    built = store.build(folder, store.parts(frames, RECIPE), lambda: {"skipped": 2})
    assert_same(built, expected)
    again = open_store(folder)
    assert_same(again, expected)
    assert not again.vectors.flags.writeable
    assert store.read_notes(folder) == {"skipped": 2}
    assert [path.name for path in folder.parent.iterdir()] == ["store"]


def test_processes_change_nothing(frames, expected, small_chunks):
    pieces = list(store.parts(iter(frames), RECIPE, processes=2))
    assert len(pieces) == 14 > store.SERIAL_CHUNKS
    assert_same(join(pieces), expected)


def test_errors_of_processes_arrive(frames, small_chunks):
    frame = frames[30]
    wrong = dataclasses.replace(frame, positions=np.zeros_like(frame.positions))
    with pytest.raises(DataError, match=r"two\.xyz, frame 30: positions: atoms .* Å apart"):
        list(store.parts([*frames[:30], wrong], RECIPE, processes=2))


def test_processes_do_not_import_jax():
    code = "import sys, allegro_jax.data.store; assert 'jax' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_empty_stores(tmp_path):
    assert_same(store.build(tmp_path / "none", store.parts([], RECIPE)), RECIPE.build([]))


def truncate(folder):
    path = folder / "vectors"
    path.write_bytes(path.read_bytes()[:-4])


def corrupt(folder):
    path = folder / "forces"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_a_file(folder):
    (folder / "positions").unlink()


def lose_the_manifest(folder):
    (folder / store.MANIFEST).unlink()


def cut_the_manifest(folder):
    path = folder / store.MANIFEST
    path.write_text(path.read_text()[:-10])


def age(folder):
    path = folder / store.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 0}))


@pytest.mark.parametrize(
    "damage", [truncate, corrupt, lose_a_file, lose_the_manifest, cut_the_manifest, age]
)
def test_damage_is_noticed_and_mended(frames, expected, tmp_path, damage):
    folder = tmp_path / "store"
    store.build(folder, [expected])
    damage(folder)
    assert open_store(folder) is None
    assert_same(store.build(folder, [expected]), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_builders_at_the_same_time(frames, expected, tmp_path):
    """Another builder finishes while this one works: its store stays, and nothing is left over."""
    folder = tmp_path / "store"

    def slowly():
        yield expected
        store.build(folder, [expected], lambda: "the other's")

    assert_same(store.build(folder, slowly(), lambda: "mine"), expected)
    assert store.read_notes(folder) == "the other's"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_interrupted_builder_leaves_nothing(expected, tmp_path):
    def interrupted():
        yield expected
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build(tmp_path / "store", interrupted())
    assert not list(tmp_path.iterdir())
    # one that was killed could not tidy up
    left = tmp_path / ".building-x"
    left.mkdir()
    store.build(tmp_path / "store", [expected])
    assert left.exists()
    os.utime(left, (0, 0))
    store.build(tmp_path / "other", [expected])
    assert not left.exists()


def test_keys():
    def name(checksums=("a", "b"), reading=None, **changes):
        recipe = dataclasses.replace(RECIPE, **changes)
        return store.key(checksums, recipe, reading or {"energy_key": "energy"})

    keys = [
        name(),
        name(checksums=("a", "c")),
        name(checksums=("b", "a")),
        name(cutoff=3.1),
        name(species=("H", "C", "O")),
        name(pair_cutoffs=((3.0,) * 4,) * 4),
        name(dtype="float64"),
        name(reading={"energy_key": "REF_energy"}),
    ]
    assert len(set(keys)) == len(keys)
    assert name() == name() and len(name()) == 64


def test_the_longest_unused_go_first(expected, tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for time, folder in enumerate(folders):
        store.build(folder, [expected])
        os.utime(folder / store.MANIFEST, (time, time))
    open_store(folders[0])  # used again
    store.trim(tmp_path, 2 * store.size(folders[0]), folders[2])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    store.trim(tmp_path, 0, folders[2])
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
