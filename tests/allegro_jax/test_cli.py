"""The command line, end to end: every command, the files it writes, and its errors."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from allegro_jax import cli, model_file
from allegro_jax.cli import main

CONFIG = {
    "data": {"train": "train.xyz", "valid": 4},
    "model": {
        "cutoff": 3.5,
        "l_max": 1,
        "num_layers": 1,
        "num_scalar_features": 8,
        "num_tensor_features": 4,
        "two_body_hidden": [8],
        "latent_hidden": [8],
        "readout_hidden": [4],
    },
    "training": {"epochs": 2, "batch_size": 4},
}


def labelled(count: int, seed: int) -> list[Atoms]:
    """Small boxes of H and O under a Lennard-Jones potential."""
    rng = np.random.default_rng(seed)
    lattice = 1.6 * np.stack(np.meshgrid(*3 * [np.arange(2)]), -1).reshape(-1, 3)
    frames = []
    for _ in range(count):
        atoms = Atoms("H4O4", lattice + rng.normal(0, 0.05, (8, 3)), cell=3 * [3.6], pbc=True)
        atoms.calc = LennardJones(sigma=1.4, epsilon=0.1, rc=3.4, smooth=True)
        results = {
            "energy": atoms.get_potential_energy(),
            "forces": atoms.get_forces(),
            "stress": atoms.get_stress(),
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with data, a configuration, and a model trained by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    ase.io.write(folder / "train.xyz", labelled(12, 0))
    ase.io.write(folder / "test.xyz", labelled(3, 1))
    molecule = labelled(1, 2)[0][:5]  # a cluster without any label
    molecule.pbc, molecule.cell = False, None
    ase.io.write(folder / "bare.xyz", molecule)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    config = str(folder / "config.yaml")
    assert main(["train", config, "--output", str(folder / "run"), "training.epochs=3"]) == 0
    return folder


@pytest.fixture
def model(folder) -> str:
    return str(folder / "run" / "model.safetensors")


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("ALLEGRO_JAX_CACHE", "")


def test_train_writes_its_results(folder, model):
    results = {path.name for path in (folder / "run").iterdir()}
    assert {"model.safetensors", "metrics.csv", "checkpoints"} <= results
    assert any(name.endswith(".png") for name in results)
    with (folder / "run" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3  # the override, not the file's 2 epochs
    loaded = model_file.load(model)
    assert loaded.species == ("H", "O")
    assert set(loaded.metadata) >= {"training", "shortest_distances", "ranges", "units", "versions"}


def test_evaluate(folder, model, tmp_path, capsys):
    arguments = ["evaluate", model, str(folder / "test.xyz"), str(folder / "train.xyz")]
    outputs = ["--output", str(tmp_path / "out.extxyz"), "--json", str(tmp_path / "out.json")]
    assert main([*arguments, *outputs]) == 0
    printed = capsys.readouterr().out
    errors = json.loads((tmp_path / "out.json").read_text())
    names = {
        f"{quantity}_{kind}"
        for quantity in ("energy", "energy_per_atom", "forces", "stress")
        for kind in ("mae", "rmse")
    }
    assert names <= set(errors)
    assert set(errors["files"]) == {str(folder / "test.xyz"), str(folder / "train.xyz")}
    assert all(names <= set(part) for part in errors["files"].values())
    for symbol, part in errors["by_species"].items():  # the last table is that of all files
        assert f"  on {symbol} " in printed
        assert f"{1000 * part['forces_rmse']:.3f}" in printed

    predictions = ase.io.read(tmp_path / "out.extxyz", ":")
    labels = [*ase.io.read(folder / "test.xyz", ":"), *ase.io.read(folder / "train.xyz", ":")]
    assert len(predictions) == len(labels) == 15
    difference = np.array(
        [p.get_forces() - a.get_forces() for p, a in zip(predictions, labels, strict=True)]
    )
    assert np.sqrt(np.mean(difference**2)) == pytest.approx(errors["forces_rmse"], rel=1e-5)
    assert np.abs(difference).mean() == pytest.approx(errors["forces_mae"], rel=1e-5)
    direct = model_file.load(model)(labels[0])
    assert predictions[0].get_potential_energy() == pytest.approx(direct["energy"], abs=1e-5)
    np.testing.assert_allclose(predictions[0].get_stress(), direct["stress"], atol=1e-6)
    np.testing.assert_allclose(
        predictions[0].get_potential_energies(), direct["energies"], atol=1e-5
    )


def test_evaluate_without_labels(folder, model, tmp_path):
    bare = str(folder / "bare.xyz")
    out = tmp_path / "out.extxyz"
    assert main(["evaluate", model, bare, "--output", str(out), "--json", f"{out}.json"]) == 0
    assert ase.io.read(out).get_forces().shape == (5, 3)
    assert "forces_rmse" not in json.loads(Path(f"{out}.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        ["--ensemble", "nve"],
        ["--ensemble", "langevin", "--friction", "0.02", "--dtype", "float64"],
        ["--ensemble", "nvt", "--time-constant", "20", "--restart"],
    ],
    ids=["nve", "langevin", "nvt"],
)
def test_md(folder, model, tmp_path, options, capsys):
    # every H-O pair is "too close" for this model
    narrow = dataclasses.replace(
        model_file.load(model), metadata={"shortest_distances": {"H-O": 3.0}}
    )
    model = str(model_file.save(tmp_path / "model.safetensors", narrow))
    run = ["md", model, str(folder / "test.xyz"), "--temperature", "300", "--timestep", "0.5"]
    run += ["--output", str(tmp_path), "--log-every", "5", "--trajectory-every", "10"]
    run += ["--no-progress"]
    if "--restart" in options:
        first = [option for option in options if option != "--restart"]
        assert main([*run, *first, "--steps", "10"]) == 0
    assert main([*run, *options, "--steps", "20"]) == 0
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert list(rows[0])[:8] == [
        "step",
        "time_fs",
        "temperature_K",
        "potential_eV",
        "kinetic_eV",
        "conserved_eV",
        "pressure_GPa",
        "volume_A3",
    ]
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 15, 20]
    assert float(rows[-1]["time_fs"]) == 10
    assert float(rows[-1]["volume_A3"]) == pytest.approx(3.6**3, rel=1e-5)
    assert len(ase.io.read(tmp_path / "trajectory.extxyz", ":")) == 3
    captured = capsys.readouterr()
    assert "20 steps" in captured.out
    warned = captured.err.splitlines()
    assert len(warned) == (2 if "--restart" in options else 1)  # once in each run
    assert all(line.startswith("allegro-jax: warning: ") for line in warned)
    assert "closer than any such pair" in warned[0]


def test_info(model, capsys):
    assert main(["info", model]) == 0
    summary = yaml.safe_load(capsys.readouterr().out)
    assert summary["config"]["cutoff"] == 3.5
    assert summary["config"]["species"] == ["H", "O"]
    assert summary["parameters"] > 100
    assert {"training", "units", "versions", "ranges", "shortest_distances"} <= set(summary)


def test_benchmark(folder, model, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert main(["benchmark", model, "--json", str(out), str(folder / "test.xyz")]) == 0
    assert "per atom" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert figures["atoms"] == 8
    pairs = figures["pairs"]
    assert figures["pairs_per_second"] == pytest.approx(1e3 * pairs / figures["step_ms"])
    assert figures["peak_memory_MB"] > 10


def line_on_stderr(capsys, arguments: list[str]) -> str:
    """The one line of a failing command."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("allegro-jax: ")
    return line


def test_errors_are_one_line(folder, model, tmp_path, capsys):
    config = str(folder / "config.yaml")
    run = ["--ensemble", "nve", "--temperature", "300", "--timestep", "1", "--steps", "1"]
    run += ["--output", str(tmp_path / "run")]

    assert "no such model file" in line_on_stderr(capsys, ["info", "absent.safetensors"])
    assert "not a readable model file" in line_on_stderr(capsys, ["info", config])
    assert "no such file" in line_on_stderr(capsys, ["train", "absent.yaml"])
    line = line_on_stderr(capsys, ["train", config, "training.epoch=3"])
    assert "did you mean training.epochs" in line
    assert "absent.xyz" in line_on_stderr(capsys, ["evaluate", model, "absent.xyz"])
    assert "absent.xyz: no such file" in line_on_stderr(capsys, ["md", model, "absent.xyz", *run])
    assert "cannot be read by ASE" in line_on_stderr(capsys, ["md", model, model, *run])
    salt = tmp_path / "salt.xyz"
    ase.io.write(salt, Atoms("NaO", [[0, 0, 0], [0, 0, 2.4]]))
    for command in (["evaluate", model, str(salt)], ["md", model, str(salt), *run]):
        assert "Na" in line_on_stderr(capsys, command)
    assert "Na" in line_on_stderr(capsys, ["benchmark", model, str(salt)])


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv(cli.DEBUG_VARIABLE, "1")
    with pytest.raises(FileNotFoundError):
        main(["info", "absent.safetensors"])


def test_options_and_arguments_in_any_order():
    parse = cli._parser().parse_args
    train = parse(["train", "c.yaml", "a=1", "--output", "d", "b=2"])
    assert (train.config, train.output, train.overrides) == ("c.yaml", "d", ["a=1", "b=2"])
    benchmark = parse(["benchmark", "m", "--json", "j", "s"])
    assert (benchmark.model, benchmark.json, benchmark.structure) == ("m", "j", "s")


@pytest.mark.parametrize("command", ["train", "evaluate", "md", "convert", "info", "benchmark"])
def test_help_names_every_argument(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: allegro-jax {command}" in capsys.readouterr().out


def test_the_reader_may_leave_early(model):
    """As in ``allegro-jax info MODEL | head -1``."""
    with subprocess.Popen(
        [sys.executable, "-m", "allegro_jax.cli", "info", model],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
