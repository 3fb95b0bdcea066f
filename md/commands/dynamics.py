"""The command md: what its options are called, and what it hands on to :func:`md.simulate`."""

from __future__ import annotations

import argparse
from typing import Any

from md import names
from md.commands.inputs import Loader, add_inputs, load_potential, read_structure
from md.commands.options import (
    add_dtype,
    add_processes,
    duration,
    grid,
    number_or_ramp,
    numbers,
    together,
)

# options that are words of md.simulate or md.Stage under another name
_WORDS = {
    "temperature": "temperature_K",
    "timestep": "timestep_fs",
    "friction": "friction_per_fs",
    "time_constant": "time_constant_fs",
    "pressure": "pressure_GPa",
    "pressure_time_constant": "pressure_time_constant_fs",
    "compressibility": "compressibility_per_GPa",
    "strain_rate": "strain_rate_per_fs",
    "replica_temperatures": "replica_temperatures_K",
    "walltime": "walltime_s",
    "maximum_temperature": "maximum_temperature_K",
}
# options that say a field of md.Uncertainty
_UNCERTAINTY = {
    "uncertainty_threshold": "threshold",
    "uncertainty_every": "every",
    "uncertainty_action": "action",
}
_PROCESSES = ("distributed", "coordinator", "processes", "process")
_OWN = ("command", "model", "structure", "frame", "potential", "no_collapse", "format", "species",
        "replicate", "plan", "run_file", "fix", "observe", "no_progress", *_UNCERTAINTY,
        *_PROCESSES)  # fmt: skip

_UNCERTAIN = 3  # the exit code of a run that its uncertainty stopped


def add_command(commands: argparse._SubParsersAction, load: Loader) -> None:
    """Add md to a program's commands."""
    parser = commands.add_parser(
        "md",
        help="molecular dynamics",
        description="Run molecular dynamics. Writes log.csv, a trajectory, the final state, "
        "checkpoints and figures. A pair START:END is a linear ramp.",
    )
    parser.set_defaults(command=lambda options: _md(options, load))
    add_inputs(parser)
    group = parser.add_argument_group("the run")
    add = group.add_argument
    add(
        "--run-file",
        metavar="RUN.yaml",
        help="stages, groups, observables, bias and all other settings; options here go before it",
    )
    add(
        "--ensemble",
        choices=names.ENSEMBLES,
        help="constant energy (nve); temperature: langevin, Nosé-Hoover chains (nvt), stochastic "
        "velocity rescaling (bussi); pressure: stochastic cell rescaling (npt), "
        "Martyna-Tobias-Klein (mtk)",
    )
    add("--steps", type=int, metavar="N", help="number of time steps")
    add("--timestep", type=float, metavar="FS", help="fs (default: 0.5)")
    add(
        "--temperature",
        type=number_or_ramp,
        metavar="K",
        help="of the bath, and of velocities that are drawn",
    )
    add("--friction", type=float, metavar="1/FS", help="langevin: per fs (default: 0.01)")
    add(
        "--time-constant",
        type=float,
        metavar="FS",
        help="other thermostats: fs (default: 100 time steps)",
    )
    add(
        "--pressure",
        type=number_or_ramp,
        metavar="GPA",
        help="npt, mtk: GPa; or three with commas, along x, y, z",
    )
    add(
        "--cell",
        choices=names.COUPLINGS,
        help="npt, mtk: what may change: the size (default), lengths along x, y, z, or all",
    )
    add(
        "--pressure-time-constant",
        type=float,
        metavar="FS",
        help="npt, mtk: fs (default: 1000 time steps)",
    )
    add(
        "--compressibility",
        type=float,
        metavar="1/GPA",
        help="npt: a rough guess, for the time constant to mean what it says (default: 0.1)",
    )
    add(
        "--strain-rate",
        type=numbers,
        metavar="X,Y,Z",
        help="deform the cell, per fs; six numbers are xx,yy,zz,yz,xz,xy",
    )
    add("--fix", action="append", metavar="ATOMS", help="atoms that stay put: an element or 0:100")
    add(
        "--velocities",
        choices=("draw", "keep"),
        help="at the start: from the Maxwell-Boltzmann distribution (default) or the file",
    )
    add(
        "--minimise",
        action="store_const",
        const=True,
        help="relax the atoms first, to 0.05 eV/Å or for 500 steps",
    )
    add("--seed", type=int, metavar="N", help="of velocities and noise (default: 0)")
    add("--replicas", type=int, metavar="N", help="copies that run side by side")
    add(
        "--replica-temperatures",
        type=number_or_ramp,
        metavar="LOW:HIGH",
        help="of the replicas, K, in a geometric series; or one for each, with commas",
    )
    add("--exchange-every", type=int, metavar="N", help="steps between exchanges of replicas")
    add(
        "--restart",
        action="store_const",
        const=True,
        help="go on from the checkpoint in DIR; --steps counts those already done",
    )
    add("--walltime", type=duration, metavar="H:MM:SS", help="stop in order before this has passed")
    add_dtype(group, default=None)  # a run file may say it
    group = parser.add_argument_group("output")
    add = group.add_argument
    add("--output", metavar="DIR", help="folder of the results")
    add("--log-every", type=int, metavar="N", help="steps between lines (default: 10)")
    add(
        "--trajectory-every",
        type=int,
        metavar="N",
        help="steps between frames (default: 100; 0: none)",
    )
    add(
        "--trajectory",
        choices=names.TRAJECTORY_FORMATS,
        help="format of the frames (default: extxyz)",
    )
    add(
        "--observe",
        nargs="+",
        choices=names.OBSERVABLES,
        metavar="WHAT",
        help="rdf, adf (up to the potential's cutoff), msd, vacf (with the vibrational density of "
        "states); a run file can say more",
    )
    add("--no-progress", action="store_true", help="show no progress bar")
    group = parser.add_argument_group(
        "uncertainty of a committee", "Any of these options logs how far its members are apart."
    )
    add = group.add_argument
    add(
        "--uncertainty-threshold",
        type=float,
        metavar="EV/A",
        help="of the largest spread of forces on an atom, above which the action is taken",
    )
    add("--uncertainty-every", type=int, metavar="N", help="steps between looks (default: 20)")
    add(
        "--uncertainty-action",
        choices=names.UNCERTAINTY_ACTIONS,
        help="keep such frames in uncertain.extxyz (flag, default), or also end the run, with "
        f"exit code {_UNCERTAIN} (stop)",
    )
    group = parser.add_argument_group("performance and safety")
    add = group.add_argument
    add(
        "--skin",
        type=float,
        metavar="A",
        help="of the neighbour list, Å (default: 0.5, or 1 for pair potentials)",
    )
    add(
        "--domains",
        type=grid,
        metavar="A,B,C",
        help="spread the atoms over a grid of domains, one on each device: how many along the "
        "cell's axes, or auto",
    )
    add(
        "--balance",
        type=int,
        metavar="STEPS",
        help="every so many steps, shift the faces of domains to where their loads are equal "
        "(default: 0, never)",
    )
    add_processes(group)
    add(
        "--plan",
        action="store_true",
        help="only say how much memory the run would take, on each device",
    )
    add("--block-size", type=int, metavar="N", help="atoms evaluated at once (default: by size)")
    add(
        "--deterministic",
        action="store_const",
        const=True,
        help="the same numbers bit for bit on accelerators too",
    )
    add(
        "--maximum-temperature",
        type=float,
        metavar="K",
        help="above which the run counts as exploded",
    )


def _md(options: argparse.Namespace, load: Loader) -> int:
    with together(options):
        return _simulated(options, load)


def _simulated(options: argparse.Namespace, load: Loader) -> int:
    from md import run_file
    from md.processes import Team
    from md.run import plan_memory, simulate

    words: dict[str, Any] = run_file.load(options.run_file) if options.run_file else {}
    given = {
        _WORDS.get(name, name): value
        for name, value in vars(options).items()
        if name not in _OWN and value is not None
    }
    if "stages" in words:
        in_stages = sorted(set(given) & _stage_words())
        if in_stages:
            raise ValueError(
                f"{options.run_file} has stages: say there what {', '.join(in_stages)} shall be"
            )
    words |= given
    words.setdefault("dtype", "float32")
    if options.no_progress:
        words["progress"] = False
    if "stages" not in words and "steps" not in words:
        raise ValueError("say how long: --steps N, or --run-file with stages")
    if "output" not in words and not options.plan:
        raise ValueError("say where the results go: --output DIR")
    loaded = load_potential(options, load, words["dtype"])
    if options.fix:
        from md.groups import Group

        fixed = [Group(atoms, name=f"fixed {atoms}", fixed=True) for atoms in options.fix]
        words["groups"] = (*words.get("groups", ()), *fixed)
    if options.observe:
        words["observables"] = [
            *words.get("observables", ()),
            *_observables(options.observe, loaded.potential.cutoff),
        ]
    if any(getattr(options, name) is not None for name in _UNCERTAINTY):
        words["uncertainty"] = _uncertainty(options, words.get("uncertainty"))
    words.setdefault("shortest_distances", loaded.shortest_distances)
    structure = read_structure(options)
    if options.plan:
        plan = plan_memory(loaded.potential, structure, **words)
        if Team.of_all().leads:
            print(plan)
        return 0
    simulation = simulate(loaded.potential, structure, **words)
    if Team.of_all().leads:
        print(_summary(simulation, words["output"]))
    return 0 if simulation.stopped is None else _UNCERTAIN


def _stage_words() -> set[str]:
    import dataclasses

    from md.stages import Stage

    return {field.name for field in dataclasses.fields(Stage)}


def _observables(chosen: list[str], cutoff: float) -> list[Any]:
    from md.run_file import OBSERVABLES

    return [
        OBSERVABLES[name](**({"cutoff": cutoff} if name in ("rdf", "adf") else {}))
        for name in dict.fromkeys(chosen)
    ]


def _uncertainty(options: argparse.Namespace, said: Any) -> Any:
    """What a run file says of uncertainty, or the defaults, with what the options say."""
    import dataclasses

    from md.uncertainty import Uncertainty

    given = {
        field: getattr(options, name)
        for name, field in _UNCERTAINTY.items()
        if getattr(options, name) is not None
    }
    return dataclasses.replace(said or Uncertainty(), **given)


def _summary(simulation: Any, output: Any) -> str:
    log = simulation.log
    drift = 1000 * (log["conserved_eV"][-1] - log["conserved_eV"][0])
    words = (
        f"{simulation.step} steps, {simulation.time_fs / 1000:g} ps; mean temperature "
        f"{log['temperature_K'].mean():.1f} K, drift of the conserved energy {drift:.3f} meV; "
        f"in {output}"
    )
    if simulation.acceptance is not None:
        rates = ", ".join(f"{rate:.0%}" for rate in simulation.acceptance)
        words += f"; exchanges accepted: {rates}"
    loads = simulation.loads
    if loads is not None and len(loads.atoms) > 1:
        words += (
            f"; {len(loads.atoms)} domains, imbalance {loads.imbalance:.2f}: at most "
            f"{loads.atoms.max()} atoms and {loads.ghosts.max()} ghosts"
        )
    flagged = sum(one.flagged for one in simulation.replicas or (simulation,))
    if flagged:
        words += f"; uncertain frames: {flagged}"
    if simulation.stopped is not None:
        words += f"; stopped at step {simulation.stopped.step}: the committee is too uncertain"
    elif not simulation.complete:
        words += "; the wall time ended before the run did: go on with --restart"
    return words
