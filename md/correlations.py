"""Correlations in time: mean squared displacements, velocity autocorrelations and their spectra.

Both keep the last states looked at in a ring and compare each new state with all of them, so that
every state is the origin of a time difference: the best average that a trajectory can give.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from md import cells, lag_sums, totals, units
from md.domains.geometry import Geometry
from md.domains.lists import DomainList
from md.lag_sums import LagSums
from md.observable import Table, check_settings
from md.state import State, hashable_indices, real_atoms


class Path(NamedTuple):
    """Where atoms are, without losing digits however far they have gone.

    Attributes:
        positions, images: of the chosen atoms, as in the state.
        centre, centre_images: mass-weighted means of positions and of images, over all atoms.
        corners, centre_corner: on domains, the coordinates that positions and their mean are
            relative to (:meth:`md.domains.geometry.Geometry.lower`), in
        frame: the basis that these coordinates refer to.
    """

    positions: Float[Array, "*lags atoms 3"]
    images: Int[Array, "*lags atoms 3"]
    centre: Float[Array, "*lags 3"]
    centre_images: Float[Array, "*lags 3"]
    corners: Float[Array, "*lags atoms 3"] | None = None
    centre_corner: Float[Array, "*lags 3"] | None = None
    frame: Float[Array, "*lags 3 3"] | None = None

    by_atom = ("positions", "images", "corners")


def _between_corners(
    now: Float[Array, "*atoms 3"],
    past: Float[Array, "*atoms 3"],
    frame: Float[Array, "3 3"],
    past_frame: Float[Array, "3 3"],
) -> Float[Array, "*atoms 3"]:
    """From one corner to another, whose coordinates refer to frames of their own.

    Exactly zero for the same corner in the same cell: there no digits are lost.
    """
    return cells.lattice_vector(now - past, frame) + cells.lattice_vector(past, frame - past_frame)


@dataclasses.dataclass(frozen=True)
class MeanSquaredDisplacement:
    """Mean squared displacement of each species against time.

        MSD(τ) = ⟨|r_i(t + τ) − r_i(t)|²⟩, over the atoms i of a species and all origins t

    with positions on their continuous path, seen from the centre of mass of all atoms unless
    ``remove_drift`` is false. A cell whose shape changes is taken as it is at t + τ.

    The table has columns ``time_fs`` and ``msd_A_A2`` (Å²). :func:`diffusion_coefficient` fits it.

    Attributes:
        lags: number of times τ: 0, every, 2 every, ... steps. Memory is lags × atoms × 24 B (on
            domains 36 B, shared by all), and so is the work at each look.
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
    on_domains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        lag_sums.check_lags(self.name, self.lags)
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))

    def init(self, state: State, neighbours: Any, species: tuple[str, ...]) -> LagSums:
        chosen = lag_sums.population(self.name, state, self.atoms, species)
        number, kind, three = sum(chosen.atoms), state.positions.dtype, jax.ShapeDtypeStruct
        path = Path(
            positions=three((number, 3), kind),
            images=three((number, 3), state.images.dtype),
            centre=three((3,), kind),
            centre_images=three((3,), kind),
        )
        if state.axes:
            path = path._replace(
                corners=path.positions, centre_corner=path.centre, frame=three((3, 3), kind)
            )
        return lag_sums.empty(self.lags, path, state, chosen)

    def update(self, accumulators: LagSums, state: State, neighbours: Any) -> LagSums:
        now, kinds = self._path(accumulators, state, neighbours)

        def compare(past: Path) -> Array:
            moved = cells.displacement(
                now.positions, past.positions, now.images - past.images, state.cell
            )
            drift = cells.difference(now.centre, past.centre) + cells.lattice_vector(
                now.centre_images - past.centre_images, state.cell
            )
            if now.frame is not None:
                frames = now.frame, past.frame
                moved += _between_corners(now.corners, past.corners, *frames)
                drift += _between_corners(now.centre_corner, past.centre_corner, *frames)
            if self.remove_drift:
                moved = moved - drift
            return jnp.sum(moved**2, axis=-1)

        return lag_sums.compared(accumulators, now, kinds, state, self.every, compare)

    def result(self, accumulators: LagSums, timestep_fs: float) -> Table:
        table = {"time_fs": np.arange(self.lags) * float(self.every * timestep_fs)}
        for symbol, values in lag_sums.columns(accumulators).items():
            table[f"msd_{symbol}_A2"] = values
        return table

    def _path(
        self, accumulators: LagSums, state: State, neighbours: Any
    ) -> tuple[Path, Int[Array, " atoms"]]:
        """Where the chosen atoms are, and their species."""
        mass = jnp.where(real_atoms(state.species), state.masses, 0)
        share = (mass / totals.total(mass, state.axes))[:, None]

        def mean(values: Array) -> Array:
            return totals.total(share * values, state.axes)

        values = {"positions": state.positions, "images": state.images}
        means = {"centre": mean(state.positions), "centre_images": mean(state.images)}
        if isinstance(neighbours, DomainList):
            geometry: Geometry = neighbours.geometry
            corner = jnp.broadcast_to(geometry.lower(), state.positions.shape)
            values["corners"] = corner
            means["centre_corner"] = mean(corner)
            means["frame"] = cells.frame(state.cell, state.pbc)
        found, kinds = lag_sums.chosen(accumulators, self.atoms, values, state, neighbours)
        return Path(**found, **means), kinds


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
    on_domains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self.name, self.every)
        lag_sums.check_lags(self.name, self.lags)
        object.__setattr__(self, "atoms", hashable_indices(self.atoms))
        if self.window not in ("hann", "none"):
            raise ValueError(f'{self.name}: window must be "hann" or "none", not {self.window!r}')

    def init(self, state: State, neighbours: Any, species: tuple[str, ...]) -> LagSums:
        chosen = lag_sums.population(self.name, state, self.atoms, species)
        velocities = jax.ShapeDtypeStruct((sum(chosen.atoms), 3), state.momenta.dtype)
        return lag_sums.empty(self.lags, velocities, state, chosen)

    def update(self, accumulators: LagSums, state: State, neighbours: Any) -> LagSums:
        values = {"velocities": state.momenta / state.masses[:, None]}
        found, kinds = lag_sums.chosen(accumulators, self.atoms, values, state, neighbours)
        now = found["velocities"]

        def compare(past: Array) -> Array:
            return jnp.sum(now * past, axis=-1)

        return lag_sums.compared(accumulators, now, kinds, state, self.every, compare)

    def result(self, accumulators: LagSums, timestep_fs: float) -> Table:
        lag_fs = float(self.every * timestep_fs)
        correlations = lag_sums.columns(accumulators)
        table = {"time_fs": np.arange(self.lags) * lag_fs}
        for symbol, values in correlations.items():
            table[f"vacf_{symbol}_A2_per_fs2"] = values * units.FEMTOSECOND**2
        facts = zip(accumulators.species, accumulators.atoms, accumulators.masses, strict=True)
        masses = {symbol: atoms * float(mass) for symbol, atoms, mass in facts}
        return table | densities_of_states(correlations, masses, lag_fs, self.window)


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
