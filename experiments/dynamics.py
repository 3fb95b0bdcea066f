"""Run the dynamics an experiment describes, analyse it beside its reference, write the comparison.

    python experiments/dynamics.py li3po4_dynamics                   all runs, table and figure
    python experiments/dynamics.py li3po4_dynamics --only modern     one of its runs
    python experiments/dynamics.py li3po4_dynamics --seeds 1         fewer seeds
    python experiments/dynamics.py li3po4_dynamics --table           table and figure alone

An experiment is a folder with ``dynamics.yaml`` (what :class:`Dynamics` says), the run files it
names, and a README, in which the table is kept up to date. Everything is done by ``allegro-jax md``
and ``allegro-jax analyse``, which are printed as they are called. Trajectories and analyses are in
``runs``; a run that was interrupted goes on, a finished one is not repeated. The numbers are kept
in ``results.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import arrhenius
import dynamics_figure as figure
import dynamics_report as report
import yaml
from arrhenius import Arrhenius
from curves import Curves
from experiment import Origin
from reproduce import EXPERIMENTS, allegro, lay_out_data

REFERENCE = "reference"


@dataclasses.dataclass(frozen=True)
class Run:
    """One column of the table: a model, a schedule, several seeds.

    Attributes:
        label: its name in table and figure.
        model: a model file.
        structure: where it starts.
        run_file: the schedule.
        start: from when on it is analysed, ``"68ps"``.
        seeds: one run each.
        options: more of ``allegro-jax md``, by name.
        analysis: options of ``allegro-jax analyse``, instead of those of all.
        against: what its distributions are compared with: ``reference``, or the name of curves.
        aside: whether table and figure leave it out: it is a point of the Arrhenius plot only.
        by_name: whether it only runs when ``--only`` asks for it.
    """

    label: str
    model: str
    structure: str
    run_file: str
    start: str
    seeds: tuple[int, ...] = (0,)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    analysis: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    against: str = REFERENCE
    aside: bool = False
    by_name: bool = False


@dataclasses.dataclass(frozen=True)
class Reference:
    """A trajectory of others, or frames of one in any order (then ``options`` say no ``msd``).

    Attributes:
        label: its name in table and figure.
        trajectory: the file.
        options: of ``allegro-jax analyse``, besides those of all: which frames, their time step.
    """

    label: str
    trajectory: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """A folder with run files, results and a README.

    Attributes:
        folder: the folder.
        title: what it shows.
        data_source: where the data come from, for messages.
        files: origin of every file in the folder ``data``.
        reference: what the runs are compared with.
        analysis: options of ``allegro-jax analyse``, of all trajectories.
        runs: what to run, by name.
        rows: of the table.
        panels: of the figure: ``table`` and ``column`` of an analysis.
        prepared: files in the folder ``data`` that its ``prepare.py`` makes.
        curves: radial distributions that others have published, by name.
        arrhenius: which runs make a series of temperatures.
    """

    folder: Path
    title: str
    data_source: str
    files: Mapping[str, Origin]
    reference: Reference
    analysis: Mapping[str, Any]
    runs: Mapping[str, Run]
    rows: tuple[report.Row, ...]
    panels: tuple[figure.Panel, ...]
    prepared: tuple[str, ...] = ()
    curves: Mapping[str, Curves] = dataclasses.field(default_factory=dict)
    arrhenius: Arrhenius | None = None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="a folder beside this file with a dynamics.yaml")
    parser.add_argument("--only", action="append", metavar="RUN", help="what to run")
    parser.add_argument("--seeds", type=int, help="this many of each run's seeds")
    parser.add_argument("--table", action="store_true", help="only table and figure")
    options = parser.parse_args()
    try:
        described = load(EXPERIMENTS / options.experiment)
        if not options.table:
            run_all(described, options.only, options.seeds)
        compare(described)
    except (ValueError, FileNotFoundError) as error:
        print(f"dynamics: {error}", file=sys.stderr)
        return 2
    return 0


def load(folder: Path) -> Dynamics:
    """Read ``dynamics.yaml``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a key is missing or unknown.
    """
    path = folder / "dynamics.yaml"
    if not path.is_file():
        known = sorted(one.parent.name for one in folder.parent.glob("*/dynamics.yaml"))
        raise FileNotFoundError(f"{path}: no such experiment; there are {', '.join(known)}")
    content = yaml.safe_load(path.read_text())
    series = content.pop("arrhenius", None)
    try:
        described = Dynamics(
            folder=folder,
            files={name: Origin.of(one) for name, one in content.pop("files").items()},
            reference=Reference(**content.pop("reference")),
            runs={
                name: Run(**one | {"seeds": tuple(one.get("seeds", (0,)))})
                for name, one in content.pop("runs").items()
            },
            rows=tuple(report.Row(**row) for row in content.pop("rows")),
            panels=tuple(figure.Panel(**panel) for panel in content.pop("panels")),
            prepared=tuple(content.pop("prepared", ())),
            curves={name: Curves(**one) for name, one in content.pop("curves", {}).items()},
            arrhenius=series and Arrhenius.of(series),
            **content,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    for name, run in described.runs.items():
        if run.against not in (REFERENCE, *described.curves):
            raise ValueError(f"{path}: {name}: against: no curves are named {run.against}")
    for name in (one for names in (series or {}).get("series", {}).values() for one in names):
        if name not in described.runs:
            raise ValueError(f"{path}: arrhenius: no run is named {name}")
    return described


def run_all(described: Dynamics, only: list[str] | None = None, seeds: int | None = None) -> None:
    """Run and analyse what is asked for, and the reference."""
    for name in only or []:
        if name not in described.runs:
            known = ", ".join(described.runs)
            raise ValueError(f"--only {name}: no such run; known are {known}")
    lay_out_data(described.folder, described.files, described.data_source)
    folder, reference = described.folder, described.reference
    output, trajectory = folder / "runs" / REFERENCE, folder / reference.trajectory
    options = described.analysis | reference.options
    analyse(trajectory, options, output / "analysis")
    for half, span in halves(json.loads((output / "analysis" / "summary.json").read_text())):
        analyse(trajectory, options | span, output / half)
    for name, run in described.runs.items():
        if name in only if only else not run.by_name:
            for seed in run.seeds[:seeds]:
                output = folder / "runs" / f"{name}-{seed}"
                simulate(folder, run, seed, output)
                for place, chosen in analyses_of(described, name).items():
                    analyse(output, chosen, output / place)


def analyse(trajectory: Path, options: Mapping[str, Any], output: Path) -> None:
    """Analyse a file or the folder of a run, unless this has been done in the same way."""
    kept, done = output / "options.json", output / "summary.json"
    source = trajectory / "log.csv" if trajectory.is_dir() else trajectory
    text = json.dumps(options)
    newer = done.is_file() and done.stat().st_mtime > source.stat().st_mtime
    if newer and kept.is_file() and kept.read_text() == text:
        return
    allegro("analyse", trajectory, *flags(options), "--output", output)
    kept.write_text(text)


def analyses_of(described: Dynamics, name: str) -> dict[str, dict[str, Any]]:
    """Options of the analyses of a run, by the folder in that of the run that they go to."""
    run, series = described.runs[name], described.arrhenius
    found = {}
    if not run.aside:
        found["analysis"] = {**described.analysis, "from": run.start, **run.analysis}
    if series is not None and any(name in names for names in series.series.values()):
        found["arrhenius"] = {"from": run.start, **series.analysis}
    return found


def simulate(folder: Path, run: Run, seed: int, output: Path) -> None:
    """Start a run, go on with it, or do nothing where it is finished."""
    total = steps_of(yaml.safe_load((folder / run.run_file).read_text()))
    if not (folder / run.model).is_file():
        raise FileNotFoundError(
            f"{folder / run.model} is missing: train it first (experiments/reproduce.py)"
        )
    log = output / "log.csv"
    if log.is_file() and report.read(log)["step"][-1] >= total:
        return
    words = flags({"run-file": folder / run.run_file, "seed": seed} | run.options)
    if (output / "checkpoint.npz").is_file():
        words.append("--restart")
    allegro("md", folder / run.model, folder / run.structure, *words, "--output", output)


def compare(described: Dynamics) -> None:
    """Put the numbers of all finished analyses into results.json, the README and the figure.

    What is not in ``runs`` keeps the numbers that it has in results.json; then the figure, which
    would lack its curves, stays as it is.
    """
    folder, before = described.folder / "runs", stored(described)
    kept: Mapping[str, Any] = before.get("rows", {})
    columns: dict[str, Any] = {}
    absent, shown = [], {}
    published, reference = {}, None
    if REFERENCE in kept and not (folder / REFERENCE).is_dir():
        columns[REFERENCE] = kept[REFERENCE]
        absent.append(REFERENCE)
    else:
        reference = report.Found.read(folder / REFERENCE / "analysis")
        columns[REFERENCE] = {"0": reference.numbers() | noise(folder / REFERENCE)}
        shown[described.reference.label] = [reference]
    for name, curves in described.curves.items():
        if name in kept and not curves.are_in(described.folder):
            columns[name] = kept[name]
            absent.append(name)
        else:
            published[name] = curves.read(described.folder)
            columns[name] = {"0": published[name].numbers()}
    for name, run in described.runs.items():
        found = dict(analyses(folder, name, run)) if reference is not None else {}
        if found:
            shown[run.label] = [
                one.with_log(report.read(folder / f"{name}-{seed}" / "log.csv"))
                for seed, one in found.items()
            ]
            other = reference if run.against == REFERENCE else published[run.against]
            columns[name] = {
                seed: one.numbers()
                | report.distances(one.tables, other.tables)
                | of_log(folder / f"{name}-{seed}", run.start, one)
                for seed, one in found.items()
            }
        elif name in kept:
            columns[name] = kept[name]
            absent.append(name)
    results: dict[str, Any] = {"rows": columns}
    readme, last = described.folder / "README.md", None
    if described.arrhenius is not None:
        results["arrhenius"] = before.get("arrhenius", {}) | temperatures(described)
        lines = arrhenius.lines(described.arrhenius, results["arrhenius"])
        report.write_table(readme, arrhenius.table(lines), (arrhenius.BEGIN, arrhenius.END))
        last = functools.partial(arrhenius.draw, found=lines)
    (described.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report.write_table(readme, table(described, columns))
    if absent:
        print(f"figure.png stays as it is: there are no curves here of {', '.join(absent)}")
        return
    dashed = {described.curves[name].label: one for name, one in published.items()}
    figure.draw(described.panels, shown, described.folder / "figure.png", dashed, last)


def stored(described: Dynamics) -> Mapping[str, Any]:
    """What results.json holds, if there is one."""
    path = described.folder / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def temperatures(described: Dynamics) -> dict[str, dict[str, dict[str, float]]]:
    """Temperature of the bath and diffusion coefficient, for the Arrhenius plot, by seed."""
    folder, series = described.folder / "runs", described.arrhenius
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name in (one for names in series.series.values() for one in names):
        run = described.runs[name]
        for seed, found in analyses(folder, name, run, "arrhenius"):
            log = of_log(folder / f"{name}-{seed}", run.start, found)
            one = {"bath K": log["bath K"][0]} | arrhenius.diffusion(series, found)
            results.setdefault(name, {})[seed] = one
    return results


def table(described: Dynamics, columns: Mapping[str, Mapping[str, report.Numbers]]) -> str:
    """Markdown: a row for each quantity, a column for the reference, each curve and each run."""
    labels = {REFERENCE: described.reference.label}
    labels |= {name: curves.label for name, curves in described.curves.items()}
    runs = {name: run.label for name, run in described.runs.items() if name in columns}
    labels |= runs
    seeds = {name: len(columns[name]) for name in labels}
    titles = [
        f"{label} ({seeds[name]} seed{'s' * (seeds[name] > 1)})" if name in runs else label
        for name, label in labels.items()
    ]
    return report.markdown(titles, described.rows, [list(columns[n].values()) for n in labels])


def analyses(
    folder: Path, name: str, run: Run, kind: str = "analysis"
) -> Iterator[tuple[str, report.Found]]:
    """What was found of each seed that has been analysed."""
    for seed in run.seeds:
        place = folder / f"{name}-{seed}" / kind
        if (place / "summary.json").is_file():
            yield str(seed), report.Found.read(place)


def noise(folder: Path) -> report.Numbers:
    """How far the halves of the reference are from each other."""
    one, other = (report.Found.read(folder / half).tables for half in ("first", "second"))
    return report.distances(one, other)


def of_log(folder: Path, start: str, found: report.Found) -> report.Numbers:
    """What the log of a run tells of the part that was analysed."""
    return report.of_log(report.read(folder / "log.csv"), start, found.summary["atoms"])


def halves(summary: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    """Options that cut the frames of an analysis in two."""
    first, end = summary["first_frame"], summary["last_frame"] + 1
    middle = (first + end) // 2
    yield "first", {"from": first, "to": middle, "blocks": 1}
    yield "second", {"from": middle, "to": end, "blocks": 1}


def steps_of(run_file: Mapping[str, Any]) -> int:
    """How many steps a run file asks for."""
    stages = run_file.get("stages", [run_file])
    return sum(stage["steps"] for stage in stages)


def flags(options: Mapping[str, Any]) -> list[str]:
    """Command line options: ``{"rdf": True, "adf": ["O-P-O"]}`` as ``--rdf --adf O-P-O``."""
    words = []
    for name, value in options.items():
        if value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        words += [f"--{name}", *map(str, values)]
    return words


if __name__ == "__main__":
    sys.exit(main())
