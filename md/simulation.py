"""What a run leaves behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np
from ase import Atoms

from md import figures
from md import replicas as replicas_of
from md import uncertainty as uncertainties
from md.assembly import Assembly, steps_done
from md.domains import loads as domain_loads
from md.domains.lists import DomainList
from md.domains.loads import Loads
from md.frames import structures_of
from md.neighbours import NeighbourList
from md.output import Output
from md.parts import Part, joined
from md.program import Carry
from md.run_files import FIGURE, FINAL
from md.state import State
from md.uncertainty import Passed

Table = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What a run leaves behind.

    Attributes:
        step, time_fs: how far it came.
        log: columns of log.csv as arrays; volume and pressure are NaN unless all directions repeat.
        frames: the trajectory, where the run had no output folder; otherwise it is in the folder.
        tables: results of observables and of the bias, by name.
        complete: whether all steps were done; not when the wall time or uncertainty ended it.
        state, neighbours: the last state, for whoever wants to go on in compiled code. With
            replicas both have a leading axis.
        growths: how often buffers had to grow.
        replicas: one simulation for each replica; empty without. What is above is then the first.
        stopped: where and when uncertainty ended the run; None if it did not.
        uncertain: the frames at which a committee was uncertain, where the run had no output
            folder; otherwise they are in the folder.
        flagged: how many of those there are, since the run began.
        loads: how many atoms and ghosts each domain has at the end; None without domains.
        parts: gives the final structure a part at a time; on domains all processes must call it.
        acceptance: [R − 1] share of exchanges between neighbouring temperatures that took place;
            None without exchange.
    """

    step: int
    time_fs: float
    log: Table
    frames: list[Atoms]
    tables: dict[str, Table]
    complete: bool
    state: State
    neighbours: NeighbourList | DomainList
    growths: int
    replicas: tuple[Simulation, ...] = ()
    acceptance: np.ndarray | None = None
    stopped: Passed | None = None
    uncertain: list[Atoms] = dataclasses.field(default_factory=list)
    flagged: int = 0
    loads: Loads | None = None
    parts: Callable[[], Iterable[Part]] = dataclasses.field(kw_only=True, repr=False)

    @cached_property
    def atoms(self) -> Atoms:
        """The final structure on its continuous path, with momenta, energy, forces and stress.

        On domains it is made when it is first asked for, by all processes, of ``state``.
        """
        return joined(self.parts())

    @property
    def imbalance(self) -> float | None:
        """Atoms of the fullest domain, over the mean of all; None without domains."""
        return None if self.loads is None else self.loads.imbalance


def finished(assembly: Assembly, files: Output, carry: Carry, growths: int) -> Simulation:
    """Write what is written at the end, and gather what a run leaves behind."""
    leg = assembly.leg_of(carry)
    observed = [one.stage.timestep_fs for one in assembly.legs if one.stage.observe]
    timestep_fs = observed[-1] if observed else leg.stage.timestep_fs
    complete = steps_done(carry) >= assembly.legs[-1].last
    several = assembly.replicas is not None
    stopped = uncertainties.stopped(assembly.uncertainty, carry.watch)
    loads = None
    if assembly.grid is not None:
        loads = domain_loads.measured(carry.state, carry.neighbours, assembly.grid)
    simulations = []
    for number, parts in enumerate(structures_of(assembly, leg, carry)):
        place = number if several else None
        own = replicas_of.unstack(carry, number) if several else carry
        tables = {
            observable.name: observable.result(accumulator, timestep_fs)
            for observable, accumulator in zip(assembly.observables, own.accumulators, strict=True)
        }
        if assembly.system.bias is not None:
            tables |= assembly.system.bias.results(own.state.bias)
        files.write_structure(FINAL, parts(), place)
        for name, table in tables.items():
            files.write_table(name, table, place)
        log, path = files.log(number), files.path(FIGURE, place)
        if path is not None and len(log["step"]) > 1:
            figures.draw(log, path, atoms=len(assembly.templates[number]), tables=tables)
        simulations.append(
            Simulation(
                steps_done(carry),
                leg.time_fs(steps_done(carry)),
                log,
                files.frames(number),
                tables,
                complete,
                own.state,
                own.neighbours,
                growths,
                stopped=stopped,
                uncertain=files.uncertain(number),
                flagged=0 if own.watch is None else int(own.watch.frames),
                loads=loads,
                parts=parts,
            )
        )
    if not several:
        return simulations[0]
    acceptance = None
    if carry.exchanges is not None:
        tried = np.asarray(carry.exchanges.attempted)
        acceptance = np.asarray(carry.exchanges.accepted) / np.maximum(tried, 1)
    return dataclasses.replace(
        simulations[0],
        replicas=tuple(simulations),
        acceptance=acceptance,
        state=carry.state,
        neighbours=carry.neighbours,
    )
