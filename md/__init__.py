"""Molecular dynamics for any local potential, every step compiled. It knows nothing of Allegro."""

from md.local_potential import LennardJones, LocalPotential
from md.neighbours import NeighbourList, neighbour_list
from md.run import Simulation, SimulationError, simulate
from md.state import State

__all__ = [
    "LennardJones",
    "LocalPotential",
    "NeighbourList",
    "Simulation",
    "SimulationError",
    "State",
    "neighbour_list",
    "simulate",
]
