"""Potentials from YAML and from code are those built in Python; refusals are readable."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from md import ZBL, HarmonicLattice, LennardJones, Morse, Sum, potential_file

ARGON = """
potential: lennard-jones
species: [Ar, Kr]
epsilon_eV: {Ar: 0.01, Kr: 4e-2, Kr-Ar: 0.03}
sigma_A: {Ar: 3.4, Kr: 3.6}
cutoff_A: 8.5
"""


@pytest.fixture
def load(tmp_path):
    def load(text, **options):
        path = tmp_path / "potential.yaml"
        path.write_text(text)
        return potential_file.load(path, **options)

    return load


def same(a, b):
    assert type(a) is type(b)
    assert (a.species, a.cutoff) == (b.species, b.cutoff)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a.params, b.params)


def test_lennard_jones_with_a_pair_of_its_own(load):
    epsilon = [[0.01, 0.03], [0.03, 0.04]]
    same(load(ARGON), LennardJones.create(("Ar", "Kr"), epsilon, [3.4, 3.6], 8.5))


def test_precision_is_that_asked_for(load):
    potential = load(ARGON, dtype="float64")
    assert potential.params["epsilon"].dtype == np.float64
    assert float(potential.params["epsilon"][0, 1]) == 0.03
    with pytest.raises(ValueError, match="float16"):
        load(ARGON, dtype="float16")


def test_the_other_kinds(load):
    morse = load(
        "{potential: morse, species: [Cu], depth_eV: 0.34, steepness_per_A: 1.36, "
        "distance_A: 2.87, cutoff_A: 6}"
    )
    same(morse, Morse.create(("Cu",), 0.34, 1.36, 2.87, 6.0))
    zbl = load("{potential: zbl, species: [O, Si], inner_A: 0, cutoff_A: 2}")
    same(zbl, ZBL.create(("O", "Si"), 0.0, 2.0))
    lattice = load(
        "{potential: harmonic-lattice, species: [Cu], structure: fcc, lattice_constant_A: 3.6, "
        "along_eV_per_A2: 2}"
    )
    same(lattice, HarmonicLattice.crystal(("Cu",), "fcc", 3.6, 2.0))


def test_sums_share_their_species(load):
    total = load(
        """
        potential: sum
        species: [Ar]
        parts:
          - {potential: lennard-jones, epsilon_eV: 0.01, sigma_A: 3.4, cutoff_A: 8.5}
          - {potential: zbl, inner_A: 1, cutoff_A: 2}
        """
    )
    parts = LennardJones.create(("Ar",), 0.01, 3.4, 8.5), ZBL.create(("Ar",), 1.0, 2.0)
    same(total, Sum.create(*parts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("cutoff_A: 8.5", "cutof_A: 8.5"), "cutoff_A is missing"),
        (("cutoff_A: 8.5", "cutoff_A: 8.5\nskin_A: 1"), "lennard-jones has no key skin_A"),
        (("cutoff_A: 8.5", "cutoff_A: far"), "cutoff_A must be a number, not 'far'"),
        (("cutoff_A: 8.5", "cutoff_A: -8.5"), "cutoff_A must be positive"),
        (("lennard-jones", "lj"), "potential must be one of lennard-jones, morse"),
        (("Ar: 0.01", "Ne: 0.01"), "epsilon_eV has no number for Ar-Ar"),
        (("Kr-Ar", "Kr-Ne"), "epsilon_eV: Kr-Ne is no pair"),
        (("[Ar, Kr]", "[Ar, Xx]"), "species: 'Xx'"),
        (("[Ar, Kr]", "[Ar, Ar]"), "twice"),
        (("[Ar, Kr]", "Ar"), "species must be a list"),
        (("[Ar, Kr]", "[Ar"), "not a YAML file"),
    ],
)
def test_refusals_name_the_file_and_the_key(load, change, message):
    with pytest.raises(ValueError, match=message) as refusal:
        load(ARGON.replace(*change))
    assert "potential.yaml" in str(refusal.value) and "\n" not in str(refusal.value)


def test_every_pair_of_a_morse_mixture_needs_a_number(load):
    text = ARGON.replace("lennard-jones", "morse").replace("epsilon_eV", "depth_eV")
    with pytest.raises(ValueError, match="depth_eV has no number for Ar-Ar"):
        load(text)


def test_potentials_from_code(tmp_path, monkeypatch):
    (tmp_path / "own_potentials.py").write_text(
        "from md import LennardJones\n"
        "def argon(cutoff=8.5):\n    return LennardJones.create(('Ar',), 0.0104, 3.4, cutoff)\n"
        "def nothing():\n    return 3\n"
    )
    (tmp_path / "broken_potentials.py").write_text("import absent_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = potential_file.from_import("own_potentials:argon", cutoff=7.0)
    same(found, LennardJones.create(("Ar",), 0.0104, 3.4, 7.0))
    for target, message in (
        ("own_potentials", "module:function"),
        ("own_potentials:krypton", "has no function krypton"),
        ("absent_potentials:argon", "no module absent_potentials"),
        ("own_potentials:nothing", "returned an object of type int, which lacks params"),
    ):
        with pytest.raises(ValueError, match=message):
            potential_file.from_import(target)
    with pytest.raises(ModuleNotFoundError, match="absent_module"):
        potential_file.from_import("broken_potentials:argon")
