"""A part of the data, for training or validation: its layouts, and its batches epoch by epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence

import jax
import numpy as np

from allegro_jax.data.batches import Batch, assemble, prefetch
from allegro_jax.data.dataset import DataSet
from allegro_jax.data.layout import (
    Bucket,
    Layout,
    padding_waste,
    shuffled_batches,
)
from allegro_jax.data.planning import plan_buckets
from allegro_jax.data.shards import plan_shards
from allegro_jax.train import committee
from allegro_jax.train.config import TrainingConfig
from allegro_jax.train.parallel import Devices
from allegro_jax.train.preparation import Preparation


class Part:
    """A data set, laid out for the devices of a run.

    Attributes:
        weights: of every frame, for each member of a committee; ``None`` where all are 1.
        derivatives: whether any frame carries forces or stress.
    """

    def __init__(
        self,
        data: DataSet,
        preparation: Preparation,
        config: TrainingConfig,
        devices: Devices,
        row_groups: int,
    ) -> None:
        fit = config.training
        self.data, self.reference, self.devices = data, preparation.reference(data), devices
        block_slots = fit.block_slots or default_block_slots(
            data, preparation.batch_size(fit) / devices.number, fit.committee
        )
        self.weights: np.ndarray | None = None
        self.counts = data.counts
        self.derivatives = bool(np.any(data.has_forces) or np.any(data.has_stress))
        self._asked: tuple[int, int, bool] | None = None
        self._batches: list[tuple[int, np.ndarray]] = []
        self.buckets: list[Bucket] = plan_buckets(
            self.counts,
            preparation.batch_size(fit),
            groups=row_groups,
            block_slots=block_slots,
            seed=config.seed,
        )
        self.shards = [
            plan_shards(bucket, devices.number, block_slots=block_slots, seed=config.seed)
            for bucket in self.buckets
        ]

    def batches(
        self, seed: int, epoch: int, *, shuffle: bool = True
    ) -> list[tuple[int, np.ndarray]]:
        """(bucket, frame numbers) of every batch of an epoch; the last answer is remembered."""
        if self._asked != (seed, epoch, shuffle):
            self._asked = (seed, epoch, shuffle)
            self._batches = shuffled_batches(self.buckets, seed, epoch, shuffle=shuffle)
        return self._batches

    def waste(self, batches: Sequence[tuple[int, np.ndarray]]) -> float:
        return padding_waste(self.shards, self.counts, batches)

    def assembled(self, batches: Sequence[tuple[int, np.ndarray]]) -> Generator[Batch, None, None]:
        """The batches, prepared ahead by a thread; of each the shards that are this process's."""

        def make(item: tuple[int, np.ndarray]) -> list[Batch]:
            place, frames = item
            layout, parts = self.shards[place].share(frames)
            return [shard(parts[number], layout) for number in self.devices.own]

        def shard(frames: np.ndarray, layout: Layout) -> Batch:
            batch = assemble(
                self.data, frames, layout, self.reference, derivatives=self.derivatives
            ).batch
            if self.weights is None:
                return batch
            return committee.with_weights(batch, self.weights[:, frames])

        with contextlib.closing(prefetch(make, batches)) as prepared:
            for shards in prepared:
                yield self.devices.place(shards)


# On a CPU: slots of a batch that is quickest evaluated at once, and of the blocks of a larger one.
# (3BPA: 540 slots of one frame 12.1 ms at once, 16.1 in blocks; 2,700 of five 69 and 61.)
CPU_BATCH, CPU_BLOCK = 1536, 256
ACCELERATOR_BLOCK = 1 << 17


def default_block_slots(data: DataSet, batch_size: float | int, members: int = 1) -> int:
    """Neighbour slots evaluated at once: a small batch, or what stays in a processor's cache; or
    what fills a GPU.

    Args:
        data: the frames.
        batch_size: frames on each device.
        members: of a committee; what they need at once adds up.
    """
    if jax.default_backend() != "cpu":
        return max(ACCELERATOR_BLOCK // members, 1)
    small = members * batch_size * data.neighbour_counts.sum() <= CPU_BATCH * len(data)
    return max((CPU_BATCH if small else CPU_BLOCK) // members, 1)
