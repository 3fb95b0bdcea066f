"""The spread of a committee along a run: logged, flagged, and a reason to stop."""

from __future__ import annotations

import sys
from typing import NamedTuple

import ase.io
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as ReferenceLennardJones
from ase.constraints import FixAtoms

from allegro_jax.cli import main
from md import LennardJones, Stage, Uncertainty, run_file, simulate
from md.committee import Committee
from md.schedule import Schedule

DEPTHS, CUTOFF = (0.0104, 0.0117, 0.0091), 5.0
EVERY, THRESHOLD = 5, 0.0205  # passed at about half of the looks
FLAG = Uncertainty(every=EVERY, threshold=THRESHOLD, spacing=1)


@pytest.fixture(scope="module")
def committee() -> Committee:
    with jax.enable_x64(True):
        return Committee.create(
            *(LennardJones.create(("Ar",), depth, 3.4, CUTOFF) for depth in DEPTHS)
        )


@pytest.fixture(scope="module")
def crystal() -> Atoms:
    """An atom that is held would be the least certain one."""
    atoms = bulk("Ar", "fcc", a=5.3) * (2, 2, 2)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(0, 0.9, (8, 3)))
    atoms.positions[5] += [0.35, 0, 0]
    atoms.set_constraint(FixAtoms([5]))
    return atoms


def run(potential, atoms, **options):
    settings = {
        "steps": 70,
        "timestep_fs": 5.0,
        "velocities": "keep",
        "dtype": "float64",
        "log_every": 2,
        "trajectory_every": EVERY,
        "chunk_steps": 30,
        "progress": False,
    }
    return simulate(potential, atoms, **settings | options)


class Expected(NamedTuple):
    energy_std: float
    forces_std: np.ndarray
    energy: float
    forces: np.ndarray
    worst: int


def expected(atoms: Atoms) -> Expected:
    """What ASE's Lennard-Jones potentials and NumPy make of a committee."""
    energies, forces = [], []
    for depth in DEPTHS:
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        bare.calc = ReferenceLennardJones(sigma=3.4, epsilon=depth, rc=CUTOFF)
        energies.append(bare.get_potential_energy())
        forces.append(bare.get_forces())
    spread = np.sqrt(np.var(forces, axis=0, ddof=1).sum(axis=1))
    worst = int(np.argmax(np.where(np.arange(len(atoms)) == 5, 0, spread)))  # atom 5 is held
    return Expected(
        np.std(energies, ddof=1), spread, np.mean(energies), np.mean(forces, axis=0), worst
    )


def check_frame(atoms: Atoms) -> None:
    """A frame that was kept tells what ASE says of it."""
    truth = expected(atoms)
    assert atoms.info["max_forces_std_atom"] == truth.worst
    assert atoms.info["max_forces_std"] == pytest.approx(truth.forces_std[truth.worst], rel=1e-5)
    assert atoms.info["energy_std"] == pytest.approx(truth.energy_std, rel=1e-5)
    assert atoms.get_potential_energy() == pytest.approx(truth.energy, rel=1e-6)
    np.testing.assert_allclose(atoms.arrays["forces_std"], truth.forces_std, atol=2e-8)
    forces = atoms.get_forces(apply_constraint=False)
    np.testing.assert_allclose(forces, truth.forces, atol=1e-7)


@pytest.fixture(scope="module")
def flagged(committee, crystal, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flagged")
    with pytest.warns(UserWarning, match=r"above 0.0205: such frames are kept"):
        return run(committee, crystal, uncertainty=FLAG, output=folder), folder


def test_columns_are_what_the_committee_says(flagged):
    simulation, folder = flagged
    log = simulation.log
    frames = ase.io.read(folder / "trajectory.extxyz", ":")
    both = {}
    for atoms in frames:
        truth = expected(atoms)
        both[atoms.info["step"]] = truth.energy_std / 8 * 1000, truth.forces_std[truth.worst]
    assert list(both) == list(range(0, 71, EVERY))
    looked = log["step"] % EVERY == 0
    assert looked.sum() == 8 and np.isnan(log["max_forces_std_eV_per_A"][~looked]).all()
    columns = log["energy_std_meV_per_atom"][looked], log["max_forces_std_eV_per_A"][looked]
    truth = [both[step] for step in log["step"][looked]]
    np.testing.assert_allclose(np.stack(columns, axis=1), truth, rtol=1e-5)


def test_flagged_frames_are_those_above_the_threshold(flagged):
    simulation, folder = flagged
    frames = {atoms.info["step"]: atoms for atoms in ase.io.iread(folder / "trajectory.extxyz")}
    truths = {step: expected(atoms) for step, atoms in frames.items()}
    above = [step for step, one in truths.items() if one.forces_std[one.worst] > THRESHOLD]
    found = ase.io.read(folder / "uncertain.extxyz", ":")
    assert [atoms.info["step"] for atoms in found] == above and 2 < len(above) < len(frames) - 2
    assert simulation.flagged == len(above) and simulation.complete and not simulation.stopped
    for atoms in found:
        check_frame(atoms)
        same = frames[atoms.info["step"]]
        assert atoms.info["time_fs"] == same.info["time_fs"]
        np.testing.assert_allclose(atoms.positions, same.positions, atol=1e-8)
        np.testing.assert_allclose(atoms.get_stress(), same.get_stress(), atol=1e-7)


def test_a_restart_neither_loses_nor_repeats_frames(flagged, committee, crystal, tmp_path):
    _, whole = flagged
    for steps in (37, 70):
        with pytest.warns(UserWarning, match="such frames"):
            run(
                committee,
                crystal,
                uncertainty=FLAG,
                steps=steps,
                restart=steps > 37,
                output=tmp_path,
                checkpoint_seconds=1000,
            )
        if steps == 37:  # as if the run had been killed after it wrote more
            with (tmp_path / "uncertain.extxyz").open("a") as file:
                file.write("8\nhalf a frame")
    for name in ("uncertain.extxyz", "trajectory.extxyz", "log.csv", "final.extxyz"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes(), name
    with pytest.raises(ValueError, match="written with other uncertainty: True, not False"):
        run(committee, crystal, restart=True, output=tmp_path)


def test_a_stop(flagged, committee, crystal, tmp_path, monkeypatch, capsys):
    """On the command line, and again from Python."""
    whole, folder = flagged
    first, second = ase.io.read(folder / "uncertain.extxyz", ":2")
    step = first.info["step"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    free = crystal.copy()
    free.set_constraint()
    free.write("argon.traj")
    (tmp_path / "committees.py").write_text(
        "from md import LennardJones\nfrom md.committee import Committee\n"
        "def argon():\n"
        "    return Committee.create(*(\n"
        f"        LennardJones.create(('Ar',), depth, 3.4, {CUTOFF}) for depth in {DEPTHS}))\n"
    )
    (tmp_path / "run.yaml").write_text(
        "{steps: 70, timestep_fs: 5, velocities: keep, dtype: float64, log_every: 2, "
        f"trajectory_every: {EVERY}, chunk_steps: 30, "
        f"uncertainty: {{every: {EVERY}, threshold: 9}}}}"
    )
    command = ["md", "--potential", "committees:argon", "argon.traj", "--run-file", "run.yaml"]
    command += ["--output", "out", "--fix", "5:6", "--no-progress"]
    command += ["--uncertainty-threshold", str(THRESHOLD), "--uncertainty-action", "stop"]
    with jax.enable_x64(True):  # as long as the potential is made
        assert main(command) == 3
    captured = capsys.readouterr()
    assert f"stopped at step {step}" in captured.out and "uncertain frames: 1" in captured.out
    where = f"step {step}: the committee's forces on atom {first.info['max_forces_std_atom']} (Ar)"
    assert where in captured.err and "the run ends here" in captured.err
    log = np.genfromtxt("out/log.csv", delimiter=",", names=True)
    before = whole.log["step"] <= step
    for name in log.dtype.names:
        np.testing.assert_allclose(log[name], whole.log[name][before], rtol=1e-6, err_msg=name)
    frames = ase.io.read("out/trajectory.extxyz", ":")
    assert [atoms.info["step"] for atoms in frames] == list(range(0, step + 1, EVERY))
    assert ase.io.read("out/final.extxyz").info["step"] == step
    # a restart goes on, to where the threshold is passed again
    stop = Uncertainty(every=EVERY, threshold=THRESHOLD, action="stop")
    with pytest.warns(UserWarning, match=r"the run ends here"):
        again = run(committee, crystal, restart=True, uncertainty=stop, output="out")
    assert again.stopped is not None and not again.complete
    assert again.stopped[:3] == (second.info["step"], 0, second.info["max_forces_std_atom"])
    assert again.stopped.forces_std == pytest.approx(second.info["max_forces_std"], rel=1e-6)
    kept = [atoms.info["step"] for atoms in ase.io.read("out/uncertain.extxyz", ":")]
    assert kept == [step, second.info["step"]]


def test_each_replica_is_watched(committee, crystal):
    """The second alone passes the threshold; the bias is no matter of the committee's."""
    calm = crystal.copy()
    calm.set_momenta(0 * crystal.get_momenta())
    calm.positions[5] -= [0.35, 0, 0]
    with pytest.warns(UserWarning, match="replica 1, atom"):
        simulation = run(
            committee,
            [calm, crystal],
            replicas=2,
            uncertainty=Uncertainty(every=EVERY, threshold=THRESHOLD, spacing=12, most=2),
            bias=lambda positions, cell: 0.001 * jnp.sum(positions[:, 0] ** 2),
            log_every=EVERY,
        )
    quiet, loud = simulation.replicas
    assert quiet.flagged == len(quiet.uncertain) == 0
    spaced: list[int] = []
    for step in loud.log["step"][loud.log["max_forces_std_eV_per_A"] > THRESHOLD]:
        if not spaced or step - spaced[-1] >= 12:
            spaced.append(int(step))
    assert len(spaced) > 2 and [atoms.info["step"] for atoms in loud.uncertain] == spaced[:2]
    assert loud.flagged == 2
    for atoms in loud.uncertain:
        check_frame(atoms)


def test_what_is_refused(committee, crystal):
    with pytest.raises(ValueError, match="uncertainty needs a committee"):
        run(committee[0], crystal, uncertainty=FLAG)
    for words, complaint in (
        ({"every": 0}, "every must be at least 1, not 0"),
        ({"most": 0}, "most must be at least 1, not 0"),
        ({"threshold": -0.1}, "threshold must be positive"),
        ({"action": "halt"}, "action must be one of flag, stop, not 'halt'"),
        ({"action": "stop"}, "needs a threshold"),
    ):
        with pytest.raises(ValueError, match=complaint):
            Uncertainty(**words)
        with pytest.raises(ValueError, match=f"uncertainty: .*{complaint}"):
            run_file.arguments({"steps": 1, "uncertainty": words})


def test_a_plan_cut_short():
    plan = Schedule(10, 25, 100).plan(15, 1000)
    assert plan.until(plan.end) == plan
    # steps 20 25 | 30 40 50 | ...: of the first two rows, all but step 50 and its frame
    short = plan.until(45)
    assert short.logged == plan.logged[:3] and short.framed == plan.framed[:1]
    assert short.end == 45


def test_stages_go_on_after_a_look(committee, crystal):
    """A watch without a threshold keeps nothing, and outlives its stage."""
    stages = [Stage(10, timestep_fs=5.0, velocities="keep"), Stage(10, timestep_fs=4.0)]
    simulation = simulate(
        committee,
        crystal,
        stages,
        uncertainty=Uncertainty(every=10),
        log_every=10,
        trajectory_every=0,
        progress=False,
    )
    assert np.isfinite(simulation.log["max_forces_std_eV_per_A"]).all()
    assert simulation.flagged == 0 and simulation.uncertain == []
