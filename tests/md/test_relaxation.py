"""Minima against known clusters, lattice sums and ASE's optimisers; the machinery around them."""

from __future__ import annotations

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as ReferenceLennardJones
from ase.cluster import Icosahedron
from ase.constraints import FixAtoms, FixBondLength
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from scipy.optimize import minimize_scalar

from md import LennardJones, descent, minimise, units
from md.evaluation import evaluate
from md.neighbours import neighbour_list
from md.relaxation import RelaxationError, problem_of, relax

EPSILON, SIGMA, CUTOFF = 0.0104, 3.4, 8.5


@pytest.fixture(scope="module")
def argon():
    with jax.enable_x64(True):
        return LennardJones.create(("Ar",), EPSILON, SIGMA, CUTOFF)


def rattled(a=5.5, shear=0.04):
    """A stretched, sheared, shaken crystal of 32 atoms."""
    atoms = bulk("Ar", cubic=True, a=a).repeat(2)
    atoms.set_cell(
        atoms.cell.array @ [[1, shear, 0], [0, 1 + shear, 0], [-shear, 0, 1]], scale_atoms=True
    )
    atoms.rattle(0.1, seed=3)
    return atoms


def lattice_energy(a):
    """Energy per atom of the fcc crystal by a plain sum, eV."""
    n = np.arange(-8, 9)
    points = np.stack(np.meshgrid(n, n, n), -1).reshape(-1, 3)
    points = points[points.sum(1) % 2 == 0] * a / 2
    r = np.linalg.norm(points, axis=1)
    r = r[(r > 0) & (r < CUTOFF)]

    def u(r):
        return 4 * EPSILON * ((SIGMA / r) ** 12 - (SIGMA / r) ** 6)

    return np.sum(u(r) - u(CUTOFF)) / 2


@pytest.mark.parametrize("method", ["fire", "lbfgs"])
def test_icosahedron_of_thirteen(method):
    """−44.326801 ε is the global minimum (D. J. Wales and J. P. K. Doye, 1997)."""
    atoms = Icosahedron("Ar", 2, latticeconstant=5.3)
    atoms.rattle(0.2, seed=1)
    with jax.enable_x64(True):
        potential = LennardJones.create(("Ar",), 1.0, 3.4, 120.0)
    found = relax(potential, atoms, method=method, force_tolerance=1e-5, progress=False)
    assert found.converged and found.steps < 200
    assert found.atoms.get_potential_energy() == pytest.approx(-44.326801, abs=1e-6)
    assert set(found.log) == {"step", "energy_eV", "force_eV_per_A"}
    assert len(found.log["step"]) == found.steps + 1


@pytest.mark.parametrize(("method", "cell"), [("fire", "full"), ("lbfgs", "full")])
def test_crystal_finds_its_lattice_constant(argon, method, cell):
    best = minimize_scalar(lattice_energy, bounds=(4.9, 5.6), options={"xatol": 1e-8})
    found = relax(
        argon, rattled(), method=method, cell=cell, force_tolerance=1e-6,
        stress_tolerance_GPa=1e-6, progress=False,
    )  # fmt: skip
    assert found.converged
    lengths, angles = np.split(found.atoms.cell.cellpar(), 2)
    np.testing.assert_allclose(lengths, 2 * best.x, rtol=1e-5)
    np.testing.assert_allclose(angles, 90, atol=1e-3)
    assert found.atoms.get_potential_energy() / 32 == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose(found.atoms.get_stress() / units.GIGAPASCAL, 0, atol=1e-6)
    assert found.log["pressure_GPa"][-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_cell_under_pressure_against_ase(argon):
    pressure = 0.5
    start = bulk("Ar", cubic=True, a=5.5)  # of four atoms: ASE's potential takes its time
    start.rattle(0.1, seed=0)
    reference = start.copy()
    reference.calc = ReferenceLennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
    filtered = FrechetCellFilter(reference, scalar_pressure=pressure * units.GIGAPASCAL)
    BFGS(filtered, logfile=None).run(fmax=1e-4, steps=200)
    found = relax(
        argon, start, method="lbfgs", cell="full", pressure_GPa=pressure,
        force_tolerance=1e-5, stress_tolerance_GPa=1e-4, progress=False,
    )  # fmt: skip

    def enthalpy(atoms):
        return atoms.get_potential_energy() + pressure * units.GIGAPASCAL * atoms.get_volume()

    assert found.converged
    assert found.atoms.get_volume() == pytest.approx(reference.get_volume(), rel=1e-4)
    assert enthalpy(found.atoms) == pytest.approx(enthalpy(reference), abs=1e-6)
    assert found.log["pressure_GPa"][-1] == pytest.approx(pressure, abs=1e-4)


def test_isotropic_and_anisotropic_cells_keep_their_angles(argon):
    start = rattled(shear=0.02)
    for cell in ("isotropic", "anisotropic"):
        found = relax(argon, start, method="lbfgs", cell=cell, max_steps=400, progress=False)
        change = np.linalg.solve(start.cell.array, found.atoms.cell.array)
        assert found.converged
        np.testing.assert_allclose(change, np.diag(np.diagonal(change)), atol=1e-12)
        assert (np.ptp(np.diagonal(change)) < 1e-9) == (cell == "isotropic")


def test_forces_are_slopes_of_the_enthalpy(argon):
    """Also where the cell is strained already, and under pressure."""
    atoms, rng = rattled(), np.random.default_rng(0)
    with jax.enable_x64(True):
        problem = problem_of(
            atoms, ("Ar",), "full", "float64", pressure=0.01, force_tolerance=0, stress_tolerance=0
        )

        def random(scale):
            strain = rng.normal(size=(3, 3)) * scale * float(problem.length)
            moves = rng.normal(size=(len(atoms), 3)) * scale
            return descent.Displacement(jnp.asarray(moves), jnp.asarray(strain + strain.T))

        here, direction = random(0.02), random(1e-6)
        functions = neighbour_list(True, CUTOFF, 0.5)
        pairs = functions.allocate(*minimise.placed(problem, here), problem.species)

        @jax.jit
        def at(displacement):
            positions, cell = minimise.placed(problem, displacement)
            found = evaluate(argon, positions, cell, problem.species, pairs)
            value = minimise.enthalpy(problem, found, cell).value
            return value.high + value.low, minimise.downhill(problem, displacement, cell, found)

        _, forces = at(here)
        above, _ = at(descent.plus(here, direction))
        below, _ = at(descent.minus(here, direction))
        slope = float(above - below) / 2
        assert -float(descent.dot(forces, direction)) == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("cell", [None, "isotropic"])
def test_fixed_atoms_stay(argon, cell):
    atoms = rattled(shear=0.02)
    atoms.set_constraint(FixAtoms([0, 5, 9]))
    found = relax(argon, atoms, method="lbfgs", cell=cell, progress=False).atoms
    held, free = [0, 5, 9], [1, 2, 3]
    moved = found.get_scaled_positions(wrap=False) - atoms.get_scaled_positions(wrap=False)
    np.testing.assert_allclose(moved[held], 0, atol=1e-12)
    assert np.abs(moved[free]).max() > 1e-3
    assert (found.cell.array == atoms.cell.array).all() == (cell is None)
    assert len(found.constraints) == 1
    assert np.abs(found.get_forces(apply_constraint=False)[held]).max() > 0.01


@pytest.mark.slow
def test_a_collapsing_cell_grows_its_list(argon):
    """Starting from beyond the spinodal, where the curvature is negative."""
    found = relax(
        argon, bulk("Ar", cubic=True, a=5.9).repeat(2), cell="isotropic", method="lbfgs",
        pressure_GPa=0.2, stress_tolerance_GPa=1e-4, progress=False,
    )  # fmt: skip
    assert found.growths > 0 and found.converged

    def enthalpy(a):
        return lattice_energy(a) + 0.2 * units.GIGAPASCAL * a**3 / 4

    best = minimize_scalar(enthalpy, bounds=(4.9, 5.6), options={"xatol": 1e-8})
    assert found.atoms.cell.lengths()[0] == pytest.approx(2 * best.x, rel=1e-4)


def test_float32_reaches_ordinary_tolerances():
    potential = LennardJones.create(("Ar",), EPSILON, SIGMA, CUTOFF)
    for method in ("fire", "lbfgs"):
        found = relax(
            potential, rattled(), method=method, cell="full", force_tolerance=1e-3, progress=False
        )
        assert found.converged and found.log["volume_A3"].dtype == float


def test_files_and_frames(argon, tmp_path):
    """Also with steps that run out, and an earlier run set aside."""
    atoms = rattled()
    options = {"force_tolerance": 1e-9, "max_steps": 25, "trajectory_every": 10, "progress": False}
    for _ in range(2):
        found = relax(argon, atoms, output=tmp_path, **options)
    assert not found.converged and found.steps == 25
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert len(lines) == 27 and lines[0].startswith("step,energy_eV,force_eV_per_A,stress_GPa")
    frames = ase.io.read(tmp_path / "trajectory.extxyz", index=":")
    assert [frame.info["step"] for frame in frames] == [10, 20, 25]
    final = ase.io.read(tmp_path / "final.extxyz")
    np.testing.assert_allclose(final.positions, found.atoms.positions, atol=1e-7)
    assert (tmp_path / "previous-1" / "log.csv").exists()
    kept = relax(argon, atoms, **options).frames
    assert [frame.info["step"] for frame in kept] == [10, 20, 25]


def test_no_steps_are_a_single_point(argon):
    atoms = rattled()
    atoms.calc = ReferenceLennardJones(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)
    found = relax(argon, atoms, max_steps=0, progress=False)
    assert found.steps == 0 and not found.converged
    np.testing.assert_allclose(found.atoms.positions, atoms.positions, atol=1e-12)
    assert found.atoms.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(found.atoms.get_forces(), atoms.get_forces(), atol=1e-10)
    np.testing.assert_allclose(found.atoms.get_stress(), atoms.get_stress(), atol=1e-10)


def test_a_broken_potential_stops(argon):
    broken = LennardJones.create(("Ar",), float("nan"), SIGMA, CUTOFF)
    with pytest.raises(RelaxationError, match=r"step 0: .* first at atom 0 \(Ar\)"):
        relax(broken, Atoms("Ar2", [[0, 0, 0], [4, 0, 0]]), progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "method must be one of fire, lbfgs"),
        ({"cell": "cubic"}, "cell must be None or one of isotropic"),
        ({"pressure_GPa": 1.0}, "pressure_GPa needs a cell"),
        ({"max_steps": -1}, "max_steps must be at least 0"),
        ({"force_tolerance": -0.1}, "force_tolerance must be at least 0"),
        ({"dtype": "float16"}, "dtype must be float32 or float64"),
    ],
)
def test_refusals(argon, options, message):
    with pytest.raises(ValueError, match=message):
        relax(argon, rattled(), progress=False, **options)


def test_refused_structures(argon):
    slab = rattled()
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="periodic in all directions"):
        relax(argon, slab, cell="full", progress=False)
    bound = rattled()
    bound.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match=r"FixBondLengths? is not supported"):
        relax(argon, bound, progress=False)
