"""One batch on several devices: its shards are evaluated side by side, and what they find is added.

The loss and its gradient are sums over the frames of a batch, divided by numbers of labels. Each
device evaluates a shard of the frames; the numbers of labels, gradients and sums of errors are
added over devices; and every device takes the same step. A batch holds the same frames on any
number of devices, so the weights that come out differ by rounding alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from allegro_jax.data.batches import Batch
from allegro_jax.settings import ConfigError

# The axis of the mesh: shards of a batch.
DATA = "data"


@dataclasses.dataclass(frozen=True, eq=False)
class Devices:
    """The devices that evaluate a batch.

    Attributes:
        mesh: all of them, those of process 0 first; ``None`` for a single one, where programs and
            batches are plain.
        own: which shards of a batch this process assembles.
    """

    mesh: Mesh | None
    own: range

    @property
    def number(self) -> int:
        """Devices of all processes, and shards per batch."""
        return 1 if self.mesh is None else self.mesh.size

    def description(self) -> str:
        """For messages: on how many devices, if there are several."""
        processes = jax.process_count()
        also = f" of {processes} processes" if processes > 1 else ""
        return "" if self.mesh is None else f" on {self.number} devices{also}"

    def spread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of (tree, batch, *more) over all devices.

        Args:
            function: takes a batch as its second argument, and the keyword ``total``, which adds up
                a tree of sums over the shards. Everything it returns must come from such totals
                and the other arguments, which are the same on all devices.
        """
        mesh = self.mesh
        if mesh is None:
            return function

        def shard(tree: Any, batch: Batch, *more: Any) -> Any:
            own = jax.tree.map(lambda leaf: leaf[0], batch)
            return function(tree, own, *more, total=lambda sums: jax.lax.psum(sums, DATA))

        def spread(tree: Any, batch: Batch, *more: Any) -> Any:
            same = PartitionSpec()
            return jax.shard_map(
                shard,
                mesh=mesh,
                in_specs=(same, PartitionSpec(DATA), *(same for _ in more)),
                out_specs=same,
                # checked, the gradient with respect to what all devices share would be added up
                # over devices by itself, once per block
                check_vma=False,
            )(tree, batch, *more)

        return spread

    def place(self, shards: Sequence[Batch]) -> Batch:
        """This process's shards of a batch, as an argument of what :meth:`spread` returns."""
        if self.mesh is None:
            (batch,) = shards
            return batch
        place = NamedSharding(self.mesh, PartitionSpec(DATA))
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *shards)
        if place.is_fully_addressable:  # all leaves at once, which is quicker
            return jax.device_put(batch, place)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(place, leaf), batch)

    def replicate(self, tree: Any) -> Any:
        """A copy of a tree on every device."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.array, tree)
        place = NamedSharding(self.mesh, PartitionSpec())
        # a copy on the host first: a step may take the memory of its argument for its result
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(place, np.array(leaf)), tree
        )


def choose_devices(number: int | None, batch_size: int) -> Devices:
    """Devices for batches of ``batch_size`` frames.

    Args:
        number: of this process, and of every other; ``None`` for as many as there are, but no more
            than have frames to evaluate.
        batch_size: frames per batch.

    Raises:
        ConfigError: there are fewer devices, or some would never have a frame.
    """
    processes = jax.process_count()
    by_process: list[list[jax.Device]] = [[] for _ in range(processes)]
    for device in jax.devices():
        by_process[device.process_index].append(device)
    present = min(len(devices) for devices in by_process)
    if number is None:
        number = min(present, max(1, batch_size // processes))
    if number > present:
        raise ConfigError(
            f"training.devices: {number}, but JAX finds {present} ({jax.default_backend()})"
        )
    if number * processes > batch_size:
        raise ConfigError(
            f"training.batch_size: {batch_size} frames leave some of {number * processes} devices "
            "without work; raise it, or take fewer devices (training.devices) or processes"
        )
    if number * processes == 1:
        return Devices(None, range(1))
    first = jax.process_index() * number
    chosen = [device for devices in by_process for device in devices[:number]]
    return Devices(Mesh(np.asarray(chosen), (DATA,)), range(first, first + number))
