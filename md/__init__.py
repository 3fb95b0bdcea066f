"""Molecular dynamics for any local potential, every step compiled. It knows nothing of Allegro.

Names are imported when they are first used, so that a command line can show its help at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from md.analysis import Analysis, analyse
    from md.coordination import CoordinationNumbers
    from md.correlations import (
        MeanSquaredDisplacement,
        VelocityAutocorrelation,
        diffusion_coefficient,
    )
    from md.distributions import AngularDistribution, RadialDistribution
    from md.groups import Group
    from md.harmonic_lattice import HarmonicLattice
    from md.local_potential import LocalPotential
    from md.metadynamics import Metadynamics
    from md.neighbours import NeighbourList, neighbour_list
    from md.observable import UserObservable
    from md.pair_potentials import ZBL, LennardJones, Morse
    from md.relaxation import Relaxation, RelaxationError, relax
    from md.replicated import Replicated
    from md.run import MemoryPlan, Simulation, SimulationError, plan_memory, simulate
    from md.stages import Stage
    from md.state import State
    from md.sum_potential import Sum
    from md.trajectory import TrajectorySettings
    from md.uncertainty import Uncertainty

__all__ = [
    "ZBL",
    "Analysis",
    "AngularDistribution",
    "CoordinationNumbers",
    "Group",
    "HarmonicLattice",
    "LennardJones",
    "LocalPotential",
    "MeanSquaredDisplacement",
    "MemoryPlan",
    "Metadynamics",
    "Morse",
    "NeighbourList",
    "RadialDistribution",
    "Relaxation",
    "RelaxationError",
    "Replicated",
    "Simulation",
    "SimulationError",
    "Stage",
    "State",
    "Sum",
    "TrajectorySettings",
    "Uncertainty",
    "UserObservable",
    "VelocityAutocorrelation",
    "analyse",
    "diffusion_coefficient",
    "neighbour_list",
    "plan_memory",
    "relax",
    "simulate",
]

_HOMES = {
    "ZBL": "md.pair_potentials",
    "Analysis": "md.analysis",
    "AngularDistribution": "md.distributions",
    "CoordinationNumbers": "md.coordination",
    "Group": "md.groups",
    "HarmonicLattice": "md.harmonic_lattice",
    "LennardJones": "md.pair_potentials",
    "LocalPotential": "md.local_potential",
    "MeanSquaredDisplacement": "md.correlations",
    "MemoryPlan": "md.run",
    "Metadynamics": "md.metadynamics",
    "Morse": "md.pair_potentials",
    "NeighbourList": "md.neighbours",
    "RadialDistribution": "md.distributions",
    "Relaxation": "md.relaxation",
    "RelaxationError": "md.relaxation",
    "Replicated": "md.replicated",
    "Simulation": "md.run",
    "SimulationError": "md.run",
    "Stage": "md.stages",
    "State": "md.state",
    "Sum": "md.sum_potential",
    "TrajectorySettings": "md.trajectory",
    "Uncertainty": "md.uncertainty",
    "UserObservable": "md.observable",
    "VelocityAutocorrelation": "md.correlations",
    "analyse": "md.analysis",
    "diffusion_coefficient": "md.correlations",
    "neighbour_list": "md.neighbours",
    "plan_memory": "md.run",
    "relax": "md.relaxation",
    "simulate": "md.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
