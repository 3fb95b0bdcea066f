"""Which distances, shells and angles are looked at, and the tables they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from md.analysis import structure
from md.analysis.findings import Findings
from md.analysis.shells import Bonds, Pair, Triple, bonds, known_as
from md.distributions import Symbols, symbols_of

BondLengths = Mapping[Symbols, float | int] | float | int | None


def add_structure(
    findings: Findings,
    *,
    every: int,
    cutoff: float,
    bins: int,
    angle_bins: int,
    bond_lengths: BondLengths,
) -> None:
    """Add ``rdf``, ``coordination``, ``shells`` and ``adf``, as far as they are wanted.

    Args: as those of :func:`md.analysis.analyse`.
    """
    recording = findings.recording
    pairs = findings.symbols("rdf", 2)
    centred: list[Pair] | None = findings.symbols("coordination", 2)
    triples: list[Triple] | None = findings.symbols("adf", 3)
    said = lengths_said(findings, bond_lengths)
    needed = _needed(findings, centred, triples)
    searched = any(known_as(pair, said) not in said for pair in needed)
    shapes = None
    if findings.wants("rdf") or searched:
        table, shapes = structure.radial(recording, findings.windows, every, cutoff, bins, pairs)
        if findings.wants("rdf"):
            findings.tables["rdf"] = dict(table)
            findings.settings["rdf"] = {"cutoff_A": cutoff, "bins": bins, "every_frames": every}
            if not all(recording.source.pbc):
                findings.notes.append(
                    "no g(r), only numbers n(r) of neighbours: without three periodic directions "
                    "there is no density to compare with"
                )
    if not needed:
        return
    found = bonds(recording.species, said, shapes)
    _report_bonds(findings, found, needed)
    if findings.wants("coordination"):
        findings.attempt(["coordination"], lambda: _coordination(findings, every, found, centred))
    if findings.wants("adf"):
        findings.attempt(["adf"], lambda: _angles(findings, every, found, triples, angle_bins))


def _needed(
    findings: Findings, centred: list[Pair] | None, triples: list[Triple] | None
) -> set[Pair]:
    """Pairs whose bond lengths are needed."""
    everything = _all_pairs(findings)
    needed: set[Pair] = set()
    if findings.wants("coordination"):
        needed |= set(everything if centred is None else centred)
    if findings.wants("adf"):
        needed |= set(everything if triples is None else _bonds_of(triples))
    return needed


def _all_pairs(findings: Findings) -> list[Pair]:
    species = findings.recording.species
    return [(a, b) for a in species for b in species]


def _bonds_of(triples: Sequence[Triple]) -> list[Pair]:
    return [pair for a, b, c in triples for pair in ((a, b), (b, c))]


def lengths_said(findings: Findings, said: BondLengths) -> dict[Pair, float]:
    """The lengths that the user has said, checked."""
    if said is None:
        return {}
    given = dict.fromkeys(_all_pairs(findings), said) if isinstance(said, int | float) else said
    species, lengths = findings.recording.species, {}
    for one, length in given.items():
        a, b = symbols_of(one, 2)
        if not {a, b} <= set(species):
            raise ValueError(
                f"{findings.recording.source.path}: bond_lengths: {a}-{b} are not both among its "
                f"species, {', '.join(species)}"
            )
        if not length > 0:
            raise ValueError(f"bond_lengths: that of {a}-{b} must be positive, not {length}")
        lengths[a, b] = float(length)
    return lengths


def _report_bonds(findings: Findings, found: Bonds, needed: set[Pair]) -> None:
    absent = [pair for pair in found.absent if pair in needed or (pair[1], pair[0]) in needed]
    if absent:
        names = ", ".join("-".join(pair) for pair in absent)
        findings.notes.append(
            f"no first minimum in the radial distributions of {names}: say their bond lengths "
            "(--bond-lengths) to have their shells and angles"
        )
    findings.settings["bond_lengths_A"] = {
        "-".join(pair): round(length, 4) for pair, length in found.lengths.items()
    }


def _coordination(findings: Findings, every: int, found: Bonds, centred: list[Pair] | None) -> None:
    chosen = _all_pairs(findings) if centred is None else centred
    known = _known(findings, "coordination", chosen, found, named=centred is not None)
    table, rows = structure.coordination(findings.recording, findings.windows, every, found, known)
    findings.tables["coordination"], findings.tables["shells"] = dict(table), rows


def _angles(
    findings: Findings, every: int, found: Bonds, triples: list[Triple] | None, bins: int
) -> None:
    chosen = _all_pairs(findings) if triples is None else _bonds_of(triples)
    _known(findings, "adf", chosen, found, named=triples is not None)
    table = structure.angles(findings.recording, findings.windows, every, found, triples, bins)
    findings.tables["adf"] = dict(table)


def _known(
    findings: Findings, name: str, pairs: Sequence[Pair], found: Bonds, *, named: bool
) -> list[Pair]:
    """The pairs that have a bond length: all of them must where the user has named them."""
    known = [pair for pair in pairs if known_as(pair, found.lengths) in found.lengths]
    missing = list(dict.fromkeys("-".join(pair) for pair in pairs if pair not in known))
    if not known or (missing and named):
        raise ValueError(
            f"{findings.recording.source.path}: {name}: no first minimum in the radial "
            f"distributions of {', '.join(missing)}: give --bond-lengths (bond_lengths)"
        )
    return known
