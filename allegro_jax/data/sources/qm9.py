"""The files of QM9 (Ramakrishnan et al., Sci. Data 1, 140022 (2014)), one molecule in each."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from allegro_jax.data.conventions import Record
from allegro_jax.data.frames import DataError
from allegro_jax.data.units import HARTREE

# The columns after "gdb <number>": see the paper's Table 3. Energies are in Hartree.
PROPERTIES = (
    *("A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve"),
    *("U0", "U", "H", "G", "Cv"),
)


def is_molecule(head: bytes) -> bool:
    """Whether a file that begins so is a molecule of QM9."""
    lines = head.split(b"\n", 2)
    return len(lines) > 1 and lines[0].strip().isdigit() and lines[1].startswith(b"gdb")


def read(path: Path) -> Iterator[Record]:
    """The molecules of an archive, in its order, or the molecule of one file.

    The energy is U0, at 0 K; ``energy_key`` may name another of ``U0``, ``U``, ``H``, ``G``.

    Raises:
        DataError: a file that is not as QM9's are.
    """
    if not tarfile.is_tarfile(path):
        yield molecule(path.read_text())
        return
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and member.name.endswith(".xyz"):
                file = archive.extractfile(member)
                assert file is not None
                try:
                    yield molecule(file.read().decode())
                except DataError as error:
                    raise DataError(f"{member.name}: {error}") from None


def molecule(text: str) -> Record:
    """One molecule. Mathematica's powers of ten, ``1.2*^-5``, are among its numbers."""
    lines = io.StringIO(text.replace("*^", "e"))
    try:
        count = int(next(lines))
        head = next(lines).split()
        rows = [next(lines).split() for _ in range(count)]
        numbers = np.asarray([atomic_numbers[row[0]] for row in rows])
        positions = np.asarray([row[1:4] for row in rows], float).reshape(-1, 3)
        values = dict(zip(PROPERTIES, map(float, head[2:]), strict=True))
    except (ValueError, KeyError, IndexError, StopIteration) as error:
        detail = f"{type(error).__name__}: {error}"
        raise DataError(f"not a molecule of QM9 ({detail})") from None
    labels = {**values, "energy": values["U0"], "gdb": int(head[1])}
    return Record(numbers, positions, labels=labels, units=HARTREE)
