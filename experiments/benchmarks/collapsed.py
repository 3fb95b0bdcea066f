"""The paper's two speed models: the network against the radial functions that it collapses to.

    cd experiments/benchmarks
    python collapsed.py --json collapsed.json

Timed is an evaluation of the forces of some ten thousand atoms from a neighbour list with a skin of
0.5 Å, by ``md.evaluation.evaluate`` with blocks of default size, in float32: of silver and of
Li3PO4, shaken crystals, with random weights for the hyperparameters in ``../scaling``. Both take
turns in one process, and medians are told. On a machine with a GPU it is the GPU that computes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from racing import in_turns, pin, processor, say

SCALING = Path(__file__).parents[1] / "scaling"
SKIN = 0.5  # Å
NETWORK, TABLES = "network", "collapsed"


def main() -> int:
    options = parse_arguments()
    pin(options.threads)
    import jax

    results: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "device": jax.devices()[0].device_kind,
            "threads": options.threads,
        },
        "jax": jax.__version__,
        "systems": [race(system, options) for system in options.only or ("silver", "li3po4")],
    }
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--threads", type=int, default=1, help="cores (default: 1)")
    add("--atoms", type=int, default=10_000, help="about so many (default: 10000)")
    add("--repeats", type=int, default=15, help="turns of each")
    add("--seconds", type=float, default=60.0, help="after which a race is not repeated")
    add("--only", nargs="+", choices=("silver", "li3po4"), help="one of the systems")
    add("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def race(system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of an evaluation by the network and by its tables."""
    import jax
    import jax.numpy as jnp

    from allegro_jax import AllegroConfig, AllegroPotential, model
    from allegro_jax.collapsed import collapse
    from md import neighbours
    from md.evaluation import evaluate
    from md.species import species_indices

    config = AllegroConfig.from_dict(yaml.safe_load((SCALING / f"{system}.yaml").read_text()))
    network = AllegroPotential(model.init(jax.random.key(0), config), config)
    collapsed = collapse(network)
    say(f"{system}: {collapsed}")

    atoms = structure(system, options.atoms)
    positions = jnp.asarray(atoms.positions, jnp.float32)
    cell = jnp.asarray(atoms.cell.array, jnp.float32)
    species = jnp.asarray(species_indices(atoms.symbols, config.species))
    reach = neighbours.Reach((True, True, True), config.cutoff, SKIN)
    pairs = neighbours.allocate(positions, cell, species, reach=reach, slack=1.0)

    @jax.jit
    def forces(potential: Any, positions: jax.Array, pairs: Any) -> jax.Array:
        return evaluate(potential, positions, cell, species, pairs, with_virial=False).forces

    def contender(potential: Any) -> Callable[[], float]:
        def run() -> float:
            started = time.perf_counter()
            jax.block_until_ready(forces(potential, positions, pairs))
            return time.perf_counter() - started

        return run

    potentials = {NETWORK: network, TABLES: collapsed.potential}
    found = [np.asarray(forces(one, positions, pairs)) for one in potentials.values()]
    seconds = in_turns(
        system,
        options.repeats,
        {name: contender(one) for name, one in potentials.items()},
        limit=options.seconds,
    )
    return {
        "system": system,
        "atoms": len(atoms),
        "weights": model.count_parameters(network.params),
        "slots": int(pairs.indices.shape[1]),
        "neighbours": float(jnp.mean(jnp.sum(pairs.mask, axis=1))),
        "intervals": collapsed.intervals,
        "seconds": seconds,
        "largest_force_eV_per_A": float(np.abs(found[0]).max()),
        "largest_difference_eV_per_A": float(np.abs(found[0] - found[1]).max()),
    }


def structure(system: str, atoms: int) -> Any:
    """A shaken crystal of about so many atoms."""
    from structures import lithium_phosphate, silver

    if system == "silver":
        return silver(max(round((atoms / 4) ** (1 / 3)), 3))
    side = (atoms / 16 * 6.115 * 5.239 * 4.855) ** (1 / 3)
    return lithium_phosphate(tuple(max(round(side / edge), 2) for edge in (6.115, 5.239, 4.855)))


def markdown(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} cores; {machine['device']}; jax "
        f"{results['jax']}; µs per atom and evaluation of the forces:",
        "",
        "| system | weights | atoms | slots | network | collapsed | ratio | largest difference of "
        "forces, eV/Å (of) |",
        "|---" * 8 + "|",
    ]
    for row in results["systems"]:
        each = {name: 1e6 * seconds / row["atoms"] for name, seconds in row["seconds"].items()}
        lines.append(
            f"| {row['system']} | {row['weights']} | {row['atoms']} | {row['slots']} | "
            f"{each[NETWORK]:.3g} | {each[TABLES]:.3g} | {each[NETWORK] / each[TABLES]:.1f} | "
            f"{row['largest_difference_eV_per_A']:.1e} ({row['largest_force_eV_per_A']:.2g}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
