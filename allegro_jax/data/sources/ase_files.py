"""Files that ASE reads: extended XYZ, and the output of first-principles programs."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ase
import ase.io
from ase.io.aims import read_aims_output
from ase.io.extxyz import read_xyz
from ase.io.formats import open_with_compression

from allegro_jax.data.conventions import DEFAULT_CONVENTIONS, UNCONVERGED, Conventions, Record
from allegro_jax.data.frames import DataError, Frame


def record(atoms: ase.Atoms, flaw: str | None = None) -> Record:
    """An ``ase.Atoms`` with its labels, wherever ASE has put them."""
    # ASE's readers move the names it knows ("energy", "forces", "stress") into a calculator
    labels: dict[str, Any] = {}
    for store in (getattr(atoms.calc, "results", None) or {}, atoms.arrays, atoms.info):
        labels |= {name: value for name, value in store.items() if value is not None}
    for own in ("numbers", "positions"):
        labels.pop(own, None)
    return Record(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, labels, flaw=flaw)


def frame_from_atoms(
    atoms: ase.Atoms,
    conventions: Conventions = DEFAULT_CONVENTIONS,
    source: str = "",
    index: int = 0,
) -> Frame:
    """The structure and labels of an ``ase.Atoms``.

    Raises:
        DataError: a label has a wrong shape or is not numeric.
    """
    return conventions.frame(record(atoms), source, index)


def read_extxyz(path: Path) -> Iterator[Record]:
    """Frames of an extended XYZ file, also compressed, one at a time."""
    with open_with_compression(path, "rt") as file:
        for text in _blocks(file):
            for atoms in read_xyz(io.StringIO(text), index=slice(None)):
                yield record(atoms)


def read_ase(path: Path, name: str) -> Iterator[Record]:
    """Frames of a file in one of ASE's formats: every step of a relaxation or dynamics."""
    with warnings.catch_warnings():
        # FHI-aims' reader is to move to a package of its own
        warnings.simplefilter("ignore", FutureWarning)
        if name == "aims-output":
            text = io.StringIO(_finished_steps(path))
            images = iter(read_aims_output(text, slice(None), non_convergence_ok=True))
        else:
            images = ase.io.iread(path, ":", format=name, do_not_split_by_at_sign=True)
        flaws = _FLAWS.get(name, lambda path: iter(()))(path)
        for atoms in images:
            flaw = next(flaws, None)
            found = record(atoms, flaw)
            if name == "espresso-out" and "energy" not in found.labels:
                # the program marks the energies of converged steps alone
                found = record(atoms, UNCONVERGED)
            yield found


def _finished_steps(path: Path) -> str:
    """The output of FHI-aims up to its last finished step.

    ASE gives a step that a killed run left without its structure the first structure of the run,
    and refuses all steps for one without energy.
    """
    with open_with_compression(path, "rt") as file:
        text = file.read()
    before, again, last = text.rpartition("Begin self-consistency loop: Re-initialization")
    needed = ["| Electronic free energy"]
    if (structure := "as used in the preceding time step") in before:
        needed.append(structure)
    return text if not again or all(words in last for words in needed) else before


def _blocks(file: Iterator[str]) -> Iterator[str]:
    """The text of each frame: the number of atoms, the comment, and a line for each atom."""
    for line in file:
        if not line.strip():
            continue
        try:
            count = int(line)
        except ValueError:
            raise DataError(f"expected a number of atoms, found {line.strip()[:40]!r}") from None
        rest = list(islice(file, count + 1))
        if len(rest) < count + 1:
            raise DataError(f"ends after {max(len(rest) - 1, 0)} of {count} atoms")
        yield "".join([line, *rest])


# -- what the programs say of their electronic steps -----------------------------------------------


def _outcar_flaws(path: Path) -> Iterator[str | None]:
    """For each ionic step of an OUTCAR whether its electronic steps failed to converge."""
    limit, steps, reached, failed = None, 0, False, False
    with open_with_compression(path, "rt") as file:
        for line in file:
            if limit is None and (match := re.match(r"\s*NELM\s*=\s*(\d+)", line)):
                limit = int(match[1])
            elif "Iteration" in line and line.lstrip().startswith("-"):
                steps += 1
            elif "EDIFF is reached" in line:
                reached = True
            elif "EDIFF was not reached" in line:
                failed = True
            elif "FREE ENERGIE OF THE ION-ELECTRON SYSTEM" in line:
                stopped = limit is not None and steps >= limit and not reached
                yield UNCONVERGED if failed or stopped else None
                steps, reached, failed = 0, False, False


def _vasprun_flaws(path: Path) -> Iterator[str | None]:
    """For each ionic step of a vasprun.xml whether its electronic steps ran into their limit."""
    limit, steps = None, 0
    with open_with_compression(path, "rt") as file:
        for line in file:
            if match := re.search(r'name="NELM">\s*(\d+)', line):
                limit = int(match[1])
            elif "<scstep>" in line:
                steps += 1
            elif "</calculation>" in line:
                yield UNCONVERGED if limit is not None and steps >= limit else None
                steps = 0


_FLAWS = {"vasp-out": _outcar_flaws, "vasp-xml": _vasprun_flaws}
