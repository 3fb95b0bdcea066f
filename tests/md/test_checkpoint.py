"""Checkpoints: any pytree comes back as it was, or not at all."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from md import checkpoint, neighbours
from md.bins import Capacities, Reach

REACH = Reach((True, True, False), 3.0, 0.5)
ATOMS = 12
SIZES = Capacities(24, (1, 1, 1), (1, 1, 0), ATOMS)
SPECIES = jnp.zeros(ATOMS, int)


@struct.dataclass
class Search:
    """As an observable may have: sizes, without a list."""

    required: jax.Array
    capacities: Capacities = struct.field(pytree_node=False)


class Carry(NamedTuple):
    key: jax.Array
    numbers: dict[str, jax.Array]
    empty: None
    lists: tuple[neighbours.NeighbourList, ...]
    search: Search


def system(seed: int):
    rng = np.random.default_rng(seed)
    cell = np.diag([6.0, 7.0, 8.0]).astype(np.float32)
    return jnp.asarray(rng.uniform(0, 6, (ATOMS, 3)), jnp.float32), jnp.asarray(cell)


def listed(seed: int) -> neighbours.NeighbourList:
    return neighbours.build(*system(seed), jnp.zeros(ATOMS, int), REACH, SIZES)


@pytest.fixture(scope="module")
def original() -> Carry:
    filled = listed(1)
    unfilled = filled.replace(reference_positions=jnp.full((ATOMS, 3), jnp.nan))
    return Carry(
        key=jax.random.key(1),
        numbers={"step": jnp.int32(7), "pair": jnp.ones((2, 3)), "host": np.asarray(2**40)},
        empty=None,
        lists=(filled, unfilled),
        search=Search(jnp.int32(5), SIZES),
    )


@pytest.fixture(scope="module")
def template(original) -> Carry:
    """Another run at its start: other numbers, other capacities."""
    smaller = Capacities(4, (1, 1, 1), (1, 1, 0), ATOMS)
    return original._replace(
        key=jax.random.key(0),
        numbers=jax.tree.map(lambda x: 0 * x, original.numbers),
        lists=tuple(x.replace(capacities=smaller) for x in original.lists),
        search=Search(jnp.int32(0), smaller),
    )


def same(ours: Carry, theirs: Carry) -> None:
    np.testing.assert_array_equal(*(jax.random.key_data(x.key) for x in (ours, theirs)))
    for a, b in zip(jax.tree.leaves(ours.numbers), jax.tree.leaves(theirs.numbers), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert ours.search.capacities == theirs.search.capacities
    filled, found = ours.lists[0], theirs.lists[0]
    assert filled.capacities == found.capacities and filled.reach == found.reach
    # the very same order: it decides how sums round
    np.testing.assert_array_equal(filled.indices, found.indices)
    np.testing.assert_array_equal(filled.shifts, found.shifts)
    assert int(found.faults) == 0


def test_everything_comes_back(original, template, tmp_path):
    """Sizes are those of the checkpoint, everything else must fit the template."""
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, checkpoint.snapshot(original), {"stage": [1, None, "x"]})
    assert checkpoint.read_facts(path) == {"stage": [1, None, "x"]}
    restored = checkpoint.load(path, template, SPECIES)
    assert jax.tree.structure(restored) == jax.tree.structure(original)
    same(restored, original)
    place = system(1)
    assert bool(neighbours.needs_update(restored.lists[1], *place))
    assert not bool(neighbours.needs_update(restored.lists[0], *place))
    assert not list(tmp_path.glob("*.partial"))


def test_lists_of_replicas(tmp_path):
    path = tmp_path / "checkpoint.npz"
    batch = jax.tree.map(lambda *x: jnp.stack(x), listed(1), listed(2))
    checkpoint.save(path, checkpoint.snapshot(batch), {})
    restored = checkpoint.load(path, jax.tree.map(jnp.zeros_like, batch), SPECIES)
    np.testing.assert_array_equal(restored.indices, batch.indices)
    np.testing.assert_array_equal(restored.shifts, batch.shifts)
    assert restored.faults.shape == batch.faults.shape


def test_a_snapshot_does_not_change_with_its_source(tmp_path):
    values = np.zeros(3)
    taken = checkpoint.snapshot({"x": values})
    values += 1
    assert not taken.arrays["tree['x']"].any()


def test_arrays_that_grow(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, checkpoint.snapshot({"hills": jnp.arange(8.0)}), {})
    template = {"hills": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"\['hills'\] is float32\[8\], not float32\[4\]"):
        checkpoint.load(path, template, ())
    restored = checkpoint.load(path, template, (), resizable=["['hills']"])
    np.testing.assert_array_equal(restored["hills"], np.arange(8.0))


def test_the_old_one_stays_until_the_new_one_is_complete(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.npz"
    checkpoint.save(path, checkpoint.snapshot({"x": jnp.zeros(3)}), {"n": 1})

    def fail(file, **arrays):
        file.write(b"PK half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("numpy.savez", fail)
        with pytest.raises(OSError, match="No space"):
            checkpoint.save(path, checkpoint.snapshot({"x": jnp.ones(3)}), {"n": 2})
    assert checkpoint.read_facts(path) == {"n": 1}
    checkpoint.save(path, checkpoint.snapshot({"x": jnp.ones(3)}), {"n": 3})
    assert checkpoint.read_facts(path) == {"n": 3}


def test_what_does_not_fit_is_refused_in_words(original, tmp_path):
    path = tmp_path / "checkpoint.npz"
    with pytest.raises(ValueError, match=r"checkpoint\.npz does not exist"):
        checkpoint.read_facts(path)
    checkpoint.save(path, checkpoint.snapshot(original), {})
    for change, words in (
        ({"pair": jnp.ones((2, 4))}, r"pair.*is float32\[2, 3\], not float32\[2, 4\]"),
        ({"step": jnp.uint32(0)}, r"step.*is int32\[\], not uint32\[\]"),
        ({"extra": jnp.zeros(1)}, r"extra.*is absent"),
    ):
        other = original._replace(numbers=original.numbers | change)
        with pytest.raises(ValueError, match="belongs to another kind of run .*" + words):
            checkpoint.load(path, other, SPECIES)
    with pytest.raises(ValueError, match=r"belongs to another kind of run .*more.* is absent"):
        checkpoint.load(path, {"more": original.lists[0]}, SPECIES)
    whole = path.read_bytes()
    for damaged in (b"", b"PK nonsense", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            checkpoint.read_facts(path)
    np.savez(path, header=np.asarray('{"format": 1}'))
    with pytest.raises(ValueError, match="format 1; this version reads 2"):
        checkpoint.read_facts(path)
