"""Checkpoints: all that a run needs to go on as if it had never stopped. One .npz, no pickle.

A checkpoint holds a pytree (the state, its neighbour list, accumulators of observables, ...: the
caller's choice) and a dictionary of facts. Arrays are stored under their place in the tree.

Neighbour lists are stored as what they were built from, and built again: their order decides how
sums round, so a restarted run must find the same list, not just an equivalent one.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import neighbours
from md.bins import Capacities
from md.durable import replacing
from md.neighbours import NeighbourList

FORMAT = 2

_ROOT = "tree"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A pytree on the host, ready to be written.

    Attributes:
        arrays: by their place in the tree.
        capacities: static sizes of neighbour lists and pair searches, by their place in the tree.
    """

    arrays: dict[str, np.ndarray]
    capacities: dict[str, dict[str, Any]]


def snapshot(tree: Any) -> Snapshot:
    """Fetch a pytree of arrays from the device, whatever happens to its buffers afterwards."""
    arrays: dict[str, Any] = {}
    capacities = {}
    for name, node in _nodes(tree):
        if _is_sized(node):
            capacities[name] = dataclasses.asdict(node.capacities)
        arrays |= {part: _plain(leaf) for part, leaf in _parts(name, node)}
    # a copy: on a CPU, what the device gives may be a view of a buffer that is used again
    fetched = {name: np.array(leaf) for name, leaf in jax.device_get(arrays).items()}
    return Snapshot(fetched, capacities)


def save(path: Path, tree: Snapshot, facts: dict[str, Any]) -> None:
    """Write a checkpoint. It replaces the one before only when it is complete and on disk.

    Args:
        path: the file.
        tree: what :func:`snapshot` made.
        facts: what else to keep (JSON): the run's settings, the state of its files.
    """
    header = {"format": FORMAT, "facts": facts, "capacities": tree.capacities}
    arrays: dict[str, Any] = {"header": np.asarray(json.dumps(header)), **tree.arrays}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def read_facts(path: Path) -> dict[str, Any]:
    """The facts of a checkpoint.

    Raises:
        ValueError: if there is none, or it is damaged or of another version.
    """
    return _read(path, arrays=False)[0]["facts"]


def load(path: Path, template: Any, species: Any, resizable: Sequence[str] = ()) -> Any:
    """Read the pytree of a checkpoint.

    Args:
        path: the file.
        template: a tree of the same structure, shapes and precisions. Only the capacities of
            neighbour lists and pair searches may differ: those of the checkpoint are taken.
        species: [N], or [replicas, N] where lists have a leading axis: what lists are built with.
        resizable: places in the tree, such as ``".state.bias"``, below which arrays may differ from
            the template in their sizes, because they grow on the way: those of the checkpoint are
            taken.

    Raises:
        ValueError: if the file is damaged or belongs to another run; one line that says so.
    """
    header, arrays = _read(path, arrays=True)

    def stored(name: str, like: Any) -> Any:
        shape, dtype = _plain(like).shape, _plain(like).dtype
        value = arrays.get(name)
        if value is not None and name.startswith(tuple(_ROOT + place for place in resizable)):
            shape = value.shape if value.ndim == len(shape) else shape
        if value is None or value.shape != shape or value.dtype != dtype:
            found = "absent" if value is None else f"{value.dtype}{list(value.shape)}"
            raise ValueError(
                f"{path} belongs to another kind of run ({name} is {found}, not "
                f"{dtype}{list(shape)}): restart with the same structure, ensemble and precision"
            )
        if _is_key(like):
            return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(like))
        return value if isinstance(like, (np.ndarray, np.generic)) else jnp.asarray(value)

    nodes: list[Any] = []
    for name, node in _nodes(template):
        parts = [stored(part, leaf) for part, leaf in _parts(name, node)]
        if not _is_sized(node):
            nodes += parts
            continue
        sizes = Capacities(**with_tuples(header["capacities"][name]))
        if isinstance(node, NeighbourList):
            positions, cell = parts
            nodes.append(_rebuilt(node, sizes, positions, cell, species))
        else:
            same = jax.tree.unflatten(jax.tree.structure(node), parts)
            nodes.append(same.replace(capacities=sizes))
    return jax.tree.unflatten(jax.tree.structure(template, is_leaf=_is_sized), nodes)


def _read(path: Path, *, arrays: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: there is no checkpoint to restart from")
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            found = {name: file[name] for name in file.files if arrays and name != "header"}
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {header.get('format')}; this version reads {FORMAT}: "
            "restart with the version that wrote it"
        )
    return header, found


def with_tuples(stored: dict[str, Any]) -> dict[str, Any]:
    """Static sizes as they were before they became JSON, which has no tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}


def _rebuilt(
    template: Any, capacities: Capacities, positions: Any, cell: Any, species: Any
) -> NeighbourList:
    """The list that was built from these positions, with these capacities."""
    zero = jnp.zeros((), jnp.int32)
    blank = template.replace(
        indices=None,
        shifts=None,
        capacities=capacities,
        faults=zero,
        required=jax.tree.map(lambda _: zero, template.required),
    )
    if positions.ndim == 3:
        built = _update_each(blank, positions, cell, jnp.broadcast_to(species, positions.shape[:2]))
    else:
        built = _update(blank, positions, cell, jnp.asarray(species))
    # a list that was still to be filled has an unknown (NaN) reference, and what was just built
    # from it means nothing: the reference stays, so the list is built before it is used
    return built.replace(
        faults=jnp.zeros_like(template.faults),
        required=jax.tree.map(jnp.zeros_like, template.required),
    )


_update = jax.jit(neighbours.update)
_update_each = jax.jit(jax.vmap(neighbours.update, in_axes=(None, 0, 0, 0)))


def _nodes(tree: Any) -> list[tuple[str, Any]]:
    """The leaves of a tree and their places; what has capacities counts as a leaf."""
    nodes = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_sized)[0]
    return [(_ROOT + jax.tree_util.keystr(path), node) for path, node in nodes]


def _parts(name: str, node: Any) -> list[tuple[str, Any]]:
    """The arrays of one node that are stored, and their names."""
    if isinstance(node, NeighbourList):
        return [
            (f"{name}.{x}", getattr(node, x)) for x in ("reference_positions", "reference_cell")
        ]
    leaves = jax.tree_util.tree_flatten_with_path(node)[0]
    return [(name + jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _is_sized(node: Any) -> bool:
    """Whether a node carries static sizes: a neighbour list, or a search of pairs."""
    return isinstance(getattr(node, "capacities", None), Capacities)


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
