"""Frames of published sets: fetched from a server of our own, in files laid out as theirs are."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase.io import read

from allegro_jax import cli
from allegro_jax.data import loading, named_sets, transfer
from allegro_jax.data.checksum import checksum
from allegro_jax.data.config import DataConfig
from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import DataError
from allegro_jax.data.sources import read_frames
from allegro_jax.data.store import Recipe
from allegro_jax.settings import ConfigError, read_section
from tests.allegro_jax.data.file_server import FileServer, serve

HARTREE, BOHR, KCAL_MOL, GPA = 27.211386, 0.529177211, 0.0433641, 1 / 160.21766
TABLE = named_sets.named_sets()


@pytest.fixture
def mirror(monkeypatch, tmp_path) -> Iterator[FileServer]:
    """A server of small files in place of the published ones, whose checksums are set aside."""

    def anything_goes(one: named_sets.NamedSet) -> named_sets.NamedSet:
        files = {
            name: dataclasses.replace(file, size=None, checksum=None)
            for name, file in one.files.items()
        }
        by_path = {file.name: file for file in files.values()}
        parts = {
            name: dataclasses.replace(
                part,
                file=by_path[part.file.name],
                exclude=part.exclude and by_path[part.exclude.name],
                # a few frames stand for the 50,000 of melt and quench
                frames=part.frames and ((0, 2) if part.name == "melt" else (2, 5)),
            )
            for name, part in one.parts.items()
        }
        return dataclasses.replace(one, files=files, parts=parts)

    table = {name: anything_goes(one) for name, one in TABLE.items()}
    monkeypatch.setattr(named_sets, "named_sets", lambda: table)
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.001)
    monkeypatch.setenv("ALLEGRO_JAX_DATA", str(tmp_path / "data"))
    with serve() as state, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no checksum was published.*")
        monkeypatch.setenv("ALLEGRO_JAX_MIRROR", state.address)
        yield state


def extxyz(energy: float, x: float = 1.0, names: str = "energy forces") -> bytes:
    """One frame of two hydrogen atoms, forces ±0.5."""
    energy_key, forces_key = names.split()
    return (
        f'2\nLattice="8 0 0 0 8 0 0 0 8" Properties=species:S:1:pos:R:3:{forces_key}:R:3 '
        f'{energy_key}={energy} pbc="T T T"\nH 0 0 0 -0.5 0 0\nH {x} 0 0 0.5 0 0\n'
    ).encode()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_extended_xyz_is_read_as_it_is(mirror):
    mirror.files["/3bpa/train_300K.xyz"] = extxyz(-3.0)
    (frame,) = read_frames("set:3bpa/train_300K")
    assert frame.energy == -3.0
    np.testing.assert_allclose(frame.forces, [[-0.5, 0, 0], [0.5, 0, 0]])
    assert frame.where == "set:3bpa/train_300K, frame 0"


def test_what_is_said_of_other_files_does_not_touch_a_set(mirror, tmp_path):
    mirror.files["/3bpa/train_300K.xyz"] = extxyz(-3.0)
    own = tmp_path / "own.xyz"
    own.write_bytes(extxyz(-3.0, names="E F"))
    conventions = Conventions(energy_key="E", forces_key="F", energy_unit="Hartree")
    frames = read_frames([own, "set:3bpa/train_300K"], conventions)
    np.testing.assert_allclose([frame.energy for frame in frames], [-3 * HARTREE, -3], rtol=1e-6)


def test_water_is_converted_from_atomic_units(mirror):
    content = extxyz(-2.0, x=1.5, names="TotEnergy force")
    mirror.files["/water/training-set.zip"] = zipped(**{"training-set/dataset_1593.xyz": content})
    (frame,) = read_frames("set:water")
    np.testing.assert_allclose(frame.energy, -2 * HARTREE, rtol=1e-6)
    np.testing.assert_allclose(frame.positions[1, 0], 1.5 * BOHR, rtol=1e-6)
    np.testing.assert_allclose(frame.cell, 8 * BOHR * np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(frame.forces[1, 0], 0.5 * HARTREE / BOHR, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "file", "keys"),
    [
        ("rmd17/ethanol/test_05", "ethanol_test_05", "nuclear_charges coords energies forces"),
        ("md22/DHA", "md22_DHA", "z R E F"),
    ],
)
def test_archives_of_sgdml_are_converted_from_kcal(mirror, name, file, keys):
    positions = np.array([[[0.0, 0, 0], [0, 0, 1]], [[0.0, 0, 0], [0, 0, 1.1]]])
    values = (np.array([1, 1]), positions, np.array([[-1.0], [-2]]), np.full((2, 2, 3), 0.1))
    buffer = io.BytesIO()
    np.savez(buffer, **dict(zip(keys.split(), values, strict=True)))
    mirror.files[f"/{name.split('/')[0]}/{file}.npz"] = buffer.getvalue()
    frames = read_frames(f"set:{name}")
    np.testing.assert_allclose([f.energy for f in frames], [-KCAL_MOL, -2 * KCAL_MOL], rtol=1e-5)
    np.testing.assert_allclose(frames[1].forces, 0.1 * KCAL_MOL, rtol=1e-5)
    assert not frames[0].pbc.any()


def test_mlearn_has_stress_of_our_sign(mirror):
    """The first stress of Li/training.json, and what ASE's convention makes of it."""
    site = {"species": [{"element": "Li", "occu": 1}], "abc": [0, 0, 0], "xyz": [0.0, 0.0, 0.0]}
    structure = {"lattice": {"matrix": (3.4 * np.eye(3)).tolist()}, "sites": [site]}
    outputs = {
        "energy": -98.30410711,
        "forces": [[0.1, -0.3, 0.2]],
        "virial_stress": [2.02804759, 2.36756035, 4.72503139, -0.05211401, -0.29082961, 0.60967551],
    }
    content = [{"structure": structure, "outputs": outputs, "group": "Vacancy"}]
    mirror.files["/mlearn/Li_training.json"] = json.dumps(content).encode()
    (frame,) = read_frames("set:mlearn/Li/train")
    xx, yy, zz, xy, yz, xz = (-0.1 * GPA * value for value in outputs["virial_stress"])
    np.testing.assert_allclose(frame.stress, [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], rtol=1e-6)
    np.testing.assert_allclose(frame.stress[0, 0], -0.0012658078, rtol=1e-6)
    assert frame.symbols == ("Li",)
    assert frame.pbc.all()


def test_a_file_that_is_not_as_mlearns_are_is_refused(mirror):
    mirror.files["/mlearn/Li_training.json"] = b'[{"structure": {}}]'
    with pytest.raises(DataError, match=r"set:mlearn/Li/train: .*not a file of mlearn"):
        read_frames("set:mlearn/Li/train")


def qm9_molecule(number: int, energy: float) -> bytes:
    values = "\t".join(str(energy + 0.001 * place) for place in range(15))
    return (
        f"2\ngdb {number}\t{values}\t\nH\t0\t0\t0\t0.1\nH\t0\t0\t7.4*^-1\t0.1\n1\t2\nS\tS\nI\tI\n"
    ).encode()


def test_qm9_leaves_out_what_is_in_doubt(mirror):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:bz2") as archive:
        for number in (1, 2, 3):
            content = qm9_molecule(number, -1.0)
            info = tarfile.TarInfo(f"dsgdb9nsd_{number:06}.xyz")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    mirror.files["/qm9/dsgdb9nsd.xyz.tar.bz2"] = buffer.getvalue()
    doubted = b"Two SMILES differ\n\n Index GDB17  B3LYP\n=====\n    2  C#C   C=C  0.1\n\n=====\n"
    mirror.files["/qm9/uncharacterized.txt"] = doubted
    frames = read_frames("set:qm9/U0")
    np.testing.assert_allclose([f.energy for f in frames], [-0.99 * HARTREE] * 2, rtol=1e-6)
    frames = read_frames("set:qm9/G")
    np.testing.assert_allclose([f.energy for f in frames], [-0.987 * HARTREE] * 2, rtol=1e-6)


def test_a_part_may_be_a_stretch_of_a_file(mirror):
    content = b"".join(extxyz(-float(number)) for number in range(5))
    mirror.files["/li3po4/li3po4-joint-together.xyz.zip"] = zipped(
        **{"a/li3po4-joint-together.xyz": content}
    )
    assert [frame.energy for frame in read_frames("set:li3po4/melt")] == [0, -1]
    assert [frame.energy for frame in read_frames("set:li3po4/quench")] == [-2, -3, -4]


def test_a_set_of_many_files_is_read_as_one(mirror):
    archive = zipped(**{"mp-1.extxyz": extxyz(-1), "mp-2.extxyz": extxyz(-2) + extxyz(-3)})
    mirror.files["/mptrj/2024-09-03-mp-trj.extxyz.zip"] = archive
    assert [frame.energy for frame in read_frames("set:mptrj")] == [-1, -2, -3]


def test_a_subset_of_spice_is_read_alone(mirror):
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, subset in (("gly", "SPICE Dipeptides Single"), ("ions", "SPICE Ion Pairs")):
            group = file.create_group(name)
            group["subset"] = [subset]
            group["atomic_numbers"] = [1, 1]
            group["conformations"] = np.array([[[0.0, 0, 0], [0, 0, 1.5]]])
            group["dft_total_energy"] = [-1.0]
            group["dft_total_gradient"] = np.full((1, 2, 3), 0.1)
    mirror.files["/spice/SPICE-2.0.1.hdf5"] = buffer.getvalue()
    (frame,) = read_frames("set:spice/dipeptides")
    np.testing.assert_allclose(frame.energy, -HARTREE, rtol=1e-6)
    np.testing.assert_allclose(frame.positions[1, 2], 1.5 * BOHR, rtol=1e-6)
    np.testing.assert_allclose(frame.forces, -0.1 * HARTREE / BOHR, rtol=1e-6)
    assert len(read_frames("set:spice/all")) == 2
    with pytest.raises(DataError, match="set:spice/pubchem"):
        read_frames("set:spice/pubchem")


def test_a_configuration_names_a_set_before_it_is_there(mirror):
    atoms = "set:3bpa/iso_atoms"
    content = {"train": ["set:3bpa/train_300K"], "test": "set:water", "isolated_atoms": atoms}
    data = read_section(DataConfig, content, "data.")
    assert data.train == (Path("set:3bpa/train_300K"),)
    assert data.test == (Path("set:water/all"),)
    assert data.isolated_atoms == Path(atoms)
    assert mirror.requests == []
    with pytest.raises(ConfigError, match=r"data.train: .*did you mean train_300K\?"):
        read_section(DataConfig, {"train": "set:3bpa/train_30K"}, "data.")


def test_what_cannot_be_had_is_not_skipped(mirror):
    with pytest.raises(DataError, match=r"3bpa/train_300K.xyz: cannot be downloaded"):
        read_frames("set:3bpa/train_300K", report=lambda problem: None)


def test_the_checksum_tells_files_and_parts_apart(mirror, tmp_path):
    """The cache of neighbourhoods is found by it."""
    content = b"".join(extxyz(-float(number)) for number in range(5))
    archive = zipped(**{"li3po4-joint-together.xyz": content})
    mirror.files["/li3po4/li3po4-joint-together.xyz.zip"] = archive
    melt, quench = (checksum(Path(f"set:li3po4/{part}")) for part in ("melt", "quench"))
    assert melt != quench
    assert checksum(Path("set:li3po4/melt")) == melt
    for path in (tmp_path / "data/li3po4").glob("*.zip*"):
        path.unlink()
    mirror.files["/li3po4/li3po4-joint-together.xyz.zip"] = archive + b"\n"
    assert checksum(Path("set:li3po4/melt")) != melt


@pytest.mark.parametrize("cached", [False, True])
def test_data_sets_are_loaded_from_published_sets(mirror, tmp_path, cached):
    content = b"".join(extxyz(-float(number)) for number in range(5))
    archive = zipped(**{"li3po4-joint-together.xyz": content})
    mirror.files["/li3po4/li3po4-joint-together.xyz.zip"] = archive
    config = DataConfig(
        train=(Path("set:li3po4/melt"),),
        valid=(Path("set:li3po4/quench"),),
        cache=tmp_path / "cache" if cached else None,
    )
    checksums = {str(path): checksum(path) for path in (*config.train, *config.valid)}
    loaded = loading.load(config, Recipe(("H",), 3.0), checksums)
    np.testing.assert_allclose(loaded.train.energies, [0, -1])
    np.testing.assert_allclose(loaded.valid.energies, [-2, -3, -4])


def test_fetching_writes_the_frames_of_parts(mirror, tmp_path, capsys):
    content = extxyz(-2.0, x=1.5, names="TotEnergy force")
    mirror.files["/water/training-set.zip"] = zipped(**{"training-set/dataset_1593.xyz": content})
    assert cli.main(["data", "fetch", "water", "--to", str(tmp_path / "frames")]) == 0
    assert str(tmp_path / "frames/water/all.xyz") in capsys.readouterr().out
    atoms = read(tmp_path / "frames/water/all.xyz")
    np.testing.assert_allclose(atoms.get_potential_energy(), -2 * HARTREE, rtol=1e-6)
    np.testing.assert_allclose(atoms.get_forces()[1, 0], 0.5 * HARTREE / BOHR, rtol=1e-6)
