"""Checkpoints: all that a run needs to go on as if it had never stopped. One .npz, no pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from md import neighbours
from md.neighbours import Capacities, NeighbourList
from md.state import State

FORMAT = 1


def save(path: Path, state: State, neighbour_list: NeighbourList, facts: dict[str, Any]) -> None:
    """Write a checkpoint, replacing the old one only when the new one is complete.

    The neighbour list is kept as what it was built from: its order decides how sums round, so a
    restarted run must find the same list, not just an equivalent one.

    Args:
        facts: what else to keep (JSON): the run's settings and the sizes of its files.
    """
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _named_leaves(state)}
    arrays["list.reference_positions"] = np.asarray(neighbour_list.reference_positions)
    arrays["list.reference_cell"] = np.asarray(neighbour_list.reference_cell)
    header = {
        "format": FORMAT,
        "capacities": dataclasses.asdict(neighbour_list.capacities),
        **facts,
    }
    arrays["header"] = np.asarray(json.dumps(header))
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load(
    path: Path, template: State, neighbour_list: NeighbourList
) -> tuple[State, NeighbourList, dict[str, Any]]:
    """Read a checkpoint.

    Args:
        template: a state of the same system and ensemble.
        neighbour_list: a list of the same reach.

    Raises:
        ValueError: if the file is damaged or belongs to another run; one line that says so.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays["header"]))
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint, or is damaged: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {header.get('format')}; this version reads {FORMAT}"
        )
    leaves = []
    for (name, leaf), original in zip(
        _named_leaves(template), jax.tree.leaves(template), strict=True
    ):
        stored = arrays.get(name)
        if stored is None or stored.shape != leaf.shape or stored.dtype != leaf.dtype:
            raise ValueError(
                f"{path} belongs to another kind of run ({name} differs): restart with the same "
                "structure, ensemble and precision"
            )
        value = jnp.asarray(stored)
        leaves.append(jax.random.wrap_key_data(value) if _is_key(original) else value)
    state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    c = header["capacities"]
    capacities = Capacities(
        c["neighbours"], tuple(c["bins"]), tuple(c["stencil"]), c["bin_occupancy"]
    )
    rebuilt = neighbours.build(
        jnp.asarray(arrays["list.reference_positions"]),
        jnp.asarray(arrays["list.reference_cell"]),
        state.species,
        neighbour_list.reach,
        capacities,
    )
    return state, rebuilt, header


def _named_leaves(state: State) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return [("state" + jax.tree_util.keystr(path), _plain(leaf)) for path, leaf in leaves]


def _plain(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
