"""Training: allegro-jax against nequip-train, on the same data, model, batches and cores.

    cd experiments/benchmarks
    python training.py --reference-python ~/nequip-environment/bin/python --json training.json

Without ``--reference-python`` (or ``--setup FOLDER``, which makes such an environment) only
allegro-jax is timed. Everything is in float32. Three parts, each of which ``--only`` chooses:

``step``: a step of training, by Adam: model, loss, gradient, change of the weights. Ours is the
step that the trainer compiles; nequip's is what ``nequip-train`` does in one, eager and compiled
(``compile_mode: compile``), without Lightning's bookkeeping. All start from the same weights, see
the same batches and take turns; medians. Steps in training follow one another, so where they are
short every contender's turn begins with one that does not count (``racing.in_turns``).

``epoch``: ``allegro-jax train`` against ``nequip-train``, whole programs as a user starts them, on
acetylacetone (``training_epoch.py``).

``memory``: of a process that takes three steps, at its peak and after them. Of small batches our
peak is that of the compiler.

On a machine with a GPU both use it, and its utilisation is printed as well.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from racing import Utilisation, in_turns, peak_bytes, pin, processor, resident_bytes, say
from reference import (
    CUTOFF,
    SPECIES,
    Reference,
    add_arguments,
    model_settings,
    our_potential,
    set_up,
    versions,
    write_structure,
)
from training_epoch import race_epochs

OURS, MUON, EAGER, COMPILED = "allegro-jax", "allegro-jax, muon", "eager", "compiled"
SYSTEMS = {"3BPA": 27, "water": 192}  # atoms per frame
# Layouts are those for so many frames; steps are taken on a few batches of them.
FRAMES = {"3BPA": 450, "water": 50}
BATCHES = 4
LEARNING_RATE = 1e-3
MOST_SECONDS = 30.0  # of a race, once each contender has had its fewest turns
ONE_FRAME = "nequip evaluates batches of one frame eagerly"
TARGETS = {"step": 10.0, "epoch": 25.0, "memory": 3.0}


def main() -> int:
    options = parse_arguments()
    if options.memory_of:
        print(json.dumps(our_memory(options.memory_of)))
        return 0
    if options.setup:
        options.reference_python = set_up(options.setup)
    pin(options.threads)
    results: dict[str, Any] = {
        "machine": {"processor": processor(), "threads": options.threads},
        "versions": versions(),
        "step": [],
        "memory": [],
    }
    if "epoch" in options.only:
        results["epoch"] = race_epochs(
            options.reference_python, options.data, quick=options.quick, threads=options.threads
        )
    systems = ["3BPA"] if options.quick else options.systems
    if "memory" in options.only:
        results["memory"] = [race_memory(system, options) for system in systems]
    if "step" in options.only:
        race_all_steps(systems, options, results)
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parts = tuple(TARGETS)
    parser.add_argument("--only", choices=parts, nargs="+", default=parts, help="some of the parts")
    parser.add_argument("--repeats", type=int, default=15, help="steps of each contender")
    systems = tuple(SYSTEMS)
    parser.add_argument(
        "--systems", choices=systems, nargs="+", default=systems, help="for steps and memory"
    )
    parser.add_argument("--quick", action="store_true", help="3BPA in batches of 5; few epochs")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(__file__).parents[1] / "acac" / "data" / "train_300K.xyz",
        help="acetylacetone, for the epochs",
    )
    parser.add_argument("--memory-of", choices=SYSTEMS, help=argparse.SUPPRESS)  # fresh process
    return parser.parse_args()


# -- steps ----------------------------------------------------------------------------------------


def race_all_steps(
    systems: Sequence[str], options: argparse.Namespace, results: dict[str, Any]
) -> None:
    """All systems and batch sizes; adds to the results."""
    import numpy as np

    config, settings = model_settings()
    sizes = (5,) if options.quick else (5, 1)
    if not options.reference_python:
        import jax

        from allegro_jax import AllegroPotential
        from allegro_jax.model import init

        potential = AllegroPotential(init(jax.random.key(0), config), config)
        for system in systems:
            for size in sizes:
                results["step"].append(race_steps(None, potential, system, size, options))
        return
    with Reference(options.reference_python, options.threads) as reference:
        weights = reference.folder / "weights.npz"
        reference("build", settings=settings, weights=str(weights))
        potential = our_potential(config, np.load(weights))
        results["versions"] |= reference.versions
        for system in systems:
            for size in sizes:
                results["step"].append(race_steps(reference, potential, system, size, options))


def race_steps(
    reference: Reference | None,
    potential: Any,
    system: str,
    size: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """A system in batches of one size, all contenders."""
    import numpy as np

    frames = labelled(system)
    batches = Batches(frames, size)
    atoms = size * len(frames[0])
    row: dict[str, Any] = {"system": system, "frames": size, "atoms": atoms}
    row |= {"padding": batches.waste, "notes": []}
    ours = {OURS: OurStep(potential, batches, "adam")}
    if system == "3BPA":
        ours[MUON] = OurStep(potential, batches, "muon")
    row["compile_s"] = {name: step.compile_seconds for name, step in ours.items()}
    contenders: dict[str, Callable[[], float]] = dict(ours)
    if reference is not None:
        name = f"{system} {size}"
        used = np.unique(np.concatenate(batches.frames))
        paths = [str(reference.folder / f"{name}_{number}.npz") for number in used]
        for path, number in zip(paths, used, strict=True):
            write_structure(Path(path), frames[number])
        row["pairs"] = reference(
            "prepare_training",
            name=name,
            frames=paths,
            batches=[np.searchsorted(used, batch).tolist() for batch in batches.frames],
            learning_rate=LEARNING_RATE,
        )["pairs"]
        row["first_loss"] = {OURS: ours[OURS].first_loss}
        for contender, mode in ((EAGER, "eager"), (COMPILED, "compile")):
            if contender == COMPILED and size == 1:
                row["notes"].append(f"{COMPILED}: {ONE_FRAME}")
                continue
            first = reference("first_step", name=name, mode=mode)
            if "error" in first:
                row["notes"].append(f"{contender}: {first['error']}")
                continue
            row["first_loss"][contender] = first["loss"]
            if contender == COMPILED:
                row["compile_s"][contender] = first["seconds"]
            contenders[contender] = TheirStep(reference, name, mode, len(batches.frames))
    row["seconds"] = in_turns(
        f"{system}, batches of {size}", options.repeats, contenders, MOST_SECONDS
    )
    with Utilisation() as used:  # of our steps alone
        for _ in range(50 if used.available else 0):
            ours[OURS]()
    row["gpu_percent"] = used.percent
    return row


def labelled(system: str) -> list[Any]:
    """Frames with energies and forces, made up: what they are makes no difference to a step."""
    import numpy as np
    import structures

    rng = np.random.default_rng(0)
    frames = []
    for seed in range(FRAMES[system]):
        atoms = structures.molecule(seed=seed) if system == "3BPA" else structures.water(64, seed)
        atoms.info["energy"] = float(rng.normal())
        atoms.arrays["forces"] = rng.normal(size=(len(atoms), 3))
        frames.append(atoms)
    return frames


class Batches:
    """The first batches that a trainer would make of frames, of the commonest layout.

    Attributes:
        frames: frame numbers of each batch.
        assembled: the batches themselves.
        waste: the share of slots that hold no neighbour.
    """

    def __init__(self, frames: Sequence[Any], size: int) -> None:
        import numpy as np

        from allegro_jax.data.batches import assemble
        from allegro_jax.data.dataset import build_dataset
        from allegro_jax.data.frames import Frame
        from allegro_jax.data.layout import padding_waste, shuffled_batches
        from allegro_jax.data.planning import plan_buckets
        from allegro_jax.train.config import FitConfig
        from allegro_jax.train.parts import default_block_slots

        data = build_dataset(
            [
                Frame(
                    atoms.numbers,
                    atoms.positions,
                    np.asarray(atoms.cell.array),
                    np.asarray(atoms.pbc),
                    energy=atoms.info["energy"],
                    forces=atoms.arrays["forces"],
                )
                for atoms in frames
            ],
            SPECIES,
            CUTOFF,
        )
        buckets = plan_buckets(
            data.counts,
            size,
            groups=FitConfig().row_groups,
            block_slots=default_block_slots(data, size),
        )
        commonest = max(range(len(buckets)), key=lambda place: len(buckets[place].frames))
        epoch = shuffled_batches(buckets, 0, 0)
        self.waste = padding_waste(buckets, data.counts, epoch)
        self.frames = [
            chosen for place, chosen in epoch if place == commonest and len(chosen) == size
        ][:BATCHES]
        self.assembled = [
            assemble(data, chosen, buckets[commonest].layout, np.zeros(len(frames))).batch
            for chosen in self.frames
        ]


class OurStep:
    """Our steps, on one batch after another; a call returns the seconds of one.

    Attributes:
        compile_seconds: tracing and compiling.
        first_loss: before any step.
    """

    def __init__(self, potential: Any, batches: Batches, optimiser: str) -> None:
        import jax
        import numpy as np

        from allegro_jax.train.compilation import compiled
        from allegro_jax.train.config import FitConfig
        from allegro_jax.train.loss import Loss
        from allegro_jax.train.optimiser import initial_state, train_step
        from allegro_jax.train.schedule import StepSettings

        fit = FitConfig(learning_rate=LEARNING_RATE, optimiser=optimiser)
        loss = Loss(energy=1.0, forces=1.0, stress=0.0, force_scale=1.0)
        step = functools.partial(
            train_step, potential=potential.replace(params=None), loss=loss, fit=fit
        )
        self._batches, self._taken = batches.assembled, 0
        # a copy, for the step gives the memory of its argument to its result
        self._state = jax.tree.map(jax.numpy.array, initial_state(potential.params, fit))
        self._settings = StepSettings(
            np.float32(LEARNING_RATE), np.asarray([loss.energy, loss.forces, 0], np.float32)
        )
        start = time.perf_counter()
        self._step = compiled(step, self._state, self._batches[0], self._settings, donated=(0,))
        self.compile_seconds = time.perf_counter() - start
        self._state, sums = self._step(self._state, self._batches[0], self._settings)
        self.first_loss = loss.errors(sums)["loss"]

    def __call__(self) -> float:
        import jax

        batch = self._batches[self._taken % len(self._batches)]
        self._taken += 1
        start = time.perf_counter()
        self._state, _ = jax.block_until_ready(self._step(self._state, batch, self._settings))
        return time.perf_counter() - start


class TheirStep:
    """The reference's steps, on one batch after another; a call returns the seconds of one."""

    def __init__(self, reference: Reference, name: str, mode: str, batches: int) -> None:
        self._step = functools.partial(reference, "train_step", name=name, mode=mode)
        self._batches, self._taken = batches, 0

    def __call__(self) -> float:
        batch, self._taken = self._taken % self._batches, self._taken + 1
        return self._step(batch=batch)["seconds"]


# -- memory ---------------------------------------------------------------------------------------

STEPS_FOR_MEMORY = 3
BATCH_FOR_MEMORY = 5


def race_memory(system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of training steps, each contender in a fresh process; bytes."""
    say(f"memory of {system}, batches of {BATCH_FOR_MEMORY}")
    command = [sys.executable, __file__, "--memory-of", system]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row: dict[str, Any] = {"system": system, "frames": BATCH_FOR_MEMORY}
    row["bytes"] = {OURS: json.loads(done.stdout.splitlines()[-1])}
    if options.reference_python:
        row["bytes"][EAGER] = their_memory(system, options)
    return row


def our_memory(system: str) -> dict[str, Any]:
    import jax

    from allegro_jax import AllegroPotential
    from allegro_jax.model import init

    batches = Batches(labelled(system), BATCH_FOR_MEMORY)
    config, _ = model_settings()
    potential = AllegroPotential(init(jax.random.key(0), config), config)
    libraries = peak_bytes()
    step = OurStep(potential, batches, "adam")
    for _ in range(STEPS_FOR_MEMORY):
        step()
    return {"peak": peak_bytes(), "before": libraries, "after": resident_bytes()}


def their_memory(system: str, options: argparse.Namespace) -> dict[str, Any]:
    frames = labelled(system)[:BATCH_FOR_MEMORY]
    with (
        Reference(options.reference_python, options.threads) as reference,
        tempfile.TemporaryDirectory() as folder,
    ):
        _, settings = model_settings()
        reference("build", settings=settings, weights=str(Path(folder) / "weights.npz"))
        paths = [str(Path(folder) / f"{number}.npz") for number in range(len(frames))]
        for path, atoms in zip(paths, frames, strict=True):
            write_structure(Path(path), atoms)
        reference(
            "prepare_training",
            name=system,
            frames=paths,
            batches=[list(range(len(frames)))],
            learning_rate=LEARNING_RATE,
        )
        before = reference("memory")["peak"]
        for _ in range(STEPS_FOR_MEMORY):
            reference("train_step", name=system, mode="eager", batch=0)
        after = reference("memory")
        return {"peak": after["peak"], "before": before, "after": after["resident"]}


# -- report ---------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    machine = results["machine"]
    lines = [f"{machine['processor']}, {machine['threads']} cores; {named}"]
    if results["step"]:
        lines += [
            "",
            f"A step of training, ms (target: {TARGETS['step']:g} times the eager reference's):",
            "",
            "| system | frames | allegro-jax | with muon | eager | ratio | compiled | ratio "
            "| padding | to compile: ours, theirs |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_step_line(row) for row in results["step"]]
        for note in sorted({note for row in results["step"] for note in row["notes"]}):
            lines += ["", f"– {note}."]
    if results["memory"]:
        lines += [
            "",
            f"Peak memory, GB, batches of {BATCH_FOR_MEMORY} (target: a third of the eager "
            "reference's); in brackets before the first step, and after three:",
            "",
            "| system | allegro-jax | eager | ratio |",
            "|---|---|---|---|",
        ]
        lines += [_memory_line(row) for row in results["memory"]]
    if "epoch" in results:
        lines += ["", *_epoch_lines(results["epoch"])]
    return "\n".join(lines)


def _step_line(row: dict[str, Any]) -> str:
    seconds, compiling = row["seconds"], row["compile_s"]
    cells = [row["system"], row["frames"], _ms(seconds[OURS]), _ms(seconds.get(MUON))]
    for contender in (EAGER, COMPILED):
        theirs = seconds.get(contender)
        cells += [_ms(theirs), f"**{theirs / seconds[OURS]:.1f}**" if theirs else "–"]
    cells.append(f"{100 * row['padding']:.0f}%")
    theirs = f"{compiling[COMPILED]:.0f} s" if COMPILED in compiling else "–"
    cells.append(f"{compiling[OURS]:.0f} s, {theirs}")
    if row["gpu_percent"] is not None:
        cells[-1] += f"; GPU used {row['gpu_percent']:.0f}%"
    return f"| {' | '.join(map(str, cells))} |"


def _ms(seconds: float | None) -> str:
    return f"{1e3 * seconds:.1f}" if seconds else "–"


def _memory_line(row: dict[str, Any]) -> str:
    def cell(found: dict[str, Any] | None) -> str:
        if not found or found["peak"] is None:
            return "–"
        peak, before, after = (found[name] / 1e9 for name in ("peak", "before", "after"))
        return f"{peak:.2f} ({before:.2f}, {after:.2f})"

    ours, theirs = row["bytes"][OURS], row["bytes"].get(EAGER)
    ratio = f"**{theirs['peak'] / ours['peak']:.1f}**" if theirs and ours["peak"] else "–"
    return f"| {row['system']} | {cell(ours)} | {cell(theirs)} | {ratio} |"


def _epoch_lines(epoch: dict[str, Any]) -> list[str]:
    if "skipped" in epoch:
        return [f"No epochs: {epoch['skipped']}."]
    lines = [
        f"An epoch of AcAc, {epoch['train_frames']} frames in batches of {epoch['batch_size']} and "
        f"{epoch['valid_frames']} to validate on (target: {TARGETS['epoch']:g} times as fast):",
        "",
        "| | s per epoch | s before (start, compilation) | peak memory, GB |",
        "|---|---|---|---|",
    ]
    for name, found in epoch["contenders"].items():
        peak = f"{found['peak'] / 1e9:.2f}" if found["peak"] else "–"
        before = ", then ".join(f"{seconds:.0f}" for seconds in found["before"])
        lines.append(f"| {name} | {found['seconds']:.3g} | {before} | {peak} |")
    if "ratio" in epoch:
        lines += ["", f"Ratio of an epoch: **{epoch['ratio']:.1f}**."]
    return [*lines, "", *epoch["said"]]


if __name__ == "__main__":
    sys.exit(main())
