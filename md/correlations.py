"""Correlations in time: mean squared displacements, velocity autocorrelations and their spectra.

Both keep the last states looked at in a ring and compare each new state with all of them, so that
every state is the origin of a time difference: the best average that a trajectory can give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from md import cells, tallies, units
from md.observable import Table, check_settings
from md.state import State, hashable_indices, real_atoms
from md.summation import TwoFloat


@struct.dataclass
class LagSums:
    """A ring of past states, and sums over pairs of states by the time between them.

    Attributes:
        samples: states looked at; the last is in place (samples − 1) mod L of the ring.
        ring: pytree of arrays with a leading axis L.
        steps: [L] step of each state in the ring; −1 where there is none yet.
        sums: [L, T] Σ over origins of the mean over a species' atoms; row l is l looks apart.
        origins: [L] number of pairs of states in each row. States between which the observable
            took a rest (a stage without it) make no pair.
        masses: [T] mean mass of each species, amu.
        atoms: static; number of atoms of each species that take part.
        species: static; symbols.
    """

    samples: Int[Array, ""]
    ring: Any
    steps: Int[Array, " lags"]
    sums: TwoFloat
    origins: Int[Array, " lags"]
    masses: Float[Array, " species"]
    atoms: tuple[int, ...] = struct.field(pytree_node=False)
    species: tuple[str, ...] = struct.field(pytree_node=False)


class Path(NamedTuple):
    """Where atoms are, without losing digits however far they have gone.

    Attributes:
        positions, images: of the chosen atoms, as in the state.
        centre, centre_images: mass-weighted means of positions and of images, over all atoms.
    """

    positions: Float[Array, "*lags atoms 3"]
    images: Int[Array, "*lags atoms 3"]
    centre: Float[Array, "*lags 3"]
    centre_images: Float[Array, "*lags 3"]


@dataclasses.dataclass(frozen=True)
class MeanSquaredDisplacement:
    """Mean squared displacement of each species against time.

        MSD(τ) = ⟨|r_i(t + τ) − r_i(t)|²⟩, over the atoms i of a species and all origins t

    with positions on their continuous path, seen from the centre of mass of all atoms unless
    ``remove_drift`` is false. A cell whose shape changes is taken as it is at t + τ.

    The table has columns ``time_fs`` and ``msd_A_A2`` (Å²). :func:`diffusion_coefficient` fits it.

    Attributes:
        lags: number of times τ: 0, every, 2 every, ... steps. Memory is lags × atoms × 24 B, and so
            is the work at each look.
        every: steps between two looks.
        atoms: indices of the atoms that take part; all unless given.
        remove_drift: whether displacements are relative to the centre of mass.
        name: of the table.
    """

    lags: int = 100
    every: int = 100
    atoms: Sequence[int] | np.ndarray | None = None
    remove_drift: bool = True
    name: str = "msd"

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        _check_lags(self.name, self.lags)
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))

    def init(self, state: State, neighbours: Any, species: tuple[str, ...]) -> LagSums:
        path = self._path(state)
        return _empty(self.name, self.lags, path, state, self.atoms, species)

    def update(self, accumulators: LagSums, state: State, neighbours: Any) -> LagSums:
        now = self._path(state)
        weights = _weights(accumulators, state, self.atoms)

        def compare(past: Path) -> Array:
            moved = cells.displacement(
                now.positions, past.positions, now.images - past.images, state.cell
            )
            if self.remove_drift:
                drift = cells.difference(now.centre, past.centre) + cells.lattice_vector(
                    now.centre_images - past.centre_images, state.cell
                )
                moved = moved - drift
            return _averages(weights, jnp.sum(moved**2, axis=-1))

        return _compared(accumulators, now, state.step, self.every, compare)

    def result(self, accumulators: LagSums, timestep_fs: float) -> Table:
        table = {"time_fs": np.arange(self.lags) * float(self.every * timestep_fs)}
        for symbol, values in _columns(accumulators).items():
            table[f"msd_{symbol}_A2"] = values
        return table

    def _path(self, state: State) -> Path:
        mass = jnp.where(real_atoms(state.species), state.masses, 0)
        share = (mass / jnp.sum(mass))[:, None]
        chosen = _chosen(self.atoms)
        return Path(
            positions=state.positions[chosen],
            images=state.images[chosen],
            centre=jnp.sum(share * state.positions, axis=0),
            centre_images=jnp.sum(share * state.images, axis=0),
        )


@dataclasses.dataclass(frozen=True)
class VelocityAutocorrelation:
    r"""Velocity autocorrelation of each species, and the vibrational density of states.

        C(τ) = ⟨v_i(t) · v_i(t + τ)⟩, over the atoms i of a species and all origins t,
        D(f) = 4 ∫₀^∞ C(τ) / C(0) cos(2π f τ) dτ, so that ∫₀^∞ D(f) df = 1

    The integral is a cosine transform of the lags at hand, times a Hann window cos²(π τ / 2 τ_max)
    that widens lines to about 1/τ_max and keeps them from ringing. Frequencies go up to
    1 / (2 every Δt): choose ``every`` so that this is above the highest vibration, or it is
    folded back.

    The table has as many times as frequencies: ``time_fs``, ``vacf_A_A2_per_fs2``,
    ``frequency_THz`` and ``vdos_A_per_THz``; ``vdos_total_per_THz`` weights the species by their
    kinetic energy, as the density of states of all modes does in equilibrium.

    Source: J. M. Dickey and A. Paskin, Phys. Rev. 188, 1407 (1969).

    Attributes:
        lags: number of times τ: 0, every, 2 every, ... steps. Memory is lags × atoms × 12 B, and so
            is the work at each look.
        every: steps between two looks.
        atoms: indices of the atoms that take part; all unless given.
        window: ``"hann"`` or ``"none"``.
        name: of the table.
    """

    lags: int = 500
    every: int = 4
    atoms: Sequence[int] | np.ndarray | None = None
    window: str = "hann"
    name: str = "vacf"

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        _check_lags(self.name, self.lags)
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))
        if self.window not in ("hann", "none"):
            raise ValueError(f'{self.name}: window must be "hann" or "none", not {self.window!r}')

    def init(self, state: State, neighbours: Any, species: tuple[str, ...]) -> LagSums:
        return _empty(self.name, self.lags, self._velocities(state), state, self.atoms, species)

    def update(self, accumulators: LagSums, state: State, neighbours: Any) -> LagSums:
        now = self._velocities(state)
        weights = _weights(accumulators, state, self.atoms)

        def compare(past: Array) -> Array:
            return _averages(weights, jnp.sum(now * past, axis=-1))

        return _compared(accumulators, now, state.step, self.every, compare)

    def result(self, accumulators: LagSums, timestep_fs: float) -> Table:
        lag_fs = float(self.every * timestep_fs)
        correlations = _columns(accumulators)
        table = {"time_fs": np.arange(self.lags) * lag_fs}
        for symbol, values in correlations.items():
            table[f"vacf_{symbol}_A2_per_fs2"] = values * units.FEMTOSECOND**2
        facts = zip(accumulators.species, accumulators.atoms, accumulators.masses, strict=True)
        masses = {symbol: atoms * float(mass) for symbol, atoms, mass in facts}
        return table | densities_of_states(correlations, masses, lag_fs, self.window)

    def _velocities(self, state: State) -> Float[Array, "atoms 3"]:
        return (state.momenta / state.masses[:, None])[_chosen(self.atoms)]


def densities_of_states(
    correlations: Mapping[str, np.ndarray],
    masses: Mapping[str, float],
    lag_fs: float,
    window: str,
) -> Table:
    """Density of states of each species and of all, from velocity autocorrelations.

    Args:
        correlations: by symbol, C(τ) at lags 0, 1, 2, ... in any unit.
        masses: by symbol, the mass of all atoms of the species together.
        lag_fs: time between two lags.
        window: as in :class:`VelocityAutocorrelation`, whose columns these are.
    """
    lags = len(next(iter(correlations.values())))
    table = {"frequency_THz": np.arange(lags) * (1000 / (2 * (lags - 1) * lag_fs))}
    total = np.zeros(lags)
    for symbol, values in correlations.items():
        total += masses[symbol] * values
        table[f"vdos_{symbol}_per_THz"] = spectrum(values, lag_fs, window)
    table["vdos_total_per_THz"] = spectrum(total, lag_fs, window)
    return table


def spectrum(correlation: np.ndarray, lag_fs: float, window: str) -> np.ndarray:
    """Density of states in 1/THz at as many frequencies, 0 to 1/(2 lag), as there are lags.

    See :class:`VelocityAutocorrelation`. By the trapezoidal rule the result integrates to 1. Lags
    that were never reached (not a number) count as zero.
    """
    lags = len(correlation)
    weight = (
        np.cos(np.pi * np.arange(lags) / (2 * lags)) ** 2 if window == "hann" else np.ones(lags)
    )
    normalised = np.nan_to_num(correlation * weight)
    if normalised[0] != 0:
        normalised = normalised / normalised[0]
    # the even continuation of the lags makes the Fourier transform a cosine transform
    even = np.concatenate([normalised, normalised[-2:0:-1]])
    return 2 * np.fft.rfft(even).real * lag_fs / 1000


def diffusion_coefficient(
    table: Table,
    symbol: str,
    *,
    start_fs: float | int,
    stop_fs: float | int = np.inf,
    dimensions: int = 3,
) -> float:
    """Self-diffusion coefficient in Å²/fs (0.1 cm²/s) of a species, from its MSD.

    The slope of a straight line fitted between two times, without weights, divided by twice the
    number of dimensions that the displacements have (Einstein's relation). Leave out the ballistic
    start, and the end, which few origins support.

    Raises:
        ValueError: for a species that the table does not hold, or too few points.
    """
    column = f"msd_{symbol}_A2"
    if column not in table:
        raise ValueError(f"the table has no column {column}, only {', '.join(table)}")
    time, values = table["time_fs"], table[column]
    inside = (time >= start_fs) & (time <= stop_fs) & np.isfinite(values)
    if inside.sum() < 2:
        raise ValueError(
            f"{inside.sum()} points of the mean squared displacement lie between {start_fs} and "
            f"{stop_fs} fs: a line needs two"
        )
    return float(np.polyfit(time[inside], values[inside], 1)[0] / (2 * dimensions))


def _check_lags(name: str, lags: int) -> None:
    if lags < 2:
        raise ValueError(f"{name}: lags must be at least 2, not {lags}")


def _chosen(atoms: Any) -> Any:
    return slice(None) if atoms is None else np.asarray(atoms)


def _empty(
    name: str,
    lags: int,
    sample: Any,
    state: State,
    atoms: Any,
    species: tuple[str, ...],
) -> LagSums:
    n = state.positions.shape[0]
    if atoms is not None and not (atoms and all(0 <= index < n for index in atoms)):
        raise ValueError(f"{name}: atoms must be indices from 0 to {n - 1}")
    indices = np.asarray(state.species)[_chosen(atoms)]
    masses = np.asarray(state.masses)[_chosen(atoms)]
    population = [int(np.sum(indices == s)) for s in range(len(species))]
    mean = [masses[indices == s].mean() if population[s] else 0 for s in range(len(species))]
    return LagSums(
        samples=jnp.int32(0),
        ring=jax.tree.map(lambda x: jnp.zeros((lags, *x.shape), x.dtype), sample),
        steps=jnp.full(lags, -1, jnp.int32),
        sums=tallies.empty_sum((lags, len(species)), state.positions.dtype),
        origins=jnp.zeros(lags, jnp.int32),
        masses=jnp.asarray(mean, state.masses.dtype),
        atoms=tuple(population),
        species=species,
    )


def _weights(accumulators: LagSums, state: State, atoms: Any) -> Float[Array, "species atoms"]:
    """[T, M], with which a product averages over the atoms of each species."""
    population = jnp.maximum(jnp.asarray(accumulators.atoms), 1)
    member = state.species[_chosen(atoms)] == jnp.arange(len(accumulators.species))[:, None]
    return member / population[:, None].astype(state.positions.dtype)


def _averages(
    weights: Float[Array, "species atoms"], values: Float[Array, " atoms"]
) -> Float[Array, " species"]:
    return jnp.dot(weights, values, precision=jax.lax.Precision.HIGHEST)


def _compared(
    accumulators: LagSums,
    now: Any,
    step: Int[Array, ""],
    every: int,
    compare: Callable[[Any], Array],
) -> LagSums:
    """Put a sample into the ring, and add its comparison with every sample there to the sums."""
    lags = accumulators.sums.high.shape[0]
    place = accumulators.samples % lags
    ring = jax.tree.map(lambda past, x: past.at[place].set(x), accumulators.ring, now)
    steps = accumulators.steps.at[place].set(step.astype(accumulators.steps.dtype))

    def one_lag(lag: Array) -> tuple[Array, Array]:
        at = (place - lag) % lags
        values = compare(jax.tree.map(lambda past: past[at], ring))
        pair = (steps[at] >= 0) & (step - steps[at] == lag * every)
        return jnp.where(pair, values, 0), pair

    values, pairs = jax.lax.map(one_lag, jnp.arange(lags))
    return accumulators.replace(
        samples=accumulators.samples + 1,
        ring=ring,
        steps=steps,
        sums=tallies.accumulate(accumulators.sums, values),
        origins=accumulators.origins + pairs,
    )


def _columns(accumulators: LagSums) -> dict[str, np.ndarray]:
    """Means over origins, by symbol; not a number at lags that no two samples are apart."""
    sums, origins = tallies.total(accumulators.sums), np.asarray(accumulators.origins)[:, None]
    means = np.where(origins > 0, sums / np.maximum(origins, 1), np.nan)
    facts = enumerate(zip(accumulators.species, accumulators.atoms, strict=True))
    return {symbol: means[:, at] for at, (symbol, atoms) in facts if atoms}
