"""Making the tables of a collapsed model, on the host in float64, as fine as an error asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from allegro_jax.collapsed import tables
from allegro_jax.collapsed.energies import energies_and_gradients
from allegro_jax.collapsed.functions import num_functions, obstacle, radial_functions
from allegro_jax.collapsed.potentials import TabulatedAllegro
from allegro_jax.collapsed.tables import Sampled
from allegro_jax.config import AllegroConfig
from allegro_jax.neighbourhoods import Geometry
from allegro_jax.potential import AllegroPotential, Potential
from md.committee import Committee, members_of

FORCE_ERROR = {"float32": 1e-5, "float64": 1e-8}  # eV/Å
FEWEST_INTERVALS, MOST_INTERVALS = 256, 32_768
MAX_TABLE_BYTES = 128 * 2**20  # of one member
MAX_FUNCTIONS = 32  # these take a quarter of a minute to compile; and more functions gain less

# The error is measured in random surroundings: as dense as water, and with atoms as close as this.
DENSITY = 0.1  # 1/Å³
SHORTEST = 0.5  # Å

_POINTS = 512  # evaluated at once, so that one program serves all resolutions
_SAMPLED_PAIRS = 4096


class NotTabulated(ValueError):
    """A model that collapses, but whose tables would be too large or too slow to be worth it."""


class Collapse(NamedTuple):
    """A model made of tables, and what that costs in accuracy.

    Attributes:
        potential: of tables.
        functions: for each ordered pair of species.
        intervals: of each table.
        force_error: eV/Å, of a component of a force, apart from rounding. Measured in random
            surroundings as dense as water, with distances from 0.5 Å up: the largest error of some
            thousand pair gradients (relative to those above 1 eV/Å), times √(2N) for the 2N of them
            that make the force on an atom with N neighbours.
    """

    potential: Any
    functions: int
    intervals: int
    force_error: float

    def __str__(self) -> str:
        return (
            f"{self.functions} radial functions per pair of species, in tables of {self.intervals} "
            f"intervals, forces within {self.force_error:.0e} eV/Å"
        )


def collapse(
    potential: Potential, *, dtype: Any = None, force_error: float | None = None
) -> Collapse:
    """The same potential (or committee) with its radial functions tabulated.

    Args:
        potential: of a configuration that collapses (:func:`obstacle`).
        dtype: of the tables; default that of the weights.
        force_error: eV/Å, see :class:`Collapse`; default 1e-5, or 1e-8 in float64. The number of
            intervals is doubled until the bound is met.

    Raises:
        ValueError: the configuration does not collapse; the message says why.
        NotTabulated: the tables would be too large, or have too many functions.
    """
    members = members_of(potential)
    each = [potential] if members == 1 else [potential[m] for m in range(members)]
    config = each[0].config
    if reason := obstacle(config):
        raise ValueError(f"the model does not collapse to radial functions: {reason}")
    functions = num_functions(config)
    if functions > MAX_FUNCTIONS:
        raise NotTabulated(
            f"it has {functions} radial functions per pair of species, above {MAX_FUNCTIONS}"
        )
    dtype = np.dtype(dtype or jax.tree.leaves(potential.params)[0].dtype)
    wanted = FORCE_ERROR[dtype.name] if force_error is None else force_error

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        samplers = [_sampler(one) for one in each]
        measures = [_error_measure(sample, config) for sample in samplers]
        intervals = FEWEST_INTERVALS
        while True:
            if (size := _bytes(config, intervals, dtype)) > MAX_TABLE_BYTES:
                raise NotTabulated(
                    f"tables of {intervals} intervals would take {size / 2**20:.0f} MiB"
                )
            nodes = np.linspace(0, 1, intervals + 1)
            made = [tables.coefficients(sample(nodes)) for sample in samplers]
            error = max(measure(table) for measure, table in zip(measures, made, strict=True))
            if error <= wanted:
                break
            if intervals == MOST_INTERVALS:
                raise NotTabulated(
                    f"tables of {intervals} intervals leave an error of forces up to {error:.0e} "
                    f"eV/Å, above {wanted:.0e}"
                )
            intervals *= 2
        tabulated = [
            TabulatedAllegro(
                {
                    "table": jnp.asarray(table, dtype),
                    "shifts": jnp.asarray(
                        one.params.get("shifts", np.zeros(config.num_species)), dtype
                    ),
                },
                config,
            )
            for one, table in zip(each, made, strict=True)
        ]
        result = Committee.create(*tabulated) if members > 1 else tabulated[0]
    return Collapse(result, functions, intervals, error)


def _bytes(config: AllegroConfig, intervals: int, dtype: np.dtype) -> int:
    rows = config.num_species**2 * (intervals + 1)
    return rows * 4 * num_functions(config) * dtype.itemsize


def _sampler(potential: AllegroPotential) -> Callable[[np.ndarray], Sampled]:
    """A function that gives the model's radial functions at any x = r/r_c, in float64."""
    config = potential.config
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), potential.params)
    count = config.num_species
    limits = _limits(config)[:, :, None]
    species = jnp.arange(count)

    def of_distances(distances: jax.Array) -> jax.Array:  # [T, T, points]
        x = distances / limits
        flat = distances.reshape(count, -1)
        neighbour = jnp.broadcast_to(species[None, :, None], distances.shape).reshape(flat.shape)
        edges = Geometry(
            flat, x.reshape(flat.shape), jnp.zeros((*flat.shape, 3)), x.reshape(flat.shape) < 1,
            species, neighbour,
        )  # fmt: skip
        functions = radial_functions(params, config, edges)
        return jnp.moveaxis(functions.reshape(-1, *distances.shape), 0, 2)

    @jax.jit
    def compiled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # not at 0 itself, where the ZBL repulsion is infinite though r times it is not
        distances = limits * jnp.maximum(x, 1e-6)
        along = jnp.broadcast_to(jnp.asarray(limits), distances.shape)
        return jax.jvp(of_distances, (distances,), (along,))

    def sample(x: np.ndarray) -> Sampled:
        padded = np.pad(x, (0, -len(x) % _POINTS), mode="edge").reshape(-1, _POINTS)
        found = zip(*(compiled(some) for some in padded), strict=True)
        values, slopes = (np.concatenate(parts, axis=-1)[..., : len(x)] for parts in found)
        return Sampled(values, slopes)

    return sample


def _limits(config: AllegroConfig) -> Float[np.ndarray, "T T"]:
    """The cutoff of each ordered pair, Å."""
    count = config.num_species
    return np.asarray(config.pair_cutoffs or np.full((count, count), config.cutoff), np.float64)


def _error_measure(
    sample: Callable[[np.ndarray], Sampled], config: AllegroConfig
) -> Callable[[np.ndarray], float]:
    """A function that gives the error of forces that a table causes (:class:`Collapse`)."""
    slots = math.ceil(DENSITY * 4 / 3 * math.pi * config.cutoff**3)
    shape = math.ceil(_SAMPLED_PAIRS / slots), slots
    rng = np.random.default_rng(0)
    x = rng.uniform((SHORTEST / config.cutoff) ** 3, 1, shape) ** (1 / 3)
    ways = rng.normal(size=(*shape, 3))
    centres = rng.integers(0, config.num_species, shape[0])
    neighbours = rng.integers(0, config.num_species, shape)
    limits = _limits(config)[centres[:, None], neighbours]
    edges = Geometry(
        distances=jnp.asarray(limits * x),
        x=jnp.asarray(x),
        unit_vectors=jnp.asarray(ways / np.linalg.norm(ways, axis=-1, keepdims=True)),
        inside=jnp.ones(shape, bool),
        centre_species=jnp.asarray(centres),
        neighbour_species=jnp.asarray(neighbours),
    )
    points = np.arange(x.size).reshape(shape)

    @jax.jit
    def compiled(values: jax.Array, slopes: jax.Array) -> jax.Array:
        return energies_and_gradients(values, slopes / limits, edges, config)[1]

    def gradients(of: Sampled) -> np.ndarray:
        values, slopes = (
            np.moveaxis(every[centres[:, None], neighbours, :, points], -1, 0)
            for every in (of.values, of.slopes)
        )
        return np.asarray(compiled(values, slopes))

    exact = gradients(sample(x.ravel()))
    allowed = np.maximum(np.linalg.norm(exact, axis=-1, keepdims=True), 1)

    def measure(table: np.ndarray) -> float:
        found = gradients(tables.interpolated(table, config.num_species, x.ravel()))
        return float(np.max(np.abs(found - exact) / allowed)) * math.sqrt(2 * slots)

    return measure
