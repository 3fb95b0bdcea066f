"""Displacements and velocities against time differences, over all origins in a trajectory.

Along a run, :mod:`md.correlations` compares each state with a ring of earlier ones. From a file
all time differences are wanted, and Fourier transforms give them together: G. R. Kneller et al.,
Comput. Phys. Commun. 91, 191 (1995); V. Calandrini et al., Collection SFN 12, 201 (2011).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float

from md.analysis.paths import Paths, mean_velocity, velocity_blocks
from md.analysis.recording import Recording
from md.correlations import densities_of_states
from md.observable import Table

_PER_CM = 1e12 / 2.99792458e10  # cm⁻¹ in a THz

Means = list[dict[str, np.ndarray]]
"""Of each window of time: means over atoms and origins by symbol; row l is l frames apart."""


def directions(recording: Recording, axes: str | None) -> Float[np.ndarray, "directions 3"]:
    """Orthonormal directions along which motion counts.

    Args:
        axes: letters of "xyz"; None: all, but where only some directions repeat the plane or line
            of these, for atoms cannot diffuse out of a slab or a wire.

    Raises:
        ValueError: for other letters.
    """
    if axes is not None:
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= set("xyz"):
            raise ValueError(f"axes must be some of xyz, such as xy, not {axes!r}")
        return np.eye(3)[["xyz".index(letter) for letter in axes]]
    pbc = recording.source.pbc
    if all(pbc) or not any(pbc):
        return np.eye(3)
    return np.linalg.qr(recording.cells[0][list(pbc)].T)[0].T


def squared_displacements(
    series: Float[np.ndarray, "frames n"],
) -> Float[np.ndarray, " frames"]:
    """Σ over columns of the mean over origins of (x(t + l) − x(t))², for l = 0 ... F − 1."""
    frames = len(series)
    series = series - series.mean(axis=0)
    squares = np.concatenate([[0.0], np.cumsum(np.sum(series**2, axis=1))])
    left = np.arange(frames, 0, -1)  # number of origins
    ends = squares[left] + squares[-1] - squares[frames - left]
    found = np.maximum(ends / left - 2 * products(series), 0)
    found[0] = 0
    return found


def products(series: Float[np.ndarray, "frames n"]) -> Float[np.ndarray, " frames"]:
    """Σ over columns of the mean over origins of x(t + l) x(t), for l = 0 ... F − 1."""
    frames = len(series)
    length = 1 << (2 * frames - 1).bit_length()  # no wrap-around, and quick
    transformed = np.fft.rfft(np.ascontiguousarray(series.T), length, axis=1)
    power = np.sum(transformed.real**2 + transformed.imag**2, axis=0)
    return np.fft.irfft(power, length)[:frames] / np.arange(frames, 0, -1)


def displacement_means(
    paths: Paths,
    windows: Sequence[slice],
    along: Float[np.ndarray, "directions 3"],
    *,
    remove_drift: bool,
) -> Means:
    """Mean squared displacements, Å²."""
    drift = paths.centre() if remove_drift else None
    return _means(paths.recording, paths.blocks(), drift, windows, along, squared_displacements)


def velocity_means(
    recording: Recording,
    windows: Sequence[slice],
    along: Float[np.ndarray, "directions 3"],
    *,
    remove_drift: bool,
) -> Means:
    """Velocity autocorrelations ⟨v(t) · v(t + τ)⟩, Å²/fs²."""
    drift = mean_velocity(recording) if remove_drift else None
    return _means(recording, velocity_blocks(recording), drift, windows, along, products)


def _means(
    recording: Recording,
    blocks: Iterable[tuple[slice, np.ndarray]],
    drift: np.ndarray | None,
    windows: Sequence[slice],
    along: np.ndarray,
    compare: Callable[[np.ndarray], np.ndarray],
) -> Means:
    symbols = np.asarray(recording.source.symbols)
    sums: Means = [
        {symbol: np.zeros(one.stop - one.start) for symbol in recording.species} for one in windows
    ]
    for chosen, series in blocks:
        if drift is not None:
            series = series - drift[:, None]
        series = series @ along.T
        for symbol in recording.species:
            own = series[:, symbols[chosen] == symbol].reshape(len(series), -1)
            if own.shape[1]:
                for window, total in zip(windows, sums, strict=True):
                    total[symbol] += compare(own[window])
    for total in sums:
        for symbol in total:
            total[symbol] /= np.sum(symbols == symbol)
    return sums


def displacement_table(means: dict[str, np.ndarray], spacing_fs: float, lags: int) -> Table:
    """Columns ``time_fs`` and ``msd_A_A2`` (:class:`md.correlations.MeanSquaredDisplacement`)."""
    lags = min(lags, len(next(iter(means.values()))))
    table = {"time_fs": np.arange(lags) * spacing_fs}
    return table | {f"msd_{symbol}_A2": values[:lags] for symbol, values in means.items()}


def velocity_table(
    means: dict[str, np.ndarray], spacing_fs: float, lags: int, dimensions: int
) -> Table:
    """Columns ``time_fs`` and three of each species A.

    ``correlation_A`` is C(τ) / C(0), ``vacf_A_A2_per_fs2`` is C(τ), and ``integral_A_A2_per_ps`` is
    (1/d) ∫₀^τ C dτ', which tends to the diffusion coefficient (Green and Kubo).
    """
    table = {"time_fs": np.arange(lags) * spacing_fs}
    for symbol, values in means.items():
        values = values[:lags]
        with np.errstate(divide="ignore", invalid="ignore"):  # atoms at rest: not a number
            table[f"correlation_{symbol}"] = values / values[0]
        table[f"vacf_{symbol}_A2_per_fs2"] = values
        steps = (values[1:] + values[:-1]) / 2 * spacing_fs * 1000 / dimensions
        table[f"integral_{symbol}_A2_per_ps"] = np.concatenate([[0.0], np.cumsum(steps)])
    return table


def density_table(
    means: dict[str, np.ndarray], recording: Recording, spacing_fs: float, lags: int, window: str
) -> Table:
    """Columns of :func:`md.correlations.densities_of_states`, and ``wavenumber_per_cm``."""
    symbols, masses = np.asarray(recording.source.symbols), recording.source.masses
    total = {symbol: float(masses[symbols == symbol].sum()) for symbol in means}
    cut = {symbol: values[:lags] for symbol, values in means.items()}
    table = densities_of_states(cut, total, spacing_fs, window)
    frequency = table.pop("frequency_THz")
    return {"frequency_THz": frequency, "wavenumber_per_cm": frequency * _PER_CM, **table}
