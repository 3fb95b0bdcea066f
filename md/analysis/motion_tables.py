"""Which motion is looked at, the tables it gives, and diffusion coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from md.analysis import motion
from md.analysis.blocks import standard_error, with_errors
from md.analysis.findings import Findings
from md.analysis.paths import Paths
from md.correlations import diffusion_coefficient

_FIT = (0.2, 0.5)  # of a block
_VACF_LAG_FS = 2000.0
_SLACK = 1e-3  # of the time between frames: some files hold times in single precision

Span = tuple[float | int, float | int]


def add_displacements(
    findings: Findings,
    along: Float[np.ndarray, "directions 3"],
    *,
    remove_drift: bool,
    continuous: bool,
    lag_fs: float | int | None,
    fit_fs: Span | None,
) -> None:
    """Add ``msd``, and Einstein's diffusion coefficients to ``diffusion``.

    Args: as those of :func:`md.analysis.analyse`.

    Raises:
        ValueError: if there is no even time axis, no unambiguous path, or no such time difference.
    """
    recording = findings.recording
    spacing, frames = recording.spacing_fs(), len(recording.numbers)
    lags = _lags(findings, "msd", lag_fs, frames, default_fs=max((frames - 1) / 2, 1) * spacing)
    span = _fit(findings, fit_fs, (findings.block - 1) * spacing)
    first, last = span[0] - _SLACK * spacing, span[1] + _SLACK * spacing
    paths = Paths(recording, continuous)
    means = motion.displacement_means(paths, findings.windows, along, remove_drift=remove_drift)
    whole, *parts = (motion.displacement_table(one, spacing, frames) for one in means)
    shown = {name: values[:lags] for name, values in whole.items()}
    findings.tables["msd"] = with_errors(shown, parts, ("time_fs",))
    if not recording.constant_cell:
        findings.notes.append(
            "the cell changes: paths are sums of displacements between frames, so that its own "
            "motion does not count"
        )
    if np.sum((whole["time_fs"] >= first) & (whole["time_fs"] <= last)) < 2:
        findings.notes.append(
            "no diffusion coefficients: less than two time differences lie between "
            f"{span[0]:g} and {span[1]:g} fs: give fewer --blocks, or another --fit within one"
        )
        return
    for symbol in recording.species:
        values = [
            1000
            * diffusion_coefficient(
                one, symbol, start_fs=first, stop_fs=last, dimensions=len(along)
            )
            for one in (whole, *parts)
        ]
        exponent = _exponent(whole["time_fs"], whole[f"msd_{symbol}_A2"], (first, last))
        _add_diffusion(findings, symbol, "Einstein", values, span, exponent)


def add_velocities(
    findings: Findings,
    along: Float[np.ndarray, "directions 3"],
    *,
    remove_drift: bool,
    lag_fs: float | int | None,
    window: str,
) -> None:
    """Add ``vacf`` and ``dos``, and Green and Kubo's diffusion coefficients to ``diffusion``.

    Args: as those of :func:`md.analysis.analyse`.

    Raises:
        ValueError: if there are no velocities, no even time axis, or no such time difference.
    """
    recording = findings.recording
    if recording.velocities is None:
        raise ValueError(
            f"{recording.source.path} holds no velocities, and differences of positions are no "
            "substitute"
        )
    spacing = recording.spacing_fs()
    lags = _lags(findings, "vacf", lag_fs, findings.block, default_fs=_VACF_LAG_FS)
    means = motion.velocity_means(recording, findings.windows, along, remove_drift=remove_drift)
    if findings.wants("vacf"):
        tables = [motion.velocity_table(one, spacing, lags, len(along)) for one in means]
        findings.tables["vacf"] = with_errors(tables[0], tables[1:], ("time_fs",))
        span = (0.0, float(tables[0]["time_fs"][-1]))
        for symbol in recording.species:
            values = [float(one[f"integral_{symbol}_A2_per_ps"][-1]) for one in tables]
            _add_diffusion(findings, symbol, "Green-Kubo", values, span)
    if findings.wants("dos"):
        tables = [motion.density_table(one, recording, spacing, lags, window) for one in means]
        axes = ("frequency_THz", "wavenumber_per_cm")
        findings.tables["dos"] = with_errors(tables[0], tables[1:], axes)
        findings.settings["dos"] = {
            "window": window,
            "longest_lag_fs": (lags - 1) * spacing,
            "highest_frequency_THz": 500 / spacing,  # above it, lines are folded back
        }


def _lags(
    findings: Findings, name: str, given: float | int | None, most: int, default_fs: float
) -> int:
    """Number of time differences, of which there can be ``most``."""
    recording = findings.recording
    spacing, path = recording.spacing_fs(), recording.source.path
    longest = (most - 1) * spacing
    if given is not None and not 0 < given <= longest + _SLACK * spacing:
        raise ValueError(
            f"{path}: {name}: the longest time difference must lie between 0 and {longest:g} fs"
            + (", a block (give fewer --blocks)" if most < len(recording.numbers) else "")
            + f", not be {given:g} fs"
        )
    lags = int(min(default_fs if given is None else given, longest) / spacing + _SLACK) + 1
    if lags < 2:
        raise ValueError(
            f"{path}: {name}: frames {spacing:g} fs apart, {most} in a block, are too few or too "
            "far apart"
        )
    return lags


def _fit(findings: Findings, given: Span | None, block_fs: float) -> tuple[float, float]:
    """Between which time differences the line is fitted."""
    first, last = given or (_FIT[0] * block_fs, _FIT[1] * block_fs)
    if given is not None and not 0 <= first < last <= block_fs * (1 + 1e-6):
        raise ValueError(
            f"{findings.recording.source.path}: msd: the fit, from {first:g} to {last:g} fs, must "
            f"lie within a block of {block_fs:g} fs: give fewer --blocks, or other times"
        )
    return float(first), float(last)


def _exponent(time: np.ndarray, values: np.ndarray, span: tuple[float, float]) -> float:
    """Slope of log MSD against log τ: 1 where atoms diffuse, 2 where they fly, 0 at rest."""
    inside = (time >= span[0]) & (time <= span[1]) & (time > 0) & (values > 0)
    if inside.sum() < 2:
        return np.nan
    return float(np.polyfit(np.log(time[inside]), np.log(values[inside]), 1)[0])


def _add_diffusion(
    findings: Findings,
    symbol: str,
    method: str,
    values: list[float],
    span: tuple[float, float],
    exponent: float = np.nan,
) -> None:
    """Add a row to the table of diffusion coefficients.

    Args:
        values: Å²/ps, from all frames and from each block.
        span: fs, of the fit or of the integral.
        exponent: of the fitted part of the MSD.
    """
    error = float(standard_error(values[1:]))
    row: dict[str, Any] = {
        "species": symbol,
        "method": method,
        "D_A2_per_ps": values[0],
        "D_A2_per_ps_error": error,
        "D_cm2_per_s": values[0] * 1e-4,
        "D_cm2_per_s_error": error * 1e-4,
        "from_fs": span[0],
        "to_fs": span[1],
        "exponent": exponent,
        "blocks": len(values) - 1,
    }
    table = findings.tables.setdefault("diffusion", {name: [] for name in row})
    for name, value in row.items():
        table[name].append(value)
