"""Molecular dynamics for any local potential, every step compiled. It knows nothing of Allegro."""

from md.groups import Group
from md.harmonic_lattice import HarmonicLattice
from md.local_potential import LocalPotential
from md.neighbours import NeighbourList, neighbour_list
from md.pair_potentials import ZBL, LennardJones, Morse
from md.run import Simulation, SimulationError, simulate
from md.stages import Stage
from md.state import State
from md.sum_potential import Sum

__all__ = [
    "Group",
    "ZBL",
    "HarmonicLattice",
    "LennardJones",
    "LocalPotential",
    "Morse",
    "NeighbourList",
    "Simulation",
    "SimulationError",
    "Stage",
    "State",
    "Sum",
    "neighbour_list",
    "simulate",
]
