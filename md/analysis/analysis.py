"""analyse(): what users call."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from md.analysis import motion, report
from md.analysis.blocks import windows
from md.analysis.connectivity import add_bonds
from md.analysis.findings import Asked, Findings
from md.analysis.motion_tables import Span, add_displacements, add_velocities
from md.analysis.recording import record
from md.analysis.sources import open_source
from md.analysis.structure_tables import BondLengths, add_structure


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a trajectory tells.

    Attributes:
        tables: by name, columns of equal length: ``rdf``, ``coordination``, ``shells``, ``adf``,
            ``bonds``, ``msd``, ``diffusion``, ``vacf``, ``dos``; units are in the names of the
            columns. ``NAME_error`` is the standard error of the column before it.
        summary: numbers and settings, as summary.json has them.
        left_out: why a quantity is not there, by its name.
    """

    tables: dict[str, dict[str, Any]]
    summary: dict[str, Any]
    left_out: dict[str, str]

    def __str__(self) -> str:
        return report.text(self.summary)


def analyse(
    trajectory: str | os.PathLike[str],
    *,
    rdf: Asked = None,
    coordination: Asked = None,
    adf: Asked = None,
    bonds: Asked = None,
    msd: bool | None = None,
    vacf: bool | None = None,
    dos: bool | None = None,
    start: int | str | None = None,
    stop: int | str | None = None,
    every: int = 1,
    structure_every: int = 1,
    timestep_fs: float | int | None = None,
    blocks: int = 5,
    cutoff: float | int = 10.0,
    bins: int = 200,
    angle_bins: int = 180,
    bond_lengths: BondLengths = None,
    msd_lag_fs: float | int | None = None,
    vacf_lag_fs: float | int | None = None,
    fit_fs: Span | None = None,
    axes: str | None = None,
    remove_drift: bool = True,
    continuous: bool = False,
    window: str = "hann",
    format: str | None = None,
    species: Mapping[int, str] | None = None,
    structure_file: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
) -> Analysis:
    """Structure and motion of atoms along a trajectory, with errors from blocks of time.

    Where no quantity is named, all that the file allows, but for those that are said to be false;
    ``left_out`` says why others are not there. A quantity that is named and cannot be had is an
    error.

    Args:
        trajectory: a file that ASE reads, an H5MD file, or the folder of a run.
        rdf: radial distributions; or pairs of symbols, ``["P-O"]``, that are of interest.
        coordination: numbers of neighbours in the first shell; or pairs, the centre first.
        adf: angles between bonds; or triples, ``["O-P-O"]``, the centre in the middle.
        bonds: lengths of the bonds of the first frame, and which break or are new; or pairs. Only
            where it is named.
        msd: mean squared displacements, and diffusion coefficients by Einstein's relation.
        vacf: velocity autocorrelations, and diffusion coefficients by that of Green and Kubo.
        dos: vibrational densities of states.
        start, stop: first frame, and the one before which to stop; or times, such as ``"5ps"``.
        every: take every so many frames.
        structure_every: of these, look at every so many for distances and angles.
        timestep_fs: time between two frames of the file, where it does not say.
        blocks: blocks of time that errors are taken from.
        cutoff: largest distance of ``rdf``, Å; also beyond half the cell.
        bins, angle_bins: of distances and of angles.
        bond_lengths: Å, below which two atoms are neighbours: for all pairs, or by pair
            (``{"P-O": 2.1}``). Where not given the first minimum of g(r), of ``bonds`` 1.25 times
            the sum of the covalent radii.
        msd_lag_fs: longest time difference of ``msd``; half the length unless given.
        vacf_lag_fs: that of ``vacf`` and ``dos``; 2000 fs unless given, but at most a block.
        fit_fs: between which time differences the line is fitted whose slope is the diffusion
            coefficient; 20% to 50% of a block unless given.
        axes: directions in which motion counts, such as ``"xy"``; unless given all, or where only
            some directions repeat those.
        remove_drift: whether motion is seen from the centre of mass of the atoms in the file.
        continuous: whether positions are known not to jump at the boundary of the cell.
        window: of the densities of states, ``"hann"`` or ``"none"``.
        format: of the file, as ASE names it, or ``"h5md"``, where its name does not tell.
        species: elements of the types that the file counts instead of naming them.
        structure_file: a structure that has the elements, where the file has none.
        output: folder for CSV files, figures and summary.json; nothing is written without.

    Raises:
        ValueError: for what cannot be understood or done; one line that names the file, the frame
            and the field.
    """
    positive = {"structure_every": structure_every, "blocks": blocks, "cutoff": cutoff,
                "bins": bins, "angle_bins": angle_bins}  # fmt: skip
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")
    if window not in ("hann", "none"):
        raise ValueError(f'window must be "hann" or "none", not {window!r}')
    asked = {"rdf": rdf, "coordination": coordination, "adf": adf, "bonds": bonds or False,
             "msd": msd, "vacf": vacf, "dos": dos}  # fmt: skip
    source = open_source(trajectory, format=format, species=species, structure=structure_file)
    recording = record(source, start=start, stop=stop, every=every, timestep_fs=timestep_fs)
    along = motion.directions(recording, axes)
    findings = Findings(recording, asked, windows(len(recording.numbers), blocks))
    findings.notes.extend(source.notes)
    findings.settings |= {
        "blocks": len(findings.windows) - 1,
        "directions": along.round(6).tolist(),
        "drift_removed": remove_drift,
    }
    add_structure(
        findings,
        every=structure_every,
        cutoff=float(cutoff),
        bins=bins,
        angle_bins=angle_bins,
        bond_lengths=bond_lengths,
    )

    add_bonds(findings, every=structure_every, bond_lengths=bond_lengths)

    def displacements() -> None:
        add_displacements(
            findings,
            along,
            remove_drift=remove_drift,
            continuous=continuous or source.continuous,
            lag_fs=msd_lag_fs,
            fit_fs=fit_fs,
        )

    def velocities() -> None:
        add_velocities(
            findings, along, remove_drift=remove_drift, lag_fs=vacf_lag_fs, window=window
        )

    if findings.wants("msd"):
        findings.attempt(["msd"], displacements)
    if findings.wants("vacf") or findings.wants("dos"):
        findings.attempt(["vacf", "dos"], velocities)
    analysis = Analysis(findings.tables, report.summary(findings), findings.left_out)
    if output is not None:
        report.write(Path(output), analysis.tables, analysis.summary)
    return analysis
