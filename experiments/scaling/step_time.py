"""A model of the time of a step on many GPUs: pure functions, in seconds, bytes and Å.

    step = atoms · compute + overhead + exchange + reductions + (a rebuild, every so many steps)

Nothing overlaps: a message waits for the one before it, as in the compiled program.
"""

from __future__ import annotations

import dataclasses
from itertools import product
from math import ceil, log2, prod
from typing import NamedTuple

Triple = tuple[int, int, int]

POSITION = 12  # bytes of three numbers in single precision


@dataclasses.dataclass(frozen=True)
class Link:
    """What a message between two GPUs takes: latency + bytes / bandwidth.

    Attributes:
        bandwidth: bytes per second each way, of one GPU.
        latency: s.
    """

    bandwidth: float
    latency: float

    def seconds(self, size: float) -> float:
        return self.latency + size / self.bandwidth


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Nodes of several GPUs.

    Attributes:
        node: GPUs of a node along each axis of the grid of domains: a node holds a block of them.
        inside, between: links of a GPU within its node, and to other nodes.
    """

    node: Triple
    inside: Link
    between: Link


@dataclasses.dataclass(frozen=True)
class Compute:
    """What one GPU does by itself.

    Attributes:
        per_atom: s per atom and step.
        overhead: s per step, however few the atoms: what launching its kernels takes.
        rebuild_per_atom: s per atom for new lists.
        rebuild_every: steps between new lists.
    """

    per_atom: float
    overhead: float = 0.0
    rebuild_per_atom: float = 0.0
    rebuild_every: float = 20.0


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What a run exchanges.

    Attributes:
        density: atoms per Å³.
        reach: Å, cutoff and skin.
        slack: bytes sent over those of the surface, for buffers are larger than what is in them.
        reductions: small sums and maxima over all GPUs in a step.
    """

    density: float
    reach: float = 4.5
    slack: float = 1.2
    reductions: int = 6


class StepTime(NamedTuple):
    """Seconds of a step, by what takes them."""

    compute: float
    exchange: float
    reductions: float
    rebuild: float

    @property
    def total(self) -> float:
        return sum(self)


def grid_of(gpus: int) -> Triple:
    """The grid with the least surface for a cubic box."""
    divisors = [n for n in range(1, gpus + 1) if gpus % n == 0]
    ways = ((a, b, gpus // (a * b)) for a, b in product(divisors, repeat=2) if gpus % (a * b) == 0)
    return min(ways, key=lambda counts: (sum(counts), counts))


def step_time(
    gpus: int, atoms: float, compute: Compute, exchange: Exchange, cluster: Cluster
) -> StepTime:
    """The time of a step of a cubic box.

    Args:
        atoms: of the whole box.
    """
    grid, own = grid_of(gpus), atoms / gpus
    messages = messages_of(grid, atoms, exchange)
    links = [
        cluster.inside if count <= width else cluster.between
        for count, width in zip(grid, cluster.node, strict=True)
    ]
    # to either side, positions out and forces back
    halo = sum(4 * links[d].seconds(size) for d, size in messages.items())
    farthest = cluster.inside if gpus <= prod(cluster.node) else cluster.between
    reductions = exchange.reductions * ceil(log2(gpus)) * farthest.latency
    # as many bytes again, in twice as many messages: ghosts with their species, and what migrates
    sent = halo + sum(4 * links[d].latency for d in messages)
    rebuild = (own * compute.rebuild_per_atom + sent) / compute.rebuild_every
    return StepTime(own * compute.per_atom + compute.overhead, halo, reductions, rebuild)


def messages_of(grid: Triple, atoms: float, exchange: Exchange) -> dict[int, float]:
    """Bytes of one message along each axis that is split: a slab of the halo's thickness.

    Those along y also hold the copies that came along x, and those along z both.
    """
    edge = (atoms / exchange.density) ** (1 / 3)
    spanned = [edge / count for count in grid]
    found = {}
    for d in range(3):
        if grid[d] > 1:
            slab = exchange.reach * prod(spanned[e] for e in range(3) if e != d)
            found[d] = exchange.slack * exchange.density * slab * POSITION
        spanned[d] += 2 * exchange.reach
    return found


def thinnest(gpus: int, atoms: float, exchange: Exchange) -> float:
    """Å, of the thinnest domain: it must be at least the reach."""
    return (atoms / exchange.density) ** (1 / 3) / max(grid_of(gpus))


def weak_efficiency(
    gpus: int, atoms_per_gpu: float, compute: Compute, exchange: Exchange, cluster: Cluster
) -> float:
    """Time of one GPU with its share alone, over that of all with theirs."""
    alone = step_time(1, atoms_per_gpu, compute, exchange, cluster).total
    return alone / step_time(gpus, gpus * atoms_per_gpu, compute, exchange, cluster).total


def strong_efficiency(
    gpus: int, atoms: float, compute: Compute, exchange: Exchange, cluster: Cluster
) -> float:
    """Time of one GPU with all atoms, if they fitted, over that of all GPUs times their number."""
    alone = step_time(1, atoms, compute, exchange, cluster).total
    return alone / (gpus * step_time(gpus, atoms, compute, exchange, cluster).total)
