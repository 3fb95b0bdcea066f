"""allegro-jax against nequip-allegro on a CPU: same weights, same structures, in turn.

    cd experiments/benchmarks
    python reference_cpu.py --setup ~/nequip-environment
    python reference_cpu.py --reference-python ~/nequip-environment/bin/python

Timed are energy, forces and stress from a given neighbour list, and a step of training, in float32.
The reference runs in a process of its own (``reference_worker.py``), compiled ahead of time as
``nequip-compile --mode aotinductor --target ase`` does, and eager (TorchScript is gone from nequip
with torch 2.10). Contenders take turns, so that a change of the machine's mood hits all; each
reports the median of its runs.

``--memory`` instead measures the peak memory of one evaluation at 20,000 atoms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

REFERENCE = ("torch==2.13.0", "nequip==0.19.1", "nequip-allegro==0.8.3")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
SPECIES = ["H", "C", "N", "O", "Mg"]
CUTOFF = 5.0  # Å
FRAMES_PER_STEP = 5
LEARNING_RATE = 1e-3
# What a machine needs to fall quiet after the other contender's run (threads that still spin).
PAUSE = 0.1  # s


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
    parser.add_argument("--reference-python", help="Python with torch, nequip and nequip-allegro")
    parser.add_argument("--setup", type=Path, help="make such an environment in this folder first")
    parser.add_argument("--threads", type=int, default=2, help="cores for each contender")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each contender")
    parser.add_argument("--only", choices=("inference", "training"), help="half of it")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--atoms", type=int, default=20_000, help="of the memory measurement")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)  # in a fresh process
    return parser.parse_args()


def set_up(folder: Path) -> str:
    """Make the reference's environment; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--extra-index-url", CPU_WHEELS]
    subprocess.run([*install, *REFERENCE], check=True)
    return str(python)


def pin(threads: int) -> None:
    """Keep this process, and those it starts, on as many cores. Call it before JAX starts."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            sys.exit(f"reference_cpu.py: --threads {threads}, but there are {len(cores)} cores")
        os.sched_setaffinity(0, cores[:threads])


class Reference:
    """nequip-allegro in its own process."""

    def __init__(self, python: str, threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="reference_cpu_")
        self.folder = Path(self._folder.name)
        worker = Path(__file__).with_name("reference_worker.py")
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._errors = (self.folder / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.versions = self("threads", count=threads)["versions"]

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            sys.exit(f"reference_cpu.py: the reference stopped:\n{self._errors.read()[-3000:]}")
        return json.loads(answer)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._errors.close()
        self._folder.cleanup()


def race(reference: Reference, options: argparse.Namespace) -> dict[str, Any]:
    """All structures, all contenders."""
    import numpy as np
    import structures

    config, settings = model_settings()
    weights = reference.folder / "weights.npz"
    reference("build", settings=settings, weights=str(weights))
    potential = our_potential(config, np.load(weights))
    results: dict[str, Any] = {"versions": versions() | reference.versions, "inference": []}
    if options.only != "training":
        systems = {
            "liquid water": structures.water(64),
            "3BPA molecule": structures.molecule(),
            "MgO crystal": structures.crystal(5),
        }
        for name, atoms in systems.items():
            results["inference"].append(race_inference(reference, potential, name, atoms, options))
    if options.only != "inference":
        frames = [structures.molecule(seed=seed) for seed in range(FRAMES_PER_STEP)]
        results["training"] = race_training(reference, potential, frames, options)
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


def race_training(
    reference: Reference, potential: Any, frames: list[Any], options: argparse.Namespace
) -> dict[str, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    paths = []
    for number, atoms in enumerate(frames):
        atoms.info["energy"] = float(rng.normal())
        atoms.arrays["forces"] = rng.normal(size=(len(atoms), 3))
        paths.append(str(reference.folder / f"frame{number}.npz"))
        write_structure(Path(paths[-1]), atoms)
    pairs = reference("prepare_training", frames=paths, learning_rate=LEARNING_RATE)["pairs"]
    step = our_training_step(potential, frames)
    times = in_turns(
        "training step",
        options.repeats,
        {"allegro-jax": step, "eager": lambda: reference("train_step")["seconds"]},
    )
    atoms = sum(map(len, frames))
    return {"frames": len(frames), "atoms": atoms, "pairs": pairs, "seconds": times}


def in_turns(
    name: str, repeats: int, contenders: dict[str, Callable[[], float]]
) -> dict[str, float]:
    """Median seconds of every contender; the first runs, which warm up, do not count."""
    times: dict[str, list[float]] = {contender: [] for contender in contenders}
    for repeat in range(-2, repeats):
        say(f"{name}: {'warming up' if repeat < 0 else f'run {repeat + 1} of {repeats}'}")
        for contender, run in contenders.items():
            seconds = run()
            time.sleep(PAUSE)
            if repeat >= 0:
                times[contender].append(seconds)
    return {contender: median(values) for contender, values in times.items()}


# -- our side -------------------------------------------------------------------------------------


def model_settings() -> tuple[Any, dict[str, Any]]:
    """The model, in our words and in the reference's."""
    from allegro_jax import AllegroConfig

    config = AllegroConfig(
        species=SPECIES,
        cutoff=CUTOFF,
        l_max=2,
        num_layers=2,
        num_scalar_features=64,
        num_tensor_features=32,
        average_neighbours=50.0,
    )
    settings = {
        "seed": 1,
        "model_dtype": "float32",
        "type_names": SPECIES,
        "r_max": CUTOFF,
        "l_max": config.l_max,
        "parity": config.parity,
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
        "num_layers": config.num_layers,
        "num_scalar_features": config.num_scalar_features,
        "num_tensor_features": config.num_tensor_features,
        "avg_num_neighbors": config.average_neighbours,
        "scalar_embed_mlp_hidden_layers_width": config.two_body_hidden[0],
        "allegro_mlp_hidden_layers_width": config.latent_hidden[0],
        "readout_mlp_hidden_layers_width": config.readout_hidden[0],
    }
    return config, settings


def our_potential(config: Any, state_dict: Any) -> Any:
    from allegro_jax import AllegroPotential
    from allegro_jax.convert import params_from_state_dict

    return AllegroPotential(params_from_state_dict(state_dict, config), config)


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


def our_training_step(potential: Any, frames: list[Any]) -> Callable[[], float]:
    """One step of Adam on energies per atom and forces, on the same batch again and again."""
    import functools

    import jax
    import numpy as np

    from allegro_jax.data.batches import assemble
    from allegro_jax.data.dataset import build_dataset
    from allegro_jax.data.frames import Frame
    from allegro_jax.data.layout import plan_buckets
    from allegro_jax.train.config import FitConfig
    from allegro_jax.train.loss import Loss
    from allegro_jax.train.optimiser import initial_state, train_step
    from allegro_jax.train.schedule import StepSettings

    labelled = [
        Frame(
            atoms.numbers,
            atoms.positions,
            np.asarray(atoms.cell.array),
            np.asarray(atoms.pbc),
            energy=atoms.info["energy"],
            forces=atoms.arrays["forces"],
        )
        for atoms in frames
    ]
    data = build_dataset(labelled, SPECIES, CUTOFF)
    (bucket,) = plan_buckets(data.counts, len(frames))
    batch = assemble(data, np.arange(len(frames)), bucket.layout, np.zeros(len(frames))).batch
    fit = FitConfig(learning_rate=LEARNING_RATE)
    step = jax.jit(
        functools.partial(
            train_step,
            potential=potential.replace(params=None),
            loss=Loss(energy=1.0, forces=1.0, stress=0.0, force_scale=1.0),
            fit=fit,
        ),
        donate_argnums=0,
    )
    state = initial_state(potential.params, fit)
    settings = StepSettings(np.float32(LEARNING_RATE), np.asarray([1, 1, 0], np.float32))

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch, settings))
        return time.perf_counter() - start

    return run


def write_structure(path: Path, atoms: Any) -> None:
    import numpy as np

    labels = {}
    if "forces" in atoms.arrays:
        labels = {"energy": atoms.info["energy"], "forces": atoms.arrays["forces"]}
    np.savez(
        path,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell.array,
        pbc=atoms.pbc,
        **labels,
    )


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
    if "training" in results:
        row = results["training"]
        ours, eager = row["seconds"]["allegro-jax"], row["seconds"]["eager"]
        lines += [
            "",
            f"Training step ({row['frames']} frames of 3BPA, {row['pairs']} pairs): "
            f"allegro-jax {1e3 * ours:.1f} ms, eager reference {1e3 * eager:.1f} ms, "
            f"ratio {eager / ours:.1f}.",
        ]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    import allegro_jax

    return {"allegro-jax": allegro_jax.__version__, "jax": version("jax")}


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def say(message: str) -> None:
    print(f"  {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
