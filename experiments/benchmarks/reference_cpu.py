"""allegro-jax against nequip-allegro on a CPU: same weights, same structures, in turn.

    cd experiments/benchmarks
    python reference_cpu.py --setup ~/nequip-environment
    python reference_cpu.py --reference-python ~/nequip-environment/bin/python

Timed are energy, forces and stress from a given neighbour list, in float32; ``training.py`` times
training. The reference runs in a process of its own (``reference_worker.py``), compiled ahead of
time as ``nequip-compile --mode aotinductor --target ase`` does, and eager (TorchScript is gone from
nequip with torch 2.10). Contenders take turns, so that a change of the machine's mood hits all;
each reports the median of its runs.

``--memory`` instead measures the peak memory of one evaluation at 20,000 atoms.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from racing import in_turns, pin, processor, say
from reference import (
    SPECIES,
    Reference,
    add_arguments,
    model_settings,
    our_potential,
    set_up,
    versions,
    write_structure,
)


def main() -> int:
    options = parse_arguments()
    if options.memory_of:
        print(json.dumps(evaluate_once(options.memory_of)))
        return 0
    if options.setup:
        options.reference_python = set_up(options.setup)
    results: dict[str, Any] = {
        "machine": {"processor": processor(), "threads": options.threads},
        "model": {"l_max": 2, "layers": 2, "scalar_features": 64, "tensor_features": 32},
    }
    if options.memory:
        results["memory"] = peak_memory(options.atoms)
    else:
        if not options.reference_python:
            sys.exit("reference_cpu.py: give --reference-python, or --setup to make one")
        pin(options.threads)
        with Reference(options.reference_python, options.threads) as reference:
            results |= race(reference, options)
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=15, help="runs of each contender")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--atoms", type=int, default=20_000, help="of the memory measurement")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)  # in a fresh process
    return parser.parse_args()


def race(reference: Reference, options: argparse.Namespace) -> dict[str, Any]:
    """All structures, all contenders."""
    import numpy as np
    import structures

    config, settings = model_settings()
    weights = reference.folder / "weights.npz"
    reference("build", settings=settings, weights=str(weights))
    potential = our_potential(config, np.load(weights))
    results: dict[str, Any] = {"versions": versions() | reference.versions, "inference": []}
    systems = {
        "liquid water": structures.water(64),
        "3BPA molecule": structures.molecule(),
        "MgO crystal": structures.crystal(5),
    }
    for name, atoms in systems.items():
        results["inference"].append(race_inference(reference, potential, name, atoms, options))
    return results


def race_inference(
    reference: Reference, potential: Any, name: str, atoms: Any, options: argparse.Namespace
) -> dict[str, Any]:
    import numpy as np

    path = reference.folder / f"{name.replace(' ', '_')}.npz"
    write_structure(path, atoms)
    pairs = reference("structure", name=name, path=str(path))["pairs"]
    row: dict[str, Any] = {"structure": name, "atoms": len(atoms), "pairs": pairs}
    compiled = reference.folder / "model.nequip.pt2"
    if not compiled.exists():
        say("compiling the reference (about a minute)")
        row["reference_compile_s"] = reference("compile", name=name, path=str(compiled))["seconds"]

    results = reference.folder / "results.npz"
    reference("evaluate", name=name, mode="eager", path=str(results))
    theirs = np.load(results)
    step = our_step(potential, atoms)
    start = time.perf_counter()
    ours = step()
    row["compile_s"] = time.perf_counter() - start
    row["max_force_difference"] = float(np.abs(np.asarray(ours.forces) - theirs["forces"]).max())
    row["force_rms"] = float(np.sqrt(np.mean(theirs["forces"] ** 2)))

    def timed() -> float:
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    times = in_turns(
        name,
        options.repeats,
        {
            "allegro-jax": timed,
            "compiled": lambda: reference("evaluate", name=name, mode="compiled")["seconds"],
            "eager": lambda: reference("evaluate", name=name, mode="eager")["seconds"],
        },
    )
    return row | {"seconds": times}


# -- our side -------------------------------------------------------------------------------------


def our_step(potential: Any, atoms: Any) -> Callable[[], Any]:
    """Energy, forces and virial of a structure, from its neighbour list on."""
    import jax
    import jax.numpy as jnp

    from md import neighbours
    from md.evaluation import evaluate

    positions = jnp.asarray(atoms.positions, jnp.float32)
    cell = jnp.asarray(atoms.cell.array, jnp.float32)
    species = jnp.asarray([SPECIES.index(symbol) for symbol in atoms.symbols], jnp.int32)
    reach = neighbours.Reach(tuple(map(bool, atoms.pbc)), potential.cutoff)
    pairs = neighbours.allocate(positions, cell, species, reach=reach, slack=1.0)
    compiled = jax.jit(evaluate)
    return lambda: jax.block_until_ready(compiled(potential, positions, cell, species, pairs))


# -- memory ---------------------------------------------------------------------------------------


def peak_memory(atoms: int) -> dict[str, Any]:
    """Peak memory of evaluating a water box, in a process that does nothing else."""
    command = [sys.executable, __file__, "--memory-of", str(atoms)]
    say(f"evaluating {atoms} atoms")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def evaluate_once(atoms: int) -> dict[str, Any]:
    """Evaluate twice; the peak of this process's resident memory, libraries and all."""
    import jax
    import structures

    from allegro_jax import AllegroPotential
    from allegro_jax.model import init

    config, _ = model_settings()
    potential = AllegroPotential(init(jax.random.key(0), config), config)
    box = structures.water(-(-atoms // 3))
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = our_step(potential, box)
    step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "atoms": len(box),
        "peak_GB": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9,
        "libraries_GB": unit * libraries / 1e9,
        "seconds": seconds,
    }


# -- report ---------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    lines = [f"{results['machine']['processor']}, {results['machine']['threads']} cores", ""]
    if "versions" in results:
        named = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
        lines += [named, ""]
    if "memory" in results:
        memory = results["memory"]
        lines += [
            f"Peak memory at {memory['atoms']} atoms: {memory['peak_GB']:.2f} GB "
            f"({memory['libraries_GB']:.2f} GB of it libraries); {memory['seconds']:.2f} s a step."
        ]
    if results.get("inference"):
        lines += [
            "Energy, forces and stress, µs per atom and step:",
            "",
            "| structure | atoms | pairs | allegro-jax | compiled reference | ratio "
            "| eager reference | ratio | max abs ΔF, eV/Å |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
    for row in results.get("inference", []):
        ours, compiled, eager = (
            1e6 * row["seconds"][key] / row["atoms"] for key in ("allegro-jax", "compiled", "eager")
        )
        lines.append(
            f"| {row['structure']} | {row['atoms']} | {row['pairs']} | {ours:.1f} "
            f"| {compiled:.1f} | {compiled / ours:.1f} | {eager:.1f} | {eager / ours:.1f} "
            f"| {row['max_force_difference']:.1e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
