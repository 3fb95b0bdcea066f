"""The grid of domains, and the mesh of devices that it lies on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from md.cells import Periodicity

AXES = ("x", "y", "z")
"""Names of the axes of the mesh: those of the cell, not of space."""

Counts = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid of domains, one on each device of a mesh.

    Attributes:
        mesh: of devices, with the axes x, y and z.
    """

    mesh: Mesh

    @property
    def counts(self) -> Counts:
        x, y, z = (self.mesh.shape[axis] for axis in AXES)
        return x, y, z

    @property
    def domains(self) -> int:
        return prod(self.counts)

    @cached_property
    def by_atom(self) -> NamedSharding:
        """Arrays whose rows are those of the domains, one after the other."""
        return NamedSharding(self.mesh, PartitionSpec(AXES))

    @cached_property
    def by_number(self) -> NamedSharding:
        """Arrays whose second axis is cut into blocks, one for each domain."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXES))

    @cached_property
    def on_all(self) -> NamedSharding:
        """Arrays of which every device has the whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    def spread(self, array: Any) -> jax.Array:
        """Rows of an array that every process can read, each on its device."""
        return jax.make_array_from_callback(array.shape, self.by_atom, lambda part: array[part])

    def everywhere(self, tree: Any) -> Any:
        """Arrays that every process holds, whole on every device."""

        def whole(leaf: Any) -> jax.Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = whole(jax.random.key_data(leaf))
                return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, self.on_all, lambda part: array[part])

        return jax.tree.map(whole, tree)

    @staticmethod
    def fetched(tree: Any) -> Any:
        """Arrays of all devices on the host of every process: all must ask."""

        def whole(leaf: Any) -> Any:
            if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
                return jax.device_get(leaf)
            if leaf.is_fully_replicated:
                return np.asarray(leaf.addressable_data(0))
            return multihost_utils.process_allgather(leaf, tiled=True)

        return jax.tree.map(whole, tree)

    def sharded(self, function: Any, in_specs: Any, out_specs: Any) -> Any:
        """A function of what one device holds, as one of the arrays of all."""
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )


def make_grid(
    counts: Sequence[int] | None,
    heights: Float[np.ndarray, " 3"],
    pbc: Periodicity,
    reach: float,
    devices: Sequence[Any] | None = None,
) -> Grid:
    """A grid of domains for a box.

    Args:
        counts: domains along each axis; None chooses what has the least halo on all devices.
        heights: Å, of the box between opposite faces (of what the atoms fill, along directions
            that do not repeat).
        pbc: directions that repeat.
        reach: Å, range of the neighbour lists: cutoff and skin.
        devices: which; those of all processes unless given. The first ones are taken.

    Raises:
        ValueError: if the domains would be thinner than the reach, or there are too few devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    largest = tuple(max(1, int(height / reach)) for height in heights)
    if counts is None:
        chosen = _least_halo(len(devices), heights, largest, reach)
    else:
        a, b, c = (int(n) for n in counts)
        chosen = (a, b, c)
        if min(chosen) < 1:
            raise ValueError(f"domains must be three numbers of at least 1, not {_times(chosen)}")
        if prod(chosen) > len(devices):
            raise ValueError(
                f"{_times(chosen)} domains need {prod(chosen)} devices, but there are "
                f"{len(devices)}: ask for fewer domains or start more devices"
            )
        if any(n > most for n, most in zip(chosen, largest, strict=True)):
            raise ValueError(
                f"{_times(chosen)} domains would be thinner than the {reach:.2f} Å that the "
                f"neighbour list reaches; the largest grid for this box is {_times(largest)}"
            )
    mesh = jax.make_mesh(
        chosen, AXES, devices=devices[: prod(chosen)], axis_types=(AxisType.Auto,) * 3
    )
    return Grid(mesh)


def _least_halo(
    devices: int, heights: Float[np.ndarray, " 3"], largest: Counts, reach: float
) -> Counts:
    """The grid with the least halo of those with the most domains."""
    usable = [
        counts
        for counts in product(*(range(1, min(devices, most) + 1) for most in largest))
        if prod(counts) <= devices
    ]

    def halo(counts: Counts) -> float:
        sides = heights / counts
        return float(np.prod(sides + 2 * reach) - np.prod(sides))

    return min(usable, key=lambda counts: (-prod(counts), halo(counts)))


def _times(counts: Sequence[int]) -> str:
    return " × ".join(map(str, counts))
