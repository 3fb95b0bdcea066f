"""The engine's commands and run files, with potentials that need no model."""

from __future__ import annotations

import sys

import ase.io
import h5py
import numpy as np
import pytest
from ase.build import bulk

from allegro_jax.cli import main
from md import (
    Group,
    MeanSquaredDisplacement,
    Metadynamics,
    RadialDistribution,
    Stage,
    TrajectorySettings,
    run_file,
    structure_file,
)
from md.commands.options import duration, number_or_ramp

POTENTIAL = """
potential: lennard-jones
species: [Ar]
epsilon_eV: {Ar: 0.0104}
sigma_A: {Ar: 3.40}
cutoff_A: 5.0
"""

RUN = """
log_every: 20
trajectory_every: 20
trajectory: {format: h5md, atoms: [0, 1], velocities: true}
stages:
  - {ensemble: langevin, temperature_K: [20, 60], timestep_fs: 4, steps: 40, observe: false}
  - {ensemble: langevin, temperature_K: 60, timestep_fs: 2, steps: 40}
groups:
  - {atoms: "0:2", fixed: true}
observables:
  - {kind: rdf, cutoff: 4.5, every: 20, bins: 9}
bias:
  - kind: wall
    variable: {kind: distance, first: 2, second: 5}
    limit: 4.0
    stiffness: 0.02
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a potential, a structure and a run."""
    atoms = bulk("Ar", "fcc", a=5.4) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.write(tmp_path / "argon.xyz")
    atoms.write(tmp_path / "argon.data", format="lammps-data", masses=True)
    (tmp_path / "lj.yaml").write_text(POTENTIAL)
    (tmp_path / "run.yaml").write_text(RUN)
    (tmp_path / "mine.py").write_text(
        "from md import LennardJones\n"
        "def argon():\n    return LennardJones.create(('Ar',), 0.0104, 3.4, 5.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def run(*arguments) -> int:
    return main([str(argument) for argument in (*arguments, "--no-progress")])


def test_a_run_file(folder, capsys):
    command = ("md", "lj.yaml", "argon.xyz", "--run-file", "run.yaml", "--output", "out")
    assert run(*command) == 0
    assert "80 steps, 0.24 ps" in capsys.readouterr().out
    log = np.genfromtxt(folder / "out" / "log.csv", delimiter=",", names=True)
    np.testing.assert_array_equal(log["step"], [0, 20, 40, 60, 80])
    np.testing.assert_allclose(log["target_temperature_K"], [20, 40, 60, 60, 60])
    assert log["time_fs"][-1] == 240
    rdf = np.genfromtxt(folder / "out" / "rdf.csv", delimiter=",", names=True)
    assert len(rdf) == 9 and rdf["n_Ar_Ar"][-1] == pytest.approx(12, abs=0.5)
    with h5py.File(folder / "out" / "trajectory.h5md") as file:
        positions = file["particles/trajectory/position/value"][:]
    assert positions.shape == (5, 2, 3)
    np.testing.assert_array_equal(positions[0], positions[-1])  # they are fixed
    # a finished run may be made longer
    text = RUN.replace("timestep_fs: 2, steps: 40", "timestep_fs: 2, steps: 60")
    (folder / "run.yaml").write_text(text)
    assert run(*command, "--restart") == 0
    assert len((folder / "out" / "log.csv").read_text().splitlines()) == 1 + 6


def test_a_potential_in_python_and_a_lammps_structure(folder, capsys):
    assert (
        run(
            "md", "--potential", "mine:argon", "argon.data", "--steps", 20, "--timestep", 4,
            "--temperature", 30, "--fix", "0:2", "--output", "out", "--minimise",
        )
        == 0
    )  # fmt: skip
    frames = ase.io.read(folder / "out" / "trajectory.extxyz", ":")
    assert len(frames) == 1 and len(frames[0]) == 8
    final = ase.io.read(folder / "out" / "final.extxyz")
    start = structure_file.read("argon.data")
    np.testing.assert_allclose(final.positions[:2], start.positions[:2], atol=1e-5)


MD_OPTIONS = {
    "--ensemble npt": {"ensemble": "npt"},
    "--steps 7": {"steps": 7},
    "--timestep 2": {"timestep_fs": 2.0},
    "--temperature 300:1000": {"temperature_K": (300.0, 1000.0)},
    "--friction 0.1": {"friction_per_fs": 0.1},
    "--time-constant 50": {"time_constant_fs": 50.0},
    "--pressure 0,0,1": {"pressure_GPa": (0.0, 0.0, 1.0)},
    "--cell full": {"cell": "full"},
    "--pressure-time-constant 500": {"pressure_time_constant_fs": 500.0},
    "--compressibility 0.4": {"compressibility_per_GPa": 0.4},
    "--strain-rate 0,0,1e-5": {"strain_rate_per_fs": (0.0, 0.0, 1e-5)},
    "--fix 0:2 --fix Ar": {
        "groups": tuple(Group(a, name=f"fixed {a}", fixed=True) for a in ("0:2", "Ar"))
    },
    "--velocities keep": {"velocities": "keep"},
    "--minimise": {"minimise": True},
    "--seed 3": {"seed": 3},
    "--replicas 2": {"replicas": 2},
    "--replica-temperatures 100:200": {"replica_temperatures_K": (100.0, 200.0)},
    "--exchange-every 50": {"exchange_every": 50},
    "--restart": {"restart": True},
    "--walltime 1:00:00": {"walltime_s": 3600.0},
    "--dtype float64": {"dtype": "float64"},
    "--output there": {"output": "there"},
    "--log-every 5": {"log_every": 5},
    "--trajectory-every 20": {"trajectory_every": 20},
    "--trajectory h5md": {"trajectory": "h5md"},
    "--observe rdf msd": {"observables": [RadialDistribution(5.0), MeanSquaredDisplacement()]},
    "--skin 0.7": {"skin": 0.7},
    "--block-size 10": {"block_size": 10},
    "--deterministic": {"deterministic": True},
    "--maximum-temperature 900": {"maximum_temperature_K": 900.0},
}


class Reached(Exception):
    """The engine was called, with these words."""


def reached(monkeypatch, target, command):
    """The words with which a command calls the engine."""

    def called(*structures, **words):
        raise Reached(words)

    monkeypatch.setattr(target, called)
    with pytest.raises(Reached) as caught:
        run(*command.split())
    return caught.value.args[0]


def test_every_option_of_md_reaches_the_engine(folder, monkeypatch):
    everything = " ".join(MD_OPTIONS)
    words = reached(monkeypatch, "md.run.simulate", f"md lj.yaml argon.xyz {everything}")
    expected = {name: value for part in MD_OPTIONS.values() for name, value in part.items()}
    assert words == expected | {"progress": False, "shortest_distances": None}
    words = reached(monkeypatch, "md.run.simulate", "md lj.yaml argon.xyz --steps 3 --output o")
    assert words.keys() == {"steps", "output", "dtype", "progress", "shortest_distances"}
    typed = "md lj.yaml argon.data --format lammps-data --steps 3 --output o --species 1=Ar"
    reached(monkeypatch, "md.run.simulate", typed)


def test_every_option_of_relax_reaches_the_engine(folder, monkeypatch):
    words = reached(
        monkeypatch,
        "md.relaxation.relax",
        "relax lj.yaml argon.xyz --method lbfgs --cell full --pressure 2 --force-tolerance 0.1 "
        "--stress-tolerance 0.2 --max-steps 9 --output there --trajectory-every 4 --dtype float64",
    )
    assert words == {
        "method": "lbfgs",
        "cell": "full",
        "pressure_GPa": 2.0,
        "force_tolerance": 0.1,
        "stress_tolerance_GPa": 0.2,
        "max_steps": 9,
        "dtype": "float64",
        "output": "there",
        "trajectory_every": 4,
        "progress": False,
    }


def test_relax(folder, capsys):
    arguments = ("--cell", "isotropic", "--dtype", "float64", "--force-tolerance", 1e-4)
    assert run("relax", "lj.yaml", "argon.xyz", *arguments, "--output", "out") == 0
    assert capsys.readouterr().out.startswith("relaxed after")
    relaxed = ase.io.read(folder / "out" / "final.extxyz")
    assert np.abs(relaxed.get_forces()).max() < 1e-4
    assert np.abs(relaxed.get_stress()).max() < 0.05 / 160


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lj.yaml", "argon.xyz", "--output", "out"], "say how long"),
        (["lj.yaml", "argon.xyz", "--steps", 3], "say where the results go"),
        (["argon.xyz", "--steps", 3, "--output", "out"], "give MODEL and STRUCTURE"),
        (
            ["lj.yaml", "argon.xyz", "--potential", "mine:argon", "--steps", 3, "--output", "out"],
            "not both",
        ),
        (["lj.yaml", "nothing.xyz", "--steps", 3, "--output", "out"], "no such file"),
        (
            ["lj.yaml", "argon.xyz", "--run-file", "run.yaml", "--steps", 3, "--output", "out"],
            "say there what steps",
        ),
        (["lj.yaml", "argon.xyz", "--steps", 3, "--output", "out", "--fix", "Xe"], "no atom"),
        (
            ["lj.yaml", "argon.xyz", "--steps", 3, "--output", "out", "--replicate", 2, 0, 1],
            "repeats must be three numbers of at least 1",
        ),
    ],
)
def test_impossible_commands_are_refused_in_words(folder, capsys, arguments, words):
    assert run("md", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_the_plan_of_a_repeated_structure_runs_nothing(folder, capsys):
    command = ["md", "lj.yaml", "argon.xyz", "--steps", 3, "--temperature", 50]
    assert run(*command, "--replicate", 2, 1, 1, "--plan") == 0
    plan = capsys.readouterr().out
    assert plan.startswith("16 atoms on one device")
    assert "B per atom" in plan
    assert not list(folder.glob("*/log.csv"))


def test_join_says_what_is_missing(folder, capsys):
    assert main(["join", str(folder)]) == 2
    assert "no segments" in capsys.readouterr().err


def test_options_leave_a_run_file_what_they_do_not_name(folder, capsys):
    text = "{steps: 5, temperature_K: 10, dtype: float64, progress: false, output: out}"
    (folder / "run.yaml").write_text(text)
    command = ["md", "lj.yaml", "argon.xyz", "--run-file", "run.yaml", "--trajectory-every", "0"]
    assert main(command) == 0
    with np.load(folder / "out" / "checkpoint.npz") as file:
        assert file["tree.state.positions"].dtype == np.float64
    assert capsys.readouterr().out.startswith("5 steps")  # and no bar


def test_run_files_become_arguments(folder):
    words = run_file.load("run.yaml")
    assert words["stages"][0] == Stage(
        40, "langevin", (20, 60), timestep_fs=4, observe=False
    )  # fmt: skip
    assert words["groups"] == (Group("0:2", fixed=True),)
    assert words["observables"] == [RadialDistribution(4.5, 9, every=20)]
    assert words["trajectory"] == TrajectorySettings("h5md", atoms=(0, 1), velocities=True)
    content = {
        "steps": 10,
        "bias": [
            {
                "kind": "metadynamics",
                "variables": [{"kind": "angle", "first": 0, "centre": 1, "last": 2}],
                "widths": [0.3],
                "height": 0.01,
                "every": 50,
            }
        ],
    }  # fmt: skip
    (hills,) = run_file.arguments(content)["bias"]
    assert isinstance(hills, Metadynamics) and hills.variables[0].name == "angle_rad"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "a mapping of words"),
        ({"stps": 3}, "unknown word 'stps'"),
        ({"stages": [], "ensemble": "nve"}, "within each of the stages"),
        ({"stages": {"steps": 3}}, "stages: write a list"),
        ({"stages": [{"steps": 3, "ensemble": "nph"}]}, "stages, entry 1: ensemble must be"),
        ({"stages": [{"steps": 3, "tempo": 1}]}, "stages, entry 1: .*tempo"),
        ({"groups": [{"atoms": "Ar"}, 3]}, "groups, entry 2: write a mapping"),
        ({"observables": [{"kind": "gdf"}]}, "observables, entry 1: kind must be one of rdf"),
        ({"observables": [{"kind": "rdf"}]}, "observables, entry 1: .*cutoff"),
        ({"bias": [{"kind": "wall", "variable": {"kind": "x"}}]}, "variable: kind must be one of"),
        ({"steps": "many"}, "steps must be a whole number, not 'many'"),
        ({"steps": 3, "timestep_fs": "short"}, "timestep_fs must be a number"),
        ({"steps": 3, "log_every": 2.5}, "log_every must be a whole number"),
        ({"steps": 3, "minimise": 1}, "minimise must be true or false"),
        ({"stages": [{"steps": None}]}, "stages, entry 1: steps must be a whole number"),
        ({"groups": [{"atoms": "Ar", "fixed": "yes"}]}, "groups, entry 1: fixed must be true"),
        ({"trajectory": {"format": "dcd"}}, "trajectory: .*format"),
    ],
)
def test_impossible_run_files_are_refused_in_words(content, words):
    with pytest.raises(ValueError, match=words):
        run_file.arguments(content)


def test_numbers_on_the_command_line():
    assert number_or_ramp("300") == 300
    assert number_or_ramp("300:1000") == (300, 1000)
    assert number_or_ramp("1,2,3") == (1, 2, 3)
    assert number_or_ramp("0,0,0:1,2,3") == ((0, 0, 0), (1, 2, 3))
    assert (duration("90"), duration("1:30"), duration("1:00:30")) == (90, 90, 3630)
