"""Labelled structures from files of many formats, checked, in eV and Å."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from allegro_jax.data import named_sets
from allegro_jax.data.checks import Problem, frame_problems
from allegro_jax.data.conventions import DEFAULT_CONVENTIONS, Conventions, Record
from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.sources.ase_files import frame_from_atoms
from allegro_jax.data.sources.formats import expand, find_format, reader
from allegro_jax.data.sources.named import conventions_of

Report = Callable[[Problem], object]
"""What is to be done about a problem; frames that have one are left out."""

__all__ = [
    "Report",
    "expand",
    "find_format",
    "frame_from_atoms",
    "iter_frames",
    "raise_problem",
    "read_frames",
]


def read_frames(
    paths: str | Path | Sequence[str | Path],
    conventions: Conventions = DEFAULT_CONVENTIONS,
    *,
    species: Sequence[str] | None = None,
    require_labels: bool = True,
    report: Report | None = None,
) -> list[Frame]:
    """All frames of files, checked: :func:`iter_frames` as a list."""
    return list(
        iter_frames(
            paths, conventions, species=species, require_labels=require_labels, report=report
        )
    )


def iter_frames(
    paths: str | Path | Sequence[str | Path],
    conventions: Conventions = DEFAULT_CONVENTIONS,
    *,
    species: Sequence[str] | None = None,
    require_labels: bool = True,
    report: Report | None = None,
) -> Iterator[Frame]:
    """The frames of files, one at a time, checked.

    Args:
        paths: files, folders (the files in them that can be read), patterns (``runs/*/OUTCAR``)
            and published sets (``set:3bpa/train_300K``), which are fetched.
        conventions: names, units and signs of the labels; published sets have their own.
        species: chemical symbols that may occur; ``None`` for any.
        require_labels: refuse frames that carry no label at all.
        report: called with each problem; the frame is then left out, and of a file that cannot be
            read the rest. ``None``: the first problem is raised.

    Raises:
        DataError: naming file, frame (counted from 0) and field.
    """
    report = report or raise_problem
    for entry in [paths] if isinstance(paths, str | Path) else paths:
        for path in expand(entry):
            how = conventions
            if named_sets.is_named(path):
                named_sets.fetch(path)  # what cannot be had is not for the policy to skip
                how = conventions_of(path)
            for index, record in _records(path, how.format, report):
                try:
                    frame = how.frame(record, str(path), index)
                except DataError as error:
                    report(Problem.of(error, str(path), index))
                    continue
                problems = list(frame_problems(frame, species=species))
                if record.flaw is not None:
                    problems.append(Problem(str(path), index, "labels", record.flaw))
                elif require_labels and frame.energy is None and frame.forces is None:
                    problems.append(_no_labels(frame, record, how))
                for problem in problems:
                    report(problem)
                if not problems:
                    yield frame


def _records(path: Path, name: str | None, report: Report) -> Iterator[tuple[int, Record]]:
    """The records of a file, numbered; what goes wrong while reading it is reported."""
    index = 0
    try:
        for record in reader(path, name)(path):
            yield index, record
            index += 1
    except DataError as error:
        report(Problem.of(error, str(path), index or None))
    except Exception as error:  # ASE's readers raise what they like
        detail = " ".join(str(error).split()) or type(error).__name__
        text = f"cannot be read ({detail}); name its format with data.format, or mend it"
        report(Problem(str(path), index or None, "file", text))
    else:
        if not index:
            report(Problem(str(path), None, "file", "holds no frames"))


def _no_labels(frame: Frame, record: Record, conventions: Conventions) -> Problem:
    there = ", ".join(map(repr, record.labels))
    found = f"it holds {there}" if there else "it holds positions alone"
    return Problem(
        frame.source,
        frame.index,
        "labels",
        f"neither an energy (key {conventions.energy_key!r}) nor forces (key "
        f"{conventions.forces_key!r}); {found}; set data.energy_key and data.forces_key to the "
        "names used",
    )


def raise_problem(problem: Problem) -> None:
    """What is done about a problem where nothing else is said."""
    raise DataError(str(problem))
