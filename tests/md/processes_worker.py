"""One process of a run on domains, for test_domain_processes.py: arguments by keyword as JSON."""

from __future__ import annotations

import json
import sys

from ase.build import bulk

from md.processes import Launch, joined


def main(settings):
    from md import LennardJones, MeanSquaredDisplacement, RadialDistribution, simulate

    potential = LennardJones.create(["Ar"], [[0.0104]], [[3.4]], 6.0)
    atoms = bulk("Ar", "fcc", 5.5, cubic=True) * (4, 4, 4)
    atoms.cell[2, 2] *= settings.pop("stretch", 1)
    words = {
        "skin": 0.8,
        "ensemble": "langevin",
        "temperature_K": 150,
        "timestep_fs": 4,
        "dtype": "float64",
        "log_every": 20,
        "trajectory_every": 20,
        "progress": False,
        "observables": (
            RadialDistribution(6.0, 20, every=10),
            MeanSquaredDisplacement(4, every=10),
        ),
    }
    simulate(potential, atoms, **words | settings)


if __name__ == "__main__":
    place = int(sys.argv[1])
    given = json.loads(sys.argv[2])
    launch = Launch(given.pop("coordinator"), given.pop("processes"), place)
    if launch.processes == 1:
        main(given)
    else:
        with joined(launch):
            main(given)
