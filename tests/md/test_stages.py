"""What a stage may ask for, and the numbers that come of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms, FixBondLength

from md import Group, Stage, units
from md.groups import partition
from md.stages import legs, strain_rate

MTK = {"ensemble": "mtk", "temperature_K": 9, "pressure_GPa": 1}
CRYSTAL = bulk("Ar", "fcc", a=5.3, cubic=True) * (2, 1, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"ensemble": "nph"}, "one of nve, langevin, nvt"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"timestep_fs": 0.0}, "timestep_fs"),
        ({"velocities": "zero"}, "draw"),
        ({"ensemble": "nvt"}, "needs a temperature"),
        ({"ensemble": "nvt", "temperature_K": -1}, "not negative"),
        ({"ensemble": "bussi", "temperature_K": (300, 0)}, "above 0 K"),
        ({"ensemble": "nvt", "temperature_K": (1, 2, 3)}, "a pair"),
        ({"temperature_K": (100, 300)}, "no thermostat to follow"),
        ({"friction_per_fs": 0.1}, "friction_per_fs belongs to langevin"),
        ({"ensemble": "langevin", "temperature_K": 1, "time_constant_fs": 10}, "belongs to nvt"),
        ({"ensemble": "langevin", "temperature_K": 1, "friction_per_fs": 0.0}, "positive"),
        ({"ensemble": "nvt", "temperature_K": 300, "time_constant_fs": 2.0}, "too short"),
        ({"ensemble": "npt", "temperature_K": 300}, "needs a pressure"),
        ({"ensemble": "nvt", "temperature_K": 300, "pressure_GPa": 1}, "belongs to npt and mtk"),
        ({"ensemble": "nvt", "temperature_K": 300, "cell": "full"}, "belongs to npt and mtk"),
        ({"ensemble": "npt", "temperature_K": 9, "pressure_GPa": 1, "cell": "cubic"}, "one of iso"),
        ({"ensemble": "npt", "temperature_K": 9, "pressure_GPa": (1, 2, 3)}, "differ along"),
        (
            MTK | {"compressibility_per_GPa": 1},
            "belongs to npt",
        ),
        (
            MTK | {"strain_rate_per_fs": [1, 1, 1]},
            "fight the barostat",
        ),
        ({"strain_rate_per_fs": [1, 2]}, "three numbers, six"),
    ],
)
def test_impossible_stages_are_refused_in_words(words, message):
    with pytest.raises(ValueError, match=message):
        Stage(**{"steps": 10} | words)


@pytest.mark.parametrize(
    ("words", "atoms", "message"),
    [
        ({"ensemble": "nvt", "temperature_K": 300}, Atoms("Ar"), "single atom"),
        (MTK, Atoms("Ar2"), "repeats in all"),
        ({"strain_rate_per_fs": [0, 0, 1]}, Atoms("Ar2"), "does not repeat"),
        ({"remove_rotation_every": 10}, CRYSTAL, "cannot rotate"),
        ({"groups": (Group([0], fixed=True),), "remove_drift_every": 9}, CRYSTAL, "contradict"),
    ],
)
def test_stages_that_do_not_fit_the_structure_are_refused(words, atoms, message):
    with pytest.raises(ValueError, match=message):
        legs([Stage(**{"steps": 10} | words)], atoms)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"fixed": True, "velocity_A_per_fs": (0, 0, 1)}, "give one of the two"),
        ({"fixed": True, "temperature_K": 300}, "neither a thermostat"),
        ({"thermostat": False, "temperature_K": 300}, "leave one out"),
        ({"force_eV_per_A": (0, 1)}, "three numbers"),
        ({"atoms": "Xe"}, "holds no atom"),
        ({"atoms": "a:b"}, "write a range"),
        ({"atoms": [99]}, "there is no atom 99"),
        ({"atoms": [0.5]}, "give indices"),
        ({"atoms": "1:3"}, "must not overlap"),
    ],
)
def test_impossible_groups_are_refused_in_words(words, message):
    with pytest.raises(ValueError, match=message):
        partition(CRYSTAL, [Group([1], name="one"), Group(**{"atoms": [0]} | words)])


def test_a_structure_is_divided_among_groups():
    atoms = CRYSTAL.copy()
    atoms.set_constraint(FixAtoms([0]))
    driven = Group("1:3", velocity_A_per_fs=(0, 0, 0.01))
    pushed = Group([-1], force_eV_per_A=(1, 2, 3), thermostat=False)
    parted = partition(atoms, [driven, pushed])
    np.testing.assert_array_equal(parted.group, [-1, -1, -1, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(parted.counts(), [4, 1])
    np.testing.assert_allclose(parted.velocity[1], [0, 0, 0.01 / units.FEMTOSECOND])
    np.testing.assert_allclose(parted.force[-1], [1, 2, 3])
    assert parted.held and parted.driven and parted.forced
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="FixBondLength"):
        partition(atoms, [])
    with pytest.raises(ValueError, match="nothing is left to move"):
        partition(CRYSTAL, [Group("Ar", fixed=True)])


def test_degrees_of_freedom():
    def freedom(atoms, **words):
        (leg,) = legs([Stage(1, **words)], atoms)
        return list(leg.freedom)

    bath = {"temperature_K": 300}
    assert freedom(CRYSTAL, ensemble="nvt", **bath) == [21]
    assert freedom(CRYSTAL, ensemble="langevin", **bath) == [24]
    fixed = Group([0, 1], fixed=True)
    assert freedom(CRYSTAL, ensemble="bussi", groups=(fixed,), **bath) == [18]
    half = Group([0, 1, 2, 3], temperature_K=10, name="cold")
    assert freedom(CRYSTAL, ensemble="bussi", groups=(half,), **bath) == [12, 12]
    assert freedom(CRYSTAL, ensemble="bussi", groups=(half,), remove_drift_every=1, **bath) == [
        10.5,
        10.5,
    ]
    water = Atoms("OHH", [[0, 0, 0], [0.8, 0.6, 0], [-0.8, 0.6, 0]])
    assert freedom(water, ensemble="bussi", remove_rotation_every=10, **bath) == pytest.approx([3])


def test_parameters_run_along_ramps():
    stages = [
        Stage(100, "langevin", 300, friction_per_fs=0.02),
        Stage(
            200, "npt", (300, 500), pressure_GPa=((0, 0, 0), (0, 1, 2)), cell="anisotropic",
            time_constant_fs=50, groups=(Group([0], temperature_K=10),),
        ),
    ]  # fmt: skip
    first, second = legs(stages, CRYSTAL)
    assert (second.first, second.last, second.first_fs) == (100, 300, 50.0)
    with jax.enable_x64(True):
        early, late = (second.course("float64").at(jnp.asarray(s)) for s in (100, 200))
        np.testing.assert_allclose(early.temperature, [300, 10])
        np.testing.assert_allclose(late.temperature, [400, 10])
        np.testing.assert_allclose(late.pressure / units.GIGAPASCAL, [0, 0.5, 1])
        np.testing.assert_allclose(late.rate * units.FEMTOSECOND, 1 / 50)
        start = first.course("float64").at(jnp.asarray(-1))
        np.testing.assert_allclose(start.rate * units.FEMTOSECOND, 0.02)
        assert float(first.course("float64").standing_still().at(jnp.asarray(5)).timestep) == 0
        many = second.course("float64", replicas=3, ladder_K=np.array([1.0, 2, 3]))
        assert many.at(jnp.asarray(200)).temperature.shape == (3, 2)


def test_strain_rates_are_tensors():
    np.testing.assert_array_equal(
        strain_rate(Stage(1, strain_rate_per_fs=[1, 2, 3, 4, 5, 6])),
        [[1, 6, 5], [6, 2, 4], [5, 4, 3]],
    )
