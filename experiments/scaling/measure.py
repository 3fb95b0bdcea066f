"""Time and memory per atom of a step, over sizes, on this machine.

    python measure.py
    python measure.py --systems silver --forms collapsed --sizes 1e6 1e7 --seconds 300

What runs is ``md.simulate`` on one domain (300 K, constant energy, 2 fs, single precision), each
size in a process of its own. Rows are added to ``results.json`` under the device they were measured
on, in place of earlier ones of the same size; then the figure and the table of the README are made
anew from all that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import report

PART = "measure"
SYSTEMS, FORMS = ("silver", "li3po4"), ("collapsed", "network")
SIZES = {"collapsed": (1e3, 1e4, 1e5, 1e6), "network": (1e3, 1e4, 1e5)}
RUN = 50  # steps, in which a crystal stays one: runs are begun anew until all is timed
STEPS = 100  # after which a size was timed for long enough


def main() -> int:
    options = parse_arguments()
    if options.one:
        system, form, atoms = options.one
        print(json.dumps(measured(system, form, int(float(atoms)), options)))
        return 0
    for system in options.systems:
        for form in options.forms:
            for atoms in options.sizes or SIZES[form]:
                found = in_its_own_process(system, form, atoms, options)
                print(json.dumps(found), flush=True)
                if "skipped" not in found:
                    keep(found.pop("machine"), found)
                    publish()
    publish()
    return 0


def publish() -> None:
    """Draw the figure and write the table of all that was ever measured."""
    machines = report.load().get(PART, {})
    if machines:
        import figure

        figure.draw(machines, report.HERE / "figure.png")
        report.put(PART, "\n\n".join(map(markdown, machines.values())))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--systems", nargs="*", choices=SYSTEMS, default=SYSTEMS)
    add("--forms", nargs="*", choices=FORMS, default=FORMS)
    add("--sizes", nargs="*", type=float, help="about so many atoms; by default, see SIZES")
    add("--seconds", type=float, default=10.0, help="of steps to time at most, for each size")
    add("--chunks", type=int, default=6, help="to time at least (default: 6)")
    add("--chunk-steps", type=int, help="steps in a chunk; unless given 1 to 4, by the atoms")
    add("--threads", type=int, default=1, help="of a CPU, for steps (default: 1)")
    add("--differences", action="store_true", help="also time by two runs of different length")
    add("--one", nargs=3, metavar=("SYSTEM", "FORM", "ATOMS"), help="one size, in this process")
    return parser.parse_args()


def in_its_own_process(
    system: str, form: str, atoms: float, options: argparse.Namespace
) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--one", system, form, str(atoms)]
    for name in ("seconds", "chunks", "chunk_steps", "threads"):
        if getattr(options, name) is not None:
            command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    command += ["--differences"] * options.differences
    several = str(options.threads > 1).lower()
    flags = f"--xla_cpu_multi_thread_eigen={several} intra_op_parallelism_threads={options.threads}"
    environment = {"XLA_FLAGS": flags} | os.environ
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"skipped": f"{system}, {form}, {atoms:g} atoms: ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


class Timed(NamedTuple):
    """A chunk.

    Attributes:
        seconds, processor: of wall time, and of processor time of all threads.
        steps: how many it has.
        rebuilt: whether lists were rebuilt in it.
    """

    seconds: float
    processor: float
    steps: int
    rebuilt: bool


class Enough(Exception):
    """Ends a run when it was timed for long enough."""


class Clock:
    """Runs the chunks of a run, and notes what each took, once it is compiled.

    Attributes:
        seconds, chunks: how much of a run is wanted at least.
        timed: each chunk.
        compiling: s, until the first program was there.
        peak, planned: bytes, of the process until then, and of the program by its compiler.
    """

    def __init__(self, seconds: float, chunks: int) -> None:
        self.seconds, self.chunks = seconds, chunks
        self.timed: list[Timed] = []
        self.compiling = 0.0
        self.peak = self.planned = 0

    def __call__(self, chunk: Any, program: Any, *arguments: Any) -> Any:
        import jax
        import numpy as np

        def shape(leaf: Any) -> Any:  # the chunk writes over what it is given
            if not isinstance(leaf, jax.Array):
                return leaf
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

        def built_at(carry: Any) -> np.ndarray:
            return np.asarray(carry.neighbours.reference_positions[:64])

        before = arguments[3]
        shapes = jax.tree.map(shape, arguments)
        step, reference = int(before.state.step), built_at(before)
        programs = chunk._cache_size()
        started, busy = time.perf_counter(), time.process_time()
        after, told = jax.block_until_ready(chunk(program, *arguments))
        seconds, processor = time.perf_counter() - started, time.process_time() - busy
        fresh = chunk._cache_size() > programs  # compiled for buffers of this size
        if fresh:
            self.compiling = self.compiling or seconds
        elif step >= 0 and not int(after.neighbours.faults):
            rebuilt = not np.array_equal(reference, built_at(after))
            self.timed.append(Timed(seconds, processor, int(after.state.step) - step, rebuilt))
            enough = sum(one.seconds for one in self.timed) > self.seconds
            enough &= len(self.timed) >= self.chunks
            if enough or sum(one.steps for one in self.timed) >= STEPS:
                self.peak = memory("VmHWM")
                self.planned = planned(chunk.lower(program, *shapes).compile().memory_analysis())
                raise Enough
        return after, told


def measured(system: str, form: str, atoms: int, options: argparse.Namespace) -> dict[str, Any]:
    """One size."""
    import systems

    try:
        repeats = systems.copies(system, atoms)
    except systems.Absent as absent:
        return {"skipped": str(absent)}
    chunk_steps = options.chunk_steps or max(1, min(20_000 // atoms, 4))
    potential = systems.potential(system, form)
    bare = memory("VmRSS")
    structure = systems.structure(system, repeats)
    clock = Clock(options.seconds, options.chunks)
    started = time.perf_counter()
    try:
        with systems.in_place_of_the_chunk(clock):
            while True:
                systems.simulate(potential, structure, RUN, chunk_steps)
    except Enough:
        pass
    found = {
        "system": system,
        "form": form,
        "atoms": len(structure),
        "load": os.getloadavg()[0],
        "seconds_in_all": time.perf_counter() - started,
        "seconds_to_compile": clock.compiling,
        "chunk_steps": chunk_steps,
        **parted(clock.timed),
        "bytes_at_peak": clock.peak,
        "bytes_before": bare,
        "bytes_of_program": clock.planned,
        **device_memory(),
        "machine": machine(options.threads),
    }
    if options.differences:
        found["seconds_by_difference"] = by_difference(potential, structure, chunk_steps)
    return found


def parted(timed: list[Timed]) -> dict[str, Any]:
    """Medians of a step without a rebuild and of a rebuild, and what a step takes on average."""
    steps, rebuilds = sum(one.steps for one in timed), sum(one.rebuilt for one in timed)
    quiet = [one.seconds / one.steps for one in timed if not one.rebuilt]
    alone = median(quiet) if quiet else None
    more = [one.seconds - (alone or 0) * one.steps for one in timed if one.rebuilt]
    rebuild = median(more) if quiet and more else 0
    known = rebuild > 0  # and not lost in noise
    mean = sum(one.seconds for one in timed) / steps
    return {
        "steps": steps,
        "seconds_per_step": alone + rebuild * rebuilds / steps if known else mean,
        "seconds_of_a_step": alone,
        "seconds_of_a_rebuild": rebuild if known else None,
        "steps_between_rebuilds": steps / rebuilds if rebuilds else None,
        "processor_seconds_per_step": sum(one.processor for one in timed) / steps,
    }


def planned(analysis: Any) -> int:
    """Bytes that a program's arguments, results and room take, by its compiler."""
    parts = ("argument", "output", "temp")
    held = sum(getattr(analysis, f"{part}_size_in_bytes") for part in parts)
    return held - analysis.alias_size_in_bytes


def by_difference(potential: Any, structure: Any, chunk_steps: int) -> float:
    """s per step: the time of a run, less that of one a fifth as long; all of it compiled."""
    import systems

    def seconds(steps: int) -> float:
        started = time.perf_counter()
        systems.simulate(potential, structure, steps, chunk_steps)
        return time.perf_counter() - started

    seconds(RUN)  # whatever is still to be compiled
    short, long = (min(seconds(steps) for _ in range(3)) for steps in (RUN // 5, RUN))
    return (long - short) / (RUN - RUN // 5)


def memory(field: str) -> int | None:
    """Bytes that this process has (``VmRSS``), or had at its peak (``VmHWM``)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def device_memory() -> dict[str, int]:
    """Peak bytes of a device that counts them: not a CPU."""
    import jax

    told = jax.local_devices()[0].memory_stats() or {}
    return {"bytes_of_device": told["peak_bytes_in_use"]} if "peak_bytes_in_use" in told else {}


def machine(threads: int) -> dict[str, Any]:
    import jax

    device = jax.devices()[0]
    cpu = device.platform == "cpu"
    name = f"{report.processor()}, {threads} core{'s' * (threads > 1)}"
    return {"device": name if cpu else device.device_kind, "jax": jax.__version__}


def keep(machine: dict[str, Any], row: dict[str, Any]) -> None:
    """Add a row to the results, or put it in place of the one of the same size."""
    machines = report.load().get(PART, {})
    known = machines.get(machine["device"], {"rows": []})["rows"]
    name = ("system", "form", "atoms")
    rows = [one for one in known if any(one[key] != row[key] for key in name)]
    rows.append(row)
    rows.sort(key=lambda one: (one["system"] == "li3po4", one["form"], one["atoms"]))
    report.store(PART, machines | {machine["device"]: {"machine": machine, "rows": rows}})


def markdown(found: dict[str, Any]) -> str:
    titles = ("system", "form", "atoms", "µs per atom and step", "by difference")
    titles += ("without rebuilds", "a rebuild", "steps between rebuilds", "processor")
    titles += ("B per atom: program", "process", "compiling, s", "load")
    lines = []
    for row in found["rows"]:
        atoms = row["atoms"]

        def per_atom(name: str, row: dict[str, Any] = row) -> str:
            seconds = row.get(name)
            return "–" if seconds is None else f"{1e6 * seconds / row['atoms']:.3g}"

        between = row["steps_between_rebuilds"]
        held = row.get("bytes_of_device", row["bytes_at_peak"] - row["bytes_before"])
        lines.append(
            (
                row["system"],
                row["form"],
                f"{atoms:,}",
                per_atom("seconds_per_step"),
                per_atom("seconds_by_difference"),
                per_atom("seconds_of_a_step"),
                per_atom("seconds_of_a_rebuild"),
                "–" if between is None else f"{between:.0f}",
                per_atom("processor_seconds_per_step"),
                f"{row['bytes_of_program'] / atoms:,.0f}",
                f"{held / atoms:,.0f}",
                f"{row['seconds_to_compile']:.0f}",
                f"{row['load']:.1f}",
            )
        )
    about = found["machine"]
    return f"{about['device']}; jax {about['jax']}:\n\n{report.table(titles, lines)}"


if __name__ == "__main__":
    sys.exit(main())
