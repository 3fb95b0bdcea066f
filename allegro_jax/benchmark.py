"""How fast a model is on this machine, and how much memory it takes."""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ase import Atoms

from allegro_jax.config import AllegroConfig
from allegro_jax.model_file import Model
from md import neighbours
from md.evaluation import Evaluation, evaluate
from md.local_potential import with_precision
from md.species import species_indices

DEFAULT_ATOMS = 1000


@dataclasses.dataclass(frozen=True)
class Figures:
    """What was measured. One step is one evaluation of energy, forces and virial.

    Attributes:
        device: what computed it. dtype: of the arithmetic.
        atoms: number of atoms. pairs: directed pairs within the cutoff.
        step_ms: median time of a step.
        microseconds_per_atom: of a step.
        pairs_per_second: directed pairs within the cutoff.
        compile_s: time of the first call beyond that of a step (short when the program was kept
            from an earlier run).
        peak_memory_MB: of the device; on a CPU, of the whole process.
    """

    device: str
    dtype: str
    atoms: int
    pairs: int
    step_ms: float
    microseconds_per_atom: float
    pairs_per_second: float
    compile_s: float
    peak_memory_MB: float

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.atoms} atoms, {self.pairs} pairs, {self.dtype}, on {self.device}",
                f"  step          {self.step_ms:12.3f} ms (energy, forces, virial)",
                f"  per atom      {self.microseconds_per_atom:12.3f} µs",
                f"  pairs         {self.pairs_per_second / 1e6:12.3f} million per second",
                f"  compilation   {self.compile_s:12.3f} s",
                f"  peak memory   {self.peak_memory_MB:12.0f} MB",
            )
        )


def benchmark(
    model: Model, atoms: Atoms | None = None, *, dtype: str = "float32", seconds: float = 2.0
) -> Figures:
    """Measure a model on a structure.

    Args:
        model: the model.
        atoms: the structure; default :func:`typical_structure`.
        dtype: ``"float32"`` or ``"float64"``.
        seconds: how long to measure (at least 5 steps, at most 200).

    Raises:
        ValueError: the structure is empty, or holds a species that the model does not know.
    """
    atoms = typical_structure(model.config) if atoms is None else atoms
    if len(atoms) == 0:
        raise ValueError("structure: it has no atoms")
    with jax.enable_x64(dtype == "float64"):
        return _measure(model, atoms, dtype, seconds)


def _measure(model: Model, atoms: Atoms, dtype: str, seconds: float) -> Figures:
    potential = with_precision(model.potential, dtype)
    positions = jnp.asarray(atoms.positions, dtype)
    cell = jnp.asarray(atoms.cell.array, dtype)
    species = jnp.asarray(species_indices(atoms.symbols, potential.species))
    reach = neighbours.Reach(
        tuple(map(bool, atoms.pbc)), potential.cutoff, pair_cutoffs=potential.pair_cutoffs
    )
    pairs = neighbours.allocate(positions, cell, species, reach=reach, slack=1.0)

    @jax.jit
    def step(potential: Any, positions: jax.Array, pairs: Any) -> Evaluation:
        return evaluate(potential, positions, cell, species, pairs)

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(step(potential, positions, pairs))
        return time.perf_counter() - start

    first, times = run(), [run()]
    while len(times) < 5 or (sum(times) < seconds and len(times) < 200):
        times.append(run())
    median = float(np.median(times))
    count = int(jnp.sum(pairs.mask))
    return Figures(
        device=jax.devices()[0].device_kind,
        dtype=dtype,
        atoms=len(atoms),
        pairs=count,
        step_ms=1e3 * median,
        microseconds_per_atom=1e6 * median / len(atoms),
        pairs_per_second=count / median,
        compile_s=max(first - median, 0.0),
        peak_memory_MB=peak_memory() / 2**20,
    )


def typical_structure(config: AllegroConfig, atoms: int = DEFAULT_ATOMS) -> Atoms:
    """A shaken cubic lattice of the model's species, as dense as the data it was trained on.

    The density gives each atom the model's average number of neighbours. That number is a mere
    normalisation in some models: what no condensed phase has (below 5, above 150) is not followed.
    """
    average = np.clip(np.mean(config.per_species("average_neighbours")), 5, 150)
    spacing = (4 / 3 * math.pi * config.cutoff**3 / average) ** (1 / 3)
    side = max(round(atoms ** (1 / 3)), 1)
    grid = np.stack(np.meshgrid(*3 * [np.arange(side)], indexing="ij"), axis=-1).reshape(-1, 3)
    rng = np.random.default_rng(0)
    positions = spacing * (grid + rng.uniform(-0.1, 0.1, grid.shape))
    symbols = [config.species[i % config.num_species] for i in range(len(grid))]
    return Atoms(symbols, positions, cell=3 * [side * spacing], pbc=True)


def peak_memory() -> int:
    """Bytes, of the device; on a CPU of the whole process."""
    statistics = jax.devices()[0].memory_stats()
    if statistics and "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
