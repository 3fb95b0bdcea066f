"""Dividing frames, and the files that are written of the parts."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from allegro_jax import cli
from allegro_jax.data.conventions import Conventions
from allegro_jax.data.frames import DataError, Frame
from allegro_jax.data.sources import frame_from_atoms, read_frames
from allegro_jax.data.splitting import split


def frames(count: int, source: str = "a.xyz", formula: str = "H2") -> list[Frame]:
    size = len(Atoms(formula))
    positions = np.arange(3 * size).reshape(size, 3)
    return [
        frame_from_atoms(Atoms(formula, positions), source=source, index=index)
        for index in range(count)
    ]


def check_partition(parts, total):
    together = np.concatenate(list(parts.values()))
    assert sorted(together) == list(range(total))
    assert all(np.array_equal(part, np.sort(part)) for part in parts.values())


def test_by_frame():
    data = frames(40)
    parts = split(data, valid=0.1, test=7)
    check_partition(parts, 40)
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [29, 4, 7]
    again, other = split(data, valid=0.1, test=7), split(data, valid=0.1, test=7, seed=1)
    assert np.array_equal(parts["test"], again["test"])
    assert not np.array_equal(parts["test"], other["test"])
    # the test part does not depend on the size of the validation part
    assert np.array_equal(parts["test"], split(data, valid=0.3, test=7)["test"])


def test_blocks_are_contiguous():
    data = frames(100) + frames(50, "b.xyz")
    parts = split(data, valid=0.1, test=0.1, by="blocks", blocks=10)
    check_partition(parts, 150)
    for part in ("valid", "test"):
        blocks = {(data[place].source, place // 10 if place < 100 else place // 5)
                  for place in parts[part]}  # fmt: skip
        assert len(parts[part]) == sum(10 if source == "a.xyz" else 5 for source, _ in blocks)
        assert 10 <= len(parts[part]) <= 20


def test_files_and_compositions_stay_together():
    data = [frame for name in "abcdef" for frame in frames(5, f"{name}.xyz")]
    parts = split(data, valid=5, test=5, by="file")
    check_partition(parts, 30)
    files = [{data[place].source for place in part} for part in parts.values()]
    assert [len(one) for one in files] == [4, 1, 1]
    data = [frame for name in ("H2", "H4", "H6", "HO", "OH") for frame in frames(4, "a.xyz", name)]
    parts = split(data, valid=0.25, by="composition")
    check_partition(parts, 20)
    formulas = {data[place].to_atoms().get_chemical_formula() for place in parts["valid"]}
    assert len(parts["valid"]) == (8 if formulas == {"HO"} else 4) and len(formulas) == 1


def test_isolated_atoms_are_trained_on():
    data = frames(3, formula="H") + frames(5)
    parts = split(data, valid=4)
    assert set(parts["train"]) >= {0, 1, 2} and len(parts["valid"]) == 4


@pytest.mark.parametrize(("valid", "test", "by"), [(10, 0, "frame"), (5, 5, "file")])
def test_empty_parts_are_refused(valid, test, by):
    with pytest.raises(DataError, match=rf"10 frames in \d+ units \(by {by}\) are too few"):
        split(frames(10), valid, test, by=by)


def test_command(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = []
    for place in range(12):
        atoms = Atoms("CO", [[0, 0, 0], [0, 0, 1.1 + 0.01 * place]], cell=[6] * 3, pbc=True)
        results = {"energy": -float(place), "forces": rng.normal(size=(2, 3))}
        if place % 2:
            results["stress"] = rng.normal(size=6)
        atoms.calc = SinglePointCalculator(atoms, **results)
        images.append(atoms)
    write(tmp_path / "all.xyz", images, format="extxyz")
    arguments = ["data", "split", str(tmp_path / "all.xyz"), "--output", str(tmp_path / "parts")]
    assert cli.main([*arguments, "--valid", "3", "--test", "2", "--stress-unit", "GPa"]) == 0
    assert "train.xyz: 7 frames" in capsys.readouterr().out
    record = json.loads((tmp_path / "parts" / "split.json").read_text())
    digest = hashlib.sha256((tmp_path / "all.xyz").read_bytes()).hexdigest()
    assert record["sources"] == {str(tmp_path / "all.xyz"): digest}
    seen = []
    whole = read_frames(tmp_path / "all.xyz", Conventions(stress_unit="GPa"))
    for part in record["parts"].values():
        path = tmp_path / "parts" / part["file"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == part["sha256"]
        places = part["indices"][str(tmp_path / "all.xyz")]
        seen += places
        # what is written is in eV and Å, and complete
        for place, frame in zip(places, read_frames(path), strict=True):
            assert frame.energy == whole[place].energy
            np.testing.assert_allclose(frame.forces, whole[place].forces, atol=1e-8)
            np.testing.assert_allclose(frame.positions, whole[place].positions, atol=1e-8)
            assert (frame.stress is None) == (place % 2 == 0)
            if frame.stress is not None:
                np.testing.assert_allclose(frame.stress, whole[place].stress, rtol=1e-7)
    assert sorted(seen) == list(range(12))
